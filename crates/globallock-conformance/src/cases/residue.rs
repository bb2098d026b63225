//! After the last claim of a name is gone, the store keeps nothing of the name but what expires by itself.

use std::time::Duration;

use globallock::Name;

use super::{Case, Need, case};
use crate::child::Owner;
use crate::context::{Context, eventually, lock_of};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("residue", a_released_lock_leaves_nothing).over_kinds().needs(Need::Residue),
        case!("residue", waiters_leave_nothing).over_kinds().needs(Need::Residue),
        case!("residue", readers_and_permits_leave_nothing).needs(Need::Residue),
        case!("residue", a_killed_owner_leaves_nothing).over_kinds().needs(Need::Owner),
        case!("residue", an_ended_max_hold_leaves_nothing).needs(Need::Residue),
    ]
}

async fn assert_nothing_left(context: &Context) {
    let name = Name::new(context.name()).unwrap();
    let residue = context.store().residue.clone().expect("the store can list it");
    let left = residue(name).await;
    assert!(left.is_empty(), "{left:?}");
}

async fn a_released_lock_leaves_nothing(context: Context) {
    let manager = context.manager().await;
    context.lock(&manager).acquire().await.unwrap().release().await.unwrap();
    assert_nothing_left(&context).await;
}

async fn waiters_leave_nothing(context: Context) {
    let [holder, waits, gives_up] = context.managers().await;
    let guard = context.lock(&holder).acquire().await.unwrap();
    let waiter = context.queued(context.lock(&waits), 1, 1).await;
    let refused = context.lock_with_wait(&gives_up, Duration::from_millis(50)).acquire().await;
    assert!(refused.is_err());
    context.until(&holder, 1, 1).await;
    guard.release().await.unwrap();
    waiter.await.unwrap().unwrap().release().await.unwrap();
    assert_nothing_left(&context).await;
}

async fn readers_and_permits_leave_nothing(context: Context) {
    let [a, b] = context.managers().await;
    for kind in ["read", "1/2"] {
        let first = lock_of(&a, context.name(), kind).unwrap().acquire().await.unwrap();
        let second = lock_of(&b, context.name(), kind).unwrap().acquire().await.unwrap();
        first.release().await.unwrap();
        second.release().await.unwrap();
        assert_nothing_left(&context).await;
    }
}

async fn a_killed_owner_leaves_nothing(context: Context) {
    let manager = context.manager().await;
    let mut owner = Owner::start(&context, context.kind(), None);
    owner.granted().await;
    owner.kill().await;
    context.until_empty(&manager).await;
    let Some(residue) = context.store().residue.clone() else {
        return;
    };
    let name = Name::new(context.name()).unwrap();
    eventually("nothing is left", async || residue(name.clone()).await.is_empty()).await;
}

async fn an_ended_max_hold_leaves_nothing(context: Context) {
    let manager = context.manager().await;
    let guard = context.briefly_held(&manager).await;
    guard.lost().await;
    context.until_empty(&manager).await;
    drop(guard);
    manager.close().await;
    assert_nothing_left(&context).await;
}
