//! The stores, and the table of the schemes of their addresses.

pub(crate) mod address;
pub mod duration;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(all(feature = "file", target_os = "linux"))]
mod file;
pub(crate) mod memory;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "etcd", feature = "zookeeper"))]
pub(crate) mod watched;
#[cfg(feature = "zookeeper")]
mod zookeeper;

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::backend::Backend;
use crate::error::Result;
use address::Address;

/// A store that is being connected to.
type Connecting = BoxFuture<'static, Result<Arc<dyn Backend>>>;

/// Connects to the store that an address names.
type Connect = Arc<dyn Fn(Address) -> Connecting + Send + Sync>;

/// One kind of store: a row of the table.
struct Store {
    /// The schemes of its addresses.
    schemes: &'static [&'static str],
    /// What its addresses look like, for people to read.
    forms: &'static str,
    connect: fn(Address) -> Connecting,
}

/// The stores that this build knows.
const STORES: &[Store] = &[
    Store {
        schemes: &["memory"],
        forms: "memory:name",
        connect: |address| async move { Ok(memory::Memory::connect(&address)? as Arc<dyn Backend>) }.boxed(),
    },
    #[cfg(all(feature = "file", target_os = "linux"))]
    Store {
        schemes: &["file"],
        forms: "file:///directory, file: (a directory of this user's own)",
        connect: |address| async move { Ok(file::File::connect(address)? as Arc<dyn Backend>) }.boxed(),
    },
    #[cfg(feature = "redis")]
    Store {
        schemes: &["redis", "rediss", "redis+unix", "redis+sentinel", "rediss+sentinel"],
        forms: "redis://[user:password@]host[:port][/db], rediss:// (TLS), redis+unix:///socket, \
                redis+sentinel://host,host,host/service",
        connect: |address| {
            async move { Ok(redis::Redis::connect(address).await? as Arc<dyn Backend>) }.boxed()
        },
    },
    #[cfg(feature = "etcd")]
    Store {
        schemes: &["etcd", "etcds"],
        forms: "etcd://[user:password@]host,host,host, etcds:// (TLS)",
        connect: |address| async move { Ok(etcd::Etcd::connect(address).await? as Arc<dyn Backend>) }.boxed(),
    },
    #[cfg(feature = "zookeeper")]
    Store {
        schemes: &["zookeeper", "zookeepers"],
        forms: "zookeeper://[user:password@]host,host,host[/chroot], zookeepers:// (TLS)",
        connect: |address| {
            async move { Ok(zookeeper::ZooKeeper::connect(address).await? as Arc<dyn Backend>) }.boxed()
        },
    },
];

/// The schemes of addresses, and how the store of each is connected to.
///
/// [`Schemes::default`] knows the stores of this build. A store of one's own gets a scheme by
/// [`Schemes::with`], and is then reached by its address like every other: by
/// [`LockManager::connect_by`](crate::LockManager::connect_by), and by programs that take the table, such as
/// the command line and the conformance suite.
///
/// ```
/// use std::sync::Arc;
/// use futures_util::FutureExt;
/// use globallock::{Backend, LockManager, ManagerOptions, Memory, Schemes};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let schemes = Schemes::default().with("mine", |_address| {
///     async { Ok(Memory::new() as Arc<dyn Backend>) }.boxed()
/// });
/// let manager = LockManager::connect_by(&schemes, "mine://anywhere", ManagerOptions::new()).await?;
/// manager.mutex("a").acquire().await?.release().await?;
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Schemes {
    rows: Vec<(String, Connect)>,
}

/// The stores of this build.
impl Default for Schemes {
    fn default() -> Self {
        let rows = STORES.iter().flat_map(|store| {
            let connect: Connect = Arc::new(store.connect);
            store.schemes.iter().map(move |scheme| ((*scheme).to_owned(), Arc::clone(&connect)))
        });
        Schemes { rows: rows.collect() }
    }
}

impl Schemes {
    /// The same table with one more scheme, or with another store for a scheme that it had.
    #[must_use]
    pub fn with(
        mut self,
        scheme: impl Into<String>,
        connect: impl Fn(Address) -> BoxFuture<'static, Result<Arc<dyn Backend>>> + Send + Sync + 'static,
    ) -> Self {
        let scheme = scheme.into().to_ascii_lowercase();
        self.rows.retain(|(other, _)| *other != scheme);
        self.rows.push((scheme, Arc::new(connect)));
        self
    }

    /// The schemes that the table knows.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|(scheme, _)| scheme.as_str())
    }

    /// What the addresses of this build's stores look like, a store a line, for help texts.
    #[must_use]
    pub fn forms() -> Vec<&'static str> {
        STORES.iter().map(|store| store.forms).collect()
    }

    /// Connects to the store at `url`.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress) when the address is wrong, otherwise as the
    /// store answers.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    pub async fn connect(&self, url: &str) -> Result<Arc<dyn Backend>> {
        let address = Address::parse(url)?;
        match self.rows.iter().find(|(scheme, _)| *scheme == address.scheme) {
            Some((_, connect)) => connect(address).await,
            None => {
                let known: Vec<&str> = self.names().collect();
                let scheme = &address.scheme;
                Err(address.wrong(format!(
                    "the scheme {scheme:?} is not known here; known are {}",
                    known.join(", ")
                )))
            }
        }
    }
}

impl fmt::Debug for Schemes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// Connects to the store at `url`; [`LockManager::connect`](crate::LockManager::connect) lists the forms.
///
/// # Errors
/// [`Error::InvalidAddress`](crate::Error::InvalidAddress) when the address is wrong, otherwise as the store
/// answers.
///
/// # Cancel safety
/// A dropped call leaves no connection behind.
pub async fn connect_backend(url: &str) -> Result<Arc<dyn Backend>> {
    Schemes::default().connect(url).await
}
