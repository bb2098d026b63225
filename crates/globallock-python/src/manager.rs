//! A connection to one store, made when it is first needed, by each process for itself.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::{StreamExt, TryStreamExt};
use globallock::internals::{Running, Turn, begin_in_time, redacted};
use globallock::{Entry, EntryKey, Error, LockManager, ManagerOptions, Options, Release, Result};
use pyo3::prelude::*;
use pyo3::types::PyList;
use tokio::sync::{OnceCell, watch};

use crate::bridge::Outcome;
use crate::driver::WaitKind;
use crate::failure::{InvalidOption, raise, seconds};
use crate::holds::Names;
use crate::lock_request::{Asked, LockRequest};
use crate::log::{self, Logging};
use crate::process::{ForkGuarded, Process};
use crate::request::{Request, noted_in};
use crate::watch::{Changes, Watch, fields};

/// The fields of an entry of `inspect`, in the order of [`globallock::Entry`]'s; Python makes a `Claim` of
/// them.
pub(crate) type EntryFields = (
    String,
    Option<String>,
    bool,
    u32,
    u32,
    u64,
    (String, Option<u32>, Option<String>),
    Option<f64>,
    Option<f64>,
);

/// The locks of one store.
#[pyclass(frozen, module = "globallock._rust")]
pub(crate) struct Manager {
    url: Arc<str>,
    options: Arc<ManagerOptions>,
    connected: ArcSwapOption<Connected>,
    /// What callers of this process hold, by all managers of this address.
    names: Arc<Names>,
}

/// A process's connection.
pub(crate) struct Connected {
    process: u32,
    store: ForkGuarded<OnceCell<LockManager>>,
    /// Tells those who watch when it is closed.
    pub(crate) closed: watch::Sender<bool>,
}

/// The fields of an entry, for Python.
fn entry_fields(entry: Entry) -> EntryFields {
    let span = |span: Option<Duration>| span.map(|span| span.as_secs_f64());
    (
        entry.key.as_str().to_owned(),
        entry.id.map(|id| id.to_string()),
        entry.held,
        entry.permits.count,
        entry.permits.capacity,
        entry.fencing_token,
        (entry.owner.host, entry.owner.pid, entry.owner.label),
        span(entry.age),
        span(entry.expires_in),
    )
}

impl Connected {
    /// `process` is the one that asks. A forked child does not use its parent's connection.
    pub(crate) async fn manager(
        &self,
        process: u32,
        url: &str,
        options: &ManagerOptions,
    ) -> Result<&LockManager> {
        let store = self.store.get_in(process).ok_or(Error::Closed)?;
        store.get_or_try_init(async || LockManager::connect_lazy(url, options.clone())).await
    }
}

/// An address without all that may be a secret.
pub(crate) fn shown(address: &str) -> String {
    redacted(address).replace("…@", "")
}

/// The connection of this process, and what makes it.
struct Store {
    connected: Arc<Connected>,
    url: Arc<str>,
    options: Arc<ManagerOptions>,
}

impl Store {
    async fn manager(&self) -> Result<&LockManager> {
        self.connected.manager(self.connected.process, &self.url, &self.options).await
    }
}

impl Manager {
    /// This process's connection, which may not be made yet.
    fn connected(&self) -> Arc<Connected> {
        self.connected_in(std::process::id())
    }

    /// The same, where it is known which process this is: to ask costs a system call.
    fn connected_in(&self, process: u32) -> Arc<Connected> {
        loop {
            let known = self.connected.load_full();
            if let Some(connected) = known.as_ref().filter(|connected| connected.process == process) {
                return Arc::clone(connected);
            }
            let store = ForkGuarded::of(process, OnceCell::new());
            let fresh = Arc::new(Connected { process, store, closed: watch::Sender::new(false) });
            self.connected.compare_and_swap(&known, Some(fresh));
        }
    }

    fn store(&self) -> Store {
        Store { connected: self.connected(), url: Arc::clone(&self.url), options: Arc::clone(&self.options) }
    }
}

/// Acquires a lock by this connection.
async fn acquire(
    connected: &Connected,
    url: &str,
    options: &ManagerOptions,
    asked: &Arc<Asked>,
    names: &Arc<Names>,
) -> Result<Outcome> {
    let process = connected.process;
    let lock = asked.lock(connected.manager(process, url, options).await?, &options.locks);
    let guard = match lock.options().wait {
        Some(wait) => lock.try_acquire_for(wait).await?,
        None => Some(lock.acquire().await?),
    };
    Ok(Outcome::Granted(guard.map(|guard| asked.granted(guard, process, names, None))))
}

#[pymethods]
impl Manager {
    /// Keeps the address of a store; the first request connects.
    #[new]
    fn new(url: String, lease: f64, label: Option<String>) -> PyResult<Self> {
        let locks = Options::new().lease(seconds("the lease", lease)?);
        let options = ManagerOptions::new().locks(locks).observer(Arc::new(Logging::of(&url)));
        let options = label.into_iter().fold(options, ManagerOptions::label);
        let names = Names::of(&url);
        let (url, options) = (url.into(), Arc::new(options));
        Ok(Manager { url, options, connected: ArcSwapOption::empty(), names })
    }

    /// The address of the store, without all that may be a secret.
    #[getter]
    fn address(&self) -> String {
        shown(&self.url)
    }

    /// Acquires a lock; `None` if it was not granted in time. That another owner holds it is no error.
    fn acquire(&self, request: &Bound<'_, LockRequest>) -> Request {
        let (store, asked, names) = (self.store(), request.get().asked(), Arc::clone(&self.names));
        Request::fallible(WaitKind::Grant, async move {
            acquire(&store.connected, &store.url, &store.options, &asked, &names).await
        })
    }

    /// Does the same for the calling thread, which waits for it: with no request in between, and so cheaper.
    ///
    /// Puts what is granted into `taken` as well, before Python code can be interrupted.
    fn take(&self, request: &Bound<'_, LockRequest>, taken: &Bound<'_, PyList>) -> PyResult<Py<PyAny>> {
        let (python, process, asked) = (request.py(), Process::current()?, request.get().asked());
        let connected = self.connected_in(process.id);
        let (url, options, names) = (&*self.url, &*self.options, &self.names);
        let outcome = process.block_on(python, WaitKind::Grant, async {
            acquire(&connected, url, options, &asked, names).await.unwrap_or_else(Outcome::Failed)
        })?;
        noted_in(python, outcome, Some(taken))
    }

    /// Acquires a lock for work that is done once in a while: a guard if the work is to be done, how many
    /// seconds ago the last success began if not, `None` if the lock was not granted in time.
    fn begin(&self, request: &Bound<'_, LockRequest>, every: f64) -> PyResult<Request> {
        let (store, asked, names) = (self.store(), request.get().asked(), Arc::clone(&self.names));
        let every = seconds("every", every)?;
        Ok(Request::fallible(WaitKind::Grant, async move {
            let (manager, options) = (store.manager().await?, asked.options(&store.options.locks));
            let turn = begin_in_time(&manager.once(&asked.name).every(every).with_options(options)).await?;
            Ok(match turn {
                None => Outcome::Granted(None),
                Some(Turn::Skip { began }) => Outcome::Skipped(began.as_secs_f64()),
                Some(Turn::Run(Running { began, guard })) => {
                    let process = store.connected.process;
                    Outcome::Granted(Some(asked.granted(guard, process, &names, Some(began))))
                }
            })
        }))
    }

    /// The acquisitions of this process that have the name, oldest first, for a request that waits for ever.
    /// `None` if there are none, or the wait ends.
    fn holds<'py>(&self, request: &Bound<'py, LockRequest>) -> Option<Vec<Bound<'py, PyAny>>> {
        let asked = request.get();
        if asked.waits_for_ever() { self.names.holds(request.py(), asked.name()) } else { None }
    }

    /// Lists the claims of a name, oldest first.
    fn inspect(&self, name: String) -> Request {
        let store = self.store();
        Request::answered(async move {
            let entries = store.manager().await?.inspect(&name).await?;
            Ok(Outcome::Entries(entries.into_iter().map(entry_fields).collect()))
        })
    }

    /// Lists the names that begin with `prefix` and have a claim.
    fn names(&self, prefix: String) -> Request {
        let store = self.store();
        Request::answered(async move {
            let listed = store.manager().await?.list(&prefix);
            let names = listed.map(|listed| Ok(listed?.name.as_str().to_owned()));
            names.try_collect().await.map(Outcome::Names)
        })
    }

    /// Sums up the names that begin with `prefix` and have a claim.
    fn list(&self, prefix: String) -> Request {
        let store = self.store();
        Request::answered(async move {
            let listed = store.manager().await?.list(&prefix);
            let summaries = listed.map(|listed| Ok(fields(&listed?)));
            summaries.try_collect().await.map(Outcome::Summaries)
        })
    }

    /// Takes a claim out of the queue of a name, and says whether it was there.
    fn evict(&self, name: String, key: String, reason: String) -> Request {
        let store = self.store();
        Request::answered(async move {
            let release = store.manager().await?.evict(&name, &EntryKey::new(key), &reason).await?;
            Ok(Outcome::Flag(Some(release == Release::Released)))
        })
    }

    /// Tells how the names that begin with `prefix` change, looking `every` so many seconds.
    fn watch(&self, prefix: String, every: f64) -> PyResult<Watch> {
        let Store { connected, url, options } = self.store();
        let pause = seconds("the interval", every)?;
        if pause.is_zero() {
            return Err(InvalidOption::new_err(
                "the interval is 0, which would ask the store without a pause",
            ));
        }
        let disconnected = connected.closed.subscribe();
        Ok(Watch::new(Changes::new(connected, url, options, prefix, pause), disconnected))
    }

    /// Connects, unless this process is connected already: so it shows that the store can be reached.
    fn connect(&self, python: Python<'_>) -> PyResult<()> {
        let store = self.store();
        let reached = async move { store.manager().await.map(|_| ()) };
        Process::current()?.block_on(python, WaitKind::Answer, reached)?.map_err(|error| raise(&error))
    }

    /// Closes the connection once all releases have been answered, or after `limit` seconds. A later request
    /// connects again.
    fn close(&self, python: Python<'_>, limit: f64) -> PyResult<()> {
        let process = std::process::id();
        let known = self.connected.load_full().filter(|connected| connected.process == process);
        let Some(connected) = known else { return Ok(()) };
        self.connected.store(None);
        connected.closed.send_replace(true);
        let limit = seconds("the limit", limit)?;
        Process::current()?.block_on(python, WaitKind::Answer, async {
            if let Some(manager) = connected.store.get().and_then(OnceCell::get) {
                let _ = tokio::time::timeout(limit, manager.close()).await;
            }
        })?;
        log::flush(python);
        Ok(())
    }
}
