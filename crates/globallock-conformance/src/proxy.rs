//! A TCP proxy that fails on purpose. It counts what it did, so that a test can prove that a fault took
//! effect.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use globallock::backend::Instant;
use globallock::internals::sleep_until_some;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// They pass.
    #[default]
    Pass,
    /// They pass after a delay.
    Delay(Duration),
    /// They are held until the flow changes: a silent network.
    Hold,
    /// They are discarded, while the sender believes that they arrived.
    Swallow,
}

/// What the proxy does now.
#[derive(Clone, Copy, Debug, Default)]
struct Mode {
    requests: Flow,
    answers: Flow,
    /// The flow of the connections with a number below this, instead of `answers`.
    old_answers: (u64, Flow),
    /// How many times all connections were cut. A connection that saw a smaller number is closed.
    cuts: u64,
}

/// A proxy in front of one server.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    server: Arc<AtomicU16>,
    mode: watch::Sender<Mode>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    open: AtomicU64,
    answered: AtomicU64,
    held: AtomicU64,
    swallowed: AtomicU64,
    cut: AtomicU64,
    ended: AtomicU64,
    requests: AtomicU64,
    /// The number of the request that makes its connection deaf: the answers from its own on are discarded.
    /// 0: none.
    deaf_from: AtomicU64,
    deaf: AtomicU64,
}

impl Proxy {
    /// Starts a proxy to a port of this host, on the current runtime.
    ///
    /// # Errors
    /// When no port is free.
    ///
    /// # Cancel safety
    /// A dropped call leaves nothing behind.
    pub async fn start(server: u16) -> std::io::Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), server).await
    }

    /// Starts a proxy that listens on another address of this host.
    ///
    /// # Errors
    /// When there is no such address, or no port is free.
    ///
    /// # Cancel safety
    /// A dropped call leaves nothing behind.
    pub async fn start_at(address: IpAddr, server: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let address = listener.local_addr()?;
        let mode = watch::Sender::new(Mode::default());
        let counts = Arc::new(Counts::default());
        let (follow, count) = (mode.subscribe(), Arc::clone(&counts));
        let server = Arc::new(AtomicU16::new(server));
        let to = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = SocketAddr::from(([127, 0, 0, 1], to.load(Ordering::SeqCst)));
                tokio::spawn(serve(client, server, follow.clone(), Arc::clone(&count)));
                if follow.has_changed().is_err() {
                    return;
                }
            }
        });
        Ok(Proxy { address, server, mode, counts })
    }

    /// The port that clients connect to, instead of the server's.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Passes new connections to another port of this host.
    pub fn redirect_to(&self, server: u16) {
        self.server.store(server, Ordering::SeqCst);
    }

    /// Sets the flow from clients to the server.
    pub fn requests(&self, flow: Flow) {
        self.mode.send_modify(|mode| mode.requests = flow);
    }

    /// Sets the flow from the server to clients.
    pub fn answers(&self, flow: Flow) {
        self.mode.send_modify(|mode| mode.answers = flow);
    }

    /// Sets the flow from the server to clients on the connections that are open now, but not on later ones.
    pub fn answers_on_open_connections(&self, flow: Flow) {
        let opened = self.connections();
        self.mode.send_modify(|mode| mode.old_answers = (opened, flow));
    }

    /// Makes the connection of the `number`th request deaf: the answer to that request, and all that the
    /// server sends on the connection afterwards, is discarded. The connection stays open.
    ///
    /// Requests are counted since the start, over all connections. Bytes that arrive together count as one
    /// request.
    pub fn swallow_answer(&self, number: u64) {
        self.counts.deaf_from.store(number, Ordering::SeqCst);
    }

    /// Closes all connections. New ones are not affected.
    pub fn cut(&self) {
        self.mode.send_modify(|mode| mode.cuts += 1);
    }

    /// How many connections have been opened.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// How many connections are open now, to the server too.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// On how many connections the server has sent something.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.counts.answered.load(Ordering::SeqCst)
    }

    /// How many times bytes have been held or delayed.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.counts.held.load(Ordering::SeqCst)
    }

    /// How many requests clients have sent. Bytes that arrive together count as one request.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// How many connections have been made deaf by [`Proxy::swallow_answer`].
    #[must_use]
    pub fn deaf(&self) -> u64 {
        self.counts.deaf.load(Ordering::SeqCst)
    }

    /// How many bytes have been discarded.
    #[must_use]
    pub fn swallowed(&self) -> u64 {
        self.counts.swallowed.load(Ordering::SeqCst)
    }

    /// How many connections have been cut.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.counts.cut.load(Ordering::SeqCst)
    }

    /// How many connections have ended, for whatever reason.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.counts.ended.load(Ordering::SeqCst)
    }
}

async fn serve(client: TcpStream, server: SocketAddr, mut mode: watch::Receiver<Mode>, counts: Arc<Counts>) {
    let number = counts.connections.fetch_add(1, Ordering::SeqCst);
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    counts.open.fetch_add(1, Ordering::SeqCst);
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let cuts = mode.borrow().cuts;
    let (requests, answers) = (mode.clone(), mode.clone());
    let is_deaf = AtomicBool::new(false);
    // Called before the request is passed on, so that its answer is discarded in any case.
    let count = || {
        let request = counts.requests.fetch_add(1, Ordering::SeqCst) + 1;
        if request == counts.deaf_from.load(Ordering::SeqCst) {
            is_deaf.store(true, Ordering::SeqCst);
            counts.deaf.fetch_add(1, Ordering::SeqCst);
        }
    };
    let has_answered = AtomicBool::new(false);
    let answered = || {
        if !has_answered.swap(true, Ordering::SeqCst) {
            counts.answered.fetch_add(1, Ordering::SeqCst);
        }
    };
    let of_answers = |mode: &Mode| match mode.old_answers {
        _ if is_deaf.load(Ordering::SeqCst) => Flow::Swallow,
        (older, flow) if number < older => flow,
        _ => mode.answers,
    };
    tokio::select! {
        () = pump(from_client, to_server, requests, |mode| mode.requests, count, &counts) => {}
        () = pump(from_server, to_client, answers, of_answers, answered, &counts) => {}
        _ = mode.wait_for(|mode| mode.cuts > cuts) => {
            counts.cut.fetch_add(1, Ordering::SeqCst);
        }
    }
    counts.open.fetch_sub(1, Ordering::SeqCst);
    counts.ended.fetch_add(1, Ordering::SeqCst);
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    direction: impl Fn(&Mode) -> Flow,
    arrived: impl Fn(),
    counts: &Counts,
) {
    let mut buffer = vec![0; 64 * 1024];
    // What is delayed, with the moment at which each is passed on: the order stays as it is.
    let mut delayed: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut ended = false;
    while !ended || !delayed.is_empty() {
        let next = delayed.front().map(|(due, _)| *due);
        let count = tokio::select! {
            read = from.read(&mut buffer), if !ended => match read {
                Ok(count @ 1..) => count,
                // What is delayed still arrives.
                _ => {
                    ended = true;
                    continue;
                }
            },
            () = sleep_until_some(next) => {
                let (_, bytes) = delayed.pop_front().expect("it is due");
                if direction(&mode.borrow()) != Flow::Swallow && to.write_all(&bytes).await.is_err() {
                    return;
                }
                continue;
            }
        };
        arrived();
        let delay = loop {
            match direction(&mode.borrow_and_update()) {
                Flow::Pass => break Some(Duration::ZERO),
                Flow::Delay(delay) => {
                    counts.held.fetch_add(1, Ordering::SeqCst);
                    break Some(delay);
                }
                Flow::Swallow => {
                    counts.swallowed.fetch_add(count as u64, Ordering::SeqCst);
                    break None;
                }
                Flow::Hold => counts.held.fetch_add(1, Ordering::SeqCst),
            };
            if mode.changed().await.is_err() {
                return;
            }
        };
        let Some(delay) = delay else { continue };
        if delay.is_zero() && delayed.is_empty() {
            if to.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        } else {
            let last = delayed.back().map(|(due, _)| *due);
            let due = (Instant::now() + delay).max(last.unwrap_or_else(Instant::now));
            delayed.push_back((due, buffer[..count].to_vec()));
        }
    }
}
