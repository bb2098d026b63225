//! Evictions that meet lost answers, late creations and expired sessions.

use super::super::evict::keep;
use super::*;
use crate::Owner;
use crate::backend::{EntryKey, Eviction};

const LOCK: &str = "/_glocks/a/";

impl State {
    /// Carries out several changes at once, or none.
    pub(super) fn multi(&mut self, session: i64, mut request: Reader<'_>, body: &mut Writer) {
        let before = (self.nodes.clone(), self.data.clone());
        let mut codes = Vec::new();
        loop {
            let code = request.int().unwrap();
            request.0 = &request.0[1..];
            request.int().unwrap();
            if code == -1 {
                break;
            }
            let path = request.text().unwrap();
            let (above, _) = path.rsplit_once('/').unwrap();
            let is_there = self.nodes.contains_key(&path);
            codes.push(match code {
                DELETE => {
                    request.int().unwrap();
                    if self.nodes.remove(&path).is_some() { 0 } else { ErrorCode::NO_NODE.0 }
                }
                CHECK => {
                    request.int().unwrap();
                    // The root, which is always there, is compared when a session is confirmed.
                    if is_there || path == "/" { 0 } else { ErrorCode::NO_NODE.0 }
                }
                _ => {
                    self.data.insert(path.clone(), request.buffer().unwrap().to_vec());
                    for _ in 0..request.int().unwrap() {
                        let _rule =
                            (request.int().unwrap(), request.text().unwrap(), request.text().unwrap());
                    }
                    request.int().unwrap();
                    let above_is_there = above == "/_glocks" || self.nodes.contains_key(above);
                    match (is_there, above_is_there) {
                        (true, _) => ErrorCode::NODE_EXISTS.0,
                        (_, false) => ErrorCode::NO_NODE.0,
                        _ => {
                            self.nodes.insert(path, if code == CREATE_CONTAINER { 0 } else { session });
                            0
                        }
                    }
                }
            });
        }
        let refused = codes.iter().any(|code| *code != 0);
        if refused {
            (self.nodes, self.data) = before;
        }
        for code in codes.iter().take_while(|_| refused) {
            body.int(-1).bool(false).int(*code).int(*code);
        }
        body.int(-1).bool(true).int(-1);
    }

    fn claims(&self) -> Vec<&str> {
        self.nodes.keys().filter_map(|path| path.strip_prefix(LOCK)).collect()
    }
}

fn notice(claim: &Claim) -> [(String, i64); 3] {
    let (all, manager) = ("/_glocks/%evicted", claim.id.manager());
    let paths = [all.to_owned(), format!("{all}/{manager}"), format!("{all}/{manager}/{}", claim.id)];
    paths.map(|path| (path, 99))
}

impl Server {
    /// Does what an onlooker does who evicts a claim.
    fn evict(&self, claim: &Claim) {
        let mut state = self.state();
        state.nodes.retain(|path, _| !path.contains(&claim.id.to_string()));
        state.nodes.extend(notice(claim));
    }

    /// Starts to enqueue a claim, and returns when its node has been created and no answer was sent.
    async fn enqueue_without_answer(
        &self,
        store: &Arc<ZooKeeper>,
        claim: &Claim,
    ) -> tokio::task::JoinHandle<crate::Result<ClaimStatus>> {
        let (created, listed) = (self.requests(CREATE), self.requests(CHILDREN));
        self.answers.send_replace(false);
        let (enqueues, asked) = (Arc::clone(store), claim.clone());
        let enqueuing = tokio::spawn(async move { enqueues.enqueue(&asked).await });
        self.wait_for_requests(CREATE, created + 1).await;
        self.wait_for_requests(CHILDREN, listed + 1).await;
        enqueuing
    }

    /// Loses the answers that are held back, and sends those to come.
    async fn lose_answers(&self) {
        let open = self.state().connections;
        self.cut.send_replace(());
        while self.state().ended < open {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.answers.send_replace(true);
    }
}

fn is_evicted(status: &crate::Result<ClaimStatus>) -> bool {
    matches!(status, Ok(ClaimStatus::Evicted(_)))
}

/// Checks that every further answer says that the claim was evicted, and that it does not join.
async fn stays_evicted(server: &Server, store: &ZooKeeper, claim: &Claim) {
    let created = server.requests(CREATE);
    for _ in 0..2 {
        let status = store.enqueue(claim).await;
        assert!(is_evicted(&status), "{status:?}");
        let status = store.renew(&[Arc::new(claim.clone())]).await.remove(0);
        assert!(is_evicted(&status), "{status:?}");
        let status = store.wait_for_change(claim).await.map(Option::unwrap);
        assert!(is_evicted(&status), "{status:?}");
        assert_eq!(store.release(claim).await.unwrap(), Release::NotHeld);
    }
    assert_eq!(server.requests(CREATE), created);
    assert_eq!(server.state().claims(), [""; 0]);
}

/// A store whose session for the claim exists.
async fn store_for(server: &Server, claim: &Claim) -> Arc<ZooKeeper> {
    let store = server.store().await;
    store.enqueue(claim).await.unwrap();
    store.release(claim).await.unwrap();
    store
}

#[tokio::test]
async fn a_claim_that_is_evicted_before_its_creation_is_answered_is_not_created_again() {
    let server = Server::start().await;
    let claim = claim(1, MUTEX);
    let store = store_for(&server, &claim).await;
    let enqueuing = server.enqueue_without_answer(&store, &claim).await;
    server.evict(&claim);
    server.lose_answers().await;
    let status = enqueuing.await.unwrap();
    assert!(is_evicted(&status), "{status:?}");
    assert_eq!(server.requests(CREATE), 2);
    stays_evicted(&server, &store, &claim).await;
}

#[tokio::test]
async fn a_claim_that_was_evicted_before_its_session_expired_does_not_join_another() {
    let server = Server::start().await;
    let store = server.store().await;
    for (number, renews) in [(1, true), (2, false)] {
        let claim = claim(number, MUTEX);
        assert!(matches!(store.enqueue(&claim).await, Ok(ClaimStatus::Held(_))));
        server.end_sessions();
        server.evict(&claim);
        if renews {
            // A renewal does not wait for another session.
            let status = store.renew(&[Arc::new(claim.clone())]).await.remove(0);
            assert!(matches!(status, Ok(ClaimStatus::Gone)), "{status:?}");
        }
        let created = server.requests(CREATE);
        let status = store.enqueue(&claim).await;
        assert!(is_evicted(&status), "{status:?}");
        assert_eq!(server.requests(CREATE), created, "the notice is looked for first");
        stays_evicted(&server, &store, &claim).await;
    }
}

#[tokio::test]
async fn a_late_node_of_an_evicted_claim_is_deleted() {
    let server = Server::start().await;
    let claim = Claim { lease: Duration::from_secs(6), ..claim(1, MUTEX) };
    let store = store_for(&server, &claim).await;
    let enqueuing = server.enqueue_without_answer(&store, &claim).await;
    // The first creation is on its way somewhere. Another one creates a node, which is evicted.
    let late = std::mem::take(&mut server.state().nodes);
    server.lose_answers().await;
    assert!(matches!(enqueuing.await.unwrap(), Ok(ClaimStatus::Held(_))));
    assert_eq!((late.len(), server.requests(CREATE)), (1, 3));
    server.evict(&claim);
    let renewed = store.renew(&[Arc::new(claim.clone())]).await.remove(0);
    assert!(is_evicted(&renewed), "{renewed:?}");
    server.state().nodes.extend(late);
    let deleted = async {
        while !server.state().claims().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), deleted).await.expect("the late node is deleted");
    stays_evicted(&server, &store, &claim).await;
}

#[tokio::test]
async fn a_renewal_that_is_dropped_does_not_hide_an_eviction() {
    let server = Server::start().await;
    let store = server.store().await;
    let claim = claim(1, MUTEX);
    store.enqueue(&claim).await.unwrap();
    server.evict(&claim);
    let claims = [Arc::new(claim.clone())];
    let asked = server.requests(DATA);
    let mut renewal = Box::pin(store.renew(&claims));
    // Dropped once the node was found gone, and before the answer that says why is handled.
    while server.requests(DATA) == asked {
        assert!((&mut renewal).now_or_never().is_none());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(renewal);
    let status = store.enqueue(&claim).await;
    assert!(is_evicted(&status), "{status:?}");
    stays_evicted(&server, &store, &claim).await;
}

#[tokio::test]
async fn a_claim_that_its_owner_enqueues_while_it_is_evicted_does_not_stay() {
    let server = Server::start().await;
    let [owner, other] = [server.store().await, server.store().await];
    let (one, two) = (claim(1, MUTEX), claim(2, MUTEX));
    let (key, eviction) = (EntryKey::from(one.id), Eviction::new(Owner::default(), "no"));
    // The onlooker has seen one node of the claim. The owner creates another before the first is deleted.
    owner.enqueue(&one).await.unwrap();
    let again = format!("{LOCK}{}__lock__0000000009", one.id);
    let before = server.state().nodes.clone();
    let (first, session) = before.first_key_value().unwrap();
    {
        let mut state = server.state();
        let data = state.data[first].clone();
        state.data.insert(again.clone(), data);
        state.appear_after.insert(MULTI, vec![(again, *session)]);
    }
    assert_eq!(other.evict(&one.name, &key, &eviction).await.unwrap(), Release::Released);
    assert_eq!(server.state().claims(), [""; 0]);
    assert_eq!(other.evict(&one.name, &key, &eviction).await.unwrap(), Release::NotHeld);
    let status = owner.enqueue(&one).await.unwrap();
    assert!(matches!(&status, ClaimStatus::Evicted(by) if **by == eviction), "{status:?}");
    // The onlooker has looked, the owner enqueues the claim in another session, and then the notice appears.
    owner.enqueue(&two).await.unwrap();
    server.end_sessions();
    server.state().appear_after.insert(CREATE, notice(&two).to_vec());
    let status = owner.enqueue(&two).await;
    assert!(is_evicted(&status), "{status:?}");
    stays_evicted(&server, &owner, &two).await;
}

#[tokio::test]
async fn an_eviction_that_was_not_notified_is_found_with_the_next_connection() {
    let server = Server::start().await;
    let store = server.store().await;
    let [ours, unknown] = [claim(1, MUTEX), claim(2, MUTEX)];
    store.enqueue(&ours).await.unwrap();
    let mut told = Box::pin(store.session_lost_hint());
    for (claim, is_told) in [(&unknown, false), (&ours, true)] {
        let asked = server.requests(EXISTS);
        server.evict(claim);
        server.cut.send_replace(());
        let waited = tokio::time::timeout(Duration::from_secs(30), async {
            tokio::select! {
                () = &mut told => true,
                () = server.wait_for_requests(EXISTS, asked + 1) => false,
            }
        });
        let first = waited.await.unwrap();
        let first =
            first || is_told && tokio::time::timeout(Duration::from_secs(30), &mut told).await.is_ok();
        assert_eq!(first, is_told);
    }
    let renewed = store.renew(&[Arc::new(ours)]).await.remove(0);
    assert!(is_evicted(&renewed), "{renewed:?}");
}

#[tokio::test]
async fn a_notice_is_deleted_when_its_time_is_over_and_its_session_is_not_closed() {
    const CLOSE: i32 = -11;
    let server = Server::start().await;
    let store = server.store().await;
    let [one, other] = [claim(1, MUTEX), claim(2, MUTEX)];
    server.evict(&one);
    server.evict(&other);
    let session = store.shared.sessions.for_notices(Duration::from_secs(120)).await.unwrap();
    assert_eq!(store.shared.sessions.for_notices(Duration::from_secs(120)).await.unwrap().id(), session.id());
    let path = |claim: &Claim| store.shared.config.layout.notice(claim.id).0;
    let kept = keep(Arc::clone(&session), path(&other), Duration::from_secs(3600));
    keep(session, path(&one), Duration::from_millis(10)).await.unwrap();
    assert!(
        !server.state().nodes.contains_key(&path(&one)) && server.state().nodes.contains_key(&path(&other))
    );
    assert_eq!(server.state().ended, 0);
    // The process ends.
    kept.abort();
    let ended = async {
        while server.state().ended == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended).await.expect("nobody uses the session any more");
    assert_eq!(server.requests(CLOSE), 0, "it is left to expire, and the notice with it");
    assert!(server.state().nodes.contains_key(&path(&other)));
}
