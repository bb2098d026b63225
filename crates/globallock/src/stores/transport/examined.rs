//! What is at a port at which no server of the right kind has answered yet.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Unreached;
use crate::sync::{Instant, Mutex};

/// One of these is answered by each of the servers that are used here, if it speaks without TLS.
const PLAIN: [&[u8]; 2] = [b"GET / HTTP/1.0\r\n\r\n", b"srvr\r\n\r\n"];
/// A record of TLS with a greeting that has no content.
const BROKEN_OFF: &[u8] = &[0x16, 3, 1, 0, 4, 1, 0, 0, 0];
/// How long a server may take to answer the questions about what it is, which are asked at once.
const ASKED: Duration = Duration::from_millis(250);
/// How long it is not asked again. Each question is a connection to a server that may have too many of them,
/// and delays the next try.
const KEPT: Duration = Duration::from_secs(5);

/// What was found, if anything, and when.
type Verdict = (Instant, Option<Unreached>);
/// A question to the server at a port: what it was found by says what was found.
type Question = (String, u16, &'static str);

/// What is known of the servers of one address.
#[derive(Default)]
pub(super) struct Examined {
    /// Whether a server of the right kind has ever answered. Then the address is right, and nothing else is
    /// looked for behind it.
    is_right: AtomicBool,
    verdicts: Mutex<HashMap<Question, Verdict>>,
    /// Held by the task that asks; the others wait for what it finds.
    asking: tokio::sync::Mutex<()>,
}

impl Examined {
    pub(super) fn is_right(&self) -> bool {
        self.is_right.load(Ordering::Relaxed)
    }

    /// Notes that a server of the right kind has answered.
    pub(super) fn set_right(&self) {
        self.is_right.store(true, Ordering::Relaxed);
    }

    /// What this question has found at a port last, or else what `found` finds now.
    pub(super) async fn or_else(
        &self,
        (host, port): (&str, u16),
        question: &'static str,
        found: impl Future<Output = Option<Unreached>>,
    ) -> Option<Unreached> {
        let question = (host.to_owned(), port, question);
        let _one = self.asking.lock().await;
        let now = Instant::now();
        let kept = self.verdicts.lock().get(&question).filter(|(since, _)| *since + KEPT > now).cloned();
        let verdict = match kept {
            Some((_, verdict)) => verdict,
            None => {
                let verdict = found.await;
                self.verdicts.lock().insert(question, (Instant::now(), verdict.clone()));
                verdict
            }
        };
        match verdict {
            // Found before the right server answered.
            Some(Unreached::Refused(reason)) if self.is_right() => Some(Unreached::Away(reason)),
            verdict => verdict,
        }
    }
}

/// What the server at a port answers first, if it answers any question: the one by TLS goes before those
/// without. Each question has a connection of its own, because a server closes the connection after what it
/// does not understand.
pub(super) async fn first_answer_at(host: &str, port: u16) -> Option<Vec<u8>> {
    let answers = join_all([BROKEN_OFF, PLAIN[0], PLAIN[1]].map(|question| answer_at(host, port, question)));
    answers.await.into_iter().flatten().next()
}

/// Whether this may be how a web server with TLS answers to HTTP without it.
pub(super) fn may_ask_for_tls(answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/1.") && answer.get(8..12) == Some(b" 400")
}

async fn answer_at(host: &str, port: u16, question: &[u8]) -> Option<Vec<u8>> {
    let asked = async {
        let mut stream = TcpStream::connect((host, port)).await.ok()?;
        stream.write_all(question).await.ok()?;
        let mut answer = vec![0; 16];
        let length = stream.read(&mut answer).await.ok().filter(|length| *length > 0)?;
        answer.truncate(length);
        Some(answer)
    };
    timeout(ASKED, asked).await.unwrap_or_default()
}
