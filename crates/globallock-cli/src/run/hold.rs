//! The command while the lock is held, and its end.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use globallock::Guard;
use globallock::backend::Instant;
use globallock::internals::Began;
use globallock::internals::duration::Shown;
use globallock::internals::{keep_nobody_out, sleep_until_some};
use nix::sys::signal::Signal;

use crate::arguments::{Leftovers, Run};
use crate::exit::{self, Failure};
use crate::processes::{End, Event, Processes};
use crate::{held, log};

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
    granted: Instant,
    kill_at: Option<Instant>,
    /// The front has ended, or was told how to.
    front_ended: bool,
}

/// What came of a command that ran under the lock.
pub(super) struct Held {
    /// How the front is to end, unless it has ended before.
    pub(super) end: Option<End>,
    /// Why there is no such end.
    pub(super) failure: Option<Failure>,
    /// The exit status of the run.
    pub(super) status: u8,
    pub(super) lost: bool,
    pub(super) held: Duration,
    /// Until when others are to be kept out.
    pub(super) kept_until: Option<Instant>,
}

/// Runs the command and releases the lock when nothing of it is left.
pub(super) async fn hold(
    guard: Guard,
    began: Option<Began>,
    arguments: &Run,
    processes: &mut Processes,
) -> Held {
    let granted = Instant::now();
    processes.start(guard.fencing_token());
    let mut watch = Watch {
        guard: &guard,
        arguments,
        processes,
        ended: None,
        told_to_end: false,
        lost: false,
        granted,
        kill_at: None,
        front_ended: false,
    };
    let failure = watch.until_all_have_ended().await.err();
    let Watch { ended, told_to_end, lost, front_ended, .. } = watch;
    let succeeded = failure.is_none() && !told_to_end && ended.is_some_and(|ended| ended.success());
    if matches!(failure, Some(Failure::Command(..))) {
        // The command has not begun, and another host may do better.
        keep_nobody_out(&guard);
    }
    let kept_until = guard.kept_for().map(|rest| Instant::now() + rest);
    let kept = release(guard, began.filter(|_| succeeded)).await;
    let end = if told_to_end || !kept { End::Exit(exit::LOST) } else { end_of(ended) };
    let status = match (&failure, end) {
        (Some(failure), _) => failure.status(arguments.lock.conflict_exit_code),
        (None, End::Exit(status)) => status,
        (None, End::Died(signal)) => exit::of_signal(signal as i32),
    };
    let (end, lost) = ((failure.is_none() && !front_ended).then_some(end), lost || !kept);
    Held { end, failure, status, lost, held: granted.elapsed(), kept_until }
}

impl Watch<'_> {
    async fn until_all_have_ended(&mut self) -> Result<(), Failure> {
        let max_hold = self.arguments.max_hold;
        let mut settled = None;
        let mut max_hold_ends = max_hold.map(|max_hold| self.granted + max_hold);
        let mut long = self.arguments.warn_held_over;
        loop {
            tokio::select! {
                loss = self.guard.lost(), if !self.lost => {
                    self.lost = true;
                    self.end("lost", &format!("is lost: {loss}"));
                }
                () = sleep_until_some(max_hold_ends) => {
                    max_hold_ends = None;
                    let max_hold = max_hold.unwrap_or_default();
                    self.end("max_hold", &format!("was held for its --max-hold of {}", Shown(max_hold)));
                }
                () = sleep_until_some(long.map(|long| self.granted + long)) => {
                    self.warn_of(long.unwrap_or_default());
                    long = long.and_then(|long| long.checked_mul(2));
                }
                () = sleep_until_some(settled) => {
                    settled = None;
                    if self.leaves_behind().await {
                        return Ok(());
                    }
                }
                () = sleep_until_some(self.kill_at) => {
                    let grace = Shown(self.arguments.grace);
                    log::error("killed")
                        .say(format_args!("the command has not ended within {grace} and is killed"));
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
    fn end(&mut self, event: &'static str, reason: &str) {
        if self.told_to_end {
            return;
        }
        self.told_to_end = true;
        let line = log::error(event).with("fencing_token", self.guard.fencing_token());
        line.say(format_args!("{} {reason}; the command is told to end", self.guard.name()));
        self.processes.send_to_all(Signal::SIGTERM);
        // A stopped process receives TERM only when it is continued.
        self.processes.send_to_all(Signal::SIGCONT);
        self.kill_at = Some(Instant::now() + self.arguments.grace);
    }

    fn warn_of(&self, long: Duration) {
        let line = log::warning("held_long").with("held_seconds", long.as_secs_f64());
        line.say(format_args!("{} has been held for {} now", self.guard.name(), Shown(long)));
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
        let (names, name) = (left.join(", "), self.guard.name());
        log::warning("leftovers").with("processes", left).say(format_args!(
            "the command has left processes behind ({names}): {name} is kept until they end"
        ));
        self.front_ended = true;
        self.processes.end_front(end_of(self.ended), true);
        false
    }
}

/// Releases the lock, and records a success that began then. Returns false if the store says that it was not
/// held any more.
async fn release(guard: Guard, success: Option<Began>) -> bool {
    let name = guard.name().clone();
    let was_held = guard.is_held();
    if let Some(began) = success {
        match began.succeed(guard).await {
            Ok(()) => log::info("released").say(format_args!("{name} is released, and the success recorded")),
            Err(globallock::Error::Lost { .. }) => {
                if was_held {
                    log::error("lost").say(format_args!("{name} was lost before the success was recorded"));
                }
                return false;
            }
            Err(error) => log::error("not_recorded").say(format_args!(
                "the success could not be recorded, so that the command will run again: {error}"
            )),
        }
        return true;
    }
    held::release(guard, "the command ended").await
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
