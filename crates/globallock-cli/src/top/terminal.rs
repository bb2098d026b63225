//! The terminal: how it is taken over, given back whatever happens, and what comes from it.

use std::io::{Error, Result, stdin};
use std::os::fd::AsFd;
use std::panic;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{Pid, read};
use ratatui::backend::CrosstermBackend;
use ratatui::{Frame, Terminal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use super::keys::{Key, Keys};
use super::output::Output;
use crate::signals;

/// The other screen, without a cursor, on which a pasted text is marked as such.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?2004h\x1b[?25l\x1b[H\x1b[2J";
const LEAVE: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?2004l\x1b[?1049l";

/// How long the rest of a key may take to come, such as over a slow network.
const REST_OF_KEY: Duration = Duration::from_millis(100);
/// How long a terminal that takes nothing is waited for when it is given back.
const PATIENCE: Duration = Duration::from_secs(1);

/// The terminal while it is taken over: how it was before, and the way to it.
static TAKEN: Mutex<Option<(Termios, Output)>> = Mutex::new(None);

/// Takes the terminal over: keys come at once and are not echoed.
fn enter(output: &Output) -> Result<()> {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = match &*taken {
        Some((before, _)) => before.clone(),
        None => tcgetattr(stdin())?,
    };
    let mut raw = before.clone();
    *taken = Some((before, output.clone()));
    cfmakeraw(&mut raw);
    // A read returns at once if there is nothing.
    raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 0;
    raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
    tcsetattr(stdin(), SetArg::TCSANOW, &raw)?;
    output.send(ENTER);
    Ok(())
}

/// Gives the terminal back, if it is taken over. A terminal that is gone needs nothing.
fn leave() {
    let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((before, output)) = taken {
        output.send(LEAVE);
        output.wait(PATIENCE);
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &before);
    }
}

/// Sees to it that a panic is told on the terminal as it was before.
fn give_back_at_panics() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        leave();
        tell(panic);
    }));
}

/// What comes from outside.
#[derive(Debug)]
pub(super) enum Event {
    Keys(Vec<Key>),
    Resized,
    /// The job was stopped and goes on.
    Continued,
    /// Somebody asks this process to stop.
    Stop,
    /// This process is to end by this signal.
    End(Signal),
}

/// Blocks the signals that are read as events, so that they wait until they are. To be called before there
/// are other threads, which inherit that.
pub(super) fn block_signals() -> Result<SigSet> {
    let others = [Signal::SIGWINCH, Signal::SIGCONT, Signal::SIGTSTP];
    let read: SigSet = signals::requests_to_end().chain(others).collect();
    read.thread_block()?;
    Ok(read)
}

/// The terminal while it is taken over. It is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Output>>,
    output: Output,
}

/// The keyboard and the signals, read by a thread of their own, each time that an event is asked for: what is
/// typed after the last one was taken is for the next program.
#[derive(Debug)]
pub(super) struct Events {
    next: Sender<()>,
    come: UnboundedReceiver<Result<Come>>,
    is_asked: bool,
    keys: Keys,
    /// When the bytes of an unfinished key count as all of it.
    rest_due: Option<Instant>,
}

/// What a read has brought.
#[derive(Debug)]
enum Come {
    Bytes(Vec<u8>),
    Signal(Signal),
    /// The terminal is gone.
    HungUp,
}

impl Screen {
    pub(super) fn enter() -> Result<Self> {
        give_back_at_panics();
        let output = Output::start()?;
        // From here on, whatever fails gives it back.
        let entered = enter(&output);
        let terminal = entered.and_then(|()| Terminal::new(CrosstermBackend::new(output.clone())));
        terminal.map(|terminal| Screen { terminal, output }).inspect_err(|_| leave())
    }

    /// Its columns and lines.
    pub(super) fn size(&self) -> Result<(u16, u16)> {
        let size = self.terminal.size()?;
        Ok((size.width, size.height))
    }

    /// Draws what has changed. Returns false if the terminal has not taken what was drawn before: then it is
    /// to be drawn later.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> Result<bool> {
        if !self.output.is_idle()? {
            return Ok(false);
        }
        self.terminal.draw(draw)?;
        self.output.send_drawn();
        Ok(true)
    }

    /// Waits until the terminal may have taken what was drawn.
    pub(super) fn idle(&self) -> impl Future<Output = ()> + use<> {
        let output = self.output.clone();
        async move { output.idle().await }
    }

    /// Draws everything anew from now on.
    pub(super) fn forget(&mut self) -> Result<()> {
        // Not `clear`, which asks the terminal where its cursor is, and waits for the answer.
        let size = self.terminal.size()?;
        self.terminal.resize(size.into())
    }

    /// Takes the terminal over once more, because somebody else had it.
    pub(super) fn enter_again(&mut self) -> Result<()> {
        enter(&self.output)?;
        self.forget()
    }

    /// Gives the terminal back, and stops this process, or its whole job, until it is continued.
    ///
    /// Where nobody could continue it, such as in a window of its own, the kernel does not stop it.
    pub(super) fn stop(&mut self, whole_job: bool) -> Result<()> {
        leave();
        if whole_job {
            kill(Pid::from_raw(0), Signal::SIGTSTP)?;
        } else {
            raise(Signal::SIGTSTP)?;
        }
        let stop = SigSet::from(Signal::SIGTSTP);
        stop.thread_unblock()?;
        stop.thread_block()?;
        self.enter_again()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

impl Events {
    /// Begins to read the keyboard, and these signals, which are blocked.
    pub(super) fn new(signals: &SigSet) -> Result<Self> {
        let signals = SignalFd::with_flags(signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let (next, asked) = channel();
        let (sender, come) = unbounded_channel();
        std::thread::Builder::new()
            .name("terminal".to_owned())
            .spawn(move || while asked.recv().is_ok() && sender.send(read_one(&signals)).is_ok() {})?;
        Ok(Events { next, come, is_asked: false, keys: Keys::default(), rest_due: None })
    }

    /// Waits for the next event.
    ///
    /// # Cancel safety
    /// No event is lost.
    pub(super) async fn next(&mut self) -> Result<Event> {
        loop {
            if !std::mem::replace(&mut self.is_asked, true) {
                self.next.send(()).map_err(Error::other)?;
            }
            let come = tokio::select! {
                biased;
                come = self.come.recv() => come,
                // By the moment of the last byte: everything else that happens begins a new wait here.
                () = sleep_until(self.rest_due.unwrap_or_else(Instant::now)), if self.rest_due.is_some() => {
                    self.rest_due = None;
                    return Ok(Event::Keys(self.keys.finish()));
                }
            };
            self.is_asked = false;
            let event = match come.ok_or_else(|| Error::other("the keyboard is not read any more"))?? {
                Come::Bytes(bytes) => {
                    let keys = self.keys.feed(&bytes);
                    self.rest_due = self.keys.is_unfinished().then(|| Instant::now() + REST_OF_KEY);
                    Some(Event::Keys(keys))
                }
                Come::Signal(signal) => event_of(signal),
                // Nobody told this process, because it ignores that signal.
                Come::HungUp => Some(Event::End(Signal::SIGHUP)),
            };
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }
}

fn event_of(signal: Signal) -> Option<Event> {
    match signal {
        Signal::SIGWINCH => Some(Event::Resized),
        Signal::SIGCONT => Some(Event::Continued),
        Signal::SIGTSTP => Some(Event::Stop),
        signal => signals::asks_to_end(signal).then_some(Event::End(signal)),
    }
}

/// Waits for a signal or a key.
fn read_one(signals: &SignalFd) -> Result<Come> {
    let keyboard = stdin();
    let mut bytes = [0; 1024];
    loop {
        let mut both = [signals.as_fd(), keyboard.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut both, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            polled => drop(polled?),
        }
        let [of_signals, of_keyboard] = both.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        // First: what hangs up the terminal is told by a signal, as a rule.
        if !of_signals.is_empty()
            && let Some(signal) = signals.read_signal()?
            && let Ok(signal) = Signal::try_from(signal.ssi_signo.cast_signed())
        {
            return Ok(Come::Signal(signal));
        }
        if of_keyboard.is_empty() {
            continue;
        }
        match read(&keyboard, &mut bytes) {
            Ok(length @ 1..) => return Ok(Come::Bytes(bytes[..length].to_owned())),
            Ok(0) if of_keyboard == PollFlags::POLLIN => {}
            Ok(_) | Err(Errno::EIO) => return Ok(Come::HungUp),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
