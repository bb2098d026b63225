//! Counterparts of the core's synchronization: threads switch where a search decides, and time passes when a
//! test lets it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{LazyLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::{Either, select};
use shuttle::sync::atomic::{AtomicBool, Ordering};
pub(crate) use shuttle::sync::{Mutex, MutexGuard};

use super::Instant;

/// A point where the search may switch to another thread.
fn switch() {
    AtomicBool::new(false).load(Ordering::SeqCst);
}

/// tokio's, with a point to switch before each step.
#[derive(Debug, Default)]
pub(crate) struct Notify(tokio::sync::Notify);

impl Notify {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_one(&self) {
        switch();
        self.0.notify_one();
    }

    pub(crate) fn notify_waiters(&self) {
        switch();
        self.0.notify_waiters();
    }

    pub(crate) fn notified(&self) -> impl Future<Output = ()> + Send {
        switch();
        let notified = self.0.notified();
        async move {
            switch();
            notified.await;
        }
    }
}

/// tokio's, with a point to switch before each step.
pub(crate) mod watch {
    use super::switch;

    #[derive(Clone, Debug)]
    pub(crate) struct Sender<T>(tokio::sync::watch::Sender<T>);

    pub(crate) struct Receiver<T>(tokio::sync::watch::Receiver<T>);

    impl<T> Sender<T> {
        pub(crate) fn new(value: T) -> Self {
            Sender(tokio::sync::watch::Sender::new(value))
        }

        pub(crate) fn borrow(&self) -> tokio::sync::watch::Ref<'_, T> {
            switch();
            self.0.borrow()
        }

        pub(crate) fn send_replace(&self, value: T) -> T {
            switch();
            self.0.send_replace(value)
        }

        pub(crate) fn send_modify(&self, modify: impl FnOnce(&mut T)) {
            switch();
            self.0.send_modify(modify);
        }

        pub(crate) fn subscribe(&self) -> Receiver<T> {
            switch();
            Receiver(self.0.subscribe())
        }
    }

    impl<T> Receiver<T> {
        pub(crate) async fn wait_for(
            &mut self,
            wanted: impl FnMut(&T) -> bool,
        ) -> Result<tokio::sync::watch::Ref<'_, T>, tokio::sync::watch::error::RecvError> {
            switch();
            self.0.wait_for(wanted).await
        }
    }
}

/// The counterpart of the runtime's handle. The search runs the tasks.
#[derive(Clone)]
pub(crate) struct Handle;

impl Handle {
    pub(crate) fn current() -> Self {
        Handle
    }

    pub(crate) fn spawn<F>(&self, future: F) -> shuttle::future::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        shuttle::future::spawn(future)
    }
}

/// When the time of every schedule begins. It is in the future, so that tests can subtract from it.
static BEGIN: LazyLock<Instant> =
    LazyLock::new(|| Instant::at(std::time::Instant::now(), Duration::from_secs(86_400)));

#[derive(Default)]
struct Clock {
    passed: Duration,
    sleepers: BTreeMap<(Instant, u64), Waker>,
    last: u64,
}

shuttle::lazy_static! {
    // One for each schedule. It uses the standard library's mutex, so that reading the clock is no point to
    // switch.
    static ref CLOCK: std::sync::Mutex<Clock> = std::sync::Mutex::default();
}

fn clock<T>(with: impl FnOnce(&mut Clock) -> T) -> T {
    with(&mut CLOCK.lock().unwrap_or_else(PoisonError::into_inner))
}

pub(crate) fn now() -> Instant {
    *BEGIN + clock(|clock| clock.passed)
}

/// Lets time pass, and wakes the tasks whose sleep ends.
pub(crate) fn pass(duration: Duration) {
    let woken: Vec<Waker> = clock(|clock| {
        clock.passed += duration;
        let now = *BEGIN + clock.passed;
        let later = clock.sleepers.split_off(&(now, u64::MAX));
        std::mem::replace(&mut clock.sleepers, later).into_values().collect()
    });
    woken.into_iter().for_each(Waker::wake);
}

/// Sleeps until a moment. Its number tells it from other sleeps until the same moment.
struct Sleep {
    key: (Instant, u64),
}

impl Sleep {
    fn new(until: Instant) -> Self {
        let number = clock(|clock| {
            clock.last += 1;
            clock.last
        });
        Sleep { key: (until, number) }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.key.0 <= now() {
            return Poll::Ready(());
        }
        clock(|clock| clock.sleepers.insert(self.key, context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        clock(|clock| clock.sleepers.remove(&self.key));
    }
}

pub(crate) async fn sleep_until(until: Instant) {
    Sleep::new(until).await;
}

pub(crate) async fn timeout_at<F: Future>(until: Instant, future: F) -> Result<F::Output, ()> {
    match select(Box::pin(future), Sleep::new(until)).await {
        Either::Left((output, _)) => Ok(output),
        Either::Right(_) => Err(()),
    }
}

/// Nothing suspends the search.
pub(crate) fn watch_suspensions() {}
