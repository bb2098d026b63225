//! The protocol between owners and a store, small enough to be searched in every order of events.
//!
//! Owners ask, repeat themselves, renew, write to what is guarded, and give back; messages arrive in any order, late or
//! never; time passes whenever it likes, and one owner's clock is slow. Nobody has to do anything: an owner that is dead or
//! stopped is one that does not, and a message that is lost is one that does not arrive. What is decided is decided by the
//! functions that the product itself uses: [`admit`] and [`blockers`] over the queue, and [`deadline`] for what an owner
//! believes.

mod promises;
mod state;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use globallock::deadline::{deadline, margin};
use globallock::queue::{MAX_CAPACITY, Share, admit, blockers};
use stateright::{Checker, HasDiscoveries, Model, Property};

pub use state::State;
use state::{AHEAD, Entry, Held, Message, Phase};

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
    /// All claims of an owner hang on one lease, so that what renews one renews all, and a claim that waits is told that
    /// one in front of it is gone, as in etcd and ZooKeeper.
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
}

/// A claim that somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whose claim it is.
    pub owner: u8,
    /// Of which lock.
    pub name: u8,
    /// How much of it.
    pub share: Share,
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
    /// A claim that waits is told of its grant.
    Granted(u8),
    /// A claim that waits is told that another is gone.
    Gone(u8, u8),
    /// A message arrives.
    Arrive(usize),
}

impl Protocol {
    /// Until when an owner believes by a request of that tick, on the store's clock.
    fn believes_until(&self, claim: u8, sent: u8) -> Option<Instant> {
        let end = *BEGIN + TICK * u32::from(sent + LEASE);
        let lease = TICK * u32::from(LEASE);
        let end = match self.flaw {
            Flaw::NoDeadline => return None,
            Flaw::NoMargin => end,
            _ => deadline(end, lease).unwrap_or(end),
        };
        // The first owner's clock is slow, by all that the margin is for.
        let is_slow = self.wanted(claim).owner == 0;
        Some(if is_slow { end + margin(lease) - Duration::from_millis(1) } else { end })
    }

    fn believes(&self, state: &State, claim: u8) -> bool {
        let Phase::Held(held) = state.phases[usize::from(claim)] else { return false };
        let now = *BEGIN + TICK * u32::from(state.now);
        self.believes_until(claim, held.sent).is_none_or(|until| now < until)
    }

    /// Whether a departure is remembered: where the claim's own lease does not see to its end.
    fn bars(&self) -> bool {
        self.shape == Shape::LeaseOfOwner && self.flaw != Flaw::NoBar
    }

    fn wanted(&self, claim: u8) -> Wanted {
        self.claims[usize::from(claim)]
    }

    fn share(&self, claim: u8) -> Share {
        self.wanted(claim).share
    }

    fn shares(&self, claims: &[u8]) -> Vec<Share> {
        claims.iter().map(|claim| self.share(*claim)).collect()
    }

    /// The claims in the queue of a name, in their order.
    fn queue(&self, state: &State, name: u8) -> Vec<u8> {
        let of_name = state.queue.iter().filter(|entry| self.wanted(entry.claim).name == name);
        of_name.map(|entry| entry.claim).collect()
    }

    /// The claims in the store that hold a name.
    fn holding(&self, state: &State, name: u8) -> Vec<u8> {
        let mut queue = self.queue(state, name);
        queue.truncate(admit(self.shares(&queue)));
        queue
    }

    /// The store forgets what is over.
    fn expire(&self, state: &mut State) {
        if self.flaw != Flaw::KeepsTheDead {
            let now = state.now;
            state.queue.retain(|entry| entry.deadline > now);
        }
    }

    /// The lease that a claim hangs on: its own, or one that all of its owner do, which is another once it was over.
    fn renew(&self, state: &mut State, claim: u8) -> u8 {
        let owner = self.wanted(claim).owner;
        let shared = |entry: &Entry| self.wanted(entry.claim).owner == owner;
        let (now, is_shared) = (state.now, self.shape == Shape::LeaseOfOwner);
        let current = state.queue.iter().find(|entry| is_shared && shared(entry)).map(|entry| entry.lease);
        for entry in &mut state.queue {
            if entry.claim == claim || is_shared && shared(entry) {
                entry.deadline = now + LEASE;
            }
        }
        let leases = &mut state.leases[usize::from(owner)];
        *leases += u8::from(is_shared && current.is_none());
        current.unwrap_or(*leases)
    }

    fn join(&self, state: &mut State, claim: u8, sent: u8) {
        let dead_lease = self.shape == Shape::LeaseOfOwner && sent + LEASE <= state.now;
        if state.barred.contains(&claim) && self.bars() || dead_lease {
            state.network.push(Message::Nowhere(claim));
            return;
        }
        let name = self.wanted(claim).name;
        let lease = self.renew(state, claim);
        if !state.queue.iter().any(|entry| entry.claim == claim) {
            let newest = state.fences[usize::from(name)];
            let restarts = self.flaw == Flaw::TokensRestart && self.queue(state, name).is_empty();
            let fence = if restarts { 1 } else { newest + 1 };
            state.fell |= fence <= newest;
            state.fences[usize::from(name)] = newest.max(fence);
            state.queue.push(Entry { claim, fence, deadline: state.now + LEASE, lease });
        }
        let queue = self.queue(state, name);
        let position = queue.iter().position(|other| *other == claim).unwrap_or(0);
        let fence = state.queue.iter().find(|entry| entry.claim == claim).map_or(0, |entry| entry.fence);
        let held = Held { fence, sent, lease };
        let holds = self.holding(state, name).contains(&claim) || self.flaw == Flaw::GrantsToAll;
        state.network.push(if holds {
            Message::Held(claim, held)
        } else {
            let ahead = if self.shape == Shape::LeaseOfOwner { &queue[..position] } else { &[] };
            Message::Waits(claim, held, AHEAD.with(ahead))
        });
    }

    /// An owner learns that a claim is held, by what was confirmed then.
    fn hold(&self, state: &mut State, claim: u8, held: Held) {
        state.phases[usize::from(claim)] = Phase::Held(held);
        // What took so long that it is over is no grant.
        if !self.believes(state, claim) {
            state.phases[usize::from(claim)] = Phase::Left;
        }
    }

    /// What confirms one claim of an owner confirms those that hang on the same lease.
    fn confirm(&self, state: &mut State, claim: u8, confirmed: Held) {
        let owner = self.wanted(claim).owner;
        for (other, phase) in (0..).zip(&mut state.phases) {
            let shared = self.shape == Shape::LeaseOfOwner && self.wanted(other).owner == owner;
            let (Phase::Held(held) | Phase::Waiting(held, _)) = phase else { continue };
            if other == claim
                || shared && (held.lease == confirmed.lease || self.flaw == Flaw::OneLeaseForEver)
            {
                // A late answer takes nothing back.
                held.sent = held.sent.max(confirmed.sent);
            }
        }
    }

    fn arrive(&self, state: &mut State, message: Message) {
        self.expire(state);
        match message {
            Message::Join(claim, sent) => self.join(state, claim, sent),
            Message::Leave(claim) => {
                state.queue.retain(|entry| entry.claim != claim);
                state.barred.push(claim);
                state.network.push(Message::Departed(claim));
            }
            Message::Held(claim, held) => {
                let since = if self.flaw == Flaw::CountsFromAnswer { state.now } else { held.sent };
                let held = Held { sent: since, ..held };
                match state.phases[usize::from(claim)] {
                    Phase::Asking | Phase::Waiting(..) => self.hold(state, claim, held),
                    Phase::Leaving if self.flaw == Flaw::AsksWhileLeaving => self.hold(state, claim, held),
                    Phase::Held(known) if known.fence == held.fence => self.confirm(state, claim, held),
                    _ => {}
                }
            }
            Message::Waits(claim, held, ahead) => match state.phases[usize::from(claim)] {
                Phase::Asking => state.phases[usize::from(claim)] = Phase::Waiting(held, ahead),
                Phase::Waiting(known, _) if known.fence == held.fence => self.confirm(state, claim, held),
                _ => {}
            },
            Message::Nowhere(claim) => state.phases[usize::from(claim)] = Phase::Left,
            Message::Departed(claim) => {
                let phase = &mut state.phases[usize::from(claim)];
                if *phase == Phase::Leaving {
                    *phase = Phase::Left;
                }
            }
            Message::Write(claim, fence) => {
                let written = &mut state.written[usize::from(self.wanted(claim).name)];
                if fence >= *written {
                    *written = fence;
                } else if self.flaw == Flaw::NoFencing {
                    state.went_back = true;
                }
            }
        }
    }

    /// Of the claims that a waiting one watches, as it last saw the queue, those that are gone.
    fn gone(&self, state: &State, claim: u8) -> Vec<u8> {
        let Phase::Waiting(_, ahead) = state.phases[usize::from(claim)] else { return Vec::new() };
        let ahead = ahead.list();
        let watched =
            blockers(&self.shares(&ahead), self.share(claim)).into_iter().map(|position| ahead[position]);
        let is_there = |other: &u8| state.queue.iter().any(|entry| entry.claim == *other);
        watched.filter(|other| !is_there(other)).collect()
    }

    /// A claim that waits hears that one is gone which it watched, and holds if that was all.
    fn hear(&self, state: &mut State, claim: u8, gone: u8) {
        let Phase::Waiting(held, ahead) = state.phases[usize::from(claim)] else { return };
        let ahead = ahead.without(gone);
        state.phases[usize::from(claim)] = Phase::Waiting(held, ahead);
        let rest = ahead.list();
        let fits = admit(self.shares(&rest).into_iter().chain([self.share(claim)])) > rest.len();
        if fits || self.flaw == Flaw::TrustsTheNext {
            self.hold(state, claim, held);
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
            if matches!(phase, Phase::Waiting(..)) {
                actions.extend(self.gone(&store, claim).into_iter().map(|gone| Event::Gone(claim, gone)));
                let holds = self.holding(&store, self.wanted(claim).name).contains(&claim);
                if self.shape == Shape::LeaseOfClaim && holds {
                    actions.push(Event::Granted(claim));
                }
            }
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
                    if self.believes(state, claim) {
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
                state.asked[position] += 1;
                state.network.push(Message::Join(claim, state.now));
                if state.phases[position] == Phase::Idle {
                    state.phases[position] = Phase::Asking;
                }
            }
            Event::Write(claim) => {
                let Phase::Held(held) = state.phases[usize::from(claim)] else { return None };
                state.network.push(Message::Write(claim, held.fence));
            }
            Event::Leave(claim) => {
                state.phases[usize::from(claim)] = Phase::Leaving;
                state.network.push(Message::Leave(claim));
            }
            Event::Granted(claim) => {
                let Phase::Waiting(held, _) = state.phases[usize::from(claim)] else { return None };
                self.hold(&mut state, claim, held);
            }
            Event::Gone(claim, gone) => self.hear(&mut state, claim, gone),
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

/// What is searched, with nothing wrong: every sort of lock over both sorts of store, for so many ticks, and with so many
/// messages on their way at most.
#[must_use]
pub fn sound(end: u8, most: usize) -> Vec<Protocol> {
    let of = |owner, name, weight, capacity| Wanted { owner, name, share: Share { weight, capacity } };
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
            protocols.push(Protocol { name, shape, claims, end, most, asks, flaw: Flaw::None });
        }
    }
    protocols
}
