//! A connection to one store, made when it is first needed, by each process for itself.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::{StreamExt, TryStreamExt};
use globallock::backend::Instant;
use globallock::internals::{Began, Running, Turn, begin_in_time};
use globallock::{
    EntryKey, Error, Guard, Lock, LockKind, LockManager, ManagerOptions, Options, Release, Result, Summary,
};
use pyo3::prelude::*;
use pyo3::types::PyList;
use tokio::sync::{OnceCell, watch};

use crate::bridge::{Bridge, Outcome};
use crate::driver::WaitKind;
use crate::failure::{InvalidOption, raise, seconds};
use crate::guard;
use crate::log::{self, Logging};
use crate::process::{ForkGuarded, Process};
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
    url: String,
    options: ManagerOptions,
    connected: ArcSwapOption<Connected>,
}

/// A process's connection.
pub(crate) struct Connected {
    process: u32,
    store: ForkGuarded<OnceCell<LockManager>>,
    /// Tells those who watch when it is closed.
    pub(crate) closed: watch::Sender<bool>,
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
    /// After how many seconds the owner is asked to end, if its end is planned.
    ask_after: Option<f64>,
    wants_value: bool,
    /// For how many seconds others are kept out, whatever becomes of the owner.
    hold_at_least: Option<f64>,
}

impl LockRequest {
    fn options(&self, defaults: &Options) -> PyResult<Options> {
        let optional = |option, value: Option<f64>| value.map(|value| seconds(option, value)).transpose();
        Ok(defaults
            .clone()
            .lease(optional("the lease", self.lease)?.unwrap_or(defaults.lease))
            .max_hold(optional("the max hold time", self.max_hold)?)
            .hold_at_least(optional("hold_at_least", self.hold_at_least)?)
            .wait(optional("the wait", self.wait)?))
    }

    fn lock(&self, manager: &LockManager, options: Options) -> Result<Lock> {
        let kind = match self.kind.as_str() {
            "permits" => LockKind::Permits { count: self.permits, capacity: self.capacity },
            kind => kind.parse()?,
        };
        let lock = manager.lock(&self.name, kind).with_options(options);
        Ok(if self.wants_value { lock.with_value() } else { lock })
    }

    /// What Python gets of a lock that has just been acquired.
    fn granted(&self, guard: Guard, began: Option<Began>) -> guard::Guard {
        let after = self.ask_after.and_then(|after| Duration::try_from_secs_f64(after).ok());
        guard::Guard::new(guard, after.and_then(|after| Instant::now().checked_add(after)), began)
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
        Ok(guard) => Outcome::Granted(guard.map(|guard| request.granted(guard, None))),
        Err(error) => Outcome::Failed(error),
    }
}

/// Acquires a lock for work that is done once in a while, and tells whether it is to be done.
async fn begin(
    connected: Arc<Connected>,
    url: String,
    defaults: ManagerOptions,
    (request, options, every): (LockRequest, Options, Duration),
) -> Outcome {
    let begun = async {
        let manager = connected.manager(&url, defaults).await?;
        begin_in_time(&manager.once(&request.name).every(every).with_options(options)).await
    };
    match begun.await {
        Ok(None) => Outcome::Granted(None),
        Ok(Some(Turn::Skip { began })) => Outcome::Skipped(began.as_secs_f64()),
        Ok(Some(Turn::Run(Running { began, guard }))) => {
            Outcome::Granted(Some(request.granted(guard, Some(began))))
        }
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
                entry.key.as_str().to_owned(),
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
        let listed = connected.manager(&url, defaults).await?.list(&prefix);
        listed.map(|listed| Ok(listed?.name.as_str().to_owned())).try_collect::<Vec<String>>().await
    };
    match found.await {
        Ok(names) => Outcome::Names(names),
        Err(error) => Outcome::Failed(error),
    }
}

async fn list(connected: Arc<Connected>, url: String, defaults: ManagerOptions, prefix: String) -> Outcome {
    let found =
        async { connected.manager(&url, defaults).await?.list(&prefix).try_collect::<Vec<Summary>>().await };
    match found.await {
        Ok(summaries) => Outcome::Summaries(summaries.iter().map(fields).collect()),
        Err(error) => Outcome::Failed(error),
    }
}

/// Puts a guard that was granted into the list of what is taken.
fn noted(taken: &Bound<'_, PyList>, granted: Py<PyAny>) -> PyResult<Py<PyAny>> {
    if granted.bind(taken.py()).is_instance_of::<guard::Guard>() {
        taken.append(&granted)?;
    }
    Ok(granted)
}

/// Which claim to evict, and why: the name, the key, and the reason.
type Eviction = (String, String, String);

async fn evict(
    connected: Arc<Connected>,
    url: String,
    defaults: ManagerOptions,
    (name, key, reason): Eviction,
) -> Outcome {
    let evicted =
        async { connected.manager(&url, defaults).await?.evict(&name, &EntryKey::new(key), &reason).await };
    match evicted.await {
        Ok(release) => Outcome::Flag(release == Release::Released),
        Err(error) => Outcome::Failed(error),
    }
}

impl Connected {
    pub(crate) async fn manager(&self, url: &str, options: ManagerOptions) -> Result<&LockManager> {
        // `None` in a forked child: the parent's connection is not used there.
        let store = self.store.get().ok_or(Error::Closed)?;
        store.get_or_try_init(async || LockManager::connect_lazy(url, options)).await
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
            let store = ForkGuarded::new(OnceCell::new());
            let fresh = Arc::new(Connected { process, store, closed: watch::Sender::new(false) });
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

    fn once(&self, request: LockRequest, every: f64) -> PyResult<(LockRequest, Options, Duration)> {
        let options = request.options(&self.options.locks)?;
        Ok((request, options, seconds("every", every)?))
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
        let options = ManagerOptions::new().locks(locks).observer(Arc::new(Logging));
        let options = label.into_iter().fold(options, ManagerOptions::label);
        Ok(Manager { url, options, connected: ArcSwapOption::empty() })
    }

    /// Acquires a lock; `None` if it was not granted in time.
    ///
    /// Puts what it acquires into `taken` as well, before Python code can be interrupted.
    fn acquire(&self, request: LockRequest, taken: &Bound<'_, PyList>) -> PyResult<Py<PyAny>> {
        let options = request.options(&self.options.locks)?;
        let (connected, url, defaults) = self.parts();
        let request = acquire(connected, url, defaults, request, options);
        noted(taken, self.run(taken.py(), WaitKind::Grant, request)?)
    }

    /// Does the same for an event loop.
    fn acquire_on(&self, bridge: &Bridge, request: LockRequest) -> PyResult<u64> {
        let options = request.options(&self.options.locks)?;
        let (connected, url, defaults) = self.parts();
        bridge.start(WaitKind::Grant, acquire(connected, url, defaults, request, options))
    }

    /// Acquires a lock for work that is done once in a while: a guard if the work is to be done, how many
    /// seconds ago the last success began if not, `None` if the lock was not granted in time.
    fn begin(&self, request: LockRequest, every: f64, taken: &Bound<'_, PyList>) -> PyResult<Py<PyAny>> {
        let run = self.once(request, every)?;
        let (connected, url, defaults) = self.parts();
        noted(taken, self.run(taken.py(), WaitKind::Grant, begin(connected, url, defaults, run))?)
    }

    /// Does the same for an event loop.
    fn begin_on(&self, bridge: &Bridge, request: LockRequest, every: f64) -> PyResult<u64> {
        let run = self.once(request, every)?;
        let (connected, url, defaults) = self.parts();
        bridge.start(WaitKind::Grant, begin(connected, url, defaults, run))
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

    /// Sums up the names that begin with `prefix` and have a claim.
    fn list(&self, python: Python<'_>, prefix: String) -> PyResult<Py<PyAny>> {
        let (connected, url, defaults) = self.parts();
        self.run(python, WaitKind::Answer, list(connected, url, defaults, prefix))
    }

    /// Does the same for an event loop.
    fn list_on(&self, bridge: &Bridge, prefix: String) -> PyResult<u64> {
        let (connected, url, defaults) = self.parts();
        bridge.start(WaitKind::Answer, list(connected, url, defaults, prefix))
    }

    /// Takes a claim out of the queue of a name, and says whether it was there.
    fn evict(&self, python: Python<'_>, name: String, key: String, reason: String) -> PyResult<Py<PyAny>> {
        let (connected, url, defaults) = self.parts();
        self.run(python, WaitKind::Answer, evict(connected, url, defaults, (name, key, reason)))
    }

    /// Does the same for an event loop.
    fn evict_on(&self, bridge: &Bridge, name: String, key: String, reason: String) -> PyResult<u64> {
        let (connected, url, defaults) = self.parts();
        bridge.start(WaitKind::Answer, evict(connected, url, defaults, (name, key, reason)))
    }

    /// Tells how the names that begin with `prefix` change, looking `every` so many seconds.
    fn watch(&self, prefix: String, every: f64) -> PyResult<Watch> {
        let (connected, url, defaults) = self.parts();
        let pause = seconds("the interval", every)?;
        if pause.is_zero() {
            return Err(InvalidOption::new_err(
                "the interval is 0, which would ask the store without a pause",
            ));
        }
        let disconnected = connected.closed.subscribe();
        Ok(Watch::new(Changes::new(connected, url, defaults, prefix, pause), disconnected))
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
