//! Work that only one process does at a time, and that stops when the lock is lost.
//!
//! `cargo run -p globallock-examples --bin mutex -- redis://127.0.0.1`, or any other address; without one it
//! uses this process's memory.

use std::time::Duration;

use globallock::{Error, LockManager, Options};

#[tokio::main]
async fn main() -> globallock::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:example".to_owned());
    // After a crash of this program the lock is free again within 20 s. Others wait for it for at most a
    // minute.
    let options = Options::new().lease(Duration::from_secs(20)).wait(Duration::from_secs(60));
    let manager = LockManager::connect_with(&url, options).await?;

    // The short form: `run` drops the work as soon as the lock is lost.
    let lines = manager.mutex("nightly-report").run(async |_guard| write_report().await).await?;
    println!("the report has {lines} lines");

    // The long form, for work that has to end in its own way.
    let guard = match manager.mutex("nightly-report").acquire().await {
        Ok(guard) => guard,
        Err(Error::TimedOut { waited, .. }) => {
            println!("somebody else has been writing the report for {waited:?}");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    tokio::select! {
        lines = write_report() => println!("the report has {lines} lines again"),
        loss = guard.lost() => eprintln!("the report is not finished, because the lock was lost: {loss}"),
    }
    guard.release().await?;
    manager.close().await;
    Ok(())
}

async fn write_report() -> u32 {
    tokio::time::sleep(Duration::from_millis(20)).await;
    3
}
