//! A store of one's own, and the command line that knows it.
//!
//! `cargo run -p globallock-examples --bin custom_store -- run --url ledger:///tmp/ledger nightly -- date` is
//! `globallock run` with one more store. With an address alone it shows the same store in a program:
//! `cargo run -p globallock-examples --bin custom_store -- ledger:///tmp/ledger`.

mod ledger;

use std::process::ExitCode;

use globallock::{LockManager, ManagerOptions, Result};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [url] if url.starts_with("ledger:") => match by_the_library(url) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
        _ => globallock_cli::main(&ledger::schemes()),
    }
}

#[tokio::main]
async fn by_the_library(url: &str) -> Result<()> {
    let options = ManagerOptions::new().label("example");
    let manager = LockManager::connect_by(&ledger::schemes(), url, options).await?;
    let guard = manager.mutex("nightly-report").acquire().await?;
    for entry in manager.inspect("nightly-report").await? {
        let label = entry.owner.label.unwrap_or_default();
        println!("{label} holds it with fencing token {}", guard.fencing_token());
    }
    guard.release().await?;
    manager.close().await;
    Ok(())
}
