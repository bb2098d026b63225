//! The wait for the lock.

use std::sync::Arc;

use globallock::internals::duration::Shown;
use globallock::{Guard, Lock, LockManager, Name};

use super::waiting::Waiting;
use crate::arguments::Run;
use crate::exit::Failure;
use crate::log::{self, Told};
use crate::processes::{Event, Processes};

/// What is waited for.
pub(super) struct Wanted<'a> {
    pub(super) manager: &'a LockManager,
    pub(super) lock: Lock,
    pub(super) name: Name,
    pub(super) told: Arc<Told>,
    pub(super) arguments: &'a Run,
}

/// Acquires the lock, while the job may be stopped and continued.
pub(super) async fn acquire(wanted: &Wanted<'_>, processes: &mut Processes) -> Result<Guard, Failure> {
    loop {
        let guard = wait(wanted, processes).await?;
        if !processes.is_stopped() {
            return Ok(guard);
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

async fn wait(wanted: &Wanted<'_>, processes: &mut Processes) -> Result<Guard, Failure> {
    let Wanted { manager, lock, name, arguments, .. } = wanted;
    let asked =
        async { if arguments.no_wait { lock.try_acquire().await } else { lock.acquire().await.map(Some) } };
    let mut asked = std::pin::pin!(asked);
    let mut waiting = Waiting::begin(wanted, processes.front_id());
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut asked => break answer,
            event = processes.next() => interrupted(event)?,
            shown = waiting.show() => shown?,
        }
    };
    let refused = match answer {
        Ok(Some(guard)) => return Ok(guard),
        Ok(None) => "is taken".to_owned(),
        Err(globallock::Error::TimedOut { waited, .. }) => {
            format!("was not granted within {}", Shown(waited))
        }
        Err(error) => return Err(error.into()),
    };
    let queue = waiting.queue_now().await;
    let store = manager.backend().address();
    Err(Failure::Taken(
        queue.in_json(log::error("taken").with("store", store)),
        format!("{name} {refused}{}; store {store}", queue.described()),
    ))
}

/// What an event means to the wait: nothing, or its end.
fn interrupted(event: Event) -> Result<(), Failure> {
    match event {
        Event::Signal(signal) => Err(Failure::Signal(signal)),
        Event::FrontGone | Event::StarterGone => Err(Failure::Killed),
        Event::Resumed | Event::Failed(_) | Event::Ended(_) => Ok(()),
    }
}
