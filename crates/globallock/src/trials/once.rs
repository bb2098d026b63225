//! Work that is done once in a while, over a store whose faults a test scripts.

use std::time::Duration;

use super::store::{Fault, Verb};
use super::{Fixture, LEASE, SECOND, about, in_virtual_time, options, sleep};
use crate::error::Error;
use crate::loss::Loss;
use crate::once::{Once, Ran, Running, Turn, begin_in_time};
use crate::sync::now;

const DAY: Duration = Duration::from_secs(20 * 3600);

fn once(fixture: &Fixture) -> Once {
    fixture.owner.once("a").every(DAY)
}

async fn succeeds(once: &Once) -> Ran<(), ()> {
    once.run(async |_guard| Ok(())).await.unwrap()
}

#[test]
fn a_success_counts_for_its_time_from_its_beginning() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let once = once(&fixture);
        let took = LEASE * 3;
        let done = once.run(async |_guard| {
            sleep(took).await;
            Ok::<_, ()>(7)
        });
        assert_eq!(done.await.unwrap(), Ran::Done(7));
        assert!(fixture.claims().await.is_empty());
        sleep(DAY - took - SECOND).await;
        let Ran::Skipped { began } = succeeds(&once).await else { panic!("it is too early") };
        assert!(about(began, DAY - SECOND), "{began:?}");
        assert!(fixture.claims().await.is_empty());
        sleep(SECOND).await;
        assert_eq!(succeeds(&once).await, Ran::Done(()));
    });
}

#[test]
fn work_that_cannot_be_given_begins_and_succeeds_in_steps() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let once = once(&fixture).with_options(options().wait(SECOND));
        let held = fixture.other().mutex("a").acquire().await.unwrap();
        assert!(begin_in_time(&once).await.unwrap().is_none(), "it is taken");
        held.release().await.unwrap();
        let Some(Turn::Run(Running { guard, .. })) = begin_in_time(&once).await.unwrap() else {
            panic!("it is due")
        };
        guard.release().await.unwrap();
        let Some(Turn::Run(Running { began, guard })) = begin_in_time(&once).await.unwrap() else {
            panic!("it has not succeeded")
        };
        assert!(guard.is_held());
        sleep(SECOND).await;
        began.succeed(guard).await.unwrap();
        let Some(Turn::Skip { began }) = begin_in_time(&once).await.unwrap() else { panic!("it counts") };
        assert!(about(began, SECOND), "{began:?}");
        assert!(fixture.claims().await.is_empty());
    });
}

#[test]
fn a_failure_and_a_value_that_is_no_record_count_for_nothing() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let once = once(&fixture);
        assert_eq!(once.run(async |_guard| Err::<(), _>("no")).await.unwrap(), Ran::Failed("no"));
        assert!(fixture.claims().await.is_empty());
        let guard = fixture.other().mutex("a").acquire().await.unwrap();
        guard.set_value(b"something else", DAY).await.unwrap();
        guard.release().await.unwrap();
        assert_eq!(succeeds(&once).await, Ran::Done(()));
        assert!(matches!(succeeds(&once).await, Ran::Skipped { .. }));
    });
}

#[test]
fn a_success_is_recorded_once_the_store_answers() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.next(Verb::SetValue, [Fault::Refuse, Fault::Refuse]);
        assert_eq!(succeeds(&once(&fixture)).await, Ran::Done(()));
        assert_eq!(fixture.store.requests(Verb::SetValue).len(), 3);
        assert!(matches!(succeeds(&once(&fixture)).await, Ran::Skipped { .. }));
    });
}

#[test]
fn a_success_that_cannot_be_recorded_is_an_error() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::SetValue, Fault::Refuse);
        fixture.store.always(Verb::Renew, Fault::Refuse);
        let lost = once(&fixture).run(async |_guard| Ok::<(), ()>(())).await.unwrap_err();
        assert!(matches!(lost, Error::Lost { loss: Loss::Expired, .. }), "{lost}");
    });
}

#[test]
fn a_store_that_goes_on_refusing_the_record_is_asked_for_the_store_timeout_and_the_lock_is_released() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::SetValue, Fault::Refuse);
        let began = now();
        let once = once(&fixture).with_options(options().store_timeout(LEASE * 3));
        let refused = once.run(async |_guard| Ok::<(), ()>(())).await.unwrap_err();
        assert!(refused.is_unavailable(), "{refused}");
        let took = now() - began;
        assert!(took >= LEASE * 3 && took < LEASE * 4, "{took:?}");
        sleep(SECOND).await;
        assert!(fixture.claims().await.is_empty());
    });
}

#[test]
fn work_is_dropped_when_its_lock_is_lost() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::Renew, Fault::Refuse);
        let once = once(&fixture);
        let lost = once.run(async |_guard| {
            sleep(LEASE * 3).await;
            Ok::<(), ()>(())
        });
        assert!(matches!(lost.await.unwrap_err(), Error::Lost { loss: Loss::Expired, .. }));
        assert!(fixture.store.requests(Verb::SetValue).is_empty());
    });
}

#[test]
fn for_how_long_a_success_counts_must_be_said() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let unsaid = fixture.owner.once("a");
        for once in [unsaid.clone(), unsaid.clone().every(Duration::ZERO), unsaid.every(Duration::MAX)] {
            let refused = once.run(async |_guard| Ok::<(), ()>(())).await.unwrap_err().to_string();
            assert!(refused.contains("every"), "{refused}");
        }
        assert!(fixture.store.requests(Verb::Enqueue).is_empty());
    });
}
