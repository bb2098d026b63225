//! The rule by which an owner knows on its own that its lock may be over.
//!
//! The store counts a lease from when a request arrives, the owner from when it was sent, on clocks that run at rates of their
//! own. So the owner's count begins earlier, and ends earlier by a margin for the rates.

use std::time::{Duration, Instant};

/// How much earlier than the store we let a span of its clock end, so that clocks which run at slightly different
/// rates cannot make us believe longer than the store does.
///
/// One part in 256 is eight times what NTP may slew a clock by on both sides together; the two milliseconds cover
/// stores that count whole ones.
#[must_use]
pub fn margin(span: Duration) -> Duration {
    span / 256 + Duration::from_millis(2)
}

/// When a span counts as over for an owner that counted it from the sending of its request, and so until `end`;
/// `None` if that is before all time.
#[must_use]
pub fn deadline(end: Instant, span: Duration) -> Option<Instant> {
    end.checked_sub(margin(span))
}
