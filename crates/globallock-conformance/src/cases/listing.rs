//! Who holds, since when, and who waits.

use std::time::Duration;

use globallock::Entry;

use super::{Case, Need, case};
use crate::child::Owner;
use crate::world::{World, lock_of};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("listing", a_free_name_has_no_claims),
        case!("listing", holders_come_before_waiters_in_their_order).over_kinds(),
        case!("listing", an_owner_is_shown_with_its_host_process_and_label),
        case!("listing", an_owner_of_another_process_is_shown).needs(Need::Owner),
        case!("listing", the_share_and_token_of_a_holder_are_shown),
        case!("listing", the_age_of_a_hold_is_shown),
    ]
}

async fn a_free_name_has_no_claims(world: World) {
    let manager = world.manager().await;
    assert!(world.queue(&manager).await.is_empty());
}

async fn holders_come_before_waiters_in_their_order(world: World) {
    let [holder, first, second] = world.managers().await;
    let guard = world.lock(&holder).acquire().await.unwrap();
    let mut waiters = Vec::new();
    for (before, manager) in [&first, &second].into_iter().enumerate() {
        waiters.push(world.queued(world.lock(manager), 1, before + 1).await);
    }
    let queue = world.queue(&holder).await;
    let held: Vec<bool> = queue.iter().map(|entry| entry.held).collect();
    assert_eq!(held, [true, false, false]);
    guard.release().await.unwrap();
    let mut order = Vec::new();
    for waiter in waiters {
        let guard = waiter.await.unwrap().unwrap();
        order.push(world.queue(&holder).await[0].id);
        guard.release().await.unwrap();
    }
    let waiting: Vec<_> = queue[1..].iter().map(|entry: &Entry| entry.id).collect();
    assert_eq!(order, waiting);
}

async fn an_owner_is_shown_with_its_host_process_and_label(world: World) {
    let manager = world.manager().await;
    let _guard = world.lock(&manager).acquire().await.unwrap();
    let owner = world.queue(&manager).await.remove(0).owner;
    assert_eq!(owner.label.as_deref(), Some("case"));
    assert_eq!(owner.pid, Some(std::process::id()));
    assert!(!owner.host.is_empty());
}

async fn an_owner_of_another_process_is_shown(world: World) {
    let manager = world.manager().await;
    let mut owner = Owner::start(&world, "read", None);
    owner.granted().await;
    let entry = world.queue(&manager).await.remove(0);
    assert_eq!(entry.owner.label.as_deref(), Some("child"));
    assert!(entry.owner.pid.is_some_and(|pid| pid != std::process::id()));
    assert!(entry.held);
}

async fn the_share_and_token_of_a_holder_are_shown(world: World) {
    let manager = world.manager().await;
    for kind in ["mutex", "2/3", "read"] {
        let lock = lock_of(&manager, world.name(), kind).unwrap();
        let guard = lock.acquire().await.unwrap();
        let entry = world.queue(&manager).await.remove(0);
        assert_eq!((entry.permits, entry.fencing_token), (lock.permits(), guard.fencing_token()), "{kind}");
        guard.release().await.unwrap();
    }
}

async fn the_age_of_a_hold_is_shown(world: World) {
    let manager = world.manager().await;
    let guard = world.lock_for(&manager, Duration::from_secs(60)).acquire().await.unwrap();
    crate::world::eventually("the hold has an age", async || {
        let entry = world.queue(&manager).await.remove(0);
        let age = entry.age.expect("the age is known");
        let left = entry.expires_in.expect("the end is known");
        assert!(age < Duration::from_secs(20) && left <= Duration::from_secs(60), "{entry:?}");
        age >= Duration::from_millis(50)
    })
    .await;
    guard.release().await.unwrap();
}
