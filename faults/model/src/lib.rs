#![forbid(unsafe_code)]
//! The protocol between owners and a store, small enough to be searched in every order of events.
//!
//! Owners enqueue claims, repeat requests, renew, write to the guarded resource, and release. Requests,
//! answers and pushes overtake each other, and arrive late or never. Time may pass between any two events,
//! and one owner's clock is slow. No event has to happen: a dead or stopped owner is one that does nothing
//! more, and a lost message is one that never arrives.
//!
//! The decisions are made by the functions of the product: [`admit`](globallock::queue::admit) and
//! [`blockers`](globallock::queue::blockers) decide over the queue, and
//! [`deadline`](globallock::internals::deadline) decides until when an owner believes that it holds.

mod owner;
mod promises;
mod state;
mod store;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use globallock::backend::Instant;
use globallock::queue::{MAX_CAPACITY, Permits};
use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};

pub use state::State;
use state::{Message, Phase};

/// The length of a lease in ticks.
const LEASE: u8 = 2;
/// The length of a tick. So long that the margin for clocks is a small part of it, as it is of a real lease.
const TICK: Duration = Duration::from_secs(100);

/// When the model's time begins.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How a store ends the claims of dead owners, and how it notifies waiters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Each claim has a lease of its own, and the store notifies a waiter of its grant.
    LeasePerClaim,
    /// All claims of an owner are attached to one lease, so one renewal renews all of them;
    /// and the store notifies a waiter when a claim in front of it is gone.
    LeasePerOwner,
}

/// A flaw of the protocol, for the search to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// No flaw.
    None,
    /// Owners believe that they hold until the store says otherwise.
    NoDeadline,
    /// Owners count their leases from the answer, not from the request.
    CountsFromAnswer,
    /// Owners keep no margin for clocks that run at different rates.
    NoMargin,
    /// The guarded resource accepts every token.
    NoFencing,
    /// Tokens start again from 1 when the queue is empty.
    TokensRestart,
    /// A waiter is answered that it holds.
    GrantsToAll,
    /// Expired claims stay in the queue.
    KeepsExpiredClaims,
    /// A request to enqueue that arrives after the claim's release enqueues it.
    NoTombstone,
    /// A waiter takes the end of any claim in front of it for its own grant.
    TakesGoneForGrant,
    /// The confirmation of an owner's newer lease also confirms its claims that were attached to the older
    /// one.
    ConfusesLeases,
    /// Owners whose release is not answered yet request the claim again, and believe the answer.
    AsksWhileReleasing,
    /// Owners take the answers "waiting" and "not found" for a loss, even to a request from before the grant.
    BelievesOldAnswers,
    /// Owners that are answered "not found" about an earlier entry of a claim forget its present entry.
    ForgetsNewerEntry,
    /// Owners take the token of the latest answer, whatever it is.
    TakesAnyToken,
    /// Owners take a push to an earlier entry of a claim for a push to its present entry.
    TakesOldPushes,
}

/// A claim that an owner wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The owner.
    pub owner: u8,
    /// The name of the lock.
    pub name: u8,
    /// How much of the lock.
    pub permits: Permits,
}

/// What is searched.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// What people call it.
    pub name: &'static str,
    /// How the store keeps leases.
    pub shape: Shape,
    /// What the owners want.
    pub claims: Vec<Wanted>,
    /// When time ends, in ticks.
    pub end: u8,
    /// The number of messages under way from which on owners send no more.
    pub most: usize,
    /// How often each claim is requested or renewed at most.
    pub requests: u8,
    /// Whether owners write to the guarded resource.
    pub writes: bool,
    /// What is wrong.
    pub flaw: Flaw,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A tick passes.
    Tick,
    /// An owner requests a claim, repeats a request, or renews.
    Request(u8),
    /// An owner that holds writes.
    Write(u8),
    /// An owner releases a held claim, or stops waiting.
    Release(u8),
    /// The store notifies a waiter of a change: the number says which of the changes there are.
    Push(u8, usize),
    /// A message arrives.
    Arrive(usize),
}

impl Protocol {
    fn wanted(&self, claim: u8) -> Wanted {
        self.claims[usize::from(claim)]
    }

    fn permits(&self, claim: u8) -> Permits {
        self.wanted(claim).permits
    }

    fn permits_of(&self, claims: &[u8]) -> Vec<Permits> {
        claims.iter().map(|claim| self.permits(*claim)).collect()
    }

    fn arrive(&self, state: &mut State, message: Message) {
        self.expire(state);
        match message {
            Message::Enqueue(claim, request) => self.enqueue(state, claim, request),
            Message::Release(claim) => {
                state.queue.retain(|entry| entry.claim != claim);
                state.tombstones.push(claim);
                state.network.push(Message::Released(claim));
            }
            Message::Held(claim, held) => self.on_held(state, claim, held),
            Message::Waiting(claim, waiting, ahead, held) => {
                self.on_waiting(state, claim, waiting, ahead, held);
            }
            Message::NotFound(claim, request) => self.on_not_found(state, claim, request),
            Message::Granted(claim, fencing_token) => self.on_granted(state, claim, fencing_token),
            Message::Gone(claim, fencing_token, gone) => self.on_gone(state, claim, fencing_token, gone),
            Message::Released(claim) => {
                let phase = &mut state.phases[usize::from(claim)];
                if *phase == Phase::Releasing {
                    *phase = Phase::Released;
                }
            }
            Message::Write(claim, fencing_token) => {
                let written = &mut state.written[usize::from(self.wanted(claim).name)];
                if fencing_token >= *written {
                    *written = fencing_token;
                } else if self.flaw == Flaw::NoFencing {
                    state.went_back = true;
                }
            }
        }
    }

    /// Searches every order of events.
    #[must_use]
    pub fn search(&self) -> Found {
        self.search_until(HasDiscoveries::All)
    }

    /// Searches until a counterexample to this promise is found.
    #[must_use]
    pub fn search_for(&self, promise: &'static str) -> Found {
        self.search_until(HasDiscoveries::AnyOf(BTreeSet::from([promise])))
    }

    fn search_until(&self, found: HasDiscoveries) -> Found {
        let begin = Instant::now();
        let checker = self.clone().checker().threads(2).finish_when(found).spawn_bfs().join();
        Found {
            protocol: self.clone(),
            states: checker.state_count(),
            different: checker.unique_state_count(),
            depth: checker.max_depth(),
            took: begin.elapsed(),
            violated: checker.discoveries().into_keys().collect(),
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Event;

    fn init_states(&self) -> Vec<State> {
        let names = self.claims.iter().map(|wanted| wanted.name + 1).max().unwrap_or(0);
        let owners = self.claims.iter().map(|wanted| wanted.owner + 1).max().unwrap_or(0);
        vec![State::new(usize::from(names), usize::from(owners), self.claims.len())]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Event>) {
        if state.now < self.end {
            actions.push(Event::Tick);
        }
        let mut store = state.clone();
        self.expire(&mut store);
        for (claim, phase) in (0..).zip(&state.phases) {
            let pushes = self.pushes(&store, claim).len();
            actions.extend((0..pushes).map(|push| Event::Push(claim, push)));
            if state.network.len() >= self.most {
                continue;
            }
            match phase {
                Phase::Idle => actions.push(Event::Request(claim)),
                Phase::Asking | Phase::Waiting(..) | Phase::Held(_) => {
                    if state.requests[usize::from(claim)] < self.requests {
                        actions.push(Event::Request(claim));
                    }
                    actions.push(Event::Release(claim));
                    if self.writes && self.believes(state, claim) {
                        actions.push(Event::Write(claim));
                    }
                }
                Phase::Releasing if self.flaw == Flaw::AsksWhileReleasing => {
                    if state.requests[usize::from(claim)] < self.requests {
                        actions.push(Event::Request(claim));
                    }
                }
                Phase::Releasing | Phase::Released => {}
            }
        }
        actions.extend((0..state.network.len()).map(Event::Arrive));
    }

    fn next_state(&self, before: &State, event: Event) -> Option<State> {
        let mut state = before.clone();
        match event {
            Event::Tick => state.now += 1,
            Event::Request(claim) => {
                let position = usize::from(claim);
                let request = self.next_request(&state, claim);
                state.requests[position] += 1;
                state.network.push(Message::Enqueue(claim, request));
                if state.phases[position] == Phase::Idle {
                    state.phases[position] = Phase::Asking;
                }
            }
            Event::Write(claim) => {
                let Phase::Held(held) = state.phases[usize::from(claim)] else { return None };
                state.network.push(Message::Write(claim, held.fencing_token));
            }
            Event::Release(claim) => {
                state.phases[usize::from(claim)] = Phase::Releasing;
                state.network.push(Message::Release(claim));
            }
            Event::Push(claim, push) => {
                self.expire(&mut state);
                let push = *self.pushes(&state, claim).get(push)?;
                state.network.push(push);
            }
            Event::Arrive(message) => {
                let message = state.network.remove(message);
                self.arrive(&mut state, message);
            }
        }
        state.tidy();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        promises::all()
    }
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Found {
    /// What was searched.
    pub protocol: Protocol,
    /// The number of states that were reached, with repetitions.
    pub states: usize,
    /// The number of different states.
    pub different: usize,
    /// The number of events on the longest path.
    pub depth: usize,
    /// How long the search took.
    pub took: Duration,
    /// The properties for which a path was found: a counterexample, or for "sometimes" an example.
    pub violated: Vec<&'static str>,
}

impl Found {
    /// Whether no promise was broken: only examples of what may happen were found.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let may = |name: &&str| {
            let is_it = |promise: &Property<Protocol>| {
                promise.name == *name && promise.expectation == Expectation::Sometimes
            };
            promises::all().iter().any(is_it)
        };
        self.violated.iter().all(may)
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Protocol { name, shape, flaw, end, .. } = &self.protocol;
        let (states, different, depth) = (self.states, self.different, self.depth);
        write!(f, "{name}, {shape:?}, {end} ticks, flaw {flaw:?}: ")?;
        write!(f, "{states} states, {different} different, depth {depth}, ")?;
        write!(f, "{:.1?}; found: {}", self.took, self.violated.join("; "))
    }
}

/// The protocols without a flaw: every kind of lock over both shapes of store, until tick `end`. Owners send
/// no more while `most` messages are under way.
#[must_use]
pub fn sound(end: u8, most: usize) -> Vec<Protocol> {
    let of = |owner, name, count, capacity| Wanted { owner, name, permits: Permits::new(count, capacity) };
    let all = MAX_CAPACITY;
    let kinds = [
        ("mutex of two", 2, vec![of(0, 0, 1, 1), of(1, 0, 1, 1)]),
        ("mutex of three", 2, vec![of(0, 0, 1, 1), of(1, 0, 1, 1), of(2, 0, 1, 1)]),
        ("two readers and a writer", 2, vec![of(0, 0, 1, all), of(1, 0, 1, all), of(2, 0, all, all)]),
        ("permits", 2, vec![of(0, 0, 1, 2), of(1, 0, 1, 2), of(2, 0, 2, 2)]),
        ("two mutexes of two", 2, vec![of(0, 0, 1, 1), of(0, 1, 1, 1), of(1, 1, 1, 1)]),
        // The first owner takes both mutexes.
        ("two mutexes of three", 1, vec![of(0, 0, 1, 1), of(0, 1, 1, 1), of(1, 0, 1, 1), of(2, 1, 1, 1)]),
    ];
    let mut protocols = Vec::new();
    for (name, requests, claims) in kinds {
        for shape in [Shape::LeasePerClaim, Shape::LeasePerOwner] {
            let claims = claims.clone();
            protocols.push(Protocol {
                name,
                shape,
                claims,
                end,
                most,
                requests,
                writes: true,
                flaw: Flaw::None,
            });
        }
    }
    protocols
}
