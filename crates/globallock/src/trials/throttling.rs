//! More claims of one manager than may send requests at a time.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::{
    Fault, Fixture, LEASE, MILLISECOND, SECOND, Verb, about, in_virtual_time, options, since, sleep,
};
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::options::Options;
use crate::sync::now;

/// The number of claims that may send a request at a time.
const AT_A_TIME: usize = 128;

/// Acquires `many` locks at the same time; each task returns its result and the time that it took.
fn acquire_each(
    fixture: &Fixture,
    many: usize,
    options: &Options,
) -> Vec<JoinHandle<(Result<Guard>, Duration)>> {
    let begin = now();
    (0..many)
        .map(|number| {
            let lock = fixture.owner.mutex(format!("c{number}")).with_options(options.clone());
            tokio::spawn(async move { (lock.acquire().await, since(begin)) })
        })
        .collect()
}

fn with_store_timeout(timeout: Duration) -> Options {
    Options { store_timeout: Some(timeout), ..options() }
}

#[test]
fn the_requests_at_a_time_are_limited_and_the_others_follow_in_order() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::Enqueue, Fault::Late(SECOND));
        let tasks = acquire_each(&fixture, AT_A_TIME * 2 + 1, &options());
        sleep(MILLISECOND).await;
        assert_eq!(fixture.store.requests(Verb::Enqueue).len(), AT_A_TIME);
        for (number, task) in tasks.into_iter().enumerate() {
            let (granted, after) = task.await.unwrap();
            assert!(granted.unwrap().is_held());
            assert!(about(after, SECOND * (number / AT_A_TIME + 1) as u32), "{number}: {after:?}");
        }
    });
}

#[test]
fn a_store_that_answers_other_claims_is_not_silent_however_long_a_turn_takes() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::Enqueue, Fault::Late(SECOND * 6));
        for task in acquire_each(&fixture, AT_A_TIME * 3, &with_store_timeout(SECOND * 10)) {
            assert!(task.await.unwrap().0.unwrap().is_held());
        }
    });
}

#[test]
fn a_silent_store_also_times_out_the_claims_that_wait_for_their_turn() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::Enqueue, Fault::Silence);
        for task in acquire_each(&fixture, AT_A_TIME * 2, &with_store_timeout(SECOND * 10)) {
            let (refused, after) = task.await.unwrap();
            let error = refused.unwrap_err();
            assert!(error.is_unavailable() && error.to_string().contains("no answer within 10 s"), "{error}");
            assert!(about(after, SECOND * 10), "{after:?}");
        }
    });
}

#[test]
fn a_turn_after_an_unanswered_request_does_not_restart_the_store_timeout() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::Enqueue, Fault::Silence);
        let first = acquire_each(&fixture, AT_A_TIME, &with_store_timeout(SECOND * 10));
        sleep(SECOND).await;
        let second = acquire_each(&fixture, AT_A_TIME, &with_store_timeout(SECOND * 10));
        for task in first.into_iter().chain(second) {
            let (refused, after) = task.await.unwrap();
            assert!(refused.unwrap_err().is_unavailable());
            assert!(about(after, SECOND * 10), "{after:?}");
        }
    });
}

#[test]
fn a_claim_that_is_dropped_before_its_turn_uses_no_turn() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::Enqueue, Fault::Late(SECOND));
        let mut tasks = acquire_each(&fixture, AT_A_TIME + 10, &options());
        sleep(MILLISECOND).await;
        for given_up in tasks.drain(AT_A_TIME..AT_A_TIME + 9) {
            given_up.abort();
        }
        for task in tasks {
            assert!(task.await.unwrap().0.unwrap().is_held());
        }
        assert_eq!(fixture.store.requests(Verb::Enqueue).len(), AT_A_TIME + 1);
    });
}

#[test]
fn the_store_timeout_of_claims_that_wait_for_their_turn_counts_from_the_last_answer() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.next(Verb::Enqueue, vec![Fault::Late(SECOND * 6); AT_A_TIME]);
        fixture.store.always(Verb::Enqueue, Fault::Silence);
        let mut tasks = acquire_each(&fixture, AT_A_TIME * 2 + 1, &with_store_timeout(SECOND * 10));
        let (refused, after) = tasks.pop().unwrap().await.unwrap();
        assert!(refused.unwrap_err().is_unavailable());
        assert!(about(after, SECOND * 16), "{after:?}");
    });
}

#[test]
fn a_wait_limit_before_the_turn_is_a_timeout_if_the_store_answers_and_unavailability_if_not() {
    in_virtual_time(async {
        for answers in [true, false] {
            let fixture = Fixture::new();
            let fault = if answers { Fault::Late(SECOND * 2) } else { Fault::Silence };
            fixture.store.always(Verb::Enqueue, fault);
            let limited = Options { wait: Some(SECOND * 3), ..options() };
            let mut tasks = acquire_each(&fixture, AT_A_TIME * 2 + 1, &limited);
            let (ended, after) = tasks.pop().unwrap().await.unwrap();
            match ended {
                Err(Error::TimedOut { waited, .. }) if answers => assert!(about(waited, SECOND * 3)),
                Err(Error::Unavailable { .. }) if !answers => {}
                other => panic!("{answers}: {other:?}"),
            }
            assert!(about(after, SECOND * 3), "{after:?}");
        }
    });
}

#[test]
fn closing_ends_the_claims_that_wait_for_their_turn() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::Enqueue, Fault::Late(SECOND * 5));
        let mut tasks = acquire_each(&fixture, AT_A_TIME + 1, &options());
        sleep(SECOND).await;
        let last = tasks.pop().unwrap();
        let begin = now();
        tokio::spawn({
            let owner = fixture.owner.clone();
            async move { owner.close().await }
        });
        assert!(matches!(last.await.unwrap().0, Err(Error::Closed)));
        assert!(since(begin) <= MILLISECOND, "{:?}", since(begin));
    });
}

#[test]
fn the_wait_for_a_turn_does_not_count_towards_the_store_timeout() {
    in_virtual_time(async {
        let fixture = Fixture::with_options(with_store_timeout(SECOND * 10));
        // Its first request fails. Then the requests of other claims are so slow that its next turn comes
        // after more than its store timeout.
        fixture.store.next(Verb::Enqueue, [Fault::Refuse]);
        let lock = fixture.mutex();
        let task = tokio::spawn(async move { lock.acquire().await });
        sleep(MILLISECOND).await;
        fixture.store.always(Verb::Enqueue, Fault::Late(SECOND * 6));
        let _crowd = acquire_each(&fixture, AT_A_TIME * 3, &with_store_timeout(LEASE));
        sleep(SECOND * 17).await;
        // Its turn comes and its request fails again. That is still not the end of its store timeout.
        fixture.store.always(Verb::Enqueue, Fault::Refuse);
        sleep(SECOND * 3).await;
        assert!(!task.is_finished());
        fixture.store.always(Verb::Enqueue, Fault::None);
        assert!(task.await.unwrap().unwrap().is_held());
    });
}

#[test]
fn a_turn_ends_with_its_answer_even_if_the_claim_then_waits() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let _held = fixture.other().mutex("a").acquire().await.unwrap();
        let waiters: Vec<_> = (0..AT_A_TIME * 2)
            .map(|_| {
                let lock = fixture.mutex();
                tokio::spawn(async move { lock.acquire().await })
            })
            .collect();
        sleep(SECOND).await;
        assert_eq!(fixture.claims().await.len(), AT_A_TIME * 2 + 1);
        assert!(fixture.owner.mutex("b").acquire().await.unwrap().is_held());
        drop(waiters);
    });
}
