//! What ends a hold: the end of a pipe, of a process, or a signal.

use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Read, Result, stdin};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::thread::Builder;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::arguments::Lasts;
use crate::exit::Failure;
use crate::processes::tree;
use crate::signals;

/// What the lock is held for.
pub(super) struct Until {
    input: Option<File>,
    process: Option<Process>,
}

/// A process that the lock is held for. Its number may become another process's when it has ended; the
/// descriptor does not.
struct Process {
    id: Pid,
    descriptor: OwnedFd,
}

/// Why a hold, or the wait for it, ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The descriptor is at its end.
    InputEnded,
    /// The process has ended.
    ProcessEnded,
    /// This process was asked to end.
    Signal(Signal),
}

impl Until {
    /// What these arguments say. To be called before this process has left those that have started it.
    pub(super) fn of(lasts: &Lasts) -> std::result::Result<Self, Failure> {
        let process = lasts.pid.map(Pid::from_raw).or_else(|| lasts.background.then(getppid));
        let process = process.map(Process::open).transpose()?;
        let input = match lasts.fd {
            Some(number) => Some(descriptor(number)?),
            None if process.is_none() => Some(standard_input()?),
            None => None,
        };
        Ok(Until { input, process })
    }

    /// The descriptors that must stay open.
    pub(super) fn kept(&self) -> Vec<&dyn AsRawFd> {
        let input = self.input.as_ref().map(|input| input as &dyn AsRawFd);
        let process = self.process.as_ref().map(|process| &process.descriptor as &dyn AsRawFd);
        input.into_iter().chain(process).collect()
    }

    /// The process that others are shown as the holder.
    pub(super) fn shown(&self) -> Pid {
        self.process.as_ref().map_or_else(getppid, |process| process.id)
    }

    /// Whether there is a process to be told of a loss.
    pub(super) fn process(&self) -> Option<Pid> {
        self.process.as_ref().map(|process| process.id)
    }

    /// Sends a signal to the process and all that it has started, but not to this process.
    pub(super) fn signal(&self, signal: Signal) {
        let Some(process) = &self.process else { return };
        // The process first: it must not take the next step because the one before was ended. While it has
        // not ended its number is its own.
        let first = (!process.has_ended()).then_some(process.id);
        let below = tree::below(process.id).into_iter().filter(|id| *id != getpid());
        let told: Vec<Pid> = first.into_iter().chain(below).collect();
        tree::signal(&told, signal);
    }

    /// Begins to listen. To be called in the runtime, at most once.
    pub(super) fn listen(&self) -> Result<Ends> {
        let (later, ends) = unbounded_channel();
        if let Some(input) = &self.input {
            let (input, later) = (input.try_clone()?, later.clone());
            // A thread, because a terminal or a pipe that others have too is not to be made non-blocking.
            Builder::new().spawn(move || {
                read_to_end(input);
                let _ = later.send(Why::InputEnded);
            })?;
        }
        if let Some(process) = &self.process {
            let (descriptor, later) = (process.descriptor.try_clone()?, later.clone());
            Builder::new().spawn(move || {
                wait_readable(&descriptor, PollTimeout::NONE);
                let _ = later.send(Why::ProcessEnded);
            })?;
        }
        signals::tell_requests(move |signal| {
            let _ = later.send(Why::Signal(signal));
        })?;
        Ok(Ends { ends })
    }
}

impl Process {
    fn open(id: Pid) -> std::result::Result<Self, Failure> {
        let pid = rustix::process::Pid::from_raw(id.as_raw());
        let opened = pid
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()));
        match opened {
            Ok(descriptor) => Ok(Process { id, descriptor }),
            Err(rustix::io::Errno::SRCH) => {
                Err(Failure::Usage(format!("--pid {id}: there is no such process")))
            }
            Err(error) => Err(Failure::System(error.into())),
        }
    }

    fn has_ended(&self) -> bool {
        wait_readable(&self.descriptor, PollTimeout::ZERO)
    }
}

/// What ends a hold, as it comes.
pub(super) struct Ends {
    ends: UnboundedReceiver<Why>,
}

impl Ends {
    /// Waits for the next end.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> Why {
        match self.ends.recv().await {
            Some(why) => why,
            // Nothing is left that could end it.
            None => std::future::pending().await,
        }
    }
}

fn standard_input() -> std::result::Result<File, Failure> {
    let input = File::from(stdin().as_fd().try_clone_to_owned()?);
    if lasts(&input)? {
        return Ok(input);
    }
    Err(Failure::Usage(
        "standard input is at its end at once, because it is a file or /dev/null: give a pipe, --fd, --pid \
         or --background"
            .to_owned(),
    ))
}

/// Opens a descriptor again, for reading only, because a process that has the writing end of a pipe never
/// sees its end.
fn descriptor(number: i32) -> std::result::Result<File, Failure> {
    let wrong = |what: String| Failure::Usage(format!("--fd {number}: {what}"));
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let opened = File::options().read(true).custom_flags(flags).open(format!("/proc/self/fd/{number}"));
    let input = opened.map_err(|error| match error.raw_os_error() {
        Some(number) if number == Errno::ENXIO as i32 => {
            wrong(format!("it is a socket: give it as standard input (<&{number})"))
        }
        _ => wrong(error.to_string()),
    })?;
    if lasts(&input)? {
        return Ok(input);
    }
    Err(wrong("it is at its end at once, because it is a file or /dev/null: give a pipe".to_owned()))
}

/// Whether somebody else decides when this is at its end.
fn lasts(input: &File) -> Result<bool> {
    let kind = input.metadata()?.file_type();
    Ok(kind.is_fifo() || kind.is_socket() || input.is_terminal())
}

fn read_to_end(mut input: File) {
    let mut unread = [0; 4096];
    loop {
        match input.read(&mut unread) {
            Ok(1..) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait_readable(&input, PollTimeout::NONE);
            }
            // A terminal that is gone is an error, and an end too.
            Ok(0) | Err(_) => return,
        }
    }
}

/// Waits for as long as this until there is something to read. Returns whether there is.
fn wait_readable(descriptor: &impl AsFd, limit: PollTimeout) -> bool {
    let mut watched = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut watched, limit) {
            Err(Errno::EINTR) => {}
            ended => return ended.is_ok_and(|ready| ready > 0),
        }
    }
}
