//! The wait for the lock.

use std::io::IsTerminal;
use std::time::Duration;

use globallock::{Entry, Guard, Lock, LockManager, Name};
use tokio::time::sleep;

use crate::arguments::Run;
use crate::exit::Failure;
use crate::processes::{Event, Processes};

/// How long a wait lasts before it is announced.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(300);

/// What is waited for.
pub(super) struct Wanted<'a> {
    pub(super) manager: &'a LockManager,
    pub(super) lock: Lock,
    pub(super) name: Name,
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
    let Wanted { manager, lock, name, arguments } = wanted;
    let asked =
        async { if arguments.no_wait { lock.try_acquire().await } else { lock.acquire().await.map(Some) } };
    let mut asked = std::pin::pin!(asked);
    let announces =
        arguments.verbosity.verbose || (std::io::stderr().is_terminal() && !arguments.verbosity.quiet);
    let mut announced = !announces;
    let answer = loop {
        tokio::select! {
            answer = &mut asked => break answer,
            event = processes.next() => interrupted(event)?,
            () = sleep(ANNOUNCE_AFTER), if !announced => {
                announced = true;
                // The holder is shown as a convenience. An error of `inspect` must not end the wait.
                let queue = manager.inspect(&arguments.name).await.unwrap_or_default();
                say!("globallock: waiting for {name}{}", described(&queue));
            }
        }
    };
    let refused = match answer {
        Ok(Some(guard)) => return Ok(guard),
        Ok(None) => format!("{name} is taken"),
        Err(error @ globallock::Error::TimedOut { .. }) => error.to_string(),
        Err(error) => return Err(error.into()),
    };
    let queue = manager.inspect(&arguments.name).await.unwrap_or_default();
    Err(Failure::Taken(format!("{refused}{}", described(&queue))))
}

/// What an event means to the wait: nothing, or its end.
fn interrupted(event: Event) -> Result<(), Failure> {
    match event {
        Event::Signal(signal) => Err(Failure::Signal(signal)),
        Event::FrontGone | Event::StarterGone => Err(Failure::Killed),
        Event::Resumed | Event::Failed(_) | Event::Ended(_) => Ok(()),
    }
}

/// The holders, and how many waiters there are.
pub(crate) fn described(queue: &[Entry]) -> String {
    let held = queue.iter().filter(|entry| entry.held);
    let holders: Vec<String> = held
        .clone()
        .take(3)
        .map(|entry| match entry.age {
            Some(age) => format!("{} for {:.1?}", entry.owner, Duration::from_millis(age.as_millis() as u64)),
            None => entry.owner.to_string(),
        })
        .collect();
    if holders.is_empty() {
        return String::new();
    }
    let more = match held.count() - holders.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let waiting = queue.iter().filter(|entry| !entry.held).count();
    format!(", held by {}{more}; {waiting} in the queue", holders.join(", "))
}
