//! Renewals: as often as promised, in shared requests, and more often after a failure.

use super::{
    Fault, Fixture, LEASE, MILLISECOND, SECOND, Verb, about, in_virtual_time, options, pauses, since, sleep,
};
use crate::backend::ClaimStatus;
use crate::deadline::margin;
use crate::guard::Guard;
use crate::loss::Loss;
use crate::options::Options;
use crate::sync::now;

#[test]
fn a_held_lock_is_renewed_three_times_per_lease() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().acquire().await.unwrap();
        sleep(LEASE * 10).await;
        assert!(guard.is_held());
        let requests = fixture.store.requests(Verb::Renew);
        assert!((30..=31).contains(&requests.len()), "{}", requests.len());
        let third = LEASE / 3;
        assert!(
            pauses(&requests).iter().all(|pause| *pause <= third && *pause >= third * 98 / 100),
            "{:?}",
            pauses(&requests)
        );
    });
}

#[test]
fn a_lock_is_renewed_in_time_however_soon_it_follows_the_last_one() {
    in_virtual_time(async {
        for lease in [LEASE, SECOND, SECOND * 3 / 10] {
            for pause in [0, 1, 50, 249, 250, 251, 400] {
                let fixture = Fixture::new();
                let lock = fixture.owner.mutex("a").lease(lease);
                lock.acquire().await.unwrap().release().await.unwrap();
                sleep(MILLISECOND * pause).await;
                let guard = lock.acquire().await.unwrap();
                let granted = now();
                sleep(lease * 2).await;
                let renewed = fixture.store.requests(Verb::Renew)[0].duration_since(granted);
                assert!(renewed <= lease / 3, "{lease:?}, {pause} ms: {renewed:?}");
                assert!(guard.is_held());
            }
        }
    });
}

#[test]
fn a_waiting_claim_is_renewed_three_times_per_lease_and_outlives_it() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (held, waiter) = fixture.waiting(fixture.mutex()).await;
        sleep(LEASE * 10).await;
        let requests = fixture.store.requests(Verb::Renew);
        assert!((28..=31).contains(&requests.len()), "{}", requests.len());
        assert_eq!(fixture.claims().await.len(), 2);
        assert_eq!(fixture.store.requests(Verb::Enqueue).len(), 1);
        held.release().await.unwrap();
        assert!(waiter.await.unwrap().unwrap().is_held());
    });
}

#[test]
fn renewals_that_fail_are_tried_again_until_the_deadline_at_a_bounded_rate() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().acquire().await.unwrap();
        fixture.store.always(Verb::Renew, Fault::Refuse);
        let begin = now();
        assert_eq!(guard.lost().await, Loss::Expired);
        let requests = fixture.store.requests(Verb::Renew);
        let pauses = pauses(&requests);
        assert!(
            pauses.iter().all(|pause| *pause >= MILLISECOND * 10 && *pause <= SECOND + MILLISECOND),
            "{pauses:?}"
        );
        assert!(requests.len() >= 40 && requests.len() < 100, "{}", requests.len());
        // The attempts go on up to the deadline, more often near it.
        assert!(requests.last().unwrap().duration_since(begin) >= LEASE - margin(LEASE) - SECOND / 10);
        assert!(about(since(begin), LEASE - margin(LEASE)), "{:?}", since(begin));
    });
}

#[test]
fn a_lock_survives_an_outage_that_is_shorter_than_the_rest_of_its_lease() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().acquire().await.unwrap();
        // The outage lasts from before the first renewal until a second before the deadline.
        fixture.store.always(Verb::Renew, Fault::Refuse);
        sleep(LEASE - margin(LEASE) - SECOND).await;
        assert!(guard.is_held());
        fixture.store.always(Verb::Renew, Fault::None);
        sleep(LEASE).await;
        assert!(guard.is_held());
    });
}

#[test]
fn claims_due_within_ten_milliseconds_are_renewed_in_one_request() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let mut guards = Vec::new();
        for number in 0..5 {
            guards.push(fixture.owner.mutex(format!("a{number}")).acquire().await.unwrap());
            sleep(MILLISECOND * 2).await;
        }
        sleep(SECOND).await;
        guards.push(fixture.owner.mutex("late").acquire().await.unwrap());
        sleep(LEASE / 2).await;
        assert_eq!(fixture.store.batches(), [5, 1]);
        assert!(guards.iter().all(Guard::is_held));
    });
}

#[test]
fn many_claims_are_renewed_in_full_requests_of_which_few_are_in_flight() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let mut guards = Vec::new();
        for number in 0..256 * 10 + 1 {
            guards.push(fixture.owner.mutex(format!("a{number}")).acquire().await.unwrap());
        }
        fixture.store.always(Verb::Renew, Fault::Late(SECOND));
        sleep(LEASE / 2).await;
        let batches = fixture.store.batches();
        assert_eq!(batches.iter().sum::<usize>(), guards.len(), "{batches:?}");
        assert_eq!(batches.iter().max(), Some(&256), "{batches:?}");
        assert_eq!((batches.len(), fixture.store.most_renewing()), (11, 8));
        // The rest is sent when requests in flight are answered.
        let requests = fixture.store.requests(Verb::Renew);
        assert!(about(requests[10].duration_since(requests[0]), SECOND), "{:?}", pauses(&requests));
    });
}

#[test]
fn a_shorter_lease_is_renewed_at_its_own_rate() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let _long = fixture.owner.mutex("long").acquire().await.unwrap();
        sleep(MILLISECOND).await;
        let short = fixture.mutex().with_options(Options { lease: SECOND * 3, ..options() });
        let short = short.acquire().await.unwrap();
        sleep(SECOND * 10).await;
        assert!(short.is_held());
        assert!((10..=11).contains(&fixture.store.batches().len()), "{:?}", fixture.store.batches());
    });
}

#[test]
fn a_hint_of_a_lost_session_renews_all_claims_at_once() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().acquire().await.unwrap();
        let other = fixture.owner.mutex("b").acquire().await.unwrap();
        sleep(SECOND).await;
        fixture.store.next(Verb::Renew, [Fault::Answer(ClaimStatus::Gone)]);
        let begin = now();
        fixture.store.session_lost.notify_one();
        assert_eq!(guard.lost().await, Loss::Revoked);
        assert_eq!(other.lost().await, Loss::Revoked);
        assert!(since(begin) <= MILLISECOND, "{:?}", since(begin));
        // The next hint has the same effect.
        let guard = fixture.mutex().acquire().await.unwrap();
        fixture.store.next(Verb::Renew, [Fault::Answer(ClaimStatus::Gone)]);
        fixture.store.session_lost.notify_one();
        assert_eq!(guard.lost().await, Loss::Revoked);
        assert!(since(begin) <= MILLISECOND * 2, "{:?}", since(begin));
    });
}

#[test]
fn a_hint_of_a_lost_session_repeats_no_renewal_in_flight() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let _guard = fixture.mutex().acquire().await.unwrap();
        fixture.store.always(Verb::Renew, Fault::Late(SECOND * 3));
        for _ in 0..3 {
            fixture.store.session_lost.notify_one();
            sleep(SECOND / 2).await;
        }
        assert_eq!(fixture.store.batches(), [1]);
    });
}

#[test]
fn a_released_claim_is_no_longer_renewed() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        for ended in 0..3 {
            let guard = fixture.mutex().acquire().await.unwrap();
            match ended {
                0 => drop(guard.release().await.unwrap()),
                1 => drop(guard),
                _ => {
                    fixture.store.next(Verb::Renew, [Fault::Answer(ClaimStatus::Gone)]);
                    let _ = guard.renew().await.unwrap();
                    drop(guard);
                }
            }
            let before = fixture.store.batches().len();
            sleep(LEASE * 3).await;
            assert_eq!(fixture.store.batches().len(), before, "{ended}");
        }
    });
}

#[test]
fn a_late_answer_to_a_renewal_counts_from_its_request() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().acquire().await.unwrap();
        let begin = now();
        // The store renews after a third of the lease; the answer arrives after a half.
        fixture.store.next(Verb::Renew, [Fault::Late(LEASE / 6)]);
        fixture.store.always(Verb::Renew, Fault::Silence);
        assert_eq!(guard.lost().await, Loss::Expired);
        let sent = fixture.store.requests(Verb::Renew)[0].duration_since(begin);
        assert!(about(since(begin), sent + LEASE - margin(LEASE)), "{:?}", since(begin));
    });
}

#[test]
fn a_waiter_whose_renewal_fails_or_finds_it_gone_enqueues_again() {
    in_virtual_time(async {
        for fault in [Fault::Refuse, Fault::Answer(ClaimStatus::Gone)] {
            let fixture = Fixture::new();
            let (_held, _waits) = fixture.waiting(fixture.mutex()).await;
            fixture.store.next(Verb::Renew, [fault.clone()]);
            sleep(LEASE / 3 + MILLISECOND).await;
            assert_eq!(fixture.store.requests(Verb::Enqueue).len(), 2, "{fault:?}");
        }
    });
}

#[test]
fn a_grant_whose_push_is_lost_is_found_by_the_next_renewal() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::WaitForChange, Fault::Silence);
        let (held, waiter) = fixture.waiting(fixture.mutex()).await;
        let begin = now();
        held.release().await.unwrap();
        assert!(waiter.await.unwrap().unwrap().is_held());
        assert!(since(begin) <= LEASE / 3 + MILLISECOND, "{:?}", since(begin));
    });
}

#[test]
fn the_renewing_task_ends_with_the_last_lock_of_its_manager() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let store = std::sync::Arc::downgrade(&fixture.store);
        let guard = fixture.mutex().acquire().await.unwrap();
        drop(fixture);
        sleep(LEASE * 2).await;
        assert!(guard.is_held(), "a held lock is renewed without its manager");
        guard.release().await.unwrap();
        sleep(MILLISECOND).await;
        assert!(store.upgrade().is_none());
    });
}

#[test]
fn a_renewal_on_demand_is_one_request_and_gives_a_whole_lease() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().acquire().await.unwrap();
        sleep(SECOND * 5).await;
        assert!(guard.renew().await.unwrap());
        assert!(about(guard.remaining().unwrap(), LEASE - margin(LEASE)), "{:?}", guard.remaining());
        assert_eq!(fixture.store.batches(), [1]);
        fixture.store.next(Verb::Renew, [Fault::Refuse]);
        assert!(guard.renew().await.is_err_and(|error| error.is_unavailable()));
        assert!(guard.is_held(), "an error loses nothing");
        fixture.store.next(Verb::Renew, [Fault::Answer(ClaimStatus::Gone)]);
        assert!(!guard.renew().await.unwrap());
        assert_eq!(guard.lost().await, Loss::Revoked);
        let batches = fixture.store.batches().len();
        assert!(!guard.renew().await.unwrap());
        assert_eq!(fixture.store.batches().len(), batches, "a lost claim is not renewed");
    });
}

#[test]
fn a_released_claim_is_untracked_at_once() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        for dropped in [false, true] {
            let guard = fixture.mutex().acquire().await.unwrap();
            assert!(format!("{:?}", fixture.owner).contains("claims: 1"), "{:?}", fixture.owner);
            if dropped {
                drop(guard);
            } else {
                guard.release().await.unwrap();
            }
            assert!(format!("{:?}", fixture.owner).contains("claims: 0"), "{:?}", fixture.owner);
        }
    });
}

#[test]
fn after_a_late_grant_the_first_renewal_comes_within_the_rest_of_the_lease() {
    for max_hold in [None, Some(LEASE * 10)] {
        in_virtual_time(async {
            let fixture = Fixture::with_options(Options { max_hold, ..options() });
            fixture.store.next(Verb::Enqueue, [Fault::Late(LEASE / 2)]);
            let _guard = fixture.mutex().acquire().await.unwrap();
            let granted = now();
            sleep(LEASE / 2 / 3).await;
            let requests = fixture.store.requests(Verb::Renew);
            assert_eq!(requests.len(), 1);
            assert!(requests[0].duration_since(granted) >= LEASE / 2 / 3 - SECOND);
        });
    }
}

#[test]
fn waiters_do_not_keep_holders_from_being_renewed() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let _held = fixture.other().mutex("a").acquire().await.unwrap();
        let waiters: Vec<_> = (0..256 * 9)
            .map(|_| {
                let lock = fixture.mutex();
                tokio::spawn(async move { lock.acquire().await })
            })
            .collect();
        sleep(SECOND).await;
        let guard = fixture.owner.mutex("b").acquire().await.unwrap();
        // As many requests as may be in flight are never answered, all of them for waiters.
        fixture.store.next(Verb::Renew, vec![Fault::Silence; 8]);
        sleep(LEASE * 2).await;
        assert_eq!(fixture.store.batches()[..8], [256; 8]);
        assert!(guard.is_held());
        drop(waiters);
    });
}

#[test]
fn a_lock_that_is_renewed_on_demand_survives_a_renewal_that_is_never_answered() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().acquire().await.unwrap();
        fixture.store.next(Verb::Renew, [Fault::Silence]);
        sleep(LEASE / 2).await;
        assert!(guard.renew().await.unwrap());
        let begin = now();
        // The deadline from before the silence passes without effect.
        assert_eq!(guard.lost().await, Loss::Expired);
        assert!(about(since(begin), LEASE - margin(LEASE)), "{:?}", since(begin));
    });
}
