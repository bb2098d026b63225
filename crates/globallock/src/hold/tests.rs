use super::*;
use crate::backend::{ClaimId, Eviction, WaitMode};
use crate::name::Name;
use crate::owner::Owner;
use crate::queue::Permits;

const LEASE: Duration = Duration::from_secs(10);

fn waiting() -> Arc<Hold> {
    waiting_for(None)
}

fn waiting_for(max_hold: Option<Duration>) -> Arc<Hold> {
    Hold::unobserved(Claim {
        id: ClaimId::new(1, 1),
        name: Name::new("a").unwrap(),
        permits: Permits::MUTEX,
        wait_mode: WaitMode::Wait,
        lease: LEASE,
        max_hold,
        owner: "".into(),
        wants_value: false,
    })
}

fn held(fencing_token: u64) -> ClaimStatus {
    ClaimStatus::Held(Grant {
        fencing_token,
        expires: Some(now() + LEASE),
        lease: None,
        hold_ends: None,
        value: None,
    })
}

fn holding(fencing_token: u64) -> Arc<Hold> {
    let hold = waiting();
    assert_eq!(hold.hear(held(fencing_token), false, now()), Heard::Noted);
    assert_eq!(hold.phase(), Phase::Held);
    hold
}

#[test]
fn an_answer_to_a_question_from_before_the_grant_says_nothing_of_it() {
    for answer in [ClaimStatus::Waiting, ClaimStatus::Gone] {
        let hold = holding(7);
        assert_eq!(hold.hear(answer.clone(), false, now()), Heard::Old);
        assert!(hold.is_held());
        assert_eq!(hold.hear(answer.clone(), true, now()), Heard::Lost);
        assert_eq!(hold.phase(), Phase::Lost(Loss::Revoked));
        assert_eq!(hold.hear(answer, true, now()), Heard::Noted, "a loss is told once");
    }
}

#[test]
fn a_claim_that_is_gone_at_the_end_of_its_time_was_lost_for_that_reason() {
    let ends = now() + LEASE / 2;
    for (hold_ends, loss) in [(Some(ends), Loss::MaxHold), (None, Loss::Expired)] {
        let hold = waiting_for(hold_ends.map(|_| LEASE / 2));
        let grant = Grant { fencing_token: 7, expires: Some(ends), lease: None, hold_ends, value: None };
        assert_eq!(hold.hear(ClaimStatus::Held(grant), false, now()), Heard::Noted);
        assert_eq!(hold.hear(ClaimStatus::Gone, true, ends), Heard::Lost);
        assert_eq!(hold.phase(), Phase::Lost(loss));
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_not_held_at_the_very_end_of_its_time() {
    for (longest, ends) in [(None, LEASE), (Some(LEASE / 2), LEASE / 2)] {
        let hold = waiting_for(longest);
        let hold_ends = longest.map(|longest| now() + longest);
        let grant =
            Grant { fencing_token: 7, expires: Some(now() + LEASE), lease: None, hold_ends, value: None };
        assert_eq!(hold.hear(ClaimStatus::Held(grant), false, now()), Heard::Noted);
        let end = {
            let state = hold.state();
            state.lease_ends.into_iter().chain(state.hold_ends).min().unwrap()
        };
        assert!(end <= now() + ends);
        tokio::time::advance(end - now() - Duration::from_nanos(1)).await;
        assert!(hold.is_held());
        tokio::time::advance(Duration::from_nanos(1)).await;
        assert_eq!(now(), end);
        assert!(!hold.is_held(), "somebody else may hold it from now on");
    }
}

#[test]
fn the_answer_about_an_earlier_grant_changes_nothing() {
    let hold = holding(7);
    let ends = hold.ends();
    assert_eq!(hold.hear(held(6), true, now() + Duration::from_secs(1)), Heard::Old);
    assert_eq!((hold.fencing_token(), hold.ends()), (7, ends));
    assert!(!hold.confirm(
        &Grant { fencing_token: 6, expires: None, lease: None, hold_ends: None, value: None },
        now()
    ));
    assert_eq!((hold.fencing_token(), hold.ends()), (7, ends));
}

#[test]
fn a_claim_that_was_granted_again_behind_its_owners_back_was_lost_in_between() {
    let hold = holding(7);
    assert_eq!(hold.hear(held(8), true, now()), Heard::Lost);
    assert_eq!((hold.fencing_token(), hold.phase()), (7, Phase::Lost(Loss::Revoked)));
}

#[test]
fn a_renewal_is_confirmed_by_an_answer_about_the_same_grant() {
    let hold = holding(7);
    let later = Grant {
        fencing_token: 7,
        expires: Some(now() + LEASE * 2),
        lease: None,
        hold_ends: None,
        value: None,
    };
    let ends = hold.ends();
    assert_eq!(hold.hear(ClaimStatus::Held(later), true, now()), Heard::Noted);
    assert!(hold.ends() > ends);
}

#[tokio::test]
async fn a_waiting_claim_that_is_gone_has_its_owner_ask_again() {
    let evicted = ClaimStatus::Evicted(Arc::new(Eviction::new(Owner::default(), "")));
    for answer in [ClaimStatus::Gone, held(7), evicted] {
        let hold = waiting();
        // The grant is so old that nothing is left of it.
        assert_eq!(hold.hear(answer, false, now() + LEASE), Heard::Noted);
        assert_eq!(hold.phase(), Phase::Waiting);
        assert!(!hold.granted().await);
    }
    let hold = waiting();
    assert_eq!(hold.hear(ClaimStatus::Waiting, false, now()), Heard::Noted);
    assert!(futures_util::FutureExt::now_or_never(hold.granted()).is_none());
}

#[tokio::test]
async fn a_renewal_that_grants_without_the_value_has_its_owner_ask_again() {
    let claim = waiting().claim.as_ref().clone().with_value();
    let hold = Hold::unobserved(claim);
    assert_eq!(hold.hear(held(7), false, now()), Heard::Noted);
    assert_eq!(hold.phase(), Phase::Waiting);
    assert!(!hold.granted().await);
    let value = Value::new(*b"a", 6, Duration::ZERO);
    assert!(hold.confirm(&Grant::new(7).with_value(value.clone()), now()));
    // The renewals that follow know no value, and take none away.
    assert_eq!(hold.hear(held(7), true, now()), Heard::Noted);
    assert_eq!(hold.value(), Some(value));
}
