//! A state of everything: the store, the owners, and the messages under way between them.

/// Instead of an entry's token: the claim has not been enqueued, or its owner does not know its entry.
pub(super) const NO_ENTRY: u8 = 0;
/// Instead of an entry's token in a renewal: its owner has forgotten the entry.
pub(super) const FORGOTTEN: u8 = u8::MAX;

/// A claim in the store's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) claim: u8,
    /// Its token, which also identifies the entry: no two entries have the same.
    pub(super) fencing_token: u8,
    pub(super) deadline: u8,
    /// The lease that it is attached to, where claims share their owner's leases.
    pub(super) lease: u8,
}

/// What an owner knows of a claim that is in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Held {
    pub(super) fencing_token: u8,
    /// The tick in which the request was sent that was confirmed last.
    pub(super) sent: u8,
    pub(super) lease: u8,
}

/// A request, with what its owner knew when it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Request {
    /// The tick in which it was sent.
    pub(super) sent: u8,
    /// The token of the entry that it renews, or [`NO_ENTRY`] to enqueue the claim.
    pub(super) entry: u8,
    /// Whether the owner knew of a grant.
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
    Releasing,
    Released,
}

/// A message under way. Any other message may overtake it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Message {
    /// A request to enqueue or renew the claim.
    Enqueue(u8, Request),
    /// A request to release the claim.
    Release(u8),
    /// An answer: the claim is held.
    Held(u8, Held),
    /// An answer: the claim waits behind these; and whether its owner knew of a grant when it sent the
    /// request.
    Waiting(u8, Held, Ahead, bool),
    /// An answer: the entry of the request does not exist.
    NotFound(u8, Request),
    /// An answer: the claim is released.
    Released(u8),
    /// A push: the entry with this token holds.
    Granted(u8, u8),
    /// A push to the entry with this token: another claim, which was in front of it, is gone.
    Gone(u8, u8, u8),
    /// A write with this token to the guarded resource, by an owner that believed to hold when it was sent.
    Write(u8, u8),
}

/// A state of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub(super) now: u8,
    /// The store's entries, of all names, oldest first.
    pub(super) queue: Vec<Entry>,
    /// The newest token of each name.
    pub(super) newest_tokens: Vec<u8>,
    /// How many leases each owner has had.
    pub(super) leases: Vec<u8>,
    /// Claims that were released.
    pub(super) tombstones: Vec<u8>,
    pub(super) phases: Vec<Phase>,
    /// Claims that are held, and whose owners have forgotten their entries.
    pub(super) forgotten: Vec<u8>,
    /// How often each claim was requested.
    pub(super) requests: Vec<u8>,
    /// The messages under way.
    pub(super) network: Vec<Message>,
    /// For each name the newest token that was written with.
    pub(super) written: Vec<u8>,
    /// Whether the resource accepted an older token after that.
    pub(super) went_back: bool,
    /// Whether a token was given that is not above all earlier ones.
    pub(super) fell: bool,
    /// Whether a claim was reported lost that the store kept, before its deadline.
    pub(super) unprovoked: bool,
}

impl State {
    pub(super) fn new(names: usize, owners: usize, claims: usize) -> Self {
        State {
            now: 0,
            queue: Vec::new(),
            newest_tokens: vec![0; names],
            leases: vec![0; owners],
            tombstones: Vec::new(),
            phases: vec![Phase::Idle; claims],
            forgotten: Vec::new(),
            requests: vec![0; claims],
            network: Vec::new(),
            written: vec![0; names],
            went_back: false,
            fell: false,
            unprovoked: false,
        }
    }

    /// Gives equal states one representation, because the search compares them: the order of the messages
    /// does not matter, and of two equal messages one is enough.
    pub(super) fn tidy(&mut self) {
        self.network.sort_unstable();
        self.network.dedup();
        self.tombstones.sort_unstable();
        self.tombstones.dedup();
    }
}
