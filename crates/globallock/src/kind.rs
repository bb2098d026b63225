//! The kinds of lock that one queue of claims makes.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::queue::{MAX_CAPACITY, Permits};

/// Which lock is meant by a name.
///
/// All that use one name should mean the same kind. Different kinds under one name are safe, because the
/// smallest capacity counts: a mutex excludes readers too.
///
/// ```
/// use globallock::LockKind;
///
/// assert_eq!("2/5".parse::<LockKind>()?, LockKind::Permits { count: 2, capacity: 5 });
/// assert_eq!(LockKind::Read.to_string(), "read");
/// # Ok::<(), globallock::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LockKind {
    /// One holder at a time.
    Mutex,
    /// The side of a read-write lock that many may hold at a time.
    Read,
    /// The side of a read-write lock that one alone may hold.
    Write,
    /// `count` of the `capacity` permits of a semaphore.
    Permits {
        /// How many permits are acquired together.
        count: u32,
        /// How many there are.
        capacity: u32,
    },
}

impl LockKind {
    /// The kind of lock that a claim of these permits makes.
    #[must_use]
    pub fn of(permits: Permits) -> Self {
        match permits {
            Permits::MUTEX => LockKind::Mutex,
            Permits::READ => LockKind::Read,
            Permits::WRITE => LockKind::Write,
            Permits { count, capacity } => LockKind::Permits { count, capacity },
        }
    }

    /// How much of the lock an acquisition takes, and of how much.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] when the capacity is 0 or above [`MAX_CAPACITY`], or the count is 0 or above
    /// the capacity.
    pub fn permits(self) -> Result<Permits> {
        let (count, capacity) = match self {
            LockKind::Mutex => return Ok(Permits::MUTEX),
            LockKind::Read => return Ok(Permits::READ),
            LockKind::Write => return Ok(Permits::WRITE),
            LockKind::Permits { count, capacity } => (count, capacity),
        };
        let checked = |option, value, most| match value {
            value if (1..=most).contains(&value) => Ok(()),
            _ => Err(Error::invalid_option(option, format!("{value} is not from 1 to {most}"))),
        };
        checked("capacity", capacity, MAX_CAPACITY)?;
        checked("permits", count, capacity)?;
        Ok(Permits::new(count, capacity))
    }
}

/// Writes `mutex`, `read`, `write`, or `count/capacity`.
impl fmt::Display for LockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockKind::Mutex => f.write_str("mutex"),
            LockKind::Read => f.write_str("read"),
            LockKind::Write => f.write_str("write"),
            LockKind::Permits { count, capacity } => write!(f, "{count}/{capacity}"),
        }
    }
}

/// Reads what `Display` writes.
impl FromStr for LockKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let permits = || {
            let (count, capacity) = text.split_once('/')?;
            Some(LockKind::Permits { count: count.parse().ok()?, capacity: capacity.parse().ok()? })
        };
        match text {
            "mutex" => Ok(LockKind::Mutex),
            "read" => Ok(LockKind::Read),
            "write" => Ok(LockKind::Write),
            _ => permits().ok_or_else(|| {
                Error::invalid_option(
                    "kind",
                    format!("{text:?} is not mutex, read, write, or COUNT/CAPACITY"),
                )
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = LockKind> {
        let permits = (any::<u32>(), any::<u32>());
        prop_oneof![
            Just(LockKind::Mutex),
            Just(LockKind::Read),
            Just(LockKind::Write),
            permits.prop_map(|(count, capacity)| LockKind::Permits { count, capacity }),
        ]
    }

    proptest! {
        #[test]
        fn a_kind_is_read_back_from_its_text(kind in kinds()) {
            prop_assert_eq!(kind.to_string().parse::<LockKind>().unwrap(), kind);
        }

        #[test]
        fn a_kind_is_told_by_its_permits(kind in kinds()) {
            if let Ok(permits) = kind.permits() {
                prop_assert_eq!(LockKind::of(permits).permits().unwrap(), permits);
            }
        }

        #[test]
        fn the_permits_of_a_semaphore_are_checked(count in 0_u32..9, capacity in 0_u32..9) {
            let permits = LockKind::Permits { count, capacity }.permits().ok();
            let fits = 1 <= count && count <= capacity;
            prop_assert_eq!(permits, fits.then_some(Permits { count, capacity }));
        }
    }

    #[test]
    fn each_kind_takes_what_makes_it_that_lock() {
        let taken = |kind: LockKind| kind.permits().map(|permits| (permits.count, permits.capacity)).unwrap();
        assert_eq!(taken(LockKind::Mutex), (1, 1));
        assert_eq!(taken(LockKind::Read), (1, MAX_CAPACITY));
        assert_eq!(taken(LockKind::Write), (MAX_CAPACITY, MAX_CAPACITY));
        let most = LockKind::Permits { count: 1, capacity: MAX_CAPACITY };
        assert_eq!(taken(most), (1, MAX_CAPACITY));
        let more = LockKind::Permits { count: 1, capacity: MAX_CAPACITY + 1 };
        assert!(more.permits().unwrap_err().to_string().contains("capacity"));
    }

    #[test]
    fn what_is_no_kind_is_refused_by_its_text() {
        for text in ["", "Mutex", "1", "/", "1/", "/1", "1/2/3", "-1/2", "4294967296/4294967296"] {
            let error = text.parse::<LockKind>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")) && error.contains("COUNT/CAPACITY"), "{error}");
        }
    }
}
