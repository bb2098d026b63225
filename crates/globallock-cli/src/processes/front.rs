//! The process that the user has started, and that the shell or the supervisor knows.

use std::io::Result;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread::sleep;

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

use super::descriptors::{self, Standard};
use super::messages::{FromFront, ToFront, receive, send, to_signal};
use super::{End, readable, tree};
use crate::signals::Signals;
use crate::{exit, log};

/// The process that the user has started.
pub(crate) struct Front {
    guardian: Pid,
    socket: UnixStream,
    signals: SignalFd,
    /// The signals that were received.
    received: SigSet,
    end: Option<End>,
    /// How the guardian has ended.
    ended: Option<WaitStatus>,
    /// The guardian goes on without this process.
    guardian_stays: bool,
}

impl Front {
    pub(super) fn new(guardian: Pid, socket: UnixStream, signals: &Signals) -> Result<Self> {
        descriptors::keep_only(&[&socket], Standard::Error)?;
        let (signals, received) = (signals.descriptor()?, SigSet::empty());
        Ok(Front { guardian, socket, signals, received, end: None, ended: None, guardian_stays: false })
    }

    /// Hands signals on until the guardian says how to end, and ends like that.
    pub(crate) fn main(mut self) -> ExitCode {
        match self.until_the_end() {
            Ok(End::Exit(status)) => exit::code(status),
            Ok(End::Died(signal)) => self.die_of(signal),
            Err(error) => {
                log::error("internal").say(error);
                exit::code(exit::INTERNAL)
            }
        }
    }

    fn until_the_end(&mut self) -> Result<End> {
        loop {
            let [told, signalled] = readable(&self.socket, &self.signals)?;
            // Signals first: what the guardian tells may follow from one that was sent to the whole group.
            if signalled {
                self.signals()?;
            }
            if told && let Some(end) = self.told()? {
                return Ok(end);
            }
        }
    }

    /// Reads the signals that have come.
    fn signals(&mut self) -> Result<()> {
        while let Some(signal) = self.signals.read_signal()? {
            let Ok(signal) = Signal::try_from(signal.ssi_signo.cast_signed()) else { continue };
            if signal == Signal::SIGCHLD {
                self.reap();
            } else {
                self.received.add(signal);
                send(&self.socket, FromFront::Signal(signal as i64));
            }
        }
        Ok(())
    }

    /// Takes note of children that have ended. As the first process of a container, this one is given the
    /// orphans of others.
    fn reap(&mut self) {
        while let Ok(status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) =
            waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG))
        {
            if status.pid() == Some(self.guardian) {
                self.ended = Some(status);
            }
        }
    }

    /// Waits for the end of the guardian. Returns true if it has ended by itself: then it has said why.
    fn guardian_has_failed(&mut self) -> bool {
        let ended = self.ended.or_else(|| waitpid(self.guardian, None).ok());
        matches!(ended, Some(WaitStatus::Exited(..)))
    }

    /// Reads one message of the guardian. Returns how to end, when it has ended or stays alone.
    fn told(&mut self) -> Result<Option<End>> {
        match receive(&self.socket)? {
            Some(ToFront::Stop(command)) => {
                // What has come until now is not to be taken for something that comes later.
                self.signals()?;
                // The command may have been continued since.
                let command = i32::try_from(command).ok().filter(|command| *command > 0);
                if command.is_none_or(|command| tree::is_stopped(Pid::from_raw(command))) {
                    // The shell takes the terminal, and continues this job later.
                    raise(Signal::SIGSTOP)?;
                }
            }
            Some(ToFront::Stays(_)) => self.guardian_stays = true,
            Some(ToFront::Exit(status)) => {
                self.end = Some(End::Exit(u8::try_from(status).unwrap_or(u8::MAX)));
            }
            Some(ToFront::Died(signal)) => {
                self.end = Some(to_signal(signal).map_or(End::Exit(exit::INTERNAL), End::Died));
            }
            None if self.end.is_some() => {
                // So that what the command has used is counted as used by this process.
                let _ = waitpid(self.guardian, None);
                return Ok(self.end);
            }
            None => {
                let failed = self.guardian_has_failed();
                // A dead guardian renews no lock. What the command has started belongs to this process now.
                while let Some(again) = tree::kill_all_below(None) {
                    sleep(again);
                }
                if failed {
                    return Ok(Some(End::Exit(exit::INTERNAL)));
                }
                log::error("killed")
                    .say("the process that kept the lock was killed, and so the command is too");
                return Ok(Some(End::Exit(exit::LOST)));
            }
        }
        Ok(self.end.filter(|_| self.guardian_stays))
    }

    /// Ends as the command did, so that a shell stops its script at Ctrl-C, and systemd sees the end that it
    /// asked for.
    ///
    /// If nobody has sent this process that signal, the command's end is its own affair, and told by the
    /// status alone. So it is in the first process of a container, which no signal of its own can end.
    fn die_of(&self, signal: Signal) -> ExitCode {
        if self.received.contains(signal) && getpid() != Pid::from_raw(1) {
            // The command may have left a dump. One of this process would be of no use.
            let _ = prctl::set_dumpable(false);
            let _ = raise(signal);
            let _ = SigSet::from(signal).thread_unblock();
        }
        exit::code(exit::of_signal(signal as i32))
    }
}
