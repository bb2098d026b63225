//! A server for tests, of which each answer can be kept back, and what happens when answers overtake each other.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::wire::{Reader, Refusal, Writer};
use super::{Address, Backend, Claim, ClaimId, ClaimStatus, Name, Release, WaitMode, ZooKeeper};
use crate::queue::Permits;

const CREATE: i32 = 15;
const DELETE: i32 = 2;
const EXISTS: i32 = 3;
const DATA: i32 = 4;
const CHILDREN: i32 = 8;
const CREATE_CONTAINER: i32 = 19;
const EXPIRED: i32 = -112;

/// One server, whose locks' nodes are all there.
struct Peer {
    url: String,
    state: Arc<Mutex<State>>,
    /// Whether answers are sent.
    answers: watch::Sender<bool>,
    /// Ends the connections that are open.
    cut: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    /// Each claim's node, and its session.
    nodes: BTreeMap<String, i64>,
    sessions: Vec<i64>,
    /// Requests are numbered like transactions.
    transaction: i64,
    sequence: i32,
    asked: HashMap<i32, usize>,
    connections: usize,
    /// Whether a connection ends once the session is there.
    hangs_up: bool,
}

impl Peer {
    async fn start() -> Peer {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("zookeeper://127.0.0.1:{}?timeout=30s", listener.local_addr().unwrap().port());
        let peer = Peer {
            url,
            state: Arc::default(),
            answers: watch::Sender::new(true),
            cut: watch::Sender::default(),
        };
        let (state, answers, cut) = (Arc::clone(&peer.state), peer.answers.subscribe(), peer.cut.subscribe());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let served = serve(stream, Arc::clone(&state), answers.clone());
                let mut cut = cut.clone();
                // Only what is open when it is told is cut.
                cut.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        () = served => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        peer
    }

    async fn store(&self) -> Arc<ZooKeeper> {
        ZooKeeper::connect(Address::parse(&self.url).unwrap()).await.unwrap()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn asked(&self, code: i32) -> usize {
        self.state().asked.get(&code).copied().unwrap_or(0)
    }

    /// Waits until so many requests of a kind have arrived.
    async fn has_been_asked(&self, code: i32, times: usize) {
        let until = Instant::now() + Duration::from_secs(30);
        while self.asked(code) < times {
            assert!(Instant::now() < until, "{} requests of kind {code}, not {times}", self.asked(code));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends all sessions, as if nobody had given a sign of life.
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
                state.transaction += 1;
                let session = state.transaction;
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
        let (number, code) = (request.int().unwrap(), request.int().unwrap());
        *self.asked.entry(code).or_default() += 1;
        self.transaction += 1;
        let transaction = self.transaction;
        let mut body = Writer::default();
        let stat = |body: &mut Writer, session: i64| {
            body.long(transaction).long(transaction).long(0).long(0).int(0).int(0).int(0).long(session);
        };
        let path = request.text().unwrap_or_default();
        let found = self.nodes.get(&path).copied();
        let error = match code {
            _ if !self.sessions.contains(&session) => EXPIRED,
            CREATE => {
                let path = format!("{path}{:010}", self.sequence);
                self.sequence += 1;
                body.text(&path);
                stat(&mut body, session);
                self.nodes.insert(path, session);
                0
            }
            EXISTS | DATA if found.is_none() => Refusal::NO_NODE.0,
            DATA => {
                body.buffer(b"");
                stat(&mut body, found.unwrap_or(0));
                0
            }
            EXISTS => {
                stat(&mut body, found.unwrap_or(0));
                0
            }
            DELETE if self.nodes.remove(&path).is_none() => Refusal::NO_NODE.0,
            CREATE_CONTAINER => Refusal::NODE_EXISTS.0,
            CHILDREN => {
                let below: Vec<&str> = self
                    .nodes
                    .keys()
                    .filter_map(|node| node.strip_prefix(&path)?.strip_prefix('/'))
                    .collect();
                body.int(i32::try_from(below.len()).unwrap());
                for node in below {
                    body.text(node);
                }
                0
            }
            _ => 0,
        };
        let mut answer = Writer::default();
        answer.int(number).long(transaction).int(error).0.extend(&body.0);
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
    }
}

const MUTEX: Permits = Permits { count: 1, capacity: 1 };
const READ: Permits = Permits { count: 1, capacity: 100_000 };

#[tokio::test]
async fn a_claim_whose_making_is_under_way_is_waiting_and_not_forgotten() {
    let peer = Peer::start().await;
    let store = peer.store().await;
    let claim = Arc::new(claim(1, MUTEX));
    // Its session is there.
    store.enqueue(&claim).await.unwrap();
    store.release(&claim).await.unwrap();
    peer.answers.send_replace(false);
    let joining = tokio::spawn({
        let (store, claim) = (Arc::clone(&store), Arc::clone(&claim));
        async move { store.enqueue(&claim).await }
    });
    // It is made, but its answer is lost with the connection, and its owner gives up for now.
    peer.has_been_asked(CREATE, 2).await;
    peer.cut.send_replace(());
    peer.has_been_asked(CHILDREN, 3).await;
    joining.abort();
    assert!(joining.await.unwrap_err().is_cancelled());
    peer.answers.send_replace(true);
    let renewed = store.renew(&[Arc::clone(&claim)]).await;
    assert!(matches!(renewed[..], [Ok(ClaimStatus::Waiting)]), "{renewed:?}");
    assert!(
        matches!(store.enqueue(&claim).await, Ok(ClaimStatus::Held(_))),
        "it does not wait behind itself"
    );
    assert_eq!((peer.asked(CREATE), peer.state().nodes.len()), (2, 1), "no second node was made");
    assert_eq!(store.release(&claim).await.unwrap(), Release::Released);
    assert_eq!(peer.state().nodes.len(), 0);
}

/// A renewal is asked and answered, `between` has the claim made again, and only then the renewal is taken note of.
async fn a_late_renewal(between: impl AsyncFn(&Peer, &ZooKeeper, &Claim)) {
    let peer = Peer::start().await;
    let store = peer.store().await;
    let claim = Arc::new(claim(1, MUTEX));
    assert!(matches!(store.enqueue(&claim).await, Ok(ClaimStatus::Held(_))));
    peer.answers.send_replace(false);
    let claims = [Arc::clone(&claim)];
    let before = peer.asked(EXISTS);
    between(&peer, &store, &claim).await;
    let mut renewal = Box::pin(store.renew(&claims));
    assert!((&mut renewal).now_or_never().is_none());
    peer.has_been_asked(EXISTS, before + 1).await;
    peer.answers.send_replace(true);
    // The store learns of the end, and makes the claim again.
    let status = loop {
        match store.enqueue(&claim).await.unwrap() {
            ClaimStatus::Gone => {}
            status => break status,
        }
    };
    assert!(matches!(status, ClaimStatus::Held(_)), "{status:?}");
    let renewed = renewal.await;
    assert!(matches!(renewed[..], [Ok(ClaimStatus::Held(_))]), "it says what is known now: {renewed:?}");
    assert_eq!(peer.state().nodes.len(), 1);
    assert_eq!(store.release(&claim).await.unwrap(), Release::Released, "the new node is known");
    assert_eq!(peer.state().nodes.len(), 0);
}

#[tokio::test]
async fn a_late_answer_about_an_older_node_does_not_make_the_store_forget_the_newer() {
    a_late_renewal(async |peer, _, _| peer.state().nodes.clear()).await;
}

#[tokio::test]
async fn the_end_of_an_older_session_does_not_make_the_store_forget_a_claim_of_the_newer() {
    a_late_renewal(async |peer, _, _| peer.end_sessions()).await;
}

#[tokio::test]
async fn claims_that_join_at_once_read_the_queue_together() {
    let peer = Peer::start().await;
    let store = peer.store().await;
    let holder = claim(0, MUTEX);
    store.enqueue(&holder).await.unwrap();
    let before = peer.asked(CHILDREN);
    let join_all = async |permits, from: u64| {
        let joins = (from..from + 200).map(|number| {
            let (store, claim) = (Arc::clone(&store), claim(number, permits));
            tokio::spawn(async move { store.enqueue(&claim).await.unwrap() })
        });
        for join in joins.collect::<Vec<_>>() {
            assert_eq!(join.await.unwrap(), ClaimStatus::Waiting);
        }
        peer.asked(CHILDREN) - before
    };
    assert_eq!(join_all(MUTEX, 1).await, 0, "the holder is known, and waited for");
    let read = join_all(READ, 1000).await;
    assert!((1..100).contains(&read), "200 readers read the queue {read} times");
    // One that does not wait asks for no more than whether the last is there.
    let once = Claim { wait_mode: WaitMode::Try, ..claim(5000, MUTEX) };
    assert_eq!(store.enqueue(&once).await.unwrap(), ClaimStatus::Gone);
    assert_eq!(peer.asked(CHILDREN) - before, read);
    assert_eq!(peer.state().nodes.len(), 401);
}

#[tokio::test]
async fn a_server_that_takes_the_session_and_hangs_up_is_not_asked_all_the_time() {
    let peer = Peer::start().await;
    let store = peer.store().await;
    store.enqueue(&claim(1, MUTEX)).await.unwrap();
    peer.state().hangs_up = true;
    let (before, since) = (peer.state().connections, Instant::now());
    peer.cut.send_replace(());
    let tried = || peer.state().connections - before;
    while tried() < 5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(since.elapsed() < Duration::from_secs(30), "whoever is cut off connects again");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (tried, took) = (tried(), since.elapsed());
    // 20 ms, 40, 80, 160, 320, then 500 each, for each of the two sessions.
    assert!(tried <= 2 * (6 + took.as_millis() as usize / 500), "{tried} connections in {took:?}");
    // Served again, it is as before: nothing was lost.
    peer.state().hangs_up = false;
    assert!(matches!(store.enqueue(&claim(1, MUTEX)).await, Ok(ClaimStatus::Held(_))));
}
