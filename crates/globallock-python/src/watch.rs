//! How the names of a store change, one change after the other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, Fuse};
use futures_util::{FutureExt, StreamExt};
use globallock::{Change, LockManager, ManagerOptions, Result, Summary};
use pyo3::prelude::*;
use tokio::select;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::bridge::Outcome;
use crate::driver::WaitKind;
use crate::failure::{GlobalLockError, raise};
use crate::manager::Connected;
use crate::process::{ForkGuarded, Process};
use crate::request::Request;

/// The fields of a summary, in the order of [`globallock::Summary`]'s; Python makes a `Summary` of them. A
/// name that is free has no kind.
pub(crate) type SummaryFields = (String, Option<String>, usize, usize, u64, Option<f64>);

pub(crate) fn fields(summary: &Summary) -> SummaryFields {
    (
        summary.name.as_str().to_owned(),
        Some(summary.kind.to_string()),
        summary.holders,
        summary.waiters,
        summary.fencing_token,
        summary.oldest.map(|oldest| oldest.as_secs_f64()),
    )
}

/// The changes of a store. The store is asked only while somebody waits for a change, so no task is left
/// behind when nobody does.
#[pyclass(frozen, module = "globallock._rust")]
pub(crate) struct Watch(Arc<ForkGuarded<Watched>>);

struct Watched {
    changes: tokio::sync::Mutex<Option<Changes>>,
    /// What was not taken yet. A wait that is cancelled when its change has just come does not lose it.
    ready: Mutex<VecDeque<Result<Change>>>,
    closed: watch::Sender<bool>,
    /// Whether the connection is closed.
    disconnected: watch::Receiver<bool>,
}

/// The stream of a manager, together with the manager that it borrows from.
pub(crate) struct Changes {
    received: mpsc::Receiver<Result<Change>>,
    /// Sends the changes. It runs only while the next change is waited for.
    sending: Fuse<BoxFuture<'static, ()>>,
}

impl Changes {
    pub(crate) fn new(
        connected: Arc<Connected>,
        url: Arc<str>,
        options: Arc<ManagerOptions>,
        prefix: String,
        every: Duration,
    ) -> Self {
        let (sender, received) = mpsc::channel(1);
        let sending = async move {
            let manager = loop {
                match connected.manager(std::process::id(), &url, &options).await {
                    Ok(manager) => break manager,
                    Err(error) => {
                        let may_heal = error.is_retryable();
                        if sender.send(Err(error)).await.is_err() || !may_heal {
                            return;
                        }
                        sleep(every).await;
                    }
                }
            };
            let mut changes = LockManager::watch(manager, &prefix, every);
            while let Some(change) = changes.next().await {
                if sender.send(change).await.is_err() {
                    return;
                }
            }
        };
        Changes { received, sending: sending.boxed().fuse() }
    }

    /// The next change; `None` after the last one. If dropped, nothing is lost.
    async fn next(&mut self) -> Option<Result<Change>> {
        loop {
            select! {
                biased;
                change = self.received.recv() => return change,
                () = &mut self.sending => {}
            }
        }
    }
}

impl Watched {
    fn ready(&self) -> MutexGuard<'_, VecDeque<Result<Change>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is a change to take; false once there will be none any more.
    async fn wait(&self) -> bool {
        let (mut closed, mut disconnected) = (self.closed.subscribe(), self.disconnected.clone());
        let mut changes = self.changes.lock().await;
        let next = async {
            if !self.ready().is_empty() {
                return true;
            }
            let Some(stream) = changes.as_mut() else { return false };
            let change = stream.next().await;
            self.ready().extend(change);
            !self.ready().is_empty()
        };
        let has_next = select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => false,
            // Also if the sender is gone.
            _ = disconnected.wait_for(|disconnected| *disconnected) => false,
            has_next = next => has_next,
        };
        if !has_next {
            *changes = None;
        }
        has_next
    }
}

impl Watch {
    /// Takes changes until `disconnected` says that the connection is closed.
    pub(crate) fn new(changes: Changes, disconnected: watch::Receiver<bool>) -> Self {
        Watch(Arc::new(ForkGuarded::new(Watched {
            changes: tokio::sync::Mutex::new(Some(changes)),
            ready: Mutex::default(),
            closed: watch::Sender::new(false),
            disconnected,
        })))
    }

    fn here(&self) -> PyResult<&Watched> {
        let error =
            || GlobalLockError::new_err("this watch belongs to another process: call watch() again here");
        self.0.get().ok_or_else(error)
    }
}

#[pymethods]
impl Watch {
    /// Waits until there is a change to take; false once there will be none any more.
    fn next(&self) -> PyResult<Request> {
        self.here()?;
        let watched = Arc::clone(&self.0);
        Ok(Request::new(WaitKind::Notification, async move {
            Outcome::Flag(Some(match watched.get() {
                Some(watched) => watched.wait().await,
                None => false,
            }))
        }))
    }

    /// Takes the change that was waited for; `None` if somebody else has taken it.
    fn take(&self) -> PyResult<Option<SummaryFields>> {
        match self.here()?.ready().pop_front() {
            Some(Ok(Change::Changed(summary))) => Ok(Some(fields(&summary))),
            Some(Ok(Change::Removed(name))) => Ok(Some((name.as_str().to_owned(), None, 0, 0, 0, None))),
            None | Some(Ok(_)) => Ok(None),
            Some(Err(error)) => Err(raise(&error)),
        }
    }

    /// Ends the waits, and drops what the changes come from.
    fn close(&self) -> PyResult<()> {
        let Some(watched) = self.0.get() else { return Ok(()) };
        watched.closed.send_replace(true);
        // Where somebody waits, that wait drops it.
        if let Ok(mut changes) = watched.changes.try_lock() {
            let process = Process::current()?;
            let _entered = process.runtime.enter();
            *changes = None;
        }
        Ok(())
    }
}
