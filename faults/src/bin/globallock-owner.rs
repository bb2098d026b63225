//! An owner process; `globallock_faults::owner::Plan` as JSON is its only argument.

#[tokio::main(worker_threads = 2)]
async fn main() -> std::io::Result<()> {
    let text = std::env::args().nth(1).unwrap_or_default();
    let plan = serde_json::from_str(&text).map_err(std::io::Error::other)?;
    globallock_faults::owner::run(plan).await?;
    // A thread that reads the standard input would keep the process.
    std::process::exit(0)
}
