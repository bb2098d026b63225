//! What a store notices, kept for the managers that tell it.

use std::fmt::Display;
use std::sync::Arc;

use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::broadcast::{self, Receiver, Sender, error::RecvError};

use crate::backend::{StoreNotice, StoreNoticeKind};
use crate::sync::Mutex;

/// How many notices wait for a reader. Of more, the oldest are dropped, since a store must never wait for its
/// readers.
const KEPT: usize = 32;

/// The notices of one store. All clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct StoreNotices(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sender: Sender<StoreNotice>,
    /// Keeps what is noticed before anybody reads, as when the store is connected to.
    first: Mutex<Option<Receiver<StoreNotice>>>,
}

impl Default for StoreNotices {
    fn default() -> Self {
        let (sender, first) = broadcast::channel(KEPT);
        StoreNotices(Arc::new(Shared { sender, first: Mutex::new(Some(first)) }))
    }
}

impl StoreNotices {
    pub(crate) fn give(&self, notice: StoreNotice) {
        // An error means that the readers have gone.
        let _ = self.0.sender.send(notice);
    }

    /// Gives a notice that concerns no lock and no host.
    pub(crate) fn say(&self, kind: StoreNoticeKind, reason: &(impl Display + ?Sized)) {
        self.give(StoreNotice::new(kind, reason.to_string()));
    }

    /// The notices from now on; for the first reader, also those before.
    pub(crate) fn stream(&self) -> BoxStream<'static, StoreNotice> {
        let receiver = self.0.first.lock().take().unwrap_or_else(|| self.0.sender.subscribe());
        let next = |mut receiver: Receiver<StoreNotice>| async {
            loop {
                match receiver.recv().await {
                    Ok(notice) => return Some((notice, receiver)),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        };
        stream::unfold(receiver, next).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn ready(stream: &mut BoxStream<'static, StoreNotice>) -> Vec<String> {
        std::iter::from_fn(|| stream.next().now_or_never().flatten()).map(|notice| notice.reason).collect()
    }

    #[test]
    fn the_first_reader_has_all_notices_and_the_next_one_those_since() {
        let notices = StoreNotices::default();
        notices.say(StoreNoticeKind::Other, "a");
        let mut first = notices.stream();
        let mut second = notices.stream();
        notices.clone().say(StoreNoticeKind::Other, "b");
        assert_eq!(ready(&mut first), ["a", "b"]);
        assert_eq!(ready(&mut second), ["b"]);
        drop(first);
        notices.say(StoreNoticeKind::Other, "c");
        drop(notices);
        let last = second.next().now_or_never().flatten().unwrap();
        assert_eq!((last.kind, last.reason.as_str()), (StoreNoticeKind::Other, "c"));
        assert_eq!(second.next().now_or_never(), Some(None), "it ends with the store");
    }

    #[test]
    fn a_reader_that_is_slow_misses_the_oldest_notices() {
        let notices = StoreNotices::default();
        let numbers = |numbers: std::ops::Range<usize>| numbers.map(|number| number.to_string());
        for number in numbers(0..KEPT + 3) {
            notices.say(StoreNoticeKind::Other, &number);
        }
        assert!(ready(&mut notices.stream()).into_iter().eq(numbers(3..KEPT + 3)));
    }
}
