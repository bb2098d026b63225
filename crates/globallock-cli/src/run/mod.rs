//! The verb `run`.

mod acquire;
mod hold;
mod metrics;
mod waiting;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use globallock::backend::Instant;
use globallock::{LockKind, LockManager, ManagerOptions, Name, Options, Schemes};
use tokio::time::timeout;

use crate::address::{self, Address, HOST_FILE, Sources};
use crate::arguments::Run;
use crate::exit::{self, Failure};
use crate::log::{self, Told};
use crate::processes::{self, End, Guardian, Processes, Role};
use acquire::{Wanted, acquire};
use hold::Held;
use metrics::{Change, Metrics};

/// How long this program waits at its end for releases that the store does not answer.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);
/// How much longer than the command may run the store keeps the claim, so that the claim has not ended when
/// the command has just been killed.
const AFTER_GRACE: Duration = Duration::from_secs(5);

/// Runs the command while it holds the lock.
pub(crate) fn main(schemes: &Schemes, arguments: &Run, sources: Sources) -> ExitCode {
    arguments.verbosity.set(&arguments.name);
    let [program, words @ ..] = &arguments.command[..] else { return exit::code(exit::USAGE) };
    let mut command = Command::new(program);
    command.args(words).env("GLOBALLOCK_NAME", &arguments.name);
    // The command may run others that need the store, and its environment must have no password.
    let address = match address::for_command(&mut command) {
        Ok(address) => address,
        Err(error) => {
            log::error("internal").say(error);
            return exit::code(exit::INTERNAL);
        }
    };
    match processes::split(command, address) {
        Ok(Role::Front(front)) => front.main(),
        Ok(Role::Guardian(guardian)) => guard(guardian, schemes, arguments, sources),
        Err(error) => {
            log::error("internal").say(error);
            exit::code(exit::INTERNAL)
        }
    }
}

/// The process that has the lock. What it returns concerns nobody: the front ends as it is told.
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
    if let Err(error) = ended {
        log::error("internal").say(error);
    }
    ExitCode::SUCCESS
}

/// How the front ends, unless it has ended already. A failure is said.
fn end(run: Result<Option<End>, Failure>, arguments: &Run) -> Option<End> {
    match run {
        Ok(end) => end,
        Err(Failure::Signal(signal)) => Some(End::Died(signal)),
        Err(failure) => {
            let status = failure.status(arguments.conflict_exit_code);
            if !(arguments.verbosity.quiet && matches!(failure, Failure::Taken(..))) {
                failure.say();
            }
            Some(End::Exit(status))
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
    let address = Address::choose(&arguments.store, sources, Path::new(HOST_FILE))?;
    if let Some(warning) = address.warning() {
        log::warning("password").say(warning);
    }
    // The planned end is kept by this process, which lets the command end first. The store's limit is for the
    // case that this fails.
    let longest = arguments.max_hold.map(|max_hold| max_hold + arguments.grace + AFTER_GRACE);
    let locks = Options::new().lease(arguments.lease).max_hold(longest).wait(arguments.wait);
    let told = Arc::new(Told::default());
    let options = ManagerOptions::new().locks(locks).label(label(arguments)).process(processes.front_id());
    let manager = LockManager::connect_lazy_by(schemes, &address.url, options.observer(told.clone()))?;
    let lock = manager.lock(&name, kind(arguments));
    let metrics = Metrics::new(arguments.metrics_file.as_deref(), &arguments.name);
    let wanted = Wanted { manager: &manager, lock, name, told: Arc::clone(&told), arguments };
    let asked = Instant::now();
    let acquired = acquire(&wanted, processes).await;
    let waited = Change::Set("last_wait_seconds", asked.elapsed().as_secs_f64());
    let end = match acquired {
        Ok(guard) => {
            let began = Change::Set("last_start_timestamp_seconds", metrics::now());
            metrics.change([began, Change::Add("starts_total", 1.0), waited]).await;
            let held = hold::hold(guard, arguments, processes).await;
            metrics.change(changes(&held, &told)).await;
            if let Some(failure) = held.failure { Err(failure) } else { Ok(held.end) }
        }
        Err(failure) => {
            let what = if matches!(failure, Failure::Taken(..)) { "skipped_total" } else { "errors_total" };
            metrics.change([Change::Add(what, 1.0), waited]).await;
            Err(failure)
        }
    };
    if timeout(CLOSE_LIMIT, manager.close()).await.is_err() {
        log::error("release_unanswered")
            .say("the store does not answer the release; the lease frees the lock");
    }
    end
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

fn kind(arguments: &Run) -> LockKind {
    match arguments.permits {
        Some((count, capacity)) => LockKind::Permits { count, capacity },
        None if arguments.shared => LockKind::Read,
        None => LockKind::Mutex,
    }
}
