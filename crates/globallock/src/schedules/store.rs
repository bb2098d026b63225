//! The store in memory with the effects of a network: answers take time and can fail. It counts the requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use shuttle::future::yield_now;
use tokio::sync::watch;

use crate::backend::{
    Backend, Capabilities, Claim, ClaimId, ClaimStatus, Entry, EntryKey, Eviction, Release, Summary,
};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::stores::memory::Memory;
use crate::sync::Mutex;

#[derive(Debug)]
pub(super) struct Store {
    memory: Arc<Memory>,
    /// Whether renewals fail.
    pub(super) fail_renewals: AtomicBool,
    /// Whether it pushes no changes, so that waiters must ask.
    pub(super) no_pushes: AtomicBool,
    /// The number of waits for a change that have begun.
    pub(super) waits: AtomicUsize,
    /// How often each claim was enqueued and released.
    counts: Mutex<HashMap<ClaimId, (usize, usize)>>,
    /// Becomes true when this is dropped.
    dropped: watch::Sender<bool>,
}

impl Store {
    pub(super) fn new() -> Arc<Self> {
        Self::with_memory(&Memory::new())
    }

    /// Another connection to the same store.
    pub(super) fn with_memory(memory: &Arc<Memory>) -> Arc<Self> {
        Arc::new(Store {
            memory: Arc::clone(memory),
            fail_renewals: AtomicBool::new(false),
            no_pushes: AtomicBool::new(false),
            waits: AtomicUsize::new(0),
            counts: Mutex::default(),
            dropped: watch::Sender::new(false),
        })
    }

    /// The number of claims in the lock's queue, held or waiting.
    pub(super) async fn claims(&self) -> usize {
        self.memory.inspect(&Name::new("name").unwrap()).await.unwrap().len()
    }

    /// The number of claims that were enqueued and never released.
    pub(super) fn unreleased(&self) -> usize {
        self.counts.lock().values().filter(|(enqueued, released)| *enqueued > 0 && *released == 0).count()
    }

    /// Resolves when this is dropped.
    pub(super) fn dropped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut dropped = self.dropped.subscribe();
        async move {
            let _ = dropped.wait_for(|dropped| *dropped).await;
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.dropped.send_replace(true);
    }
}

#[async_trait]
impl Backend for Store {
    fn address(&self) -> &str {
        self.memory.address()
    }

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        self.counts.lock().entry(claim.id).or_default().0 += 1;
        yield_now().await;
        let status = self.memory.enqueue(claim).await;
        yield_now().await;
        status
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        if self.no_pushes.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.memory.wait_for_change(claim).await
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        yield_now().await;
        if self.fail_renewals.load(Ordering::Relaxed) {
            return claims.iter().map(|_| Err(Error::unavailable("memory", "renewals fail"))).collect();
        }
        let statuses = self.memory.renew(claims).await;
        yield_now().await;
        statuses
    }

    async fn keep_for(&self, claim: &Claim, rest: Duration) -> Result<ClaimStatus> {
        yield_now().await;
        let status = self.memory.keep_for(claim, rest).await;
        yield_now().await;
        status
    }

    async fn release_after(&self, claim: &Claim, rest: Duration) -> Result<Release> {
        yield_now().await;
        self.memory.release_after(claim, rest).await
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        yield_now().await;
        let release = self.memory.release(claim).await;
        self.counts.lock().entry(claim.id).or_default().1 += 1;
        release
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        self.memory.inspect(name).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        self.memory.list(prefix)
    }

    async fn evict(&self, name: &Name, entry: &EntryKey, eviction: &Eviction) -> Result<Release> {
        self.memory.evict(name, entry, eviction).await
    }
}
