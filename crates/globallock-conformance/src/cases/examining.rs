//! An examination changes nothing, and what a trial has left can be dropped, but nothing that is in use.

use futures_util::TryStreamExt;
use globallock::{LockManager, Name, Release};

use super::{Case, case};
use crate::context::Context;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("examining", an_examination_finds_nothing_bad_and_leaves_nothing),
        case!("examining", an_examination_disturbs_neither_holders_nor_waiters).over_kinds(),
        case!("examining", what_is_in_use_cannot_be_forgotten).over_kinds(),
        case!("examining", a_forgotten_name_can_be_locked_again).over_kinds(),
    ]
}

/// A name of this case that nobody uses.
fn unused(context: &Context) -> Name {
    Name::new(format!("{}/unused", context.name())).unwrap()
}

/// The names that are used and begin as that of this case does.
async fn used(context: &Context, manager: &LockManager) -> Vec<String> {
    let names = manager.list(context.name()).map_ok(|summary| summary.name.as_str().to_owned());
    names.try_collect().await.unwrap()
}

async fn an_examination_finds_nothing_bad_and_leaves_nothing(context: Context) {
    let manager = context.manager().await;
    let name = unused(&context);
    let bad: Vec<String> = manager
        .examine(&name)
        .await
        .unwrap()
        .into_iter()
        .filter(|finding| finding.verdict.is_bad())
        .map(|finding| finding.to_string())
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert!(used(&context, &manager).await.is_empty());
    if let Some(residue) = context.store().residue.clone() {
        let left = residue(name).await;
        assert!(left.is_empty(), "{left:?}");
    }
}

async fn an_examination_disturbs_neither_holders_nor_waiters(context: Context) {
    let [holder, waits, onlooker] = context.managers().await;
    let guard = context.lock(&holder).acquire().await.unwrap();
    let waiter = context.queued(context.lock(&waits), 1, 1).await;
    onlooker.examine(&unused(&context)).await.unwrap();
    let queue = context.queue(&onlooker).await;
    assert_eq!(queue.iter().map(|entry| entry.held).collect::<Vec<_>>(), [true, false]);
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    waiter.await.unwrap().unwrap().release().await.unwrap();
}

async fn what_is_in_use_cannot_be_forgotten(context: Context) {
    let [holder, waits, onlooker] = context.managers().await;
    let name = Name::new(context.name()).unwrap();
    let guard = context.lock(&holder).acquire().await.unwrap();
    let token = guard.fencing_token();
    let waiter = context.queued(context.lock(&waits), 1, 1).await;
    onlooker.backend().forget(&name, &[]).await.unwrap();
    context.until(&onlooker, 1, 1).await;
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    let next = waiter.await.unwrap().unwrap();
    assert!(next.fencing_token() > token, "{} after {token}", next.fencing_token());
    next.release().await.unwrap();
}

async fn a_forgotten_name_can_be_locked_again(context: Context) {
    let manager = context.manager().await;
    let name = Name::new(context.name()).unwrap();
    for _ in 0..2 {
        let guard = context.lock(&manager).acquire().await.unwrap();
        assert_eq!(guard.release().await.unwrap(), Release::Released);
        manager.backend().forget(&name, &[]).await.unwrap();
        assert!(used(&context, &manager).await.is_empty());
    }
}
