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
use std::io::{IsTerminal, stdin, stdout};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use globallock::{Guard, LockManager, ManagerOptions, Name, Schemes};
use nix::unistd::{getppid, setsid};
use tokio::time::sleep;

use crate::address::{self, Sources};
use crate::exit::{self, Failure};
use crate::held;
use crate::log::{self, Told};
use crate::processes::descriptors::{Standard, keep_only, require};
use crate::processes::{detach, tree};
use crate::waiting::Waiting;
pub(crate) use arguments::{ABOUT, EXAMPLES, Hold};
use ready::Caller;
use until::{Ends, Until, Why};

/// How often to look whether a stopped job was continued, which nothing tells.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Holds the lock for as long as the arguments say.
pub(crate) fn main(schemes: &Schemes, arguments: &Hold, sources: Sources) -> ExitCode {
    arguments.verbosity.set(&arguments.name);
    exit::code(split(schemes, arguments, sources).unwrap_or_else(|failure| status(failure, arguments)))
}

/// Says a failure, and returns its exit status.
fn status(failure: Failure, arguments: &Hold) -> u8 {
    failure.tell(arguments.verbosity.quiet, arguments.lock.conflict_exit_code)
}

/// Becomes the process that keeps the lock, or the one that waits for it.
fn split(schemes: &Schemes, arguments: &Hold, sources: Sources) -> Result<u8, Failure> {
    require()?;
    let until = Until::of(&arguments.lasts)?;
    let shown = until.shown();
    let label = arguments.label.clone().or_else(|| tree::name(shown)).unwrap_or_default();
    let owner = ManagerOptions::new().label(label).process(shown.as_raw().cast_unsigned());
    let (socket, output) = if arguments.lasts.background {
        let (of_front, of_holder) = UnixStream::pair()?;
        if let Some(holder) = detach()? {
            drop((of_holder, until));
            return ready::front(of_front, holder, arguments.lasts.print_token);
        }
        (Some(of_holder), None)
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
    let told = Arc::new(Told::default());
    let owner = owner.observer(told.clone());
    let (mut ends, manager) = match (until.listen(), connect(schemes, arguments, sources, owner)) {
        (Ok(ends), Ok(manager)) => (ends, manager),
        (ends, manager) => {
            let failure = ends.err().map(Failure::from).or_else(|| manager.err());
            let status = failure.map_or(exit::INTERNAL, |failure| status(failure, arguments));
            caller.end(status).await;
            return Ok(status);
        }
    };
    let wanted = Wanted { manager: &manager, told: &told, arguments };
    let ended = match acquire(&wanted, &mut ends, &mut caller).await {
        Ok(guard) => {
            hold(guard, manager.backend().address(), arguments, &until, &mut ends, &mut caller).await
        }
        Err(failure) => Err(failure),
    };
    let ended = ended.unwrap_or_else(|failure| status(failure, arguments));
    // A front that waits no longer does not read it.
    caller.end(ended).await;
    held::close(&manager).await;
    Ok(ended)
}

fn connect(
    schemes: &Schemes,
    arguments: &Hold,
    sources: Sources,
    owner: ManagerOptions,
) -> Result<LockManager, Failure> {
    let url = address::choose(&arguments.store, sources)?;
    Ok(LockManager::connect_lazy_by(schemes, &url, owner.locks(arguments.lock.options()))?)
}

/// What is waited for.
struct Wanted<'a> {
    manager: &'a LockManager,
    told: &'a Arc<Told>,
    arguments: &'a Hold,
}

/// Acquires the lock for a caller that is not stopped.
async fn acquire(wanted: &Wanted<'_>, ends: &mut Ends, caller: &mut Caller) -> Result<Guard, Failure> {
    loop {
        let guard = wait(wanted, ends, caller).await?;
        if !caller.is_stopped() {
            return Ok(guard);
        }
        // Others must not wait for a job that nobody continues.
        let _ = guard.release().await;
        while caller.is_stopped() {
            tokio::select! {
                why = ends.next() => return Err(unwanted(&wanted.arguments.name, why)),
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
            let text = format!("{name:?} is not wanted any more: what it was to be held for has ended");
            Failure::Taken(log::error("unwanted"), text)
        }
    }
}

/// Waits for the lock, for as long as it is wanted.
async fn wait(wanted: &Wanted<'_>, ends: &mut Ends, caller: &mut Caller) -> Result<Guard, Failure> {
    let Wanted { manager, told, arguments } = wanted;
    let name = Name::new(&arguments.name)?;
    let lock = manager.lock(&name, arguments.lock.kind());
    let mut asked = std::pin::pin!(lock.acquire());
    let shown = (std::process::id(), arguments.verbosity.quiet);
    let mut waiting = Waiting::begin(manager, &name, told, shown);
    loop {
        tokio::select! {
            answer = &mut asked => {
                return match answer {
                    Ok(guard) => Ok(guard),
                    Err(globallock::Error::TimedOut { .. }) => {
                        Err(waiting.refused(arguments.lock.no_wait).await)
                    }
                    Err(error) => Err(error.into()),
                };
            }
            why = ends.next() => return Err(unwanted(name.as_str(), why)),
            () = caller.is_gone() => return Err(Failure::Killed),
            () = told.outages() => {}
            shown = waiting.show() => shown?,
        }
    }
}

/// Holds the lock until something ends that. Returns the exit status.
async fn hold(
    guard: Guard,
    store: &str,
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
    let token = guard.fencing_token();
    log::granted(&guard, store);
    let status = tokio::select! {
        loss = guard.lost() => {
            until.signal(arguments.lasts.loss_signal);
            let signal = arguments.lasts.loss_signal.as_str().trim_start_matches("SIG");
            let told = until.process();
            let told = told.map(|id| format!("; process {id} and what it has started are sent {signal}"));
            let line = log::error("lost").with("fencing_token", token);
            line.say(format_args!("{name} is lost: {loss}{}", told.unwrap_or_default()));
            exit::LOST
        }
        why = ends.next() => match why {
            Why::Signal(signal) => exit::of_signal(signal as i32),
            Why::InputEnded | Why::ProcessEnded => 0,
        },
    };
    Ok(if held::release(guard, "it was released").await { status } else { exit::LOST })
}
