//! The store in this process's memory.

use std::io::Result;
use std::path::PathBuf;
use std::sync::Arc;

use globallock::backend::{Claim, WaitMode};
use globallock::{Backend, LockManager, ManagerOptions, Memory, Name};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;

use super::{Role, StoreKind, TestStore, none};
use crate::store_under_test::StoreUnderTest;

pub(super) const KINDS: &[StoreKind] = &[StoreKind {
    name: "memory",
    roles: &[Role::Suite, Role::Scenarios],
    servers: 0,
    starts_in: 0,
    install: super::nothing,
    traits: &[],
    start: || Ok(Box::new(InMemory::start()?)),
    own_faults: &[],
    hostile: none,
}];

/// A store in memory that has an address in this process.
#[derive(Debug)]
struct InMemory {
    url: String,
    /// Keeps what is at the address.
    store: Arc<dyn Backend>,
}

impl InMemory {
    fn start() -> Result<Self> {
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let url = format!("memory:test-{number}");
        let address = globallock::Address::parse(&url).map_err(std::io::Error::other)?;
        let store = Memory::connect(&address).map_err(std::io::Error::other)?;
        Ok(InMemory { url, store })
    }
}

impl TestStore for InMemory {
    fn url(&self) -> String {
        self.url.clone()
    }

    fn url_by(&self, _hosts: &[String]) -> String {
        self.url()
    }

    fn under_test(&self, kind: &str, _child: Option<PathBuf>) -> Vec<StoreUnderTest> {
        let [opened, sabotaged, listed] = [(); 3].map(|()| Arc::clone(&self.store));
        let store = StoreUnderTest::new(kind, move || {
            let store = Arc::clone(&opened);
            async move { Ok(store) }
        });
        vec![
            store
                .with_sabotage(take_all_out(sabotaged))
                .with_residue(move |name| still_listed(Arc::clone(&listed), name)),
        ]
    }

    fn left(&self, name: &str) -> Vec<String> {
        let (store, name) = (Arc::clone(&self.store), Name::new(name).expect("the name is good"));
        // It never waits, but needs a runtime for the manager's task.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be made").block_on(still_listed(store, name))
        })
        .join()
        .expect("memory answers")
    }
}

/// Releases all claims of a name. The store in memory does not check who asks.
fn take_all_out(store: Arc<dyn Backend>) -> impl Fn(Name) -> BoxFuture<'static, ()> {
    move |name| {
        let store = Arc::clone(&store);
        Box::pin(async move {
            for entry in store.inspect(&name).await.expect("memory answers").into_iter().rev() {
                let claim = Claim::new(entry.id.expect("the claim is ours"), name.clone(), entry.permits)
                    .with_wait_mode(WaitMode::Try)
                    .with_lease(std::time::Duration::from_secs(1));
                store.release(&claim).await.expect("memory answers");
            }
        })
    }
}

async fn still_listed(store: Arc<dyn Backend>, name: Name) -> Vec<String> {
    let manager = LockManager::with_backend(store, ManagerOptions::default()).expect("the options are good");
    let listed = manager.list(name.as_str());
    listed.filter_map(async |listed| listed.ok()).map(|listed| listed.name.to_string()).collect().await
}
