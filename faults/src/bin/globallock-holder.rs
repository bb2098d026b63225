//! An owner of one lock, for the stories to kill: a test is given only the programs of its own package.

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    globallock_conformance::child::run(&arguments).await;
    // A thread that reads the standard input would keep the process.
    std::process::exit(0);
}
