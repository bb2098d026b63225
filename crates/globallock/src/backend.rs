//! The contract between the core and the stores.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use crate::error::Result;
use crate::name::Name;
use crate::owner::Owner;
use crate::queue::Permits;

/// Who a claim is, in every store: 128 bits, of which the first 80 are the manager's and random.
///
/// Chosen before the first request, which is what lets every request be repeated with the effect of once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimId(u128);

impl ClaimId {
    /// How many hexadecimal digits at the front of the text belong to the manager.
    pub const MANAGER_DIGITS: usize = 20;

    /// Makes the `number`th id of the manager with this 80-bit `manager` part.
    #[must_use]
    pub fn new(manager: u128, number: u64) -> Self {
        ClaimId((manager << 48) | (u128::from(number) & 0xffff_ffff_ffff))
    }

    /// Reads an id from the 32 hexadecimal digits that `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        plain.then(|| u128::from_str_radix(text, 16).ok().map(ClaimId)).flatten()
    }

    /// The manager's part, as `MANAGER_DIGITS` hexadecimal digits.
    #[must_use]
    pub fn manager(self) -> String {
        format!("{:020x}", self.0 >> 48)
    }
}

/// Writes 32 hexadecimal digits.
impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Debug for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a claim does when there is no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitMode {
    /// It waits in the queue.
    Wait,
    /// It holds at once or leaves the queue again.
    Try,
}

/// One party's place in the queue of one name. Everything that a store is told of it.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Who the claim is.
    pub id: ClaimId,
    /// The lock that it is for.
    pub name: Name,
    /// How much of the lock it takes, and of how much.
    pub permits: Permits,
    /// Whether it waits.
    pub wait_mode: WaitMode,
    /// How long it outlives its owner's last sign of life, held or waiting.
    pub lease: Duration,
    /// The longest that it is held, owner alive or not.
    pub max_hold: Option<Duration>,
    /// Who made it, for people to read: what [`Owner::to_text`] gives, at most 512 bytes on one line.
    pub owner: Arc<str>,
}

/// Where a claim stands in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimStatus {
    /// It holds the lock.
    Held(Grant),
    /// It waits behind others.
    Waiting,
    /// It is not in the queue: never was, left, or was dropped by the store.
    Gone,
}

/// What a store says of a claim that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The fencing token: strictly above that of every earlier grant of the same name.
    pub fencing_token: u64,
    /// Until when the store surely keeps the claim without another sign of life, counted from *before* the request
    /// whose answer confirmed it. `None` where the store frees it only when the owner's process ends.
    pub expires: Option<Instant>,
    /// When the longest hold is over, counted from no later than the grant; `None` without a limit.
    pub hold_ends: Option<Instant>,
}

/// What a release found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The claim was in the queue, held or waiting, and has been taken out.
    Released,
    /// The claim was not there any more: it had left before, or the store had dropped it.
    NotHeld,
}

/// One claim as an onlooker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The claim's id; `None` for a holder that is not ours.
    pub id: Option<ClaimId>,
    /// Whether it holds, rather than waits.
    pub held: bool,
    /// Its share of the lock.
    pub permits: Permits,
    /// Its fencing token, where the store knows it before the grant or the claim holds; 0 for a foreign holder.
    pub fencing_token: u64,
    /// Who made it. What another program wrote is untrusted text.
    pub owner: Owner,
    /// How long ago it was granted, or joined if it waits, where the store knows.
    pub age: Option<Duration>,
    /// How long the store keeps it without another sign of life.
    pub expires_in: Option<Duration>,
}

impl Entry {
    /// Makes an entry with nothing known but who and what; the public fields take the rest.
    #[must_use]
    pub fn new(id: Option<ClaimId>, held: bool, permits: Permits, owner: Owner) -> Self {
        Entry { id, held, permits, fencing_token: 0, owner, age: None, expires_in: None }
    }
}

/// When a store frees the claims of an owner that died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashRelease {
    /// Within one lease of its last sign of life: a stopped process counts as dead.
    Lease,
    /// At once when the process ends: a stopped process keeps its claims.
    ProcessEnd,
    /// The store dies with the process.
    Never,
}

/// What a backend promises beyond the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The kind of store, as its address names it: `redis`, `file`, …
    pub kind: &'static str,
    /// When the claims of a dead owner are freed.
    pub crash_release: CrashRelease,
    /// How long the slowest of waiters may sleep between two looks at the store when a message is lost, as a divisor
    /// of the lease: renewals of waiting claims are those looks.
    pub renewals_per_lease: u32,
}

impl Capabilities {
    /// The profile of a store of this kind, with the usual three renewals a lease.
    #[must_use]
    pub const fn new(kind: &'static str, crash_release: CrashRelease) -> Self {
        Capabilities { kind, crash_release, renewals_per_lease: 3 }
    }
}

/// A store that keeps fair queues of claims.
///
/// # Contract
/// - Every method may be repeated with the effect of once, because the caller chooses the claim's id before the first
///   request. A method that fails with [`Error::Unavailable`](crate::Error::Unavailable) may have taken effect.
/// - Every method may be dropped at any await. The claim may then be in the queue or not; `leave` takes it out.
/// - Which claims hold is decided by [`admit`](crate::queue::admit) over the queue in the order of joining; claims
///   that are dead (lease over, longest hold over) count as departed from that moment.
/// - The fencing token of a grant is strictly above that of every earlier grant of the name, across restarts of the
///   owner and, as far as the store is durable, of the store.
/// - A lease counts from the owner's last `join` or `renew`. A grant alone does not lengthen it, since it is no sign
///   of the owner's life. The longest hold counts from the grant.
/// - The core calls `leave` once more than it needs rather than once less: after any `join` that did not end in
///   `Gone`, also when the caller's future was dropped.
/// - Methods bound their own time: none but `changed` outlasts a few seconds of a silent store.
/// - Backends import neither the core nor each other.
#[async_trait]
pub trait Backend: Debug + Send + Sync + 'static {
    /// Says what the store promises beyond the contract.
    fn capabilities(&self) -> Capabilities;

    /// Puts the claim at the end of its queue, or finds it where it is, and says where it stands; a claim of
    /// [`WaitMode::Try`] that does not hold at once is `Gone`, and not in the queue. A sign of life.
    ///
    /// One round trip where nobody else has the lock.
    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus>;

    /// Waits until the standing of a claim that was last answered `Waiting` may have changed: `Some` where the store
    /// has told the new standing, `None` where `join` must be called again to learn it.
    ///
    /// Costs the store nothing while nothing changes, and wakes only those whom a departure concerns. A change
    /// between `join` and this call is not missed.
    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>>;

    /// Gives each of the claims, held or waiting, one more lease from now, and says where each stands, in their order.
    /// Never revives a claim that is gone, never lengthens the longest hold.
    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>>;

    /// Waits until the store has reason to believe that claims were lost at one stroke, as by the end of a session: the
    /// core then renews all claims at once, to learn it, rather than when they are due.
    ///
    /// A store that cannot know leaves this as it is, and its losses are told at the next renewal.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    async fn session_lost_hint(&self) {
        std::future::pending::<()>().await;
    }

    /// Takes the claim out of its queue, held or not; leaving twice is leaving once.
    ///
    /// One round trip. Whoever can hold after it is told by the store, at no cost to the one who leaves.
    async fn release(&self, claim: &Claim) -> Result<Release>;

    /// Lists the queue of a name, oldest first: those who hold, then those who wait. Foreign holders too.
    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>>;

    /// Lists the names that begin with `prefix` and have a claim, in no order; a name may come twice, and one that
    /// comes or goes meanwhile may be missed.
    fn names<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Name>>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_is_read_back_and_begins_with_its_manager(manager in 0_u128..1 << 80, number in any::<u64>()) {
            let id = ClaimId::new(manager, number);
            let text = id.to_string();
            prop_assert_eq!(text.len(), 32);
            prop_assert_eq!(ClaimId::parse(&text), Some(id));
            prop_assert_eq!(&text[..ClaimId::MANAGER_DIGITS], id.manager());
            prop_assert_eq!(u128::from_str_radix(&id.manager(), 16).unwrap(), manager);
            prop_assert_eq!(format!("{id:?}"), text);
            prop_assert_ne!(id, ClaimId::new(manager, number.wrapping_add(1)));
        }

        #[test]
        fn a_number_too_long_for_an_id_changes_no_manager(manager in 0_u128..1 << 80, number in any::<u64>()) {
            prop_assert_eq!(ClaimId::new(manager, number).manager(), ClaimId::new(manager, 0).manager());
        }
    }

    #[test]
    fn an_id_is_written_as_stores_have_it() {
        assert_eq!(ClaimId::new(0xabc, 0x12).to_string(), "00000000000000000abc000000000012");
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let good = ClaimId::new(u128::MAX >> 48, 7).to_string();
        assert!(ClaimId::parse(&good).is_some());
        for text in ["", &good[1..], &format!("{good}0"), &good.to_uppercase(), &format!("+{}", &good[1..])] {
            assert_eq!(ClaimId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_store_that_cannot_know_of_losses_is_never_disturbed() {
        let store = crate::stores::memory::Memory::new();
        assert!(store.session_lost_hint().now_or_never().is_none());
    }
}
