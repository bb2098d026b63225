//! The store in memory, behind a connection with scripted faults that records its requests.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::Notify;

use crate::backend::{
    Backend, Capabilities, Claim, ClaimStatus, Entry, EntryKey, Eviction, Release, StoreNotice, Summary,
    ValueWrite,
};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::stores::memory::Memory;
use crate::stores::notices::StoreNotices;
use crate::sync::{Instant, Mutex, MutexGuard, now};

/// More requests of a kind than any test here needs.
const MANY: usize = 20_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Verb {
    Ready,
    Enqueue,
    WaitForChange,
    Renew,
    KeepFor,
    Release,
    ReleaseAfter,
    SetValue,
    Inspect,
    List,
}

/// What happens to a request.
#[derive(Clone, Debug, Default)]
pub(super) enum Fault {
    #[default]
    None,
    /// It fails at once and does not arrive.
    Refuse,
    /// It is denied.
    Deny,
    /// It is never answered and does not arrive.
    Silence,
    /// The first part of its answer arrives, and then it fails.
    CutShort,
    /// It arrives, and its answer is late by this much.
    Late(Duration),
    /// It does not arrive, and this is its answer.
    Answer(ClaimStatus),
}

#[derive(Debug)]
pub(super) struct Store {
    memory: Arc<Memory>,
    state: Mutex<State>,
    /// Hints to the core that a session with all its claims may have been lost.
    pub(super) session_lost: Notify,
    pub(super) notices: StoreNotices,
}

#[derive(Debug, Default)]
struct State {
    next: HashMap<Verb, VecDeque<Fault>>,
    always: HashMap<Verb, Fault>,
    requests: HashMap<Verb, Vec<Instant>>,
    /// Whether it must be connected to first.
    is_away: bool,
    /// Whether it keeps no claims beyond their owners.
    keeps_nothing: bool,
    /// The number of claims in each renewal request.
    batches: Vec<usize>,
    renewing: usize,
    /// The most renewal requests that were in flight at a time.
    most_renewing: usize,
}

impl Store {
    pub(super) fn with_memory(memory: &Arc<Memory>) -> Arc<Self> {
        let (memory, session_lost) = (Arc::clone(memory), Notify::new());
        Arc::new(Store { memory, state: Mutex::default(), session_lost, notices: StoreNotices::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) fn next(&self, verb: Verb, faults: impl IntoIterator<Item = Fault>) {
        self.state().next.entry(verb).or_default().extend(faults);
    }

    pub(super) fn always(&self, verb: Verb, fault: Fault) {
        self.state().always.insert(verb, fault);
    }

    /// From now on, no request is sent before a try to connect has succeeded.
    pub(super) fn goes_away(&self) {
        self.state().is_away = true;
    }

    /// From now on, it says that it keeps no claims beyond their owners.
    pub(super) fn keeps_nothing(&self) {
        self.state().keeps_nothing = true;
    }

    /// When the requests of a kind were made.
    pub(super) fn requests(&self, verb: Verb) -> Vec<Instant> {
        self.state().requests.get(&verb).cloned().unwrap_or_default()
    }

    pub(super) fn batches(&self) -> Vec<usize> {
        self.state().batches.clone()
    }

    pub(super) fn most_renewing(&self) -> usize {
        self.state().most_renewing
    }

    fn fault(&self, verb: Verb) -> Fault {
        let mut state = self.state();
        let requests = state.requests.entry(verb).or_default();
        requests.push(now());
        // A loop of requests without a pause would never let the virtual time advance.
        assert!(requests.len() < MANY, "requests without a pause: {verb:?}");
        let next = state.next.get_mut(&verb).and_then(VecDeque::pop_front);
        next.or_else(|| state.always.get(&verb).cloned()).unwrap_or_default()
    }

    async fn pass<T>(
        &self,
        verb: Verb,
        request: impl Future<Output = T>,
        failed: impl FnOnce(Error) -> T,
        answered: impl FnOnce(ClaimStatus) -> T,
    ) -> T {
        match self.fault(verb) {
            Fault::None | Fault::CutShort => request.await,
            Fault::Refuse => failed(refused()),
            Fault::Deny => failed(denied()),
            Fault::Silence => std::future::pending().await,
            Fault::Late(delay) => {
                let answer = request.await;
                tokio::time::sleep(delay).await;
                answer
            }
            Fault::Answer(status) => answered(status),
        }
    }
}

fn refused() -> Error {
    Error::unavailable("the store", "scripted fault")
}

fn denied() -> Error {
    Error::permission_denied("the store", "scripted fault")
}

/// The same error for each claim.
fn each(claims: &[Arc<Claim>], error: &Error) -> Vec<Result<ClaimStatus>> {
    claims.iter().map(|_| Err(Error::unavailable("the store", error.to_string()))).collect()
}

#[async_trait]
impl Backend for Store {
    fn address(&self) -> &str {
        self.memory.address()
    }

    fn capabilities(&self) -> Capabilities {
        let keeps_after_owner = !self.state().keeps_nothing;
        Capabilities { keeps_after_owner, ..self.memory.capabilities() }
    }

    fn is_ready(&self) -> bool {
        !self.state().is_away
    }

    async fn ready(&self) -> Result<()> {
        self.pass(Verb::Ready, async { Ok(()) }, Err, |_| Ok(())).await?;
        self.state().is_away = false;
        Ok(())
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        self.pass(Verb::Enqueue, self.memory.enqueue(claim), Err, Ok).await
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        self.pass(Verb::WaitForChange, self.memory.wait_for_change(claim), Err, |status| Ok(Some(status)))
            .await
    }

    fn place(&self, claim: &Claim) -> Option<usize> {
        self.memory.place(claim)
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        {
            let mut state = self.state();
            state.batches.push(claims.len());
            state.renewing += 1;
            state.most_renewing = state.most_renewing.max(state.renewing);
        }
        let answers = self
            .pass(
                Verb::Renew,
                self.memory.renew(claims),
                |error| each(claims, &error),
                |status| claims.iter().map(|_| Ok(status.clone())).collect(),
            )
            .await;
        self.state().renewing -= 1;
        answers
    }

    async fn session_lost_hint(&self) {
        self.session_lost.notified().await;
    }

    fn notices(&self) -> BoxStream<'static, StoreNotice> {
        self.notices.stream()
    }

    async fn keep_for(&self, claim: &Claim, rest: Duration) -> Result<ClaimStatus> {
        self.pass(Verb::KeepFor, self.memory.keep_for(claim, rest), Err, Ok).await
    }

    async fn release_after(&self, claim: &Claim, rest: Duration) -> Result<Release> {
        let released = self.memory.release_after(claim, rest);
        self.pass(Verb::ReleaseAfter, released, Err, |_| Ok(Release::NotHeld)).await
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        self.pass(Verb::Release, self.memory.release(claim), Err, |_| Ok(Release::NotHeld)).await
    }

    async fn set_value(&self, claim: &Claim, bytes: &[u8], keep: Duration) -> Result<ValueWrite> {
        self.pass(Verb::SetValue, self.memory.set_value(claim, bytes, keep), Err, |_| Ok(ValueWrite::NotHeld))
            .await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        match self.fault(Verb::Inspect) {
            Fault::Refuse => Err(refused()),
            Fault::Late(delay) => {
                let queue = self.memory.inspect(name).await;
                tokio::time::sleep(delay).await;
                queue
            }
            _ => self.memory.inspect(name).await,
        }
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        let listed = self.memory.list(prefix);
        let failed = |error| stream::once(async { Err(error) }).boxed();
        match self.fault(Verb::List) {
            // As of a name that cannot be read, before all others.
            Fault::Refuse => failed(refused()).chain(listed).boxed(),
            Fault::Deny => failed(denied()),
            Fault::CutShort => listed.take(1).chain(failed(refused())).boxed(),
            _ => listed,
        }
    }

    async fn evict(&self, name: &Name, entry: &EntryKey, eviction: &Eviction) -> Result<Release> {
        self.memory.evict(name, entry, eviction).await
    }
}
