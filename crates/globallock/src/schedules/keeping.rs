//! One claim between its owner, the renewer and whoever takes it away: every order of their steps.

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
    Hold::new(Claim {
        id: ClaimId::new(1, 1),
        name: Name::new("name").unwrap(),
        permits: Permits { count: 1, capacity: 1 },
        wait_mode: WaitMode::Wait,
        lease: LEASE,
        max_hold: None,
        owner: "".into(),
    })
}

fn grant() -> Grant {
    Grant { fencing_token: 1, expires: Some(now() + LEASE), hold_ends: None }
}

fn held() -> Arc<Hold> {
    let hold = hold();
    assert!(hold.confirm(grant(), now()));
    hold
}

#[test]
fn a_claim_ends_once() {
    let schedules = search_all(|| {
        let hold = held();
        let revoked = Arc::clone(&hold);
        let revoked = spawn(move || revoked.lose(Loss::Revoked));
        let released = hold.finish(now());
        let revoked = revoked.join().unwrap();
        assert_eq!(released == Phase::Held, !revoked, "{released:?}");
        assert_eq!(hold.phase(), if revoked { Phase::Lost(Loss::Revoked) } else { Phase::Left });
    });
    assert!(schedules > 10, "{schedules}");
}

#[test]
fn the_end_of_a_claim_is_told_to_who_watches_it() {
    let schedules = search_all(|| {
        let hold = held();
        let watched = Arc::clone(&hold);
        let watched = spawn(move || block_on(watched.ended()));
        assert!(hold.lose(Loss::Revoked));
        assert_eq!(watched.join().unwrap(), Some(Loss::Revoked));
    });
    assert!(schedules > 10, "{schedules}");
}

#[test]
fn a_grant_is_seen_beside_a_wish_to_ask_again() {
    let schedules = search_all(|| {
        let hold = hold();
        let granted = Arc::clone(&hold);
        let granted = spawn(move || {
            granted.recheck();
            assert!(granted.confirm(grant(), now()));
        });
        // Inbox to ask again at most once, and then granted.
        let asked = (0..).take_while(|_| !block_on(hold.granted())).count();
        assert!(asked <= 1);
        granted.join().unwrap();
    });
    assert!(schedules > 10, "{schedules}");
}

#[test]
fn every_sort_of_end_reaches_its_watcher_at_once() {
    search(|| {
        let hold = held();
        let [released, revoked, watched] = [(); 3].map(|()| Arc::clone(&hold));
        let released = spawn(move || released.finish(now()));
        let revoked = spawn(move || revoked.lose(Loss::Revoked));
        let watched = spawn(move || block_on(watched.ended()));
        let released = released.join().unwrap();
        let expected = if released == Phase::Held { None } else { Some(Loss::Revoked) };
        assert_eq!(revoked.join().unwrap(), expected.is_some());
        assert_eq!(watched.join().unwrap(), expected);
    });
}

#[test]
fn what_is_not_held_at_its_deadline_is_never_held_again() {
    let schedules = search_all(|| {
        let hold = held();
        let late = grant();
        let renewed = Arc::clone(&hold);
        let renewed = spawn(move || {
            pass(LEASE);
            renewed.confirm(Grant { expires: Some(now() + LEASE), ..late }, now())
        });
        let looks = [hold.is_held(), hold.is_held()];
        renewed.join().unwrap();
        assert!(looks[0] || !looks[1], "held, though it had not been");
    });
    assert!(schedules > 10, "{schedules}");
}
