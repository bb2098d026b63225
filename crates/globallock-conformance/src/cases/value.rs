//! A name has a small value, which its holders write, and which comes with the grant.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use globallock::backend::{Backend, Claim, ClaimStatus, Grant, MAX_VALUE_BYTES, Value, ValueWrite, WaitMode};
use globallock::queue::Permits;
use globallock::{Error, Eviction, Lock, LockManager, Loss, Name, Owner, Release};

use super::{Case, Need, case};
use crate::context::{Context, eventually, lock_of};
use crate::faulty::{Fault, Verb};

pub(super) fn cases() -> Vec<Case> {
    let cases = vec![
        case!("value", a_value_comes_with_the_grant).over_kinds(),
        case!("value", a_value_comes_with_a_lock_that_is_handed_over).over_kinds(),
        case!("value", a_name_without_a_value_has_none),
        case!("value", a_claim_that_does_not_ask_gets_no_value),
        case!("value", a_value_of_any_bytes_is_kept_up_to_1_kib),
        case!("value", more_than_1_kib_is_refused),
        case!("value", a_value_says_who_wrote_it_and_how_long_ago),
        case!("value", a_guard_knows_what_it_has_written),
        case!("value", a_waiter_and_a_stranger_cannot_write),
        case!("value", a_released_holder_cannot_write).over_kinds(),
        case!("value", an_evicted_holder_cannot_write),
        case!("value", a_holder_past_its_max_hold_cannot_write),
        case!("value", a_holder_that_was_paused_cannot_write_after_the_next_grant).over_kinds(),
        case!("value", a_lost_guard_says_that_it_cannot_write),
        case!("value", a_lower_token_cannot_overwrite),
        case!("value", readers_and_permits_read_the_value),
        case!("value", writing_twice_has_the_effect_of_once),
        case!("value", a_value_survives_the_crash_of_its_writer),
        case!("value", a_value_ends_after_its_time_and_not_before),
        case!("value", a_value_is_no_claim_and_no_name),
        case!("value", nested_names_have_values_of_their_own),
    ];
    let mut cases: Vec<Case> = cases.into_iter().map(|case| case.needs(Need::Values)).collect();
    cases.push(case!("value", an_ended_value_leaves_nothing).needs(Need::ValuesAndResidue));
    cases
}

/// Longer than any case.
const LONG: Duration = Duration::from_secs(600);
const MUTEX: Permits = Permits::MUTEX;

fn asking(context: &Context, number: u64, permits: Permits) -> Claim {
    context.claim(number, permits, WaitMode::Wait).with_value()
}

fn granted(status: ClaimStatus) -> Grant {
    match status {
        ClaimStatus::Held(grant) => grant,
        other => panic!("{other:?}"),
    }
}

/// Enqueues a claim until it is granted.
async fn until_granted(backend: &dyn Backend, claim: &Claim) -> Grant {
    loop {
        match backend.enqueue(claim).await.unwrap() {
            ClaimStatus::Held(grant) => return grant,
            ClaimStatus::Waiting => {}
            other => panic!("{other:?}"),
        }
        if let Some(ClaimStatus::Held(grant)) = backend.wait_for_change(claim).await.unwrap() {
            return grant;
        }
    }
}

async fn written(backend: &dyn Backend, claim: &Claim, bytes: &[u8]) {
    assert_eq!(backend.set_value(claim, bytes, LONG).await.unwrap(), ValueWrite::Written);
}

/// The value of the case's name, as a new holder reads it.
async fn value(context: &Context, manager: &LockManager) -> Option<Value> {
    let guard = context.lock(manager).with_value().acquire().await.unwrap();
    let value = guard.value();
    guard.release().await.unwrap();
    value
}

async fn is_value(context: &Context, bytes: &[u8]) {
    let value = value(context, &context.manager().await).await;
    assert_eq!(value.as_ref().map(Value::bytes), Some(bytes));
}

/// Leaves a value behind.
async fn leave(lock: &Lock, bytes: &[u8]) {
    let guard = lock.acquire().await.unwrap();
    assert_eq!(guard.set_value(bytes, LONG).await.unwrap(), ValueWrite::Written);
    assert_eq!(guard.release().await.unwrap(), Release::Released);
}

async fn a_value_comes_with_the_grant(context: Context) {
    let writer = context.manager().await;
    leave(&context.lock(&writer), b"done").await;
    let (store, reader) = context.faulty().await;
    let guard = context.lock(&reader).with_value().acquire().await.unwrap();
    assert_eq!(guard.value().unwrap().bytes(), b"done");
    assert_eq!((store.asked(Verb::Enqueue), store.asked(Verb::Renew)), (1, 0), "one request");
    guard.release().await.unwrap();
}

async fn a_value_comes_with_a_lock_that_is_handed_over(context: Context) {
    let [first, second] = context.managers().await;
    let guard = context.lock(&first).acquire().await.unwrap();
    let waiter = context.queued(context.lock(&second).with_value(), 1, 1).await;
    guard.set_value(b"handed over", LONG).await.unwrap();
    guard.release().await.unwrap();
    let next = waiter.await.unwrap().unwrap();
    assert_eq!(next.value().unwrap().bytes(), b"handed over");
    next.release().await.unwrap();
}

async fn a_name_without_a_value_has_none(context: Context) {
    let manager = context.manager().await;
    assert_eq!(value(&context, &manager).await, None);
    leave(&context.lock(&manager), b"").await;
    is_value(&context, b"").await;
}

async fn a_claim_that_does_not_ask_gets_no_value(context: Context) {
    let (manager, backend) = (context.manager().await, context.backend().await);
    leave(&context.lock(&manager), b"done").await;
    let guard = context.lock(&manager).acquire().await.unwrap();
    assert_eq!(guard.value(), None);
    guard.release().await.unwrap();
    let claim = context.claim(1, MUTEX, WaitMode::Wait);
    assert_eq!(granted(backend.enqueue(&claim).await.unwrap()).value, None);
    backend.release(&claim).await.unwrap();
}

async fn a_value_of_any_bytes_is_kept_up_to_1_kib(context: Context) {
    let manager = context.manager().await;
    let all: Vec<u8> = (0..=255).cycle().take(MAX_VALUE_BYTES).collect();
    for bytes in [&all[..], b"", b"\n", b"0", b":", b" a b ", b"\0\xff", b"\r\n$-1\r\n"] {
        leave(&context.lock(&manager), bytes).await;
        is_value(&context, bytes).await;
    }
}

async fn more_than_1_kib_is_refused(context: Context) {
    let (manager, backend) = (context.manager().await, context.backend().await);
    let claim = asking(&context, 1, MUTEX);
    granted(backend.enqueue(&claim).await.unwrap());
    let bytes = [7; MAX_VALUE_BYTES + 1];
    let refused = backend.set_value(&claim, &bytes, LONG).await.unwrap_err();
    assert!(matches!(refused, Error::InvalidOption { .. }), "{refused}");
    backend.release(&claim).await.unwrap();
    let guard = context.lock(&manager).acquire().await.unwrap();
    for (bytes, keep) in [(&bytes[..], LONG), (b"a", Duration::ZERO)] {
        let refused = guard.set_value(bytes, keep).await.unwrap_err();
        assert!(matches!(refused, Error::InvalidOption { .. }), "{refused}");
    }
    guard.release().await.unwrap();
    assert_eq!(value(&context, &manager).await, None);
}

async fn a_value_says_who_wrote_it_and_how_long_ago(context: Context) {
    let manager = context.manager().await;
    let before = Instant::now();
    let guard = context.lock(&manager).acquire().await.unwrap();
    guard.set_value(b"a", LONG).await.unwrap();
    let written = Instant::now();
    let token = guard.fencing_token();
    guard.release().await.unwrap();
    eventually("half a second has passed", async || written.elapsed() >= Duration::from_millis(500)).await;
    let asked = Instant::now();
    let value = value(&context, &manager).await.unwrap();
    let (age, since) = (value.age(), before.elapsed());
    assert_eq!(value.fencing_token(), token);
    // Stores count milliseconds, and a file system may count in ticks of ten of them.
    let little = Duration::from_millis(12);
    assert!(age + little >= asked - written && age <= since + little, "{age:?} of {since:?}");
}

async fn a_guard_knows_what_it_has_written(context: Context) {
    let manager = context.manager().await;
    leave(&context.lock(&manager), b"first").await;
    let guard = context.lock(&manager).with_value().acquire().await.unwrap();
    assert_eq!(guard.value().unwrap().bytes(), b"first");
    guard.set_value(b"second", LONG).await.unwrap();
    let value = guard.value().unwrap();
    assert_eq!((value.bytes(), value.fencing_token()), (&b"second"[..], guard.fencing_token()));
    guard.release().await.unwrap();
    is_value(&context, b"second").await;
}

async fn a_waiter_and_a_stranger_cannot_write(context: Context) {
    let backend = context.backend().await;
    let [holder, waiter, stranger] = [1, 2, 3].map(|number| asking(&context, number, MUTEX));
    granted(backend.enqueue(&holder).await.unwrap());
    written(&*backend, &holder, b"holder").await;
    assert_eq!(backend.enqueue(&waiter).await.unwrap(), ClaimStatus::Waiting);
    for claim in [&waiter, &stranger] {
        assert_eq!(backend.set_value(claim, b"not mine", LONG).await.unwrap(), ValueWrite::NotHeld);
    }
    backend.release(&holder).await.unwrap();
    let grant = until_granted(&*backend, &waiter).await;
    assert_eq!(grant.value.unwrap().bytes(), b"holder");
    written(&*backend, &waiter, b"waiter").await;
    backend.release(&waiter).await.unwrap();
    is_value(&context, b"waiter").await;
}

async fn a_released_holder_cannot_write(context: Context) {
    let backend = context.backend().await;
    let permits = permits(&context);
    let claim = asking(&context, 1, permits);
    granted(backend.enqueue(&claim).await.unwrap());
    written(&*backend, &claim, b"held").await;
    backend.release(&claim).await.unwrap();
    assert_eq!(backend.set_value(&claim, b"released", LONG).await.unwrap(), ValueWrite::NotHeld);
    is_value(&context, b"held").await;
}

fn permits(context: &Context) -> Permits {
    context.kind().parse::<globallock::LockKind>().unwrap().permits().unwrap()
}

async fn an_evicted_holder_cannot_write(context: Context) {
    let [backend, other] = [context.backend().await, context.backend().await];
    let claim = asking(&context, 1, MUTEX);
    granted(backend.enqueue(&claim).await.unwrap());
    let name = Name::new(context.name()).unwrap();
    let entry = other.inspect(&name).await.unwrap().remove(0);
    let eviction = Eviction::new(Owner::default(), "a test");
    assert_eq!(other.evict(&name, &entry.key, &eviction).await.unwrap(), Release::Released);
    assert_eq!(backend.set_value(&claim, b"evicted", LONG).await.unwrap(), ValueWrite::NotHeld);
    backend.release(&claim).await.unwrap();
    assert_eq!(value(&context, &context.manager().await).await, None);
}

async fn a_holder_past_its_max_hold_cannot_write(context: Context) {
    let (manager, backend) = (context.manager().await, context.backend().await);
    let claim = asking(&context, 1, MUTEX).with_max_hold(context.lease() / 4);
    backend.enqueue(&claim).await.unwrap();
    context.until_empty(&manager).await;
    assert_eq!(backend.set_value(&claim, b"late", LONG).await.unwrap(), ValueWrite::NotHeld);
    backend.release(&claim).await.unwrap();
    assert_eq!(value(&context, &manager).await, None);
}

async fn a_holder_that_was_paused_cannot_write_after_the_next_grant(context: Context) {
    let [paused, other] = [context.backend().await, context.backend().await];
    let permits = permits(&context);
    let old = asking(&context, 1, permits).with_max_hold(context.lease() / 2);
    paused.enqueue(&old).await.unwrap();
    let next = asking(&context, 2, permits).with_lease(LONG);
    until_granted(&*other, &next).await;
    written(&*other, &next, b"next").await;
    assert_eq!(paused.set_value(&old, b"paused", LONG).await.unwrap(), ValueWrite::NotHeld);
    other.release(&next).await.unwrap();
    // Nobody holds now, and still it cannot.
    assert_eq!(paused.set_value(&old, b"paused", LONG).await.unwrap(), ValueWrite::NotHeld);
    paused.release(&old).await.unwrap();
    is_value(&context, b"next").await;
}

async fn a_lost_guard_says_that_it_cannot_write(context: Context) {
    let [manager, other] = context.managers().await;
    let guard = context.lock(&manager).acquire().await.unwrap();
    let entry = context.queue(&other).await.remove(0);
    other.evict(context.name(), &entry.key, "a test").await.unwrap();
    let lost = guard.set_value(b"lost", LONG).await.unwrap_err();
    assert!(matches!(&lost, Error::Lost { loss: Loss::Evicted(_) | Loss::Revoked, .. }), "{lost}");
    assert!(!guard.is_held());
    drop(guard);
    assert_eq!(value(&context, &other).await, None);
}

async fn a_lower_token_cannot_overwrite(context: Context) {
    let backend = context.backend().await;
    for permits in [Permits::READ, Permits::new(1, 2)] {
        let [first, second] = [1, 2].map(|n| asking(&context, u64::from(permits.capacity) + n, permits));
        granted(backend.enqueue(&first).await.unwrap());
        written(&*backend, &first, b"first").await;
        granted(backend.enqueue(&second).await.unwrap());
        written(&*backend, &second, b"second").await;
        assert_eq!(backend.set_value(&first, b"again", LONG).await.unwrap(), ValueWrite::Outranked);
        written(&*backend, &second, b"second again").await;
        for claim in [&first, &second] {
            backend.release(claim).await.unwrap();
        }
        is_value(&context, b"second again").await;
    }
}

async fn readers_and_permits_read_the_value(context: Context) {
    let [a, b] = context.managers().await;
    leave(&context.lock(&a), b"for all").await;
    for kind in ["read", "1/2"] {
        let lock = |manager| lock_of(manager, context.name(), kind).unwrap().with_value();
        let first = lock(&a).acquire().await.unwrap();
        let second = lock(&b).try_acquire().await.unwrap().unwrap();
        for guard in [first, second] {
            assert_eq!(guard.value().unwrap().bytes(), b"for all", "{kind}");
            guard.release().await.unwrap();
        }
    }
}

async fn writing_twice_has_the_effect_of_once(context: Context) {
    let (store, manager) = context.faulty().await;
    let guard = context.lock(&manager).acquire().await.unwrap();
    store.next(Verb::SetValue, [Fault::LoseAnswer]);
    assert!(guard.set_value(b"once", LONG).await.unwrap_err().is_unavailable());
    assert_eq!(guard.set_value(b"once", LONG).await.unwrap(), ValueWrite::Written);
    assert_eq!(guard.set_value(b"twice", LONG).await.unwrap(), ValueWrite::Written);
    let token = guard.fencing_token();
    guard.release().await.unwrap();
    let value = value(&context, &manager).await.unwrap();
    assert_eq!((value.bytes(), value.fencing_token()), (&b"twice"[..], token));
}

async fn a_value_survives_the_crash_of_its_writer(context: Context) {
    let manager = context.manager().await;
    let backend = context.backend().await;
    let claim = asking(&context, 1, MUTEX);
    granted(backend.enqueue(&claim).await.unwrap());
    written(&*backend, &claim, b"left behind").await;
    // Its claim ends with its lease, or with its connection.
    drop(backend);
    assert_eq!(value(&context, &manager).await.unwrap().bytes(), b"left behind");
}

async fn a_value_ends_after_its_time_and_not_before(context: Context) {
    let manager = context.manager().await;
    let guard = context.lock(&manager).acquire().await.unwrap();
    let keep = Duration::from_secs(2);
    let before = Instant::now();
    guard.set_value(b"brief", keep).await.unwrap();
    guard.release().await.unwrap();
    loop {
        let asked = Instant::now();
        match value(&context, &manager).await {
            Some(_) => assert!(asked - before < keep * 10, "it ends"),
            None => break assert!(before.elapsed() >= keep - Duration::from_millis(12), "not before"),
        }
    }
}

async fn a_value_is_no_claim_and_no_name(context: Context) {
    let (manager, backend) = (context.manager().await, context.backend().await);
    let name = Name::new(context.name()).unwrap();
    let listed = async || -> Vec<_> { backend.list(context.name()).try_collect().await.unwrap() };
    let guard = context.lock(&manager).acquire().await.unwrap();
    guard.set_value(b"a", LONG).await.unwrap();
    assert_eq!(backend.inspect(&name).await.unwrap().len(), 1);
    let names = listed().await;
    assert!(names.len() == 1 && names[0].name == name, "{names:?}");
    guard.release().await.unwrap();
    assert_eq!(backend.inspect(&name).await.unwrap(), []);
    assert!(listed().await.is_empty(), "{:?}", listed().await);
    is_value(&context, b"a").await;
}

async fn nested_names_have_values_of_their_own(context: Context) {
    let manager = context.manager().await;
    let names = ["", "/b", "/value", "/b/c"].map(|end| format!("{}{end}", context.name()));
    for name in &names {
        leave(&manager.mutex(name), name.as_bytes()).await;
    }
    for name in &names {
        let guard = manager.mutex(name).with_value().acquire().await.unwrap();
        assert_eq!(guard.value().unwrap().bytes(), name.as_bytes());
        guard.release().await.unwrap();
        assert!(manager.inspect(name).await.unwrap().is_empty());
    }
}

async fn an_ended_value_leaves_nothing(context: Context) {
    let manager = context.manager().await;
    let guard = context.lock(&manager).acquire().await.unwrap();
    guard.set_value(b"brief", Duration::from_millis(50)).await.unwrap();
    guard.release().await.unwrap();
    manager.close().await;
    let residue = Arc::clone(context.store().residue.as_ref().unwrap());
    let (name, onlooker) = (Name::new(context.name()).unwrap(), context.backend().await);
    eventually("nothing is left", async || {
        // In stores that delete nothing by themselves, whoever lists the names does.
        let _: Vec<_> = onlooker.list(context.name()).try_collect().await.unwrap();
        residue(name.clone()).await.is_empty()
    })
    .await;
}
