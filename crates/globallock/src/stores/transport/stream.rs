//! A connection, and what it has received first.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::heard::{Heard, LONGEST};

/// A way to read and to write bytes.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Io for T {}

/// A connection. What is received first is kept until [`Heard::stop`].
pub(crate) struct Stream {
    io: Box<dyn Io>,
    heard: Arc<Heard>,
}

impl Stream {
    pub(super) fn new(io: impl Io + 'static) -> Self {
        Stream { io: Box::new(io), heard: Arc::default() }
    }

    /// What is received first.
    pub(crate) fn heard(&self) -> Arc<Heard> {
        Arc::clone(&self.heard)
    }

    /// Reads what the server sent before it closed the connection, which may be why it did.
    ///
    /// Without this it would be lost: whoever writes learns only that the connection is broken.
    fn read_last_words(&mut self, context: &mut Context<'_>) {
        let mut bytes = [0; LONGEST];
        while self.heard.listens() {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.io).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => self.heard.hear(buffer.filled()),
                Poll::Ready(Err(error)) => return self.heard.fail(&error),
                _ => return,
            }
        }
    }

    fn written<T>(&mut self, written: io::Result<T>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_err() {
            self.read_last_words(context);
        }
        Poll::Ready(written)
    }
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
        let written = ready!(Pin::new(&mut self.io).poll_write(context, bytes));
        self.written(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.io).poll_flush(context));
        self.written(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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
    struct Closed(&'static [u8]);

    impl AsyncRead for Closed {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
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
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_a_server_said_before_it_closed_the_connection_is_heard_by_whoever_writes() {
        let mut stream = Stream::new(Closed(b"-ERR max number of clients reached\r\n"));
        let heard = stream.heard();
        assert_eq!(stream.write_all(b"HELLO").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(heard.bytes(), b"-ERR max number of clients reached\r\n");
    }

    #[tokio::test]
    async fn what_is_read_is_heard_until_it_is_what_was_meant() {
        let mut stream = Stream::new(Closed(b"+first and more"));
        let heard = stream.heard();
        let mut bytes = [0; 6];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(heard.bytes(), b"+first");
        heard.stop();
        stream.read_exact(&mut bytes).await.unwrap();
        assert!(heard.bytes().is_empty());
    }
}
