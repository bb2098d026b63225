//! A state of everything: the store, the owners, and what is on its way between them.

/// No place: a claim that has not joined, or whose place its owner does not know.
pub(super) const NOWHERE: u8 = 0;
/// The place of a renewal whose owner has forgotten it.
pub(super) const FORGOTTEN: u8 = u8::MAX;

/// A claim in the store's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) claim: u8,
    /// Its token, which is its place too: no two entries have the same.
    pub(super) fencing_token: u8,
    pub(super) deadline: u8,
    /// Which of its owner's leases it is attached to, where they are shared.
    pub(super) lease: u8,
}

/// What an owner knows of a claim that is in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Held {
    pub(super) fencing_token: u8,
    /// The tick in which the request was sent that confirmed it last.
    pub(super) sent: u8,
    pub(super) lease: u8,
}

/// What an owner knew when it sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Asked {
    /// The tick.
    pub(super) sent: u8,
    /// The place that it renews, or [`NOWHERE`] to join.
    pub(super) place: u8,
    /// Whether it had been told of its grant.
    pub(super) held: bool,
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

/// A message on its way. Any other may overtake it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Message {
    /// Joins, or renews.
    Join(u8, Asked),
    Leave(u8),
    /// An answer: the claim holds.
    Held(u8, Held),
    /// An answer: the claim waits behind these; and whether its owner had been told of a grant when it asked.
    Waits(u8, Held, Ahead, bool),
    /// An answer: the claim is not where the request looked for it.
    Nowhere(u8, Asked),
    Departed(u8),
    /// A push: the entry with this token holds.
    Granted(u8, u8),
    /// A push to the entry with this token: another claim in front of it is gone.
    Gone(u8, u8, u8),
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
    /// Claims whose owners hold them, and have forgotten their places.
    pub(super) forgotten: Vec<u8>,
    /// How often each claim was asked for.
    pub(super) asked: Vec<u8>,
    pub(super) network: Vec<Message>,
    /// For each name the newest token that has written.
    pub(super) written: Vec<u8>,
    /// Whether an older one was taken after it.
    pub(super) went_back: bool,
    /// Whether a token was given that is not above all before.
    pub(super) fell: bool,
    /// Whether an owner was told that it has lost what the store kept for it, before its deadline.
    pub(super) unprovoked: bool,
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
            forgotten: Vec::new(),
            asked: vec![0; claims],
            network: Vec::new(),
            written: vec![0; names],
            went_back: false,
            fell: false,
            unprovoked: false,
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
