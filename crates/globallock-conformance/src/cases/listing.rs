//! `inspect` shows the holders, since when they hold, and the waiters.

use std::time::Duration;

use globallock::Entry;

use super::{Case, Need, case};
use crate::child::Owner;
use crate::context::{Context, lock_of};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("listing", a_free_name_has_no_claims),
        case!("listing", holders_come_before_waiters_in_their_order).over_kinds(),
        case!("listing", an_owner_is_shown_with_its_host_process_and_label),
        case!("listing", an_owner_of_another_process_is_shown).needs(Need::Owner),
        case!("listing", the_permits_and_token_of_a_holder_are_shown),
        case!("listing", the_age_of_a_hold_is_shown),
    ]
}

async fn a_free_name_has_no_claims(context: Context) {
    let manager = context.manager().await;
    assert!(context.queue(&manager).await.is_empty());
}

async fn holders_come_before_waiters_in_their_order(context: Context) {
    let [holder, first, second] = context.managers().await;
    let guard = context.lock(&holder).acquire().await.unwrap();
    let mut waiters = Vec::new();
    for (before, manager) in [&first, &second].into_iter().enumerate() {
        waiters.push(context.queued(context.lock(manager), 1, before + 1).await);
    }
    let queue = context.queue(&holder).await;
    let held: Vec<bool> = queue.iter().map(|entry| entry.held).collect();
    assert_eq!(held, [true, false, false]);
    guard.release().await.unwrap();
    let mut order = Vec::new();
    for waiter in waiters {
        let guard = waiter.await.unwrap().unwrap();
        order.push(context.queue(&holder).await[0].id);
        guard.release().await.unwrap();
    }
    let waiting: Vec<_> = queue[1..].iter().map(|entry: &Entry| entry.id).collect();
    assert_eq!(order, waiting);
}

async fn an_owner_is_shown_with_its_host_process_and_label(context: Context) {
    let manager = context.manager().await;
    let _guard = context.lock(&manager).acquire().await.unwrap();
    let owner = context.queue(&manager).await.remove(0).owner;
    assert_eq!(owner.label.as_deref(), Some("case"));
    assert_eq!(owner.pid, Some(std::process::id()));
    assert!(!owner.host.is_empty());
}

async fn an_owner_of_another_process_is_shown(context: Context) {
    let manager = context.manager().await;
    let mut owner = Owner::start(&context, "read", None);
    owner.granted().await;
    let entry = context.queue(&manager).await.remove(0);
    assert_eq!(entry.owner.label.as_deref(), Some("child"));
    assert!(entry.owner.pid.is_some_and(|pid| pid != std::process::id()));
    assert!(entry.held);
}

async fn the_permits_and_token_of_a_holder_are_shown(context: Context) {
    let manager = context.manager().await;
    for kind in ["mutex", "2/3", "read"] {
        let lock = lock_of(&manager, context.name(), kind).unwrap();
        let guard = lock.acquire().await.unwrap();
        let entry = context.queue(&manager).await.remove(0);
        assert_eq!(
            (entry.permits, entry.fencing_token),
            (lock.kind().permits().unwrap(), guard.fencing_token()),
            "{kind}"
        );
        guard.release().await.unwrap();
    }
}

async fn the_age_of_a_hold_is_shown(context: Context) {
    let manager = context.manager().await;
    let guard = context.lock_with_max_hold(&manager, Duration::from_secs(60)).acquire().await.unwrap();
    crate::context::eventually("the hold has an age", async || {
        let entry = context.queue(&manager).await.remove(0);
        let age = entry.age.expect("the age is known");
        let left = entry.expires_in.expect("the end is known");
        assert!(age < Duration::from_secs(20) && left <= Duration::from_secs(60), "{entry:?}");
        age >= Duration::from_millis(50)
    })
    .await;
    guard.release().await.unwrap();
}
