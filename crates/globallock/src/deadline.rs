//! The rule by which an owner knows by itself that its lease may have expired.
//!
//! The store counts a lease from the arrival of a request, and the owner from the sending of it, on clocks
//! that may run at slightly different rates. So the owner's count begins earlier, and it ends earlier by a
//! margin for the difference.

use crate::sync::Instant;
use std::time::Duration;

/// How much earlier than the store an owner lets a span end, so that clocks which run at different rates
/// cannot make it believe longer than the store does.
///
/// Margins add up: where a store promises less than the whole lease, as with sessions, this comes off
/// that.
///
/// One part in 256 is about four times what NTP may slew the clocks of both sides by together; the two
/// milliseconds cover stores that count whole ones.
#[must_use]
pub fn margin(span: Duration) -> Duration {
    span / 256 + Duration::from_millis(2)
}

/// When a span ends for its owner, who has counted it from the sending of a request and so until `end`;
/// `None` if that is before the beginning of the clock.
#[must_use]
pub fn deadline(end: Instant, span: Duration) -> Option<Instant> {
    end.checked_sub(margin(span))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{MAX_DURATION, MIN_LEASE};
    use proptest::prelude::*;

    fn spans() -> impl Strategy<Value = Duration> {
        (MIN_LEASE.as_millis() as u64..MAX_DURATION.as_millis() as u64).prop_map(Duration::from_millis)
    }

    #[test]
    fn a_store_that_counts_whole_milliseconds_is_allowed_for() {
        for span in [Duration::ZERO, Duration::from_millis(1), MIN_LEASE] {
            assert!(margin(span) >= Duration::from_millis(2), "{span:?}");
        }
    }

    proptest! {
        #[test]
        fn an_owner_gives_up_before_the_store_though_its_clock_is_slow_and_the_stores_is_fast(
            span in spans(),
        ) {
            // By as much as NTP may slew each of them, in opposite directions.
            let slew = Duration::from_micros(500).as_secs_f64();
            let owner_ends = (span - margin(span)).as_secs_f64() / (1.0 - slew);
            let store_ends = span.as_secs_f64() / (1.0 + slew);
            prop_assert!(owner_ends < store_ends, "{} {}", owner_ends, store_ends);
        }

        #[test]
        fn an_owner_gives_little_away(span in spans()) {
            prop_assert!(margin(span) <= span / 100 + Duration::from_millis(2));
        }

        #[test]
        fn a_span_is_over_a_margin_before_its_end(span in spans()) {
            let end = Instant::now() + MAX_DURATION;
            prop_assert_eq!(deadline(end, span), Some(end - margin(span)));
        }
    }
}
