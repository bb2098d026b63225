//! What a server says first. If it is no server of the kind that is meant, that tells what it is.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_rustls::rustls;

use super::tls;
use crate::stores::address::printable;
use crate::sync::Mutex;

/// How many bytes are kept.
pub(super) const LONGEST: usize = 4096;

/// How many characters are shown.
const SHOWN: usize = 40;

/// What a connection has received since it was made, until nobody wants to know any more.
#[derive(Debug)]
pub(crate) struct Heard {
    listens: AtomicBool,
    first: Mutex<First>,
}

#[derive(Debug, Default)]
struct First {
    bytes: Vec<u8>,
    tls_failure: Option<rustls::Error>,
}

impl Default for Heard {
    fn default() -> Self {
        Heard { listens: AtomicBool::new(true), first: Mutex::default() }
    }
}

/// The protocol in which a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    Tls,
    Http,
    /// HTTP, from a server or a balancer that cannot serve for now.
    HttpUnavailable,
    Ssh,
    /// That of Redis, in an answer to a request that is none of its own.
    Redis,
    /// That of ZooKeeper, in an answer to a command of four letters.
    ZooKeeper,
    /// HTTP, from etcd when it is asked for its version.
    Etcd,
    /// That of PostgreSQL, in a refusal, or in an answer to the question whether it speaks TLS.
    Postgres,
}

impl Heard {
    pub(super) fn listens(&self) -> bool {
        self.listens.load(Ordering::Relaxed)
    }

    pub(super) fn hear(&self, bytes: &[u8]) {
        let mut first = self.first.lock();
        let room = LONGEST.saturating_sub(first.bytes.len());
        first.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if first.bytes.len() >= LONGEST {
            self.listens.store(false, Ordering::Relaxed);
        }
    }

    pub(super) fn fail(&self, error: &io::Error) {
        self.listens.store(false, Ordering::Relaxed);
        self.first.lock().tls_failure = tls::failure_in(error);
    }

    /// Whether nothing has been received since the connection was made.
    pub(crate) fn is_silent(&self) -> bool {
        self.listens() && self.first.lock().bytes.is_empty()
    }

    /// Forgets it, because it was understood, and keeps what is received now.
    #[cfg(feature = "postgres")]
    pub(crate) fn forget(&self) {
        self.first.lock().bytes.clear();
    }

    /// Forgets it, because the server is one of the right kind, and keeps no more.
    pub(crate) fn stop(&self) {
        self.listens.store(false, Ordering::Relaxed);
        self.first.lock().bytes = Vec::new();
    }

    /// The bytes themselves.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.first.lock().bytes.clone()
    }

    /// The first words, as they may be shown.
    pub(crate) fn words(&self) -> String {
        let first = self.first.lock();
        let words: String = String::from_utf8_lossy(&first.bytes).chars().take(SHOWN).collect();
        printable(&words)
    }

    /// Why TLS ended the connection, if it did.
    pub(super) fn tls_failure(&self) -> Option<rustls::Error> {
        self.first.lock().tls_failure.clone()
    }

    /// The protocol of what was received, if it is one of those that are found at the wrong port.
    pub(crate) fn speech(&self) -> Option<Speech> {
        speech(&self.first.lock().bytes)
    }
}

/// How ZooKeeper begins to answer a command of four letters: with what it is, or with why it does not say.
const OF_ZOOKEEPER: [&[u8]; 3] = [b"Zookeeper version", b"This ZooKeeper", b"srvr is not executed"];
/// What etcd answers when it is asked for its version.
const OF_ETCD: &[u8] = b"\"etcdserver\"";

pub(super) fn speech(bytes: &[u8]) -> Option<Speech> {
    match bytes {
        // A record of TLS, alert or handshake, of any version.
        [0x15 | 0x16, 3, ..] => Some(Speech::Tls),
        [b'H', b'T', b'T', b'P', b'/', _, b'.', _, b' ', b'5', ..] => Some(Speech::HttpUnavailable),
        [b'H', b'T', b'T', b'P', b'/', rest @ ..]
            if rest.windows(OF_ETCD.len()).any(|part| part == OF_ETCD) =>
        {
            Some(Speech::Etcd)
        }
        // Some answer what is no request of theirs without a head.
        [b'H', b'T', b'T', b'P', b'/', ..] | [b'<', b'!' | b'h' | b'H', ..] => Some(Speech::Http),
        [b'S', b'S', b'H', b'-', ..] => Some(Speech::Ssh),
        // An error with its code. Servers of mail say "-ERR" too, but greet first, and with something else.
        [b'-', rest @ ..] if ends_code(rest) => Some(Speech::Redis),
        // An error, its length, and its severity.
        [b'E', 0, 0, _, _, b'S', severity @ ..]
            if severity.starts_with(b"FATAL") || severity.starts_with(b"ERROR") =>
        {
            Some(Speech::Postgres)
        }
        // Before 14, it answers what is no request of its protocol as it did in the one before.
        [b'E', rest @ ..] if rest.starts_with(b"FATAL:  ") => Some(Speech::Postgres),
        _ if OF_ZOOKEEPER.iter().any(|answer| bytes.starts_with(answer)) => Some(Speech::ZooKeeper),
        _ => None,
    }
}

/// Whether these bytes begin with a word in capitals, and a space behind it.
fn ends_code(bytes: &[u8]) -> bool {
    let length = bytes.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    length > 1 && bytes.get(length) == Some(&b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_at_the_wrong_port_is_known_by_its_first_words() {
        for (bytes, speech) in [
            (&b"HTTP/1.1 400 Bad Request\r\n"[..], Some(Speech::Http)),
            (b"HTTP/1.0 503 Service Unavailable\r\n", Some(Speech::HttpUnavailable)),
            (b"<!DOCTYPE HTML>\n<html>", Some(Speech::Http)),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Some(Speech::Ssh)),
            (&[0x15, 3, 3, 0, 2, 2, 70], Some(Speech::Tls)),
            (&[0x16, 3, 1, 0, 2], Some(Speech::Tls)),
            (&[0x15, 7], None),
            (b"-ERR unknown command 'srvr'", Some(Speech::Redis)),
            (b"-NOAUTH Authentication required.", Some(Speech::Redis)),
            (b"Zookeeper version: 3.8.0", Some(Speech::ZooKeeper)),
            (b"This ZooKeeper instance is not currently serving requests", Some(Speech::ZooKeeper)),
            (b"srvr is not executed because it is not in the whitelist.", Some(Speech::ZooKeeper)),
            (b"HTTP/1.0 200 OK\r\n\r\n{\"etcdserver\":\"3.4.23\"}", Some(Speech::Etcd)),
            (b"E\0\0\0\x5aSFATAL\0VFATAL\0C28000\0", Some(Speech::Postgres)),
            (
                b"EFATAL:  unsupported frontend protocol 0.0: server supports 2.0 to 3.0\n\0",
                Some(Speech::Postgres),
            ),
            (b"E\0\0\0\x5aX", None),
            (b"-ERR", None),
            (b"- ERR", None),
            (b"-E x", None),
            (b"+OK POP3 server ready", None),
            (b"HTTP", None),
            (b"", None),
        ] {
            let heard = Heard::default();
            for byte in bytes {
                heard.hear(&[*byte]);
            }
            assert_eq!(heard.speech(), speech, "{bytes:?}");
            assert_eq!(heard.bytes(), bytes);
        }
    }

    #[test]
    fn no_more_is_kept_than_tells_something() {
        let heard = Heard::default();
        heard.hear(&[7; LONGEST - 1]);
        assert!(heard.listens());
        heard.hear(&[7; 9]);
        assert!(!heard.listens() && heard.bytes().len() == LONGEST);
        let heard = Heard::default();
        heard.hear(b"HTTP/");
        heard.stop();
        assert!(!heard.listens() && heard.bytes().is_empty() && heard.speech().is_none());
    }
}
