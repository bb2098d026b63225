//! The store in this process's memory. It is for tests, for programs of one process, and the reference
//! implementation of the contract.

mod values;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};

use self::values::Values;
use crate::backend::{
    Backend, Capabilities, Claim, ClaimId, ClaimStatus, CrashRelease, Entry, EntryKey, Eviction, Finding,
    Grant, Release, Summary, Value, ValueWrite, WaitMode,
};
use crate::error::Result;
use crate::name::Name;
use crate::owner::Owner;
use crate::queue::{admit, blockers, nearest};
use crate::stores::address::Address;
use crate::stores::evictions::{Evictions, KEPT};
use crate::sync::{Instant, Mutex, MutexGuard, Notify, now, sleep_until_some};

/// The stores that `memory:NAME` addresses share within the process.
static SHARED: LazyLock<Mutex<HashMap<String, Weak<Memory>>>> = LazyLock::new(Mutex::default);

/// A store in this process's memory. It forgets everything, fencing tokens too, when the process ends.
#[derive(Default)]
pub struct Memory {
    address: String,
    state: Mutex<State>,
    /// Tells all managers when claims were taken away.
    revoked: Notify,
}

#[derive(Default)]
struct State {
    queues: HashMap<Name, Queue>,
    last_number: u64,
    values: Values,
    evicted: Evictions<(Name, ClaimId)>,
}

/// The claims of one name, with the indexes that keep each step cheap for any number of waiters.
#[derive(Default)]
struct Queue {
    /// By number, which is the order of joining.
    claims: BTreeMap<u64, QueuedClaim>,
    numbers: HashMap<ClaimId, u64>,
    /// When each claim ends, by its lease or its max hold time.
    ends: BTreeSet<(Instant, u64)>,
    /// The number of the last claim that was granted: the holders are always in front of the waiters.
    last_granted: u64,
}

/// A claim in its queue.
struct QueuedClaim {
    claim: Claim,
    number: u64,
    joined: Instant,
    /// Its owner's last sign of life.
    renewed: Instant,
    expires: Instant,
    granted: Option<Instant>,
    /// Notified when the claim is granted or dropped.
    notify: Arc<Notify>,
}

impl Memory {
    /// Makes an empty store.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Self::at("memory:".to_owned())
    }

    fn at(address: String) -> Arc<Self> {
        Arc::new(Memory { address, ..Memory::default() })
    }

    /// Opens the store that an address names, or creates it. All managers of this process with the same
    /// `memory:NAME` share it.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress) when the address has a host or an option.
    pub fn connect(address: &Address) -> Result<Arc<Self>> {
        address.finish(&[])?;
        if !address.hosts.is_empty() {
            return Err(address.wrong("a memory: address has no host; write memory:NAME"));
        }
        let mut shared = SHARED.lock();
        shared.retain(|_, store| store.strong_count() > 0);
        if let Some(store) = shared.get(&address.path).and_then(Weak::upgrade) {
            return Ok(store);
        }
        let store = Memory::at(address.to_string());
        shared.insert(address.path.clone(), Arc::downgrade(&store));
        Ok(store)
    }

    /// Takes all claims of a name away from their owners, held or waiting, as an operator or a store that
    /// loses its data would: the owners are told of it as of any loss
    /// ([`Loss::Revoked`](crate::Loss::Revoked)).
    ///
    /// ```
    /// use globallock::{LockManager, Loss, Memory, Options};
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let store = Memory::new();
    /// let manager = LockManager::with_backend(store.clone(), Options::new())?;
    /// let guard = manager.mutex("a").acquire().await?;
    /// store.revoke("a");
    /// assert_eq!(guard.lost().await, Loss::Revoked);
    /// # Ok::<(), globallock::Error>(()) }).unwrap();
    /// ```
    pub fn revoke(&self, name: &str) {
        let taken = {
            let mut state = self.state();
            let Ok(name) = Name::new(name) else { return };
            state.queues.remove(&name)
        };
        for claim in taken.into_iter().flat_map(|queue| queue.claims.into_values()) {
            claim.notify.notify_one();
        }
        self.revoked.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Drops the expired claims of a queue and grants the claims that fit then.
    fn settle(&mut self, name: &Name, now: Instant) {
        let Some(queue) = self.queues.get_mut(name) else {
            return;
        };
        queue.drop_expired(now);
        if queue.claims.is_empty() {
            self.queues.remove(name);
        }
    }

    fn find(&self, claim: &Claim) -> Option<&QueuedClaim> {
        self.queues.get(&claim.name)?.find(claim.id)
    }

    fn status(&self, claim: &Claim) -> ClaimStatus {
        match (self.find(claim), self.evicted(claim)) {
            (Some(queued), _) => queued.status(),
            (None, Some(eviction)) => ClaimStatus::Evicted(eviction),
            (None, None) => ClaimStatus::Gone,
        }
    }

    /// The status of a claim as its owner waits for it: a grant comes with the value.
    fn status_with_value(&mut self, claim: &Claim, now: Instant) -> ClaimStatus {
        match self.status(claim) {
            ClaimStatus::Held(grant) if claim.wants_value => {
                ClaimStatus::Held(grant.with_value(self.values.get(&claim.name, now)))
            }
            status => status,
        }
    }

    fn evicted(&self, claim: &Claim) -> Option<Arc<Eviction>> {
        let any = !self.evicted.is_empty();
        any.then(|| self.evicted.get(&(claim.name.clone(), claim.id))).flatten()
    }

    /// Makes a claim last for `lease` from now, unless it lasts longer already, if it is in the queue.
    fn renew(&mut self, claim: &Claim, lease: Duration, now: Instant) {
        if let Some(queue) = self.queues.get_mut(&claim.name) {
            queue.change(claim.id, |queued| {
                (queued.renewed, queued.expires) = (now, queued.expires.max(now + lease));
            });
        }
    }

    /// Takes a claim out of its queue and returns it, if it is there.
    fn remove(&mut self, name: &Name, id: ClaimId, now: Instant) -> Option<QueuedClaim> {
        self.settle(name, now);
        let queue = self.queues.get_mut(name)?;
        let queued = queue.numbers.get(&id).copied().and_then(|number| queue.remove(number))?;
        queue.admit_after(std::slice::from_ref(&queued), now);
        if queue.claims.is_empty() {
            self.queues.remove(name);
        }
        Some(queued)
    }

    fn inspect(&mut self, name: &Name, now: Instant) -> Vec<Entry> {
        self.settle(name, now);
        let claims = self.queues.get(name).into_iter().flat_map(|queue| queue.claims.values());
        claims.map(|queued| queued.entry(now)).collect()
    }

    /// When the first blocker of `claim` expires, unless it is renewed.
    fn recheck_at(&self, claim: &Claim) -> Option<Instant> {
        let queue = self.queues.get(&claim.name)?;
        let number = *queue.numbers.get(&claim.id)?;
        let near = nearest(queue.ahead_of(number).map(|queued| queued.claim.permits), claim.permits)?;
        let mut ahead: Vec<&QueuedClaim> = queue.ahead_of(number).take(near).collect();
        ahead.reverse();
        let permits: Vec<_> = ahead.iter().map(|queued| queued.claim.permits).collect();
        blockers(&permits, claim.permits).into_iter().map(|blocker| ahead[blocker].ends()).min()
    }
}

impl Queue {
    fn find(&self, id: ClaimId) -> Option<&QueuedClaim> {
        self.claims.get(self.numbers.get(&id)?)
    }

    /// The claims in front of a number, the nearest first.
    fn ahead_of(&self, number: u64) -> impl Iterator<Item = &QueuedClaim> {
        self.claims.range(..number).rev().map(|(_, queued)| queued)
    }

    fn waiters(&self) -> impl Iterator<Item = &QueuedClaim> {
        self.claims.range(self.last_granted + 1..).map(|(_, queued)| queued)
    }

    fn insert(&mut self, queued: QueuedClaim, now: Instant) {
        self.numbers.insert(queued.claim.id, queued.number);
        self.ends.insert((queued.ends(), queued.number));
        let last = self.claims.last_key_value().map(|(number, _)| *number);
        let number = queued.number;
        self.claims.insert(number, queued);
        // No claim can hold behind a waiter.
        if last.is_none_or(|last| last <= self.last_granted) {
            self.admit(now);
        }
    }

    fn remove(&mut self, number: u64) -> Option<QueuedClaim> {
        let queued = self.claims.remove(&number)?;
        self.numbers.remove(&queued.claim.id);
        self.ends.remove(&(queued.ends(), number));
        Some(queued)
    }

    /// Changes a claim, and the moment of its end with it.
    fn change(&mut self, id: ClaimId, change: impl FnOnce(&mut QueuedClaim)) {
        let number = self.numbers.get(&id).copied();
        if let Some(queued) = number.and_then(|number| self.claims.get_mut(&number)) {
            self.ends.remove(&(queued.ends(), queued.number));
            change(queued);
            self.ends.insert((queued.ends(), queued.number));
        }
    }

    fn drop_expired(&mut self, now: Instant) {
        let mut expired = Vec::new();
        while let Some(&(_, number)) = self.ends.first().filter(|(end, _)| *end <= now) {
            expired.extend(self.remove(number));
        }
        self.admit_after(&expired, now);
        for queued in expired {
            queued.notify.notify_one();
        }
    }

    /// Grants the claims that fit after these were removed. That can only be so if one of them held the lock,
    /// or was the first waiter, which blocks all waiters behind it.
    fn admit_after(&mut self, removed: &[QueuedClaim], now: Instant) {
        let first_waiter = self.waiters().next().map(|waiter| waiter.number);
        let made_room = |claim: &QueuedClaim| {
            claim.granted.is_some() || first_waiter.is_some_and(|first| claim.number < first)
        };
        if removed.iter().any(made_room) {
            self.admit(now);
        }
    }

    /// Grants all waiters that fit.
    fn admit(&mut self, now: Instant) {
        let holding = admit(self.claims.values().map(|queued| queued.claim.permits));
        let new: Vec<ClaimId> = self
            .claims
            .values()
            .take(holding)
            .skip_while(|queued| queued.granted.is_some())
            .map(|queued| queued.claim.id)
            .collect();
        for id in new {
            self.change(id, |queued| {
                queued.granted = Some(now);
                queued.notify.notify_one();
            });
            self.last_granted = self.numbers[&id];
        }
    }
}

impl QueuedClaim {
    fn ends(&self) -> Instant {
        self.hold_ends().map_or(self.expires, |hold_ends| hold_ends.min(self.expires))
    }

    fn hold_ends(&self) -> Option<Instant> {
        Some(self.granted? + self.claim.max_hold?)
    }

    fn status(&self) -> ClaimStatus {
        match self.granted {
            None => ClaimStatus::Waiting,
            Some(_) => ClaimStatus::Held(Grant {
                fencing_token: self.number,
                expires: Some(self.expires),
                lease: Some(self.expires.saturating_duration_since(self.renewed)),
                hold_ends: self.hold_ends(),
                value: None,
            }),
        }
    }

    fn entry(&self, now: Instant) -> Entry {
        let owner = Owner::from_text(&self.claim.owner);
        Entry {
            fencing_token: self.number,
            age: Some(now.saturating_duration_since(self.granted.unwrap_or(self.joined))),
            expires_in: Some(self.ends().saturating_duration_since(now)),
            ..Entry::new(self.claim.id.into(), self.granted.is_some(), self.claim.permits, owner)
        }
    }
}

#[async_trait]
impl Backend for Memory {
    fn address(&self) -> &str {
        &self.address
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("memory", CrashRelease::Never).with_values().with_keeping()
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        let now = now();
        let mut state = self.state();
        state.settle(&claim.name, now);
        if state.find(claim).is_some() || state.evicted(claim).is_some() {
            state.renew(claim, claim.lease, now);
            return Ok(state.status_with_value(claim, now));
        }
        state.last_number += 1;
        let queued = QueuedClaim {
            claim: claim.clone(),
            number: state.last_number,
            joined: now,
            renewed: now,
            expires: now + claim.lease,
            granted: None,
            notify: Arc::default(),
        };
        let queue = state.queues.entry(claim.name.clone()).or_default();
        queue.insert(queued, now);
        let status = state.status_with_value(claim, now);
        if status == ClaimStatus::Waiting && claim.wait_mode == WaitMode::Try {
            state.remove(&claim.name, claim.id, now);
            return Ok(ClaimStatus::Gone);
        }
        Ok(status)
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        loop {
            let (notify, recheck_at) = {
                let (mut state, now) = (self.state(), now());
                state.settle(&claim.name, now);
                let recheck_at = state.recheck_at(claim);
                match state.find(claim) {
                    Some(queued) if queued.granted.is_none() => (Arc::clone(&queued.notify), recheck_at),
                    _ => return Ok(Some(state.status_with_value(claim, now))),
                }
            };
            tokio::select! {
                () = notify.notified() => {}
                () = sleep_until_some(recheck_at) => {}
            }
        }
    }

    fn place(&self, claim: &Claim) -> Option<usize> {
        let state = self.state();
        let queue = state.queues.get(&claim.name)?;
        Some(queue.ahead_of(*queue.numbers.get(&claim.id)?).count())
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        let now = now();
        let mut state = self.state();
        let renew = |claim: &Arc<Claim>| {
            state.settle(&claim.name, now);
            state.renew(claim, claim.lease, now);
            Ok(state.status(claim))
        };
        claims.iter().map(renew).collect()
    }

    async fn session_lost_hint(&self) {
        self.revoked.notified().await;
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        let removed = self.state().remove(&claim.name, claim.id, now());
        Ok(if removed.is_some() { Release::Released } else { Release::NotHeld })
    }

    async fn keep_for(&self, claim: &Claim, rest: Duration) -> Result<ClaimStatus> {
        let (mut state, now) = (self.state(), now());
        state.settle(&claim.name, now);
        state.renew(claim, rest, now);
        Ok(state.status(claim))
    }

    async fn release_after(&self, claim: &Claim, rest: Duration) -> Result<Release> {
        let (mut state, now) = (self.state(), now());
        state.settle(&claim.name, now);
        if !matches!(state.status(claim), ClaimStatus::Held(_)) {
            return Ok(Release::NotHeld);
        }
        if let Some(queue) = state.queues.get_mut(&claim.name) {
            queue.change(claim.id, |queued| queued.expires = now + rest);
            // It may end sooner than the waiters know.
            queue.waiters().for_each(|waiter| waiter.notify.notify_one());
        }
        Ok(Release::Released)
    }

    async fn set_value(&self, claim: &Claim, bytes: &[u8], keep: Duration) -> Result<ValueWrite> {
        Value::check(bytes, keep)?;
        let (mut state, now) = (self.state(), now());
        state.settle(&claim.name, now);
        let ClaimStatus::Held(grant) = state.status(claim) else { return Ok(ValueWrite::NotHeld) };
        Ok(state.values.set(&claim.name, grant.fencing_token, bytes, keep, now))
    }

    async fn examine(&self, _name: &Name) -> Result<Vec<Finding>> {
        Ok(vec![Finding::note("sharing", "no other process sees these locks, and all end with this one")])
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        Ok(self.state().inspect(name, now()))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        let now = now();
        let mut state = self.state();
        let mut names: Vec<Name> = state.queues.keys().cloned().collect();
        names.retain(|name| name.as_str().starts_with(prefix));
        let summaries = names.iter().filter_map(|name| Summary::of(name, &state.inspect(name, now)));
        stream::iter(summaries.map(Ok).collect::<Vec<_>>()).boxed()
    }

    async fn evict(&self, name: &Name, entry: &EntryKey, eviction: &Eviction) -> Result<Release> {
        let Some(id) = entry.claim_id() else { return Ok(Release::NotHeld) };
        let now = now();
        let queued = {
            let mut state = self.state();
            let Some(queued) = state.remove(name, id, now) else { return Ok(Release::NotHeld) };
            let kept = queued.claim.lease.saturating_add(KEPT);
            state.evicted.note((name.clone(), id), Arc::new(eviction.clone()), kept);
            queued
        };
        queued.notify.notify_one();
        self.revoked.notify_waiters();
        Ok(Release::Released)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("names", &self.state().queues.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_without_users_is_forgotten() {
        let connect =
            |name: &str| Memory::connect(&Address::parse(&format!("memory:{name}")).unwrap()).unwrap();
        let is_known = |name: &str| SHARED.lock().contains_key(name);
        let store = connect("forgotten");
        assert!(Arc::ptr_eq(&store, &connect("forgotten")), "one name, one store");
        drop(store);
        let other = connect("another");
        assert!(!is_known("forgotten") && is_known("another"));
        drop(other);
    }
}
