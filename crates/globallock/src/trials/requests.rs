//! Observers that want to hear of requests are told of each one once, with what came of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{FutureExt, StreamExt};

use super::store::{Fault, Verb};
use super::{Fixture, LEASE, SECOND, in_virtual_time, options, sleep};
use crate::backend::{Capabilities, EntryKey};
use crate::manager::LockManager;
use crate::observe::{Answer, Event, Observer};
use crate::options::ManagerOptions;

/// The requests that were heard of: a line each, with the seconds that it took.
#[derive(Debug)]
struct Requests {
    hears: AtomicBool,
    heard: Mutex<Vec<String>>,
}

impl Requests {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }
}

impl Observer for Requests {
    fn event(&self, event: &Event<'_>) {
        let Event::Request { operation, answer, took } = event else { return };
        assert!(self.hears_requests());
        let answer = match answer {
            Answer::Given => "",
            Answer::Failed(_) => " failed",
            Answer::NotAwaited => " not awaited",
        };
        let line = format!("{}{answer} {}", operation.as_str(), took.as_secs());
        self.heard.lock().unwrap().push(line);
    }

    fn hears_requests(&self) -> bool {
        self.hears.load(Ordering::Relaxed)
    }
}

fn observed(fixture: &Fixture) -> (LockManager, Arc<Requests>) {
    let requests = Arc::new(Requests { hears: true.into(), heard: Mutex::default() });
    let options = ManagerOptions::new().locks(options()).observer(requests.clone());
    (LockManager::with_backend(fixture.store.clone(), options).unwrap(), requests)
}

#[test]
fn each_verb_of_the_store_is_one_request() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (owner, requests) = observed(&fixture);
        fixture.store.goes_away();
        fixture.store.next(Verb::Ready, [Fault::Late(SECOND * 2)]);
        fixture.store.next(Verb::Enqueue, [Fault::Late(SECOND * 3)]);
        let guard = owner.mutex("a").with_value().acquire().await.unwrap();
        assert_eq!(requests.take(), ["connect 2", "enqueue 3"], "to connect is no part of the request");
        sleep(LEASE / 3).await;
        assert_eq!(requests.take(), ["renew 0"]);
        assert!(guard.renew().await.unwrap());
        guard.set_value(*b"v", SECOND).await.unwrap();
        owner.inspect("a").await.unwrap();
        assert_eq!(owner.list("").collect::<Vec<_>>().await.len(), 1);
        assert_eq!(requests.take(), ["renew 0", "set_value 0", "inspect 0", "list 0"]);
        fixture.store.next(Verb::Release, [Fault::Late(SECOND * 4)]);
        guard.release().await.unwrap();
        assert_eq!(requests.take(), ["release 4"]);
        let guard = owner.mutex("a").hold_at_least(SECOND).acquire().await.unwrap();
        guard.release().await.unwrap();
        owner.evict("a", &EntryKey::new("none"), "no").await.unwrap();
        assert_eq!(requests.take(), ["enqueue 0", "keep 0", "release 0", "evict 0"]);
    });
}

#[test]
fn a_request_that_fails_or_is_not_awaited_is_told_as_such() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (owner, requests) = observed(&fixture);
        fixture.store.next(Verb::Enqueue, [Fault::Deny]);
        owner.mutex("a").acquire().await.unwrap_err();
        sleep(SECOND).await;
        assert_eq!(requests.take(), ["enqueue failed 0", "release 0"]);
        // The store is silent for longer than it may be, and for longer than the caller waits.
        fixture.store.next(Verb::Enqueue, [Fault::Silence, Fault::Silence]);
        owner.mutex("a").store_timeout(SECOND * 7).acquire().await.unwrap_err();
        tokio::time::timeout(SECOND * 3, owner.mutex("a").acquire()).await.unwrap_err();
        sleep(SECOND).await;
        let told = requests.take();
        assert_eq!(told, ["enqueue not awaited 7", "release 0", "enqueue not awaited 3", "release 0"]);
        // It could not be connected to, so that nothing was sent.
        fixture.store.goes_away();
        fixture.store.next(Verb::Ready, [Fault::Deny]);
        owner.mutex("a").acquire().await.unwrap_err();
        fixture.store.next(Verb::Ready, [Fault::Silence]);
        assert!(owner.mutex("a").acquire().now_or_never().is_none());
        assert_eq!(requests.take(), ["connect failed 0", "connect not awaited 0"]);
    });
}

#[test]
fn nobody_hears_of_requests_without_asking_for_them() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (owner, requests) = observed(&fixture);
        requests.hears.store(false, Ordering::Relaxed);
        let guard = owner.mutex("a").acquire().await.unwrap();
        assert_eq!(requests.take(), [""; 0]);
        // It may be switched on meanwhile.
        requests.hears.store(true, Ordering::Relaxed);
        guard.release().await.unwrap();
        assert_eq!(requests.take(), ["release 0"]);
    });
}

/// Makes another observer for each manager.
#[derive(Debug)]
struct Maker(Arc<Requests>, Mutex<Vec<&'static str>>);

impl Observer for Maker {
    fn event(&self, event: &Event<'_>) {
        unreachable!("the other one hears {event}");
    }

    fn for_store(&self, store: &Capabilities) -> Option<Arc<dyn Observer>> {
        self.1.lock().unwrap().push(store.kind);
        Some(self.0.clone())
    }
}

#[test]
fn an_observer_may_make_one_for_each_manager_by_the_kind_of_its_store() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (_, requests) = observed(&fixture);
        let maker = Arc::new(Maker(requests.clone(), Mutex::default()));
        let options = ManagerOptions::new().locks(options()).observer(maker.clone());
        let owner = LockManager::with_backend(fixture.store.clone(), options).unwrap();
        drop(owner.mutex("a").acquire().await.unwrap());
        assert_eq!(*maker.1.lock().unwrap(), ["memory"]);
        assert_eq!(requests.take(), ["enqueue 0"]);
    });
}
