//! The process that starts the command, adopts what the command leaves, and hears what is sent to the group.

use std::collections::BTreeMap;
use std::io::Result;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::WaitStatus;
use nix::unistd::{Pid, getpid, getppid};

use super::descriptors::{self, Standard};
use super::messages::{FromStarter, ToStarter, receive, send, to_signal};
use super::{readable, tree};
use crate::nested;
use crate::signals::Signals;

/// Two signals with one number, one to the front and one to this process, were sent together if no more time
/// than this lies between them. Processes wait for their turn, so it is much longer than that takes.
const TOGETHER: Duration = Duration::from_secs(1);

struct Starter {
    socket: UnixStream,
    signals: SignalFd,
    heard: Heard,
    command: Option<Pid>,
    /// The command has ended.
    ended: bool,
}

/// The signals that have reached this process, which is in the group for that.
#[derive(Default)]
struct Heard {
    came: BTreeMap<Signal, Instant>,
    /// The guardian was told that these have not come, and has handed them on.
    denied: BTreeMap<Signal, Instant>,
}

impl Heard {
    fn hear(&mut self, signal: Signal, now: Instant) {
        // One that comes late must not be taken for the next one.
        let late = self.denied.remove(&signal).is_some_and(|denied| now - denied < TOGETHER);
        if !late {
            self.came.insert(signal, now);
        }
    }

    /// Whether a signal that the front has received has come here too.
    fn answer(&mut self, signal: Signal, now: Instant) -> bool {
        let came = self.came.remove(&signal).is_some_and(|came| now - came < TOGETHER);
        if !came {
            self.denied.insert(signal, now);
        }
        came
    }
}

/// Starts the command when the guardian says so, and tells what becomes of it. Returns when the command and
/// all that it has started have ended.
pub(super) fn main(socket: UnixStream, mut command: Command, front: Pid, inherited: Signals) -> Result<()> {
    let guardian = getppid();
    end_with(guardian)?;
    prctl::set_child_subreaper(true)?;
    prctl::set_name(c"lock-starter")?;
    let signals = inherited.descriptor()?;
    let mut starter = Starter { socket, signals, heard: Heard::default(), command: None, ended: false };
    loop {
        let [told, signalled] = readable(&starter.socket, &starter.signals)?;
        // Signals first: the guardian asks for those that have come.
        if signalled && starter.signals()? {
            return Ok(());
        }
        if told {
            match receive(&starter.socket)? {
                None => return Ok(()),
                Some(ToStarter::Start(token)) => {
                    let token = token.cast_unsigned();
                    command.env("GLOBALLOCK_FENCING_TOKEN", token.to_string());
                    nested::tell(&mut command, token, front);
                    starter.start(&mut command, inherited)?;
                }
                Some(ToStarter::Heard(signal)) => starter.answer(signal),
            }
        }
    }
}

impl Starter {
    fn start(&mut self, command: &mut Command, inherited: Signals) -> Result<()> {
        let starter = getpid();
        let prepare = move || {
            end_with(starter)?;
            Ok(inherited.restore()?)
        };
        // SAFETY: between fork and exec, only async-signal-safe functions may be called. `prepare` makes
        // three system calls, allocates nothing and takes no lock. There is no safe API that makes the kernel
        // kill the command with its parent.
        let spawned = unsafe { command.pre_exec(prepare) }.spawn();
        match spawned {
            Ok(child) => {
                self.command = Some(Pid::from_raw(child.id().cast_signed()));
                send(&self.socket, FromStarter::Started(i64::from(child.id())));
                // What the command closes must look closed from outside.
                descriptors::keep_only(&[&self.socket, &self.signals], Standard::None)
            }
            Err(error) => {
                send(&self.socket, FromStarter::Failed(i64::from(error.raw_os_error().unwrap_or(0))));
                Ok(())
            }
        }
    }

    fn answer(&mut self, signal: i64) {
        let heard = to_signal(signal).is_some_and(|signal| self.heard.answer(signal, Instant::now()));
        send(&self.socket, FromStarter::Heard(i64::from(heard)));
    }

    /// Reads the signals that have come. Returns true when nothing is left to wait for.
    fn signals(&mut self) -> Result<bool> {
        let mut children = false;
        while let Some(signal) = self.signals.read_signal()? {
            match Signal::try_from(signal.ssi_signo.cast_signed()) {
                Ok(Signal::SIGCHLD) => children = true,
                Ok(signal) => self.heard.hear(signal, Instant::now()),
                Err(_) => {}
            }
        }
        if children { self.children() } else { Ok(false) }
    }

    /// Tells what has become of the command. Returns true when it and all that it has started have ended.
    fn children(&mut self) -> Result<bool> {
        let mut ended = None;
        let nothing_left = loop {
            match tree::changed() {
                Ok(WaitStatus::StillAlive) => break false,
                Ok(status) if status.pid() != self.command => {}
                Ok(WaitStatus::Exited(_, code)) => ended = Some(code << 8),
                Ok(WaitStatus::Signaled(_, signal, dumped)) => {
                    ended = Some(signal as i32 | if dumped { 0x80 } else { 0 });
                }
                Ok(WaitStatus::Stopped(_, signal)) => {
                    send(&self.socket, FromStarter::Stopped(signal as i64));
                }
                Ok(WaitStatus::Continued(_)) => send(&self.socket, FromStarter::Continued(0)),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => break true,
                Err(error) => return Err(error.into()),
            }
        };
        if let Some(status) = ended {
            self.ended = true;
            send(&self.socket, FromStarter::Ended(i64::from(status)));
        }
        Ok(self.ended && nothing_left)
    }
}

/// Lets the kernel kill this process when its parent ends. Async-signal-safe.
fn end_with(parent: Pid) -> nix::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have ended before that; then the signal never comes.
    if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_counts_once_and_for_the_one_that_it_came_with() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let at = |seconds| start + second * seconds;
        let mut heard = Heard::default();
        heard.hear(Signal::SIGTERM, at(0));
        assert!(!heard.answer(Signal::SIGINT, at(0)), "another signal");
        assert!(heard.answer(Signal::SIGTERM, at(0)));
        assert!(!heard.answer(Signal::SIGTERM, at(0)), "it has counted");
        heard.hear(Signal::SIGTERM, at(0));
        assert!(!heard.answer(Signal::SIGTERM, at(0)), "it came late, and was denied before");
        heard.hear(Signal::SIGTERM, at(5));
        assert!(heard.answer(Signal::SIGTERM, at(5)), "what was denied is long ago");
        heard.hear(Signal::SIGTERM, at(6));
        assert!(!heard.answer(Signal::SIGTERM, at(9)), "it came long before");
    }
}
