//! Tests of a session's driver against everything that a server may send. The test plays the server.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::client::{Readable, WINDOW};
use super::config::Config;
use super::failure::Failure;
use super::session::Session;
use super::wire::{AUTH_XID, ErrorCode, NOTIFICATION_XID, OpCode, PING_XID, Reader, Request, Writer};
use crate::stores::address::Address;
use crate::stores::watched::inbox::Inbox;
use crate::sync::Instant;

/// Long enough for a busy machine: everything that is waited for comes at once.
const PROMPT: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(60);

/// The server that a session connects to.
struct Server {
    listener: TcpListener,
    config: Arc<Config>,
    expired: Arc<Notify>,
}

/// One connection to a session, after the handshake.
struct Connection {
    stream: TcpStream,
    /// The session that the client has presented; 0 for a new one.
    session_id: i64,
}

/// A request as the server has received it.
#[derive(Debug, PartialEq, Eq)]
struct Received {
    xid: i32,
    code: i32,
    path: String,
}

impl Server {
    async fn start() -> Server {
        Self::with("", "").await
    }

    /// With a user in front of the host in the address, and further options.
    async fn with(user: &str, options: &str) -> Server {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = format!("zookeeper://{user}127.0.0.1:{port}?timeout=30s{options}");
        let config = Address::parse(&address).and_then(Config::new).unwrap();
        Server { listener, config: Arc::new(config), expired: Arc::default() }
    }

    /// Opens a session, and returns it with its connection.
    async fn open(&self, lasts: Duration) -> (Arc<Session>, Connection) {
        let (session, connection) =
            tokio::join!(Session::open(&self.config, LEASE, &self.expired), self.accept(7, lasts));
        (session.unwrap(), connection)
    }

    /// Accepts the next connection, and returns it with its greeting, which is not answered yet.
    async fn greeted(&self) -> (Connection, Vec<u8>) {
        let (stream, _) = within(self.listener.accept()).await.unwrap();
        let mut connection = Connection { stream, session_id: 0 };
        let greeting = connection.frame().await;
        (connection, greeting)
    }

    /// Accepts the next connection, and answers with a session of this id and timeout. A timeout of zero says
    /// that the session has expired.
    async fn accept(&self, id: i64, lasts: Duration) -> Connection {
        let (mut connection, greeting) = self.greeted().await;
        let mut greeting = Reader(&greeting);
        let (_, _, asked) = (greeting.int().unwrap(), greeting.long().unwrap(), greeting.int().unwrap());
        assert_eq!(asked, 60_000, "the first connection requests the lease");
        connection.session_id = greeting.long().unwrap();
        connection.greet(id, lasts).await;
        connection
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(PROMPT, future).await.expect("it comes at once")
}

impl Connection {
    async fn frame(&mut self) -> Vec<u8> {
        let length = within(self.stream.read_i32()).await.unwrap();
        let mut frame = vec![0; length.try_into().unwrap()];
        within(self.stream.read_exact(&mut frame)).await.unwrap();
        frame
    }

    /// Answers the greeting with a session.
    async fn greet(&mut self, id: i64, lasts: Duration) {
        let mut answer = Writer::default();
        let milliseconds = i32::try_from(lasts.as_millis()).unwrap();
        answer.int(0).int(milliseconds).long(id).buffer(b"password").bool(false);
        self.send(&answer.0).await;
    }

    async fn send(&mut self, message: &[u8]) {
        let mut frames = Writer::default();
        frames.frame(message);
        self.stream.write_all(&frames.0).await.unwrap();
    }

    /// Receives the next request that is no ping.
    async fn receive(&mut self) -> Received {
        within(self.next()).await
    }

    async fn next(&mut self) -> Received {
        loop {
            let frame = self.frame().await;
            let mut request = Reader(&frame);
            let (xid, code) = (request.int().unwrap(), request.int().unwrap());
            if xid == PING_XID {
                assert_eq!(code, OpCode::Ping as i32);
                self.reply(PING_XID, 0, &[]).await;
                continue;
            }
            return Received { xid, code, path: request.text().unwrap_or_default() };
        }
    }

    async fn reply(&mut self, xid: i32, error: i32, body: &[u8]) {
        let mut answer = Writer::default();
        answer.int(xid).long(1).int(error).0.extend(body);
        self.send(&answer.0).await;
    }

    async fn send_event(&mut self, kind: i32, path: &str) {
        let mut event = Writer::default();
        event.int(kind).int(3).text(path);
        self.reply(NOTIFICATION_XID, 0, &event.0).await;
    }
}

/// Sends a request over a session, answers it without a body, and returns the type that has arrived.
async fn answered(session: &Session, connection: &mut Connection, request: Request) -> i32 {
    let pending = session.send(request);
    let received = connection.receive().await;
    connection.reply(received.xid, 0, &[]).await;
    session.answer(pending).await.unwrap();
    received.code
}

const RESUMED: &str = "a lost connection is replaced by one for the same session";

#[tokio::test]
async fn with_a_lost_connection_reads_are_repeated_and_changes_fail() {
    let server = Server::start().await;
    let (session, mut connection) = server.open(LEASE).await;
    assert_eq!(connection.session_id, 0);
    for round in 1..=3 {
        let read = session.send(Request::read(OpCode::Exists, "/a", false));
        assert_eq!(connection.receive().await.code, OpCode::Exists as i32);
        let change = session.send(Request::delete("/a"));
        assert_eq!(connection.receive().await.code, OpCode::Delete as i32);
        drop(connection);
        connection = server.accept(7, LEASE).await;
        assert_eq!(connection.session_id, 7, "{RESUMED}");
        assert!(matches!(session.answer(change).await, Err(Failure::Lost(_))));
        assert_eq!(session.reconnects(), round);
        let again = connection.receive().await;
        assert_eq!((again.code, again.path.as_str()), (OpCode::Exists as i32, "/a"));
        connection.reply(again.xid, 0, b"there").await;
        assert_eq!(session.answer(read).await, Ok(b"there".to_vec()));
    }
}

#[tokio::test]
async fn an_answer_to_no_request_ends_the_connection() {
    let server = Server::start().await;
    let (session, mut connection) = server.open(LEASE).await;
    let pending = session.send(Request::delete("/a"));
    let received = connection.receive().await;
    connection.reply(received.xid + 1, 0, &[]).await;
    assert!(matches!(session.answer(pending).await, Err(Failure::Lost(_))));
    assert_eq!(server.accept(7, LEASE).await.session_id, 7, "{RESUMED}");
}

#[tokio::test]
async fn messages_that_answer_no_request_keep_the_connection() {
    let server = Server::start().await;
    let (session, mut connection) = server.open(LEASE).await;
    // The answer to a ping, an accepted login, an event that nobody waits for.
    connection.reply(PING_XID, 0, &[]).await;
    connection.reply(AUTH_XID, 0, &[]).await;
    connection.send_event(3, "/b").await;
    let pending = session.send(Request::read(OpCode::Exists, "/a", false));
    let received = connection.receive().await;
    connection.reply(received.xid, ErrorCode::NO_NODE.0, &[]).await;
    assert_eq!(session.answer(pending).await, Err(Failure::Refused(ErrorCode::NO_NODE)));
    assert_eq!(session.reconnects(), 0);
    // A refused login ends it.
    connection.reply(AUTH_XID, ErrorCode::AUTH_FAILED.0, &[]).await;
    assert_eq!(server.accept(7, LEASE).await.session_id, 7, "{RESUMED}");
}

#[tokio::test]
async fn an_answer_that_there_is_no_such_node_is_a_value_and_no_failure() {
    let server = Server::start().await;
    let (session, mut connection) = server.open(LEASE).await;
    let mut refuse = async |error: ErrorCode| {
        let received = connection.receive().await;
        connection.reply(received.xid, error.0, &[]).await;
    };
    let (answer, ()) = tokio::join!(session.exists("/a").answer(), refuse(ErrorCode::NO_NODE));
    assert_eq!(answer, Ok(false));
    let (answer, ()) = tokio::join!(session.children("/a").answer(), refuse(ErrorCode::NO_NODE));
    assert_eq!(answer, Ok(Vec::new()));
    let (answer, ()) =
        tokio::join!(session.create_claim("/a/b", "", &[]).answer(), refuse(ErrorCode::NO_NODE));
    assert_eq!(answer, Ok(None));
    let (answer, ()) = tokio::join!(session.data("/a").answer(), refuse(ErrorCode::NO_NODE));
    assert!(matches!(answer, Ok(None)));
    let (answer, ()) = tokio::join!(session.data_if_allowed("/a").answer(), refuse(ErrorCode::NO_NODE));
    assert!(matches!(answer, Ok(Readable::Missing)));
    // What only the request for a node of somebody else expects.
    let (answer, ()) = tokio::join!(session.data_if_allowed("/a").answer(), refuse(ErrorCode::NO_AUTH));
    assert!(matches!(answer, Ok(Readable::Hidden)));
    let (answer, ()) = tokio::join!(session.data("/a").answer(), refuse(ErrorCode::NO_AUTH));
    assert!(matches!(answer, Err(Failure::Refused(ErrorCode::NO_AUTH))));
    let (answer, ()) = tokio::join!(session.delete("/a"), refuse(ErrorCode::NO_NODE));
    assert_eq!(answer, Ok(false));
    let (answer, ()) = tokio::join!(session.delete_if_empty("/a"), refuse(ErrorCode::NOT_EMPTY));
    assert_eq!(answer, Ok(false));
    let (answer, ()) = tokio::join!(session.delete_if_empty("/a"), refuse(ErrorCode::NO_NODE));
    assert_eq!(answer, Ok(true), "it is gone");
    let created = session.create_container("/a", &[]).answer();
    let (answer, ()) = tokio::join!(created, refuse(ErrorCode::NODE_EXISTS));
    assert_eq!(answer, Ok(()));
}

#[tokio::test]
async fn many_requests_are_answered_in_their_order() {
    let server = Server::start().await;
    let (session, mut connection) = server.open(LEASE).await;
    let paths: Vec<String> = (0..=WINDOW).map(|number| format!("/{number}")).collect();
    let serves = async {
        for (number, path) in paths.iter().enumerate() {
            let received = connection.receive().await;
            assert_eq!(&received.path, path);
            let error = if number % 3 == 0 { ErrorCode::NO_NODE.0 } else { 0 };
            connection.reply(received.xid, error, &[]).await;
        }
    };
    let (answers, ()) = tokio::join!(session.each(&paths, Session::exists), serves);
    let expected: Vec<bool> = (0..=WINDOW).map(|number| number % 3 != 0).collect();
    assert_eq!(answers, Ok(expected));
}

#[tokio::test]
async fn a_watch_notifies_once_of_a_deletion_or_that_the_node_must_be_read_again() {
    let server = Server::start().await;
    let (session, mut connection) = server.open(LEASE).await;
    let inbox = Arc::<Inbox>::default();
    for (kind, deleted) in [(2, vec![b"/a".to_vec()]), (3, Vec::new())] {
        let pending = session.watch("/a", &inbox);
        let received = connection.receive().await;
        assert_eq!((received.code, received.path.as_str()), (OpCode::GetData as i32, "/a"));
        connection.reply(received.xid, 0, &[]).await;
        assert!(pending.answer().await.unwrap());
        connection.send_event(kind, "/a").await;
        let changes = within(inbox.wait()).await;
        assert_eq!((changes.read_again, &changes.deleted), (deleted.is_empty(), &deleted));
        assert!(session.state().facts().watches.is_empty(), "a watch notifies once");
    }
    // Without a connection, notifications may be missed.
    let _pending = session.watch("/a", &inbox);
    connection.receive().await;
    drop(connection);
    assert!(within(inbox.wait()).await.read_again);
}

#[tokio::test]
async fn an_expired_session_fails_its_requests_and_wakes_its_waiters() {
    let server = Server::start().await;
    let (session, mut connection) = server.open(LEASE).await;
    let inbox = Arc::<Inbox>::default();
    let watch = session.watch("/a", &inbox);
    connection.receive().await;
    drop(connection);
    let expired = server.expired.notified();
    let connection = server.accept(0, Duration::ZERO).await;
    assert_eq!(connection.session_id, 7, "{RESUMED}");
    within(expired).await;
    assert!(session.is_expired());
    assert_eq!(watch.answer().await, Err(Failure::Expired));
    assert_eq!(session.ask(Request::read(OpCode::Exists, "/a", false)).await, Err(Failure::Expired));
    assert!(within(inbox.wait()).await.read_again);
}

#[tokio::test]
async fn a_session_has_the_shortest_timeout_that_its_servers_have_granted() {
    let server = Server::start().await;
    let (session, connection) = server.open(Duration::from_secs(40)).await;
    assert_eq!(session.timeout(), Duration::from_secs(40));
    drop(connection);
    let (mut connection, greeting) = server.greeted().await;
    assert_eq!(
        i32::from_be_bytes(greeting[12..16].try_into().unwrap()),
        40_000,
        "the timeout that was granted before"
    );
    connection.greet(7, Duration::from_secs(20)).await;
    answered(&session, &mut connection, Request::read(OpCode::Exists, "/a", false)).await;
    assert_eq!(session.timeout(), Duration::from_secs(20));
    // Another leader may know of the shorter one only.
    drop(connection);
    let (mut connection, _) = server.greeted().await;
    connection.greet(7, Duration::from_secs(40)).await;
    answered(&session, &mut connection, Request::read(OpCode::Exists, "/a", false)).await;
    assert_eq!(session.timeout(), Duration::from_secs(20));
}

/// A short session expires without signs of life, so it is pinged while no request is sent.
#[tokio::test]
async fn an_idle_session_is_pinged_and_the_answers_keep_the_connection() {
    let server = Server::start().await;
    let (session, mut connection) = server.open(Duration::from_millis(90)).await;
    for _ in 0..3 {
        let ping = connection.frame().await;
        assert_eq!(ping, [0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 11]);
        connection.reply(PING_XID, 0, &[]).await;
    }
    assert_eq!(session.reconnects(), 0);
    drop(session);
    assert_eq!(connection.receive().await.code, OpCode::CloseSession as i32, "its last user has dropped it");
}

#[tokio::test]
async fn the_deadline_moves_to_an_older_sign_once_a_majority_answers_and_with_no_other_answer() {
    let server = Server::start().await;
    let lasts = Duration::from_secs(3);
    let (session, mut connection) = server.open(lasts).await;
    let created = session.counted_from();
    let given = Instant::now();
    answered(&session, &mut connection, Request::read(OpCode::Exists, "/a", false)).await;
    tokio::time::sleep(lasts / 3).await;
    answered(&session, &mut connection, Request::sync("/")).await;
    assert_eq!(session.counted_from(), created, "a leader answers that alone");
    let asked = Instant::now();
    let confirms = || Request::multi(&[Request::check("/")]);
    assert_eq!(answered(&session, &mut connection, confirms()).await, OpCode::Multi as i32);
    let counted = session.counted_from();
    assert!(given <= counted && counted < asked, "from a sign that was surely reported, and no later one");
    // What was not reported by a member that has lost the session never may be.
    answered(&session, &mut connection, Request::read(OpCode::Exists, "/a", false)).await;
    let before = Instant::now();
    drop(connection);
    let (mut connection, _) = server.greeted().await;
    connection.greet(7, lasts).await;
    assert_eq!(session.counted_from(), counted, "a member that is cut off with its leader greets too");
    answered(&session, &mut connection, confirms()).await;
    assert!(session.counted_from() > before, "the leader was asked for the session");
}

#[tokio::test]
async fn a_server_that_refuses_connections_is_tried_less_and_less_often() {
    let server = Server::start().await;
    let (_session, connection) = server.open(LEASE).await;
    drop(connection);
    let (since, mut tries) = (Instant::now(), 0);
    let watched = Duration::from_secs(1);
    while let Ok(accepted) = timeout(watched.saturating_sub(since.elapsed()), server.listener.accept()).await
    {
        drop(accepted);
        tries += 1;
    }
    // The pauses are 20 ms, 40, 80, 160, 320, then 500 each.
    let most = 7 + since.elapsed().as_millis() / 500;
    assert!(tries <= most && tries > 0, "{tries} tries in {:?}", since.elapsed());
}

#[tokio::test]
async fn a_user_logs_in_before_the_first_request() {
    let server = Server::with("me:secret@", "").await;
    for (error, refused) in [(0, None), (ErrorCode::AUTH_FAILED.0, Some(ErrorCode::AUTH_FAILED))] {
        let serves = async {
            let mut connection = server.accept(7, LEASE).await;
            let login = connection.frame().await;
            let mut login = Reader(&login);
            assert_eq!((login.int(), login.int()), (Ok(AUTH_XID), Ok(OpCode::Auth as i32)));
            let (_, scheme, credentials) = (login.int(), login.text(), login.buffer());
            assert_eq!((scheme.unwrap().as_str(), credentials.unwrap()), ("digest", &b"me:secret"[..]));
            connection.reply(AUTH_XID, error, &[]).await;
            connection
        };
        let (session, _line) = tokio::join!(Session::open(&server.config, LEASE, &server.expired), serves);
        let is_refused = refused.is_some();
        assert_eq!(session.err(), refused.map(Failure::Refused), "{error}");
        if is_refused {
            // The session that was created first is closed, over a connection that is read.
            let mut connection = server.accept(7, LEASE).await;
            assert_eq!(connection.session_id, 7);
            assert_eq!(connection.receive().await.code, OpCode::CloseSession as i32);
        }
    }
}

#[tokio::test]
async fn a_challenge_is_answered_before_the_first_request() {
    let server = Server::with("me:secret@", "&auth=sasl").await;
    let serves = async {
        let mut connection = server.accept(7, LEASE).await;
        let mut token = async |challenge: &[u8]| {
            let request = connection.frame().await;
            let mut request = Reader(&request);
            let (xid, code) = (request.int().unwrap(), request.int().unwrap());
            assert_eq!(code, OpCode::Sasl as i32);
            let mut answer = Writer::default();
            answer.buffer(challenge);
            connection.reply(xid, 0, &answer.0).await;
            request.text().unwrap()
        };
        assert_eq!(token(b"realm=\"here\",nonce=\"n1\"").await, "");
        let response = token(b"").await;
        for part in ["username=\"me\"", "realm=\"here\"", "nonce=\"n1\"", "response="] {
            assert!(response.contains(part), "{response}");
        }
        connection
    };
    let (session, _line) = tokio::join!(Session::open(&server.config, LEASE, &server.expired), serves);
    assert!(session.is_ok());
}
