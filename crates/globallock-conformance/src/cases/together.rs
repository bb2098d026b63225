//! Several locks at once: all or none.

use std::sync::Arc;
use std::time::Duration;

use globallock::{Backend, LockManager, ManagerOptions, Release};

use super::{Case, case};
use crate::context::{Context, run_out};
use crate::faulty::Faulty;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("together", all_locks_are_held_together),
        case!("together", none_is_taken_when_one_is_not_available),
        case!("together", a_wait_that_runs_out_releases_all),
        case!("together", opposite_orders_do_not_block_each_other),
        case!("together", a_name_given_twice_is_taken_once),
        case!("together", the_loss_of_one_is_reported),
    ]
}

fn names(context: &Context) -> [String; 3] {
    ["a", "b", "c"].map(|part| format!("{}-{part}", context.name()))
}

async fn all_locks_are_held_together(context: Context) {
    let [one, other] = context.managers().await;
    let names = names(&context);
    let guards = one.lock_all(&names).await.unwrap();
    assert!(guards.is_held());
    for name in &names {
        assert!(other.mutex(name).try_acquire().await.unwrap().is_none());
    }
    assert_eq!(guards.release().await.unwrap(), Release::Released);
    for name in &names {
        assert!(other.inspect(name).await.unwrap().is_empty());
    }
}

async fn none_is_taken_when_one_is_not_available(context: Context) {
    let [one, other] = context.managers().await;
    let names = names(&context);
    let taken = other.mutex(&names[2]).acquire().await.unwrap();
    assert!(one.try_lock_all(&names).await.unwrap().is_none());
    for name in &names[..2] {
        assert!(other.inspect(name).await.unwrap().is_empty());
    }
    taken.release().await.unwrap();
    assert!(one.try_lock_all(&names).await.unwrap().is_some());
}

async fn a_wait_that_runs_out_releases_all(context: Context) {
    let other = context.manager().await;
    let store = Faulty::new(context.backend().await);
    let names = names(&context);
    let taken = other.mutex(&names[1]).acquire().await.unwrap();
    run_out(&store, Duration::from_millis(150), 2, async |wait| {
        let options = context.options().wait(Some(wait));
        let options = ManagerOptions::new().locks(options);
        let one = LockManager::with_backend(Arc::clone(&store) as Arc<dyn Backend>, options).unwrap();
        let refused = one.lock_all(&names).await;
        one.close().await;
        refused
    })
    .await;
    assert!(other.inspect(&names[0]).await.unwrap().is_empty());
    assert_eq!(other.inspect(&names[1]).await.unwrap().len(), 1);
    taken.release().await.unwrap();
}

async fn opposite_orders_do_not_block_each_other(context: Context) {
    let context = Arc::new(context);
    let mut owners = tokio::task::JoinSet::new();
    for backwards in [false, true] {
        let context = Arc::clone(&context);
        owners.spawn(async move {
            let manager = context.manager().await;
            let mut names = names(&context);
            if backwards {
                names.reverse();
            }
            for _ in 0..15 {
                let guards = manager.lock_all(&names).await.unwrap();
                assert!(guards.is_held());
                guards.release().await.unwrap();
            }
        });
    }
    owners.join_all().await;
}

async fn a_name_given_twice_is_taken_once(context: Context) {
    let manager = context.manager().await;
    let name = context.name();
    let guards = manager.lock_all([name, name]).await.unwrap();
    assert_eq!(guards.guards().len(), 1);
    guards.release().await.unwrap();
    assert!(manager.lock_all::<_, &str>([]).await.unwrap().guards().is_empty());
}

async fn the_loss_of_one_is_reported(context: Context) {
    let options = context.options().max_hold(Some(Duration::from_millis(300)));
    let options = ManagerOptions::new().locks(options);
    let manager = LockManager::with_backend(context.backend().await, options).unwrap();
    let guards = manager.lock_all(names(&context)).await.unwrap();
    let (guard, loss) = guards.lost().await;
    assert_eq!(loss, globallock::Loss::MaxHold);
    assert!(!guard.is_held() && !guards.is_held());
}
