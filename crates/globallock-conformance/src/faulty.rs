//! A store that wraps another store, fails on purpose, and counts the requests.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use globallock::backend::{
    Backend, Capabilities, Change, Claim, ClaimId, ClaimStatus, Entry, EntryKey, Eviction, Finding, Release,
    StoreNotice, Summary, ValueWrite,
};
use globallock::{Error, Name, Result};
use tokio::sync::watch;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// [`Backend::enqueue`].
    Enqueue,
    /// [`Backend::wait_for_change`].
    WaitForChange,
    /// [`Backend::renew`].
    Renew,
    /// [`Backend::keep_for`].
    KeepFor,
    /// [`Backend::release`].
    Release,
    /// [`Backend::release_after`].
    ReleaseAfter,
    /// [`Backend::evict`].
    Evict,
    /// [`Backend::set_value`].
    SetValue,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// It is served.
    #[default]
    None,
    /// It does not reach the store, and fails.
    Refuse,
    /// It is served, but the answer is lost, and it fails.
    LoseAnswer,
    /// It does not reach the store, and there is never an answer.
    Silence,
    /// It is served, but there is never an answer.
    SilenceAfter,
    /// It is delayed by this time, and its answer by the same time.
    Delay(Duration),
    /// It is served, and the answer is held until [`Faulty::deliver`] is called.
    HoldAnswer,
}

/// A store that passes all requests on to another store, except those that a fault is set for.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Backend>,
    state: Mutex<State>,
    /// How many times the held answers were delivered.
    deliveries: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    next: HashMap<Verb, VecDeque<Fault>>,
    always: HashMap<Verb, Fault>,
    asked: HashMap<Verb, u64>,
    held: u64,
    answered: HashMap<Verb, u64>,
    slowest: Duration,
    failed: u64,
}

/// Waits for `time`, and suspends at least once: a sleep that is polled after its end is ready at once.
async fn suspended(time: Duration) {
    let sleep = tokio::time::sleep(time);
    tokio::task::yield_now().await;
    sleep.await;
}

impl Faulty {
    /// Wraps `inner`, with no fault set.
    #[must_use]
    pub fn new(inner: Arc<dyn Backend>) -> Arc<Self> {
        Arc::new(Faulty { inner, state: Mutex::default(), deliveries: watch::Sender::new(0) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, so a poisoned state is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the faults of the next requests of a kind, one for each request.
    pub fn next(&self, verb: Verb, faults: impl IntoIterator<Item = Fault>) {
        self.state().next.entry(verb).or_default().extend(faults);
    }

    /// Sets the fault of all later requests of a kind that [`Faulty::next`] sets no fault for.
    pub fn always(&self, verb: Verb, fault: Fault) {
        self.state().always.insert(verb, fault);
    }

    /// How many requests of a kind have been made.
    #[must_use]
    pub fn asked(&self, verb: Verb) -> u64 {
        self.state().asked.get(&verb).copied().unwrap_or(0)
    }

    /// How many answers have been held.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.state().held
    }

    /// Delivers the answers that are held.
    pub fn deliver(&self) {
        self.deliveries.send_modify(|deliveries| *deliveries += 1);
    }

    /// How many requests of a kind the store has answered.
    #[must_use]
    pub fn answered(&self, verb: Verb) -> u64 {
        self.state().answered.get(&verb).copied().unwrap_or(0)
    }

    /// The longest time that the store has taken to answer a request. [`Backend::wait_for_change`] does not
    /// count, because it is meant to wait.
    ///
    /// An owner reads the store's clock from an answer, but counts from the moment when it sent the request.
    /// So its own deadline may be too early by up to this time.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        self.state().slowest
    }

    /// How many requests have failed or will never be answered: the proof that the faults took effect.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.state().failed
    }

    fn fault(&self, verb: Verb) -> Fault {
        let mut state = self.state();
        *state.asked.entry(verb).or_default() += 1;
        let next = state.next.get_mut(&verb).and_then(VecDeque::pop_front);
        let fault = next.or_else(|| state.always.get(&verb).copied()).unwrap_or_default();
        state.failed += u64::from(!matches!(fault, Fault::None | Fault::Delay(_) | Fault::HoldAnswer));
        fault
    }

    async fn pass<T>(&self, verb: Verb, request: impl Future<Output = T>, lost: impl FnOnce() -> T) -> T {
        let asked = Instant::now();
        match self.fault(verb) {
            Fault::None => {
                let answer = request.await;
                let mut state = self.state();
                *state.answered.entry(verb).or_default() += 1;
                if verb != Verb::WaitForChange {
                    state.slowest = state.slowest.max(asked.elapsed());
                }
                answer
            }
            Fault::Refuse => lost(),
            Fault::LoseAnswer => {
                request.await;
                lost()
            }
            Fault::Silence => std::future::pending().await,
            Fault::SilenceAfter => {
                request.await;
                std::future::pending().await
            }
            Fault::Delay(delay) => {
                suspended(delay).await;
                let answer = request.await;
                suspended(delay).await;
                answer
            }
            Fault::HoldAnswer => {
                let mut deliveries = self.deliveries.subscribe();
                let answer = request.await;
                self.state().held += 1;
                // `self` keeps the sender, so only a delivery ends this wait.
                let _ = deliveries.changed().await;
                answer
            }
        }
    }
}

fn failure() -> Error {
    Error::unavailable("the faulty store", "it fails on purpose")
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Backend for Faulty {
    fn address(&self) -> &str {
        self.inner.address()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        self.pass(Verb::Enqueue, self.inner.enqueue(claim), || Err(failure())).await
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        self.pass(Verb::WaitForChange, self.inner.wait_for_change(claim), || Err(failure())).await
    }

    fn place(&self, claim: &Claim) -> Option<usize> {
        self.inner.place(claim)
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        let lost = || claims.iter().map(|_| Err(failure())).collect();
        self.pass(Verb::Renew, self.inner.renew(claims), lost).await
    }

    async fn keep_for(&self, claim: &Claim, rest: Duration) -> Result<ClaimStatus> {
        self.pass(Verb::KeepFor, self.inner.keep_for(claim, rest), || Err(failure())).await
    }

    fn is_ready(&self) -> bool {
        self.inner.is_ready()
    }

    async fn ready(&self) -> Result<()> {
        self.inner.ready().await
    }

    async fn session_lost_hint(&self) {
        self.inner.session_lost_hint().await;
    }

    fn notices(&self) -> BoxStream<'static, StoreNotice> {
        self.inner.notices()
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        self.pass(Verb::Release, self.inner.release(claim), || Err(failure())).await
    }

    async fn release_after(&self, claim: &Claim, rest: Duration) -> Result<Release> {
        self.pass(Verb::ReleaseAfter, self.inner.release_after(claim, rest), || Err(failure())).await
    }

    async fn set_value(&self, claim: &Claim, bytes: &[u8], keep: Duration) -> Result<ValueWrite> {
        self.pass(Verb::SetValue, self.inner.set_value(claim, bytes, keep), || Err(failure())).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        self.inner.inspect(name).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        self.inner.list(prefix)
    }

    async fn examine(&self, name: &Name) -> Result<Vec<Finding>> {
        self.inner.examine(name).await
    }

    async fn forget(&self, name: &Name, evicted: &[ClaimId]) -> Result<()> {
        self.inner.forget(name, evicted).await
    }

    async fn set_up(&self) -> Result<String> {
        self.inner.set_up().await
    }

    fn set_up_script(&self) -> Option<String> {
        self.inner.set_up_script()
    }

    async fn evict(&self, name: &Name, entry: &EntryKey, eviction: &Eviction) -> Result<Release> {
        self.pass(Verb::Evict, self.inner.evict(name, entry, eviction), || Err(failure())).await
    }

    fn watch<'a>(&'a self, prefix: &'a str, every: Duration) -> BoxStream<'a, Result<Change>> {
        self.inner.watch(prefix, every)
    }
}
