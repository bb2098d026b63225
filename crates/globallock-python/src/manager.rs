//! A connection to one store, made when it is first needed, by each process for itself.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::StreamExt;
use globallock::{Error, Lock, LockKind, LockManager, ManagerOptions, Options, Result};
use pyo3::prelude::*;
use tokio::sync::OnceCell;

use crate::bridge::{Bridge, Outcome};
use crate::driver::WaitKind;
use crate::failure::{InvalidOption, raise};
use crate::process::{ForkGuarded, Process};

/// The fields of an entry of `inspect`, in the order of [`globallock::Entry`]'s; Python makes a `Claim` of
/// them.
pub(crate) type EntryFields =
    (Option<String>, bool, u32, u32, u64, (String, Option<u32>, Option<String>), Option<f64>, Option<f64>);

/// The locks of one store.
#[pyclass(frozen, module = "globallock._rust")]
pub(crate) struct Manager {
    url: String,
    options: ManagerOptions,
    connected: ArcSwapOption<Connected>,
}

/// A process's connection.
struct Connected {
    process: u32,
    store: ForkGuarded<OnceCell<LockManager>>,
}

/// Which lock to acquire, and how. The kind is `mutex`, `read`, `write`, or `permits` of a semaphore.
#[derive(Clone, FromPyObject)]
struct LockRequest {
    name: String,
    kind: String,
    permits: u32,
    capacity: u32,
    /// In seconds, like the next two. `None` waits for ever, zero tries once.
    wait: Option<f64>,
    max_hold: Option<f64>,
    lease: Option<f64>,
}

fn seconds(option: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| InvalidOption::new_err(format!("{option} is {value}, which is not a number of seconds")))
}

impl LockRequest {
    fn options(&self, defaults: &Options) -> PyResult<Options> {
        let optional = |option, value: Option<f64>| value.map(|value| seconds(option, value)).transpose();
        Ok(defaults
            .clone()
            .lease(optional("the lease", self.lease)?.unwrap_or(defaults.lease))
            .max_hold(optional("the max hold time", self.max_hold)?)
            .wait(optional("the wait", self.wait)?))
    }

    fn lock(&self, manager: &LockManager, options: Options) -> Result<Lock> {
        let kind = match self.kind.as_str() {
            "permits" => LockKind::Permits { count: self.permits, capacity: self.capacity },
            kind => kind.parse()?,
        };
        Ok(manager.lock(&self.name, kind).with_options(options))
    }
}

/// Acquires a lock. That another owner holds it is an outcome, not an error.
async fn acquire(
    connected: Arc<Connected>,
    url: String,
    defaults: ManagerOptions,
    request: LockRequest,
    options: Options,
) -> Outcome {
    let acquired = async {
        let manager = connected.manager(&url, defaults).await?;
        let lock = request.lock(manager, options)?;
        match lock.options().wait {
            Some(wait) => lock.try_acquire_for(wait).await,
            None => lock.acquire().await.map(Some),
        }
    };
    match acquired.await {
        Ok(guard) => Outcome::Granted(guard),
        Err(error) => Outcome::Failed(error),
    }
}

async fn inspect(connected: Arc<Connected>, url: String, defaults: ManagerOptions, name: String) -> Outcome {
    let inspected = async {
        let entries = connected.manager(&url, defaults).await?.inspect(&name).await?;
        Ok(entries.into_iter().map(|entry| {
            let owner = (entry.owner.host, entry.owner.pid, entry.owner.label);
            let id = entry.id.map(|id| id.to_string());
            let span = |span: Option<Duration>| span.map(|span| span.as_secs_f64());
            let (count, capacity) = (entry.permits.count, entry.permits.capacity);
            (
                id,
                entry.held,
                count,
                capacity,
                entry.fencing_token,
                owner,
                span(entry.age),
                span(entry.expires_in),
            )
        }))
    };
    match inspected.await {
        Ok(entries) => Outcome::Entries(entries.collect()),
        Err(error) => Outcome::Failed(error),
    }
}

async fn names(connected: Arc<Connected>, url: String, defaults: ManagerOptions, prefix: String) -> Outcome {
    let found = async {
        let names = connected.manager(&url, defaults).await?.names(&prefix);
        let names: Vec<Result<globallock::Name>> = names.collect().await;
        names.into_iter().map(|name| Ok(name?.as_str().to_owned())).collect::<Result<Vec<String>>>()
    };
    match found.await {
        Ok(names) => Outcome::Names(names),
        Err(error) => Outcome::Failed(error),
    }
}

impl Connected {
    async fn manager(&self, url: &str, options: ManagerOptions) -> Result<&LockManager> {
        // `None` in a forked child: the parent's connection is not used there.
        let store = self.store.get().ok_or(Error::Closed)?;
        store.get_or_try_init(|| LockManager::connect_with(url, options)).await
    }
}

impl Manager {
    /// This process's connection, which may not be made yet.
    fn connected(&self) -> Arc<Connected> {
        let process = std::process::id();
        loop {
            let known = self.connected.load_full();
            if let Some(connected) = known.as_ref().filter(|connected| connected.process == process) {
                return Arc::clone(connected);
            }
            let fresh = Arc::new(Connected { process, store: ForkGuarded::new(OnceCell::new()) });
            self.connected.compare_and_swap(&known, Some(fresh));
        }
    }

    fn run(
        &self,
        python: Python<'_>,
        kind: WaitKind,
        request: impl Future<Output = Outcome> + Send,
    ) -> PyResult<Py<PyAny>> {
        Process::current()?.block_on(python, kind, request)?.into_python(python)
    }

    fn parts(&self) -> (Arc<Connected>, String, ManagerOptions) {
        (self.connected(), self.url.clone(), self.options.clone())
    }
}

#[pymethods]
impl Manager {
    /// Keeps the address of a store; the first request connects.
    #[new]
    fn new(url: String, lease: f64, label: Option<String>) -> PyResult<Self> {
        let locks = Options::new().lease(seconds("the lease", lease)?);
        let options = ManagerOptions::new().locks(locks);
        let options = label.into_iter().fold(options, ManagerOptions::label);
        Ok(Manager { url, options, connected: ArcSwapOption::empty() })
    }

    /// Acquires a lock; `None` if it was not granted in time.
    fn acquire(&self, python: Python<'_>, request: LockRequest) -> PyResult<Py<PyAny>> {
        let options = request.options(&self.options.locks)?;
        let (connected, url, defaults) = self.parts();
        self.run(python, WaitKind::Grant, acquire(connected, url, defaults, request, options))
    }

    /// Does the same for an event loop.
    fn acquire_on(&self, bridge: &Bridge, request: LockRequest) -> PyResult<u64> {
        let options = request.options(&self.options.locks)?;
        let (connected, url, defaults) = self.parts();
        bridge.start(WaitKind::Grant, acquire(connected, url, defaults, request, options))
    }

    /// Lists the claims of a name, oldest first.
    fn inspect(&self, python: Python<'_>, name: String) -> PyResult<Py<PyAny>> {
        let (connected, url, defaults) = self.parts();
        self.run(python, WaitKind::Answer, inspect(connected, url, defaults, name))
    }

    /// Does the same for an event loop.
    fn inspect_on(&self, bridge: &Bridge, name: String) -> PyResult<u64> {
        let (connected, url, defaults) = self.parts();
        bridge.start(WaitKind::Answer, inspect(connected, url, defaults, name))
    }

    /// Lists the names that begin with `prefix` and have a claim.
    fn names(&self, python: Python<'_>, prefix: String) -> PyResult<Py<PyAny>> {
        let (connected, url, defaults) = self.parts();
        self.run(python, WaitKind::Answer, names(connected, url, defaults, prefix))
    }

    /// Does the same for an event loop.
    fn names_on(&self, bridge: &Bridge, prefix: String) -> PyResult<u64> {
        let (connected, url, defaults) = self.parts();
        bridge.start(WaitKind::Answer, names(connected, url, defaults, prefix))
    }

    /// Connects, unless this process is connected already: so it shows that the store can be reached.
    fn connect(&self, python: Python<'_>) -> PyResult<()> {
        let (connected, url, defaults) = self.parts();
        let reached = async move { connected.manager(&url, defaults).await.map(|_| ()) };
        Process::current()?.block_on(python, WaitKind::Answer, reached)?.map_err(|error| raise(&error))
    }

    /// Closes the connection once all releases have been answered, or after `limit` seconds. A later request
    /// connects again.
    fn close(&self, python: Python<'_>, limit: f64) -> PyResult<()> {
        let process = std::process::id();
        let known = self.connected.load_full().filter(|connected| connected.process == process);
        let Some(connected) = known else { return Ok(()) };
        self.connected.store(None);
        let limit = seconds("the limit", limit)?;
        Process::current()?.block_on(python, WaitKind::Answer, async {
            if let Some(manager) = connected.store.get().and_then(OnceCell::get) {
                let _ = tokio::time::timeout(limit, manager.close()).await;
            }
        })
    }
}
