//! What the driver of a session makes of everything that a server may say, with a test in the server's place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::config::Config;
use super::connection::Failure;
use super::session::Session;
use super::wire::{AUTH, Code, EVENT, PING, Reader, Refusal, Request, Writer};
use crate::stores::address::Address;
use crate::stores::watched::inbox::Inbox;

/// Long enough for a busy machine: what is waited for comes at once.
const PATIENCE: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(60);

/// Where a session's connections arrive.
struct Host {
    listener: TcpListener,
    config: Arc<Config>,
    ended: Arc<Notify>,
}

/// One connection, after the greeting.
struct Line {
    stream: TcpStream,
    /// Which session was asked for, 0 for a new one.
    asked_for: i64,
}

/// A request as it arrived.
#[derive(Debug, PartialEq, Eq)]
struct Arrived {
    number: i32,
    code: i32,
    path: String,
}

impl Host {
    async fn start() -> Host {
        Self::of("", "").await
    }

    /// With what stands in front of the host in its address, and what more is asked for.
    async fn of(user: &str, options: &str) -> Host {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = format!("zookeeper://{user}127.0.0.1:{port}?timeout=30s{options}");
        let config = Address::parse(&address).and_then(Config::new).unwrap();
        Host { listener, config: Arc::new(config), ended: Arc::default() }
    }

    /// A session, and its connection.
    async fn open(&self, lasts: Duration) -> (Arc<Session>, Line) {
        let (session, line) =
            tokio::join!(Session::open(&self.config, LEASE, &self.ended), self.greeted(7, lasts));
        (session.unwrap(), line)
    }

    /// The next connection, whose session has this number and lasts so long, or has ended if that is nothing.
    async fn greeted(&self, id: i64, lasts: Duration) -> Line {
        let (stream, _) = within(self.listener.accept()).await.unwrap();
        let mut line = Line { stream, asked_for: 0 };
        let greeting = line.frame().await;
        let mut greeting = Reader(&greeting);
        let (_, _, asked) = (greeting.int().unwrap(), greeting.long().unwrap(), greeting.int().unwrap());
        assert_eq!(asked, 60_000, "the lease is what is asked for first");
        line.asked_for = greeting.long().unwrap();
        let mut answer = Writer::default();
        let milliseconds = i32::try_from(lasts.as_millis()).unwrap();
        answer.int(0).int(milliseconds).long(id).buffer(b"password").bool(false);
        line.send(&answer.0).await;
        line
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("it comes at once")
}

impl Line {
    async fn frame(&mut self) -> Vec<u8> {
        let length = within(self.stream.read_i32()).await.unwrap();
        let mut frame = vec![0; length.try_into().unwrap()];
        within(self.stream.read_exact(&mut frame)).await.unwrap();
        frame
    }

    async fn send(&mut self, message: &[u8]) {
        let mut frames = Writer::default();
        frames.frame(message);
        self.stream.write_all(&frames.0).await.unwrap();
    }

    /// The next request, pings apart.
    async fn arrives(&mut self) -> Arrived {
        within(self.next()).await
    }

    async fn next(&mut self) -> Arrived {
        loop {
            let frame = self.frame().await;
            let mut request = Reader(&frame);
            let (number, code) = (request.int().unwrap(), request.int().unwrap());
            if number == PING {
                assert_eq!(code, Code::Ping as i32);
                self.says(PING, 0, &[]).await;
                continue;
            }
            return Arrived { number, code, path: request.text().unwrap_or_default() };
        }
    }

    async fn says(&mut self, number: i32, error: i32, body: &[u8]) {
        let mut answer = Writer::default();
        answer.int(number).long(1).int(error).0.extend(body);
        self.send(&answer.0).await;
    }

    async fn tells(&mut self, kind: i32, path: &str) {
        let mut event = Writer::default();
        event.int(kind).int(3).text(path);
        self.says(EVENT, 0, &event.0).await;
    }
}

const LOST: &str = "connections, once lost, are made again for the same session";

#[tokio::test]
async fn what_only_looks_is_asked_again_and_of_what_changes_its_sender_is_told() {
    let host = Host::start().await;
    let (session, mut line) = host.open(LEASE).await;
    assert_eq!(line.asked_for, 0);
    for round in 1..=3 {
        let looks = session.send(Request::exists("/a"));
        assert_eq!(line.arrives().await.code, Code::Exists as i32);
        let changes = session.send(Request::delete("/a"));
        assert_eq!(line.arrives().await.code, Code::Delete as i32);
        drop(line);
        line = host.greeted(7, LEASE).await;
        assert_eq!(line.asked_for, 7, "{LOST}");
        assert!(matches!(session.answer(changes).await, Err(Failure::Lost(_))));
        assert_eq!(session.losses(), round);
        let again = line.arrives().await;
        assert_eq!((again.code, again.path.as_str()), (Code::Exists as i32, "/a"));
        line.says(again.number, 0, b"there").await;
        assert_eq!(session.answer(looks).await, Ok(b"there".to_vec()));
    }
}

#[tokio::test]
async fn an_answer_to_what_was_not_asked_ends_the_connection() {
    let host = Host::start().await;
    let (session, mut line) = host.open(LEASE).await;
    let pending = session.send(Request::delete("/a"));
    let arrived = line.arrives().await;
    line.says(arrived.number + 1, 0, &[]).await;
    assert!(matches!(session.answer(pending).await, Err(Failure::Lost(_))));
    assert_eq!(host.greeted(7, LEASE).await.asked_for, 7, "{LOST}");
}

#[tokio::test]
async fn what_a_server_says_of_itself_leaves_the_connection_as_it_is() {
    let host = Host::start().await;
    let (session, mut line) = host.open(LEASE).await;
    // An answer to a ping, a login that was taken, an event that nobody waits for.
    line.says(PING, 0, &[]).await;
    line.says(AUTH, 0, &[]).await;
    line.tells(3, "/b").await;
    let pending = session.send(Request::exists("/a"));
    let arrived = line.arrives().await;
    line.says(arrived.number, Refusal::NO_NODE.0, &[]).await;
    assert_eq!(session.answer(pending).await, Err(Failure::Refused(Refusal::NO_NODE)));
    assert_eq!(session.losses(), 0);
    // A login that was refused ends it.
    line.says(AUTH, Refusal::AUTH_FAILED.0, &[]).await;
    assert_eq!(host.greeted(7, LEASE).await.asked_for, 7, "{LOST}");
}

#[tokio::test]
async fn those_who_watch_are_told_of_the_end_of_a_node_or_to_read_again_and_only_once() {
    let host = Host::start().await;
    let (session, mut line) = host.open(LEASE).await;
    let inbox = Arc::<Inbox>::default();
    for (kind, deleted) in [(2, vec![b"/a".to_vec()]), (3, Vec::new())] {
        let pending = session.watch("/a", &inbox);
        let arrived = line.arrives().await;
        assert_eq!((arrived.code, arrived.path.as_str()), (Code::GetData as i32, "/a"));
        line.says(arrived.number, 0, &[]).await;
        session.answer(pending).await.unwrap();
        line.tells(kind, "/a").await;
        let changes = within(inbox.wait()).await;
        assert_eq!((changes.read_again, &changes.deleted), (deleted.is_empty(), &deleted));
        assert!(session.state().facts().watches.is_empty(), "a watch tells once");
    }
    // Whatever happens while there is no connection may be missed.
    let _pending = session.watch("/a", &inbox);
    line.arrives().await;
    drop(line);
    assert!(within(inbox.wait()).await.read_again);
}

#[tokio::test]
async fn the_end_of_a_session_is_told_to_everybody() {
    let host = Host::start().await;
    let (session, mut line) = host.open(LEASE).await;
    let inbox = Arc::<Inbox>::default();
    let watches = session.watch("/a", &inbox);
    line.arrives().await;
    drop(line);
    let ended = host.ended.notified();
    let line = host.greeted(0, Duration::ZERO).await;
    assert_eq!(line.asked_for, 7, "{LOST}");
    within(ended).await;
    assert!(session.is_over());
    assert_eq!(session.answer(watches).await, Err(Failure::Expired));
    assert_eq!(session.ask(Request::exists("/a")).await, Err(Failure::Expired));
    assert!(within(inbox.wait()).await.read_again);
}

#[tokio::test]
async fn a_session_lasts_as_long_as_the_server_that_took_it_up_says() {
    let host = Host::start().await;
    let (session, line) = host.open(Duration::from_secs(40)).await;
    assert_eq!(session.timeout(), Duration::from_secs(40));
    drop(line);
    let (stream, _) = within(host.listener.accept()).await.unwrap();
    let mut line = Line { stream, asked_for: 0 };
    let greeting = line.frame().await;
    assert_eq!(i32::from_be_bytes(greeting[12..16].try_into().unwrap()), 40_000, "what it was told before");
    let mut answer = Writer::default();
    answer.int(0).int(20_000).long(7).buffer(b"password").bool(false);
    line.send(&answer.0).await;
    let pending = session.send(Request::exists("/a"));
    let arrived = line.arrives().await;
    line.says(arrived.number, 0, &[]).await;
    session.answer(pending).await.unwrap();
    assert_eq!(session.timeout(), Duration::from_secs(20));
}

/// A short session needs signs of life to last, though nobody asks for anything.
#[tokio::test]
async fn an_idle_session_is_pinged_and_its_answers_keep_the_connection() {
    let host = Host::start().await;
    let (session, mut line) = host.open(Duration::from_millis(90)).await;
    for _ in 0..3 {
        let ping = line.frame().await;
        assert_eq!(ping, [0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 11]);
        line.says(PING, 0, &[]).await;
    }
    assert_eq!(session.losses(), 0);
    drop(session);
    assert_eq!(line.arrives().await.code, Code::CloseSession as i32, "nobody needs it any more");
}

#[tokio::test]
async fn a_server_that_refuses_connections_is_asked_less_and_less_often() {
    let host = Host::start().await;
    let (_session, line) = host.open(LEASE).await;
    drop(line);
    let (since, mut tries) = (Instant::now(), 0);
    let watched = Duration::from_secs(1);
    while let Ok(accepted) = timeout(watched.saturating_sub(since.elapsed()), host.listener.accept()).await {
        drop(accepted);
        tries += 1;
    }
    // After 20 ms, 40, 80, 160, 320, then 500 each.
    let most = 7 + since.elapsed().as_millis() / 500;
    assert!(tries <= most && tries > 0, "{tries} tries in {:?}", since.elapsed());
}

#[tokio::test]
async fn a_user_is_known_before_anything_is_asked() {
    let host = Host::of("me:secret@", "").await;
    for (error, refused) in [(0, None), (Refusal::AUTH_FAILED.0, Some(Refusal::AUTH_FAILED))] {
        let serves = async {
            let mut line = host.greeted(7, LEASE).await;
            let login = line.frame().await;
            let mut login = Reader(&login);
            assert_eq!((login.int(), login.int()), (Ok(AUTH), Ok(Code::Auth as i32)));
            let (_, scheme, credentials) = (login.int(), login.text(), login.buffer());
            assert_eq!((scheme.unwrap().as_str(), credentials.unwrap()), ("digest", &b"me:secret"[..]));
            line.says(AUTH, error, &[]).await;
            line
        };
        let (session, _line) = tokio::join!(Session::open(&host.config, LEASE, &host.ended), serves);
        assert_eq!(session.err(), refused.map(Failure::Refused), "{error}");
    }
}

#[tokio::test]
async fn a_challenge_is_answered_before_anything_is_asked() {
    let host = Host::of("me:secret@", "&auth=sasl").await;
    let serves = async {
        let mut line = host.greeted(7, LEASE).await;
        let mut token = async |challenge: &[u8]| {
            let request = line.frame().await;
            let mut request = Reader(&request);
            let (number, code) = (request.int().unwrap(), request.int().unwrap());
            assert_eq!(code, Code::Sasl as i32);
            let mut answer = Writer::default();
            answer.buffer(challenge);
            line.says(number, 0, &answer.0).await;
            request.text().unwrap()
        };
        assert_eq!(token(b"realm=\"here\",nonce=\"n1\"").await, "");
        let response = token(b"").await;
        for part in ["username=\"me\"", "realm=\"here\"", "nonce=\"n1\"", "response="] {
            assert!(response.contains(part), "{response}");
        }
        line
    };
    let (session, _line) = tokio::join!(Session::open(&host.config, LEASE, &host.ended), serves);
    assert!(session.is_ok());
}
