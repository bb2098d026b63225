//! The cost of many locks that one manager holds and renews.

use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use globallock::{Guard, LockManager};

/// How many locks are held.
const LOCKS: usize = 100_000;

/// Holds the locks, and reports memory and processor time over three leases.
pub(crate) async fn measure(port: u16) {
    println!("\n{LOCKS} held locks of one manager, lease 10 s (renewed every 3.3 s), over 30 s");
    let manager =
        LockManager::connect(&format!("redis://127.0.0.1:{port}")).await.expect("the server is there");
    let before = resident_kibibytes();
    let guards: Vec<Guard> = stream::iter(0..LOCKS)
        .map(|number| {
            let lock = manager.mutex(format!("bench-held-{number}"));
            async move { lock.acquire().await.expect("the lock is free") }
        })
        .buffer_unordered(256)
        .collect()
        .await;
    let memory = resident_kibibytes().saturating_sub(before);
    let (began, processor) = (Instant::now(), processor_seconds());
    tokio::time::sleep(Duration::from_secs(30)).await;
    let share = (processor_seconds() - processor) / began.elapsed().as_secs_f64();
    let held = guards.iter().filter(|guard| guard.is_held()).count();
    assert_eq!(held, LOCKS, "a lock was lost");
    println!(
        "  {:<58} {:>9.2} MiB ({:.0} bytes a lock)",
        "memory",
        memory as f64 / 1024.0,
        memory as f64 * 1024.0 / LOCKS as f64
    );
    println!("  {:<58} {:>9.2} % of one core", "processor time, this process", share * 100.0);
    let began = Instant::now();
    stream::iter(guards)
        .for_each_concurrent(256, |guard| async move {
            guard.release().await.expect("the lock is held");
        })
        .await;
    println!("  {:<58} {:>9.2} s", "all released within", began.elapsed().as_secs_f64());
}

fn resident_kibibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has /proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux tells the memory");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("the memory is a number")
}

/// User and system time so far; the kernel counts it in hundredths of a second.
fn processor_seconds() -> f64 {
    let line = std::fs::read_to_string("/proc/self/stat").expect("Linux has /proc");
    let fields: Vec<&str> =
        line.rsplit(')').next().expect("the line has a name").split_whitespace().collect();
    let ticks: f64 =
        fields[11].parse::<f64>().expect("a number") + fields[12].parse::<f64>().expect("a number");
    ticks / 100.0
}
