//! The store in memory with what a network adds: answers that take a while, that fail, and that are counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use shuttle::future::yield_now;
use tokio::sync::watch;

use crate::backend::{Backend, Capabilities, Claim, ClaimId, ClaimStatus, Entry, Release};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::stores::memory::Memory;
use crate::sync::Mutex;

#[derive(Debug)]
pub(super) struct Store {
    memory: Arc<Memory>,
    /// Whether renewals fail.
    pub(super) deaf: AtomicBool,
    /// Whether it tells nobody of a change: what waits must ask.
    pub(super) mute: AtomicBool,
    /// How many waits for a change have begun.
    pub(super) waits: AtomicUsize,
    /// How often each claim has joined and left.
    counts: Mutex<HashMap<ClaimId, (usize, usize)>>,
    /// Becomes true with the end of this.
    dropped: watch::Sender<bool>,
}

impl Store {
    pub(super) fn new() -> Arc<Self> {
        Self::beside(&Memory::new())
    }

    /// Another connection to the same store.
    pub(super) fn beside(memory: &Arc<Memory>) -> Arc<Self> {
        Arc::new(Store {
            memory: Arc::clone(memory),
            deaf: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            waits: AtomicUsize::new(0),
            counts: Mutex::default(),
            dropped: watch::Sender::new(false),
        })
    }

    /// How many claims the lock has, held or waiting.
    pub(super) async fn claims(&self) -> usize {
        self.memory.inspect(&Name::new("name").unwrap()).await.unwrap().len()
    }

    /// How many claims have joined and never left.
    pub(super) fn never_left(&self) -> usize {
        self.counts.lock().unwrap().values().filter(|(joined, left)| *joined > 0 && *left == 0).count()
    }

    /// Resolves once nobody uses this any more.
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
    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        self.counts.lock().unwrap().entry(claim.id).or_default().0 += 1;
        yield_now().await;
        let status = self.memory.enqueue(claim).await;
        yield_now().await;
        status
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        if self.mute.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.memory.wait_for_change(claim).await
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        yield_now().await;
        if self.deaf.load(Ordering::Relaxed) {
            return claims.iter().map(|_| Err(Error::unavailable("memory", "deaf"))).collect();
        }
        let statuses = self.memory.renew(claims).await;
        yield_now().await;
        statuses
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        yield_now().await;
        let departure = self.memory.release(claim).await;
        self.counts.lock().unwrap().entry(claim.id).or_default().1 += 1;
        departure
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        self.memory.inspect(name).await
    }

    fn names<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Name>> {
        self.memory.names(prefix)
    }
}
