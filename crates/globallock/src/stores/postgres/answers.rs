//! Reads what the functions answer.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::backend::{Claim, Grant, Value};
use crate::sync::Instant;

/// What the server says of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Held(Held),
    /// It waits, at this time of the server; what it waits for may end by itself that much later.
    Waiting {
        now_ms: u64,
        look_in: Option<Duration>,
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
}

impl Held {
    /// The grant, counted from before the request.
    pub(super) fn since(&self, sent: Instant, claim: &Claim) -> Grant {
        Grant {
            fencing_token: self.fencing_token,
            expires: Some(sent + self.left),
            // More than a lease where the claim is kept for longer.
            lease: Some(self.left).filter(|left| *left > claim.lease),
            hold_ends: claim.max_hold.and(self.hold_left).map(|left| sent + left),
            value: None,
        }
    }
}

impl Answer {
    /// Reads a row; `None` if it is not as the functions make it.
    pub(super) fn read(row: &Row) -> Option<Self> {
        let number = |name| column::<Option<i64>>(row, name).map(|number| number.map(whole));
        let span = |name| number(name).map(|number| number.map(Duration::from_millis));
        match column::<i32>(row, "status")? {
            0 => Some(Answer::Waiting { now_ms: number("now_ms")??, look_in: span("look_ms")? }),
            1 => Some(Answer::Held(Held {
                fencing_token: number("token")??,
                left: span("left_ms")??,
                hold_left: span("hold_left_ms")?,
            })),
            2 => Some(Answer::Gone),
            4 => column(row, "notice").map(Answer::Evicted),
            _ => None,
        }
    }
}

/// Reads the value that comes with a grant; `None` if the columns are not as the functions make them.
#[expect(clippy::option_option, reason = "a name has a value or not, and the row is readable or not")]
pub(super) fn value(row: &Row) -> Option<Option<Value>> {
    let Some(bytes) = column::<Option<Vec<u8>>>(row, "bytes")? else { return Some(None) };
    let age = Duration::from_millis(whole(column(row, "bytes_age_ms")?));
    Some(Some(Value::new(bytes, whole(column(row, "bytes_token")?), age)))
}

/// A number that is not negative: the server rounds down, and what has just ended has nothing left.
pub(super) fn whole(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn column<'a, T: FromSql<'a>>(row: &'a Row, name: &str) -> Option<T> {
    row.try_get(name).ok()
}
