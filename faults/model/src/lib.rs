#![forbid(unsafe_code)]
//! The protocol between owners and a store, small enough to be searched in every order of events.
//!
//! Owners ask, repeat themselves, renew, write to what is guarded, and give back; requests, answers and pushes overtake
//! each other, and arrive late or never; time passes whenever it likes, and one owner's clock is slow. Nobody has to
//! do anything: an owner that is dead or stopped is one that does not, and a message that is lost is one that does
//! not arrive. What is decided is decided by the functions that the product itself uses:
//! [`admit`](globallock::queue::admit) and [`blockers`](globallock::queue::blockers) over the queue, and
//! [`deadline`](globallock::internals::deadline) for what an owner believes.

mod owner;
mod promises;
mod state;
mod store;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use globallock::queue::{MAX_CAPACITY, Permits};
use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};

pub use state::State;
use state::{Message, Phase};

/// A lease is so many ticks.
const LEASE: u8 = 2;
/// How long a tick is: the margin for clocks is a small part of it, as it is of a lease.
const TICK: Duration = Duration::from_secs(100);

/// When the model's time begins.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How a store keeps the dead from holding for ever, and whom it tells of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Each claim has a lease of its own, and the store tells it of its grant, as Redis does.
    LeaseOfClaim,
    /// All claims of an owner hang on one lease, so that what renews one renews all, and a claim that waits is told
    /// that one in front of it is gone, as in etcd and ZooKeeper.
    LeaseOfOwner,
}

/// What is wrong with the protocol, for the search to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// Nothing.
    None,
    /// Owners believe until they are told otherwise.
    NoDeadline,
    /// Owners count their leases from the answer.
    CountsFromAnswer,
    /// Owners take nothing off for the rates of clocks.
    NoMargin,
    /// What is guarded takes every token.
    NoFencing,
    /// Tokens begin anew when the queue is empty.
    TokensRestart,
    /// Who waits is told that it holds.
    GrantsToAll,
    /// Claims whose lease is over stay in the queue.
    KeepsTheDead,
    /// A request to join that arrives after the departure joins.
    NoBar,
    /// Who waits takes the end of the claim in front for its own grant.
    TrustsTheNext,
    /// What confirms an owner's newer lease confirms its claims under the older one.
    OneLeaseForEver,
    /// Owners that have given up, and were not answered, ask again and take the answer.
    AsksWhileLeaving,
    /// Owners take "waiting" and "nowhere" for a loss though they had asked before they were granted.
    BelievesOldAnswers,
    /// Owners that look for an earlier place of a claim, and do not find it, forget the place that it has now.
    ForgetsNewerPlace,
    /// Owners take the token of whatever answer comes last.
    TakesAnyToken,
    /// Owners take a push to an earlier place of a claim for one to the place that it has now.
    TakesOldPushes,
}

/// A claim that somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whose claim it is.
    pub owner: u8,
    /// Of which lock.
    pub name: u8,
    /// How much of it.
    pub permits: Permits,
}

/// What is searched.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// For people.
    pub name: &'static str,
    /// How the store keeps leases.
    pub shape: Shape,
    /// What the owners want.
    pub claims: Vec<Wanted>,
    /// When time ends, in ticks.
    pub end: u8,
    /// How many messages are on their way at most before owners send more.
    pub most: usize,
    /// How often each claim is asked for or renewed at most.
    pub asks: u8,
    /// Whether owners write to what is guarded.
    pub writes: bool,
    /// What is wrong.
    pub flaw: Flaw,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A tick goes by.
    Tick,
    /// An owner asks for a claim, or repeats a request, or renews.
    Ask(u8),
    /// An owner that holds writes.
    Write(u8),
    /// An owner gives back, or gives up.
    Leave(u8),
    /// The store tells a claim that waits of a change, unasked: the first of what there is to tell, or a later one.
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

    fn shares(&self, claims: &[u8]) -> Vec<Permits> {
        claims.iter().map(|claim| self.permits(*claim)).collect()
    }

    fn arrive(&self, state: &mut State, message: Message) {
        self.expire(state);
        match message {
            Message::Join(claim, asked) => self.join(state, claim, asked),
            Message::Leave(claim) => {
                state.queue.retain(|entry| entry.claim != claim);
                state.barred.push(claim);
                state.network.push(Message::Departed(claim));
            }
            Message::Held(claim, held) => self.told_held(state, claim, held),
            Message::Waits(claim, waits, ahead, held) => self.told_waits(state, claim, waits, ahead, held),
            Message::Nowhere(claim, asked) => self.told_nowhere(state, claim, asked),
            Message::Granted(claim, fencing_token) => self.told_granted(state, claim, fencing_token),
            Message::Gone(claim, fencing_token, gone) => self.told_gone(state, claim, fencing_token, gone),
            Message::Departed(claim) => {
                let phase = &mut state.phases[usize::from(claim)];
                if *phase == Phase::Leaving {
                    *phase = Phase::Left;
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

    /// Searches until a story is found of how this promise is broken.
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
                Phase::Idle => actions.push(Event::Ask(claim)),
                Phase::Asking | Phase::Waiting(..) | Phase::Held(_) => {
                    if state.asked[usize::from(claim)] < self.asks {
                        actions.push(Event::Ask(claim));
                    }
                    actions.push(Event::Leave(claim));
                    if self.writes && self.believes(state, claim) {
                        actions.push(Event::Write(claim));
                    }
                }
                Phase::Leaving if self.flaw == Flaw::AsksWhileLeaving => {
                    if state.asked[usize::from(claim)] < self.asks {
                        actions.push(Event::Ask(claim));
                    }
                }
                Phase::Leaving | Phase::Left => {}
            }
        }
        actions.extend((0..state.network.len()).map(Event::Arrive));
    }

    fn next_state(&self, before: &State, event: Event) -> Option<State> {
        let mut state = before.clone();
        match event {
            Event::Tick => state.now += 1,
            Event::Ask(claim) => {
                let position = usize::from(claim);
                let asked = self.asks(&state, claim);
                state.asked[position] += 1;
                state.network.push(Message::Join(claim, asked));
                if state.phases[position] == Phase::Idle {
                    state.phases[position] = Phase::Asking;
                }
            }
            Event::Write(claim) => {
                let Phase::Held(held) = state.phases[usize::from(claim)] else { return None };
                state.network.push(Message::Write(claim, held.fencing_token));
            }
            Event::Leave(claim) => {
                state.phases[usize::from(claim)] = Phase::Leaving;
                state.network.push(Message::Leave(claim));
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
    /// How many states were made.
    pub states: usize,
    /// How many of them are different.
    pub different: usize,
    /// The longest way to one.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// The properties of which a story was found: a counterexample, or for "sometimes" an example.
    pub violated: Vec<&'static str>,
}

impl Found {
    /// Whether no promise was broken: what was found are examples of what may happen.
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
        write!(
            f,
            "{name}, {shape:?}, {end} ticks, flaw {flaw:?}: {states} states, {different} different, depth {depth}, "
        )?;
        write!(f, "{:.1?}; found: {}", self.took, self.violated.join("; "))
    }
}

/// What is searched, with nothing wrong: every sort of lock over both sorts of store, for so many ticks, and with so
/// many messages on their way at most.
#[must_use]
pub fn sound(end: u8, most: usize) -> Vec<Protocol> {
    let of = |owner, name, count, capacity| Wanted { owner, name, permits: Permits { count, capacity } };
    let all = MAX_CAPACITY;
    let kinds = [
        ("mutex of two", 2, vec![of(0, 0, 1, 1), of(1, 0, 1, 1)]),
        ("mutex of three", 2, vec![of(0, 0, 1, 1), of(1, 0, 1, 1), of(2, 0, 1, 1)]),
        ("two readers and a writer", 2, vec![of(0, 0, 1, all), of(1, 0, 1, all), of(2, 0, all, all)]),
        ("permits", 2, vec![of(0, 0, 1, 2), of(1, 0, 1, 2), of(2, 0, 2, 2)]),
        ("two mutexes of two", 2, vec![of(0, 0, 1, 1), of(0, 1, 1, 1), of(1, 1, 1, 1)]),
        // The first owner takes both.
        ("two mutexes of three", 1, vec![of(0, 0, 1, 1), of(0, 1, 1, 1), of(1, 0, 1, 1), of(2, 1, 1, 1)]),
    ];
    let mut protocols = Vec::new();
    for (name, asks, claims) in kinds {
        for shape in [Shape::LeaseOfClaim, Shape::LeaseOfOwner] {
            let claims = claims.clone();
            protocols.push(Protocol { name, shape, claims, end, most, asks, writes: true, flaw: Flaw::None });
        }
    }
    protocols
}
