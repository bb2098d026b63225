//! The verb `run`.

mod acquire;
mod hold;
mod metrics;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use globallock::backend::Instant;
use globallock::internals::duration::Shown;
use globallock::internals::{AFTER_GRACE, sleep_until_some};
use globallock::{LockManager, ManagerOptions, Name, Schemes};

use crate::address::{self, Sources};
use crate::arguments::Run;
use crate::exit::{self, Failure};
use crate::held;
use crate::log::{self, Told};
use crate::processes::{self, End, Guardian, Processes, Role};
use acquire::{Acquired, Asked, Wanted, acquire};
use hold::Held;
use metrics::{Change, Metrics};

/// Runs the command while it holds the lock.
pub(crate) fn main(schemes: &Schemes, arguments: &Run, sources: Sources) -> ExitCode {
    arguments.verbosity.set(&arguments.name);
    let [program, words @ ..] = &arguments.command[..] else { return exit::code(exit::USAGE) };
    let mut command = Command::new(program);
    command.args(words).env("GLOBALLOCK_NAME", &arguments.name);
    let split = processes::descriptors::require().and_then(|()| {
        // The command may run others that need the store, and its environment must have no password.
        let address = address::for_command(&mut command)?;
        processes::split(command, address)
    });
    match split {
        Ok(Role::Front(front)) => front.main(),
        Ok(Role::Guardian(guardian)) => guard(guardian, schemes, arguments, sources),
        Err(error) => failed(error, arguments),
    }
}

/// Says what the system has refused.
fn failed(error: std::io::Error, arguments: &Run) -> ExitCode {
    exit::code(Failure::System(error).tell(arguments.verbosity.quiet, arguments.lock.conflict_exit_code))
}

/// The process that has the lock. The front ends as it is told, and takes what this returns for its own end
/// only if it was told nothing.
fn guard(guardian: Guardian, schemes: &Schemes, arguments: &Run, sources: Sources) -> ExitCode {
    // One thread is enough, and quickly made: nothing here blocks for longer than a look at the processes.
    let ended = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        runtime.block_on(async {
            let mut processes = guardian.listen()?;
            let run = run(schemes, arguments, sources, &mut processes).await;
            if let Some(end) = end(run, arguments) {
                processes.end_front(end, false);
            }
            Ok::<(), std::io::Error>(())
        })?;
        runtime.shutdown_background();
        Ok(())
    });
    ended.map_or_else(|error| failed(error, arguments), |()| ExitCode::SUCCESS)
}

/// How the front ends, unless it has ended already. A failure is said.
fn end(run: Result<Option<End>, Failure>, arguments: &Run) -> Option<End> {
    match run {
        Ok(end) => end,
        Err(Failure::Signal(signal)) => Some(End::Died(signal)),
        Err(failure) => {
            let taken = arguments.lock.conflict_exit_code;
            Some(End::Exit(failure.tell(arguments.verbosity.quiet, taken)))
        }
    }
}

async fn run(
    schemes: &Schemes,
    arguments: &Run,
    sources: Sources,
    processes: &mut Processes,
) -> Result<Option<End>, Failure> {
    let name = Name::new(&arguments.name)?;
    let url = address::choose(&arguments.store, sources)?;
    // The planned end is kept by this process, which lets the command end first. The store's limit is for the
    // case that this fails.
    let longest = arguments.max_hold.map(|max_hold| max_hold + arguments.grace + AFTER_GRACE);
    if arguments.max_hold.is_some_and(|most| arguments.hold_at_least.is_some_and(|least| least > most)) {
        return Err(Failure::Usage(
            "--hold-at-least is longer than --max-hold: change one of them".to_owned(),
        ));
    }
    let locks = arguments.lock.options().max_hold(longest).hold_at_least(arguments.hold_at_least);
    let told = Arc::new(Told::default());
    let options = ManagerOptions::new().locks(locks).label(label(arguments)).process(processes.front_id());
    let manager = LockManager::connect_lazy_by(schemes, &url, options.observer(told.clone()))?;
    let asked_for = match arguments.every {
        Some(every) => Asked::Once(manager.once(&name).every(every)),
        None => Asked::Lock(manager.lock(&name, arguments.lock.kind())),
    };
    let metrics = Metrics::new(arguments.metrics_file.as_deref(), &arguments.name);
    let wanted = Wanted { manager: &manager, asked_for, name, told: Arc::clone(&told), arguments };
    let asked = Instant::now();
    let acquired = acquire(&wanted, processes).await;
    let waited = Change::Set("last_wait_seconds", asked.elapsed().as_secs_f64());
    let end = match acquired {
        Ok(Acquired::Skip { began }) => {
            let line = log::info("skipped").with("began_seconds_ago", began.as_secs_f64());
            line.more_on_a_terminal().say(format_args!(
                "{} is skipped: a run that began {} ago has succeeded",
                wanted.name,
                Shown(began)
            ));
            metrics.change([Change::Add("skipped_total", 1.0), waited]).await;
            Ok(Some(End::Exit(0)))
        }
        Ok(Acquired::Run(guard, began)) => {
            let started = Change::Set("last_start_timestamp_seconds", metrics::now());
            metrics.change([started, Change::Add("starts_total", 1.0), waited]).await;
            log::granted(&guard, manager.backend().address());
            let mut held = hold::hold(guard, began, arguments, processes).await;
            metrics.change(changes(&held, &told)).await;
            linger(&manager, &wanted.name, &mut held, processes).await;
            if let Some(failure) = held.failure { Err(failure) } else { Ok(held.end) }
        }
        Err(failure) => {
            let what = if matches!(failure, Failure::Taken(..)) { "skipped_total" } else { "errors_total" };
            metrics.change([Change::Add(what, 1.0), waited]).await;
            Err(failure)
        }
    };
    held::close(&manager).await;
    end
}

/// Stays until the lock may be released, where the store keeps no lock for an owner that has ended.
async fn linger(manager: &LockManager, name: &Name, held: &mut Held, processes: &mut Processes) {
    let Some(until) = held.kept_until.filter(|_| !manager.backend().capabilities().keeps_after_owner) else {
        return;
    };
    let rest = until.saturating_duration_since(Instant::now());
    let seconds = rest.as_secs_f64();
    log::warning("kept").with("seconds", seconds).with("pid", std::process::id()).say(format_args!(
        "{name} is kept for another {} by process {}, because such a store keeps it for nobody who has ended",
        Shown(rest),
        std::process::id()
    ));
    // The first process of a container has to stay itself, because all others end with it.
    if !processes.front_is_first()
        && held.failure.is_none()
        && let Some(end) = held.end.take()
    {
        processes.end_front(end, true);
    }
    sleep_until_some(Some(until)).await;
}

/// What has changed by a run that has held the lock.
fn changes(held: &Held, told: &Told) -> Vec<Change> {
    let mut changes = vec![
        Change::Set("last_end_timestamp_seconds", metrics::now()),
        Change::Set("last_held_seconds", held.held.as_secs_f64()),
        Change::Set("last_exit_status", f64::from(held.status)),
        Change::Add("lost_total", f64::from(u8::from(held.lost))),
        Change::Add("renewals_failed_total", told.renewals_failed() as f64),
    ];
    if held.status == 0 {
        changes.push(Change::Set("last_success_timestamp_seconds", metrics::now()));
        changes.push(Change::Add("successes_total", 1.0));
    }
    changes
}

/// What others are shown of this holder.
fn label(arguments: &Run) -> String {
    let command = || Path::new(&arguments.command[0]).file_name().unwrap_or_default().to_string_lossy();
    arguments.label.clone().unwrap_or_else(|| command().into_owned())
}
