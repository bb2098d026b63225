//! Renewals of a holder beside those of a crowd that waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use globallock::backend::{Claim, Departure, Entry, Profile, Standing};
use globallock::{Backend, LockManager, ManagerOptions, Memory, Name, Options, Result};

/// A store that does not answer the renewals of one name.
#[derive(Debug)]
struct Stuck {
    memory: Arc<Memory>,
    stuck: AtomicUsize,
    renewed: AtomicUsize,
}

#[async_trait]
impl Backend for Stuck {
    fn profile(&self) -> Profile {
        self.memory.profile()
    }

    async fn join(&self, claim: &Claim) -> Result<Standing> {
        self.memory.join(claim).await
    }

    async fn changed(&self, claim: &Claim) -> Result<Option<Standing>> {
        self.memory.changed(claim).await
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<Standing>> {
        if claims.iter().any(|claim| claim.name.as_str() == "crowd") {
            self.stuck.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        self.renewed.fetch_add(claims.len(), Ordering::SeqCst);
        self.memory.renew(claims).await
    }

    async fn leave(&self, claim: &Claim) -> Result<Departure> {
        self.memory.leave(claim).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        self.memory.inspect(name).await
    }

    fn names<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Name>> {
        self.memory.names(prefix)
    }
}

fn manager(store: Arc<dyn Backend>, lease: Duration) -> LockManager {
    let locks = Options { lease, ..Options::default() };
    LockManager::over(store, ManagerOptions { locks, ..ManagerOptions::default() }).unwrap()
}

#[tokio::test]
async fn a_crowd_of_waiters_whose_renewals_are_stuck_does_not_cost_the_holder_its_lock() {
    let memory = Memory::new();
    let [stuck, renewed] = [0; 2].map(AtomicUsize::new);
    let store = Arc::new(Stuck { memory: Arc::clone(&memory), stuck, renewed });
    let holder = manager(memory, Duration::from_secs(60));
    let _crowded = holder.mutex("crowd").unwrap().acquire().await.unwrap();
    let ours = manager(Arc::clone(&store) as Arc<dyn Backend>, Duration::from_secs(3));
    let guard = ours.mutex("held").unwrap().acquire().await.unwrap();
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..5000 {
        let lock = ours.mutex("crowd").unwrap();
        crowd.spawn(async move { lock.acquire().await.map(drop) });
    }
    let goes_on = async {
        // More than may be under way at a time are due.
        while store.stuck.load(Ordering::SeqCst) < 8 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let before = store.renewed.load(Ordering::SeqCst);
        while guard.is_held() && store.renewed.load(Ordering::SeqCst) < before + 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), goes_on).await.expect("the lock is renewed or lost");
    assert!(guard.is_held());
}
