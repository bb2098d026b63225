//! A server for tests that can hold back each answer, and tests of answers that overtake each other.

mod evicting;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::wire::{ErrorCode, Reader, Writer};
use super::{Address, Backend, Claim, ClaimStatus, Name, Release, WaitMode, ZooKeeper};
use crate::backend::ClaimId;
use crate::queue::Permits;
use crate::sync::Instant;

const CREATE: i32 = 15;
const DELETE: i32 = 2;
const EXISTS: i32 = 3;
const DATA: i32 = 4;
const CHILDREN: i32 = 8;
const CHECK: i32 = 13;
const MULTI: i32 = 14;
const CREATE_CONTAINER: i32 = 19;
const EXPIRED: i32 = -112;

/// One server, on which the node of every lock exists.
struct Server {
    url: String,
    state: Arc<Mutex<State>>,
    /// Whether answers are sent or held back.
    answers: watch::Sender<bool>,
    /// Closes the open connections.
    cut: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    /// The session of each claim's node, by the node's path.
    nodes: BTreeMap<String, i64>,
    data: HashMap<String, Vec<u8>>,
    /// Nodes that appear with the next request of a type, right after it was carried out.
    appear_after: HashMap<i32, Vec<(String, i64)>>,
    sessions: Vec<i64>,
    /// Counts requests as if each were a transaction.
    zxid: i64,
    sequence: i32,
    /// How many requests of each type have arrived.
    requests: HashMap<i32, usize>,
    connections: usize,
    /// How many of them have ended.
    ended: usize,
    /// Whether connections are closed right after the handshake.
    hangs_up: bool,
}

impl Server {
    async fn start() -> Server {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("zookeeper://127.0.0.1:{}?timeout=30s", listener.local_addr().unwrap().port());
        let server = Server {
            url,
            state: Arc::default(),
            answers: watch::Sender::new(true),
            cut: watch::Sender::default(),
        };
        let (state, answers, cut) =
            (Arc::clone(&server.state), server.answers.subscribe(), server.cut.subscribe());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let served = serve(stream, Arc::clone(&state), answers.clone());
                let (mut cut, state) = (cut.clone(), Arc::clone(&state));
                // Only connections that are open at the time are closed.
                cut.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        () = served => {}
                        _ = cut.changed() => {}
                    }
                    state.lock().unwrap().ended += 1;
                });
            }
        });
        server
    }

    async fn store(&self) -> Arc<ZooKeeper> {
        let store = ZooKeeper::open(Address::parse(&self.url).unwrap()).unwrap();
        store.ready().await.unwrap();
        store
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn requests(&self, code: i32) -> usize {
        self.state().requests.get(&code).copied().unwrap_or(0)
    }

    /// Waits until this many requests of a type have arrived.
    async fn wait_for_requests(&self, code: i32, times: usize) {
        let until = Instant::now() + Duration::from_secs(30);
        while self.requests(code) < times {
            assert!(Instant::now() < until, "{} requests of type {code}, not {times}", self.requests(code));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends all sessions, as if they had expired.
    fn end_sessions(&self) {
        let mut state = self.state();
        state.sessions.clear();
        state.nodes.clear();
    }
}

async fn frame(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Vec<u8>> {
    let length = stream.read_i32().await.ok()?;
    let mut frame = vec![0; usize::try_from(length).ok()?];
    stream.read_exact(&mut frame).await.ok()?;
    Some(frame)
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>, mut answers: watch::Receiver<bool>) {
    let Some(greeting) = frame(&mut stream).await else { return };
    let mut greeting = Reader(&greeting);
    let (_, _, timeout) = (greeting.int().unwrap(), greeting.long().unwrap(), greeting.int().unwrap());
    let session = greeting.long().unwrap();
    let (session, hangs_up) = {
        let mut state = state.lock().unwrap();
        state.connections += 1;
        let session = match session {
            0 => {
                state.zxid += 1;
                let session = state.zxid;
                state.sessions.push(session);
                session
            }
            known if state.sessions.contains(&known) => known,
            _ => 0,
        };
        (session, state.hangs_up)
    };
    let mut answer = Writer::default();
    let timeout = if session == 0 { 0 } else { timeout };
    answer.int(0).int(timeout).long(session).buffer(&[0; 16]).bool(false);
    let mut frames = Writer::default();
    frames.frame(&answer.0);
    if stream.write_all(&frames.0).await.is_err() || session == 0 || hangs_up {
        return;
    }
    let (mut requests, mut to_client) = stream.into_split();
    let (answered, mut to_send) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
    let sends = async {
        while let Some(frames) = to_send.recv().await {
            if answers.wait_for(|pass| *pass).await.is_err() || to_client.write_all(&frames).await.is_err() {
                return;
            }
        }
    };
    let receives = async {
        while let Some(request) = frame(&mut requests).await {
            let mut frames = Writer::default();
            frames.frame(&state.lock().unwrap().answer(session, &request));
            let _ = answered.send(frames.0);
        }
    };
    tokio::select! {
        () = sends => {}
        () = receives => {}
    }
}

impl State {
    fn answer(&mut self, session: i64, request: &[u8]) -> Vec<u8> {
        let mut request = Reader(request);
        let (xid, code) = (request.int().unwrap(), request.int().unwrap());
        *self.requests.entry(code).or_default() += 1;
        self.zxid += 1;
        let zxid = self.zxid;
        let arrived = request;
        let mut body = Writer::default();
        let stat = |body: &mut Writer, session: i64| {
            body.long(zxid).long(zxid).long(0).long(0).int(0).int(0).int(0).long(session);
        };
        let path = request.text().unwrap_or_default();
        let found = self.nodes.get(&path).copied();
        let error = match code {
            _ if !self.sessions.contains(&session) => EXPIRED,
            CREATE => {
                let path = format!("{path}{:010}", self.sequence);
                self.sequence += 1;
                self.data.insert(path.clone(), request.buffer().unwrap().to_vec());
                body.text(&path);
                stat(&mut body, session);
                self.nodes.insert(path, session);
                0
            }
            EXISTS | DATA if found.is_none() => ErrorCode::NO_NODE.0,
            DATA => {
                body.buffer(self.data.get(&path).map_or(b"", Vec::as_slice));
                stat(&mut body, found.unwrap_or(0));
                0
            }
            EXISTS => {
                stat(&mut body, found.unwrap_or(0));
                0
            }
            DELETE if self.nodes.remove(&path).is_none() => ErrorCode::NO_NODE.0,
            CREATE_CONTAINER => ErrorCode::NODE_EXISTS.0,
            MULTI => {
                self.multi(session, arrived, &mut body);
                0
            }
            CHILDREN => {
                let below: Vec<&str> = self
                    .nodes
                    .keys()
                    .filter_map(|node| node.strip_prefix(&path)?.strip_prefix('/'))
                    .filter(|node| !node.contains('/'))
                    .collect();
                body.int(i32::try_from(below.len()).unwrap());
                for node in below {
                    body.text(node);
                }
                0
            }
            _ => 0,
        };
        self.nodes.extend(self.appear_after.remove(&code).unwrap_or_default());
        let mut answer = Writer::default();
        answer.int(xid).long(zxid).int(error).0.extend(&body.0);
        answer.0
    }
}

/// A claim of the lock `a`.
pub(super) fn claim(number: u64, permits: Permits) -> Claim {
    Claim {
        id: ClaimId::new(7, number),
        name: Name::new("a").unwrap(),
        permits,
        wait_mode: WaitMode::Wait,
        lease: Duration::from_secs(60),
        max_hold: None,
        owner: "".into(),
        wants_value: false,
    }
}

const MUTEX: Permits = Permits::MUTEX;
const READ: Permits = Permits::new(1, 100_000);

#[tokio::test]
async fn a_claim_whose_creation_is_in_flight_is_waiting_and_not_forgotten() {
    let server = Server::start().await;
    let store = server.store().await;
    let claim = Arc::new(claim(1, MUTEX));
    // This opens its session.
    store.enqueue(&claim).await.unwrap();
    store.release(&claim).await.unwrap();
    server.answers.send_replace(false);
    let enqueuing = tokio::spawn({
        let (store, claim) = (Arc::clone(&store), Arc::clone(&claim));
        async move { store.enqueue(&claim).await }
    });
    // Its node is created, but the answer is lost with the connection, and its owner drops the call.
    server.wait_for_requests(CREATE, 2).await;
    server.cut.send_replace(());
    server.wait_for_requests(CHILDREN, 3).await;
    enqueuing.abort();
    assert!(enqueuing.await.unwrap_err().is_cancelled());
    server.answers.send_replace(true);
    let renewed = store.renew(&[Arc::clone(&claim)]).await;
    assert!(matches!(renewed[..], [Ok(ClaimStatus::Waiting)]), "{renewed:?}");
    assert!(
        matches!(store.enqueue(&claim).await, Ok(ClaimStatus::Held(_))),
        "it does not wait behind itself"
    );
    assert_eq!((server.requests(CREATE), server.state().nodes.len()), (2, 1), "no second node was created");
    assert_eq!(store.release(&claim).await.unwrap(), Release::Released);
    assert_eq!(server.state().nodes.len(), 0);
}

#[tokio::test]
async fn a_node_that_a_lost_creation_makes_late_is_deleted_though_the_creation_was_repeated() {
    let server = Server::start().await;
    let store = server.store().await;
    let claim = Claim { lease: Duration::from_secs(6), ..claim(1, MUTEX) };
    store.enqueue(&claim).await.unwrap();
    store.release(&claim).await.unwrap();
    server.answers.send_replace(false);
    let enqueuing = tokio::spawn({
        let (store, claim) = (Arc::clone(&store), claim.clone());
        async move { store.enqueue(&claim).await }
    });
    // The creation is on its way somewhere, and its connection is lost. Another connection creates a node.
    server.wait_for_requests(CREATE, 2).await;
    let late = std::mem::take(&mut server.state().nodes);
    assert_eq!(late.len(), 1);
    let listed = server.requests(CHILDREN);
    server.cut.send_replace(());
    server.wait_for_requests(CHILDREN, listed + 1).await;
    server.answers.send_replace(true);
    let status = enqueuing.await.unwrap();
    assert!(matches!(status, Ok(ClaimStatus::Held(_))), "{status:?}");
    assert_eq!(server.requests(CREATE), 3);
    assert_eq!(store.release(&claim).await.unwrap(), Release::Released);
    // Now the first creation is carried out.
    server.state().nodes.extend(late);
    let deleted = async {
        while !server.state().nodes.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), deleted).await.expect("the late node is deleted");
}

/// The answer to a renewal arrives late: `between` ends the claim and it is enqueued again before the store
/// handles it.
async fn late_renewal(between: impl AsyncFn(&Server, &ZooKeeper, &Claim)) {
    let server = Server::start().await;
    let store = server.store().await;
    let claim = Arc::new(claim(1, MUTEX));
    assert!(matches!(store.enqueue(&claim).await, Ok(ClaimStatus::Held(_))));
    server.answers.send_replace(false);
    let claims = [Arc::clone(&claim)];
    let before = server.requests(EXISTS);
    between(&server, &store, &claim).await;
    let mut renewal = Box::pin(store.renew(&claims));
    assert!((&mut renewal).now_or_never().is_none());
    server.wait_for_requests(EXISTS, before + 1).await;
    server.answers.send_replace(true);
    // The store finds the claim gone, and enqueues it again.
    let status = loop {
        match store.enqueue(&claim).await.unwrap() {
            ClaimStatus::Gone => {}
            status => break status,
        }
    };
    assert!(matches!(status, ClaimStatus::Held(_)), "{status:?}");
    let renewed = renewal.await;
    assert!(matches!(renewed[..], [Ok(ClaimStatus::Held(_))]), "it returns the status of now: {renewed:?}");
    assert_eq!(server.state().nodes.len(), 1);
    assert_eq!(store.release(&claim).await.unwrap(), Release::Released, "the new node is known");
    assert_eq!(server.state().nodes.len(), 0);
}

#[tokio::test]
async fn a_late_answer_for_an_older_node_does_not_forget_the_newer_node() {
    late_renewal(async |server, _, _| server.state().nodes.clear()).await;
}

#[tokio::test]
async fn an_expired_older_session_does_not_forget_a_claim_of_the_newer_session() {
    late_renewal(async |server, _, _| server.end_sessions()).await;
}

#[tokio::test]
async fn claims_that_are_enqueued_at_once_share_reads_of_the_queue() {
    let server = Server::start().await;
    let store = server.store().await;
    let holder = claim(0, READ);
    store.enqueue(&holder).await.unwrap();
    let before = server.requests(CHILDREN);
    let enqueue_all = async |permits, from: u64| {
        let enqueues = (from..from + 200).map(|number| {
            let (store, claim) = (Arc::clone(&store), claim(number, permits));
            tokio::spawn(async move { store.enqueue(&claim).await.unwrap() })
        });
        let mut waiting = 0;
        for enqueue in enqueues.collect::<Vec<_>>() {
            waiting += usize::from(enqueue.await.unwrap() == ClaimStatus::Waiting);
        }
        (waiting, server.requests(CHILDREN) - before)
    };
    let (waiting, read) = enqueue_all(READ, 1).await;
    assert!(waiting == 0 && (1..100).contains(&read), "200 readers read the queue {read} times");
    assert_eq!(enqueue_all(MUTEX, 1000).await, (200, read), "the last reader is known, so no read is needed");
    assert_eq!(enqueue_all(READ, 2000).await, (200, read), "what keeps the last claim waiting is known");
    // A claim that does not wait only asks whether its predecessor is there.
    let once = Claim { wait_mode: WaitMode::Try, ..claim(5000, MUTEX) };
    assert_eq!(store.enqueue(&once).await.unwrap(), ClaimStatus::Gone);
    assert_eq!(server.requests(CHILDREN) - before, read);
    assert_eq!(server.state().nodes.len(), 601);
}

#[tokio::test]
async fn a_server_that_closes_every_connection_is_tried_less_and_less_often() {
    let server = Server::start().await;
    let store = server.store().await;
    store.enqueue(&claim(1, MUTEX)).await.unwrap();
    server.state().hangs_up = true;
    let (before, since) = (server.state().connections, Instant::now());
    server.cut.send_replace(());
    let tried = || server.state().connections - before;
    while tried() < 5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(since.elapsed() < Duration::from_secs(30), "a lost connection is replaced");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (tried, took) = (tried(), since.elapsed());
    // Each of the two sessions pauses for 20 ms, 40, 80, 160, 320, then 500 each.
    assert!(tried <= 2 * (6 + took.as_millis() as usize / 500), "{tried} connections in {took:?}");
    // Once the server serves again, nothing was lost.
    server.state().hangs_up = false;
    assert!(matches!(store.enqueue(&claim(1, MUTEX)).await, Ok(ClaimStatus::Held(_))));
}
