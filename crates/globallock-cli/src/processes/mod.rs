//! The processes of a run, and what each is for.
//!
//! | process | parent | session, group | what it does |
//! |---|---|---|---|
//! | front | a shell, cron, … | as it was started | hands signals on, stops and ends as the command does |
//! | guardian | front | its own | acquires, keeps and releases the lock, and ends the command |
//! | starter | guardian | the front's | starts the command, and adopts what the command leaves |
//! | command | starter | the front's | what the user wants |
//!
//! The command stays in the group and the session that `globallock` was started in. So the terminal, the
//! keyboard and the job control of the shell treat it as they would without `globallock`, and none of that is
//! done here.
//!
//! Everything that the command starts is a descendant of the starter, because the kernel gives orphans to the
//! nearest *subreaper* above them. So the starter knows when the last of them has ended. If the starter is
//! killed they go to the guardian, and if that is killed to the front: whoever is left ends them.
//!
//! The guardian has a session of its own, so neither the keyboard nor a signal to the group or the session
//! reaches it: it can still end the command when its group is killed, and it renews the lock while the job is
//! stopped. It learns of the death of each of the others from the end of a socket.

pub(crate) mod descriptors;
mod front;
mod guardian;
mod messages;
mod starter;
pub(crate) mod tree;

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::Command;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::signalfd::SignalFd;
use nix::unistd::{ForkResult, Pid, fork, getppid, setsid};

pub(crate) use front::Front;
pub(crate) use guardian::{Event, Guardian, Processes};
pub(crate) use tree::is_in_foreground;

use crate::signals::{self, Signals};

/// Which process this is, after the split.
pub(crate) enum Role {
    /// The process that the user has started.
    Front(Front),
    /// The process that has the lock.
    Guardian(Guardian),
}

/// How the front is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With this status.
    Exit(u8),
    /// By the signal that has ended the command.
    Died(Signal),
}

/// Makes the guardian and the starter of this command, which starts it when it is told to. Returns in the
/// front and in the guardian. `address`: the file that the command reads the store's address from.
///
/// To be called before there are other threads.
pub(crate) fn split(command: Command, address: Option<File>) -> Result<Role> {
    single_thread()?;
    let signals = signals::block()?;
    // SAFETY: the default action is no handler, so nothing can run at a wrong moment. Who ignores SIGCHLD
    // gets no exit status of its children, and that is inherited.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    prctl::set_child_subreaper(true)?;
    let (of_front, of_guardian) = UnixStream::pair()?;
    Ok(match branch()? {
        Some(guardian) => {
            drop((of_guardian, address));
            Role::Front(Front::new(guardian, of_front, &signals)?)
        }
        None => {
            drop(of_front);
            Role::Guardian(guard(of_guardian, command, address, signals)?)
        }
    })
}

/// Becomes the guardian, and makes the starter.
fn guard(
    front: UnixStream,
    mut command: Command,
    address: Option<File>,
    signals: Signals,
) -> Result<Guardian> {
    let front_id = getppid();
    prctl::set_child_subreaper(true)?;
    if let Some(address) = &address {
        crate::address::show_to(&mut command, std::process::id(), address);
    }
    let (of_guardian, of_starter) = UnixStream::pair()?;
    let Some(starter) = branch()? else {
        drop((front, of_guardian, address));
        // It must not return, because its callers go on as the guardian.
        let done = starter::main(of_starter, command, front_id, signals);
        std::process::exit(done.map_or(1, |()| 0));
    };
    drop(of_starter);
    setsid()?;
    // Whoever kills all processes named globallock wants the command to end too, and somebody has to end it.
    prctl::set_name(c"lock-guardian")?;
    let mut kept: Vec<&dyn AsRawFd> = vec![&front, &of_guardian];
    kept.extend(address.as_ref().map(|address| address as &dyn AsRawFd));
    descriptors::keep_only(&kept, descriptors::Standard::Error)?;
    Ok(Guardian::new((front_id, front), (starter, of_guardian), signals, address))
}

/// Waits until there is something to read at the socket or of the signals, and says at which.
fn readable(socket: &UnixStream, signals: &SignalFd) -> Result<[bool; 2]> {
    let mut watched = [socket.as_fd(), signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    match poll(&mut watched, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(watched.map(|watched| watched.any().unwrap_or(true))),
        Err(error) => Err(error.into()),
    }
}

/// Forks. Returns the child's id in the parent.
fn branch() -> Result<Option<Pid>> {
    // SAFETY: this process has no other threads, so the child may do whatever its parent might have.
    Ok(match unsafe { fork() }? {
        ForkResult::Parent { child } => Some(child),
        ForkResult::Child => None,
    })
}

/// Makes a process that goes on when this one has ended: it leaves the session, and so the keyboard and the
/// signals to the group. Returns the child's id in the parent.
///
/// To be called before there are other threads.
pub(crate) fn detach() -> Result<Option<Pid>> {
    single_thread()?;
    let child = branch()?;
    if child.is_none() {
        setsid()?;
    }
    Ok(child)
}

fn single_thread() -> Result<()> {
    match std::fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        _ => Err(Error::other("a program must call globallock_cli::main before it starts other threads")),
    }
}
