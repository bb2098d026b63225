//! Owner processes are killed, and the next owner is granted the lock within a lease and a tick. The times
//! are printed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use globallock::{LockManager, Result};
use globallock_conformance::child::{Owner, Report};
use globallock_conformance::context::{Context, lock_of};
use globallock_conformance::pauses::Pauses;
use globallock_conformance::store_under_test::StoreUnderTest;
use tokio::task::JoinHandle;

use crate::store::{BUSY, Store};

const LEASE: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_secs(1);
/// How often each victim is killed.
const ROUNDS: usize = 4;

/// The owner that is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Holder,
    HeadWaiter,
    Reader,
    OwnerOfPermits,
}

/// Starts a task that waits for a lock, and returns when it was granted.
async fn start_waiter(
    context: &Context,
    manager: &LockManager,
    kind: &str,
    held: usize,
    waiting: usize,
) -> JoinHandle<Result<Instant>> {
    let lock = lock_of(manager, context.name(), kind).unwrap();
    let waiter = tokio::spawn(async move {
        let guard = lock.acquire().await?;
        let granted = Instant::now();
        assert!(guard.is_held());
        guard.release().await?;
        Ok(granted)
    });
    let observer = context.manager().await;
    context.until(&observer, held, waiting).await;
    waiter
}

/// Kills the victim, and returns how long it took until the next owner was granted the lock.
async fn recovery(subject: &StoreUnderTest, victim: Victim) -> Duration {
    let context = Context::new(subject, "killed", "mutex");
    let manager = context.manager().await;
    let (kind, next_kind) = match victim {
        Victim::Holder | Victim::HeadWaiter => ("mutex", "mutex"),
        Victim::Reader => ("read", "write"),
        Victim::OwnerOfPermits => ("2/3", "2/3"),
    };
    let held = if matches!(victim, Victim::HeadWaiter) {
        Some(context.lock(&manager).acquire().await.unwrap())
    } else {
        None
    };
    let mut owner = Owner::start(&context, kind, None);
    let waiter = if held.is_some() {
        assert_eq!(owner.next_report().await, Report::Asking);
        context.until(&manager, 1, 1).await;
        start_waiter(&context, &manager, next_kind, 1, 2).await
    } else {
        owner.granted().await;
        start_waiter(&context, &manager, next_kind, 1, 1).await
    };
    let since = Instant::now();
    owner.kill().await;
    if let Some(held) = held {
        held.release().await.unwrap();
    }
    let granted = waiter.await.unwrap().unwrap();
    context.until_empty(&manager).await;
    granted.saturating_duration_since(since)
}

/// Prints a histogram of the times.
fn print_histogram(store: &str, victim: Victim, times: &[Duration]) {
    let mut buckets = vec![0; 12];
    for time in times {
        let bucket = usize::try_from(time.as_millis() / 500).unwrap_or(usize::MAX);
        buckets[bucket.min(11)] += 1;
    }
    println!("{store}, {victim:?}: {} recoveries within", times.len());
    for (number, count) in (1..).zip(&buckets).filter(|(_, count)| **count > 0) {
        println!("  {:>5.1} s {}", f64::from(number) / 2.0, "#".repeat(*count));
    }
}

pub(crate) async fn a_killed_owner_is_passed_over(store: Store) {
    let kind = store.kind;
    let subject = StoreUnderTest { lease: LEASE, ..store.under_test(program()) };
    for victim in [Victim::Holder, Victim::HeadWaiter, Victim::Reader, Victim::OwnerOfPermits] {
        let pauses = Pauses::watch();
        let times = join_all((0..ROUNDS).map(|_| recovery(&subject, victim))).await;
        print_histogram(kind, victim, &times);
        let limit = LEASE + TICK + BUSY + pauses.spent();
        assert!(times.iter().all(|time| *time < limit), "{kind}, {victim:?}: {times:?}");
    }
}

fn program() -> Option<PathBuf> {
    Some(PathBuf::from(env!("CARGO_BIN_EXE_globallock-holder")))
}
