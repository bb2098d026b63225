//! The signals that this program hears.

use std::future::poll_fn;
use std::task::Poll;

use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind};

/// What is passed on to the command, and ends the wait for the lock if it is one of the first four.
const PASSED: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// The signals that are listened to from now on.
pub(crate) struct Signals {
    listeners: Vec<(Signal, unix::Signal)>,
    child: unix::Signal,
}

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// To be passed on.
    Signal(Signal),
    /// The command has ended, stopped or gone on.
    Child,
}

impl Signals {
    /// Begins to listen, but for those that this program was told to ignore, as `nohup` does: the command inherits that.
    pub(crate) fn listen() -> std::io::Result<Self> {
        let ignored = ignored();
        let mut listeners = Vec::new();
        for signal in PASSED.into_iter().filter(|signal| ignored >> (*signal as u32 - 1) & 1 == 0) {
            listeners.push((signal, unix::signal(SignalKind::from_raw(signal as i32))?));
        }
        Ok(Signals { listeners, child: unix::signal(SignalKind::child())? })
    }

    /// Waits for the next.
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

/// The set of signals that are ignored, as the kernel tells it: the lowest bit is signal 1.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
}
