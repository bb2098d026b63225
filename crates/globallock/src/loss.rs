//! Why a lock was lost.

use std::fmt;

/// Why a lock is not held any more, though its owner did not release it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Loss {
    /// No renewal was confirmed before the lease expired: the store may be out of reach, or this process was
    /// stopped.
    Expired,
    /// The lock was held for its max hold time.
    MaxHold,
    /// The store has no such claim any more: somebody broke the lock, or the store lost its data.
    Revoked,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Loss::Expired => "its lease expired: no renewal was confirmed in time",
            Loss::MaxHold => "it was held for its max hold time",
            Loss::Revoked => "the store has no such claim any more",
        })
    }
}
