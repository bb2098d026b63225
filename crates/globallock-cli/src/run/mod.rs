//! The verb `run`.

mod acquire;
mod hold;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use globallock::{LockKind, LockManager, ManagerOptions, Name, Options, Schemes};
use tokio::time::timeout;
use tracing_subscriber::filter::LevelFilter;

use crate::address::{self, Address, HOST_FILE, Sources};
use crate::arguments::{Run, Verbosity};
use crate::exit::{self, Failure};
use crate::processes::{self, End, Guardian, Processes, Role};
pub(crate) use acquire::described;
use acquire::{Wanted, acquire};

/// How long this program waits at its end for releases that the store does not answer.
pub(crate) const CLOSE_LIMIT: Duration = Duration::from_secs(3);
/// How much longer than the command may run the store keeps the claim, so that the claim has not ended when
/// the command has just been killed.
const AFTER_GRACE: Duration = Duration::from_secs(5);

/// Runs the command while it holds the lock.
pub(crate) fn main(schemes: &Schemes, arguments: &Run, sources: Sources) -> ExitCode {
    let [program, words @ ..] = &arguments.command[..] else { return exit::code(exit::USAGE) };
    let mut command = Command::new(program);
    command.args(words).env("GLOBALLOCK_NAME", &arguments.name);
    // The command may run others that need the store, and its environment must have no password.
    let address = match address::for_command(&mut command) {
        Ok(address) => address,
        Err(error) => {
            say!("globallock: {error}");
            return exit::code(exit::INTERNAL);
        }
    };
    match processes::split(command, address) {
        Ok(Role::Front(front)) => front.main(),
        Ok(Role::Guardian(guardian)) => guard(guardian, schemes, arguments, sources),
        Err(error) => {
            say!("globallock: {error}");
            exit::code(exit::INTERNAL)
        }
    }
}

/// The process that has the lock. What it returns concerns nobody: the front ends as it is told.
fn guard(guardian: Guardian, schemes: &Schemes, arguments: &Run, sources: Sources) -> ExitCode {
    log(&arguments.verbosity);
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
        say!("globallock: {error}");
    }
    ExitCode::SUCCESS
}

pub(crate) fn log(verbosity: &Verbosity) {
    let level = match (verbosity.quiet, verbosity.verbose) {
        (true, _) => LevelFilter::ERROR,
        (_, true) => LevelFilter::DEBUG,
        (false, false) => LevelFilter::WARN,
    };
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr);
    // Errors of the log itself are not printed: where standard error is closed, printing them would panic.
    let log = log.without_time().with_target(false).with_ansi(false).log_internal_errors(false);
    // It fails where the program that this is part of has a log of its own, which is used then.
    let _ = log.try_init();
}

/// How the front ends, unless it has ended already. A failure is printed.
fn end(run: Result<Option<End>, Failure>, arguments: &Run) -> Option<End> {
    match run {
        Ok(end) => end,
        Err(Failure::Signal(signal)) => Some(End::Died(signal)),
        Err(failure) => {
            let silent = arguments.verbosity.quiet && matches!(failure, Failure::Taken(_));
            if let Some(message) = failure.message().filter(|_| !silent) {
                say!("globallock: {message}");
            }
            Some(End::Exit(failure.status(arguments.conflict_exit_code)))
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
    if let Some(warning) = address.warning().filter(|_| !arguments.verbosity.quiet) {
        say!("globallock: {warning}");
    }
    // The planned end is kept by this process, which lets the command end first. The store's limit is for the
    // case that this fails.
    let longest = arguments.max_hold.map(|max_hold| max_hold + arguments.grace + AFTER_GRACE);
    let locks = Options::new().lease(arguments.lease).max_hold(longest).wait(arguments.wait);
    let options = ManagerOptions::new().locks(locks).label(label(arguments)).process(processes.front_id());
    let manager = LockManager::connect_lazy_by(schemes, &address.url, options)?;
    let lock = manager.lock(&name, kind(arguments));
    let wanted = Wanted { manager: &manager, lock, name, arguments };
    let end = match acquire(&wanted, processes).await {
        Ok(guard) => hold::hold(guard, arguments, processes).await,
        Err(failure) => Err(failure),
    };
    if timeout(CLOSE_LIMIT, manager.close()).await.is_err() {
        say!("globallock: the store does not answer the release; the lease frees the lock");
    }
    end
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
