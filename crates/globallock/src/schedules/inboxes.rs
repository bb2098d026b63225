//! The inboxes that tasks share, in every order.

use std::sync::Arc;

use shuttle::future::block_on;

use super::search_all;
use crate::sync::{Mutex, Notify};

/// A test of the search itself. This inbox checks its flag before it begins to wait, and `notify_waiters`
/// wakes only tasks that already wait. So in some order the wake-up is missed, and the search must find that
/// deadlock.
#[test]
#[should_panic(expected = "deadlock")]
fn an_inbox_that_misses_a_wake_up_is_found() {
    search_all(|| {
        let inbox = Arc::new((Mutex::new(false), Notify::new()));
        let notifier = Arc::clone(&inbox);
        let thread = shuttle::thread::spawn(move || {
            *notifier.0.lock() = true;
            notifier.1.notify_waiters();
        });
        block_on(async {
            while !*inbox.0.lock() {
                inbox.1.notified().await;
            }
        });
        thread.join().unwrap();
    });
}

#[cfg(any(feature = "etcd", feature = "zookeeper"))]
#[test]
fn the_changes_of_two_notifiers_both_reach_the_waiter() {
    use crate::stores::watched::inbox::Inbox;

    let schedules = search_all(|| {
        let inbox = Arc::new(Inbox::default());
        let notifiers = [b"one".to_vec(), b"two".to_vec()].map(|key| {
            let inbox = Arc::clone(&inbox);
            shuttle::thread::spawn(move || inbox.notify(|changes| changes.deleted.push(key)))
        });
        let mut deleted = Vec::new();
        while deleted.len() < 2 {
            deleted.extend(block_on(inbox.wait()).deleted);
        }
        for notifier in notifiers {
            notifier.join().unwrap();
        }
    });
    assert!(schedules > 100, "{schedules}");
}
