//! The verb `run`.

use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use globallock::backend::Instant;
use globallock::internals::sleep_until_some;
use globallock::{
    Address, Entry, Guard, Lock, LockKind, LockManager, Loss, ManagerOptions, Name, Options, Release, Schemes,
};
use nix::sys::signal::Signal;
use tokio::time::{sleep, timeout};
use tracing_subscriber::filter::LevelFilter;

use crate::arguments::{Run, Store};
use crate::child::{Child, State};
use crate::exit::{self, Failure};
use crate::signals::{Event, Signals};

/// How long a wait lasts before it is announced.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(300);
/// How long this program waits at its end for releases that the store does not answer.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

/// Runs the command while it holds the lock. `url_is_argument`: the address is in the list of processes,
/// which all users can read.
pub(crate) fn main(schemes: &Schemes, arguments: &Run, url_is_argument: bool) -> ExitCode {
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
    // `block_on` runs on the main thread, which starts the command: the kernel kills the command when that
    // thread ends. Renewals run on the worker thread.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let ended = runtime.map_err(Failure::from).and_then(|runtime| {
        let ended = runtime.block_on(run(schemes, arguments, url_is_argument));
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(status) => exit::code(status),
        Err(failure) => {
            let silent = arguments.verbosity.quiet && matches!(failure, Failure::Taken(_));
            if let Some(message) = failure.message().filter(|_| !silent) {
                say!("globallock: {message}");
            }
            exit::code(failure.status(arguments.conflict_exit_code))
        }
    }
}

async fn run(schemes: &Schemes, arguments: &Run, url_is_argument: bool) -> Result<u8, Failure> {
    let mut signals = Signals::listen()?;
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
    let locks = Options::new().lease(arguments.lease).max_hold(arguments.max_hold).wait(arguments.wait);
    let options = ManagerOptions::new().locks(locks).label(label(arguments));
    let manager = LockManager::connect_lazy_by(schemes, &url, options)?;
    let lock = manager.lock(&name, kind(arguments));
    let status = match acquire(&manager, &lock, &name, arguments, &mut signals).await {
        Ok(guard) => hold(guard, arguments, &mut signals).await,
        Err(failure) => Err(failure),
    };
    if timeout(CLOSE_LIMIT, manager.close()).await.is_err() {
        say!("globallock: the store does not answer the release; the lease frees the lock");
    }
    status
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

async fn acquire(
    manager: &LockManager,
    lock: &Lock,
    name: &Name,
    arguments: &Run,
    signals: &mut Signals,
) -> Result<Guard, Failure> {
    let asked =
        async { if arguments.no_wait { lock.try_acquire().await } else { lock.acquire().await.map(Some) } };
    let mut asked = std::pin::pin!(asked);
    let announces =
        arguments.verbosity.verbose || (std::io::stderr().is_terminal() && !arguments.verbosity.quiet);
    let mut announced = !announces;
    let answer = loop {
        tokio::select! {
            answer = &mut asked => break answer,
            signal = signals.end() => return Err(Failure::Signal(signal as i32)),
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

/// The holders, and how many waiters there are.
fn described(queue: &[Entry]) -> String {
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

/// Runs the command and then releases the lock. Ends the command when the lock is lost.
async fn hold(guard: Guard, arguments: &Run, signals: &mut Signals) -> Result<u8, Failure> {
    if arguments.verbosity.verbose {
        say!("globallock: {} is granted, fencing token {}", guard.name(), guard.fencing_token());
    }
    let variables = [
        ("GLOBALLOCK_NAME", guard.name().as_str().to_owned()),
        ("GLOBALLOCK_FENCING_TOKEN", guard.fencing_token().to_string()),
    ];
    let child = match Child::start(&arguments.command, &variables) {
        Ok(child) => child,
        Err(error) => {
            release(guard, arguments).await;
            return Err(Failure::Command(arguments.command[0].display().to_string(), error));
        }
    };
    let (ended, lost) = watch(&guard, &child, arguments, signals).await?;
    child.give_up_terminal();
    if lost.is_some() {
        // Processes that the command has left behind may still write to what the lock guards.
        child.send_to_group(Signal::SIGKILL);
    }
    let kept = release(guard, arguments).await;
    Ok(if lost.is_some() || !kept { exit::LOST } else { status(ended) })
}

/// Waits for the end of the command. Returns its status and the loss of the lock, if it was lost before.
async fn watch(
    guard: &Guard,
    child: &Child,
    arguments: &Run,
    signals: &mut Signals,
) -> Result<(ExitStatus, Option<Loss>), Failure> {
    let mut lost = None;
    let mut kill_at: Option<Instant> = None;
    loop {
        tokio::select! {
            loss = guard.lost(), if lost.is_none() => {
                say!("globallock: {} is lost: {loss}; the command is told to end", guard.name());
                lost = Some(loss);
                child.send(Signal::SIGTERM);
                // A stopped command receives TERM only when it is continued.
                child.send(Signal::SIGCONT);
                kill_at = Some(Instant::now() + arguments.grace);
            }
            () = sleep_until_some(kill_at) => {
                kill_at = None;
                say!("globallock: the command has not ended within {:?} and is killed", arguments.grace);
                child.send(Signal::SIGKILL);
            }
            event = signals.next() => match event {
                Event::Signal(signal) => child.pass_on(signal),
                Event::Child => match child.poll_state()? {
                    State::Ended(status) => return Ok((status, lost)),
                    State::Stopped => child.stop_along(),
                    State::Same => {}
                },
            },
        }
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

fn status(ended: ExitStatus) -> u8 {
    let signal = ended.signal().map(exit::of_signal);
    signal.or_else(|| ended.code().and_then(|code| u8::try_from(code).ok())).unwrap_or(1)
}
