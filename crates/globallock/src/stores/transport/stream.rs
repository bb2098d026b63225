//! A connection, and what it has received first.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::heard::{Heard, LONGEST};

/// A way to read and to write bytes.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Io for T {}

/// A connection. What is received first is kept until [`Heard::stop`].
pub(crate) struct Stream {
    io: Box<dyn Io>,
    heard: Arc<Heard>,
    /// How long the server took to accept the connection.
    connected_in: Duration,
    /// Why a write has failed, while what the server sent before is still to be read.
    failed: Option<io::Error>,
}

impl Stream {
    pub(crate) fn new(io: impl Io + 'static, connected_in: Duration) -> Self {
        Stream { io: Box::new(io), heard: Arc::default(), connected_in, failed: None }
    }

    pub(crate) fn connected_in(&self) -> Duration {
        self.connected_in
    }

    /// What is received first.
    pub(crate) fn heard(&self) -> Arc<Heard> {
        Arc::clone(&self.heard)
    }

    /// Reads what the server sent before it closed the connection, which may be why it did.
    ///
    /// Without this it would be lost: whoever writes learns only that the connection is broken.
    fn read_last_words(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; LONGEST];
        while self.heard.listens() {
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut self.io).poll_read(context, &mut buffer)) {
                Ok(()) if buffer.filled().is_empty() => break,
                Ok(()) => self.heard.hear(buffer.filled()),
                Err(error) => self.heard.fail(&error),
            }
        }
        Poll::Ready(())
    }

    /// Fails with the error of an earlier write, if there is one, once the last words are read.
    fn fails(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.failed.is_some() {
            ready!(self.read_last_words(context));
        }
        Poll::Ready(self.failed.take().map_or(Ok(()), Err))
    }

    /// Passes on what came of a write. If the server has closed the connection, the last words come first,
    /// and the runtime may not know yet that there are any.
    fn written<T>(&mut self, written: io::Result<T>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        match written {
            Err(error) if is_closed(&error) => match self.read_last_words(context) {
                Poll::Ready(()) => Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.failed = Some(error);
                    Poll::Pending
                }
            },
            written => Poll::Ready(written),
        }
    }
}

/// Whether a write failed because the other end has closed the connection. Then a read comes to an end.
fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset)
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(context, buffer));
        if self.heard.listens() {
            match &read {
                Ok(()) => self.heard.hear(&buffer.filled()[before..]),
                Err(error) => self.heard.fail(error),
            }
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.fails(context))?;
        let written = ready!(Pin::new(&mut self.io).poll_write(context, bytes));
        self.written(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.fails(context))?;
        let flushed = ready!(Pin::new(&mut self.io).poll_flush(context));
        self.written(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.fails(context))?;
        let ended = ready!(Pin::new(&mut self.io).poll_shutdown(context));
        self.written(ended, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.fails(context))?;
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(context, buffers));
        self.written(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A connection that was closed by the other end, after this text.
    ///
    /// As with a socket, the first look finds nothing to be read: the runtime hears of it later.
    struct Closed(&'static [u8], bool);

    impl AsyncRead for Closed {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if std::mem::take(&mut self.1) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let length = self.0.len().min(buffer.remaining()).min(7);
            buffer.put_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Closed {
        fn poll_write(
            self: Pin<&mut Self>,
            _context: &mut Context<'_>,
            _bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }
    }

    #[tokio::test]
    async fn what_a_server_said_before_it_closed_the_connection_is_heard_by_whoever_writes() {
        for write in 0..3 {
            let mut stream =
                Stream::new(Closed(b"-ERR max number of clients reached\r\n", true), Duration::ZERO);
            let heard = stream.heard();
            let failed = match write {
                0 => stream.write_all(b"HELLO").await,
                1 => stream.write_vectored(&[io::IoSlice::new(b"HELLO")]).await.map(drop),
                _ => stream.shutdown().await,
            };
            assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::BrokenPipe, "{write}");
            assert_eq!(heard.bytes(), b"-ERR max number of clients reached\r\n", "{write}");
        }
    }

    #[tokio::test]
    async fn what_is_read_is_heard_until_it_is_what_was_meant() {
        let mut stream = Stream::new(Closed(b"+first and more", false), Duration::ZERO);
        let heard = stream.heard();
        let mut bytes = [0; 6];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(heard.bytes(), b"+first");
        heard.stop();
        stream.read_exact(&mut bytes).await.unwrap();
        assert!(heard.bytes().is_empty());
    }
}
