//! The store of a scenario, with servers of its own.

use std::path::PathBuf;
use std::time::Duration;

use globallock::{LockManager, ManagerOptions, Options};
use globallock_conformance::store_under_test::StoreUnderTest;
use globallock_conformance::stores::{ReadMessage, StoreKind, TestStore};

/// How much later than promised something may happen, because the machine is busy.
pub(crate) const BUSY: Duration = Duration::from_secs(3);

/// A kind of lock, and a kind that excludes it.
pub(crate) const KINDS: [(&str, &str); 3] = [("mutex", "mutex"), ("read", "write"), ("1/2", "2/2")];

/// A store that runs.
pub(crate) struct Store {
    pub(crate) kind: &'static str,
    store: Box<dyn TestStore>,
}

impl Store {
    pub(crate) fn start(kind: &'static StoreKind) -> Self {
        Store { kind: kind.name, store: kind.started() }
    }

    /// The port of its server.
    pub(crate) fn port(&self) -> u16 {
        self.store.ports()[0]
    }

    pub(crate) fn url(&self) -> String {
        self.store.url()
    }

    /// The addresses of the store whose claims look different.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let subjects = self.store.under_test(self.kind, None);
        subjects.into_iter().map(|subject| subject.url.unwrap_or_else(|| self.url())).collect()
    }

    /// The address of a proxy in front of the server, at `port`. The timeout of requests is short, so that
    /// several requests fail within one lease.
    pub(crate) fn behind(&self, port: u16) -> String {
        format!("{}?timeout=300ms", self.store.url_by(&[format!("127.0.0.1:{port}")]))
    }

    /// How the messages of its server are read.
    pub(crate) fn read_message(&self) -> ReadMessage {
        self.store.read_message().expect("it has a server")
    }

    /// The store by its plain address, for the cases' machinery.
    pub(crate) fn under_test(&self, program: Option<PathBuf>) -> StoreUnderTest {
        self.store.under_test(self.kind, program).swap_remove(0)
    }

    /// What the server still has of these locks, except what expires by itself.
    pub(crate) fn leftovers(&self, names: &[String]) -> Vec<String> {
        names.iter().flat_map(|name| self.store.left(name)).collect()
    }
}

/// Options with a store timeout of one second.
pub(crate) fn options(lease: Duration) -> Options {
    Options::new().lease(lease).store_timeout(Some(Duration::from_secs(1)))
}

/// Connects with these options.
pub(crate) async fn connect(url: &str, lease: Duration) -> globallock::Result<LockManager> {
    let options = ManagerOptions::new().locks(options(lease));
    LockManager::connect_with(url, options).await
}
