//! A proxy that understands what a server sends, and can drop only its notifications: all requests are
//! answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Returns where the first message ends, and whether it is a notification; `None` while it is incomplete.
type Reads = fn(&[u8]) -> Option<(usize, bool)>;

/// A proxy in front of one server.
pub(crate) struct Filter {
    pub(crate) port: u16,
    drops: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
}

impl Filter {
    /// Starts one in front of a server of this kind.
    pub(crate) async fn start(kind: &str, server: u16) -> Self {
        let reads: Reads = match kind {
            "redis" => redis,
            "etcd" => etcd,
            _ => zookeeper,
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let filter = Filter { port, drops: Arc::default(), dropped: Arc::default() };
        let (drops, dropped) = (Arc::clone(&filter.drops), Arc::clone(&filter.dropped));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let (drops, dropped) = (Arc::clone(&drops), Arc::clone(&dropped));
                tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                tokio::spawn(async move {
                    let mut buffer = Vec::new();
                    while let Ok(1..) = from_server.read_buf(&mut buffer).await {
                        while let Some((end, is_notification)) = reads(&buffer) {
                            let message: Vec<u8> = buffer.drain(..end).collect();
                            if is_notification && drops.load(Ordering::SeqCst) {
                                dropped.fetch_add(1, Ordering::SeqCst);
                            } else if to_client.write_all(&message).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        filter
    }

    /// Sets whether notifications are dropped.
    pub(crate) fn drops(&self, drops: bool) {
        self.drops.store(drops, Ordering::SeqCst);
    }

    /// The number of dropped notifications.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::SeqCst)
    }
}

/// Redis: a RESP3 value. It is a notification if it is a push of a message.
fn redis(bytes: &[u8]) -> Option<(usize, bool)> {
    let end = value(bytes)?;
    Some((end, bytes.starts_with(b">") && bytes[..end].windows(9).any(|part| part == b"message\r\n")))
}

/// Returns where a RESP3 value ends.
fn value(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let count = || std::str::from_utf8(&bytes[1..line - 2]).ok()?.parse::<i64>().ok();
    let parts = match bytes[0] {
        b'$' | b'=' | b'!' => {
            let end = usize::try_from(count()?).map_or(line, |length| line + length + 2);
            return (bytes.len() >= end).then_some(end);
        }
        b'*' | b'~' | b'>' => count()?,
        b'%' => count()? * 2,
        _ => 0,
    };
    (0..parts).try_fold(line, |end, _| Some(end + value(&bytes[end..])?))
}

/// ZooKeeper: a frame. It is a notification if its xid is -1.
fn zookeeper(bytes: &[u8]) -> Option<(usize, bool)> {
    let length = usize::try_from(i32::from_be_bytes(bytes.first_chunk().copied()?)).ok()?;
    let frame = bytes.get(4..4 + length)?;
    Some((4 + length, frame.starts_with(&(-1_i32).to_be_bytes())))
}

/// etcd: an HTTP/2 frame. It is a notification if it is data with a message that has the field `events`.
fn etcd(bytes: &[u8]) -> Option<(usize, bool)> {
    const DATA: u8 = 0;
    let header = bytes.first_chunk::<9>()?;
    let length = usize::try_from(u32::from_be_bytes([0, header[0], header[1], header[2]])).ok()?;
    let body = bytes.get(9..9 + length)?;
    // In front of the message are a flag and its length.
    Some((9 + length, header[3] == DATA && has_events(body.get(5..).unwrap_or_default()).unwrap_or(false)))
}

/// Whether a message has field 11: among etcd's answers, only a watch's have it.
fn has_events(mut message: &[u8]) -> Option<bool> {
    while !message.is_empty() {
        let tag = number(&mut message)?;
        match tag & 7 {
            0 => drop(number(&mut message)?),
            2 if tag >> 3 == 11 => return Some(true),
            2 => {
                let length = usize::try_from(number(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            _ => return None,
        }
    }
    Some(false)
}

/// Takes a varint: a number with seven bits per byte.
fn number(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
