//! The command that runs under the lock.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid};

use crate::terminal::{self, Group};

/// A running command.
pub(crate) struct Child {
    id: Pid,
    group: Group,
}

/// What has happened to the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It has ended.
    Ended(ExitStatus),
    /// It was stopped, for example by Ctrl-Z.
    Stopped,
    /// Nothing has changed.
    Same,
}

impl Child {
    /// Starts the command. The kernel kills the command when this program ends, however it ends.
    ///
    /// Must be called on the main thread, because the kernel kills the command when the thread that started
    /// it ends.
    pub(crate) fn start(command: &[OsString], variables: &[(&str, String)]) -> std::io::Result<Self> {
        let group = Group::choose();
        let parent = getpid();
        let mut started = Command::new(&command[0]);
        started.args(&command[1..]).envs(variables.iter().map(|(key, value)| (key, value)));
        if group != Group::Shared {
            started.process_group(0);
        }
        let prepare = move || {
            set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have ended before the death signal was set; then the signal never comes.
            if getppid() != parent {
                return Err(nix::Error::ESRCH.into());
            }
            if group == Group::OwnWithTerminal {
                terminal::give_to(getpid())?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec, only async-signal-safe functions may be called. `prepare` makes
        // plain system calls (prctl, getppid, getpid, the signal mask, tcsetpgrp), allocates nothing and
        // takes no lock. There is no safe API that makes the kernel kill the command with its parent.
        let spawned = unsafe { started.pre_exec(prepare) }.spawn()?;
        let id = Pid::from_raw(spawned.id().cast_signed());
        if group == Group::OwnWithTerminal {
            // Parent and child both do it, so that neither has to wait for the other.
            let _ = terminal::give_to(id);
        }
        Ok(Child { id, group })
    }

    /// Returns what has happened to the command. Called after every SIGCHLD.
    pub(crate) fn poll_state(&self) -> std::io::Result<State> {
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
        Ok(match waitpid(self.id, Some(flags))? {
            WaitStatus::Exited(_, code) => State::Ended(ExitStatus::from_raw(code << 8)),
            WaitStatus::Signaled(_, signal, _) => State::Ended(ExitStatus::from_raw(signal as i32)),
            WaitStatus::Stopped(..) => State::Stopped,
            _ => State::Same,
        })
    }

    /// Passes on a signal that this program received. In a shared group, signals of the keyboard reach the
    /// command without it.
    pub(crate) fn pass_on(&self, signal: Signal) {
        let from_keyboard = matches!(signal, Signal::SIGINT | Signal::SIGQUIT | Signal::SIGWINCH);
        if self.group != Group::Shared || !from_keyboard {
            self.send(signal);
        }
    }

    /// Sends a signal to the command and, if the command has its own group, to the other processes of that
    /// group.
    pub(crate) fn send(&self, signal: Signal) {
        // Fails when the processes have ended, which is no error.
        let _ = match self.group {
            Group::Shared => kill(self.id, signal),
            Group::Own | Group::OwnWithTerminal => killpg(self.id, signal),
        };
    }

    /// Sends a signal to the processes that the command started, when the command itself has ended.
    pub(crate) fn send_to_group(&self, signal: Signal) {
        if self.group != Group::Shared {
            self.send(signal);
        }
    }

    /// Stops this program's job too, after the terminal has stopped the command's.
    pub(crate) fn stop_along(&self) {
        if self.group == Group::OwnWithTerminal {
            terminal::stop_with(self.id);
        }
    }

    /// Takes the terminal back when the command has ended.
    pub(crate) fn give_up_terminal(&self) {
        if self.group == Group::OwnWithTerminal {
            terminal::take_back();
        }
    }
}
