//! One party's place in the queue of a name, and what stores say of it.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use super::{DEFAULT_LEASE, Value};
use crate::eviction::Eviction;
use crate::name::Name;
use crate::queue::Permits;
use crate::sync::Instant;

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
    /// Whether its grant comes with the name's value. A claim that does not ask for it costs nothing more.
    pub wants_value: bool,
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
            wants_value: false,
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

    /// Sets [`Claim::wants_value`].
    #[must_use]
    pub fn with_value(self) -> Self {
        Claim { wants_value: true, ..self }
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
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// The fencing token: strictly above that of every earlier grant of the same name.
    pub fencing_token: u64,
    /// Until when the store surely keeps the claim without another sign of life, counted from *before* the
    /// request whose answer confirmed it. `None` where the store frees it only when the owner's process ends.
    pub expires: Option<Instant>,
    /// The time that the store counts to `expires`, where that is not the claim's lease: over a longer one,
    /// the clocks of both sides may drift further apart.
    pub lease: Option<Duration>,
    /// When the max hold time has passed, counted from no later than the grant; `None` without a limit.
    pub hold_ends: Option<Instant>,
    /// The value of the name at the grant, if the claim has asked for it and there is one. The answer to a
    /// renewal has none.
    pub value: Option<Value>,
}

impl Grant {
    /// A grant with this token that does not expire and has no max hold time: the methods below set
    /// these.
    #[must_use]
    pub fn new(fencing_token: u64) -> Self {
        Grant { fencing_token, expires: None, lease: None, hold_ends: None, value: None }
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

    /// Sets [`Grant::lease`].
    #[must_use]
    pub fn with_lease(self, lease: impl Into<Option<Duration>>) -> Self {
        Grant { lease: lease.into(), ..self }
    }

    /// Sets [`Grant::hold_ends`].
    #[must_use]
    pub fn with_hold_ends(self, hold_ends: impl Into<Option<Instant>>) -> Self {
        Grant { hold_ends: hold_ends.into(), ..self }
    }

    /// Sets [`Grant::value`].
    #[must_use]
    pub fn with_value(self, value: impl Into<Option<Value>>) -> Self {
        Grant { value: value.into(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
            (claim().with_value(), Claim { wants_value: true, ..claim() }),
        ] {
            assert_ne!(format!("{set:?}"), format!("{:?}", claim()));
            assert_eq!(format!("{set:?}"), format!("{expected:?}"));
        }
        let (grant, now) = (|| Grant::new(1), Instant::now());
        let value = Value::new(*b"a", 1, lease);
        assert_eq!(grant().with_fencing_token(2), Grant { fencing_token: 2, ..grant() });
        assert_eq!(grant().with_expires(now), Grant { expires: Some(now), ..grant() });
        assert_eq!(grant().with_lease(lease), Grant { lease: Some(lease), ..grant() });
        assert_eq!(grant().with_hold_ends(now), Grant { hold_ends: Some(now), ..grant() });
        assert_eq!(grant().with_value(value.clone()), Grant { value: Some(value), ..grant() });
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
}
