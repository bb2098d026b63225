//! What the locks and guards of one manager share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::backend::{Backend, Claim, ClaimId, ClaimStatus, Value, ValueWrite, WaitMode};
use crate::error::{Error, Result};
use crate::health::Health;
use crate::hold::Hold;
use crate::name::Name;
use crate::observe::{NotGranted, Observers, Operation};
use crate::options::{ManagerOptions, Options};
use crate::owner::Owner;
use crate::queue::Permits;
use crate::release::Releases;
use crate::renewer::{Renewer, renew_each};
use crate::sync::{Handle, Instant, Mutex, now, watch, watch_suspensions};
use crate::turns::Turns;

/// What is asked for.
pub(crate) struct Request<'a> {
    pub(crate) name: Name,
    pub(crate) permits: Permits,
    pub(crate) wait_mode: WaitMode,
    pub(crate) options: &'a Options,
    pub(crate) wants_value: bool,
}

/// One manager's store, identity, and background work.
pub(crate) struct Context {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) renewer: Renewer,
    pub(crate) turns: Turns,
    pub(crate) options: Options,
    pub(crate) observers: Observers,
    pub(crate) health: Arc<Health>,
    /// When a claim of this manager has last looked for deadlocks.
    pub(crate) looked_for_deadlocks: Mutex<Option<Instant>>,
    releases: Releases,
    manager: u128,
    claims: AtomicU64,
    owner: Arc<str>,
    process: u32,
    closed: watch::Sender<bool>,
}

impl Context {
    /// Starts the background work on the current runtime.
    pub(crate) fn start(backend: Arc<dyn Backend>, options: ManagerOptions) -> Self {
        watch_suspensions();
        let observers = Observers::new(options.observers, &backend.capabilities());
        let health = Arc::new(Health::new(backend.address(), observers.clone()));
        let closed = watch::Sender::new(false);
        let releases =
            Releases::new(Arc::clone(&backend), Handle::current(), observers.clone(), closed.clone());
        let abandoned = releases.clone();
        let renewer =
            Renewer::start(Arc::clone(&backend), Arc::clone(&health), observers.clone(), move |hold| {
                abandoned.start(&hold);
            });
        let current = Owner::current();
        let owner = Owner { label: options.label, pid: options.process.or(current.pid), ..current };
        Context {
            backend,
            renewer,
            turns: Turns::new(),
            options: options.locks,
            observers,
            health,
            looked_for_deadlocks: Mutex::default(),
            releases,
            manager: random_80_bits(),
            claims: AtomicU64::new(0),
            owner: owner.to_text().into(),
            process: std::process::id(),
            closed,
        }
    }

    /// Makes the claim of a request, unless the manager is closed or belongs to the process that forked this
    /// one.
    pub(crate) fn claim(&self, request: Request<'_>) -> Result<Claim> {
        if !self.is_own_process() {
            return Err(Error::Forked { pid: self.process });
        }
        if self.is_closed() {
            return Err(Error::Closed);
        }
        Ok(Claim {
            id: ClaimId::new(self.manager, self.claims.fetch_add(1, Ordering::Relaxed)),
            name: request.name,
            permits: request.permits,
            wait_mode: request.wait_mode,
            lease: request.options.lease,
            max_hold: request.options.max_hold,
            owner: Arc::clone(&self.owner),
            wants_value: request.wants_value,
        })
    }

    /// Who the claims of this manager say that they are.
    pub(crate) fn owner(&self) -> Owner {
        Owner::from_text(&self.owner)
    }

    /// Whether this is the process that made the manager: a fork of it must not touch the manager's claims.
    pub(crate) fn is_own_process(&self) -> bool {
        self.process == std::process::id()
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    pub(crate) fn subscribe_closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// Refuses new claims, takes the waiting ones out of their queues, and waits for all releases under way.
    pub(crate) async fn close(&self) {
        self.closed.send_replace(true);
        // The task that waits for a claim would take it out too, but it may run only after this returns, or
        // never.
        for hold in self.renewer.waiting() {
            if hold.give_up(NotGranted::Cancelled, now()) {
                self.release_in_background(&hold);
            }
        }
        self.releases.all_answered().await;
        // The process may end before the renewer's task runs again.
        self.renewer.tell_noticed();
    }

    /// Renews one held claim, and says whether it is held.
    pub(crate) async fn renew_now(&self, hold: &Arc<Hold>) -> Result<bool> {
        if !self.is_own_process() || !hold.is_held() {
            return Ok(false);
        }
        let claims = [Arc::clone(&hold.claim)];
        for answer in renew_each(self.backend.as_ref(), &self.observers, &claims).await {
            self.health.note(&answer);
            // A loss that is found here is released in the store by the renewer, when the claim is next due
            // there.
            hold.hear(answer?, true, now());
        }
        Ok(hold.is_held())
    }

    /// Writes the value of a held claim's name.
    pub(crate) async fn set_value(
        &self,
        hold: &Arc<Hold>,
        bytes: &[u8],
        keep: Duration,
    ) -> Result<ValueWrite> {
        Value::check(bytes, keep)?;
        if !self.is_own_process() {
            return Err(Error::Forked { pid: self.process });
        }
        if hold.is_held() {
            // It says nothing of the store's health: a store without room for values still renews.
            let request = self.backend.set_value(&hold.claim, bytes, keep);
            match self.observers.asking(Operation::SetValue, request).await? {
                ValueWrite::Written => {
                    hold.note_value(Value::new(bytes, hold.fencing_token(), Duration::ZERO));
                    return Ok(ValueWrite::Written);
                }
                ValueWrite::Outranked => return Ok(ValueWrite::Outranked),
                // A renewal knows why the store has the claim no longer. It is lost in any case.
                ValueWrite::NotHeld => {
                    drop(self.renew_now(hold).await);
                    hold.hear(ClaimStatus::Gone, true, now());
                }
            }
        }
        Err(Error::Lost { name: hold.claim.name.to_string(), loss: hold.lost().await })
    }

    /// Takes a claim out of its queue without making anybody wait for it.
    pub(crate) fn release_in_background(&self, hold: &Arc<Hold>) {
        if self.is_own_process() {
            self.releases.start(hold);
        }
    }

    /// The same for a claim that the store has refused.
    pub(crate) fn release_refused(&self, hold: &Arc<Hold>) {
        if self.is_own_process() {
            self.releases.start_after_refusal(hold);
        }
    }

    #[cfg(all(test, not(globallock_schedules)))]
    pub(crate) fn in_fork(self) -> Self {
        Context { process: self.process.wrapping_add(1), ..self }
    }
}

/// From the operating system each time: a generator in this process would repeat itself after a fork.
fn random_80_bits() -> u128 {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes[..10]).expect("the operating system has random numbers");
    u128::from_le_bytes(bytes)
}
