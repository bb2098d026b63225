//! The value of a claim's key: when the claim joined, its id, and its owner.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::backend::{Claim, ClaimId};

/// The value as it is read back, for people only: no decision depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value<'a> {
    /// The time since 1970, by the owner's clock.
    pub(super) joined: Duration,
    pub(super) id: ClaimId,
    pub(super) owner: &'a str,
}

pub(super) fn write(claim: &Claim) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    format!("{now} {} {}", claim.id, claim.owner).into_bytes()
}

pub(super) fn parse(text: &str) -> Option<Value<'_>> {
    let (joined, rest) = text.split_once(' ')?;
    let (id, owner) = rest.split_once(' ')?;
    Some(Value { joined: Duration::from_millis(joined.parse().ok()?), id: ClaimId::parse(id)?, owner })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::etcd::claims::tests::{MUTEX, claim};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_written_value_of_a_claim_is_read_back(number in any::<u64>(), owner in "[^\0\n]{0,20}") {
            let mut claim = claim(number, MUTEX);
            claim.owner = owner.into();
            let since_1970 = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let before = since_1970();
            let written = String::from_utf8(write(&claim)).unwrap();
            let value = parse(&written).unwrap();
            prop_assert_eq!((value.id, value.owner), (claim.id, &claim.owner[..]));
            let millisecond = Duration::from_millis(1);
            prop_assert!(before < value.joined + millisecond && value.joined <= since_1970(), "{:?}", value);
        }
    }

    #[test]
    fn a_value_of_another_program_is_not_parsed() {
        for text in ["", "host:123", "12 ", "12 34 me", "x 00000000000000000000000000000001 me"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
