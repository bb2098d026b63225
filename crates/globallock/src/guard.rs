//! A lock that is held.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::around::{Entered, enter, within};
use crate::backend::{Release, Value, ValueWrite};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::hold::{Hold, Phase};
use crate::loss::Loss;
use crate::name::Name;
use crate::observe::Event;
use crate::release::release;
use crate::sync::{Instant, now, sleep_until_some};

/// A lock that is held, until it is released, dropped, or lost.
///
/// One type for all kinds of lock. It can be shared between tasks by reference or in an `Arc`. Dropping it
/// releases the lock in the background; [`Guard::release`] also tells what became of it.
///
/// A distributed lock can be lost while it is held: when the store is out of reach for longer than the lease,
/// when the max hold time has passed, or when somebody breaks it. Watch [`Guard::lost`] beside the work, and
/// hand [`Guard::fencing_token`] to whatever the lock guards, so that it can refuse a writer that is late.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let manager = globallock::LockManager::connect("memory:example").await?;
/// # async fn write_the_report(_fencing_token: u64) {}
/// let guard = manager.mutex("nightly-report").acquire().await?;
/// tokio::select! {
///     () = write_the_report(guard.fencing_token()) => {}
///     loss = guard.lost() => eprintln!("stopped, because {loss}"),
/// }
/// guard.release().await?;
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
#[must_use = "a guard that is dropped at once releases the lock at once"]
pub struct Guard {
    context: Arc<Context>,
    hold: Arc<Hold>,
    /// When its owner is asked to end.
    ends_at: Option<Instant>,
    armed: bool,
}

impl Guard {
    pub(crate) fn new(context: Arc<Context>, hold: Arc<Hold>) -> Self {
        Guard { context, hold, ends_at: None, armed: true }
    }

    /// Asks the owner to end when the lock has been held for so long.
    pub(crate) fn end_after(&mut self, max_hold: Duration) {
        self.ends_at = self.hold.granted_at().map(|granted| granted + max_hold);
    }

    pub(crate) fn ends_at(&self) -> Option<Instant> {
        self.ends_at
    }

    /// Keeps nobody out any longer than the lock is held, because its user never had it.
    pub(crate) fn keep_nobody_out(&self) {
        self.hold.keep_until(None);
    }

    /// Does work until then, which is dropped, wherever it is, as soon as the lock is lost.
    pub(crate) async fn while_held<T>(
        &self,
        until: Option<Instant>,
        work: impl Future<Output = T>,
    ) -> Result<T> {
        let work = within(&self.context, &self.hold, work);
        tokio::select! {
            biased;
            loss = self.lost() => Err(self.is_lost(loss)),
            done = work => Ok(done),
            () = sleep_until_some(until) => Err(self.is_lost(Loss::MaxHold)),
        }
    }

    /// Notes that this thread does work that ends before the lock is released, until what is returned is
    /// dropped.
    pub(crate) fn enter(&self) -> Entered {
        enter(&self.context, &self.hold)
    }

    /// The error of work that has ended because of this loss.
    pub(crate) fn is_lost(&self, loss: Loss) -> Error {
        Error::Lost { name: self.name().to_string(), loss }
    }

    /// The name of the lock.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.hold.claim.name
    }

    /// The number of this grant: above that of every earlier grant of the same name.
    ///
    /// Give it to the guarded resource with every write, and let that refuse numbers below the highest it has
    /// seen: only this makes a write safe that was under way when the lock was lost.
    #[must_use]
    pub fn fencing_token(&self) -> u64 {
        self.hold.fencing_token()
    }

    /// Whether the lock is held at this moment, as far as can be known here: false as soon as it is lost, and
    /// from its deadline on even if nothing else has run since.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.context.is_own_process() && self.hold.is_held()
    }

    /// Waits until the lock is lost and says why; never returns while it is held.
    ///
    /// Resolves before the store can have granted the lock to somebody else.
    ///
    /// # Cancel safety
    /// Nothing is lost: a later call returns the same.
    pub async fn lost(&self) -> Loss {
        self.hold.lost().await
    }

    /// Waits, without keeping the lock, until it is lost or its owner has released it (`None`).
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub fn ended(&self) -> impl Future<Output = Option<Loss>> + Send + use<> {
        let hold = Arc::clone(&self.hold);
        async move { hold.ended().await }
    }

    /// Asks the store now whether the lock is still held, and gives it a whole lease from now if so; its max
    /// hold time stays as it is.
    ///
    /// A lock is renewed by itself. This is for those who want to be sure before a step that cannot be
    /// undone.
    ///
    /// # Errors
    /// As the store answers; what is held stays held then until its deadline.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub fn renew(&self) -> impl Future<Output = Result<bool>> + Send + use<> {
        let (context, hold) = (Arc::clone(&self.context), Arc::clone(&self.hold));
        async move { context.renew_now(&hold).await }
    }

    /// The value of the lock's name as it was at the grant, or as this guard has set it since; `None` where
    /// there was none, or where the lock was made without [`Lock::with_value`](crate::Lock::with_value).
    #[must_use]
    pub fn value(&self) -> Option<Value> {
        self.hold.value()
    }

    /// Leaves a value of at most 1 KiB beside the lock, for those that hold it later. It outlives this guard
    /// and this process, and ends by itself once it was not set for the time `keep`.
    ///
    /// The store writes it only while this very grant holds, so that an owner that was paused for too long
    /// cannot undo what its successor has written. Of several that hold together, such as readers, those with
    /// a lower fencing token than the last writer's are [`ValueWrite::Outranked`]; this never answers
    /// [`ValueWrite::NotHeld`].
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let manager = globallock::LockManager::connect("memory:example").await?;
    /// let lock = manager.mutex("import").with_value();
    /// let guard = lock.acquire().await?;
    /// let done = guard.value().map_or(0, |value| u64::from_le_bytes(value.bytes().try_into().unwrap()));
    /// // … imports the next row …
    /// guard.set_value((done + 1).to_le_bytes(), Duration::from_secs(7 * 24 * 3600)).await?;
    /// guard.release().await?;
    /// assert_eq!(lock.acquire().await?.value().unwrap().bytes(), 1_u64.to_le_bytes());
    /// # Ok::<(), globallock::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::Lost`] when the lock is not held any more;
    /// [`Error::InvalidOption`] for more than 1 KiB and for a `keep` that is not
    /// between 1 ms and a year; else as the store answers. After
    /// [`Error::Unavailable`] the value may have been written or not; to set it
    /// again has the effect of once.
    ///
    /// # Cancel safety
    /// After a dropped call the value may have been written or not.
    pub fn set_value<B: AsRef<[u8]>>(
        &self,
        bytes: B,
        keep: Duration,
    ) -> impl Future<Output = Result<ValueWrite>> + Send + use<B> {
        let (context, hold) = (Arc::clone(&self.context), Arc::clone(&self.hold));
        let bytes = bytes.as_ref().to_vec();
        async move { context.set_value(&hold, &bytes, keep).await }
    }

    /// How long the lock stays held even if no renewal succeeds any more; zero once it is lost, `None` where
    /// only the end of this process ends it.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        if !self.is_held() {
            return Some(Duration::ZERO);
        }
        self.hold.ends().map(|end| end.saturating_duration_since(now()))
    }

    /// Waits until the work under this lock is asked to end, as
    /// [`Lock::end_after`](crate::Lock::end_after) says; never returns otherwise. The lock is held meanwhile.
    ///
    /// # Cancel safety
    /// Nothing is lost: a later call returns the same.
    pub async fn asked_to_end(&self) {
        sleep_until_some(self.ends_at).await;
    }

    /// Whether the work under this lock is asked to end.
    pub(crate) fn is_asked_to_end(&self) -> bool {
        self.ends_at.is_some_and(|ends_at| ends_at <= now())
    }

    /// For how long others would be kept out if the lock were released now, because it is
    /// [held at least](crate::Options::hold_at_least) for some time; `None` if they would be let in.
    ///
    /// A store that does not [keep it](crate::backend::Capabilities::keeps_after_owner) lets them in as soon
    /// as this process ends or its manager is closed.
    #[must_use]
    pub fn kept_for(&self) -> Option<Duration> {
        self.hold.kept_for(now()).filter(|_| self.context.is_own_process())
    }

    /// Releases the lock and says whether it was still held: [`Release::NotHeld`] means that it had been lost
    /// before. A lock that is held at least for longer goes on to keep others out: see [`Guard::kept_for`].
    ///
    /// # Errors
    /// As the store answers. The outcome is then unknown; the release is repeated in the background until the
    /// store answers or the lease has expired.
    ///
    /// # Cancel safety
    /// A dropped call goes on in the background.
    pub async fn release(mut self) -> Result<Release> {
        if !self.context.is_own_process() {
            self.armed = false;
            return Ok(Release::NotHeld);
        }
        let was_tracked = self.context.renewer.untrack(self.hold.claim.id);
        let released_at = now();
        if let Phase::Lost(_) = self.hold.finish(released_at) {
            self.armed = false;
            // The renewer gives up in the store what it has seen lost; a loss noticed here first is ours to
            // give up.
            if was_tracked {
                self.context.release_in_background(&self.hold);
            }
            return Ok(Release::NotHeld);
        }
        let backend = self.context.backend.as_ref();
        if self.hold.kept_for(released_at).is_some() && !backend.capabilities().keeps_after_owner {
            self.armed = false;
            self.context.release_in_background(&self.hold);
            return Ok(Release::Released);
        }
        let release = release(backend, &self.context.observers, &self.hold, released_at).await;
        self.context.health.note(&release);
        let claim = &*self.hold.claim;
        match &release {
            Ok(Release::Released) => {}
            Ok(Release::NotHeld) => {
                let fencing_token = self.hold.fencing_token();
                self.context.observers.tell(&Event::LostBeforeRelease { claim, fencing_token });
            }
            Err(error) => self.context.observers.tell(&Event::ReleaseFailed { claim, error }),
        }
        let release = release?;
        self.armed = false;
        Ok(release)
    }
}

/// Keeps nobody out any longer than this lock is held, though it is to be
/// [held at least](crate::Options::hold_at_least) for a time: what it was taken for did not begin, or its
/// user never had it.
pub fn keep_nobody_out(guard: &Guard) {
    guard.keep_nobody_out();
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.armed && self.context.is_own_process() {
            let was_tracked = self.context.renewer.untrack(self.hold.claim.id);
            let phase = self.hold.finish(now());
            if was_tracked || !matches!(phase, Phase::Lost(_)) {
                self.context.release_in_background(&self.hold);
            }
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("name", self.name())
            .field("fencing_token", &self.fencing_token())
            .field("is_held", &self.is_held())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(globallock_schedules))]
impl Guard {
    /// The copy of this guard in a fork of the process, in which its manager is `owner`.
    pub(crate) fn in_fork(&self, owner: &crate::LockManager) -> Guard {
        Guard::new(Arc::clone(owner.context()), Arc::clone(&self.hold))
    }
}
