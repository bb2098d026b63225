//! Work that many hosts ask for at the same time is done once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use globallock::{LockManager, Once, Ran};

use super::{Case, Need, case};
use crate::context::{Context, eventually};

pub(super) fn cases() -> Vec<Case> {
    let cases = vec![
        case!("once", of_six_hosts_one_does_the_work),
        case!("once", a_failed_run_is_tried_by_the_next_host),
        case!("once", a_success_counts_from_its_beginning),
        case!("once", a_success_counts_only_for_its_time),
    ];
    cases.into_iter().map(|case| case.needs(Need::Values)).collect()
}

fn once(context: &Context, manager: &LockManager, every: Duration) -> Once {
    manager.once(context.name()).with_options(context.options()).every(every)
}

/// Longer than any case.
const LONG: Duration = Duration::from_secs(600);

async fn of_six_hosts_one_does_the_work(context: Context) {
    let managers: [LockManager; 6] = context.managers().await;
    let runs = Arc::new(AtomicUsize::new(0));
    let hosts = managers.each_ref().map(|manager| {
        let (once, runs) = (once(&context, manager, LONG), Arc::clone(&runs));
        tokio::spawn(async move {
            let ran = once.run(async |_guard| {
                runs.fetch_add(1, Ordering::SeqCst);
                Ok::<(), ()>(())
            });
            ran.await.unwrap()
        })
    });
    let mut done = 0;
    for host in hosts {
        match host.await.unwrap() {
            Ran::Done(()) => done += 1,
            Ran::Skipped { began } => assert!(began < LONG),
            Ran::Failed(()) => unreachable!("it does not fail"),
        }
    }
    assert_eq!((done, runs.load(Ordering::SeqCst)), (1, 1));
    assert!(context.queue(&managers[0]).await.is_empty());
}

async fn a_failed_run_is_tried_by_the_next_host(context: Context) {
    let [first, second, third] = context.managers().await;
    let once = |manager| once(&context, manager, LONG);
    let failed = once(&first).run(async |_guard| Err::<(), _>("it fails")).await.unwrap();
    assert_eq!(failed, Ran::Failed("it fails"));
    let done = once(&second).run(async |guard| Ok::<_, &str>(guard.fencing_token())).await.unwrap();
    assert!(matches!(done, Ran::Done(token) if token > 0), "{done:?}");
    let skipped = once(&third).run(async |_guard| Err::<(), _>("it is not tried")).await.unwrap();
    assert!(matches!(skipped, Ran::Skipped { .. }), "{skipped:?}");
}

async fn a_success_counts_from_its_beginning(context: Context) {
    let [first, second] = context.managers().await;
    let (began, took) = (Instant::now(), Duration::from_millis(600));
    let once_on_first = once(&context, &first, LONG);
    let done = once_on_first.run(async |_guard| {
        let entered = Instant::now();
        eventually("the work takes some time", async || entered.elapsed() > took).await;
        Ok::<(), ()>(())
    });
    assert_eq!(done.await.unwrap(), Ran::Done(()));
    match once(&context, &second, LONG).run(async |_guard| Ok::<(), ()>(())).await.unwrap() {
        Ran::Skipped { began: known } => {
            // The record takes a moment to its store, which counts milliseconds.
            let little = Duration::from_millis(100);
            assert!(known + little >= took && known <= began.elapsed() + little, "{known:?}");
        }
        other => panic!("{other:?}"),
    }
}

async fn a_success_counts_only_for_its_time(context: Context) {
    let manager = context.manager().await;
    let every = Duration::from_secs(2);
    let once = once(&context, &manager, every);
    let first = Instant::now();
    assert_eq!(once.run(async |_guard| Ok::<(), ()>(())).await.unwrap(), Ran::Done(()));
    loop {
        match once.run(async |_guard| Ok::<(), ()>(())).await.unwrap() {
            Ran::Skipped { began } => assert!(began < every && first.elapsed() < every * 10, "{began:?}"),
            Ran::Done(()) => break assert!(first.elapsed() + Duration::from_millis(12) >= every),
            Ran::Failed(()) => unreachable!("it does not fail"),
        }
    }
}
