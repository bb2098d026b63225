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
use nix::unistd::{Pid, getpgid, getpid, getppid};
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

/// How long a signal that stops may be on its way to the front after the command was stopped by it.
const ON_ITS_WAY: Duration = Duration::from_millis(200);

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
    /// The signals that the front has received, oldest first, of which the starter is still to be asked
    /// whether the whole group has.
    to_ask: VecDeque<Received>,
    /// The signals that the starter was asked for; none where one came later that says the contrary.
    asked: VecDeque<Option<Received>>,
    told: UnboundedReceiver<Told>,
    _handled: Vec<unix::Signal>,
    /// The command reads it.
    _address: Option<File>,
}

/// A signal that the front has received.
#[derive(Clone, Copy)]
struct Received {
    signal: Signal,
    at: Instant,
    ask_at: Instant,
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
            let ask_at = self.command.and_then(|_| self.to_ask.front()).map(|next| next.ask_at);
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
        let Some(received) = self.to_ask.pop_front() else { return };
        let signal = received.signal;
        // The kernel drops a signal that stops or continues when one that does the contrary comes before it
        // was received, so the starter may know nothing of it. But the command has just done what it says.
        let done = match signal {
            Signal::SIGCONT => self.continued,
            _ if stops(signal) => self.stopped,
            _ => None,
        };
        if done.is_none_or(|done| done.elapsed() > JUST_NOW) {
            self.asked.push_back(Some(received));
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
                    let received = self.asked.pop_front()??;
                    if heard == 0 {
                        self.not_heard(received);
                    } else if asks_to_end(received.signal) {
                        self.reach_the_command(received.signal);
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
            self.forget_the_contrary_of(signal);
            let at = Instant::now();
            self.to_ask.push_back(Received { signal, at, ask_at: at + ONE_AFTER_THE_OTHER });
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

    /// Forgets that the command was to be continued when it is to be stopped now, and the other way round, as
    /// the kernel does with signals that wait.
    ///
    /// A Ctrl-Z just after `fg` would be undone otherwise, because a starter that is slow never hears of the
    /// `fg`.
    fn forget_the_contrary_of(&mut self, signal: Signal) {
        let is_contrary = |received: &Received| match received.signal {
            Signal::SIGCONT => stops(signal),
            earlier => stops(earlier) && signal == Signal::SIGCONT,
        };
        self.to_ask.retain(|received| !is_contrary(received));
        for asked in &mut self.asked {
            *asked = asked.filter(|received| !is_contrary(received));
        }
    }

    /// The group has not received what the front has.
    fn not_heard(&mut self, received: Received) {
        let Received { signal, at, ask_at } = received;
        let was_stopped = signal == Signal::SIGCONT && self.stopped.is_some_and(|stopped| stopped > at);
        if was_stopped && ask_at - at < ON_ITS_WAY {
            // Perhaps by what the front is about to tell of.
            self.to_ask.push_back(Received { ask_at: at + ON_ITS_WAY, ..received });
        } else {
            self.hand_on(signal);
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

    /// The group has received a request to end, it seems. But who looks for processes by their words, as
    /// `pkill -f 'globallock run'` does, finds the front and the starter and not the command. What the signal
    /// would have ended, had it come, gets it: no process can tell that it came twice.
    fn reach_the_command(&self, signal: Signal) {
        if let Ok(group) = getpgid(Some(self.front)) {
            tree::signal(&tree::not_ended_by(signal, self.starter, group), signal);
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

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use nix::sys::signal::SigSet;

    use super::*;
    use crate::processes::messages::receive;
    use crate::signals;

    /// What a guardian sees of the others: their ends of the sockets, and a command that is stopped.
    struct Others {
        front: UnixStream,
        starter: UnixStream,
        command: Child,
    }

    impl Others {
        fn new() -> (Self, Processes) {
            let command = Command::new("sleep").arg("1000").spawn().unwrap();
            let id = Pid::from_raw(command.id().cast_signed());
            let (front, of_front) = UnixStream::pair().unwrap();
            let (starter, of_starter) = UnixStream::pair().unwrap();
            // Handlers would stay in the process of these tests.
            let signals = Signals { handled: SigSet::empty(), ..signals::block().unwrap() };
            let mut processes =
                Guardian::new((getppid(), of_front), (id, of_starter), signals, None).listen().unwrap();
            processes.start(7);
            let others = Others { front, starter, command };
            assert_eq!(receive(&others.starter).unwrap(), Some(ToStarter::Start(7)));
            send(&others.starter, FromStarter::Started(i64::from(id.as_raw())));
            kill(id, Signal::SIGSTOP).unwrap();
            (others, processes)
        }

        fn signal(&self, signal: Signal) {
            send(&self.front, FromFront::Signal(signal as i64));
        }

        fn is_stopped(&self) -> bool {
            tree::is_stopped(Pid::from_raw(self.command.id().cast_signed()))
        }
    }

    impl Drop for Others {
        fn drop(&mut self) {
            let _ = self.command.kill();
            let _ = self.command.wait();
        }
    }

    /// Lets a guardian work until the starter is asked for a signal.
    async fn asked(others: &Others, processes: &mut Processes) -> Signal {
        let starter = others.starter.try_clone().unwrap();
        let asked = tokio::task::spawn_blocking(move || receive(&starter).unwrap());
        tokio::select! {
            event = processes.next() => panic!("{event:?}"),
            asked = asked => match asked.unwrap() {
                Some(ToStarter::Heard(signal)) => to_signal(signal).unwrap(),
                told => panic!("{told:?}"),
            },
        }
    }

    fn in_time(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), test).await.unwrap() });
    }

    #[test]
    fn a_job_that_is_stopped_just_after_it_was_continued_is_not_continued_again() {
        in_time(async {
            let (others, mut processes) = Others::new();
            others.signal(Signal::SIGCONT);
            others.signal(Signal::SIGTSTP);
            assert_eq!(asked(&others, &mut processes).await, Signal::SIGTSTP, "it came later");
            send(&others.starter, FromStarter::Heard(1));
            // The front is slow to tell that it was stopped.
            others.signal(Signal::SIGCONT);
            assert_eq!(asked(&others, &mut processes).await, Signal::SIGCONT);
            send(&others.starter, FromStarter::Stopped(Signal::SIGTSTP as i64));
            send(&others.starter, FromStarter::Heard(0));
            assert_eq!(asked(&others, &mut processes).await, Signal::SIGCONT, "it is asked for again");
            others.signal(Signal::SIGTSTP);
            for after in [Signal::SIGUSR1, Signal::SIGUSR2] {
                others.signal(after);
                assert_eq!(asked(&others, &mut processes).await, after);
                // That to continue was not heard, and the other was.
                send(&others.starter, FromStarter::Heard(0));
                send(&others.starter, FromStarter::Heard(1));
            }
            assert!(others.is_stopped());
        });
    }

    #[test]
    fn a_signal_to_continue_that_the_front_alone_has_received_is_handed_on() {
        in_time(async {
            let (others, mut processes) = Others::new();
            for stopped_meanwhile in [false, true] {
                others.signal(Signal::SIGCONT);
                assert_eq!(asked(&others, &mut processes).await, Signal::SIGCONT);
                if stopped_meanwhile {
                    send(&others.starter, FromStarter::Stopped(Signal::SIGTSTP as i64));
                    send(&others.starter, FromStarter::Heard(0));
                    assert_eq!(asked(&others, &mut processes).await, Signal::SIGCONT);
                }
                send(&others.starter, FromStarter::Heard(0));
                others.signal(Signal::SIGUSR1);
                assert_eq!(asked(&others, &mut processes).await, Signal::SIGUSR1);
                send(&others.starter, FromStarter::Heard(1));
                assert!(!others.is_stopped(), "{stopped_meanwhile}");
                kill(Pid::from_raw(others.command.id().cast_signed()), Signal::SIGSTOP).unwrap();
            }
        });
    }
}
