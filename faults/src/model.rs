//! The protocol of one lock between owners and a store, small enough to be searched in every order of events.
//!
//! Owners ask, repeat themselves, renew, write to what is guarded, and give back; messages arrive in any order, late or
//! never; time passes whenever it likes, and one owner's clock is slow. Nobody has to do anything: an owner that is dead or
//! stopped is one that does not, and a message that is lost is one that does not arrive. What is decided is decided by the functions
//! that the product itself uses: [`admit`] over the queue, and [`deadline`] for what an owner believes.

use std::fmt;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use globallock::deadline::{deadline, margin};
use globallock::queue::{Share, admit};
use stateright::{Checker, Model, Property};

/// A lease is so many ticks.
const LEASE: u8 = 2;
/// How long a tick is: the margin for clocks is a small part of it, as it is of a lease.
const TICK: Duration = Duration::from_secs(100);

/// When the model's time begins.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How a store keeps the dead from holding for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Each claim has a lease of its own, as in Redis.
    LeaseOfClaim,
    /// All claims of an owner hang on one lease, as in etcd and ZooKeeper: what was renewed for one lives for all.
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
}

/// What is searched.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// For people.
    pub name: &'static str,
    /// How the store keeps leases.
    pub shape: Shape,
    /// What the owners want, one each.
    pub shares: Vec<Share>,
    /// When time ends, in ticks.
    pub end: u8,
    /// How many messages are on their way at most before owners send more.
    pub most: usize,
    /// What is wrong.
    pub flaw: Flaw,
}

/// A claim in the store's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Entry {
    owner: u8,
    fence: u8,
    deadline: u8,
}

/// What an owner knows of its claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Phase {
    Idle,
    Asking,
    Waiting,
    /// With the token, and the tick in which the request was sent that confirmed it last.
    Held(u8, u8),
    Leaving,
    Left,
}

/// A message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Message {
    /// Joins, or renews; with the tick in which it was sent.
    Join(u8, u8),
    Leave(u8),
    /// Granted by the request that was sent then.
    Held(u8, u8, u8),
    Waits(u8),
    Gone(u8),
    Departed(u8),
    /// A write to what is guarded, by an owner that held when it was sent.
    Write(u8, u8),
}

/// A state of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    now: u8,
    queue: Vec<Entry>,
    fence: u8,
    barred: Vec<u8>,
    owners: Vec<Phase>,
    /// How many requests an owner has sent.
    sent: Vec<u8>,
    network: Vec<Message>,
    /// The newest token that has written, and whether an older one was taken after it.
    written: u8,
    went_back: bool,
    /// Whether a token was given that is not above all before.
    fell: bool,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A tick goes by.
    Tick,
    /// An owner asks, or repeats a request, or renews.
    Ask(u8),
    /// An owner that holds writes.
    Write(u8),
    /// An owner gives back, or gives up.
    Leave(u8),
    /// A message arrives.
    Arrive(usize),
}

impl Protocol {
    /// Until when an owner believes by a request of that tick, on the store's clock.
    fn believes_until(&self, owner: u8, sent: u8) -> Option<Instant> {
        let end = *BEGIN + TICK * u32::from(sent + LEASE);
        let lease = TICK * u32::from(LEASE);
        let end = match self.flaw {
            Flaw::NoDeadline => return None,
            Flaw::NoMargin => end,
            _ => deadline(end, lease).unwrap_or(end),
        };
        // The first owner's clock is slow, by all that the margin is for.
        Some(if owner == 0 { end + margin(lease) - Duration::from_millis(1) } else { end })
    }

    fn believes(&self, state: &State, owner: u8) -> bool {
        let Phase::Held(_, sent) = state.owners[usize::from(owner)] else { return false };
        let now = *BEGIN + TICK * u32::from(state.now);
        self.believes_until(owner, sent).is_none_or(|until| now < until)
    }

    /// Whether a departure is remembered: where the claim's own lease does not see to its end.
    fn bars(&self) -> bool {
        self.shape == Shape::LeaseOfOwner && self.flaw != Flaw::NoBar
    }

    fn share(&self, owner: u8) -> Share {
        self.shares[usize::from(owner)]
    }

    /// The store forgets what is over.
    fn expire(&self, state: &mut State) {
        if self.flaw != Flaw::KeepsTheDead {
            let now = state.now;
            state.queue.retain(|entry| entry.deadline > now);
        }
    }

    fn join(&self, state: &mut State, owner: u8, sent: u8) {
        let dead_lease = self.shape == Shape::LeaseOfOwner && sent + LEASE <= state.now;
        if state.barred.contains(&owner) && self.bars() || dead_lease {
            state.network.push(Message::Gone(owner));
            return;
        }
        let deadline = state.now + LEASE;
        match state.queue.iter_mut().find(|entry| entry.owner == owner) {
            Some(entry) => entry.deadline = deadline,
            None => {
                let restarts = self.flaw == Flaw::TokensRestart && state.queue.is_empty();
                let fence = if restarts { 1 } else { state.fence + 1 };
                state.fell |= fence <= state.fence;
                state.fence = state.fence.max(fence);
                state.queue.push(Entry { owner, fence, deadline });
            }
        }
        let holding = admit(state.queue.iter().map(|entry| self.share(entry.owner)));
        let position = state.queue.iter().position(|entry| entry.owner == owner).unwrap_or(0);
        let held = position < holding || self.flaw == Flaw::GrantsToAll;
        let fence = state.queue[position].fence;
        state.network.push(if held { Message::Held(owner, fence, sent) } else { Message::Waits(owner) });
    }

    fn arrive(&self, state: &mut State, message: Message) {
        self.expire(state);
        let now = state.now;
        match message {
            Message::Join(owner, sent) => self.join(state, owner, sent),
            Message::Leave(owner) => {
                state.queue.retain(|entry| entry.owner != owner);
                state.barred.push(owner);
                state.network.push(Message::Departed(owner));
            }
            Message::Held(owner, fence, sent) => {
                let since = if self.flaw == Flaw::CountsFromAnswer { now } else { sent };
                let phase = &mut state.owners[usize::from(owner)];
                *phase = match *phase {
                    Phase::Asking | Phase::Waiting => Phase::Held(fence, since),
                    // A late answer takes nothing back.
                    Phase::Held(known, before) if known == fence => Phase::Held(fence, since.max(before)),
                    other => other,
                };
                // What took so long that it is over is no grant.
                if matches!(state.owners[usize::from(owner)], Phase::Held(..)) && !self.believes(state, owner)
                {
                    state.owners[usize::from(owner)] = Phase::Left;
                }
            }
            Message::Waits(owner) => {
                let phase = &mut state.owners[usize::from(owner)];
                if *phase == Phase::Asking {
                    *phase = Phase::Waiting;
                }
            }
            Message::Gone(owner) => state.owners[usize::from(owner)] = Phase::Left,
            Message::Departed(owner) => {
                let phase = &mut state.owners[usize::from(owner)];
                if *phase == Phase::Leaving {
                    *phase = Phase::Left;
                }
            }
            Message::Write(_, fence) => {
                if fence >= state.written {
                    state.written = fence;
                } else if self.flaw == Flaw::NoFencing {
                    state.went_back = true;
                }
            }
        }
    }

    /// Searches every order of events.
    #[must_use]
    pub fn search(&self) -> Found {
        let begin = Instant::now();
        let checker = self.clone().checker().threads(2).spawn_bfs().join();
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
        let owners = self.shares.len();
        vec![State {
            now: 0,
            queue: Vec::new(),
            fence: 0,
            barred: Vec::new(),
            owners: vec![Phase::Idle; owners],
            sent: vec![0; owners],
            network: Vec::new(),
            written: 0,
            went_back: false,
            fell: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Event>) {
        if state.now < self.end {
            actions.push(Event::Tick);
        }
        let owners = if state.network.len() < self.most { &state.owners[..] } else { &[] };
        for (owner, phase) in (0..).zip(owners) {
            let may_send = state.sent[usize::from(owner)] < 2;
            match phase {
                Phase::Idle => actions.push(Event::Ask(owner)),
                Phase::Asking | Phase::Waiting | Phase::Held(..) => {
                    if may_send {
                        actions.push(Event::Ask(owner));
                    }
                    actions.push(Event::Leave(owner));
                    if self.believes(state, owner) {
                        actions.push(Event::Write(owner));
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
            Event::Ask(owner) => {
                let position = usize::from(owner);
                state.sent[position] += 1;
                state.network.push(Message::Join(owner, state.now));
                if state.owners[position] == Phase::Idle {
                    state.owners[position] = Phase::Asking;
                }
            }
            Event::Write(owner) => {
                let Phase::Held(fence, _) = state.owners[usize::from(owner)] else { return None };
                state.network.push(Message::Write(owner, fence));
            }
            Event::Leave(owner) => {
                state.owners[usize::from(owner)] = Phase::Leaving;
                state.network.push(Message::Leave(owner));
            }
            Event::Arrive(message) => {
                let message = state.network.remove(message);
                self.arrive(&mut state, message);
            }
        }
        // The network has no order, and a repeated message is one message that may arrive again.
        state.network.sort_unstable();
        state.network.dedup();
        state.barred.sort_unstable();
        state.barred.dedup();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("never more believe to hold than fit", |model: &Self, state: &State| {
                let believers = (0..).take(state.owners.len()).filter(|owner| model.believes(state, *owner));
                let shares: Vec<Share> = believers.map(|owner| model.share(owner)).collect();
                admit(shares.iter().copied()) == shares.len()
            }),
            Property::always(
                "what is guarded never takes an older token after a newer one",
                |_: &Self, state: &State| !state.went_back,
            ),
            Property::always("tokens rise", |_: &Self, state: &State| !state.fell),
            Property::always(
                "whoever believes has a claim in the store that holds",
                |model: &Self, state: &State| {
                    let mut store = state.clone();
                    model.expire(&mut store);
                    let holding = admit(store.queue.iter().map(|entry| model.share(entry.owner)));
                    (0..)
                        .take(state.owners.len())
                        .filter(|owner| model.believes(state, *owner))
                        .all(|owner| store.queue[..holding].iter().any(|entry| entry.owner == owner))
                },
            ),
            Property::always(
                "whoever waits is granted when the others have been silent for a lease",
                |model: &Self, state: &State| {
                    let looks = |owner: u8| {
                        let now = state.now + LEASE;
                        let mut later = State { now, network: Vec::new(), ..state.clone() };
                        model.arrive(&mut later, Message::Join(owner, now));
                        matches!(later.network[..], [Message::Held(..)])
                    };
                    let waiting = (0..).zip(&state.owners).filter(|(_, phase)| **phase == Phase::Waiting);
                    waiting.into_iter().all(|(owner, _)| looks(owner))
                },
            ),
            Property::always(
                "who has left leaves nothing that another claim keeps alive",
                |model: &Self, state: &State| {
                    let left = |entry: &Entry| state.barred.contains(&entry.owner);
                    model.shape == Shape::LeaseOfClaim || !state.queue.iter().any(left)
                },
            ),
            Property::sometimes("two share the lock", |model: &Self, state: &State| {
                (0..).take(state.owners.len()).filter(|owner| model.believes(state, *owner)).count() > 1
            }),
            Property::sometimes("a write comes too late and is refused", |_: &Self, state: &State| {
                state
                    .network
                    .iter()
                    .any(|message| matches!(*message, Message::Write(_, fence) if fence < state.written))
            }),
        ]
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
    let share = |weight, capacity| Share { weight, capacity };
    let kinds = [
        ("mutex of two", vec![share(1, 1), share(1, 1)]),
        ("mutex of three", vec![share(1, 1), share(1, 1), share(1, 1)]),
        ("two readers and a writer", vec![share(1, 9), share(1, 9), share(9, 9)]),
        ("permits", vec![share(1, 2), share(1, 2), share(2, 2)]),
    ];
    let mut protocols = Vec::new();
    for (name, shares) in kinds {
        for shape in [Shape::LeaseOfClaim, Shape::LeaseOfOwner] {
            protocols.push(Protocol { name, shape, shares: shares.clone(), end, most, flaw: Flaw::None });
        }
    }
    protocols
}
