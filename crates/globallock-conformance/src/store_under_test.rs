//! The description of a store that the suite runs on.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use globallock::backend::Backend;
use globallock::{Name, Result, Schemes};

/// Opens a new connection to the store, as another process would.
pub type Open = Arc<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn Backend>>> + Send + Sync>;
/// Deletes the claims of a name without their owners' knowledge.
pub type Sabotage = Arc<dyn Fn(Name) -> BoxFuture<'static, ()> + Send + Sync>;
/// Lists what the store still keeps for a name. What expires by itself does not count.
pub type Residue = Arc<dyn Fn(Name) -> BoxFuture<'static, Vec<String>> + Send + Sync>;

/// A store under test.
#[derive(Clone)]
pub struct StoreUnderTest {
    /// The kind of store, with which the cases' names begin.
    pub kind: String,
    /// Opens a new connection.
    pub open: Open,
    /// The lease of the cases' claims. It must be longer than the machine's longest pause, and short enough
    /// to wait for. Default: 1 s.
    pub lease: Duration,
    /// The store's address, for owner processes. Without it, the cases that need owner processes are left
    /// out.
    pub url: Option<String>,
    /// The owner's program. Without it, the cases that need owner processes are left out.
    pub child: Option<PathBuf>,
    /// Deletes all claims of a name. Without it, the cases that need it are left out.
    pub sabotage: Option<Sabotage>,
    /// Lists what is left of a name. Without it, the cases that need it are left out.
    pub residue: Option<Residue>,
}

impl StoreUnderTest {
    /// Describes a store by a function that opens a new connection with each call.
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
            sabotage: None,
            residue: None,
        }
    }

    /// Describes a store by its address, which owner processes can connect to.
    #[must_use]
    pub fn at(kind: impl Into<String>, url: &str, child: Option<PathBuf>) -> Self {
        Self::at_by(&Schemes::default(), kind, url, child)
    }

    /// Describes a store of one's own by its address. Owner processes connect to it if they call
    /// [`run_by`](crate::child::run_by).
    #[must_use]
    pub fn at_by(schemes: &Schemes, kind: impl Into<String>, url: &str, child: Option<PathBuf>) -> Self {
        let (schemes, address) = (schemes.clone(), url.to_owned());
        let open = move || {
            let (schemes, url) = (schemes.clone(), address.clone());
            async move { schemes.connect(&url).await }
        };
        StoreUnderTest { url: Some(url.to_owned()), child, ..StoreUnderTest::new(kind, open) }
    }

    /// Says how to delete all claims of a name without their owners' knowledge.
    #[must_use]
    pub fn with_sabotage<F, O>(self, sabotage: F) -> Self
    where
        F: Fn(Name) -> O + Send + Sync + 'static,
        O: Future<Output = ()> + Send + 'static,
    {
        StoreUnderTest { sabotage: Some(Arc::new(move |name| Box::pin(sabotage(name)))), ..self }
    }

    /// Says how to list what the store still keeps for a name. What expires by itself does not count.
    #[must_use]
    pub fn with_residue<F, O>(self, residue: F) -> Self
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
