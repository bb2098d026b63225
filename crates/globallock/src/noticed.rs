//! What a store notices by itself, told to the observers of one manager.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::stream::{BoxStream, Fuse, StreamExt};

use crate::backend::{Backend, StoreNotice};
use crate::observe::{Event, Observers};
use crate::sync::Mutex;

/// The notices of a store that one manager has not told yet. It tells the last of them when it is dropped.
pub(crate) struct Noticed {
    untold: Mutex<Untold>,
}

struct Untold {
    store: Arc<str>,
    observers: Observers,
    notices: Fuse<BoxStream<'static, StoreNotice>>,
}

impl Noticed {
    pub(crate) fn new(backend: &dyn Backend, observers: Observers) -> Self {
        let (store, notices) = (backend.address().into(), backend.notices().fuse());
        Noticed { untold: Mutex::new(Untold { store, observers, notices }) }
    }

    /// Tells each notice as it comes, and never ends.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn told(&self) {
        std::future::poll_fn(|context| self.untold.lock().tell(context)).await;
    }

    /// Tells what has been noticed until now. Whoever waits in [`Self::told`] must be woken after it, because
    /// the store would wake the caller of this instead.
    pub(crate) fn tell(&self) {
        let _: Poll<()> = self.untold.lock().tell(&mut Context::from_waker(Waker::noop()));
    }
}

impl Untold {
    /// Called while it is locked, so that all is told in order.
    fn tell(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(Some(notice)) = self.notices.poll_next_unpin(context) {
            self.observers.tell(&Event::StoreNotice { store: &self.store, notice: &notice });
        }
        Poll::Pending
    }
}

impl Drop for Noticed {
    fn drop(&mut self) {
        let _: Poll<()> = self.untold.get_mut().tell(&mut Context::from_waker(Waker::noop()));
    }
}
