//! What is held around the work that asks for a lock: such work may wait for itself for ever.
//!
//! Work under a lock ([`Lock::run`](crate::Lock::run) and kin) only borrows the guard, so the lock is held
//! until the work has ended. What the work itself asks for is known by a value of its task, or by one of its
//! thread where the work is a closure that blocks. Guards prove nothing, because they can be moved to another
//! task.

use std::cell::RefCell;
use std::sync::Arc;

use futures_util::future::Either;
use tokio::task;

use crate::backend::Entry;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::hold::Hold;
use crate::name::Name;
use crate::queue::{Permits, admit};

/// A lock that is held until the work has ended that asks, and what is held around that.
#[derive(Clone)]
pub(crate) struct Around(Arc<Work>);

struct Work {
    context: Arc<Context>,
    hold: Arc<Hold>,
    /// Whether the work waits for ever for what comes after this lock. A thread goes on when its lock has
    /// been lost, and a max hold time ends each lock, so such a thread gets what it waits for.
    is_for_ever: bool,
    /// The task that does the work. A set of tasks may be run within the work, as by
    /// [`tokio::task::LocalSet`], and these end by themselves.
    task: Option<task::Id>,
    outer: Option<Around>,
}

tokio::task_local! {
    static AROUND: Around;
}

thread_local! {
    /// Around the closure that this thread runs.
    static THREADS: RefCell<Option<Around>> = const { RefCell::new(None) };
}

/// Does work that has ended before the lock is released, and is dropped when it is lost. It is called by the
/// task that does the work. No async function, because that would have room for the work twice.
///
/// # Cancel safety
/// That of the work.
pub(crate) fn within<F: Future>(
    context: &Arc<Context>,
    hold: &Arc<Hold>,
    work: F,
) -> impl Future<Output = F::Output> + use<F> {
    // A search of schedules runs all tasks in one thread, whose values are not those of the tasks.
    if cfg!(all(test, globallock_schedules)) {
        return Either::Left(work);
    }
    Either::Right(AROUND.scope(Around::new(context, hold, true, of_task()), work))
}

/// Notes that this thread runs a closure that has ended before the lock is released, until what is returned
/// is dropped.
#[must_use]
pub(crate) fn enter(context: &Arc<Context>, hold: &Arc<Hold>) -> Entered {
    let before = of_thread();
    let is_for_ever = hold.claim.max_hold.is_none();
    let around = Around::new(context, hold, is_for_ever, before.clone().or_else(of_task));
    THREADS.set(Some(around));
    Entered { before }
}

/// A closure that this thread runs under a lock.
pub(crate) struct Entered {
    before: Option<Around>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        THREADS.set(self.before.take());
    }
}

/// What is held around the closure that this thread runs.
pub(crate) fn of_thread() -> Option<Around> {
    THREADS.with_borrow(Clone::clone)
}

/// What is held around the work of the current task.
fn of_task() -> Option<Around> {
    let around = AROUND.try_with(Clone::clone).ok()?;
    (around.0.task == task::try_id()).then_some(around)
}

impl Around {
    fn new(context: &Arc<Context>, hold: &Arc<Hold>, is_for_ever: bool, outer: Option<Around>) -> Self {
        let (context, hold, task) = (Arc::clone(context), Arc::clone(hold), task::try_id());
        Around(Arc::new(Work { context, hold, is_for_ever, task, outer }))
    }

    /// Awaits what the closure of this thread asks for.
    ///
    /// # Cancel safety
    /// That of the future.
    pub(crate) fn awaits<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        AROUND.scope(self, future)
    }
}

/// The locks of one name that are held around the work that asks for it, and for which it would wait.
#[derive(Default)]
pub(crate) struct Held(Vec<Around>);

impl Held {
    /// Those around the current task.
    pub(crate) fn of(name: &Name) -> Self {
        let around = std::iter::successors(of_task(), |around| around.0.outer.clone());
        Held(around.filter(|around| around.0.is_for_ever && around.0.hold.claim.name == *name).collect())
    }

    pub(crate) fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses a claim of this manager that can be held only when one of these has ended, if they are claims
    /// of the same manager: others may be in another store.
    ///
    /// # Errors
    /// [`Error::WouldDeadlock`].
    pub(crate) fn refuse(&self, context: &Arc<Context>, name: &Name, permits: Permits) -> Result<()> {
        let same = self.0.iter().filter(|around| Arc::ptr_eq(&around.0.context, context));
        let held = same.filter(|around| around.0.hold.is_held());
        refuse(name, held.map(|around| around.0.hold.claim.permits), permits)
    }

    /// The same for claims of any manager, once the queue shows that they are in the same store.
    ///
    /// # Errors
    /// [`Error::WouldDeadlock`].
    pub(crate) fn refuse_in(&self, queue: &[Entry], name: &Name, permits: Permits) -> Result<()> {
        let is_around = |entry: &&Entry| {
            self.0.iter().any(|around| Some(around.0.hold.claim.id) == entry.id && around.0.hold.is_held())
        };
        let held = queue.iter().filter(|entry| entry.held).filter(is_around);
        refuse(name, held.map(|entry| entry.permits), permits)
    }
}

/// Who waits between the holders and the claim may give up, so only the holders count.
fn refuse(name: &Name, held: impl Iterator<Item = Permits>, permits: Permits) -> Result<()> {
    let held: Vec<Permits> = held.collect();
    if held.is_empty() || admit(held.iter().copied().chain([permits])) > held.len() {
        return Ok(());
    }
    Err(Error::WouldDeadlock { name: name.to_string() })
}
