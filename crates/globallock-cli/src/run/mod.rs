//! The verb `run`.

mod acquire;
mod hold;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use globallock::{Address, LockKind, LockManager, ManagerOptions, Name, Options, Schemes};
use tokio::time::timeout;
use tracing_subscriber::filter::LevelFilter;

use crate::arguments::{Run, Store};
use crate::exit::{self, Failure};
use crate::processes::{self, End, Guardian, Processes, Role};

/// How long this program waits at its end for releases that the store does not answer.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);
/// How much longer than the command may run the store keeps the claim, so that the claim has not ended when
/// the command has just been killed.
const AFTER_GRACE: Duration = Duration::from_secs(5);

/// Runs the command while it holds the lock. `url_is_argument`: the address is in the list of processes,
/// which all users can read.
pub(crate) fn main(schemes: &Schemes, arguments: &Run, url_is_argument: bool) -> ExitCode {
    let [program, words @ ..] = &arguments.command[..] else { return exit::code(exit::USAGE) };
    let mut command = Command::new(program);
    command.args(words).env("GLOBALLOCK_NAME", &arguments.name);
    match processes::split(command) {
        Ok(Role::Front(front)) => front.main(),
        Ok(Role::Guardian(guardian)) => guard(guardian, schemes, arguments, url_is_argument),
        Err(error) => {
            say!("globallock: {error}");
            exit::code(exit::INTERNAL)
        }
    }
}

/// The process that has the lock. What it returns concerns nobody: the front ends as it is told.
fn guard(guardian: Guardian, schemes: &Schemes, arguments: &Run, url_is_argument: bool) -> ExitCode {
    log(arguments);
    // One thread is enough, and quickly made: nothing here blocks for longer than a look at the processes.
    let ended = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        runtime.block_on(async {
            let mut processes = guardian.listen()?;
            let run = run(schemes, arguments, url_is_argument, &mut processes).await;
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

fn log(arguments: &Run) {
    let level = match (arguments.verbosity.quiet, arguments.verbosity.verbose) {
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
    url_is_argument: bool,
    processes: &mut Processes,
) -> Result<Option<End>, Failure> {
    if url_is_argument && arguments.store.url_file.is_some() {
        return Err(Failure::Usage("give one of --url and --url-file".to_owned()));
    }
    let name = Name::new(&arguments.name)?;
    let url = url(&arguments.store)?;
    let has_password = Address::parse(&url).is_ok_and(|address| address.password.is_some());
    if url_is_argument && has_password && !arguments.verbosity.quiet {
        say!(
            "globallock: others can read the password in the list of processes; put the address into \
             GLOBALLOCK_URL or a file for --url-file"
        );
    }
    // The planned end is kept by this process, which lets the command end first. The store's limit is for the
    // case that this fails.
    let longest = arguments.max_hold.map(|max_hold| max_hold + arguments.grace + AFTER_GRACE);
    let locks = Options::new().lease(arguments.lease).max_hold(longest).wait(arguments.wait);
    let options = ManagerOptions::new().locks(locks).label(label(arguments));
    let manager = LockManager::connect_lazy_by(schemes, &url, options)?;
    let lock = manager.lock(&name, kind(arguments));
    let end = match acquire::acquire(&manager, &lock, &name, arguments, processes).await {
        Ok(guard) => hold::hold(guard, arguments, processes).await,
        Err(failure) => Err(failure),
    };
    if timeout(CLOSE_LIMIT, manager.close()).await.is_err() {
        say!("globallock: the store does not answer the release; the lease frees the lock");
    }
    end
}

fn url(store: &Store) -> Result<String, Failure> {
    let Some(file) = &store.url_file else {
        return Ok(store.url.clone());
    };
    let wrong = |what: String| Failure::Usage(format!("--url-file {}: {what}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let line = text.lines().next().map(str::trim).filter(|line| !line.is_empty());
    line.map(str::to_owned).ok_or_else(|| wrong("its first line is empty".to_owned()))
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
