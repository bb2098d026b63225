//! The stores, and the table of the schemes of their addresses.

#![cfg_attr(
    not(all(
        feature = "etcd",
        feature = "file",
        feature = "postgres",
        feature = "redis",
        feature = "zookeeper"
    )),
    allow(dead_code, reason = "a build with some of the stores uses a part of what all share")
)]

pub(crate) mod address;
#[cfg(feature = "etcd")]
mod etcd;
pub(crate) mod evictions;
#[cfg(feature = "_transport")]
pub(crate) mod examination;
#[cfg(all(feature = "file", target_os = "linux"))]
mod file;
pub(crate) mod memory;
#[cfg(any(test, feature = "_transport", all(feature = "file", target_os = "linux")))]
pub(crate) mod notices;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) mod pushed;
#[cfg(any(
    feature = "etcd",
    feature = "redis",
    feature = "zookeeper",
    all(feature = "file", target_os = "linux")
))]
pub(crate) mod record;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) mod supervised;
#[cfg(feature = "_transport")]
pub(crate) mod transport;
#[cfg(any(feature = "etcd", feature = "zookeeper"))]
pub(crate) mod watched;
#[cfg(feature = "zookeeper")]
mod zookeeper;

use std::fmt;
use std::sync::Arc;

use crate::backend::Backend;
use crate::error::Result;
use address::Address;

/// Makes the store that an address names. The store connects at its first request.
type Open = Arc<dyn Fn(Address) -> Result<Arc<dyn Backend>> + Send + Sync>;

/// One kind of store: a row of the table.
struct Store {
    /// The schemes of its addresses, each with what such an address looks like, for people to read.
    schemes: &'static [(&'static str, &'static str)],
    open: fn(Address) -> Result<Arc<dyn Backend>>,
}

/// The stores that this build knows.
const STORES: &[Store] = &[
    Store {
        schemes: &[("memory", "memory:name (within one process)")],
        open: |address| Ok(memory::Memory::connect(&address)?),
    },
    #[cfg(all(feature = "file", target_os = "linux"))]
    Store {
        schemes: &[("file", "file:///directory, file: (the processes of one host)")],
        open: |address| Ok(file::File::open(address)?),
    },
    #[cfg(feature = "redis")]
    Store {
        schemes: &[
            ("redis", "redis://[user:password@]host[:port][/db]"),
            ("rediss", "rediss:// (TLS)"),
            ("redis+unix", "redis+unix:///socket"),
            ("redis+sentinel", "redis+sentinel://host,host,host/service"),
            ("rediss+sentinel", "rediss+sentinel:// (TLS)"),
            ("valkey", "valkey:// (the same for Valkey)"),
            ("valkeys", "valkeys://"),
            ("valkey+unix", "valkey+unix://"),
            ("valkey+sentinel", "valkey+sentinel://"),
            ("valkeys+sentinel", "valkeys+sentinel://"),
        ],
        open: |address| Ok(redis::Redis::open(address)?),
    },
    #[cfg(feature = "etcd")]
    Store {
        schemes: &[("etcd", "etcd://[user:password@]host,host,host"), ("etcds", "etcds:// (TLS)")],
        open: |address| Ok(etcd::Etcd::open(address)?),
    },
    #[cfg(feature = "postgres")]
    Store {
        schemes: &[
            ("postgres", "postgres://[user[:password]@]host[:port][/database]"),
            ("postgresql", "postgresql:// (the same)"),
        ],
        open: postgres::open,
    },
    #[cfg(feature = "zookeeper")]
    Store {
        schemes: &[
            ("zookeeper", "zookeeper://[user:password@]host,host,host[/chroot]"),
            ("zookeepers", "zookeepers:// (TLS)"),
        ],
        open: |address| Ok(zookeeper::ZooKeeper::open(address)?),
    },
];

/// The schemes of addresses, and how the store of each is made.
///
/// [`Schemes::default`] knows the stores of this build. A store of one's own gets a scheme by
/// [`Schemes::with`], and is then reached by its address like every other: by
/// [`LockManager::connect_by`](crate::LockManager::connect_by), and by programs that take the table, such as
/// the command line and the conformance suite.
///
/// ```
/// use std::sync::Arc;
/// use globallock::{Backend, LockManager, ManagerOptions, Memory, Schemes};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let schemes = Schemes::default().with("mine", |_address| Ok(Memory::new() as Arc<dyn Backend>));
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
    open: Open,
}

/// The stores of this build.
impl Default for Schemes {
    fn default() -> Self {
        let rows = STORES.iter().enumerate().flat_map(|(number, store)| {
            let open: Open = Arc::new(store.open);
            store.schemes.iter().map(move |(scheme, form)| Row {
                scheme: (*scheme).to_owned(),
                form: (*form).to_owned(),
                store: number,
                open: Arc::clone(&open),
            })
        });
        Schemes { rows: rows.collect() }
    }
}

impl Schemes {
    /// The same table with one more scheme, or with another store for a scheme that it had. Help texts show
    /// its addresses as `scheme://…`; [`Schemes::with_form`] says more.
    ///
    /// `open` makes the store and asks no server: the store connects at its first request, or in
    /// [`Backend::ready`].
    #[must_use]
    pub fn with(
        self,
        scheme: impl Into<String>,
        open: impl Fn(Address) -> Result<Arc<dyn Backend>> + Send + Sync + 'static,
    ) -> Self {
        let scheme = scheme.into().to_ascii_lowercase();
        let form = format!("{scheme}://…");
        self.with_form(scheme, form, open)
    }

    /// Does the same, and says what such an address looks like, for help texts: `mine://host[/path]`.
    #[must_use]
    pub fn with_form(
        mut self,
        scheme: impl Into<String>,
        form: impl Into<String>,
        open: impl Fn(Address) -> Result<Arc<dyn Backend>> + Send + Sync + 'static,
    ) -> Self {
        let scheme = scheme.into().to_ascii_lowercase();
        self.rows.retain(|row| row.scheme != scheme);
        let store = self.rows.iter().map(|row| row.store + 1).max().unwrap_or_default();
        self.rows.push(Row { scheme, form: form.into(), store, open: Arc::new(open) });
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

    /// Makes the store at `url`, which connects at its first request.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress) when the address is wrong; as the operating
    /// system answers where the store is a directory.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(&self, url: &str) -> Result<Arc<dyn Backend>> {
        let address = Address::parse(url)?;
        match self.rows.iter().find(|row| row.scheme == address.scheme) {
            Some(row) => (row.open)(address),
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

    /// Connects to the store at `url`.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress) when the address is wrong, otherwise as the
    /// store answers.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    pub async fn connect(&self, url: &str) -> Result<Arc<dyn Backend>> {
        let backend = self.open(url)?;
        backend.ready().await?;
        Ok(backend)
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
        schemes.with_form("Mine", "mine://host", |_| Ok(Memory::new() as Arc<dyn Backend>))
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
        let schemes = schemes.with("other", |_| Ok(Memory::new() as Arc<dyn Backend>));
        assert_eq!(schemes.forms()[..built_in.len()], built_in);
        assert!(format!("{schemes:?}").ends_with("\"mine\", \"other\"]"), "{schemes:?}");
        assert_eq!(schemes.forms()[built_in.len()..], ["mine://host", "other://…"]);
    }

    #[test]
    fn a_scheme_that_the_table_had_gets_another_store_and_another_form() {
        let schemes = Schemes::default().with("MEMORY", |address| Err(address.wrong("it is refused here")));
        let refused = schemes.open("memory:a").unwrap_err();
        assert!(refused.to_string().contains("it is refused here"), "{refused}");
        assert_eq!(schemes.names().filter(|name| *name == "memory").count(), 1);
        let forms = schemes.forms();
        assert_eq!(forms.len(), STORES.len());
        assert_eq!(forms.iter().filter(|form| form.contains("memory:")).collect::<Vec<_>>(), ["memory://…"]);
        assert_eq!(with_mine(schemes).forms().last().unwrap(), "mine://host");
    }
}
