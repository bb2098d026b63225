//! Robustness against hostile servers and foreign data: every call ends soon, with an error or without,
//! nothing panics, and a mutex never has two holders.

mod contents;
mod etcd;
mod file;
mod redis;
mod servers;
mod zookeeper;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the panics of all threads from now on.
fn panics() -> Arc<AtomicUsize> {
    let panics = Arc::new(AtomicUsize::new(0));
    let (count, before) = (Arc::clone(&panics), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        count.fetch_add(1, Ordering::SeqCst);
        before(info);
    }));
    panics
}
