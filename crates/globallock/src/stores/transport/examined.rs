//! What is at a port at which no server of the right kind has answered yet.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

use super::Unreached;
use super::heard::{Speech, speech};
use crate::sync::{Instant, Mutex};

/// A record of TLS with a greeting that has no content; what etcd and all servers of HTTP answer; what
/// ZooKeeper answers; what PostgreSQL is asked before TLS begins. Redis answers the second and the third,
/// since each is a line that is no command of its own.
const QUESTIONS: [&[u8]; 4] =
    [&[0x16, 3, 1, 0, 4, 1, 0, 0, 0], b"GET /version HTTP/1.0\r\n\r\n", b"srvr\r\n\r\n", &MAY_TLS_BEGIN];
/// The question to PostgreSQL whether TLS may begin. It answers by one letter.
pub(crate) const MAY_TLS_BEGIN: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// How long a server may take to answer the questions about what it is, which are asked at once.
const ASKED: Duration = Duration::from_millis(250);
/// The longest answer that is read.
const LONGEST: u64 = 1024;
/// How long a server may be silent after it has accepted the first connection, until it is asked what it is
/// while its answer is awaited.
pub(super) const EARLY: Duration = Duration::from_millis(200);
/// How many times longer than a connection to it takes, since a server that is far has not said anything by
/// then either.
const TIMES: u32 = 4;
/// How many servers this process asks at once while their answers are awaited. So a server that is slow
/// because of many that connect to it has few more connections from that.
static AT_ONCE: Semaphore = Semaphore::const_new(4);
/// How long it is not asked again. Each question is a connection to a server that may have too many of them,
/// and delays the next try.
pub(super) const KEPT: Duration = Duration::from_secs(5);

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

/// Waits until a server that took this long to accept a connection has been silent for so long that it may be
/// none of the right kind.
pub(crate) async fn long_silence(connected_in: Duration) {
    sleep(EARLY.max(connected_in * TIMES)).await;
}

/// Waits for its turn to ask a server while its answer is awaited.
pub(super) async fn turn() -> Option<SemaphorePermit<'static>> {
    AT_ONCE.acquire().await.ok()
}

/// What a server has answered, and in which protocol, if that is known.
pub(super) struct Answered {
    pub(super) speech: Option<Speech>,
    /// Whether this may be how a web server with TLS answers to HTTP without it.
    pub(super) may_ask_for_tls: bool,
    /// Whether it may speak both, and has neither answered the question by TLS nor closed that connection.
    pub(super) is_slow_with_tls: bool,
}

/// What the server at a port answers, if it answers any question: what tells most.
///
/// Each question has a connection of its own, because a server closes the connection after what it does not
/// understand. They end as soon as an answer leaves no doubt. That needs the answer by TLS too of a server
/// that may speak both: it may have been slow to begin with it.
pub(super) async fn answer_at(host: &str, port: u16, may_speak_both: bool) -> Option<Answered> {
    let ask = |question: &'static [u8]| async move { (question, answer_to(host, port, question).await) };
    let mut asked: FuturesUnordered<_> = QUESTIONS.into_iter().map(ask).collect();
    let (mut most, mut is_slow_with_tls): (Option<Answered>, _) = (None, may_speak_both);
    let mut may_be_postgres = true;
    while let Some((question, (answer, is_over))) = asked.next().await {
        is_slow_with_tls &= !(question == QUESTIONS[0] && is_over);
        may_be_postgres &= question != MAY_TLS_BEGIN;
        if answer.is_empty() {
            continue;
        }
        let speech = speech_of(question, &answer);
        let may_ask_for_tls = may_ask_for_tls(&answer);
        let tells = |speech: Option<Speech>| match speech {
            None => 0,
            // A server of HTTP with TLS answers so too.
            Some(Speech::Http | Speech::HttpUnavailable) => 1,
            Some(Speech::Tls) => 3,
            // From version 17 on, it answers TLS by TLS too.
            Some(Speech::Postgres) => 4,
            Some(_) => 2,
        };
        if most.as_ref().is_none_or(|most| tells(most.speech) < tells(speech)) {
            most = Some(Answered { speech, may_ask_for_tls, is_slow_with_tls });
        }
        let is_doubtful = speech == Some(Speech::Tls) && may_be_postgres;
        if tells(speech) > 1 && !is_slow_with_tls && !is_doubtful {
            break;
        }
    }
    most.map(|most| Answered { is_slow_with_tls, ..most })
}

/// Whether this may be how a web server with TLS answers to HTTP without it.
pub(super) fn may_ask_for_tls(answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/1.") && answer.get(8..12) == Some(b" 400")
}

/// The protocol of an answer to this question, if it is known.
fn speech_of(question: &[u8], answer: &[u8]) -> Option<Speech> {
    match answer {
        [b'S' | b'N'] if question == MAY_TLS_BEGIN => Some(Speech::Postgres),
        answer => speech(answer),
    }
}

/// What the server at a port answers to one question, until it has told what it is, has closed the
/// connection, or has had the time for it. Also whether it ended before that time.
async fn answer_to(host: &str, port: u16, question: &[u8]) -> (Vec<u8>, bool) {
    let mut answer = Vec::new();
    let asked = async {
        let mut stream = TcpStream::connect((host, port)).await?;
        stream.write_all(question).await?;
        let mut stream = stream.take(LONGEST);
        while stream.read_buf(&mut answer).await? > 0
            && matches!(speech_of(question, &answer), None | Some(Speech::Http))
        {}
        Ok::<(), std::io::Error>(())
    };
    let is_over = timeout(ASKED, asked).await.is_ok();
    (answer, is_over)
}
