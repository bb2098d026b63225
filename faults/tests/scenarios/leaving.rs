//! A departure that is not answered goes on by itself. Whoever asks for the claim again meanwhile, as a try does whose answer
//! was lost, is not told that it holds: the claim would be taken out under its feet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use globallock::backend::{Claim, ClaimId, ClaimStatus, WaitMode};
use globallock::queue::Permits;
use globallock::{Name, connect_backend};
use globallock_conformance::fixtures::LEASE;
use globallock_conformance::proxy::{Flow, Proxy};

use crate::store::{Store, connect};

/// For how long a departure is repeated at most, once the store answers again.
const REPEATED: Duration = Duration::from_secs(2);

async fn a_claim_that_leaves_is_never_held(store: Store) {
    let looks = connect(&store.url(), LEASE).await.unwrap();
    let proxy = Proxy::start(store.port()).await.unwrap();
    let backend = connect_backend(&store.behind(proxy.port())).await.unwrap();
    for number in 0..5 {
        let name = format!("leaves-{number}");
        let held = looks.mutex(&name).unwrap().acquire().await.unwrap();
        let claim = Claim {
            id: ClaimId::new(7, number),
            name: Name::new(&*name).unwrap(),
            permits: Permits { count: 1, capacity: 1 },
            wait_mode: WaitMode::Wait,
            lease: LEASE,
            max_hold: None,
            owner: Arc::from("{}"),
        };
        assert_eq!(backend.enqueue(&claim).await.unwrap(), ClaimStatus::Waiting);
        proxy.requests(Flow::Hold);
        backend.release(&claim).await.unwrap_err();
        held.release().await.unwrap();
        proxy.requests(Flow::Pass);
        let mut joined = backend.enqueue(&claim).await;
        while joined.as_ref().is_err_and(globallock::Error::is_retryable) {
            joined = backend.enqueue(&claim).await;
        }
        // Put anew, if the departure had been answered by then; in that case it stays.
        let holds = matches!(joined, Ok(ClaimStatus::Held(_)));
        let until = Instant::now() + REPEATED;
        while holds && Instant::now() < until {
            assert_eq!(looks.inspect(&name).await.unwrap().len(), 1, "{joined:?}, and is taken out");
        }
        backend.release(&claim).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_leaves_is_never_held_on_etcd() {
    a_claim_that_leaves_is_never_held(Store::etcd()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_leaves_is_never_held_on_zookeeper() {
    a_claim_that_leaves_is_never_held(Store::zookeeper()).await;
}
