//! What the suite needs to know of a store.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use globallock::backend::Backend;
use globallock::{Name, Result};

/// Opens one more connection to the store, as another process would.
pub type Open = Arc<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn Backend>>> + Send + Sync>;
/// Does something to a name behind the owners' backs.
pub type Sabotage = Arc<dyn Fn(Name) -> BoxFuture<'static, ()> + Send + Sync>;
/// Lists what the store holds for a name, but for what expires by itself.
pub type Residue = Arc<dyn Fn(Name) -> BoxFuture<'static, Vec<String>> + Send + Sync>;

/// A store under test.
#[derive(Clone)]
pub struct StoreUnderTest {
    /// What the cases' names begin with.
    pub kind: String,
    /// Opens one more connection.
    pub open: Open,
    /// The lease of the cases' claims: short, but longer than the machine's worst pause. Default: 1 s.
    pub lease: Duration,
    /// The store's address, for owner processes; cases that need such are left out without one.
    pub url: Option<String>,
    /// The owner's program; cases that need one are left out without it.
    pub child: Option<PathBuf>,
    /// Takes all claims of a name away; the case that needs it is left out without it.
    pub lose: Option<Sabotage>,
    /// What stays of a name; the cases that need it are left out without it.
    pub residue: Option<Residue>,
}

impl StoreUnderTest {
    /// Describes a store by how connections to it are opened, one backend each.
    pub fn new<F, O>(kind: impl Into<String>, open: F) -> Self
    where
        F: Fn() -> O + Send + Sync + 'static,
        O: Future<Output = Result<Arc<dyn Backend>>> + Send + 'static,
    {
        StoreUnderTest {
            kind: kind.into(),
            open: Arc::new(move || Box::pin(open())),
            lease: Duration::from_secs(1),
            url: None,
            child: None,
            lose: None,
            residue: None,
        }
    }

    /// Describes a store that this crate's owner processes can reach by its address.
    #[must_use]
    pub fn at(kind: impl Into<String>, url: &str, child: Option<PathBuf>) -> Self {
        let address = url.to_owned();
        let open = move || {
            let url = address.clone();
            async move { globallock::connect_backend(&url).await }
        };
        StoreUnderTest { url: Some(url.to_owned()), child, ..StoreUnderTest::new(kind, open) }
    }

    /// Says how all claims of a name are taken away behind their owners' backs.
    #[must_use]
    pub fn losing<F, O>(self, lose: F) -> Self
    where
        F: Fn(Name) -> O + Send + Sync + 'static,
        O: Future<Output = ()> + Send + 'static,
    {
        StoreUnderTest { lose: Some(Arc::new(move |name| Box::pin(lose(name)))), ..self }
    }

    /// Says how to list what the store holds for a name, but for what expires by itself.
    #[must_use]
    pub fn leaving<F, O>(self, residue: F) -> Self
    where
        F: Fn(Name) -> O + Send + Sync + 'static,
        O: Future<Output = Vec<String>> + Send + 'static,
    {
        StoreUnderTest { residue: Some(Arc::new(move |name| Box::pin(residue(name)))), ..self }
    }
}

impl fmt::Debug for StoreUnderTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreUnderTest").field("kind", &self.kind).finish_non_exhaustive()
    }
}
