//! The values of the names: reading them with a grant, and writing them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{Cmd, Pipeline, Value as Answer};

use super::failure::{Failure, Kind};
use super::scripts::call_on;
use super::texts::{NOT_WRITTEN, OUTRANKED, WRITTEN, milliseconds};
use super::{Redis, keys};
use crate::backend::{Claim, MAX_VALUE_BYTES, Value, ValueWrite};
use crate::error::Result;
use crate::name::Name;

impl Redis {
    /// Sends the request that puts a claim into its queue, and reads the value in the same round trip.
    ///
    /// # Cancel safety
    /// The claim may be in its queue.
    pub(super) async fn join_and_read(
        &self,
        claim: &Claim,
        join: &Cmd,
    ) -> Result<(Answer, Option<Value>), Failure> {
        let both = |join: Cmd| {
            let mut commands = Pipeline::with_capacity(2);
            commands.add_command(join).add_command(self.read_of(&claim.name));
            commands
        };
        let mut answers = self.connection.requests(&both(join.clone()), 2).await;
        let is_lost = |answer: &Result<Answer, Failure>| {
            answer.as_ref().is_err_and(|failure| failure.kind == Kind::Disconnected)
        };
        // As for any request: it may have been carried out, so the claim may have been evicted since.
        if answers.iter().any(is_lost) {
            answers = self.connection.requests(&both(self.join(claim, true)), 2).await;
        }
        let mut answers = answers.into_iter();
        let mut next =
            || answers.next().unwrap_or_else(|| Err(Failure::new(Kind::Disconnected, "no answer")));
        Ok((next()?, value(&next()?)))
    }

    /// Reads the value of a name.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn read_value(&self, name: &Name) -> Result<Option<Value>> {
        Ok(value(&self.request(&self.read_of(name)).await?))
    }

    /// Writes the value of a claim's name.
    ///
    /// # Cancel safety
    /// The value may have been written or not.
    pub(super) async fn write_value(
        &self,
        claim: &Claim,
        bytes: &[u8],
        keep: Duration,
    ) -> Result<ValueWrite> {
        Value::check(bytes, keep)?;
        let mut keys = Vec::from(keys::keys(self.prefix(), &claim.name));
        keys.push(keys::value(self.prefix(), &claim.name));
        let mut command = call_on(&self.connection.scripts().set_value, &keys);
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        command.arg(claim.id.to_string()).arg(milliseconds(keep)).arg(bytes).arg(number);
        match self.request(&command).await? {
            Answer::Int(NOT_WRITTEN) => Ok(ValueWrite::NotHeld),
            Answer::Int(WRITTEN) => Ok(ValueWrite::Written),
            Answer::Int(OUTRANKED) => Ok(ValueWrite::Outranked),
            _ => Err(self.error(Failure::new(
                Kind::FailedPrecondition,
                "it does not answer as the lock's scripts do: check the address",
            ))),
        }
    }

    fn read_of(&self, name: &Name) -> Cmd {
        call_on(&self.connection.scripts().value, &[keys::value(self.prefix(), name)])
    }
}

/// Reads the answer of `value.lua`; what is none counts as no value.
fn value(answer: &Answer) -> Option<Value> {
    let Answer::Array(parts) = answer else { return None };
    let [Answer::BulkString(token), Answer::BulkString(keep), Answer::Int(left), Answer::BulkString(bytes)] =
        &parts[..]
    else {
        return None;
    };
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse::<u64>().ok();
    let (token, keep) = (number(token)?, number(keep)?);
    // Negative: an operator has made it stay, so that its age is not known; it counts as long ago.
    let age = Duration::from_millis(keep.saturating_sub(u64::try_from(*left).unwrap_or(0)));
    (bytes.len() <= MAX_VALUE_BYTES).then(|| Value::new(&bytes[..], token, age))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(text: &[u8]) -> Answer {
        Answer::BulkString(text.to_vec())
    }

    #[test]
    fn the_answer_to_a_read_is_a_value_or_none() {
        let answer = |left| Answer::Array(vec![text(b"7"), text(b"1000"), Answer::Int(left), text(b"a\0")]);
        for (left, age) in [(1000, 0), (400, 600), (0, 1000), (-1, 1000), (2000, 0)] {
            let value = value(&answer(left)).unwrap();
            assert_eq!((value.bytes(), value.fencing_token()), (&b"a\0"[..], 7));
            let age = Duration::from_millis(age);
            assert!(value.age() >= age && value.age() < age + Duration::from_millis(400), "{left}");
        }
        for none in [Answer::Nil, Answer::Int(0), Answer::Array(vec![]), text(b"a")] {
            assert_eq!(value(&none), None);
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(
            token in "[-+0-9a]{0,21}",
            keep in "[-+0-9a]{0,21}",
            left: i64,
            bytes in proptest::collection::vec(any::<u8>(), 0..=MAX_VALUE_BYTES + 1),
        ) {
            let answer = [text(token.as_bytes()), text(keep.as_bytes()), Answer::Int(left), text(&bytes)];
            let read = value(&Answer::Array(answer.to_vec()));
            let is_good = token.parse::<u64>().is_ok()
                && keep.parse::<u64>().is_ok()
                && bytes.len() <= MAX_VALUE_BYTES;
            prop_assert_eq!(read.is_some(), is_good);
        }
    }
}
