//! Once the last claim has left a name, nothing stays but what expires by itself.

use std::time::Duration;

use globallock::Name;

use super::{Case, Need, case};
use crate::child::Owner;
use crate::world::{World, eventually, lock_of};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("residue", nothing_stays_of_a_lock_that_was_released).over_kinds().needs(Need::Residue),
        case!("residue", nothing_stays_of_those_who_waited).over_kinds().needs(Need::Residue),
        case!("residue", nothing_stays_of_readers_and_permits).needs(Need::Residue),
        case!("residue", nothing_stays_of_a_killed_owner).over_kinds().needs(Need::Owner),
        case!("residue", a_longest_hold_that_was_over_leaves_nothing).needs(Need::Residue),
    ]
}

async fn nothing_stays(world: &World) {
    let name = Name::new(world.name()).unwrap();
    let residue = world.subject().residue.clone().expect("what stays can be listed");
    let stays = residue(name).await;
    assert!(stays.is_empty(), "{stays:?}");
}

async fn nothing_stays_of_a_lock_that_was_released(world: World) {
    let manager = world.manager().await;
    world.lock(&manager).acquire().await.unwrap().release().await.unwrap();
    nothing_stays(&world).await;
}

async fn nothing_stays_of_those_who_waited(world: World) {
    let [holder, waits, gives_up] = world.managers().await;
    let guard = world.lock(&holder).acquire().await.unwrap();
    let waiter = world.queued(world.lock(&waits), 1, 1).await;
    let refused = world.lock_within(&gives_up, Duration::from_millis(50)).acquire().await;
    assert!(refused.is_err());
    world.until(&holder, 1, 1).await;
    guard.release().await.unwrap();
    waiter.await.unwrap().unwrap().release().await.unwrap();
    nothing_stays(&world).await;
}

async fn nothing_stays_of_readers_and_permits(world: World) {
    let [a, b] = world.managers().await;
    for kind in ["read", "1/2"] {
        let first = lock_of(&a, world.name(), kind).unwrap().acquire().await.unwrap();
        let second = lock_of(&b, world.name(), kind).unwrap().acquire().await.unwrap();
        first.release().await.unwrap();
        second.release().await.unwrap();
        nothing_stays(&world).await;
    }
}

async fn nothing_stays_of_a_killed_owner(world: World) {
    let manager = world.manager().await;
    let mut owner = Owner::start(&world, world.kind(), None);
    owner.granted().await;
    owner.kill().await;
    world.until_empty(&manager).await;
    let Some(residue) = world.subject().residue.clone() else {
        return;
    };
    let name = Name::new(world.name()).unwrap();
    eventually("nothing stays", async || residue(name.clone()).await.is_empty()).await;
}

async fn a_longest_hold_that_was_over_leaves_nothing(world: World) {
    let manager = world.manager().await;
    let guard = world.briefly_held(&manager).await;
    guard.lost().await;
    world.until_empty(&manager).await;
    drop(guard);
    manager.close().await;
    nothing_stays(&world).await;
}
