//! The runtime of this process: a forked child makes one of its own, and never touches its parent's.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};
use tokio::select;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::driver::{Driver, Until};

/// How long a blocking call may go on without looking whether a signal came: Ctrl-C answers within it.
const SLICE: Duration = Duration::from_millis(50);

static CURRENT: ArcSwapOption<Process> = ArcSwapOption::const_empty();

/// One process's runtime, which whoever calls drives as long as the call goes on.
pub(crate) struct Process {
    id: u32,
    pub(crate) runtime: Runtime,
    pub(crate) driver: Driver,
}

impl Process {
    /// The runtime of this process, made at the first call.
    pub(crate) fn current() -> PyResult<Arc<Self>> {
        let id = std::process::id();
        loop {
            let known = CURRENT.load_full();
            if let Some(process) = known.as_ref().filter(|process| process.id == id) {
                return Ok(Arc::clone(process));
            }
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let fresh = Arc::new(Process { id, runtime, driver: Driver::default() });
            let found = CURRENT.compare_and_swap(&known, Some(Arc::clone(&fresh)));
            if found.as_ref().map(Arc::as_ptr) == known.as_ref().map(Arc::as_ptr) {
                // The parent's: its threads are not here, and what it has open is the parent's too.
                mem::forget(known);
                Driver::start(&fresh)?;
                return Ok(fresh);
            }
        }
    }

    /// Runs a future to its end on the calling thread, without Python's lock, and answers signals meanwhile.
    ///
    /// A signal handler that raises ends the call: the future is dropped.
    pub(crate) fn block_on<T: Send>(
        &self,
        python: Python<'_>,
        until: Until,
        future: impl Future<Output = T> + Send,
    ) -> PyResult<T> {
        let mut future = Box::pin(future);
        let since = self.driver.now();
        let mut is_fresh = true;
        loop {
            let slice = python.detach(|| {
                let _calling = self.driver.calling();
                self.runtime.block_on(async {
                    if mem::take(&mut is_fresh) {
                        select! {
                            biased;
                            output = &mut future => return Ok(output),
                            () = self.driver.stay_awake(until) => {}
                        }
                    }
                    timeout(SLICE, &mut future).await
                })
            });
            match slice {
                Ok(output) => {
                    self.driver.took(until, since);
                    return Ok(output);
                }
                // Not within the runtime: a handler written in Python may take locks itself.
                Err(_) => python.check_signals()?,
            }
        }
    }

    /// Takes note of a request that no call waits for.
    pub(crate) fn requested(self: &Arc<Self>, until: Until) -> Requested {
        self.driver.requested();
        Requested { process: Arc::clone(self), until, since: self.driver.now() }
    }

    /// Sends on the calling thread what has been started, if nobody drives; the answers are left to the background, or to
    /// the event loop: true if it is to [poll](Self::poll).
    pub(crate) fn begin(&self, until: Until) -> bool {
        if self.driver.drives() {
            return false;
        }
        self.runtime.block_on(yield_now());
        let polls = self.driver.is_to_poll(until);
        if !polls {
            self.driver.take_over(until);
        }
        polls
    }

    /// Does on an event loop's thread what can be done without waiting; false once the background does it.
    pub(crate) fn poll(&self) -> bool {
        if self.driver.drives() {
            return false;
        }
        // The first yield looks at the sockets; what that wakes runs before the second one ends.
        self.runtime.block_on(async {
            yield_now().await;
            yield_now().await;
        });
        if !self.driver.is_polled() {
            self.driver.take_over(Until::Told);
            return false;
        }
        true
    }
}

/// A request of an event loop that has not been answered.
pub(crate) struct Requested {
    process: Arc<Process>,
    until: Until,
    since: u64,
}

impl Drop for Requested {
    fn drop(&mut self) {
        self.process.driver.took(self.until, self.since);
        self.process.driver.answered();
    }
}

/// Something that belongs to the process that made it: a forked child neither uses nor drops it.
pub(crate) struct Owned<T> {
    process: u32,
    value: Option<T>,
}

impl<T> Owned<T> {
    pub(crate) fn new(value: T) -> Self {
        Owned { process: std::process::id(), value: Some(value) }
    }

    /// The thing, in the process that made it.
    pub(crate) fn get(&self) -> Option<&T> {
        self.value.as_ref().filter(|_| self.process == std::process::id())
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            mem::forget(self.value.take());
        } else if let Ok(process) = Process::current() {
            // Stores close their connections on the runtime.
            let _entered = process.runtime.enter();
            drop(self.value.take());
        }
    }
}
