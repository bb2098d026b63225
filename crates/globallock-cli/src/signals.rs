//! The signals that this program handles.

use std::future::poll_fn;
use std::task::Poll;

use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind};

/// The signals that are passed on to the command. The first four also end the wait for the lock.
const PASSED: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// The handlers of the signals.
pub(crate) struct Signals {
    listeners: Vec<(Signal, unix::Signal)>,
    child: unix::Signal,
}

/// A signal that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A signal to pass on.
    Signal(Signal),
    /// SIGCHLD: the command has ended, or was stopped or continued.
    Child,
}

impl Signals {
    /// Installs the handlers. Signals that this program was started to ignore (`nohup`) stay ignored, so that
    /// the command inherits that.
    pub(crate) fn listen() -> std::io::Result<Self> {
        let ignored = ignored();
        let mut listeners = Vec::new();
        for signal in PASSED.into_iter().filter(|signal| ignored >> (*signal as u32 - 1) & 1 == 0) {
            listeners.push((signal, unix::signal(SignalKind::from_raw(signal as i32))?));
        }
        Ok(Signals { listeners, child: unix::signal(SignalKind::child())? })
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) -> Event {
        poll_fn(|context| {
            if self.child.poll_recv(context).is_ready() {
                return Poll::Ready(Event::Child);
            }
            for (signal, listener) in &mut self.listeners {
                if listener.poll_recv(context).is_ready() {
                    return Poll::Ready(Event::Signal(*signal));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Waits for a signal that ends the wait for the lock.
    pub(crate) async fn end(&mut self) -> Signal {
        loop {
            match self.next().await {
                Event::Signal(signal) if PASSED[..4].contains(&signal) => return signal,
                Event::Signal(_) | Event::Child => {}
            }
        }
    }
}

/// The set of ignored signals, in the kernel's form: the lowest bit is signal 1.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
}
