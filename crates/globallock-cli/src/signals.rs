//! The signals that this program handles.

use std::io::Result;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::exit;

/// The signals that the front hands on.
const HANDED_ON: [Signal; 12] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGWINCH,
    Signal::SIGCONT,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// Whether a signal asks its receiver to end.
pub(crate) fn asks_to_end(signal: Signal) -> bool {
    matches!(signal, Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT)
}

/// Whether a signal stops its receiver.
pub(crate) fn stops(signal: Signal) -> bool {
    matches!(signal, Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU)
}

/// The signals that ask this process to end, without those that it was started to ignore.
pub(crate) fn requests_to_end() -> impl Iterator<Item = Signal> {
    let ignored = ignored();
    HANDED_ON
        .into_iter()
        .filter(move |signal| asks_to_end(*signal) && ignored >> (*signal as u32 - 1) & 1 == 0)
}

/// Tells of each request to end as it comes, from now on. To be called in a runtime.
pub(crate) fn tell_requests(tell: impl Fn(Signal) + Clone + Send + 'static) -> Result<()> {
    for signal in requests_to_end() {
        let (mut received, tell) = (unix::signal(SignalKind::from_raw(signal as i32))?, tell.clone());
        tokio::spawn(async move {
            while received.recv().await.is_some() {
                tell(signal);
            }
        });
    }
    Ok(())
}

/// The requests to end, as they come.
pub(crate) struct Requests(UnboundedReceiver<Signal>);

impl Requests {
    /// Begins to listen. To be called in a runtime.
    pub(crate) fn listen() -> Result<Self> {
        let (sender, receiver) = unbounded_channel();
        tell_requests(move |signal| {
            let _ = sender.send(signal);
        })?;
        Ok(Requests(receiver))
    }

    /// Waits for the next request, for ever if this program was started to ignore all of them.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}

/// The requests to end of a process that ends by them at once, but for times in which it has something to
/// finish first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deferrable(Arc<Mutex<Option<UnboundedSender<Signal>>>>);

/// A time in which a request to end is told instead.
#[derive(Debug)]
pub(crate) struct Deferred {
    of: Deferrable,
    received: UnboundedReceiver<Signal>,
}

impl Deferrable {
    /// Begins to listen, on a thread of its own. To be called before there are other threads, which inherit
    /// that the signals are blocked.
    pub(crate) fn listen() -> Result<Self> {
        let signals: SigSet = requests_to_end().collect();
        signals.thread_block()?;
        let requests = Deferrable::default();
        let told = requests.clone();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            while let Ok(signal) = signals.wait() {
                let deferred = told.sender();
                if deferred.as_ref().is_none_or(|sender| sender.send(signal).is_err()) {
                    die_of(signal);
                }
            }
        })?;
        Ok(requests)
    }

    /// From now on a request is told.
    pub(crate) fn defer(&self) -> Deferred {
        let (sender, received) = unbounded_channel();
        *self.sender() = Some(sender);
        Deferred { of: self.clone(), received }
    }

    fn sender(&self) -> MutexGuard<'_, Option<UnboundedSender<Signal>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deferred {
    /// Waits for the next request.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) -> Signal {
        match self.received.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }

    /// From now on a request ends this process again. Returns one that has come and was not told.
    pub(crate) fn end(mut self) -> Option<Signal> {
        // Whoever holds this sends nothing meanwhile.
        let mut sender = self.of.sender();
        *sender = None;
        self.received.try_recv().ok()
    }
}

/// Ends this process by a signal that it has blocked, so that a shell stops its script at a Ctrl-C that was
/// sent to all. Returns where no signal can end it, as in the first process of a container.
pub(crate) fn die_of(signal: Signal) -> ExitCode {
    // A dump of this process would be of no use.
    let _ = prctl::set_dumpable(false);
    let _ = raise(signal);
    let _ = SigSet::from(signal).thread_unblock();
    exit::code(exit::of_signal(signal as i32))
}

/// The signals of this process while it runs a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signals {
    /// Those that are handed on, and SIGCHLD.
    pub(crate) handled: SigSet,
    /// Those that were blocked when this program was started.
    pub(crate) before: SigSet,
}

/// Blocks the signals that are handed on, and SIGCHLD, so that they wait until they are read.
///
/// Signals that this program was started to ignore (`nohup`) are left alone, so that the command inherits
/// that.
pub(crate) fn block() -> Result<Signals> {
    let ignored = ignored();
    let mut handled: SigSet =
        HANDED_ON.into_iter().filter(|signal| ignored >> (*signal as u32 - 1) & 1 == 0).collect();
    handled.add(Signal::SIGCHLD);
    let before = handled.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    Ok(Signals { handled, before })
}

impl Signals {
    /// A descriptor that the signals are read from.
    pub(crate) fn descriptor(&self) -> Result<SignalFd> {
        Ok(SignalFd::with_flags(&self.handled, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
    }

    /// Blocks only what was blocked when this program was started. Async-signal-safe.
    pub(crate) fn restore(&self) -> nix::Result<()> {
        self.before.thread_set_mask()
    }
}

/// The set of ignored signals, in the kernel's form: the lowest bit is signal 1.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
}
