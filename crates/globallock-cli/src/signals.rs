//! The signals that this program handles.

use std::io::Result;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

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
