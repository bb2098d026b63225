//! Why a lock was lost.

use std::fmt;
use std::sync::Arc;

use crate::eviction::Eviction;

/// Why a lock is not held any more, though its owner did not release it.
///
/// ```
/// use std::time::Duration;
/// use globallock::{LockManager, Loss};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let manager = LockManager::connect("memory:loss").await?;
/// let guard = manager.mutex("a").max_hold(Duration::from_millis(200)).acquire().await?;
/// match guard.lost().await {
///     Loss::MaxHold => println!("it took too long"),
///     Loss::Evicted(eviction) => println!("{eviction} wanted it to end"),
///     loss => println!("look at the store: {loss}"),
/// }
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Loss {
    /// No renewal was confirmed before the lease expired: the store may be out of reach, or this process was
    /// stopped.
    Expired,
    /// The lock was held for its max hold time.
    MaxHold,
    /// The store has no such claim any more: somebody deleted its key, or the store lost its data.
    Revoked,
    /// Somebody took the lock away, by [`LockManager::evict`](crate::LockManager::evict) or
    /// `globallock break`.
    Evicted(Arc<Eviction>),
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Expired => f.write_str("its lease expired: no renewal was confirmed in time"),
            Loss::MaxHold => f.write_str("it was held for its max hold time"),
            Loss::Revoked => f.write_str("the store has no such claim any more"),
            Loss::Evicted(eviction) => write!(f, "it was broken by {eviction}"),
        }
    }
}
