//! The registers. The arguments are the path of the log and the address to listen on. The process ends when
//! its standard input does.

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let log = arguments.next().unwrap_or_default();
    let address = arguments.next().unwrap_or_default().parse().map_err(std::io::Error::other)?;
    globallock_faults::registers::run(log.as_ref(), address).await?;
    std::process::exit(0)
}
