//! The contract between the core and the stores.

mod claim;
mod finding;
mod notice;
mod onlooker;
mod value;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};

use crate::error::{Error, Result};
use crate::name::Name;
pub use crate::sync::Instant;

pub use crate::eviction::Eviction;
pub use claim::{Claim, ClaimId, ClaimStatus, Grant, WaitMode};
pub use finding::{Finding, Verdict};
pub use notice::{StoreNotice, StoreNoticeKind};
pub use onlooker::{Change, Entry, EntryKey, Summary};
pub use value::{MAX_VALUE_BYTES, Value, ValueWrite};

/// The lease of claims whose owner asks for no other.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(10);

/// How many times per lease the core renews a claim, held or waiting. A waiter that missed its wake-up finds
/// out at its next renewal.
pub const RENEWALS_PER_LEASE: u32 = 3;

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
    /// Whether names have values here: see [`Backend::set_value`].
    pub keeps_values: bool,
    /// Whether a claim can be kept here beyond its owner: see [`Backend::release_after`].
    pub keeps_after_owner: bool,
}

impl Capabilities {
    /// The profile of a store of this kind that keeps no values, and no claims beyond their owners.
    #[must_use]
    pub const fn new(kind: &'static str, crash_release: CrashRelease) -> Self {
        Capabilities { kind, crash_release, keeps_values: false, keeps_after_owner: false }
    }

    /// The same store, which also keeps values.
    #[must_use]
    pub const fn with_values(self) -> Self {
        Capabilities { keeps_values: true, ..self }
    }

    /// The same store, which also keeps claims beyond their owners.
    #[must_use]
    pub const fn with_keeping(self) -> Self {
        Capabilities { keeps_after_owner: true, ..self }
    }
}

/// A store that keeps fair queues of claims.
///
/// # Contract
/// - Every method may be repeated with the effect of once, because the caller chooses the claim's id before
///   the first request. A method that fails with [`Error::Unavailable`] may have
///   taken effect.
/// - Every method may be dropped at any await. The claim may then be in the queue or not; `release` takes it
///   out.
/// - Which claims hold is decided by [`admit`](crate::queue::admit) over the queue in the order of joining;
///   claims that are dead (lease expired, max hold time passed) count as released from that moment.
/// - The fencing token of a grant is strictly above that of every earlier grant of the name, across restarts
///   of the owner and, as far as the store is durable, of the store.
/// - A lease counts from the owner's last `enqueue` or `renew`. A grant alone does not lengthen it, because
///   it is no sign of the owner's life. The max hold time counts from the grant.
/// - A store that [keeps claims beyond their owners](Capabilities::keeps_after_owner) keeps a held claim for
///   as long as `keep_for` and `release_after` say, whatever becomes of its owner. A later `renew` never
///   makes it end earlier. The max hold time and `evict` do. Nothing that the owner does for its other claims
///   makes it end later.
/// - A claim that `evict` took out is told so: for at least its lease and a minute from then, `enqueue`,
///   `wait_for_change` and `renew` answer `Evicted` for it, and it never joins again.
/// - The core calls `release` once too often rather than once too few: after any `enqueue` that did not end
///   in `Gone`, also when the caller's future was dropped.
/// - A claim with [`Claim::wants_value`] is answered `Held` by `enqueue` and by `wait_for_change` only
///   together with the value that the name had at the grant or has had since. `renew` need not read it: the
///   core enqueues a claim again whose grant it has learnt from a renewal.
/// - What stands in the place of a value and is none counts as no value, and never fails a grant.
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
    /// ([`Error::is_retryable`]) says that the claim is not in the queue.
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
    /// never lengthens the max hold time, never shortens what `keep_for` has given.
    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>>;

    /// Sees to it that a held claim lasts for `rest` from now at least, though its owner may give no more
    /// signs of life. A sign of life as well. Never revives a claim that is gone, never lengthens the max
    /// hold time.
    ///
    /// A store that keeps no claims beyond their owners keeps this default, and says so in its
    /// [`Capabilities`].
    ///
    /// # Cancel safety
    /// The claim lasts for as long as before, or for `rest`.
    async fn keep_for(&self, _claim: &Claim, _rest: Duration) -> Result<ClaimStatus> {
        Err(keeps_nothing(self.address()))
    }

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

    /// Leaves a held claim in its queue, as held for `rest` from now. Then it ends by itself, as the claim of
    /// a dead owner does: the next claims are granted as promptly. It may end later by as much as the store's
    /// shortest lease, or as its own lease where a renewal is still on its way. `NotHeld` says that it was
    /// not held any more.
    ///
    /// The last that an owner asks about a claim, unless there is no answer. Then it asks again, with what is
    /// left of the rest, and for a `release` once nothing is left. A store that keeps no claims beyond their
    /// owners keeps this default, and says so in its [`Capabilities`].
    ///
    /// # Cancel safety
    /// The claim lasts for as long as before, or for `rest`.
    async fn release_after(&self, _claim: &Claim, _rest: Duration) -> Result<Release> {
        Err(keeps_nothing(self.address()))
    }

    /// Writes the value of the claim's name, if this very claim is held at that moment, and unless a holder
    /// with a higher fencing token has written before. The store decides both in the step that writes: a
    /// claim that waits, was released or evicted, or has expired cannot write, however late its request
    /// arrives.
    ///
    /// The value outlives the claim, and ends by itself once it was not written for `keep`. It is no claim
    /// and no name: `inspect`, `list` and `watch` do not show it. A store that keeps no
    /// values keeps this default, and says so in its [`Capabilities`].
    ///
    /// # Errors
    /// As [`Value::check`], before anything is sent.
    ///
    /// # Cancel safety
    /// The value may have been written or not.
    async fn set_value(&self, _claim: &Claim, _bytes: &[u8], _keep: Duration) -> Result<ValueWrite> {
        let reason = "it keeps no values; use a store that does, or leave the value out";
        Err(Error::failed_precondition(self.address(), reason))
    }

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

    /// Examines the store, and says what a person should know before trusting it with locks: what it is, what
    /// it may forget, and what this user may do there with the lock `name`. A store that has nothing to say
    /// keeps this default.
    ///
    /// The name is one that nobody uses. Nothing is changed, apart from what is needed to try a right, which
    /// is gone at the end, also if this is dropped.
    ///
    /// # Errors
    /// When the store cannot be asked at all. What is asked then and fails is a finding.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    async fn examine(&self, _name: &Name) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    /// Drops what the store keeps for a while of a name without claims, such as the counter of its fencing
    /// tokens, and the notices for these claims of it, which were evicted. For names that were made for a
    /// trial, and that nobody will use again. A store that keeps nothing of a name has this default.
    ///
    /// # Cancel safety
    /// It has been dropped or not.
    async fn forget(&self, _name: &Name, _evicted: &[ClaimId]) -> Result<()> {
        Ok(())
    }

    /// Makes what the store needs before it can hold locks, such as tables, or brings it to this version.
    /// Says what was done. A store that needs nothing keeps this default.
    ///
    /// # Cancel safety
    /// All is made, or nothing.
    async fn set_up(&self) -> Result<String> {
        Ok("nothing needs to be set up in this store".to_owned())
    }

    /// What [`Backend::set_up`] runs, for those who do it by other means.
    fn set_up_script(&self) -> Option<String> {
        None
    }

    /// Tells how the names that begin with `prefix` change, first all that there are; looks again `every` so
    /// often where the store cannot tell by itself.
    ///
    /// Errors that may heal do not end the stream.
    fn watch<'a>(&'a self, prefix: &'a str, every: Duration) -> BoxStream<'a, Result<Change>> {
        onlooker::poll(self, prefix, every)
    }
}

/// The answer of a store that keeps no claims beyond their owners.
fn keeps_nothing(address: &str) -> Error {
    let reason = "it keeps no lock beyond its owner: the owner must stay, or use another store";
    Error::failed_precondition(address, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_store_that_cannot_know_of_losses_is_never_disturbed() {
        let store = crate::stores::memory::Memory::new();
        assert!(store.session_lost_hint().now_or_never().is_none());
    }
}
