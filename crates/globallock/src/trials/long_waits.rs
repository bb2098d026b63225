//! Claims that wait for long tell those who want to know what they wait for.

use std::sync::Arc;

use super::observing::Heard;
use super::store::{Fault, Verb};
use super::{Fixture, LEASE, SECOND, in_virtual_time, options, pauses, sleep};
use crate::error::Error;
use crate::manager::LockManager;
use crate::observe::{Event, Observer};
use crate::options::ManagerOptions;
use crate::sync::now;

/// An observer that wants to hear of deadlocks.
#[derive(Debug, Default)]
struct Curious(Heard);

impl Observer for Curious {
    fn event(&self, event: &Event<'_>) {
        // The others are tested elsewhere.
        if matches!(event, Event::WaitsForItself { .. } | Event::Deadlock { .. }) {
            self.0.event(event);
        }
    }

    fn wants_deadlocks(&self) -> bool {
        true
    }
}

/// An owner that says it is this process of a host, and is observed.
fn process(fixture: &Fixture, process: u32) -> (LockManager, Arc<Curious>) {
    let heard = Arc::new(Curious::default());
    let options = ManagerOptions::new().locks(options()).process(process).observer(heard.clone());
    (LockManager::with_backend(fixture.store.clone(), options).unwrap(), heard)
}

/// Waits for a lock in a task of its own.
fn waits(manager: &LockManager, name: &str) -> tokio::task::JoinHandle<crate::Result<crate::Guard>> {
    let lock = manager.mutex(name);
    tokio::spawn(async move { lock.acquire().await })
}

fn without_host(heard: &Curious) -> Vec<String> {
    let host = format!(" on {}", crate::Owner::current().host);
    heard.0.take().iter().map(|line| line.replace(&host, "")).collect()
}

#[test]
fn a_task_that_waits_for_what_it_holds_is_told_so_once_after_a_second() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (owner, heard) = process(&fixture, 1);
        let guard = owner.mutex("a").acquire().await.unwrap();
        let waiting = owner.mutex("a").wait(LEASE * 2);
        let mut waiting = std::pin::pin!(waiting.acquire());
        assert!(tokio::time::timeout(SECOND / 2, &mut waiting).await.is_err());
        assert_eq!(heard.0.take(), [""; 0]);
        assert!(tokio::time::timeout(SECOND, &mut waiting).await.is_err());
        assert_eq!(heard.0.take(), ["waits for itself: \"a\""]);
        assert!(matches!(waiting.await, Err(Error::TimedOut { .. })));
        assert_eq!(heard.0.take(), [""; 0]);
        drop(guard);
    });
}

#[test]
fn what_another_task_holds_or_was_granted_meanwhile_is_no_wait_for_oneself() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (owner, heard) = process(&fixture, 1);
        let lock = owner.mutex("a");
        let guard = waits(&owner, "a").await.unwrap().unwrap();
        let other = owner.mutex("b").acquire().await.unwrap();
        sleep(SECOND).await;
        // The first of the two is granted while the second waits, and holds for longer than the look.
        let first = async {
            let guard = lock.acquire().await.unwrap();
            sleep(LEASE).await;
            drop(guard);
        };
        let second = async { drop(lock.acquire().await.unwrap()) };
        let release = async {
            sleep(SECOND / 2).await;
            drop(guard);
        };
        tokio::join!(first, second, release);
        assert_eq!(heard.0.take(), [""; 0]);
        drop(other);
    });
}

#[test]
fn owners_that_wait_for_each_other_are_told_of_their_deadlock_until_it_ends() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let [(one, one_hears), (other, other_hears)] = [process(&fixture, 1), process(&fixture, 2)];
        let (a, b) = (one.mutex("a").acquire().await.unwrap(), other.mutex("b").acquire().await.unwrap());
        let (waits_for_b, waits_for_a) = (waits(&one, "b"), waits(&other, "a"));
        // A third one waits for both, and nobody for it.
        let (third, third_hears) = process(&fixture, 3);
        let bystander = waits(&third, "a");
        sleep(SECOND * 9).await;
        assert_eq!((without_host(&one_hears), without_host(&other_hears)), (vec![], vec![]));
        sleep(SECOND * 2).await;
        let cycle = r#"deadlock: pid 1 waits for "b", held by pid 2; pid 2 waits for "a", held by pid 1"#;
        let same = r#"deadlock: pid 2 waits for "a", held by pid 1; pid 1 waits for "b", held by pid 2"#;
        for heard in [&one_hears, &other_hears] {
            let [told] = &without_host(heard)[..] else { panic!("it is told once") };
            assert!([cycle, same].contains(&&told[..]), "{told}");
        }
        sleep(SECOND * 30).await;
        assert_eq!((without_host(&one_hears).len(), without_host(&other_hears).len()), (1, 1), "after 40 s");
        waits_for_b.abort();
        assert!(waits_for_b.await.unwrap_err().is_cancelled());
        drop(a);
        waits_for_a.await.unwrap().unwrap().release().await.unwrap();
        sleep(LEASE * 3).await;
        for heard in [&one_hears, &other_hears, &third_hears] {
            assert_eq!(without_host(heard), [""; 0]);
        }
        bystander.await.unwrap().unwrap().release().await.unwrap();
        b.release().await.unwrap();
    });
}

#[test]
fn a_wait_that_ended_between_the_looks_is_no_deadlock() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let [(one, heard), (other, _)] = [process(&fixture, 1), process(&fixture, 2)];
        let (a, b) = (one.mutex("a").acquire().await.unwrap(), other.mutex("b").acquire().await.unwrap());
        let (waits_for_b, waits_for_a) = (waits(&one, "b"), waits(&other, "a"));
        // Both queues have been read, and before that is answered, one of the two gives up.
        fixture.store.always(Verb::Inspect, Fault::Late(SECOND));
        sleep(SECOND * 10 + SECOND / 2).await;
        waits_for_a.abort();
        sleep(SECOND * 5).await;
        assert!(fixture.store.requests(Verb::Inspect).len() > 2, "it is looked at again");
        assert_eq!(without_host(&heard), [""; 0]);
        drop((a, b));
        waits_for_b.await.unwrap().unwrap().release().await.unwrap();
    });
}

#[test]
fn a_manager_lists_the_names_at_most_once_in_30_s_and_only_for_those_who_want_to_know() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let lists = || fixture.store.requests(Verb::List);
        let holder = fixture.other().mutex("a").acquire().await.unwrap();
        let unheard = waits(&fixture.owner, "a");
        let begin = now();
        sleep(LEASE * 10).await;
        assert_eq!(lists().len(), 0);
        unheard.abort();
        let (owner, _heard) = process(&fixture, 1);
        let waiting: Vec<_> = (0..20).map(|_| waits(&owner, "a")).collect();
        for more in [1, 3, 7] {
            sleep(SECOND * more).await;
            waits(&owner, "a");
        }
        sleep(LEASE * 60).await;
        let lists = lists();
        assert!(lists.len() > 5 && lists[0].duration_since(begin) >= LEASE * 10 + SECOND * 10);
        assert!(pauses(&lists).into_iter().all(|pause| pause >= SECOND * 30), "{:?}", pauses(&lists));
        drop((holder, waiting));
    });
}

#[test]
fn a_store_that_does_not_answer_the_looks_disturbs_no_wait() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (owner, heard) = process(&fixture, 1);
        let holder = fixture.other().mutex("a").acquire().await.unwrap();
        fixture.store.always(Verb::List, Fault::Deny);
        let waiting = waits(&owner, "a");
        sleep(LEASE).await;
        holder.release().await.unwrap();
        waiting.await.unwrap().unwrap().release().await.unwrap();
        assert_eq!(heard.0.take(), [""; 0]);
    });
}
