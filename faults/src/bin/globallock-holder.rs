//! An owner of one lock, for the scenarios to kill. It is here because a test can only run programs of its
//! own package.

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    globallock_conformance::child::run(&arguments).await;
    // Without this, a thread that reads the standard input would keep the process alive.
    std::process::exit(0);
}
