//! The way to the terminal: bytes that a thread of their own writes, so that a terminal that takes none, such
//! as one behind a dead connection, keeps nothing else from going on.

use std::io::{Result, Write, stdout};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// Where bytes are handed over. Clones lead to the same terminal.
#[derive(Clone, Debug)]
pub(super) struct Output {
    shared: Arc<Shared>,
    next: Sender<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    written: Condvar,
    /// Tells the same to tasks.
    idle: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// What has been drawn, and is not handed over yet.
    drawn: Vec<u8>,
    /// How many pieces are on their way.
    left: usize,
    failure: Option<std::io::Error>,
}

impl Output {
    /// Begins to write to standard output.
    pub(super) fn start() -> Result<Self> {
        Output::to(stdout())
    }

    fn to(mut writer: impl Write + Send + 'static) -> Result<Self> {
        let (next, pieces) = channel::<Vec<u8>>();
        let shared = Arc::<Shared>::default();
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new().name("screen".to_owned()).spawn(move || {
            for piece in pieces {
                let written = writer.write_all(&piece).and_then(|()| writer.flush());
                let mut state = of_thread.state();
                state.left -= 1;
                state.failure = state.failure.take().or(written.err());
                drop(state);
                of_thread.written.notify_all();
                of_thread.idle.notify_one();
            }
        })?;
        Ok(Output { shared, next })
    }

    /// Hands bytes over, behind those before.
    pub(super) fn send(&self, bytes: &[u8]) {
        self.shared.state().left += 1;
        // The thread ends with the last sender.
        let _ = self.next.send(bytes.to_owned());
    }

    /// Hands over what was drawn.
    pub(super) fn send_drawn(&self) {
        let drawn = std::mem::take(&mut self.shared.state().drawn);
        if !drawn.is_empty() {
            self.send(&drawn);
        }
    }

    /// Whether everything that was handed over is written.
    ///
    /// # Errors
    /// As the terminal failed.
    pub(super) fn is_idle(&self) -> Result<bool> {
        let mut state = self.shared.state();
        state.failure.take().map_or(Ok(state.left == 0), Err)
    }

    /// Waits until that may have become so.
    pub(super) async fn idle(&self) {
        self.shared.idle.notified().await;
    }

    /// Waits at most so long until everything is written.
    pub(super) fn wait(&self, limit: Duration) {
        let state = self.shared.state();
        let _ = self.shared.written.wait_timeout_while(state, limit, |state| state.left > 0);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what is drawn. It is handed over as a whole, not at each flush.
impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.shared.state().drawn.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, pipe};

    use super::*;

    #[test]
    fn what_is_drawn_arrives_in_order_once_it_is_handed_over() {
        let (mut reader, writer) = pipe().unwrap();
        let mut output = Output::to(writer).unwrap();
        output.write_all(b"two").unwrap();
        output.flush().unwrap();
        output.send(b"one ");
        output.send_drawn();
        output.send_drawn();
        output.wait(Duration::from_secs(30));
        assert!(output.is_idle().unwrap());
        drop(output);
        let mut written = String::new();
        std::io::Read::read_to_string(&mut reader, &mut written).unwrap();
        assert_eq!(written, "one two");
    }

    #[test]
    fn a_terminal_that_takes_nothing_is_waited_for_only_so_long() {
        let (reader, writer) = pipe().unwrap();
        let output = Output::to(writer).unwrap();
        output.send(&[b'x'; 1 << 20]);
        output.wait(Duration::from_millis(20));
        assert!(!output.is_idle().unwrap());
        // It fails once nobody can read it any more, and that is told once.
        drop(reader);
        output.wait(Duration::from_secs(30));
        let failure: Error = output.is_idle().unwrap_err();
        assert_eq!(failure.kind(), std::io::ErrorKind::BrokenPipe);
        assert!(output.is_idle().unwrap());
    }
}
