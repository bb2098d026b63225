//! The store in this process's memory: for tests, for programs of one process, and as the reference of the contract.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, PoisonError, Weak};
use std::time::Instant;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};

use crate::address::Address;
use crate::backend::{
    Backend, Claim, ClaimId, CrashRelease, Departure, Entry, Grant, Patience, Profile, Standing,
};
use crate::error::Result;
use crate::name::Name;
use crate::owner::Owner;
use crate::queue::{admit, blockers};
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
    queues: HashMap<Name, Vec<Place>>,
    last_number: u64,
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
        queue.retain(|place| {
            let alive = place.ends() > now;
            if !alive {
                place.told.notify_one();
            }
            alive
        });
        let holding = admit(queue.iter().map(|place| place.claim.share));
        for place in queue[..holding].iter_mut().filter(|place| place.granted.is_none()) {
            place.granted = Some(now);
            place.told.notify_one();
        }
        if queue.is_empty() {
            self.queues.remove(name);
        }
    }

    fn place(&mut self, claim: &Claim) -> Option<&mut Place> {
        self.queues.get_mut(&claim.name)?.iter_mut().find(|place| place.claim.id == claim.id)
    }

    fn standing(&mut self, claim: &Claim) -> Standing {
        self.place(claim).map_or(Standing::Gone, |place| place.standing())
    }

    fn remove(&mut self, name: &Name, id: ClaimId, now: Instant) -> Departure {
        let Some(queue) = self.queues.get_mut(name) else {
            return Departure::Gone;
        };
        let Some(position) = queue.iter().position(|place| place.claim.id == id) else {
            return Departure::Gone;
        };
        queue.remove(position);
        self.settle(name, now);
        Departure::Left
    }

    /// When the first of those who keep `claim` waiting dies, unless it lives on.
    fn look_again(&self, claim: &Claim) -> Option<Instant> {
        let queue = self.queues.get(&claim.name)?;
        let position = queue.iter().position(|place| place.claim.id == claim.id)?;
        let ahead: Vec<_> = queue[..position].iter().map(|place| place.claim.share).collect();
        blockers(&ahead, claim.share).into_iter().map(|blocker| queue[blocker].ends()).min()
    }
}

impl Place {
    fn ends(&self) -> Instant {
        self.hold_ends().map_or(self.expires, |hold_ends| hold_ends.min(self.expires))
    }

    fn hold_ends(&self) -> Option<Instant> {
        Some(self.granted? + self.claim.max_hold?)
    }

    fn standing(&self) -> Standing {
        match self.granted {
            None => Standing::Waiting,
            Some(_) => Standing::Held(Grant {
                fence: self.number,
                expires: Some(self.expires),
                hold_ends: self.hold_ends(),
            }),
        }
    }

    fn entry(&self, now: Instant) -> Entry {
        Entry {
            fence: self.number,
            age: Some(now.saturating_duration_since(self.granted.unwrap_or(self.joined))),
            expires_in: Some(self.ends().saturating_duration_since(now)),
            ..Entry::new(
                Some(self.claim.id),
                self.granted.is_some(),
                self.claim.share,
                Owner::from_text(&self.claim.owner),
            )
        }
    }
}

#[async_trait]
impl Backend for Memory {
    fn profile(&self) -> Profile {
        Profile::new("memory", CrashRelease::Never)
    }

    async fn join(&self, claim: &Claim) -> Result<Standing> {
        let now = now();
        let mut state = self.state();
        state.settle(&claim.name, now);
        if let Some(place) = state.place(claim) {
            place.expires = now + claim.lease;
            return Ok(place.standing());
        }
        state.last_number += 1;
        let number = state.last_number;
        state.queues.entry(claim.name.clone()).or_default().push(Place {
            claim: claim.clone(),
            number,
            joined: now,
            expires: now + claim.lease,
            granted: None,
            told: Arc::default(),
        });
        state.settle(&claim.name, now);
        let standing = state.standing(claim);
        if standing == Standing::Waiting && claim.patience == Patience::Once {
            state.remove(&claim.name, claim.id, now);
            return Ok(Standing::Gone);
        }
        Ok(standing)
    }

    async fn changed(&self, claim: &Claim) -> Result<Option<Standing>> {
        loop {
            let (told, look_again) = {
                let mut state = self.state();
                state.settle(&claim.name, now());
                let look_again = state.look_again(claim);
                match state.place(claim) {
                    Some(place) if place.granted.is_none() => (Arc::clone(&place.told), look_again),
                    Some(place) => return Ok(Some(place.standing())),
                    None => return Ok(Some(Standing::Gone)),
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

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<Standing>> {
        let now = now();
        let mut state = self.state();
        let renew = |claim: &Arc<Claim>| {
            state.settle(&claim.name, now);
            if let Some(place) = state.place(claim) {
                place.expires = now + claim.lease;
            }
            Ok(state.standing(claim))
        };
        claims.iter().map(renew).collect()
    }

    async fn leave(&self, claim: &Claim) -> Result<Departure> {
        let now = now();
        let mut state = self.state();
        state.settle(&claim.name, now);
        Ok(state.remove(&claim.name, claim.id, now))
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        let now = now();
        let mut state = self.state();
        state.settle(name, now);
        let queue = state.queues.get(name).map(Vec::as_slice).unwrap_or_default();
        Ok(queue.iter().map(|place| place.entry(now)).collect())
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
