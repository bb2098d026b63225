//! The blocking API does what the async API does.

use std::sync::{Arc, Barrier, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use globallock::blocking::LockManager;
use globallock::{Backend, Loss, ManagerOptions, Options, Release};

use super::{Case, case};
use crate::context::{Context, run_out};
use crate::faulty::Faulty;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("blocking", threads_exclude_each_other),
        case!("blocking", a_thread_waits_its_turn),
        case!("blocking", a_thread_is_notified_of_a_loss),
        case!("blocking", a_thread_takes_several_locks_or_none),
    ]
}

/// A blocking manager with its own connection.
fn manager(context: &Context, locks: Options) -> LockManager {
    let options = ManagerOptions::new().locks(locks);
    let open = Arc::clone(&context.store().open);
    LockManager::with_backend(async move || open().await, options).expect("the store answers")
}

/// A blocking manager, and the wrapper that counts its requests.
fn faulty(context: &Context) -> (Arc<Faulty>, LockManager) {
    let options = ManagerOptions::new().locks(context.options());
    let (open, opened) = (Arc::clone(&context.store().open), Arc::new(OnceLock::new()));
    let store = Arc::clone(&opened);
    let backend = async move || {
        let faulty = Faulty::new(open().await?);
        store.set(Arc::clone(&faulty)).expect("it is opened once");
        Ok(faulty as Arc<dyn Backend>)
    };
    let manager = LockManager::with_backend(backend, options).expect("the store answers");
    (Arc::clone(opened.get().expect("it is opened")), manager)
}

/// Runs blocking code on a thread that may block.
async fn on_thread<T: Send + 'static>(code: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(code).await.expect("it does not panic")
}

async fn threads_exclude_each_other(context: Context) {
    on_thread(move || {
        let manager = manager(&context, context.options());
        let inside = std::sync::Mutex::new(());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let guard = manager.mutex(context.name()).acquire().unwrap();
                        drop(inside.try_lock().expect("nobody else holds"));
                        assert_eq!(guard.release().unwrap(), Release::Released);
                    }
                });
            }
        });
    })
    .await;
}

async fn a_thread_waits_its_turn(context: Context) {
    on_thread(move || {
        let (one, (store, other)) = (manager(&context, context.options()), faulty(&context));
        let guard = one.mutex(context.name()).acquire().unwrap();
        let lock = other.mutex(context.name());
        assert!(lock.try_acquire().unwrap().is_none());
        let acquire = async |wait| {
            let short = context.options().wait(Some(wait));
            lock.clone().with_options(short).acquire()
        };
        let ran_out = run_out(&store, Duration::from_millis(50), 1, acquire);
        ran_out.now_or_never().expect("the call blocks its thread, so the future never suspends");
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                barrier.wait();
                lock.acquire().unwrap()
            });
            barrier.wait();
            guard.release().unwrap();
            assert!(waiter.join().unwrap().is_held());
        });
    })
    .await;
}

async fn a_thread_is_notified_of_a_loss(context: Context) {
    on_thread(move || {
        let options = context.options().max_hold(Some(Duration::from_millis(200)));
        let manager = manager(&context, options);
        let guard = manager.mutex(context.name()).acquire().unwrap();
        assert_eq!(guard.lost_within(Duration::from_secs(20)), Some(Loss::MaxHold));
        assert!(!guard.is_held());
    })
    .await;
}

async fn a_thread_takes_several_locks_or_none(context: Context) {
    on_thread(move || {
        let (one, other) = (manager(&context, context.options()), manager(&context, context.options()));
        let names = ["a", "b"].map(|part| format!("{}-{part}", context.name()));
        let guards = one.lock_all(&names).unwrap();
        assert!(guards.is_held());
        assert_eq!(guards.guards().len(), 2);
        assert!(other.try_lock_all(&names[..1]).unwrap().is_none());
        assert!(guards.lost_within(Duration::from_millis(10)).is_none());
        assert_eq!(guards.release().unwrap(), Release::Released);
        assert!(other.try_lock_all(&names).unwrap().is_some());
    })
    .await;
}
