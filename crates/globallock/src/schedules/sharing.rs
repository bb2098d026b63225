//! The small maps and mailboxes that tasks share, in every order.

use std::sync::Arc;

use shuttle::future::block_on;

use super::search_all;
use crate::sync::{Mutex, Notify};

/// A mailbox that looks before it listens, and is told by a wake-up that does not wait for it: the search must see
/// that one wait in some order never ends, or it would see nothing.
#[test]
#[should_panic(expected = "deadlock")]
fn a_mailbox_that_misses_a_wake_up_is_found() {
    search_all(|| {
        let mailbox = Arc::new((Mutex::new(false), Notify::new()));
        let tells = Arc::clone(&mailbox);
        let thread = shuttle::thread::spawn(move || {
            *tells.0.lock().unwrap() = true;
            tells.1.notify_waiters();
        });
        block_on(async {
            while !*mailbox.0.lock().unwrap() {
                mailbox.1.notified().await;
            }
        });
        thread.join().unwrap();
    });
}

#[cfg(any(feature = "etcd", feature = "zookeeper"))]
#[test]
fn news_of_two_tellers_all_reach_the_waiter() {
    use crate::stores::watched::inbox::Inbox;

    let schedules = search_all(|| {
        let inbox = Arc::new(Inbox::default());
        let tellers = [b"one".to_vec(), b"two".to_vec()].map(|key| {
            let inbox = Arc::clone(&inbox);
            shuttle::thread::spawn(move || inbox.notify(|changes| changes.deleted.push(key)))
        });
        let mut deleted = Vec::new();
        while deleted.len() < 2 {
            deleted.extend(block_on(inbox.wait()).deleted);
        }
        for teller in tellers {
            teller.join().unwrap();
        }
    });
    assert!(schedules > 100, "{schedules}");
}
