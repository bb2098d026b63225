//! Connections: how many, for how long, and what each may cost.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::Serve;
use super::timed::Timed;
use super::tls::Certificate;
use crate::exit::Failure;
use crate::log;

/// How many connections there may be.
const MOST: usize = 1024;
/// How many files this process needs beside them.
const SPARE: usize = 64;
/// How long a client may take for the head of a request, and between two; and for the beginning of TLS.
const HEAD: Duration = Duration::from_secs(10);
/// How long a client may read nothing of an answer.
const UNREAD: Duration = Duration::from_secs(20);
/// The longest head of a request, in bytes.
const MOST_HEAD: usize = 16 * 1024;
/// How long open requests may take to end when the server does.
const GRACE: Duration = Duration::from_secs(3);
/// How long to wait when no more files may be open.
const NO_FILES: Duration = Duration::from_millis(200);

/// What is said to one client too many.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
    content-length: 38\r\nretry-after: 10\r\nconnection: close\r\n\r\n\
    {\"error\":\"too many connections here\"}\n";

/// Accepts connections.
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    certificate: Option<Arc<Certificate>>,
    ending: watch::Receiver<bool>,
    most: usize,
}

/// Why nothing listens.
pub(super) fn not_bound(serve: &Serve, error: &io::Error) -> Failure {
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there: choose another port".to_owned(),
        io::ErrorKind::AddrNotAvailable => "it is no address of this host".to_owned(),
        io::ErrorKind::PermissionDenied => "this user may not: choose a port from 1024".to_owned(),
        _ => error.to_string(),
    };
    Failure::Usage(format!("--listen {}: {why}", serve.listen))
}

/// Raises the limit of open files as far as it is needed and allowed, and returns how many connections there
/// may be.
fn most_connections() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = (MOST + SPARE) as u64;
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    let mut current = limit.current.unwrap_or(u64::MAX);
    if current < wanted {
        let raised = Rlimit { current: Some(wanted.min(allowed)), maximum: limit.maximum };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            current = wanted.min(allowed);
        }
    }
    usize::try_from(current).unwrap_or(usize::MAX).saturating_sub(SPARE).clamp(1, MOST)
}

impl Listener {
    pub(super) fn new(
        socket: TcpListener,
        certificate: Option<Certificate>,
        ending: watch::Receiver<bool>,
    ) -> Self {
        Listener { socket, certificate: certificate.map(Arc::new), ending, most: most_connections() }
    }

    /// Serves until this is to end, and then until all connections have ended, or had their time to.
    pub(super) async fn serve(self, router: Router) {
        let room = Arc::new(Semaphore::new(self.most));
        let mut ending = self.ending.clone();
        let mut is_full_said = false;
        loop {
            let accepted = tokio::select! {
                _ = ending.wait_for(|ending| *ending) => break,
                accepted = self.socket.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // A client that is gone already is nothing to wait for; too many open files are.
                    if error.raw_os_error().is_some() && error.kind() != io::ErrorKind::ConnectionAborted {
                        if !std::mem::replace(&mut is_full_said, true) {
                            log::warning("accept")
                                .say(format_args!("no connection can be accepted: {error}"));
                        }
                        sleep(NO_FILES).await;
                    }
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                refuse(&stream);
                continue;
            };
            let _ = stream.set_nodelay(true);
            tokio::spawn(connection(
                stream,
                self.certificate.clone(),
                router.clone(),
                self.ending.clone(),
                place,
            ));
        }
        drop(self.socket);
        let all = u32::try_from(self.most).unwrap_or(u32::MAX);
        let _ = timeout(GRACE, room.acquire_many(all)).await;
    }
}

/// Says that there is no room, if the client takes it at once: nothing is kept of one that does not.
fn refuse(stream: &TcpStream) {
    let _ = stream.try_write(FULL);
}

/// Serves one connection. The place is given back when it ends.
async fn connection(
    stream: TcpStream,
    certificate: Option<Arc<Certificate>>,
    router: Router,
    ending: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) {
    let stream = Timed::new(stream, UNREAD);
    match certificate {
        None => requests(stream, router, ending).await,
        Some(certificate) => {
            let mut ended = ending.clone();
            let begun = tokio::select! {
                _ = ended.wait_for(|ending| *ending) => return,
                begun = timeout(HEAD, certificate.acceptor().accept(stream)) => begun,
            };
            if let Ok(Ok(stream)) = begun {
                requests(stream, router, ending).await;
            }
        }
    }
}

async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    mut ending: watch::Receiver<bool>,
) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MOST_HEAD);
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    // What a client does wrong is its own affair.
    tokio::select! {
        _ = served.as_mut() => return,
        _ = ending.wait_for(|ending| *ending) => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, served).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_too_many_is_told_so_in_json_of_the_length_that_is_said() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{text}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"], "too many connections here");
    }
}
