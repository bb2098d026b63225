//! A state of everything: the store, the owners, and what is on its way between them.

/// A claim in the store's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) claim: u8,
    pub(super) fence: u8,
    pub(super) deadline: u8,
    /// Which of its owner's leases it hangs on, where they are shared.
    pub(super) lease: u8,
}

/// What an owner knows of a claim that is in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Held {
    pub(super) fence: u8,
    /// The tick in which the request was sent that confirmed it last.
    pub(super) sent: u8,
    pub(super) lease: u8,
}

/// The claims in front of one, as its owner last saw them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Ahead([u8; 3]);

/// Nobody in front.
pub(super) const AHEAD: Ahead = Ahead([NOBODY; 3]);
const NOBODY: u8 = u8::MAX;

impl Ahead {
    pub(super) fn with(mut self, claims: &[u8]) -> Self {
        self.0[..claims.len()].copy_from_slice(claims);
        self
    }

    pub(super) fn list(self) -> Vec<u8> {
        self.0.into_iter().filter(|claim| *claim != NOBODY).collect()
    }

    pub(super) fn without(self, gone: u8) -> Self {
        let rest: Vec<u8> = self.list().into_iter().filter(|claim| *claim != gone).collect();
        AHEAD.with(&rest)
    }
}

/// What an owner knows of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Phase {
    Idle,
    Asking,
    Waiting(Held, Ahead),
    Held(Held),
    Leaving,
    Left,
}

/// A message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Message {
    /// Joins, or renews; with the tick in which it was sent.
    Join(u8, u8),
    Leave(u8),
    Held(u8, Held),
    Waits(u8, Held, Ahead),
    /// The claim is not in the queue any more.
    Nowhere(u8),
    Departed(u8),
    /// A write to what is guarded, by an owner that held when it was sent.
    Write(u8, u8),
}

/// A state of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub(super) now: u8,
    /// The store's, of all names, oldest first.
    pub(super) queue: Vec<Entry>,
    /// The newest token of each name.
    pub(super) fences: Vec<u8>,
    /// How many leases each owner has had.
    pub(super) leases: Vec<u8>,
    /// Claims that have left.
    pub(super) barred: Vec<u8>,
    pub(super) phases: Vec<Phase>,
    /// How often each claim was asked for.
    pub(super) asked: Vec<u8>,
    pub(super) network: Vec<Message>,
    /// For each name the newest token that has written.
    pub(super) written: Vec<u8>,
    /// Whether an older one was taken after it.
    pub(super) went_back: bool,
    /// Whether a token was given that is not above all before.
    pub(super) fell: bool,
}

impl State {
    pub(super) fn new(names: usize, owners: usize, claims: usize) -> Self {
        State {
            now: 0,
            queue: Vec::new(),
            fences: vec![0; names],
            leases: vec![0; owners],
            barred: Vec::new(),
            phases: vec![Phase::Idle; claims],
            asked: vec![0; claims],
            network: Vec::new(),
            written: vec![0; names],
            went_back: false,
            fell: false,
        }
    }

    /// Makes states that are the same look the same: the network has no order, and a repeated message is one that may
    /// arrive again.
    pub(super) fn tidy(&mut self) {
        self.network.sort_unstable();
        self.network.dedup();
        self.barred.sort_unstable();
        self.barred.dedup();
    }
}
