//! The store in this process's memory: for tests, for programs of one process, and as the reference of the contract.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, LazyLock, PoisonError, Weak};
use std::time::Instant;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};

use crate::backend::{
    Backend, Capabilities, Claim, ClaimId, ClaimStatus, CrashRelease, Entry, Grant, Release, WaitMode,
};
use crate::error::Result;
use crate::name::Name;
use crate::owner::Owner;
use crate::queue::{admit, blockers, nearest};
use crate::stores::address::Address;
use crate::sync::{Mutex, MutexGuard, Notify, now, sleep_until};

/// The stores that `memory:NAME` addresses share within the process.
static SHARED: LazyLock<Mutex<HashMap<String, Weak<Memory>>>> = LazyLock::new(Mutex::default);

/// A store in this process's memory. It forgets everything, fencing tokens too, when the process ends.
#[derive(Default)]
pub struct Memory {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queues: HashMap<Name, Queue>,
    last_number: u64,
}

/// The claims of one name, and what makes each step cost the same however many wait.
#[derive(Default)]
struct Queue {
    /// By their numbers, which is the order of joining.
    places: BTreeMap<u64, Place>,
    numbers: HashMap<ClaimId, u64>,
    /// When each is dead.
    ends: BTreeSet<(Instant, u64)>,
    /// The number of the last that was granted: those who hold are always in front of those who wait.
    last_granted: u64,
}

/// A claim in its queue.
struct Place {
    claim: Claim,
    number: u64,
    joined: Instant,
    expires: Instant,
    granted: Option<Instant>,
    /// Woken when the place is granted or dropped.
    told: Arc<Notify>,
}

impl Memory {
    /// Makes an empty store.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Finds or makes the store that an address names: all managers of `memory:NAME` in this process share one.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress) when the address has a host or an option.
    pub fn connect(address: &Address) -> Result<Arc<Self>> {
        address.finish(&[])?;
        if !address.hosts.is_empty() {
            return Err(address.wrong("a memory: address has no host; write memory:NAME"));
        }
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.retain(|_, store| store.strong_count() > 0);
        if let Some(store) = shared.get(&address.path).and_then(Weak::upgrade) {
            return Ok(store);
        }
        let store = Memory::new();
        shared.insert(address.path.clone(), Arc::downgrade(&store));
        Ok(store)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Drops the dead of a queue and lets in whom there is room for.
    fn settle(&mut self, name: &Name, now: Instant) {
        let Some(queue) = self.queues.get_mut(name) else {
            return;
        };
        queue.drop_dead(now);
        if queue.places.is_empty() {
            self.queues.remove(name);
        }
    }

    fn place(&self, claim: &Claim) -> Option<&Place> {
        self.queues.get(&claim.name)?.place(claim.id)
    }

    fn status(&self, claim: &Claim) -> ClaimStatus {
        self.place(claim).map_or(ClaimStatus::Gone, Place::status)
    }

    /// Gives a claim a lease from now, if it is there.
    fn renew(&mut self, claim: &Claim, now: Instant) {
        if let Some(queue) = self.queues.get_mut(&claim.name) {
            queue.change(claim.id, |place| place.expires = now + claim.lease);
        }
    }

    fn remove(&mut self, name: &Name, id: ClaimId, now: Instant) -> Release {
        let Some(queue) = self.queues.get_mut(name) else {
            return Release::NotHeld;
        };
        let Some(place) = queue.numbers.get(&id).copied().and_then(|number| queue.remove(number)) else {
            return Release::NotHeld;
        };
        queue.let_in(&[place], now);
        self.settle(name, now);
        Release::Released
    }

    /// When the first of those who keep `claim` waiting dies, unless it lives on.
    fn look_again(&self, claim: &Claim) -> Option<Instant> {
        let queue = self.queues.get(&claim.name)?;
        let number = *queue.numbers.get(&claim.id)?;
        let near = nearest(queue.ahead_of(number).map(|place| place.claim.permits), claim.permits)?;
        let mut ahead: Vec<&Place> = queue.ahead_of(number).take(near).collect();
        ahead.reverse();
        let shares: Vec<_> = ahead.iter().map(|place| place.claim.permits).collect();
        blockers(&shares, claim.permits).into_iter().map(|blocker| ahead[blocker].ends()).min()
    }
}

impl Queue {
    fn place(&self, id: ClaimId) -> Option<&Place> {
        self.places.get(self.numbers.get(&id)?)
    }

    /// Those in front of a number, from there to the front.
    fn ahead_of(&self, number: u64) -> impl Iterator<Item = &Place> {
        self.places.range(..number).rev().map(|(_, place)| place)
    }

    fn insert(&mut self, place: Place, now: Instant) {
        self.numbers.insert(place.claim.id, place.number);
        self.ends.insert((place.ends(), place.number));
        let last = self.places.last_key_value().map(|(number, _)| *number);
        let number = place.number;
        self.places.insert(number, place);
        // Nobody can hold behind one who waits.
        if last.is_none_or(|last| last <= self.last_granted) {
            self.admit(now);
        }
    }

    fn remove(&mut self, number: u64) -> Option<Place> {
        let place = self.places.remove(&number)?;
        self.numbers.remove(&place.claim.id);
        self.ends.remove(&(place.ends(), number));
        Some(place)
    }

    /// Changes a place, and what is known of its end.
    fn change(&mut self, id: ClaimId, change: impl FnOnce(&mut Place)) {
        let number = self.numbers.get(&id).copied();
        if let Some(place) = number.and_then(|number| self.places.get_mut(&number)) {
            self.ends.remove(&(place.ends(), place.number));
            change(place);
            self.ends.insert((place.ends(), place.number));
        }
    }

    fn drop_dead(&mut self, now: Instant) {
        let mut dead = Vec::new();
        while let Some(&(_, number)) = self.ends.first().filter(|(end, _)| *end <= now) {
            dead.extend(self.remove(number));
        }
        self.let_in(&dead, now);
        for place in dead {
            place.told.notify_one();
        }
    }

    /// Lets in whom there is room for now that these have gone: as one that waited each may have been in the way too.
    fn let_in(&mut self, left: &[Place], now: Instant) {
        let first = self.places.range(self.last_granted + 1..).next().map(|(number, _)| *number);
        let made_room =
            |left: &Place| left.granted.is_some() || first.is_some_and(|first| left.number < first);
        if left.iter().any(made_room) {
            self.admit(now);
        }
    }

    /// Marks as granted all who hold.
    fn admit(&mut self, now: Instant) {
        let holding = admit(self.places.values().map(|place| place.claim.permits));
        let new: Vec<ClaimId> = self
            .places
            .values()
            .take(holding)
            .skip_while(|place| place.granted.is_some())
            .map(|place| place.claim.id)
            .collect();
        for id in new {
            self.change(id, |place| {
                place.granted = Some(now);
                place.told.notify_one();
            });
            self.last_granted = self.numbers[&id];
        }
    }
}

impl Place {
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
                hold_ends: self.hold_ends(),
            }),
        }
    }

    fn entry(&self, now: Instant) -> Entry {
        Entry {
            fencing_token: self.number,
            age: Some(now.saturating_duration_since(self.granted.unwrap_or(self.joined))),
            expires_in: Some(self.ends().saturating_duration_since(now)),
            ..Entry::new(
                Some(self.claim.id),
                self.granted.is_some(),
                self.claim.permits,
                Owner::from_text(&self.claim.owner),
            )
        }
    }
}

#[async_trait]
impl Backend for Memory {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new("memory", CrashRelease::Never)
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        let now = now();
        let mut state = self.state();
        state.settle(&claim.name, now);
        if state.place(claim).is_some() {
            state.renew(claim, now);
            return Ok(state.status(claim));
        }
        state.last_number += 1;
        let place = Place {
            claim: claim.clone(),
            number: state.last_number,
            joined: now,
            expires: now + claim.lease,
            granted: None,
            told: Arc::default(),
        };
        state.queues.entry(claim.name.clone()).or_default().insert(place, now);
        let status = state.status(claim);
        if status == ClaimStatus::Waiting && claim.wait_mode == WaitMode::Try {
            state.remove(&claim.name, claim.id, now);
            return Ok(ClaimStatus::Gone);
        }
        Ok(status)
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        loop {
            let (told, look_again) = {
                let mut state = self.state();
                state.settle(&claim.name, now());
                let look_again = state.look_again(claim);
                match state.place(claim) {
                    Some(place) if place.granted.is_none() => (Arc::clone(&place.told), look_again),
                    Some(place) => return Ok(Some(place.status())),
                    None => return Ok(Some(ClaimStatus::Gone)),
                }
            };
            let blocker_ends = async {
                match look_again {
                    Some(instant) => sleep_until(instant.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = told.notified() => {}
                () = blocker_ends => {}
            }
        }
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        let now = now();
        let mut state = self.state();
        let renew = |claim: &Arc<Claim>| {
            state.settle(&claim.name, now);
            state.renew(claim, now);
            Ok(state.status(claim))
        };
        claims.iter().map(renew).collect()
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        let now = now();
        let mut state = self.state();
        state.settle(&claim.name, now);
        Ok(state.remove(&claim.name, claim.id, now))
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        let now = now();
        let mut state = self.state();
        state.settle(name, now);
        let places = state.queues.get(name).into_iter().flat_map(|queue| queue.places.values());
        Ok(places.map(|place| place.entry(now)).collect())
    }

    fn names<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Name>> {
        let now = now();
        let mut state = self.state();
        let all: Vec<Name> = state.queues.keys().cloned().collect();
        for name in &all {
            state.settle(name, now);
        }
        let mut names = all;
        names.retain(|name| name.as_str().starts_with(prefix) && state.queues.contains_key(name));
        stream::iter(names.into_iter().map(Ok)).boxed()
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
    fn a_store_that_nobody_uses_any_more_is_forgotten() {
        let connect =
            |name: &str| Memory::connect(&Address::parse(&format!("memory:{name}")).unwrap()).unwrap();
        let is_known = |name: &str| SHARED.lock().unwrap().contains_key(name);
        let store = connect("forgotten");
        assert!(Arc::ptr_eq(&store, &connect("forgotten")), "one name, one store");
        drop(store);
        let other = connect("another");
        assert!(!is_known("forgotten") && is_known("another"));
        drop(other);
    }
}
