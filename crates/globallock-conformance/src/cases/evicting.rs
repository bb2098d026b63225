//! `evict` takes out the very claim that an onlooker saw, and its owner is told who did it and why.

use std::time::Duration;

use globallock::backend::{ClaimId, ClaimStatus, WaitMode};
use globallock::queue::Permits;
use globallock::{Entry, EntryKey, Error, Eviction, Guard, LockManager, Loss, Name, Owner, Release};

use super::contract::settled;
use super::{Case, Need, case};
use crate::context::{Context, eventually, lock_of};
use crate::faulty::{Fault, Verb};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("evicting", an_evicted_holder_is_told_who_did_it_and_why).over_kinds(),
        case!("evicting", an_evicted_holder_that_can_be_reached_is_told_long_before_its_renewal),
        case!("evicting", an_evicted_waiter_is_told_and_joins_no_more).over_kinds(),
        case!("evicting", the_next_waiter_is_let_in_with_a_higher_token).over_kinds(),
        case!("evicting", a_second_eviction_of_the_same_claim_finds_it_gone),
        case!("evicting", the_next_holder_is_never_hit),
        case!("evicting", a_claim_that_was_seen_waiting_is_evicted_though_it_holds_now),
        case!("evicting", one_of_several_holders_is_evicted_and_the_others_stay),
        case!("evicting", of_two_operators_at_once_one_evicts_the_claim_and_its_owner_is_told_by_whom)
            .over_kinds(),
        case!("evicting", a_claim_that_is_released_meanwhile_is_evicted_or_released_and_the_next_is_not_hit)
            .over_kinds(),
        case!("evicting", a_waiter_that_is_granted_meanwhile_is_evicted_once),
        case!("evicting", the_owner_of_an_evicted_claim_is_told_by_every_answer),
        case!("evicting", an_eviction_whose_answer_is_lost_is_repeated),
        case!("evicting", what_is_no_key_of_a_claim_evicts_nothing),
        case!("evicting", nothing_is_left_of_evicted_claims).needs(Need::Residue),
    ]
}

/// How often what may happen at the same time is tried.
const ROUNDS: u32 = 5;
/// By how much one of the two is later than the other, at most twice.
const STEP: Duration = Duration::from_millis(1);

fn told(loss: &Loss) -> (Option<&str>, &str) {
    match loss {
        Loss::Evicted(eviction) => (eviction.by.label.as_deref(), &eviction.reason),
        other => panic!("lost, because {other}"),
    }
}

async fn seen(context: &Context, manager: &LockManager, nth: usize) -> Entry {
    context.queue(manager).await.swap_remove(nth)
}

async fn is_held(guard: &Guard) -> bool {
    guard.renew().await.unwrap() && guard.is_held()
}

async fn an_evicted_holder_is_told_who_did_it_and_why(context: Context) {
    let [owner, other] = context.managers().await;
    let guard = context.lock(&owner).acquire().await.unwrap();
    let key = seen(&context, &other, 0).await.key;
    let reason = "it hangs since \"noon\"\n☃";
    assert_eq!(other.evict(context.name(), &key, reason).await.unwrap(), Release::Released);
    assert_eq!(told(&guard.lost().await), (Some("case"), reason));
    assert!(!guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Release::NotHeld);
    context.until_empty(&other).await;
    // The owner may ask again: only that one acquisition was ended.
    context.lock(&owner).acquire().await.unwrap().release().await.unwrap();
}

async fn an_evicted_holder_that_can_be_reached_is_told_long_before_its_renewal(context: Context) {
    let [owner, other] = context.managers().await;
    let options = context.options().lease(Duration::from_secs(90));
    let guard = context.lock(&owner).with_options(options).acquire().await.unwrap();
    let key = seen(&context, &other, 0).await.key;
    assert_eq!(other.evict(context.name(), &key, "").await.unwrap(), Release::Released);
    let loss = tokio::time::timeout(Duration::from_secs(15), guard.lost()).await;
    assert_eq!(told(&loss.expect("its renewal is due only after 30 s")), (Some("case"), ""));
}

async fn an_evicted_waiter_is_told_and_joins_no_more(context: Context) {
    let [holder, waiter, other] = context.managers().await;
    let guard = context.lock(&holder).acquire().await.unwrap();
    let waiting = context.queued(context.lock(&waiter), 1, 1).await;
    let key = seen(&context, &other, 1).await.key;
    assert_eq!(other.evict(context.name(), &key, "no").await.unwrap(), Release::Released);
    let refused = waiting.await.unwrap().expect_err("it was evicted");
    let Error::Evicted { name, eviction, .. } = &refused else { panic!("{refused:?}") };
    assert!(name.contains(context.name()), "{name}");
    assert_eq!((eviction.by.label.as_deref(), eviction.reason.as_str()), (Some("case"), "no"));
    context.until(&other, 1, 0).await;
    assert!(is_held(&guard).await);
    guard.release().await.unwrap();
    context.until_empty(&other).await;
}

async fn the_next_waiter_is_let_in_with_a_higher_token(context: Context) {
    let [holder, waiter, other] = context.managers().await;
    let guard = context.lock(&holder).acquire().await.unwrap();
    let waiting = context.queued(context.lock(&waiter), 1, 1).await;
    let key = seen(&context, &other, 0).await.key;
    assert_eq!(other.evict(context.name(), &key, "").await.unwrap(), Release::Released);
    let next = waiting.await.unwrap().unwrap();
    assert!(next.fencing_token() > guard.fencing_token());
    assert_eq!(told(&guard.lost().await).0, Some("case"));
    drop(guard);
    assert!(is_held(&next).await);
    next.release().await.unwrap();
}

async fn a_second_eviction_of_the_same_claim_finds_it_gone(context: Context) {
    let [owner, other] = context.managers().await;
    let guard = context.lock(&owner).acquire().await.unwrap();
    let key = seen(&context, &other, 0).await.key;
    for expected in [Release::Released, Release::NotHeld] {
        assert_eq!(other.evict(context.name(), &key, "").await.unwrap(), expected);
    }
    let _ = guard.lost().await;
    assert_eq!(other.evict(context.name(), &key, "").await.unwrap(), Release::NotHeld);
}

async fn the_next_holder_is_never_hit(context: Context) {
    let [owner, other] = context.managers().await;
    for again in [&owner, &other] {
        let guard = context.lock(&owner).acquire().await.unwrap();
        let key = seen(&context, &other, 0).await.key;
        guard.release().await.unwrap();
        let next = context.lock(again).acquire().await.unwrap();
        assert_eq!(other.evict(context.name(), &key, "").await.unwrap(), Release::NotHeld);
        assert!(is_held(&next).await);
        next.release().await.unwrap();
    }
}

async fn a_claim_that_was_seen_waiting_is_evicted_though_it_holds_now(context: Context) {
    let [holder, waiter, other] = context.managers().await;
    let guard = context.lock(&holder).acquire().await.unwrap();
    let waiting = context.queued(context.lock(&waiter), 1, 1).await;
    let key = seen(&context, &other, 1).await.key;
    guard.release().await.unwrap();
    let next = waiting.await.unwrap().unwrap();
    assert_eq!(other.evict(context.name(), &key, "late").await.unwrap(), Release::Released);
    assert_eq!(told(&next.lost().await), (Some("case"), "late"));
}

async fn one_of_several_holders_is_evicted_and_the_others_stay(context: Context) {
    for kind in ["read", "1/3"] {
        let [first, second, third, other] = context.managers().await;
        let lock = |manager| lock_of(manager, context.name(), kind).unwrap().with_options(context.options());
        let held = [
            lock(&first).acquire().await.unwrap(),
            lock(&second).acquire().await.unwrap(),
            lock(&third).acquire().await.unwrap(),
        ];
        let queue = context.queue(&other).await;
        let middle = queue.iter().find(|entry| entry.fencing_token == held[1].fencing_token()).unwrap();
        assert_eq!(other.evict(context.name(), &middle.key, "").await.unwrap(), Release::Released);
        assert_eq!(told(&held[1].lost().await).0, Some("case"));
        context.until(&other, 2, 0).await;
        for guard in [&held[0], &held[2]] {
            assert!(is_held(guard).await, "{kind}");
        }
        for guard in held {
            let _ = guard.release().await.unwrap();
        }
        context.until_empty(&other).await;
    }
}

/// Two evictions of the same claim at the same time: what both were answered, with the reason of the one that
/// took the claim out.
async fn evicted_by_two(context: &Context, operators: [&LockManager; 2], nth: usize) -> &'static str {
    let key = seen(context, operators[0], nth).await.key;
    let reasons = ["the first one", "the second one"];
    let evict = |at: usize| operators[at].evict(context.name(), &key, reasons[at]);
    let (first, second) = tokio::join!(evict(0), evict(1));
    match (first.unwrap(), second.unwrap()) {
        (Release::Released, Release::NotHeld) => reasons[0],
        (Release::NotHeld, Release::Released) => reasons[1],
        both => panic!("exactly one evicts it: {both:?}"),
    }
}

async fn of_two_operators_at_once_one_evicts_the_claim_and_its_owner_is_told_by_whom(context: Context) {
    let [holder, waiter, first, second] = context.managers().await;
    for round in 0..ROUNDS {
        let operators = if round % 2 == 0 { [&first, &second] } else { [&second, &first] };
        let guard = context.lock(&holder).acquire().await.unwrap();
        let waiting = context.queued(context.lock(&waiter), 1, 1).await;
        let reason = evicted_by_two(&context, operators, 1).await;
        match waiting.await.unwrap() {
            Err(Error::Evicted { eviction, .. }) => assert_eq!(eviction.reason, reason),
            other => panic!("{other:?}"),
        }
        assert!(is_held(&guard).await, "it was not hit");
        let reason = evicted_by_two(&context, operators, 0).await;
        assert_eq!(told(&guard.lost().await), (Some("case"), reason));
        assert_eq!(guard.release().await.unwrap(), Release::NotHeld);
    }
    context.until_empty(&first).await;
}

/// What a claim's eviction and the release of the lock say that are begun at about the same moment: one or
/// the other a little earlier, by the round.
async fn evicted_and_released(
    context: &Context,
    (operator, key): (&LockManager, &EntryKey),
    guard: Guard,
    round: u32,
) -> (Release, Release) {
    let evict = async {
        tokio::time::sleep(STEP * (round % 3)).await;
        operator.evict(context.name(), key, "late").await.unwrap()
    };
    let release = async {
        tokio::time::sleep(STEP * (round / 3 % 3)).await;
        guard.release().await.unwrap()
    };
    tokio::join!(evict, release)
}

async fn a_claim_that_is_released_meanwhile_is_evicted_or_released_and_the_next_is_not_hit(context: Context) {
    let [holder, waiter, operator] = context.managers().await;
    let mut evicted = 0;
    for round in 0..ROUNDS * 3 {
        let guard = context.lock(&holder).acquire().await.unwrap();
        let next = context.lock(&waiter);
        let waiting = tokio::spawn(async move { next.acquire().await });
        context.until(&operator, 1, 1).await;
        let key = seen(&context, &operator, 0).await.key;
        let outcome = evicted_and_released(&context, (&operator, &key), guard, round).await;
        let exactly_one = [(Release::Released, Release::NotHeld), (Release::NotHeld, Release::Released)];
        assert!(exactly_one.contains(&outcome), "{outcome:?}");
        evicted += u32::from(outcome.0 == Release::Released);
        let next = waiting.await.unwrap().expect("it was not evicted");
        assert!(is_held(&next).await, "the next holder is not hit");
        assert_eq!(operator.evict(context.name(), &key, "later").await.unwrap(), Release::NotHeld);
        assert!(is_held(&next).await, "the next holder is not hit later");
        assert_eq!(next.release().await.unwrap(), Release::Released);
    }
    println!("{evicted} of {} were evicted, the others released", ROUNDS * 3);
}

async fn a_waiter_that_is_granted_meanwhile_is_evicted_once(context: Context) {
    let [holder, waiter, operator] = context.managers().await;
    let mut held = 0;
    for round in 0..ROUNDS * 3 {
        let guard = context.lock(&holder).acquire().await.unwrap();
        let waiting = context.queued(context.lock(&waiter), 1, 1).await;
        let key = seen(&context, &operator, 1).await.key;
        // The waiter stays until it is evicted, whether it is granted the lock before that or not.
        let outcome = evicted_and_released(&context, (&operator, &key), guard, round).await;
        assert_eq!(outcome, (Release::Released, Release::Released));
        match waiting.await.unwrap() {
            Ok(granted) => {
                held += 1;
                assert_eq!(told(&granted.lost().await), (Some("case"), "late"));
                assert_eq!(granted.release().await.unwrap(), Release::NotHeld);
            }
            Err(Error::Evicted { eviction, .. }) => assert_eq!(eviction.reason, "late"),
            Err(other) => panic!("{other:?}"),
        }
        context.until_empty(&operator).await;
    }
    println!("{held} of {} were granted and then evicted", ROUNDS * 3);
}

async fn the_owner_of_an_evicted_claim_is_told_by_every_answer(context: Context) {
    let [owner, other] = [context.backend().await, context.backend().await];
    let name = Name::new(context.name()).unwrap();
    let eviction = Eviction::new(Owner::default().with_label("somebody"), "because");
    let is_told = |status: &ClaimStatus| matches!(status, ClaimStatus::Evicted(by) if **by == eviction);
    let claim =
        |number| context.claim(number, Permits::MUTEX, WaitMode::Wait).with_lease(Duration::from_secs(60));
    let (holder, waiter) = (claim(1), claim(2));
    assert!(matches!(owner.enqueue(&holder).await.unwrap(), ClaimStatus::Held(_)));
    assert_eq!(owner.enqueue(&waiter).await.unwrap(), ClaimStatus::Waiting);
    for nth in [1, 0] {
        let entry = other.inspect(&name).await.unwrap().swap_remove(nth);
        assert_eq!(other.evict(&name, &entry.key, &eviction).await.unwrap(), Release::Released);
    }
    assert!(is_told(&settled(owner.as_ref(), &waiter).await));
    for claim in [&holder, &waiter] {
        let renewed = owner.renew(&[claim.clone().into()]).await.remove(0).unwrap();
        assert!(is_told(&renewed), "{renewed:?}");
        let asked = owner.enqueue(claim).await.unwrap();
        assert!(is_told(&asked), "{asked:?}");
        assert_eq!(owner.release(claim).await.unwrap(), Release::NotHeld);
    }
    assert!(other.inspect(&name).await.unwrap().is_empty());
}

async fn an_eviction_whose_answer_is_lost_is_repeated(context: Context) {
    let owner = context.manager().await;
    let (faulty, other) = context.faulty().await;
    let guard = context.lock(&owner).acquire().await.unwrap();
    let key = seen(&context, &owner, 0).await.key;
    // The first request does not arrive, the answer to the second is lost, and the third finds nothing more.
    faulty.next(Verb::Evict, [Fault::Refuse, Fault::LoseAnswer]);
    for _ in 0..2 {
        assert_eq!(other.evict(context.name(), &key, "").await.unwrap(), Release::NotHeld);
    }
    assert_eq!(told(&guard.lost().await).0, Some("case"));
}

async fn what_is_no_key_of_a_claim_evicts_nothing(context: Context) {
    let [owner, other] = context.managers().await;
    let unknown = ClaimId::new(0, 0).to_string();
    let texts = ["", "x", "../../etc/passwd", "foreign", "a b\nc", "0-0", &unknown];
    let none = || async {
        for text in texts {
            let found = other.evict(context.name(), &EntryKey::new(text), "").await.unwrap();
            assert_eq!(found, Release::NotHeld, "{text:?}");
        }
    };
    none().await;
    let guard = context.lock(&owner).acquire().await.unwrap();
    none().await;
    assert!(is_held(&guard).await);
    let key = seen(&context, &other, 0).await.key;
    assert_eq!(EntryKey::new(key.as_str()), key);
    let elsewhere = format!("{}-other", context.name());
    assert_eq!(other.evict(&elsewhere, &key, "").await.unwrap(), Release::NotHeld);
    assert!(matches!(other.evict("", &key, "").await, Err(Error::InvalidName { .. })));
    assert!(is_held(&guard).await);
    guard.release().await.unwrap();
}

async fn nothing_is_left_of_evicted_claims(context: Context) {
    let [holder, waiter, other] = context.managers().await;
    let guard = context.lock(&holder).acquire().await.unwrap();
    let waiting = context.queued(context.lock(&waiter), 1, 1).await;
    for nth in [1, 0] {
        let key = seen(&context, &other, nth).await.key;
        other.evict(context.name(), &key, "").await.unwrap();
    }
    assert!(waiting.await.unwrap().is_err());
    let _ = guard.lost().await;
    drop(guard);
    holder.close().await;
    let residue = context.store().residue.clone().expect("the case needs it");
    let name = Name::new(context.name()).unwrap();
    eventually("nothing is left", async || residue(name.clone()).await.is_empty()).await;
}
