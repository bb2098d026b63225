//! What the guardian knows of the other processes, and does with them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Result;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use globallock::backend::Instant;
use globallock::internals::sleep_until_some;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::sleep;

use super::messages::{FromFront, FromStarter, Message, SIZE, ToFront, ToStarter, send, to_signal};
use super::{End, descriptors, tree};
use crate::signals::{Signals, asks_to_end, stops};

/// Who sends a signal to all processes of a session sends it to one after the other. This is how much later
/// than the front the starter may receive it.
const ONE_AFTER_THE_OTHER: Duration = Duration::from_millis(10);

/// For how long the command was stopped or continued by a signal that is being handed on.
const JUST_NOW: Duration = Duration::from_secs(1);

/// The other processes of the run, before there is a runtime.
pub(crate) struct Guardian {
    front: (Pid, UnixStream),
    starter: (Pid, UnixStream),
    signals: Signals,
    address: Option<File>,
}

/// The other processes of the run.
pub(crate) struct Processes {
    front: Pid,
    to_front: UnixStream,
    front_is_stopped: bool,
    starter: Pid,
    to_starter: UnixStream,
    /// The starter was told to start the command.
    started: bool,
    command: Option<Pid>,
    /// When the command was stopped and continued for the last time.
    stopped: Option<Instant>,
    continued: Option<Instant>,
    /// The signals that the front has received, oldest first, and when to ask the starter whether the whole
    /// group has.
    to_ask: VecDeque<(Instant, Signal)>,
    /// The signals that the starter was asked for.
    asked: VecDeque<Signal>,
    told: UnboundedReceiver<Told>,
    _handled: Vec<unix::Signal>,
    /// The command reads it.
    _address: Option<File>,
}

/// What has happened to the other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The front was asked to end before the command was started.
    Signal(Signal),
    /// The front was continued before the command was started.
    Resumed,
    /// The front is dead.
    FrontGone,
    /// The command could not be started, by this error of the system.
    Failed(i32),
    /// The command has ended.
    Ended(ExitStatus),
    /// The starter has ended: after the command and all that it has started, or it was killed.
    StarterGone,
}

#[derive(Clone, Copy)]
enum Told {
    Front(FromFront),
    FrontGone,
    Starter(FromStarter),
    StarterGone,
}

impl Guardian {
    pub(super) fn new(
        front: (Pid, UnixStream),
        starter: (Pid, UnixStream),
        signals: Signals,
        address: Option<File>,
    ) -> Self {
        Guardian { front, starter, signals, address }
    }

    /// Begins to listen to the other processes. To be called in the runtime.
    pub(crate) fn listen(self) -> Result<Processes> {
        // Whoever signals all processes of a unit means the command, and the front hands it on. What is
        // handled rather than blocked or ignored is not inherited by the programs that the library starts.
        let handled = self.signals.handled.iter();
        let handled = handled.map(|signal| unix::signal(SignalKind::from_raw(signal as i32)));
        let handled = handled.collect::<Result<Vec<_>>>()?;
        self.signals.restore()?;
        let (later, told) = unbounded_channel();
        let ((front, of_front), (starter, of_starter)) = (self.front, self.starter);
        let [to_front, to_starter] = [of_front.try_clone()?, of_starter.try_clone()?];
        read(of_front, later.clone(), |bytes| FromFront::decode(bytes).map(Told::Front), Told::FrontGone)?;
        let starter_told = |bytes| FromStarter::decode(bytes).map(Told::Starter);
        read(of_starter, later, starter_told, Told::StarterGone)?;
        Ok(Processes {
            front,
            to_front,
            front_is_stopped: false,
            starter,
            to_starter,
            started: false,
            command: None,
            stopped: None,
            continued: None,
            to_ask: VecDeque::new(),
            asked: VecDeque::new(),
            told,
            _handled: handled,
            _address: self.address,
        })
    }
}

/// Reads the messages of another process, and at last tells that it has ended.
fn read(
    socket: UnixStream,
    to: UnboundedSender<Told>,
    decode: impl Fn([u8; SIZE]) -> Option<Told> + Send + 'static,
    gone: Told,
) -> Result<()> {
    socket.set_nonblocking(true)?;
    let mut socket = tokio::net::UnixStream::from_std(socket)?;
    tokio::spawn(async move {
        let mut bytes = [0; SIZE];
        while socket.read_exact(&mut bytes).await.is_ok() {
            if let Some(told) = decode(bytes) {
                let _ = to.send(told);
            }
        }
        let _ = to.send(gone);
    });
    Ok(())
}

impl Processes {
    /// Waits for the next event that concerns the lock. Signals are handed on meanwhile.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            // Nothing can be handed on to a command whose id is not known yet.
            let ask_at = self.command.and_then(|_| self.to_ask.front()).map(|(at, _)| *at);
            tokio::select! {
                told = self.told.recv() => {
                    // Both readers end by a message of their own.
                    let event = told.map_or(Some(Event::StarterGone), |told| self.hear(told));
                    if let Some(event) = event {
                        return event;
                    }
                }
                () = sleep_until_some(ask_at) => self.ask(),
            }
        }
    }

    /// Asks the starter whether the group has received the next signal of the front.
    fn ask(&mut self) {
        let Some((_, signal)) = self.to_ask.pop_front() else { return };
        // The kernel drops a signal that stops or continues when one that does the contrary comes before it
        // was received, so the starter may know nothing of it. But the command has just done what it says.
        let done = match signal {
            Signal::SIGCONT => self.continued,
            _ if stops(signal) => self.stopped,
            _ => None,
        };
        if done.is_none_or(|done| done.elapsed() > JUST_NOW) {
            self.asked.push_back(signal);
            send(&self.to_starter, ToStarter::Heard(signal as i64));
        }
    }

    fn hear(&mut self, told: Told) -> Option<Event> {
        match told {
            Told::FrontGone => return Some(Event::FrontGone),
            Told::StarterGone => return Some(Event::StarterGone),
            Told::Front(FromFront::Signal(number)) => return self.signal(to_signal(number)?),
            Told::Starter(told) => match told {
                FromStarter::Started(id) => self.command = i32::try_from(id).ok().map(Pid::from_raw),
                FromStarter::Failed(error) => return Some(Event::Failed(i32::try_from(error).unwrap_or(0))),
                FromStarter::Ended(status) => {
                    let status = ExitStatus::from_raw(i32::try_from(status).unwrap_or(-1));
                    return Some(Event::Ended(status));
                }
                FromStarter::Stopped(_) => {
                    self.stopped = Some(Instant::now());
                    self.stop_front();
                }
                FromStarter::Continued(_) => {
                    self.continued = Some(Instant::now());
                    self.continue_front();
                }
                FromStarter::Heard(heard) => {
                    let signal = self.asked.pop_front()?;
                    if heard == 0 {
                        self.hand_on(signal);
                    }
                }
            },
        }
        None
    }

    /// The front has received a signal.
    fn signal(&mut self, signal: Signal) -> Option<Event> {
        if signal == Signal::SIGCONT {
            self.front_is_stopped = false;
        }
        if self.started {
            // The command has it already if it was sent to the group.
            self.to_ask.push_back((Instant::now() + ONE_AFTER_THE_OTHER, signal));
            return None;
        }
        match signal {
            Signal::SIGCONT => Some(Event::Resumed),
            _ if asks_to_end(signal) => Some(Event::Signal(signal)),
            _ if stops(signal) => {
                self.stop_front();
                None
            }
            _ => None,
        }
    }

    /// Hands on what was sent to the front alone. A request to end is for all that the command has started.
    fn hand_on(&self, signal: Signal) {
        if asks_to_end(signal) {
            self.send_to_all(signal);
        } else if let Some(command) = self.command {
            tree::signal(&[command], signal);
        }
    }

    /// Stops the front, so that the shell sees that its job has stopped.
    fn stop_front(&mut self) {
        self.front_is_stopped = true;
        send(&self.to_front, ToFront::Stop(self.command.map_or(0, |command| i64::from(command.as_raw()))));
    }

    fn continue_front(&mut self) {
        self.front_is_stopped = false;
        // Only if nobody else has: a second signal would continue it when it has been stopped again. A front
        // that is dead may have lost its number to another process.
        if getppid() == self.front && tree::is_stopped(self.front) {
            let _ = kill(self.front, Signal::SIGCONT);
        }
    }

    /// The process that users know.
    pub(crate) fn front_id(&self) -> u32 {
        self.front.as_raw().cast_unsigned()
    }

    /// Whether the front is stopped, and with it the job that the command would be part of.
    pub(crate) fn is_stopped(&self) -> bool {
        self.front_is_stopped || tree::is_stopped(self.front)
    }

    /// Lets the starter start the command, with this fencing token.
    pub(crate) fn start(&mut self, fencing_token: u64) {
        self.started = true;
        send(&self.to_starter, ToStarter::Start(fencing_token.cast_signed()));
    }

    /// Sends a signal to the command and all that it has started.
    pub(crate) fn send_to_all(&self, signal: Signal) {
        tree::signal(&tree::below(self.starter), signal);
    }

    /// What the command has left, for people: the names of its processes.
    pub(crate) fn left(&self) -> Vec<String> {
        let left = tree::below(self.starter);
        left.into_iter().filter_map(|id| Some(format!("{} {id}", tree::name(id)?))).collect()
    }

    /// Whether the starter ended by itself, which it does when nothing of the command is left.
    pub(crate) fn starter_is_done(&self) -> bool {
        matches!(waitpid(self.starter, None), Ok(WaitStatus::Exited(_, 0)))
    }

    /// Kills the command and all that it has started, and returns when nothing of it is left.
    pub(crate) async fn end_all(&self) {
        // The starter too: what it has adopted is this process's then. What is in this process's own session
        // was started by the library, such as a password command.
        while let Some(again) = tree::kill_all_below(Some(getpid())) {
            sleep(again).await;
        }
    }

    /// Says to the front how to end, and lets it end. `stays`: this process goes on without it.
    pub(crate) fn end_front(&mut self, end: End, stays: bool) {
        if stays {
            send(&self.to_front, ToFront::Stays(0));
            // Whoever reads what the command says waits for the command, and not for what it has left.
            descriptors::close_errors();
        }
        send(
            &self.to_front,
            match end {
                End::Exit(status) => ToFront::Exit(i64::from(status)),
                End::Died(signal) => ToFront::Died(signal as i64),
            },
        );
        self.continue_front();
    }

    /// Whether the front is the first process of a container, with which all others end.
    pub(crate) fn front_is_first(&self) -> bool {
        self.front == Pid::from_raw(1)
    }
}
