//! A store whose locks exclude those of libraries that lock by advisory locks of sessions.
//!
//! A claim that the queue has granted is held once a session of this store has the advisory locks of its name
//! too. Until then its owner waits, and the claim keeps its place.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use super::Postgres;
use super::advisory::{Advisory, Peers};
use super::beacon::Beacon;
use super::failure::{Failure, Kind};
use crate::backend::{
    Backend, Capabilities, Change, Claim, ClaimId, ClaimStatus, CrashRelease, Entry, EntryKey, Eviction,
    Finding, Grant, Release, StoreNotice, Summary, ValueWrite, WaitMode,
};
use crate::error::Result;
use crate::name::Name;
use crate::stores::address::Address;
use crate::stores::pushed::Known;
use crate::sync::{Instant, Mutex, Notify, now, sleep_until};

/// The pause between two tries while a foreign holder has an advisory lock.
const PAUSE: Duration = Duration::from_millis(25);

/// Opens the store that an address names.
pub(crate) fn open(address: Address) -> Result<Arc<dyn Backend>> {
    let store = Postgres::open(address)?;
    let Some(peers) = store.config().interop else { return Ok(store) };
    let beacon = Beacon::new(&store.connection);
    Ok(Arc::new(Interop { store, beacon, peers, records: Mutex::default() }))
}

/// The store, with the advisory locks of other libraries.
struct Interop {
    store: Arc<Postgres>,
    beacon: Arc<Beacon>,
    peers: Peers,
    records: Mutex<HashMap<ClaimId, Record>>,
}

/// A claim that was asked for and not given up since.
#[derive(Clone, Default)]
struct Record {
    stage: Stage,
    /// Wakes its waiter.
    woken: Arc<Notify>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// The queue decides.
    #[default]
    Queued,
    /// The queue has granted it, and a foreign holder had its advisory locks: tried again then.
    Contends(Instant),
    /// Its owner was told that it holds.
    Held,
}

impl Interop {
    fn advisory(&self, claim: &Claim) -> Result<Advisory> {
        self.peers.advisory(&claim.name, claim.permits).ok_or_else(|| {
            let reason = "other libraries have no semaphores, so that the option interop excludes them: use \
                          an address without it for these names";
            self.store.error(Failure::new(Kind::FailedPrecondition, reason))
        })
    }

    fn stage(&self, id: ClaimId) -> Option<Stage> {
        self.records.lock().get(&id).map(|record| record.stage)
    }

    /// Notes where a claim stands, unless it was given up.
    fn note(&self, id: ClaimId, stage: Stage) {
        if let Some(record) = self.records.lock().get_mut(&id) {
            record.stage = stage;
        }
    }

    /// Tries to take the advisory locks of a claim that the queue has granted.
    ///
    /// | locks | the claim | it is answered |
    /// |---|---|---|
    /// | taken | any | held |
    /// | a foreign holder's | waits | waiting; it keeps its place |
    /// | a foreign holder's | does not wait | gone, and taken out of the queue |
    async fn granted(&self, claim: &Claim, grant: Grant) -> Result<ClaimStatus> {
        if self.take(claim).await? {
            self.note(claim.id, Stage::Held);
            return Ok(ClaimStatus::Held(grant));
        }
        if claim.wait_mode == WaitMode::Try {
            self.release(claim).await?;
            return Ok(ClaimStatus::Gone);
        }
        self.note(claim.id, Stage::Contends(now() + PAUSE));
        // It is still told of its eviction.
        Ok(match self.store.inbox.waiters.ask(claim.id, true) {
            Known::Evicted(eviction) => ClaimStatus::Evicted(eviction),
            Known::New | Known::Asked => ClaimStatus::Waiting,
        })
    }

    async fn take(&self, claim: &Claim) -> Result<bool> {
        let locks = self.advisory(claim)?;
        self.beacon.take(claim.id, locks).await.map_err(|failure| self.store.error(failure))
    }

    /// What a renewed claim is answered.
    ///
    /// | the queue says | has its locks | its owner was told | it is answered |
    /// |---|---|---|---|
    /// | held | yes | any | held |
    /// | held | no | held | gone: they were lost with the session, and a foreign holder may have them |
    /// | held | no | waiting | waiting: its waiter asks |
    /// | any other | any | any | the same, without locks |
    async fn renewed(&self, claim: &Claim, status: ClaimStatus) -> ClaimStatus {
        let id = claim.id;
        let ClaimStatus::Held(grant) = status else {
            self.beacon.give_back(id).await;
            return status;
        };
        if self.beacon.has(id) {
            self.note(id, Stage::Held);
            return ClaimStatus::Held(grant);
        }
        match self.stage(id) {
            Some(Stage::Held) => {
                self.note(id, Stage::Queued);
                ClaimStatus::Gone
            }
            Some(Stage::Contends(_)) => {
                self.store.inbox.waiters.ask(id, true);
                ClaimStatus::Waiting
            }
            Some(Stage::Queued) => {
                let woken = self.records.lock().get(&id).map(|record| Arc::clone(&record.woken));
                woken.iter().for_each(|woken| woken.notify_one());
                ClaimStatus::Waiting
            }
            None => ClaimStatus::Gone,
        }
    }
}

#[async_trait]
impl Backend for Interop {
    fn address(&self) -> &str {
        self.store.address()
    }

    fn capabilities(&self) -> Capabilities {
        // What an owner leaves behind would not have its advisory locks.
        Capabilities::new(self.store.capabilities().kind, CrashRelease::Lease).with_values()
    }

    fn is_ready(&self) -> bool {
        self.store.is_ready()
    }

    async fn ready(&self) -> Result<()> {
        self.store.ready().await?;
        self.beacon.ready().await.map_err(|failure| self.store.error(failure))
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        self.advisory(claim)?;
        self.beacon.ready().await.map_err(|failure| self.store.error(failure))?;
        self.records.lock().entry(claim.id).or_default().stage = Stage::Queued;
        let status = self.store.enqueue(claim).await.inspect_err(|error| {
            if !error.is_retryable() {
                self.records.lock().remove(&claim.id);
            }
        });
        match status? {
            ClaimStatus::Held(grant) => self.granted(claim, grant).await,
            status => {
                self.beacon.give_back(claim.id).await;
                if claim.wait_mode == WaitMode::Try {
                    self.records.lock().remove(&claim.id);
                }
                Ok(status)
            }
        }
    }

    fn place(&self, claim: &Claim) -> Option<usize> {
        self.store.place(claim)
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        loop {
            let Some(Record { stage, woken }) = self.records.lock().get(&claim.id).cloned() else {
                return self.store.wait_for_change(claim).await;
            };
            let Stage::Contends(next) = stage else {
                let changed = tokio::select! {
                    changed = self.store.wait_for_change(claim) => changed?,
                    () = woken.notified() => return Ok(None),
                };
                return match changed {
                    Some(ClaimStatus::Held(grant)) => self.granted(claim, grant).await.map(Some),
                    changed => Ok(changed),
                };
            };
            tokio::select! {
                changed = self.store.wait_for_change(claim) => {
                    return changed.map(|changed| {
                        changed.filter(|status| matches!(status, ClaimStatus::Evicted(_)))
                    });
                }
                () = sleep_until(next) => {}
            }
            if self.take(claim).await? {
                // The queue says whether it has kept its place.
                return Ok(None);
            }
            self.note(claim.id, Stage::Contends(now() + PAUSE));
        }
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        let answers = self.store.renew(claims).await;
        if claims.iter().zip(&answers).any(|(claim, answer)| answer.is_ok() && self.beacon.has(claim.id)) {
            self.beacon.check().await;
        }
        let mut renewed = Vec::with_capacity(answers.len());
        for (claim, answer) in claims.iter().zip(answers) {
            renewed.push(match answer {
                Ok(status) => Ok(self.renewed(claim, status).await),
                Err(error) => Err(error),
            });
        }
        renewed
    }

    async fn session_lost_hint(&self) {
        tokio::select! {
            () = self.store.session_lost_hint() => {}
            () = self.beacon.hints.given() => {}
        }
    }

    fn notices(&self) -> BoxStream<'static, StoreNotice> {
        self.store.notices()
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        self.records.lock().remove(&claim.id);
        // Before, so that the next claim finds them free. Its owner does not believe to hold it any more.
        self.beacon.give_back(claim.id).await;
        self.store.release(claim).await
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

impl fmt::Debug for Interop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}
