//! The stores, and the table of the schemes of their addresses.

pub(crate) mod address;
pub mod duration;
#[cfg(feature = "etcd")]
mod etcd;
pub(crate) mod evictions;
#[cfg(all(feature = "file", target_os = "linux"))]
mod file;
pub(crate) mod memory;
#[cfg(any(test, feature = "redis", feature = "zookeeper", all(feature = "file", target_os = "linux")))]
pub(crate) mod notices;
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
    /// The schemes of its addresses, each with what such an address looks like, for people to read.
    schemes: &'static [(&'static str, &'static str)],
    connect: fn(Address) -> Connecting,
}

/// The stores that this build knows.
const STORES: &[Store] = &[
    Store {
        schemes: &[("memory", "memory:name (within one process)")],
        connect: |address| async move { Ok(memory::Memory::connect(&address)? as Arc<dyn Backend>) }.boxed(),
    },
    #[cfg(all(feature = "file", target_os = "linux"))]
    Store {
        schemes: &[("file", "file:///directory, file: (the processes of one host)")],
        connect: |address| async move { Ok(file::File::connect(address)? as Arc<dyn Backend>) }.boxed(),
    },
    #[cfg(feature = "redis")]
    Store {
        schemes: &[
            ("redis", "redis://[user:password@]host[:port][/db]"),
            ("rediss", "rediss:// (TLS)"),
            ("redis+unix", "redis+unix:///socket"),
            ("redis+sentinel", "redis+sentinel://host,host,host/service"),
            ("rediss+sentinel", "rediss+sentinel:// (TLS)"),
        ],
        connect: |address| {
            async move { Ok(redis::Redis::connect(address).await? as Arc<dyn Backend>) }.boxed()
        },
    },
    #[cfg(feature = "etcd")]
    Store {
        schemes: &[("etcd", "etcd://[user:password@]host,host,host"), ("etcds", "etcds:// (TLS)")],
        connect: |address| async move { Ok(etcd::Etcd::connect(address).await? as Arc<dyn Backend>) }.boxed(),
    },
    #[cfg(feature = "zookeeper")]
    Store {
        schemes: &[
            ("zookeeper", "zookeeper://[user:password@]host,host,host[/chroot]"),
            ("zookeepers", "zookeepers:// (TLS)"),
        ],
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
/// assert!(schemes.forms().contains(&"mine://…".to_owned()));
/// let manager = LockManager::connect_by(&schemes, "mine://anywhere", ManagerOptions::new()).await?;
/// manager.mutex("a").acquire().await?.release().await?;
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Schemes {
    rows: Vec<Row>,
}

/// One scheme.
#[derive(Clone)]
struct Row {
    scheme: String,
    form: String,
    /// Rows of one store have the same number.
    store: usize,
    connect: Connect,
}

/// The stores of this build.
impl Default for Schemes {
    fn default() -> Self {
        let rows = STORES.iter().enumerate().flat_map(|(number, store)| {
            let connect: Connect = Arc::new(store.connect);
            store.schemes.iter().map(move |(scheme, form)| Row {
                scheme: (*scheme).to_owned(),
                form: (*form).to_owned(),
                store: number,
                connect: Arc::clone(&connect),
            })
        });
        Schemes { rows: rows.collect() }
    }
}

impl Schemes {
    /// The same table with one more scheme, or with another store for a scheme that it had. Help texts show
    /// its addresses as `scheme://…`; [`Schemes::with_form`] says more.
    #[must_use]
    pub fn with(
        self,
        scheme: impl Into<String>,
        connect: impl Fn(Address) -> BoxFuture<'static, Result<Arc<dyn Backend>>> + Send + Sync + 'static,
    ) -> Self {
        let scheme = scheme.into().to_ascii_lowercase();
        let form = format!("{scheme}://…");
        self.with_form(scheme, form, connect)
    }

    /// Does the same, and says what such an address looks like, for help texts: `mine://host[/path]`.
    #[must_use]
    pub fn with_form(
        mut self,
        scheme: impl Into<String>,
        form: impl Into<String>,
        connect: impl Fn(Address) -> BoxFuture<'static, Result<Arc<dyn Backend>>> + Send + Sync + 'static,
    ) -> Self {
        let scheme = scheme.into().to_ascii_lowercase();
        self.rows.retain(|row| row.scheme != scheme);
        let store = self.rows.iter().map(|row| row.store + 1).max().unwrap_or_default();
        self.rows.push(Row { scheme, form: form.into(), store, connect: Arc::new(connect) });
        self
    }

    /// The schemes that the table knows.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|row| row.scheme.as_str())
    }

    /// What the addresses look like that the table knows, a store a line, for help texts.
    #[must_use]
    pub fn forms(&self) -> Vec<String> {
        let stores = self.rows.chunk_by(|one, next| one.store == next.store);
        stores.map(|rows| rows.iter().map(|row| row.form.as_str()).collect::<Vec<_>>().join(", ")).collect()
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
        match self.rows.iter().find(|row| row.scheme == address.scheme) {
            Some(row) => (row.connect)(address).await,
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

#[cfg(test)]
mod tests {
    use super::*;
    use memory::Memory;

    fn with_mine(schemes: Schemes) -> Schemes {
        schemes.with_form("Mine", "mine://host", |_| async { Ok(Memory::new() as Arc<dyn Backend>) }.boxed())
    }

    #[test]
    fn the_forms_are_those_of_the_stores_and_of_what_was_added() {
        let built_in = Schemes::default().forms();
        assert_eq!(built_in.len(), STORES.len());
        for (form, store) in built_in.iter().zip(STORES) {
            for (scheme, _) in store.schemes {
                assert!(form.contains(&format!("{scheme}:")), "{scheme}: {form}");
            }
        }
        let schemes = with_mine(Schemes::default());
        let memory = || async { Ok(Memory::new() as Arc<dyn Backend>) }.boxed();
        let schemes = schemes.with("other", move |_| memory());
        assert_eq!(schemes.forms()[..built_in.len()], built_in);
        assert!(format!("{schemes:?}").ends_with("\"mine\", \"other\"]"), "{schemes:?}");
        assert_eq!(schemes.forms()[built_in.len()..], ["mine://host", "other://…"]);
    }

    #[test]
    fn a_scheme_that_the_table_had_gets_another_store_and_another_form() {
        let schemes = Schemes::default()
            .with("MEMORY", |address| async move { Err(address.wrong("it is refused here")) }.boxed());
        let refused = schemes.connect("memory:a").now_or_never().unwrap().unwrap_err();
        assert!(refused.to_string().contains("it is refused here"), "{refused}");
        assert_eq!(schemes.names().filter(|name| *name == "memory").count(), 1);
        let forms = schemes.forms();
        assert_eq!(forms.len(), STORES.len());
        assert_eq!(forms.iter().filter(|form| form.contains("memory:")).collect::<Vec<_>>(), ["memory://…"]);
        assert_eq!(with_mine(schemes).forms().last().unwrap(), "mine://host");
    }
}
