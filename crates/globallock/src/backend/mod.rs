//! The contract between the core and the stores.

mod notice;
mod onlooker;

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};

use crate::error::Result;
use crate::name::Name;
use crate::queue::Permits;
pub use crate::sync::Instant;

pub use crate::eviction::Eviction;
pub use notice::{StoreNotice, StoreNoticeKind};
pub use onlooker::{Change, Entry, EntryKey, Summary};

/// The lease of claims whose owner asks for no other.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(10);

/// How many times per lease the core renews a claim, held or waiting. A waiter that missed its wake-up finds
/// out at its next renewal.
pub const RENEWALS_PER_LEASE: u32 = 3;

/// Who a claim is, in every store: 128 bits, of which the first 80 are the manager's and random.
///
/// Chosen before the first request, which is what lets every request be repeated with the effect of once.
///
/// ```
/// use globallock::backend::ClaimId;
///
/// let id = ClaimId::new(0xabc, 7);
/// assert_eq!(id.to_string(), "00000000000000000abc000000000007");
/// assert_eq!(ClaimId::parse(&id.to_string()), Some(id));
/// ```
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

/// What a claim does when it does not fit.
///
/// Exhaustive on purpose: a store must decide about each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitMode {
    /// It waits in the queue.
    Wait,
    /// It holds at once or leaves the queue again.
    Try,
}

/// One party's place in the queue of one name. Everything that a store is told of it.
///
/// The core makes the claims of locks. Who tests a store of their own makes them like this:
///
/// ```
/// use std::time::Duration;
/// use globallock::backend::{Backend, Claim, ClaimId, ClaimStatus};
/// use globallock::queue::Permits;
/// use globallock::{Memory, Name, Release};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let store = Memory::new();
/// let claim = Claim::new(ClaimId::new(1, 1), Name::new("a")?, Permits::MUTEX)
///     .with_lease(Duration::from_secs(5));
/// assert!(matches!(store.enqueue(&claim).await?, ClaimStatus::Held(grant) if grant.fencing_token == 1));
/// assert_eq!(store.release(&claim).await?, Release::Released);
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
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
    /// Who made it, for people to read: what [`Owner::to_text`](crate::Owner::to_text) gives, at most 512
    /// bytes on one line.
    pub owner: Arc<str>,
}

impl Claim {
    /// A claim that waits, with a lease of 10 s, no max hold time and no owner: the methods below set these.
    #[must_use]
    pub fn new(id: ClaimId, name: Name, permits: Permits) -> Self {
        Claim {
            id,
            name,
            permits,
            wait_mode: WaitMode::Wait,
            lease: DEFAULT_LEASE,
            max_hold: None,
            owner: Arc::from(""),
        }
    }

    /// Sets [`Claim::id`].
    #[must_use]
    pub fn with_id(self, id: ClaimId) -> Self {
        Claim { id, ..self }
    }

    /// Sets [`Claim::permits`].
    #[must_use]
    pub fn with_permits(self, permits: Permits) -> Self {
        Claim { permits, ..self }
    }

    /// Sets [`Claim::wait_mode`].
    #[must_use]
    pub fn with_wait_mode(self, wait_mode: WaitMode) -> Self {
        Claim { wait_mode, ..self }
    }

    /// Sets [`Claim::lease`].
    #[must_use]
    pub fn with_lease(self, lease: Duration) -> Self {
        Claim { lease, ..self }
    }

    /// Sets [`Claim::max_hold`].
    #[must_use]
    pub fn with_max_hold(self, max_hold: impl Into<Option<Duration>>) -> Self {
        Claim { max_hold: max_hold.into(), ..self }
    }

    /// Sets [`Claim::owner`].
    #[must_use]
    pub fn with_owner(self, owner: impl Into<Arc<str>>) -> Self {
        Claim { owner: owner.into(), ..self }
    }
}

/// Where a claim stands in its queue.
///
/// Exhaustive on purpose: the core must decide about each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimStatus {
    /// It holds the lock.
    Held(Grant),
    /// It waits behind others.
    Waiting,
    /// It is not in the queue: it never was, it was released, or the store dropped it.
    Gone,
    /// It is not in the queue, because an onlooker took it out.
    Evicted(Arc<Eviction>),
}

/// What a store says of a claim that holds.
///
/// ```
/// use std::time::Duration;
/// use globallock::backend::{Grant, Instant};
///
/// let sent = Instant::now();
/// let grant = Grant::new(7).with_expires(sent + Duration::from_secs(10));
/// assert_eq!((grant.fencing_token, grant.hold_ends), (7, None));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// The fencing token: strictly above that of every earlier grant of the same name.
    pub fencing_token: u64,
    /// Until when the store surely keeps the claim without another sign of life, counted from *before* the
    /// request whose answer confirmed it. `None` where the store frees it only when the owner's process ends.
    pub expires: Option<Instant>,
    /// When the max hold time has passed, counted from no later than the grant; `None` without a limit.
    pub hold_ends: Option<Instant>,
}

impl Grant {
    /// A grant with this token that does not expire and has no max hold time: the methods below set
    /// these.
    #[must_use]
    pub fn new(fencing_token: u64) -> Self {
        Grant { fencing_token, expires: None, hold_ends: None }
    }

    /// Sets [`Grant::fencing_token`].
    #[must_use]
    pub fn with_fencing_token(self, fencing_token: u64) -> Self {
        Grant { fencing_token, ..self }
    }

    /// Sets [`Grant::expires`].
    #[must_use]
    pub fn with_expires(self, expires: impl Into<Option<Instant>>) -> Self {
        Grant { expires: expires.into(), ..self }
    }

    /// Sets [`Grant::hold_ends`].
    #[must_use]
    pub fn with_hold_ends(self, hold_ends: impl Into<Option<Instant>>) -> Self {
        Grant { hold_ends: hold_ends.into(), ..self }
    }
}

/// What a release found.
///
/// Exhaustive on purpose: a claim was in its queue or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The claim was in the queue, held or waiting, and has been taken out.
    Released,
    /// The claim was not in the queue: it had been released before, or the store had dropped it.
    NotHeld,
}

/// When a store frees the claims of an owner that died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
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
}

impl Capabilities {
    /// The profile of a store of this kind.
    #[must_use]
    pub const fn new(kind: &'static str, crash_release: CrashRelease) -> Self {
        Capabilities { kind, crash_release }
    }
}

/// A store that keeps fair queues of claims.
///
/// # Contract
/// - Every method may be repeated with the effect of once, because the caller chooses the claim's id before
///   the first request. A method that fails with [`Error::Unavailable`](crate::Error::Unavailable) may have
///   taken effect.
/// - Every method may be dropped at any await. The claim may then be in the queue or not; `release` takes it
///   out.
/// - Which claims hold is decided by [`admit`](crate::queue::admit) over the queue in the order of joining;
///   claims that are dead (lease expired, max hold time passed) count as released from that moment.
/// - The fencing token of a grant is strictly above that of every earlier grant of the name, across restarts
///   of the owner and, as far as the store is durable, of the store.
/// - A lease counts from the owner's last `enqueue` or `renew`. A grant alone does not lengthen it, because
///   it is no sign of the owner's life. The max hold time counts from the grant.
/// - A claim that `evict` took out is told so: for at least its lease and a minute from then, `enqueue`,
///   `wait_for_change` and `renew` answer `Evicted` for it, and it never joins again.
/// - The core calls `release` once too often rather than once too few: after any `enqueue` that did not end
///   in `Gone`, also when the caller's future was dropped.
/// - Methods bound their own time: none but `wait_for_change` outlasts a few seconds of a silent store.
/// - Backends import neither the core nor each other.
#[async_trait]
pub trait Backend: Debug + Send + Sync + 'static {
    /// The store's address as people may see it: without a password, and in every error.
    fn address(&self) -> &str;

    /// Says what the store promises beyond the contract.
    fn capabilities(&self) -> Capabilities;

    /// Whether the store is connected, as far as it knows, so that a request can be sent at once. It is asked
    /// before every enqueue, so it takes no time. A store that needs no connection keeps this default.
    fn is_ready(&self) -> bool {
        true
    }

    /// Connects, unless the store is connected, and says what it refuses: a wrong password, an old version. A
    /// store that needs no connection keeps this default.
    ///
    /// Every other method connects too, so this need not be called. But a claim whose enqueue was not even
    /// sent leaves nothing behind that would have to be released.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    /// Puts the claim at the end of its queue, or finds it where it is, and says whether it is held; a claim
    /// of [`WaitMode::Try`] that does not hold at once is `Gone`, and not in the queue. A sign of life.
    ///
    /// One round trip where nobody else has the lock. An error that is not retryable
    /// ([`Error::is_retryable`](crate::Error::is_retryable)) says that the claim is not in the queue.
    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus>;

    /// Waits until the status of a claim that was last answered `Waiting` may have changed: `Some` where the
    /// store has told the new status, `None` where `enqueue` must be called again to learn it.
    ///
    /// Costs the store nothing while nothing changes, and wakes only the waiters that a release concerns. A
    /// change between `enqueue` and this call is not missed.
    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>>;

    /// How many claims were in front of a claim that was last answered `Waiting`, where the store knows it
    /// without asking.
    fn place(&self, _claim: &Claim) -> Option<usize> {
        None
    }

    /// Gives each of the claims, held or waiting, one more lease from now, and answers the status of each, in
    /// their order: exactly one answer a claim, which the core checks. Never revives a claim that is gone,
    /// never lengthens the max hold time.
    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>>;

    /// Waits until the store has reason to believe that many claims were lost together, as by the end of a
    /// session. The core then renews all claims at once, because it would learn of the losses later if it
    /// renewed each when it is due.
    ///
    /// A store that cannot know keeps this default, and its losses are found at the next renewal.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    async fn session_lost_hint(&self) {
        std::future::pending::<()>().await;
    }

    /// What the store notices from now on and nobody has asked for, such as a lost connection: never what a
    /// request answers. A store that has noticed something before anybody read, as while it was connected to,
    /// begins with that. It may drop notices that are not read in time, and must not wait for the reader.
    ///
    /// Each manager reads it once, and tells its observers of each notice in order: at once, whether it has
    /// claims or not, by the task that renews them; the last ones when it is closed or dropped.
    fn notices(&self) -> BoxStream<'static, StoreNotice> {
        stream::empty().boxed()
    }

    /// Takes the claim out of its queue, held or not; releasing twice is releasing once.
    ///
    /// One round trip. The store tells the claims that hold after it, at no cost to the one that is released.
    async fn release(&self, claim: &Claim) -> Result<Release>;

    /// Lists the queue of a name, oldest first: the holders, then the waiters. Foreign holders too.
    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>>;

    /// Sums up the names that begin with `prefix` and have a claim, in no order; a name may come twice, and
    /// one that comes or goes meanwhile may be missed.
    ///
    /// Read in pages as the stream is polled: the round trips grow with the pages and not with the names.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>>;

    /// Takes out of the queue the very claim that an onlooker saw, ours or foreign, and no other: what has
    /// taken its place since, even of the same owner, stays. The next claims are granted as by a release. The
    /// claim's owner, if it is ours, is told, as soon as the store can reach it and at its next renewal at
    /// the latest.
    ///
    /// Done by anybody, for a claim that is not the caller's. A claim that is not there any more, and a key
    /// that never was one, are `NotHeld`.
    async fn evict(&self, name: &Name, entry: &EntryKey, eviction: &Eviction) -> Result<Release>;

    /// Tells how the names that begin with `prefix` change, first all that there are; looks again `every` so
    /// often where the store cannot tell by itself.
    ///
    /// Errors that may heal do not end the stream.
    fn watch<'a>(&'a self, prefix: &'a str, every: Duration) -> BoxStream<'a, Result<Change>> {
        onlooker::poll(self, prefix, every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_is_read_back_and_begins_with_its_manager(
            manager in 0_u128..1 << 80, number in any::<u64>(),
        ) {
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
        fn a_number_too_long_for_an_id_changes_no_manager(
            manager in 0_u128..1 << 80, number in any::<u64>(),
        ) {
            prop_assert_eq!(ClaimId::new(manager, number).manager(), ClaimId::new(manager, 0).manager());
        }
    }

    #[test]
    fn each_method_of_a_claim_or_a_grant_sets_its_field_alone() {
        let name = Name::new("a").unwrap();
        let claim = || Claim::new(ClaimId::new(1, 1), name.clone(), Permits::MUTEX);
        let (id, lease) = (ClaimId::new(1, 2), Duration::from_secs(3));
        for (set, expected) in [
            (claim().with_id(id), Claim { id, ..claim() }),
            (claim().with_permits(Permits::READ), Claim { permits: Permits::READ, ..claim() }),
            (claim().with_wait_mode(WaitMode::Try), Claim { wait_mode: WaitMode::Try, ..claim() }),
            (claim().with_lease(lease), Claim { lease, ..claim() }),
            (claim().with_max_hold(lease), Claim { max_hold: Some(lease), ..claim() }),
            (claim().with_owner("somebody"), Claim { owner: "somebody".into(), ..claim() }),
        ] {
            assert_ne!(format!("{set:?}"), format!("{:?}", claim()));
            assert_eq!(format!("{set:?}"), format!("{expected:?}"));
        }
        let (grant, now) = (Grant::new(1), Instant::now());
        assert_eq!(grant.with_fencing_token(2), Grant { fencing_token: 2, ..grant });
        assert_eq!(grant.with_expires(now), Grant { expires: Some(now), ..grant });
        assert_eq!(grant.with_hold_ends(now), Grant { hold_ends: Some(now), ..grant });
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
