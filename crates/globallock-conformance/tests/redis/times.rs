//! How long the store says that a claim lasts, at the ends of leases and holds, and when time itself goes wrong.

use std::sync::Arc;
use std::time::Duration;

use globallock::backend::{Backend, Claim, ClaimId, Patience, Standing};
use globallock::queue::Share;
use globallock::{Name, Result};
use globallock_conformance::server::redis::Redis;

/// A lease that no test outlasts, so that nothing here comes about by its end.
const LONG: Duration = Duration::from_secs(60);

/// How many locks are held side by side, and how many times each.
const HOLDS: (u64, u64) = (4, 50);

pub(crate) fn claim(name: &str, number: u64, share: Share, patience: Patience) -> Claim {
    Claim {
        id: ClaimId::new(7, number),
        name: Name::new(name).unwrap(),
        share,
        patience,
        lease: LONG,
        max_hold: None,
        owner: "".into(),
    }
}

/// Holds locks again and again for 20 ms at most, has `ask` ask after each until that is over, and returns what
/// went wrong.
async fn to_the_end_of_holds<A>(share: Share, ask: A) -> Vec<String>
where
    A: AsyncFn(&dyn Backend, &Arc<Claim>) -> Result<Standing> + Copy + Send + Sync,
{
    let server = Redis::start().unwrap();
    let backend = globallock::connect_backend(&server.url()).await.unwrap();
    let holds = (0..HOLDS.0).map(|lock| {
        let backend = &backend;
        async move {
            let mut errors = Vec::new();
            for hold in 0..HOLDS.1 {
                let patience = if hold % 2 == 0 { Patience::Queue } else { Patience::Once };
                let claim = claim(&format!("a{lock}"), lock * 1000 + hold, share, patience);
                let claim = Arc::new(Claim { max_hold: Some(Duration::from_millis(20)), ..claim });
                let Standing::Held(first) = backend.join(&claim).await.unwrap() else { panic!("it is free") };
                loop {
                    match ask(&**backend, &claim).await {
                        Ok(Standing::Held(grant)) if grant.fence == first.fence => {}
                        Ok(_) => break,
                        Err(error) => errors.push(error.to_string()),
                    }
                }
                backend.leave(&claim).await.unwrap();
            }
            errors
        }
    });
    futures_util::future::join_all(holds).await.concat()
}

async fn renewed(backend: &dyn Backend, claim: &Arc<Claim>) -> Result<Standing> {
    backend.renew(&[Arc::clone(claim)]).await.remove(0)
}

async fn joined(backend: &dyn Backend, claim: &Arc<Claim>) -> Result<Standing> {
    backend.join(claim).await
}

#[tokio::test]
async fn a_renewal_at_the_very_end_of_a_longest_hold_is_answered() {
    for share in [Share { weight: 1, capacity: 1 }, Share { weight: 1, capacity: 2 }] {
        let errors = to_the_end_of_holds(share, renewed).await;
        assert!(errors.is_empty(), "{} errors with {share:?}, such as {}", errors.len(), errors[0]);
    }
}

#[tokio::test]
async fn a_join_at_the_very_end_of_a_longest_hold_is_answered() {
    for share in [Share { weight: 1, capacity: 1 }, Share { weight: 1, capacity: 2 }] {
        let errors = to_the_end_of_holds(share, joined).await;
        assert!(errors.is_empty(), "{} errors with {share:?}, such as {}", errors.len(), errors[0]);
    }
}

#[tokio::test]
async fn waiters_do_not_poll_a_lock_that_an_operator_keeps_for_ever() {
    let server = Redis::start().unwrap();
    let backend = globallock::connect_backend(&server.url()).await.unwrap();
    let mutex = Share { weight: 1, capacity: 1 };
    let holder = claim("a", 0, mutex, Patience::Queue);
    assert!(matches!(backend.join(&holder).await, Ok(Standing::Held(_))));
    assert_eq!(server.cli(&["PERSIST", "_glocks:a"]), "1");
    for number in 1..4 {
        let waiter = claim("a", number, mutex, Patience::Queue);
        assert_eq!(backend.join(&waiter).await.unwrap(), Standing::Waiting);
        let asks = tokio::time::timeout(Duration::from_millis(200), backend.changed(&waiter)).await;
        assert!(asks.is_err(), "waiter {number} asks again though nothing has changed");
    }
}
