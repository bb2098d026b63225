//! A store that notes how a waiter has learnt of its grant: from the store, or because it has asked.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use globallock::backend::{Capabilities, Claim, ClaimId, ClaimStatus};
use globallock::{
    Backend, Change, Entry, EntryKey, Eviction, Finding, Name, Release, Result, StoreNotice, Summary,
    ValueWrite,
};

/// How a waiter has learnt of its grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Granted {
    /// The store has told it, or has told that there is something to ask for.
    Told,
    /// It has asked, as waiters do now and then in case that nothing is told.
    Asked,
}

/// A store with one waiter.
#[derive(Debug)]
pub(super) struct Witness {
    store: Arc<dyn Backend>,
    granted: OnceLock<Granted>,
}

impl Witness {
    pub(super) fn new(store: Arc<dyn Backend>) -> Self {
        Witness { store, granted: OnceLock::new() }
    }

    /// How the waiter has learnt of its grant, if it has.
    pub(super) fn granted(&self) -> Option<Granted> {
        self.granted.get().copied()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Backend for Witness {
    fn address(&self) -> &str {
        self.store.address()
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn is_ready(&self) -> bool {
        self.store.is_ready()
    }

    async fn ready(&self) -> Result<()> {
        self.store.ready().await
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        self.store.enqueue(claim).await
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        let changed = self.store.wait_for_change(claim).await;
        if matches!(changed, Ok(None | Some(ClaimStatus::Held(_)))) {
            self.granted.get_or_init(|| Granted::Told);
        }
        changed
    }

    fn place(&self, claim: &Claim) -> Option<usize> {
        self.store.place(claim)
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        let statuses = self.store.renew(claims).await;
        if statuses.iter().any(|status| matches!(status, Ok(ClaimStatus::Held(_)))) {
            self.granted.get_or_init(|| Granted::Asked);
        }
        statuses
    }

    async fn keep_for(&self, claim: &Claim, rest: Duration) -> Result<ClaimStatus> {
        self.store.keep_for(claim, rest).await
    }

    async fn session_lost_hint(&self) {
        self.store.session_lost_hint().await;
    }

    fn notices(&self) -> BoxStream<'static, StoreNotice> {
        self.store.notices()
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        self.store.release(claim).await
    }

    async fn release_after(&self, claim: &Claim, rest: Duration) -> Result<Release> {
        self.store.release_after(claim, rest).await
    }

    async fn set_value(&self, claim: &Claim, bytes: &[u8], keep: Duration) -> Result<ValueWrite> {
        self.store.set_value(claim, bytes, keep).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        self.store.inspect(name).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        self.store.list(prefix)
    }

    async fn evict(&self, name: &Name, entry: &EntryKey, eviction: &Eviction) -> Result<Release> {
        self.store.evict(name, entry, eviction).await
    }

    async fn examine(&self, name: &Name) -> Result<Vec<Finding>> {
        self.store.examine(name).await
    }

    async fn forget(&self, name: &Name, evicted: &[ClaimId]) -> Result<()> {
        self.store.forget(name, evicted).await
    }

    async fn set_up(&self) -> Result<String> {
        self.store.set_up().await
    }

    fn set_up_script(&self) -> Option<String> {
        self.store.set_up_script()
    }

    fn watch<'a>(&'a self, prefix: &'a str, every: Duration) -> BoxStream<'a, Result<Change>> {
        self.store.watch(prefix, every)
    }
}
