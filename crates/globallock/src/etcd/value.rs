//! What a claim's key holds: when it joined, who it is, and who made it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::backend::{Claim, ClaimId};

/// What is read back; nothing is decided on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value<'a> {
    /// Since 1970, by the owner's clock.
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
