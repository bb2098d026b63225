//! The verb `hold`: a lock for a part of a script.
//!
//! The script is not the command of this program, so nothing here can end it for sure. What can be done is
//! done: the lock is released when the script is gone, however it has ended, and the script is told of a
//! loss.
//!
//! The process that keeps the lock leaves the session of the script. Otherwise a Ctrl-C, which the script may
//! handle to clean up, would release the lock before it has, and a Ctrl-Z would stop the renewal.

mod arguments;
mod ready;
mod until;

use std::fs::File;
use std::io::{IsTerminal, stderr, stdin, stdout};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use globallock::{Guard, LockKind, LockManager, ManagerOptions, Name, Options, Release, Schemes};
use nix::unistd::{getppid, setsid};
use tokio::time::{sleep, timeout};

use crate::address::{Address, HOST_FILE, Sources};
use crate::exit::{self, Failure};
use crate::processes::descriptors::{Standard, keep_only};
use crate::processes::{detach, tree};
use crate::run::{CLOSE_LIMIT, described, log};
pub(crate) use arguments::{ABOUT, HELP, Hold};
use ready::Caller;
use until::{Ends, Until, Why};

/// How long a wait lasts before it is announced.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(300);
/// How often to look whether a stopped job was continued, which nothing tells.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Holds the lock for as long as the arguments say.
pub(crate) fn main(schemes: &Schemes, arguments: &Hold, sources: Sources) -> ExitCode {
    exit::code(split(schemes, arguments, sources).unwrap_or_else(|failure| status(&failure, arguments)))
}

/// Prints a failure, and returns its exit status.
fn status(failure: &Failure, arguments: &Hold) -> u8 {
    let silent = arguments.verbosity.quiet && matches!(failure, Failure::Taken(_));
    if let Some(message) = failure.message().filter(|_| !silent) {
        say!("globallock: {message}");
    }
    failure.status(arguments.conflict_exit_code)
}

/// Becomes the process that keeps the lock, or the one that waits for it.
fn split(schemes: &Schemes, arguments: &Hold, sources: Sources) -> Result<u8, Failure> {
    let until = Until::of(&arguments.lasts)?;
    let shown = until.shown();
    let label = arguments.label.clone().or_else(|| tree::name(shown)).unwrap_or_default();
    let owner = ManagerOptions::new().label(label).process(shown.as_raw().cast_unsigned());
    let (socket, output) = if arguments.lasts.background {
        let (of_front, of_keeper) = UnixStream::pair()?;
        if detach()?.is_some() {
            drop((of_keeper, until));
            return ready::front(of_front, arguments.lasts.print_token);
        }
        (Some(of_keeper), None)
    } else {
        if !stdin().is_terminal() {
            // It fails in the first process of a job, which a person has started as such.
            let _ = setsid();
        }
        (None, Some(File::from(stdout().as_fd().try_clone_to_owned()?)))
    };
    // What this process keeps open would look like the script itself to whoever waits at the other end.
    let mut kept = until.kept();
    kept.extend(socket.as_ref().map(|socket| socket as &dyn AsRawFd));
    kept.extend(output.as_ref().map(|output| output as &dyn AsRawFd));
    keep_only(&kept, Standard::Error)?;
    log(&arguments.verbosity);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let caller = match (socket, output) {
            (Some(socket), _) => {
                socket.set_nonblocking(true)?;
                Caller::Front(tokio::net::UnixStream::from_std(socket)?, getppid())
            }
            (None, Some(output)) => Caller::Output(output),
            (None, None) => return Err(Failure::System(std::io::ErrorKind::NotFound.into())),
        };
        keep(schemes, arguments, sources, (owner, until), caller).await
    });
    runtime.shutdown_background();
    ended
}

/// Acquires the lock, holds it, and releases it.
async fn keep(
    schemes: &Schemes,
    arguments: &Hold,
    sources: Sources,
    (owner, until): (ManagerOptions, Until),
    mut caller: Caller,
) -> Result<u8, Failure> {
    let (mut ends, manager) = match (until.listen(), connect(schemes, arguments, sources, owner)) {
        (Ok(ends), Ok(manager)) => (ends, manager),
        (ends, manager) => {
            let failure = ends.err().map(Failure::from).or_else(|| manager.err());
            let status = failure.map_or(exit::INTERNAL, |failure| status(&failure, arguments));
            caller.end(status).await;
            return Ok(status);
        }
    };
    let ended = match acquire(&manager, arguments, &mut ends, &mut caller).await {
        Ok(guard) => hold(guard, arguments, &until, &mut ends, &mut caller).await,
        Err(failure) => Err(failure),
    };
    let ended = ended.unwrap_or_else(|failure| status(&failure, arguments));
    // A front that waits no longer does not read it.
    caller.end(ended).await;
    if timeout(CLOSE_LIMIT, manager.close()).await.is_err() {
        say!("globallock: the store does not answer the release; the lease frees the lock");
    }
    Ok(ended)
}

fn connect(
    schemes: &Schemes,
    arguments: &Hold,
    sources: Sources,
    owner: ManagerOptions,
) -> Result<LockManager, Failure> {
    let address = Address::choose(&arguments.store, sources, Path::new(HOST_FILE))?;
    if let Some(warning) = address.warning().filter(|_| !arguments.verbosity.quiet) {
        say!("globallock: {warning}");
    }
    let locks = Options::new().lease(arguments.lease).wait(arguments.wait);
    Ok(LockManager::connect_lazy_by(schemes, &address.url, owner.locks(locks))?)
}

/// Acquires the lock for a caller that is not stopped.
async fn acquire(
    manager: &LockManager,
    arguments: &Hold,
    ends: &mut Ends,
    caller: &mut Caller,
) -> Result<Guard, Failure> {
    loop {
        let guard = wait(manager, arguments, ends, caller).await?;
        if !caller.is_stopped() {
            return Ok(guard);
        }
        // Others must not wait for a job that nobody continues.
        let _ = guard.release().await;
        while caller.is_stopped() {
            tokio::select! {
                why = ends.next() => return Err(unwanted(&arguments.name, why)),
                () = caller.is_gone() => return Err(Failure::Killed),
                () = sleep(LOOK_AGAIN) => {}
            }
        }
    }
}

/// Why a wait has ended without the lock.
fn unwanted(name: &str, why: Why) -> Failure {
    match why {
        Why::Signal(signal) => Failure::Signal(signal),
        Why::InputEnded | Why::ProcessEnded => {
            Failure::Taken(format!("{name:?} is not wanted any more: what it was to be held for has ended"))
        }
    }
}

/// Waits for the lock, for as long as it is wanted.
async fn wait(
    manager: &LockManager,
    arguments: &Hold,
    ends: &mut Ends,
    caller: &mut Caller,
) -> Result<Guard, Failure> {
    let name = Name::new(&arguments.name)?;
    let lock = manager.lock(&name, kind(arguments));
    let asked =
        async { if arguments.no_wait { lock.try_acquire().await } else { lock.acquire().await.map(Some) } };
    let mut asked = std::pin::pin!(asked);
    let announces = arguments.verbosity.verbose || (stderr().is_terminal() && !arguments.verbosity.quiet);
    let mut announced = !announces;
    let answer = loop {
        tokio::select! {
            answer = &mut asked => break answer,
            why = ends.next() => return Err(unwanted(name.as_str(), why)),
            () = caller.is_gone() => return Err(Failure::Killed),
            () = sleep(ANNOUNCE_AFTER), if !announced => {
                announced = true;
                // The holder is shown as a convenience. An error of `inspect` must not end the wait.
                let queue = manager.inspect(&name).await.unwrap_or_default();
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
    let queue = manager.inspect(&name).await.unwrap_or_default();
    Err(Failure::Taken(format!("{refused}{}", described(&queue))))
}

/// Holds the lock until something ends that. Returns the exit status.
async fn hold(
    guard: Guard,
    arguments: &Hold,
    until: &Until,
    ends: &mut Ends,
    caller: &mut Caller,
) -> Result<u8, Failure> {
    let name = guard.name().clone();
    let told = caller.is_told(guard.fencing_token()).await;
    if !matches!(told, Ok(true)) {
        // Nobody relies on a lock that nobody was told of.
        let _ = guard.release().await;
        return told.map(|_| exit::INTERNAL).map_err(Failure::System);
    }
    if let Caller::Output(output) = caller {
        // Whoever reads it sees its end, and nothing else will come.
        *output = File::options().write(true).open("/dev/null")?;
    }
    if arguments.verbosity.verbose {
        say!("globallock: {name} is granted, fencing token {}", guard.fencing_token());
    }
    let status = tokio::select! {
        loss = guard.lost() => {
            until.signal(arguments.lasts.loss_signal);
            let signal = arguments.lasts.loss_signal.as_str().trim_start_matches("SIG");
            let told = until.process();
            let told = told.map(|id| format!("; process {id} and what it has started are sent {signal}"));
            say!("globallock: {name} is lost: {loss}{}", told.unwrap_or_default());
            exit::LOST
        }
        why = ends.next() => match why {
            Why::Signal(signal) => exit::of_signal(signal as i32),
            Why::InputEnded | Why::ProcessEnded => 0,
        },
    };
    let was_held = guard.is_held();
    match guard.release().await {
        Ok(Release::Released) if arguments.verbosity.verbose => say!("globallock: {name} is released"),
        Ok(Release::Released) => {}
        Ok(Release::NotHeld) if was_held => {
            say!("globallock: {name} was lost before it was released: the store did not hold it any more");
            return Ok(exit::LOST);
        }
        Ok(Release::NotHeld) => return Ok(exit::LOST),
        Err(error) => say!("globallock: {name} could not be released yet: {error}"),
    }
    Ok(status)
}

fn kind(arguments: &Hold) -> LockKind {
    match arguments.permits {
        Some((count, capacity)) => LockKind::Permits { count, capacity },
        None if arguments.shared => LockKind::Read,
        None => LockKind::Mutex,
    }
}
