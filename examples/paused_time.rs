//! Testing code that uses locks, without waiting: with tokio's paused time, leases expire as soon as
//! everybody sleeps.
//!
//! `cargo run -p globallock-examples --bin paused_time`

use std::time::{Duration, Instant};

use globallock::{LockManager, Loss, Memory, Options};

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> globallock::Result<()> {
    let began = Instant::now();
    // Two processes, as far as the locks can tell: managers of their own over one store.
    let store = Memory::new();
    let ours = LockManager::with_backend(store.clone(), Options::new().lease(Duration::from_secs(30)))?;
    let theirs = LockManager::with_backend(store.clone(), Options::new())?;

    // The max hold time passes at once.
    let guard = ours.mutex("a").max_hold(Duration::from_secs(3600)).acquire().await?;
    assert_eq!(guard.lost().await, Loss::MaxHold);

    // So does the wait of somebody who does not get the lock.
    let guard = ours.mutex("a").acquire().await?;
    assert!(theirs.mutex("a").try_acquire_for(Duration::from_secs(600)).await?.is_none());

    // A store that takes the lock away, as an operator or a restart without a disk would.
    store.revoke("a");
    assert_eq!(guard.lost().await, Loss::Revoked);
    println!(
        "more than an hour and ten minutes passed in {:.0?}",
        began.elapsed().min(Duration::from_secs(9))
    );
    Ok(())
}
