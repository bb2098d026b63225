//! The runtime of this process: a forked child makes one of its own, and never touches its parent's.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// How long a blocking call may go on without looking whether a signal came: Ctrl-C answers within it.
const SLICE: Duration = Duration::from_millis(50);

static CURRENT: ArcSwapOption<Process> = ArcSwapOption::const_empty();

/// One process's runtime.
pub(crate) struct Process {
    id: u32,
    pub(crate) runtime: Runtime,
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
            let runtime = Builder::new_multi_thread()
                .worker_threads(2)
                .thread_name("globallock")
                .enable_all()
                .build()?;
            let fresh = Arc::new(Process { id, runtime });
            let found = CURRENT.compare_and_swap(&known, Some(Arc::clone(&fresh)));
            if found.as_ref().map(Arc::as_ptr) == known.as_ref().map(Arc::as_ptr) {
                // The parent's: its threads are not here, and what it has open is the parent's too.
                mem::forget(known);
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
        future: impl Future<Output = T> + Send,
    ) -> PyResult<T> {
        let mut future = Box::pin(future);
        loop {
            let runtime = &self.runtime;
            let slice = python.detach(|| runtime.block_on(async { timeout(SLICE, &mut future).await }));
            match slice {
                Ok(output) => return Ok(output),
                // Not within the runtime: a handler written in Python may take locks itself.
                Err(_) => python.check_signals()?,
            }
        }
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
