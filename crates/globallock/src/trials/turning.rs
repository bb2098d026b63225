//! More claims of one manager than may ask at a time.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::{
    Fault, Fixture, LEASE, MILLISECOND, SECOND, Verb, about, in_virtual_time, options, since, sleep,
};
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::options::Options;
use crate::sync::now;

/// As many as may ask at a time.
const TURNS: usize = 128;

/// So many who want a lock each, all at once, and when each was told.
fn crowd(fixture: &Fixture, many: usize, options: &Options) -> Vec<JoinHandle<(Result<Guard>, Duration)>> {
    let begin = now();
    (0..many)
        .map(|number| {
            let lock =
                fixture.owner.mutex(format!("c{number}")).unwrap().with_options(options.clone()).unwrap();
            tokio::spawn(async move { (lock.acquire().await, since(begin)) })
        })
        .collect()
}

fn patient(timeout: Duration) -> Options {
    Options { store_timeout: Some(timeout), ..options() }
}

#[test]
fn so_many_ask_at_a_time_and_the_others_in_their_order() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::Enqueue, Fault::Late(SECOND));
        let crowd = crowd(&fixture, TURNS * 2 + 1, &options());
        sleep(MILLISECOND).await;
        assert_eq!(fixture.store.asked(Verb::Enqueue).len(), TURNS);
        for (number, asks) in crowd.into_iter().enumerate() {
            let (granted, after) = asks.await.unwrap();
            assert!(granted.unwrap().is_held());
            assert!(about(after, SECOND * (number / TURNS + 1) as u32), "{number}: {after:?}");
        }
    });
}

#[test]
fn a_store_that_answers_others_is_not_silent_however_long_the_turn_takes() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::Enqueue, Fault::Late(SECOND * 6));
        for asks in crowd(&fixture, TURNS * 3, &patient(SECOND * 10)) {
            assert!(asks.await.unwrap().0.unwrap().is_held());
        }
    });
}

#[test]
fn a_silent_store_uses_up_the_patience_of_those_who_wait_for_their_turn_as_well() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::Enqueue, Fault::Silence);
        for asks in crowd(&fixture, TURNS * 2, &patient(SECOND * 10)) {
            let (refused, after) = asks.await.unwrap();
            let error = refused.unwrap_err();
            assert!(
                error.is_unavailable() && error.to_string().contains("no answer within 10.0s"),
                "{error}"
            );
            assert!(about(after, SECOND * 10), "{after:?}");
        }
    });
}

#[test]
fn who_gets_a_turn_from_one_that_was_never_answered_has_no_more_patience_for_that() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::Enqueue, Fault::Silence);
        let first = crowd(&fixture, TURNS, &patient(SECOND * 10));
        sleep(SECOND).await;
        let second = crowd(&fixture, TURNS, &patient(SECOND * 10));
        for asks in first.into_iter().chain(second) {
            let (refused, after) = asks.await.unwrap();
            assert!(refused.unwrap_err().is_unavailable());
            assert!(about(after, SECOND * 10), "{after:?}");
        }
    });
}

#[test]
fn who_gives_up_its_place_before_its_turn_takes_nobody_elses() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::Enqueue, Fault::Late(SECOND));
        let mut crowd = crowd(&fixture, TURNS + 10, &options());
        sleep(MILLISECOND).await;
        for given_up in crowd.drain(TURNS..TURNS + 9) {
            given_up.abort();
        }
        for asks in crowd {
            assert!(asks.await.unwrap().0.unwrap().is_held());
        }
        assert_eq!(fixture.store.asked(Verb::Enqueue).len(), TURNS + 1);
    });
}

#[test]
fn the_patience_of_those_who_wait_for_their_turn_counts_from_the_last_answer() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.next(Verb::Enqueue, [Fault::Late(SECOND * 6); TURNS]);
        fixture.store.always(Verb::Enqueue, Fault::Silence);
        let mut crowd = crowd(&fixture, TURNS * 2 + 1, &patient(SECOND * 10));
        let (refused, after) = crowd.pop().unwrap().await.unwrap();
        assert!(refused.unwrap_err().is_unavailable());
        assert!(about(after, SECOND * 16), "{after:?}");
    });
}

#[test]
fn a_limit_that_ends_before_the_turn_is_the_limit_where_the_store_answers_and_its_silence_where_not() {
    in_virtual_time(async {
        for answers in [true, false] {
            let fixture = Fixture::new();
            let fault = if answers { Fault::Late(SECOND * 2) } else { Fault::Silence };
            fixture.store.always(Verb::Enqueue, fault);
            let limited = Options { wait: Some(SECOND * 3), ..options() };
            let mut crowd = crowd(&fixture, TURNS * 2 + 1, &limited);
            let (ended, after) = crowd.pop().unwrap().await.unwrap();
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
fn closing_ends_those_who_wait_for_their_turn() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::Enqueue, Fault::Late(SECOND * 5));
        let mut crowd = crowd(&fixture, TURNS + 1, &options());
        sleep(SECOND).await;
        let last = crowd.pop().unwrap();
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
fn the_time_to_the_turn_is_no_silence_towards_who_waits_for_it() {
    in_virtual_time(async {
        let fixture = Fixture::with(patient(SECOND * 10));
        // Refused once, whereupon others ask so slowly that its next turn comes after more than its patience.
        fixture.store.next(Verb::Enqueue, [Fault::Refuse]);
        let lock = fixture.mutex();
        let asks = tokio::spawn(async move { lock.acquire().await });
        sleep(MILLISECOND).await;
        fixture.store.always(Verb::Enqueue, Fault::Late(SECOND * 6));
        let _crowd = crowd(&fixture, TURNS * 3, &patient(LEASE));
        sleep(SECOND * 17).await;
        // Its turn comes, and the store refuses again: that is not the end of its patience.
        fixture.store.always(Verb::Enqueue, Fault::Refuse);
        sleep(SECOND * 3).await;
        assert!(!asks.is_finished());
        fixture.store.always(Verb::Enqueue, Fault::None);
        assert!(asks.await.unwrap().unwrap().is_held());
    });
}

#[test]
fn a_turn_ends_with_its_answer_though_the_lock_is_waited_for() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let _held = fixture.other().mutex("a").unwrap().acquire().await.unwrap();
        let waiters: Vec<_> = (0..TURNS * 2)
            .map(|_| {
                let lock = fixture.mutex();
                tokio::spawn(async move { lock.acquire().await })
            })
            .collect();
        sleep(SECOND).await;
        assert_eq!(fixture.claims().await.len(), TURNS * 2 + 1);
        assert!(fixture.owner.mutex("b").unwrap().acquire().await.unwrap().is_held());
        drop(waiters);
    });
}
