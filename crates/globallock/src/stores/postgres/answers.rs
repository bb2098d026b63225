//! Reads what calls answer.

use std::collections::HashMap;
use std::time::Duration;

use crate::backend::{Claim, ClaimId, Grant, Value};
use crate::sync::Instant;

/// What the server says of a claim: see `calls.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Held(Held),
    /// It waits, at this time of the server; what it waits for may end by itself that much later.
    Waiting {
        now_ms: u64,
        look_in: Duration,
    },
    Gone,
    /// It was evicted, with this notice.
    Evicted(String),
}

/// A claim that holds, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    fencing_token: u64,
    left: Duration,
    hold_left: Option<Duration>,
    value: Option<Value>,
}

impl Held {
    /// The grant, counted from before the request.
    pub(super) fn since(self, sent: Instant, claim: &Claim) -> Grant {
        Grant {
            fencing_token: self.fencing_token,
            expires: Some(sent + self.left),
            // More than a lease where the claim is kept for longer.
            lease: Some(self.left).filter(|left| *left > claim.lease),
            hold_ends: claim.max_hold.and(self.hold_left).map(|left| sent + left),
            value: self.value,
        }
    }
}

impl Answer {
    /// Reads an answer; `None` if it is not as the functions make it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(' ').unwrap_or((text, ""));
        match kind {
            "held" => held(&rest.split(' ').collect::<Vec<_>>()).map(Answer::Held),
            "waiting" => {
                let (now_ms, look_in) = rest.split_once(' ')?;
                Some(Answer::Waiting { now_ms: now_ms.parse().ok()?, look_in: milliseconds(look_in)? })
            }
            "gone" => rest.is_empty().then_some(Answer::Gone),
            "evicted" => Some(Answer::Evicted(rest.to_owned())),
            _ => None,
        }
    }
}

/// Reads the answers to many claims, a line each.
pub(super) fn of_several(text: &str) -> Option<HashMap<ClaimId, Answer>> {
    let read = |line: &str| {
        let (id, answer) = line.split_once(' ')?;
        Some((ClaimId::parse(id)?, Answer::parse(answer)?))
    };
    text.lines().map(read).collect()
}

fn held(parts: &[&str]) -> Option<Held> {
    let ([token, left, hold_left], value) = parts.split_first_chunk()?;
    let hold_left = match *hold_left {
        "-" => None,
        text => Some(milliseconds(text)?),
    };
    let value = match value {
        [] => None,
        [token, age, bytes] => Some(Value::new(unhex(bytes)?, token.parse().ok()?, milliseconds(age)?)),
        _ => return None,
    };
    Some(Held { fencing_token: token.parse().ok()?, left: milliseconds(left)?, hold_left, value })
}

/// A time, which is none if it is negative: what has just ended has nothing left.
fn milliseconds(text: &str) -> Option<Duration> {
    let number: i64 = text.parse().ok()?;
    Some(Duration::from_millis(whole(number)))
}

/// A number that is not negative.
pub(super) fn whole(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;
    use crate::queue::Permits;
    use crate::sync::now;
    use proptest::prelude::*;

    fn claim() -> Claim {
        Claim::new(ClaimId::new(1, 1), Name::new("a").unwrap(), Permits::MUTEX).with_lease(seconds(10))
    }

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    fn grant(text: &str, claim: &Claim, sent: Instant) -> Grant {
        match Answer::parse(text) {
            Some(Answer::Held(held)) => held.since(sent, claim),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_grant_is_counted_from_before_the_request() {
        let (sent, claim) = (now(), claim());
        let plain = grant("held 7 10000 -", &claim, sent);
        assert_eq!(plain, Grant::new(7).with_expires(sent + seconds(10)));
        let kept = grant("held 7 11000 -", &claim, sent);
        assert_eq!(kept.lease, Some(seconds(11)));
        let limited = claim.with_max_hold(seconds(3));
        assert_eq!(grant("held 7 10000 2000", &limited, sent).hold_ends, Some(sent + seconds(2)));
        assert_eq!(grant("held 7 10000 -5", &limited, sent).hold_ends, Some(sent));
    }

    #[test]
    fn a_grant_may_come_with_a_value() {
        let value = grant("held 7 10000 - 5 3000 00ff", &claim(), now()).value.unwrap();
        assert_eq!((value.bytes(), value.fencing_token()), (&[0, 255][..], 5));
        assert!(value.age() >= seconds(3));
        let empty = grant("held 7 10000 - 5 3000 ", &claim(), now()).value.unwrap();
        assert_eq!(empty.bytes(), b"");
    }

    #[test]
    fn what_is_no_grant_is_read_too() {
        for (text, answer) in [
            ("waiting 5 1000", Answer::Waiting { now_ms: 5, look_in: seconds(1) }),
            ("gone", Answer::Gone),
            ("evicted {\"by\": 1}", Answer::Evicted("{\"by\": 1}".to_owned())),
        ] {
            assert_eq!(Answer::parse(text), Some(answer));
        }
    }

    #[test]
    fn what_is_not_as_it_should_be_is_no_answer() {
        for text in [
            "",
            "held",
            "held 7 10000",
            "held 7 10000 - 5",
            "held 7 10000 - 5 3000 0g",
            "held x 10000 -",
            "waiting 5",
            "waiting x 5",
            "gone 5",
            "else",
        ] {
            assert_eq!(Answer::parse(text), None, "{text}");
        }
    }

    #[test]
    fn many_answers_are_read_by_their_ids() {
        let (first, second) = (ClaimId::new(1, 1), ClaimId::new(1, 2));
        let text = format!("{first} gone\n{second} waiting 5 1000");
        let read = of_several(&text).unwrap();
        assert_eq!((read.len(), read.get(&first)), (2, Some(&Answer::Gone)));
        assert_eq!(of_several(""), Some(HashMap::new()));
        for wrong in ["gone", "x gone", &format!("{first} else"), &format!("{first} gone\nx")] {
            assert_eq!(of_several(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(held|waiting|gone|evicted|) ?[-0-9a-fé ]{0,40}") {
            let _ = Answer::parse(&text);
        }
    }
}
