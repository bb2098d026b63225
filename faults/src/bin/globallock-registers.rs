//! The registers; its only argument is where to log. Prints its port, and lives until its standard input ends.

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let log = std::env::args_os().nth(1).unwrap_or_default();
    globallock_faults::registers::run(log.as_ref()).await?;
    std::process::exit(0)
}
