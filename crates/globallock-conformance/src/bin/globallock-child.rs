//! A process that owns one lock, for tests to kill.

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((verb, rest)) if verb == "turns" => globallock_conformance::child::take_turns(rest).await,
        Some((verb, rest)) if verb == "member" => globallock_conformance::member::run(rest).await,
        _ => globallock_conformance::child::run(&arguments).await,
    }
    // The thread that reads standard input would keep the process alive.
    std::process::exit(0);
}
