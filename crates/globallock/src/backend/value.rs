//! The small value that a name has beside its queue.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::sync::{Instant, now};

/// How many bytes a value has at most.
pub const MAX_VALUE_BYTES: usize = 1024;

/// The longest that a value is kept: a year.
const MAX_KEEP: Duration = Duration::from_secs(365 * 24 * 3600);
/// The shortest: stores count milliseconds.
const MIN_KEEP: Duration = Duration::from_millis(1);

/// What a holder has left beside a lock for the holders after it, as it was when it was read.
///
/// ```
/// use std::time::Duration;
/// use globallock::Value;
///
/// let value = Value::new(*b"shard 7 is done", 42, Duration::from_secs(5));
/// assert_eq!((value.bytes(), value.fencing_token()), (&b"shard 7 is done"[..], 42));
/// assert!(value.age() >= Duration::from_secs(5));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    bytes: Arc<[u8]>,
    fencing_token: u64,
    /// How old it was at `read`. Not the moment of the write itself, because that may lie before the first
    /// moment that this host's clock can show.
    age: Duration,
    read: Instant,
}

impl Value {
    /// A value that the holder with this fencing token wrote `age` ago.
    #[must_use]
    pub fn new(bytes: impl Into<Arc<[u8]>>, fencing_token: u64, age: Duration) -> Self {
        Value { bytes: bytes.into(), fencing_token, age, read: now() }
    }

    /// What was written.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The fencing token of the holder that wrote it.
    #[must_use]
    pub fn fencing_token(&self) -> u64 {
        self.fencing_token
    }

    /// How long ago it was written, by the clock of the store where it has one; it grows as time passes.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.age.saturating_add(now().saturating_duration_since(self.read))
    }

    /// Refuses what no store keeps as a value. Every store calls this before it sends anything.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] when there are more than [`MAX_VALUE_BYTES`], or the time to keep it is not
    /// between 1 ms and a year.
    pub fn check(bytes: &[u8], keep: Duration) -> Result<()> {
        if bytes.len() > MAX_VALUE_BYTES {
            let reason = format!("it has {} bytes, and {MAX_VALUE_BYTES} are the most", bytes.len());
            return Err(Error::invalid_option("value", reason));
        }
        if keep < MIN_KEEP || keep > MAX_KEEP {
            let reason = format!("{keep:?} is not between {MIN_KEEP:?} and one year");
            return Err(Error::invalid_option("keep", reason));
        }
        Ok(())
    }
}

/// The bytes are not shown, because they are nobody's business but the holders'.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value")
            .field("bytes", &self.bytes.len())
            .field("fencing_token", &self.fencing_token)
            .field("age", &self.age)
            .finish_non_exhaustive()
    }
}

/// What came of writing a value.
///
/// Exhaustive on purpose: the claim was held or not, and a holder with a higher token had written or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueWrite {
    /// It is the name's value from now on.
    Written,
    /// Nothing was written, because the claim is not held.
    NotHeld,
    /// Nothing was written, because a holder with a higher fencing token has written before. Only claims that
    /// hold together, such as readers, see this.
    Outranked,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_of_a_value_are_in_its_range_and_what_is_beyond_is_not() {
        let check = |bytes: usize, keep| Value::check(&vec![0; bytes], keep).map_err(|e| e.to_string());
        let little = Duration::from_nanos(1);
        for (bytes, keep) in [(0, MIN_KEEP), (MAX_VALUE_BYTES, MAX_KEEP)] {
            check(bytes, keep).unwrap();
        }
        let long = check(MAX_VALUE_BYTES + 1, MIN_KEEP).unwrap_err();
        assert!(long.contains("1025") && long.contains("1024"), "{long}");
        for keep in [Duration::ZERO, MIN_KEEP - little, MAX_KEEP + little] {
            let refused = check(1, keep).unwrap_err();
            assert!(refused.contains("keep") && refused.contains("one year"), "{refused}");
        }
    }

    #[test]
    fn a_value_shows_how_long_it_is_and_not_what_it_says() {
        let shown = format!("{:?}", Value::new(*b"secret", 7, Duration::from_secs(3)));
        assert!(shown.contains("bytes: 6") && !shown.contains("secret"), "{shown}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_gets_older() {
        let value = Value::new(*b"a", 7, Duration::from_secs(3));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(value.age(), Duration::from_secs(5));
        assert_eq!(Value::new(*b"a", 7, Duration::MAX).age(), Duration::MAX);
    }
}
