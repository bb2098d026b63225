//! The figures of the store in a directory, compared with locking and unlocking one file.

use std::time::{Duration, Instant};

use globallock::LockManager;

use crate::contend::{self, Workload};
use crate::report::{row, title};
use crate::statistics::{Times, median};

const MILLISECOND: Duration = Duration::from_millis(1);

/// Uncontended pairs in a directory, compared with locking and unlocking one file.
pub(crate) async fn run() {
    title(
        "Uncontended acquire + release in a directory (5 rounds of 4000, interleaved), and hand-offs there",
    );
    // On the file system of the default directory.
    let directory = std::path::Path::new("/tmp").join(format!("globallock-bench-{}", std::process::id()));
    let url = format!("file://{}", directory.display());
    let manager = LockManager::connect(&url).await.expect("the directory can be made");
    let lock = manager.mutex("bench");
    let (mut plain, mut ours, mut ratios) = (Times::default(), Times::default(), Vec::new());
    for _ in 0..5 {
        let (mut plain_round, mut our_round) = (Times::default(), Times::default());
        for _ in 0..4000 {
            let began = Instant::now();
            let file = std::fs::File::create(directory.join(".plain")).expect("the file can be made");
            file.lock().expect("the file can be locked");
            drop(file);
            plain_round.push(began.elapsed());
            let began = Instant::now();
            let guard = lock.acquire().await.expect("the lock is free");
            guard.release().await.expect("the lock is held");
            our_round.push(began.elapsed());
        }
        ratios.push(our_round.median() / plain_round.median());
        plain.extend(plain_round);
        ours.extend(our_round);
    }
    row("open, flock, close p50", plain.median(), "us", "");
    row("pair p50", ours.median(), "us", "");
    row("pair p50 / open, flock, close, median of rounds", median(ratios), "x", "");
    let workload =
        Workload { owners: 8, hold: MILLISECOND, think: 3 * MILLISECOND, run: Duration::from_secs(4) };
    let outcome = contend::run(contend::ours(&url, "contended", 8, 8).await, workload).await;
    row("hand-off p50 between 8 stores, 1 ms held, 3 ms thinking", outcome.hand_offs.median(), "us", "");
    row("lock utilisation", outcome.utilisation, "", "");
    row("slowest owner / fastest owner", outcome.fairness(), "", "");
    std::fs::remove_dir_all(&directory).expect("the directory can be removed");
}
