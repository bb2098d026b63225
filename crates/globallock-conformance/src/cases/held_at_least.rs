//! A lock that is held at least for a time keeps others out for so long, whatever becomes of its owner.

use std::sync::Arc;
use std::time::{Duration, Instant};

use globallock::backend::{ClaimStatus, WaitMode};
use globallock::queue::Permits;
use globallock::{Backend, Error, Guard, Lock, LockManager, Loss, Name, Release, Result};
use tokio::task::JoinHandle;

use super::{Case, Need, case};
use crate::child::{Owner, Report};
use crate::context::{Context, dropped_at, eventually, lock_of};
use crate::faulty::{Fault, Verb};

/// How much later than promised a grant may come, because the machine may be busy.
const SLACK: Duration = Duration::from_secs(30);
/// Longer than any case.
const LONG: Duration = Duration::from_secs(600);
/// A short time, for leases that are much longer.
const SHORT: Duration = Duration::from_millis(300);

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("held_at_least", a_released_lock_keeps_others_out_for_its_time).over_kinds(),
        case!("held_at_least", a_dropped_guard_keeps_others_out_for_its_time).over_kinds(),
        case!("held_at_least", a_time_much_shorter_than_the_lease_is_kept_and_then_ends),
        case!("held_at_least", a_lock_is_held_on_after_its_time_and_then_released_at_once).over_kinds(),
        case!("held_at_least", a_reader_keeps_writers_out_and_readers_not),
        case!("held_at_least", permits_are_kept_and_the_others_are_free),
        case!("held_at_least", the_max_hold_ends_it),
        case!("held_at_least", an_eviction_ends_it_at_once).over_kinds(),
        case!("held_at_least", an_acquire_dropped_at_any_point_keeps_nobody_out),
        case!("held_at_least", several_locks_of_which_one_is_taken_keep_nobody_out),
        case!("held_at_least", a_skipped_run_keeps_nobody_out).needs(Need::Values),
        case!("held_at_least", nothing_is_left_after_its_time).needs(Need::Residue),
        case!("held_at_least", a_release_that_is_not_answered_keeps_others_out_for_its_time)
            .needs(Need::Keeping),
        case!("held_at_least", a_closed_manager_keeps_others_out_all_the_same).needs(Need::Keeping),
        case!("held_at_least", a_killed_owner_keeps_others_out_for_its_time)
            .over_kinds()
            .needs(Need::OwnerWithKeeping),
        case!("held_at_least", an_owner_killed_after_its_release_keeps_others_out_for_its_time)
            .needs(Need::OwnerWithKeeping),
        case!("held_at_least", a_claim_is_kept_without_its_owner_and_no_renewal_shortens_that)
            .needs(Need::Keeping),
        case!("held_at_least", a_left_claim_ends_though_its_lease_is_longer).needs(Need::Keeping),
        case!("held_at_least", a_claim_that_is_gone_cannot_be_kept).needs(Need::Keeping),
        case!("held_at_least", a_store_that_cannot_keep_claims_refuses_to).needs(Need::NoKeeping),
        case!("held_at_least", a_closed_manager_of_a_store_that_cannot_lets_others_in).needs(Need::NoKeeping),
    ]
}

fn held_at_least(context: &Context, manager: &LockManager, time: Duration) -> Lock {
    context.lock(manager).hold_at_least(time)
}

/// A time for which no lease lasts.
fn time(context: &Context) -> Duration {
    context.lease() * 2
}

/// Starts a waiter, and tells when it was granted.
async fn waiting(context: &Context, lock: Lock, held: usize) -> JoinHandle<(Guard, Instant)> {
    let waiter = context.queued(lock, held, 1).await;
    tokio::spawn(async move {
        let guard = waiter.await.unwrap().unwrap();
        (guard, Instant::now())
    })
}

/// Waits for the grant, which must come so long after `asked`, and not much later.
async fn after(waiter: JoinHandle<(Guard, Instant)>, asked: Instant, time: Duration) -> Guard {
    let (guard, granted) = waiter.await.unwrap();
    let waited = granted - asked;
    assert!(waited >= time, "it was granted {:?} too early", time.saturating_sub(waited));
    assert!(waited < time + SLACK, "it was granted only after {waited:?}");
    guard
}

async fn a_released_lock_keeps_others_out_for_its_time(context: Context) {
    let [owner, next] = context.managers().await;
    let (asked, time) = (Instant::now(), time(&context));
    let guard = held_at_least(&context, &owner, time).acquire().await.unwrap();
    let (token, kept) = (guard.fencing_token(), guard.kept_for().expect("its time has not passed"));
    assert!(kept <= time, "{kept:?}");
    let waiter = waiting(&context, context.lock(&next), 1).await;
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    let queue = context.queue(&next).await;
    assert!(queue[0].held && queue[0].fencing_token == token, "{queue:?}");
    let next = after(waiter, asked, time).await;
    assert!(next.fencing_token() > token);
    assert_eq!(next.release().await.unwrap(), Release::Released);
    context.until_empty(&owner).await;
}

async fn a_dropped_guard_keeps_others_out_for_its_time(context: Context) {
    let [owner, next] = context.managers().await;
    let (asked, time) = (Instant::now(), time(&context));
    let guard = held_at_least(&context, &owner, time).acquire().await.unwrap();
    let waiter = waiting(&context, context.lock(&next), 1).await;
    drop(guard);
    after(waiter, asked, time).await.release().await.unwrap();
    context.until_empty(&owner).await;
}

/// The next waiter would find the lock free at its next renewal only, after twenty seconds.
async fn a_time_much_shorter_than_the_lease_is_kept_and_then_ends(context: Context) {
    let [owner, next] = context.managers().await;
    let lease = Duration::from_secs(60);
    let asked = Instant::now();
    let guard = held_at_least(&context, &owner, SHORT).lease(lease).acquire().await.unwrap();
    let waiter = waiting(&context, context.lock(&next).lease(lease), 1).await;
    guard.release().await.unwrap();
    let (guard, granted) = waiter.await.unwrap();
    assert!(granted - asked >= SHORT, "it was granted after {:?}", granted - asked);
    assert!(granted - asked < Duration::from_secs(15), "it was granted after {:?}", granted - asked);
    guard.release().await.unwrap();
}

async fn a_lock_is_held_on_after_its_time_and_then_released_at_once(context: Context) {
    let (store, owner) = context.faulty().await;
    let next = context.manager().await;
    let (asked, time) = (Instant::now(), time(&context));
    let guard = held_at_least(&context, &owner, time).acquire().await.unwrap();
    let long = time + context.lease() * 2;
    eventually("it is held for longer", async || {
        assert!(guard.is_held(), "it was lost after {:?}", asked.elapsed());
        asked.elapsed() > long
    })
    .await;
    assert!(guard.renew().await.unwrap());
    assert_eq!(guard.kept_for(), None);
    assert!(context.lock(&next).try_acquire().await.unwrap().is_none());
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    assert_eq!((store.asked(Verb::Release), store.asked(Verb::ReleaseAfter)), (1, 0));
    let guard = context.lock(&next).try_acquire().await.unwrap().expect("it is free");
    guard.release().await.unwrap();
}

async fn a_reader_keeps_writers_out_and_readers_not(context: Context) {
    let [owner, next] = context.managers().await;
    let lock = |manager, kind| lock_of(manager, context.name(), kind).unwrap();
    let (asked, time) = (Instant::now(), time(&context));
    let reader = lock(&owner, "read").hold_at_least(time).acquire().await.unwrap();
    reader.release().await.unwrap();
    lock(&next, "read").try_acquire().await.unwrap().expect("readers share").release().await.unwrap();
    let writer = waiting(&context, lock(&next, "write"), 1).await;
    after(writer, asked, time).await.release().await.unwrap();
    context.until_empty(&owner).await;
}

async fn permits_are_kept_and_the_others_are_free(context: Context) {
    let [owner, next] = context.managers().await;
    let lock = |manager, kind| lock_of(manager, context.name(), kind).unwrap();
    let (asked, time) = (Instant::now(), time(&context));
    drop(lock(&owner, "2/3").hold_at_least(time).acquire().await.unwrap());
    let one = lock(&next, "1/3").try_acquire().await.unwrap().expect("one is free");
    let two = waiting(&context, lock(&next, "2/3"), 2).await;
    after(two, asked, time).await.release().await.unwrap();
    assert!(one.is_held());
    one.release().await.unwrap();
    context.until_empty(&owner).await;
}

async fn the_max_hold_ends_it(context: Context) {
    let [owner, next] = context.managers().await;
    let time = time(&context);
    let lock = held_at_least(&context, &owner, time);
    let refused = lock.clone().max_hold(time - SHORT).acquire().await.unwrap_err();
    assert!(matches!(refused, Error::InvalidOption { .. }), "{refused}");
    for releases in [false, true] {
        let asked = Instant::now();
        let guard = lock.clone().max_hold(time).acquire().await.unwrap();
        let waiter = waiting(&context, context.lock(&next), 1).await;
        if releases {
            guard.release().await.unwrap();
        } else {
            assert_eq!(guard.lost().await, Loss::MaxHold);
        }
        // Stores and owners count from moments of their own.
        let nearly = time - time / 100 - Duration::from_millis(5);
        after(waiter, asked, nearly).await.release().await.unwrap();
    }
}

async fn an_eviction_ends_it_at_once(context: Context) {
    let [owner, next] = context.managers().await;
    let guard = held_at_least(&context, &owner, LONG).acquire().await.unwrap();
    let waiter = waiting(&context, context.lock(&next), 1).await;
    let asked = Instant::now();
    guard.release().await.unwrap();
    let key = context.queue(&next).await.swap_remove(0).key;
    assert_eq!(next.evict(context.name(), &key, "").await.unwrap(), Release::Released);
    after(waiter, asked, Duration::ZERO).await.release().await.unwrap();
    context.until_empty(&next).await;
}

async fn an_acquire_dropped_at_any_point_keeps_nobody_out(context: Context) {
    let (store, slow) = context.faulty().await;
    let other = context.manager().await;
    for verb in [Verb::Enqueue, Verb::KeepFor, Verb::Release] {
        store.always(verb, Fault::Delay(Duration::from_millis(3)));
    }
    for point in 0..200 {
        let Some(guard) = dropped_at(point, held_at_least(&context, &slow, LONG).acquire()).await else {
            context.until_empty(&other).await;
            continue;
        };
        let guard = guard.unwrap();
        assert!(guard.kept_for() > Some(LONG / 2) && point >= 2);
        let key = context.queue(&other).await.swap_remove(0).key;
        assert_eq!(other.evict(context.name(), &key, "").await.unwrap(), Release::Released);
        return;
    }
    panic!("the acquire never ended");
}

async fn several_locks_of_which_one_is_taken_keep_nobody_out(context: Context) {
    let backend = context.backend().await;
    let options = context.options().hold_at_least(LONG);
    let [owner, other] = [options.clone(), context.options()]
        .map(|options| LockManager::with_backend(Arc::clone(&backend), options).unwrap());
    let names = ["a", "b"].map(|part| format!("{}-{part}", context.name()));
    let taken = other.mutex(&names[1]).acquire().await.unwrap();
    assert!(owner.try_lock_all(&names).await.unwrap().is_none());
    other.mutex(&names[0]).wait(SLACK).acquire().await.unwrap().release().await.unwrap();
    let (waits, both) = (owner.clone(), names.clone());
    let waiter = tokio::spawn(async move { waits.lock_all(&both).await });
    eventually("the second is waited for", async || other.inspect(&names[1]).await.unwrap().len() == 2).await;
    waiter.abort();
    other.mutex(&names[0]).wait(SLACK).acquire().await.unwrap().release().await.unwrap();
    taken.release().await.unwrap();
}

async fn a_skipped_run_keeps_nobody_out(context: Context) {
    let [first, second] = context.managers().await;
    let once = |manager: &LockManager| manager.once(context.name()).every(LONG);
    let done = once(&first).with_options(context.options()).run(async |_guard| Ok::<(), ()>(())).await;
    assert_eq!(done.unwrap(), globallock::Ran::Done(()));
    let options = context.options().hold_at_least(LONG);
    let skipped = once(&second).with_options(options).run(async |_guard| Ok::<(), ()>(())).await;
    assert!(matches!(skipped.unwrap(), globallock::Ran::Skipped { .. }));
    let lock = context.lock_with_wait(&first, SLACK);
    lock.acquire().await.unwrap().release().await.unwrap();
}

async fn nothing_is_left_after_its_time(context: Context) {
    let [owner, next] = context.managers().await;
    let lock = |kind| lock_of(&owner, context.name(), kind).unwrap().hold_at_least(SHORT);
    for kind in ["mutex", "read", "1/2"] {
        lock(kind).acquire().await.unwrap().release().await.unwrap();
        context.lock(&next).acquire().await.unwrap().release().await.unwrap();
        let residue = context.store().residue.clone().expect("the store can list it");
        let name = Name::new(context.name()).unwrap();
        eventually("nothing is left", async || residue(name.clone()).await.is_empty()).await;
    }
}

async fn a_release_that_is_not_answered_keeps_others_out_for_its_time(context: Context) {
    let (store, owner) = context.faulty().await;
    let next = context.manager().await;
    for fault in [Fault::Refuse, Fault::LoseAnswer] {
        let (asked, time) = (Instant::now(), time(&context));
        let guard = held_at_least(&context, &owner, time).acquire().await.unwrap();
        let waiter = waiting(&context, context.lock(&next), 1).await;
        store.next(Verb::ReleaseAfter, [fault]);
        let refused: Result<Release> = guard.release().await;
        assert!(refused.unwrap_err().is_unavailable());
        after(waiter, asked, time).await.release().await.unwrap();
        context.until_empty(&owner).await;
    }
}

async fn a_closed_manager_keeps_others_out_all_the_same(context: Context) {
    let [owner, next] = context.managers().await;
    let (asked, time) = (Instant::now(), time(&context));
    let guard = held_at_least(&context, &owner, time).acquire().await.unwrap();
    let waiter = waiting(&context, context.lock(&next), 1).await;
    drop(guard);
    owner.close().await;
    drop(owner);
    after(waiter, asked, time).await.release().await.unwrap();
}

async fn a_killed_owner_keeps_others_out_for_its_time(context: Context) {
    let manager = context.manager().await;
    let time = context.lease() * 3;
    let asked = Instant::now();
    let mut owner = Owner::start_with(&context, context.kind(), &context.options().hold_at_least(time));
    let token = owner.granted().await;
    let waiter = waiting(&context, context.lock(&manager), 1).await;
    owner.kill().await;
    let guard = after(waiter, asked, time).await;
    assert!(guard.fencing_token() > token);
}

async fn an_owner_killed_after_its_release_keeps_others_out_for_its_time(context: Context) {
    let manager = context.manager().await;
    let time = context.lease() * 3;
    let asked = Instant::now();
    let mut owner = Owner::start_with(&context, "mutex", &context.options().hold_at_least(time));
    owner.granted().await;
    owner.release().await;
    assert_eq!(owner.next_report().await, Report::Released(true));
    owner.kill().await;
    let waiter = waiting(&context, context.lock(&manager), 1).await;
    after(waiter, asked, time).await.release().await.unwrap();
}

/// Waits until the claim holds, and says when.
async fn until_held(backend: &dyn Backend, claim: &globallock::backend::Claim) -> Instant {
    eventually("it is granted", async || {
        matches!(backend.enqueue(claim).await.unwrap(), ClaimStatus::Held(_))
    })
    .await;
    Instant::now()
}

async fn a_claim_is_kept_without_its_owner_and_no_renewal_shortens_that(context: Context) {
    for permits in [Permits::MUTEX, Permits::READ] {
        let [owner, other] = [context.backend().await, context.backend().await];
        let claim = Arc::new(context.claim(1, permits, WaitMode::Wait));
        let next = context.claim(2, Permits::MUTEX, WaitMode::Wait).with_lease(LONG);
        assert!(matches!(owner.enqueue(&claim).await.unwrap(), ClaimStatus::Held(_)));
        let (sent, rest) = (Instant::now(), context.lease() * 3);
        let kept = owner.keep_for(&claim, rest).await.unwrap();
        assert!(matches!(kept, ClaimStatus::Held(_)), "{kept:?}");
        let renewed = owner.renew(std::slice::from_ref(&claim)).await.remove(0).unwrap();
        assert!(matches!(renewed, ClaimStatus::Held(_)), "{renewed:?}");
        // A shorter time does not shorten it either.
        owner.keep_for(&claim, SHORT).await.unwrap();
        assert_eq!(other.enqueue(&next).await.unwrap(), ClaimStatus::Waiting);
        let waited = until_held(other.as_ref(), &next).await - sent;
        assert!(waited >= rest && waited < rest + SLACK, "{waited:?}");
        assert_eq!(other.release(&next).await.unwrap(), Release::Released);
    }
}

async fn a_left_claim_ends_though_its_lease_is_longer(context: Context) {
    for permits in [Permits::MUTEX, Permits::READ] {
        let [owner, other] = [context.backend().await, context.backend().await];
        // Its owner keeps others of its claims alive.
        let alive = Arc::new(context.claim(1, permits, WaitMode::Wait).with_lease(LONG));
        let elsewhere = Name::new(format!("{}-2", context.name())).unwrap();
        let mut alive = (*alive).clone();
        alive.name = elsewhere;
        let claim = context.claim(2, permits, WaitMode::Wait).with_lease(LONG);
        let next = context.claim(3, Permits::MUTEX, WaitMode::Wait).with_lease(LONG);
        for claim in [&alive, &claim] {
            assert!(matches!(owner.enqueue(claim).await.unwrap(), ClaimStatus::Held(_)));
        }
        let (sent, rest) = (Instant::now(), context.lease());
        assert_eq!(owner.release_after(&claim, rest).await.unwrap(), Release::Released);
        assert_eq!(other.enqueue(&next).await.unwrap(), ClaimStatus::Waiting);
        let alive = Arc::new(alive);
        eventually("it is granted", async || {
            owner.renew(std::slice::from_ref(&alive)).await.remove(0).unwrap();
            matches!(other.enqueue(&next).await.unwrap(), ClaimStatus::Held(_))
        })
        .await;
        assert!(sent.elapsed() >= rest && sent.elapsed() < rest + SLACK, "{:?}", sent.elapsed());
        other.release(&next).await.unwrap();
        owner.release(&alive).await.unwrap();
    }
}

async fn a_claim_that_is_gone_cannot_be_kept(context: Context) {
    let [owner, other] = [context.backend().await, context.backend().await];
    let claim = context.claim(1, Permits::MUTEX, WaitMode::Wait);
    assert!(matches!(owner.enqueue(&claim).await.unwrap(), ClaimStatus::Held(_)));
    assert_eq!(owner.release(&claim).await.unwrap(), Release::Released);
    assert_eq!(owner.keep_for(&claim, LONG).await.unwrap(), ClaimStatus::Gone);
    assert_eq!(owner.release_after(&claim, LONG).await.unwrap(), Release::NotHeld);
    let next = context.claim(2, Permits::MUTEX, WaitMode::Try);
    assert!(matches!(other.enqueue(&next).await.unwrap(), ClaimStatus::Held(_)));
    other.release(&next).await.unwrap();
}

async fn a_store_that_cannot_keep_claims_refuses_to(context: Context) {
    let owner = context.backend().await;
    let claim = context.claim(1, Permits::MUTEX, WaitMode::Wait);
    assert!(matches!(owner.enqueue(&claim).await.unwrap(), ClaimStatus::Held(_)));
    for refused in [
        owner.keep_for(&claim, LONG).await.map(drop).unwrap_err(),
        owner.release_after(&claim, LONG).await.map(drop).unwrap_err(),
    ] {
        assert!(matches!(refused, Error::FailedPrecondition { .. }), "{refused}");
    }
    assert_eq!(owner.release(&claim).await.unwrap(), Release::Released);
}

async fn a_closed_manager_of_a_store_that_cannot_lets_others_in(context: Context) {
    let [owner, next] = context.managers().await;
    let guard = held_at_least(&context, &owner, LONG).acquire().await.unwrap();
    guard.release().await.unwrap();
    assert!(context.lock(&next).try_acquire().await.unwrap().is_none());
    owner.close().await;
    context.lock(&next).try_acquire().await.unwrap().expect("it is free").release().await.unwrap();
}
