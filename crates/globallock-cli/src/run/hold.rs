//! The command while the lock is held, and its end.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use globallock::backend::Instant;
use globallock::internals::sleep_until_some;
use globallock::{Guard, Release};
use nix::sys::signal::Signal;

use crate::arguments::{Leftovers, Run};
use crate::exit::{self, Failure};
use crate::processes::{End, Event, Processes};

/// How long what the command has started may take to end after it, as by the signal that has ended both.
const SETTLES: Duration = Duration::from_millis(100);

/// A command that is watched until nothing of it is left.
struct Watch<'a> {
    guard: &'a Guard,
    arguments: &'a Run,
    processes: &'a mut Processes,
    /// The command has ended like this.
    ended: Option<ExitStatus>,
    /// The lock was lost, or held for its `--max-hold`: the command was told to end, and its status counts no
    /// more.
    told_to_end: bool,
    lost: bool,
    kill_at: Option<Instant>,
    /// The front has ended, or was told how to.
    front_ended: bool,
}

/// Runs the command and releases the lock when nothing of it is left. Returns how the front is to end, unless
/// it has ended before.
pub(super) async fn hold(
    guard: Guard,
    arguments: &Run,
    processes: &mut Processes,
) -> Result<Option<End>, Failure> {
    if arguments.verbosity.verbose {
        say!("globallock: {} is granted, fencing token {}", guard.name(), guard.fencing_token());
    }
    processes.start(guard.fencing_token());
    let mut watch = Watch {
        guard: &guard,
        arguments,
        processes,
        ended: None,
        told_to_end: false,
        lost: false,
        kill_at: None,
        front_ended: false,
    };
    let failed = watch.until_all_have_ended().await.err();
    let Watch { ended, told_to_end, front_ended, .. } = watch;
    let kept = release(guard, arguments).await;
    match failed {
        Some(failure) => Err(failure),
        None if front_ended => Ok(None),
        None if told_to_end || !kept => Ok(Some(End::Exit(exit::LOST))),
        None => Ok(Some(end_of(ended))),
    }
}

impl Watch<'_> {
    async fn until_all_have_ended(&mut self) -> Result<(), Failure> {
        let max_hold = self.arguments.max_hold;
        let mut settled = None;
        let mut max_hold_ends = max_hold.map(|max_hold| Instant::now() + max_hold);
        loop {
            tokio::select! {
                loss = self.guard.lost(), if !self.lost => {
                    self.lost = true;
                    self.end(&format!("is lost: {loss}"));
                }
                () = sleep_until_some(max_hold_ends) => {
                    max_hold_ends = None;
                    let max_hold = max_hold.unwrap_or_default();
                    self.end(&format!("was held for its --max-hold of {max_hold:?}"));
                }
                () = sleep_until_some(settled) => {
                    settled = None;
                    if self.leaves_behind().await {
                        return Ok(());
                    }
                }
                () = sleep_until_some(self.kill_at) => {
                    let grace = self.arguments.grace;
                    say!("globallock: the command has not ended within {grace:?} and is killed");
                    self.processes.end_all().await;
                    return Ok(());
                }
                event = self.processes.next() => match event {
                    Event::Failed(error) => {
                        let command = self.arguments.command[0].display().to_string();
                        return Err(Failure::Command(command, std::io::Error::from_raw_os_error(error)));
                    }
                    Event::Ended(status) => {
                        self.ended = Some(status);
                        settled = Some(Instant::now() + SETTLES);
                    }
                    Event::StarterGone if self.ended.is_some() && self.processes.starter_is_done() => {
                        return Ok(());
                    }
                    Event::StarterGone => {
                        // If the starter was killed, what it had started belongs to this process now.
                        self.processes.end_all().await;
                        return Ok(());
                    }
                    Event::FrontGone if self.front_ended => {}
                    Event::FrontGone => {
                        self.front_ended = true;
                        self.processes.end_all().await;
                        return Ok(());
                    }
                    Event::Signal(_) | Event::Resumed => {}
                },
            }
        }
    }

    /// Tells the command to end, and kills it after the grace.
    fn end(&mut self, reason: &str) {
        if self.told_to_end {
            return;
        }
        self.told_to_end = true;
        say!("globallock: {} {reason}; the command is told to end", self.guard.name());
        self.processes.send_to_all(Signal::SIGTERM);
        // A stopped process receives TERM only when it is continued.
        self.processes.send_to_all(Signal::SIGCONT);
        self.kill_at = Some(Instant::now() + self.arguments.grace);
    }

    /// The command has ended, and what it has started perhaps not. Returns true when that is no reason to
    /// keep the lock.
    async fn leaves_behind(&mut self) -> bool {
        if self.told_to_end {
            // What was told to end has the rest of the grace.
            return false;
        }
        if self.processes.front_is_first() || self.arguments.leftovers == Leftovers::Kill {
            self.processes.end_all().await;
            return true;
        }
        if self.arguments.leftovers == Leftovers::Release {
            return true;
        }
        let left = self.processes.left();
        if left.is_empty() {
            // It has just ended, and so does the starter.
            return false;
        }
        if !self.arguments.verbosity.quiet {
            let (left, name) = (left.join(", "), self.guard.name());
            say!("globallock: the command has left processes behind ({left}): {name} is kept until they end");
        }
        self.front_ended = true;
        self.processes.end_front(end_of(self.ended), true);
        false
    }
}

/// Releases the lock. Returns false if the store says that it was not held any more.
async fn release(guard: Guard, arguments: &Run) -> bool {
    let name = guard.name().clone();
    let was_held = guard.is_held();
    match guard.release().await {
        Ok(Release::Released) if arguments.verbosity.verbose => say!("globallock: {name} is released"),
        Ok(Release::Released) => {}
        Ok(Release::NotHeld) => {
            if was_held {
                say!(
                    "globallock: {name} was lost before the command ended: the store did not hold it any more"
                );
            }
            return false;
        }
        Err(error) => say!("globallock: {name} could not be released yet: {error}"),
    }
    true
}

/// How the front ends after a command that has ended like this; without a status it was killed.
fn end_of(ended: Option<ExitStatus>) -> End {
    let Some(ended) = ended else { return End::Died(Signal::SIGKILL) };
    match ended.signal().map(Signal::try_from) {
        Some(Ok(signal)) => End::Died(signal),
        Some(Err(_)) => End::Exit(exit::of_signal(ended.signal().unwrap_or(0))),
        None => End::Exit(ended.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
    }
}
