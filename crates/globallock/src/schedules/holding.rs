//! One claim that its owner, the renewer and the store change at the same time: every order of their steps.

use std::sync::Arc;
use std::time::Duration;

use shuttle::future::block_on;
use shuttle::thread::spawn;

use super::{search, search_all};
use crate::backend::{Claim, ClaimId, Grant, WaitMode};
use crate::hold::{Hold, Phase};
use crate::loss::Loss;
use crate::name::Name;
use crate::queue::Permits;
use crate::sync::{now, pass};

const LEASE: Duration = Duration::from_secs(10);

fn hold() -> Arc<Hold> {
    Hold::unobserved(Claim {
        id: ClaimId::new(1, 1),
        name: Name::new("name").unwrap(),
        permits: Permits::MUTEX,
        wait_mode: WaitMode::Wait,
        lease: LEASE,
        max_hold: None,
        owner: "".into(),
        wants_value: false,
    })
}

fn grant() -> Grant {
    Grant { fencing_token: 1, expires: Some(now() + LEASE), lease: None, hold_ends: None, value: None }
}

fn held() -> Arc<Hold> {
    let hold = hold();
    assert!(hold.confirm(&grant(), now()));
    hold
}

#[test]
fn a_claim_ends_once() {
    let schedules = search_all(|| {
        let hold = held();
        let revoked = Arc::clone(&hold);
        let revoked = spawn(move || revoked.lose(Loss::Revoked, now()));
        let released = hold.finish(now());
        let revoked = revoked.join().unwrap();
        assert_eq!(released == Phase::Held, !revoked, "{released:?}");
        assert_eq!(hold.phase(), if revoked { Phase::Lost(Loss::Revoked) } else { Phase::Released });
    });
    assert!(schedules > 10, "{schedules}");
}

#[test]
fn the_end_of_a_claim_wakes_its_watcher() {
    let schedules = search_all(|| {
        let hold = held();
        let watched = Arc::clone(&hold);
        let watched = spawn(move || block_on(watched.ended()));
        assert!(hold.lose(Loss::Revoked, now()));
        assert_eq!(watched.join().unwrap(), Some(Loss::Revoked));
    });
    assert!(schedules > 10, "{schedules}");
}

#[test]
fn a_recheck_hides_no_grant() {
    let schedules = search_all(|| {
        let hold = hold();
        let granted = Arc::clone(&hold);
        let granted = spawn(move || {
            granted.recheck();
            assert!(granted.confirm(&grant(), now()));
        });
        // Woken for the recheck at most once, and then for the grant.
        let rechecks = (0..).take_while(|_| !block_on(hold.granted())).count();
        assert!(rechecks <= 1);
        granted.join().unwrap();
    });
    assert!(schedules > 10, "{schedules}");
}

#[test]
fn every_kind_of_end_wakes_its_watcher_at_once() {
    search(|| {
        let hold = held();
        let [released, revoked, watched] = [(); 3].map(|()| Arc::clone(&hold));
        let released = spawn(move || released.finish(now()));
        let revoked = spawn(move || revoked.lose(Loss::Revoked, now()));
        let watched = spawn(move || block_on(watched.ended()));
        let released = released.join().unwrap();
        let expected = if released == Phase::Held { None } else { Some(Loss::Revoked) };
        assert_eq!(revoked.join().unwrap(), expected.is_some());
        assert_eq!(watched.join().unwrap(), expected);
    });
}

#[test]
fn a_claim_that_was_not_held_at_its_deadline_is_never_held_again() {
    let schedules = search_all(|| {
        let hold = held();
        let late = grant();
        let renewed = Arc::clone(&hold);
        let renewed = spawn(move || {
            pass(LEASE);
            renewed.confirm(&Grant { expires: Some(now() + LEASE), ..late }, now())
        });
        let seen = [hold.is_held(), hold.is_held()];
        renewed.join().unwrap();
        assert!(seen[0] || !seen[1], "it is held again");
    });
    assert!(schedules > 10, "{schedules}");
}
