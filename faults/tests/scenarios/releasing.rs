//! A release without an answer goes on in the background. If the same claim is enqueued again meanwhile, as a
//! try does whose answer was lost, the answer must not be "held": the release under way would then end a
//! claim that its owner believes to hold.

use std::sync::Arc;
use std::time::{Duration, Instant};

use globallock::backend::{Claim, ClaimId, ClaimStatus};
use globallock::queue::Permits;
use globallock::{Name, connect_backend};
use globallock_conformance::fixtures::LEASE;
use globallock_conformance::proxy::{Flow, Proxy};

use crate::store::{Store, connect};

/// For how long a release is repeated at most, once the store answers again.
const REPEATS: Duration = Duration::from_secs(2);

pub(crate) async fn a_claim_under_release_is_never_held(store: Store) {
    let observer = connect(&store.url(), LEASE).await.unwrap();
    let proxy = Proxy::start(store.port()).await.unwrap();
    let backend = connect_backend(&store.behind(proxy.port())).await.unwrap();
    for number in 0..5 {
        let name = format!("releasing-{number}");
        let held = observer.mutex(&name).acquire().await.unwrap();
        let claim = Claim::new(ClaimId::new(7, number), Name::new(&*name).unwrap(), Permits::MUTEX)
            .with_lease(LEASE)
            .with_owner(Arc::from("{}"));
        assert_eq!(backend.enqueue(&claim).await.unwrap(), ClaimStatus::Waiting);
        proxy.requests(Flow::Hold);
        backend.release(&claim).await.unwrap_err();
        held.release().await.unwrap();
        proxy.requests(Flow::Pass);
        let mut enqueued = backend.enqueue(&claim).await;
        while enqueued.as_ref().is_err_and(globallock::Error::is_retryable) {
            enqueued = backend.enqueue(&claim).await;
        }
        // "Held" is right only if the release had ended by then, so that this is a new entry; then it must
        // stay.
        let holds = matches!(enqueued, Ok(ClaimStatus::Held(_)));
        let until = Instant::now() + REPEATS;
        while holds && Instant::now() < until {
            assert_eq!(observer.inspect(&name).await.unwrap().len(), 1, "{enqueued:?}, and then removed");
        }
        backend.release(&claim).await.unwrap();
    }
}
