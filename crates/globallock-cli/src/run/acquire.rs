//! The wait for the lock.

use std::sync::Arc;
use std::time::Duration;

use globallock::internals::{Began, Running, Turn, begin_in_time};
use globallock::{Guard, Lock, LockManager, Name, Once};

use crate::arguments::Run;
use crate::exit::Failure;
use crate::log::Told;
use crate::processes::{Event, Processes};
use crate::waiting::Waiting;

/// What is waited for.
pub(super) struct Wanted<'a> {
    pub(super) manager: &'a LockManager,
    pub(super) asked_for: Asked,
    pub(super) name: Name,
    pub(super) told: Arc<Told>,
    pub(super) arguments: &'a Run,
}

/// How the lock is asked for.
pub(super) enum Asked {
    Lock(Lock),
    /// Only if the work was not done lately.
    Once(Once),
}

/// What came of it.
pub(super) enum Acquired {
    /// The command is to run, and its success to be recorded, if that was asked for.
    Run(Guard, Option<Began>),
    /// The last success began so long ago.
    Skip { began: Duration },
}

/// Acquires the lock, while the job may be stopped and continued.
pub(super) async fn acquire(wanted: &Wanted<'_>, processes: &mut Processes) -> Result<Acquired, Failure> {
    loop {
        let acquired = wait(wanted, processes).await?;
        let Acquired::Run(guard, began) = acquired else { return Ok(acquired) };
        if !processes.is_stopped() {
            return Ok(Acquired::Run(guard, began));
        }
        // The command of a stopped job cannot start, and others must not wait for a job that nobody
        // continues.
        let _ = guard.release().await;
        loop {
            match processes.next().await {
                Event::Resumed => break,
                event => interrupted(event)?,
            }
        }
    }
}

/// Asks for the lock for as long as its options say; `None` if it was not granted by then.
async fn ask(asked_for: &Asked) -> globallock::Result<Option<Acquired>> {
    Ok(match asked_for {
        Asked::Once(once) => begin_in_time(once).await?.map(|turn| match turn {
            Turn::Run(Running { began, guard }) => Acquired::Run(guard, Some(began)),
            Turn::Skip { began } => Acquired::Skip { began },
        }),
        Asked::Lock(lock) => match lock.acquire().await {
            Ok(guard) => Some(Acquired::Run(guard, None)),
            Err(globallock::Error::TimedOut { .. }) => None,
            Err(error) => return Err(error),
        },
    })
}

async fn wait(wanted: &Wanted<'_>, processes: &mut Processes) -> Result<Acquired, Failure> {
    let Wanted { manager, name, told, arguments, .. } = wanted;
    let mut asked = std::pin::pin!(ask(&wanted.asked_for));
    let mut waiting = Waiting::begin(manager, name, told, (processes.front_id(), arguments.verbosity.quiet));
    loop {
        tokio::select! {
            biased;
            answer = &mut asked => {
                return match answer? {
                    Some(acquired) => Ok(acquired),
                    None => Err(waiting.refused(arguments.lock.no_wait).await),
                };
            }
            event = processes.next() => interrupted(event)?,
            () = told.outages() => {}
            shown = waiting.show() => shown?,
        }
    }
}

/// What an event means to the wait: nothing, or its end.
fn interrupted(event: Event) -> Result<(), Failure> {
    match event {
        Event::Signal(signal) => Err(Failure::Signal(signal)),
        Event::FrontGone | Event::StarterGone => Err(Failure::Killed),
        Event::Resumed | Event::Failed(_) | Event::Ended(_) => Ok(()),
    }
}
