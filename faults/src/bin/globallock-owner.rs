//! An owner process. Its only argument is a `globallock_faults::owner::Plan` as JSON.

#[tokio::main(worker_threads = 2)]
async fn main() -> std::io::Result<()> {
    let text = std::env::args().nth(1).unwrap_or_default();
    let plan = serde_json::from_str(&text).map_err(std::io::Error::other)?;
    globallock_faults::owner::run(plan).await?;
    // Without this, a thread that reads the standard input would keep the process alive.
    std::process::exit(0)
}
