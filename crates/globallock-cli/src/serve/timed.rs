//! Connections whose other end has to go on reading.

use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// A connection that fails when nothing could be written to it for some time.
#[derive(Debug)]
pub(super) struct Timed<S> {
    stream: S,
    limit: Duration,
    /// When to give up; armed while something is to be written and nothing can be.
    until: Pin<Box<Sleep>>,
    is_armed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Timed<S> {
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Timed { stream, limit, until: Box::pin(sleep_until(Instant::now())), is_armed: false }
    }

    fn timed<T>(&mut self, context: &mut Context<'_>, written: Poll<Result<T>>) -> Poll<Result<T>> {
        if written.is_ready() {
            self.is_armed = false;
            return written;
        }
        if !self.is_armed {
            self.until.as_mut().reset(Instant::now() + self.limit);
            self.is_armed = true;
        }
        ready!(self.until.as_mut().poll(context));
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the other end does not read")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.timed(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.timed(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_shutdown(context);
        self.timed(context, closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test(flavor = "current_thread")]
    async fn a_write_fails_when_the_other_end_does_not_read_and_not_before() {
        let (one, mut other) = duplex(4);
        let mut timed = Timed::new(one, Duration::from_millis(300));
        let begun = Instant::now();
        let reads = async {
            // Slow, but it goes on: longer in all than the limit.
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                other.read_exact(&mut [0; 4]).await.unwrap();
            }
        };
        let writes = timed.write_all(&[0; 24]);
        let (written, ()) = tokio::join!(writes, reads);
        written.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(500));
        let failed = timed.write_all(b"more").await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::TimedOut);
    }
}
