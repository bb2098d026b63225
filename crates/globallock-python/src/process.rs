//! The runtime of this process. A forked child makes one of its own, and never touches its parent's.

use std::mem;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::FutureExt;
use futures_util::future::{AbortHandle, BoxFuture, abortable};
use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};
use tokio::select;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::driver::{Driver, WaitKind};

/// How often a blocking call checks for signals: Ctrl-C takes effect within it.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

static CURRENT: ArcSwapOption<Process> = ArcSwapOption::const_empty();

/// One process's runtime, which a calling thread drives during its call.
pub(crate) struct Process {
    pub(crate) id: u32,
    pub(crate) runtime: Runtime,
    pub(crate) driver: Driver,
    submitted: Arc<Submitted>,
}

/// What the background is to run. Its thread is woken once for all that comes while it is busy.
#[derive(Default)]
struct Submitted {
    queue: Mutex<Queue>,
    is_filled: Notify,
}

#[derive(Default)]
struct Queue {
    futures: Vec<BoxFuture<'static, ()>>,
    /// Whether the background looks without being woken.
    is_watched: bool,
}

impl Submitted {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, future: BoxFuture<'static, ()>) {
        let mut queue = self.queue();
        queue.futures.push(future);
        if !mem::replace(&mut queue.is_watched, true) {
            drop(queue);
            self.is_filled.notify_one();
        }
    }

    async fn run(self: Arc<Self>) {
        loop {
            let futures = {
                let mut queue = self.queue();
                queue.is_watched = !queue.futures.is_empty();
                mem::take(&mut queue.futures)
            };
            if futures.is_empty() {
                self.is_filled.notified().await;
                continue;
            }
            for future in futures {
                tokio::spawn(future);
            }
            // Those that were spawned run now, and the sockets are polled.
            yield_now().await;
        }
    }
}

impl Process {
    /// The runtime of this process, made at the first call.
    pub(crate) fn current() -> PyResult<Arc<Self>> {
        Process::of(std::process::id())
    }

    /// The same, where it is known which process this is: to ask costs a system call.
    fn of(id: u32) -> PyResult<Arc<Self>> {
        loop {
            let known = CURRENT.load_full();
            if let Some(process) = known.as_ref().filter(|process| process.id == id) {
                return Ok(Arc::clone(process));
            }
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let submitted = Arc::new(Submitted::default());
            runtime.spawn(Arc::clone(&submitted).run());
            let fresh = Arc::new(Process { id, runtime, driver: Driver::default(), submitted });
            let found = CURRENT.compare_and_swap(&known, Some(Arc::clone(&fresh)));
            if found.as_ref().map(Arc::as_ptr) == known.as_ref().map(Arc::as_ptr) {
                // `known` is the parent's. Dropping it here would wait for threads that only the parent has,
                // and close connections that the parent uses.
                mem::forget(known);
                Driver::start(&fresh)?;
                return Ok(fresh);
            }
        }
    }

    /// Runs a future to its end on the calling thread, without Python's global lock, and handles signals
    /// meanwhile.
    ///
    /// A signal handler that raises ends the call: the future is dropped.
    pub(crate) fn block_on<T: Send>(
        &self,
        python: Python<'_>,
        kind: WaitKind,
        future: impl Future<Output = T> + Send,
    ) -> PyResult<T> {
        let mut future = pin!(future);
        let since = self.driver.now();
        let mut is_fresh = true;
        loop {
            let slice = python.detach(|| {
                let _call = self.driver.begin_call();
                self.runtime.block_on(async {
                    if mem::take(&mut is_fresh) {
                        select! {
                            biased;
                            output = &mut future => {
                                self.driver.let_others_run().await;
                                return Ok(output);
                            }
                            () = self.driver.spin(kind) => {}
                        }
                    }
                    timeout(SIGNAL_INTERVAL, &mut future).await
                })
            });
            match slice {
                Ok(output) => {
                    self.driver.record_wait(kind, since);
                    return Ok(output);
                }
                // Outside the runtime, because a signal handler written in Python may acquire locks itself.
                Err(_) => python.check_signals()?,
            }
        }
    }

    /// Has the runtime run a future, which is dropped if it is aborted.
    pub(crate) fn run(&self, future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let (future, abort) = abortable(future);
        if self.driver.background_drives() {
            self.submitted.push(future.map(drop).boxed());
        } else {
            self.runtime.spawn(future);
        }
        abort
    }

    /// Counts a request of an event loop until what is returned is dropped.
    pub(crate) fn begin_request(self: &Arc<Self>, kind: WaitKind) -> PendingRequest {
        self.driver.begin_request();
        PendingRequest { process: Arc::clone(self), kind, since: self.driver.now() }
    }

    /// Sends started requests from the calling thread, unless the background drives already. The answers are
    /// left to the background, or to the event loop: true if the loop must [poll](Self::poll).
    pub(crate) fn send(&self, kind: WaitKind) -> bool {
        if self.driver.background_drives() {
            return false;
        }
        self.runtime.block_on(yield_now());
        let polling = self.driver.start_polling(kind);
        if !polling {
            self.driver.hand_over(kind);
        }
        polling
    }

    /// Runs on an event loop's thread what can run without waiting; false once the background drives.
    pub(crate) fn poll(&self) -> bool {
        if self.driver.background_drives() {
            return false;
        }
        // The first yield polls the sockets; the tasks that this wakes run before the second one ends.
        self.runtime.block_on(async {
            yield_now().await;
            yield_now().await;
        });
        if !self.driver.is_polling() {
            self.driver.hand_over(WaitKind::Notification);
            return false;
        }
        true
    }
}

/// A request of an event loop that has not been answered yet.
pub(crate) struct PendingRequest {
    process: Arc<Process>,
    kind: WaitKind,
    since: u64,
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        self.process.driver.record_wait(self.kind, self.since);
        self.process.driver.end_request();
    }
}

/// A value that belongs to the process that made it: a forked child neither uses nor drops it.
pub(crate) struct ForkGuarded<T> {
    process: u32,
    value: Option<T>,
}

impl<T> ForkGuarded<T> {
    pub(crate) fn new(value: T) -> Self {
        ForkGuarded { process: std::process::id(), value: Some(value) }
    }

    /// The same, where it is known which process this is.
    pub(crate) fn of(process: u32, value: T) -> Self {
        ForkGuarded { process, value: Some(value) }
    }

    /// The value, which must not be used for anything that a forked child may not do.
    pub(crate) fn get_anywhere(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// The value, where it is known which process this is: to ask costs a system call.
    pub(crate) fn get_in(&self, process: u32) -> Option<&T> {
        self.value.as_ref().filter(|_| self.process == process)
    }

    /// Drops the value already if nothing is left of it that concerns its process, so that nobody need ask
    /// which process this is.
    pub(crate) fn drop_if(&mut self, is_nothing: impl FnOnce(&mut T) -> bool) {
        if self.value.as_mut().is_some_and(is_nothing) {
            self.value = None;
        }
    }

    /// The value, in the process that made it; `None` in a forked child.
    pub(crate) fn get(&self) -> Option<&T> {
        self.value.as_ref().filter(|_| self.process == std::process::id())
    }
}

impl<T> Drop for ForkGuarded<T> {
    fn drop(&mut self) {
        if self.value.is_none() {
            return;
        }
        let here = std::process::id();
        if self.process != here {
            mem::forget(self.value.take());
        } else if let Ok(process) = Process::of(here) {
            // Stores need the runtime to close their connections.
            let _entered = process.runtime.enter();
            drop(self.value.take());
        }
    }
}
