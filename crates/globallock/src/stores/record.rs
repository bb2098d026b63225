//! The value of a name as the stores that keep bytes have it.
//!
//! `glk1v:<fencing token>:<keep in ms>:<written at, in ms since 1970>:<the bytes>`. By which clock it was
//! written, and who lets it end, is the store's matter.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::backend::{MAX_VALUE_BYTES, Value};

/// How a record begins.
const BEGIN: &[u8] = b"glk1v:";

/// The longest record.
pub(crate) const MAX_RECORD: usize = BEGIN.len() + 3 * 21 + MAX_VALUE_BYTES;

/// A value and what must be known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) fencing_token: u64,
    /// How long it is kept, in milliseconds.
    pub(crate) keep: u64,
    /// When it was written, in milliseconds.
    pub(crate) written: u64,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record of a value that is written now, by this host's clock.
    pub(crate) fn now(fencing_token: u64, keep: Duration, bytes: &'a [u8]) -> Self {
        Record { fencing_token, keep: milliseconds(keep), written: wall_clock(), bytes }
    }

    /// Reads a record; `None` if it is none.
    pub(crate) fn parse(text: &'a [u8]) -> Option<Self> {
        let mut parts = text.strip_prefix(BEGIN)?.splitn(4, |byte| *byte == b':');
        let mut number = || {
            let digits = parts.next().filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
            std::str::from_utf8(digits).ok()?.parse().ok()
        };
        let (fencing_token, keep, written) = (number()?, number()?, number()?);
        let bytes = parts.next().filter(|bytes| bytes.len() <= MAX_VALUE_BYTES)?;
        Some(Record { fencing_token, keep, written, bytes })
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let Record { fencing_token, keep, written, bytes } = self;
        let head = format!("{fencing_token}:{keep}:{written}:");
        [BEGIN, head.as_bytes(), bytes].concat()
    }

    /// How old it is when the clock by which it was written shows `now`.
    pub(crate) fn age(&self, now: u64) -> Duration {
        Duration::from_millis(now.saturating_sub(self.written))
    }

    /// Whether it has ended when that clock shows `now`. One from the future, because the clock was set back,
    /// ends no later than it would if it were written now.
    pub(crate) fn has_ended(&self, now: u64) -> bool {
        now.abs_diff(self.written) >= self.keep
    }

    /// The value, if it is so old now.
    pub(crate) fn value(&self, age: Duration) -> Value {
        Value::new(self.bytes, self.fencing_token, age)
    }
}

/// What this host's clock shows, in milliseconds since 1970.
pub(crate) fn wall_clock() -> u64 {
    milliseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub(crate) fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            fencing_token: u64,
            keep: u64,
            written: u64,
            bytes in proptest::collection::vec(any::<u8>(), 0..=MAX_VALUE_BYTES),
        ) {
            let record = Record { fencing_token, keep, written, bytes: &bytes };
            let text = record.to_bytes();
            prop_assert!(text.len() <= MAX_RECORD);
            prop_assert_eq!(Record::parse(&text), Some(record));
        }

        #[test]
        fn garbage_is_no_record_or_one_that_can_be_used(
            begin in "(glk1v:)?[0-9:+-]{0,70}",
            end in proptest::collection::vec(any::<u8>(), 0..=2 * MAX_VALUE_BYTES),
            now: u64,
        ) {
            let text = [begin.as_bytes(), &end].concat();
            if let Some(record) = Record::parse(&text) {
                let _ = (record.age(now), record.has_ended(now), record.value(record.age(now)).age());
            }
        }
    }

    #[test]
    fn a_record_looks_like_this() {
        let record = Record { fencing_token: 7, keep: 60_000, written: 1_795_000_000_000, bytes: b"a:b\n" };
        assert_eq!(record.to_bytes(), b"glk1v:7:60000:1795000000000:a:b\n");
        for other in ["", "glk1v:", "glk1v:7:6:1", "glk1v:+7:6:1:", "glk1:7:6:1:", "glk1v:7::1:"] {
            assert_eq!(Record::parse(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_record_ends_after_its_time_wherever_the_clock_is_set() {
        let record = Record { fencing_token: 7, keep: 100, written: 1000, bytes: b"" };
        for (now, age, has_ended) in
            [(1000, 0, false), (1099, 99, false), (1100, 100, true), (901, 0, false), (900, 0, true)]
        {
            assert_eq!((record.age(now), record.has_ended(now)), (Duration::from_millis(age), has_ended));
        }
    }
}
