//! Evictions: taking out a claim that an onlooker saw, and the notices for its owner.

use std::sync::Arc;

use redis::{Cmd, Pipeline, Value};

use super::failure::{Failure, Kind};
use super::texts::{EVICTED, FOREIGN, MAY_WAIT, milliseconds};
use super::{Redis, inspect, keys};
use crate::backend::{Claim, ClaimId, ClaimStatus, EntryKey, Eviction, Release};
use crate::error::Result;
use crate::name::Name;

/// The key of a foreign holder that nothing tells from the next one.
const UNKNOWN: &str = "foreign:?";
/// How many members of a queue one request looks through: less than a millisecond's work.
const LOOKED_THROUGH: usize = 2000;

/// Reads the notice out of an answer that a claim has been evicted.
pub(super) fn notice(answer: &Value) -> Option<Eviction> {
    let Value::Array(parts) = answer else { return None };
    let [Value::Int(EVICTED), notice] = &parts[..] else { return None };
    inspect::text(notice).map(|text| Eviction::from_text(&text))
}

impl Redis {
    /// Takes out the claim that `entry` means.
    ///
    /// # Cancel safety
    /// The claim has been evicted or not.
    pub(super) async fn take_out(
        &self,
        name: &Name,
        entry: &EntryKey,
        eviction: &Eviction,
    ) -> Result<Release> {
        keys::check(self.prefix(), name)?;
        if entry.as_str() == UNKNOWN {
            let reason = "this holder cannot be told from the next one, because its value is short and its \
                          key does not expire, or the key holds no string: delete the key by hand";
            return Err(self.error(Failure::new(Kind::FailedPrecondition, reason)));
        }
        let text = eviction.to_text();
        let script = &self.connection.scripts().evict;
        if entry.claim_id().is_none() && !entry.as_str().starts_with(FOREIGN) {
            return Ok(Release::NotHeld);
        }
        let with_member = |member: &[u8]| {
            let arguments = [entry.as_str().as_bytes(), member, text.as_bytes()];
            self.connection.config().call(script, name, entry.claim_id(), &arguments)
        };
        let once = with_member(b"");
        let answer = self.request(&once).await?;
        match (entry.claim_id(), &answer) {
            (Some(id), Value::Int(number)) if number & MAY_WAIT != 0 => {
                // If the queue does not have it any more, it may have been granted meanwhile.
                let member = self.member_of(name, id).await?.unwrap_or_default();
                let command = with_member(&member);
                let answer = self.request(&command).await?;
                Ok(self.finished(command, &answer).await)
            }
            _ => Ok(self.finished(once, &answer).await),
        }
    }

    /// Looks for the queue's member of a claim of whose owner nothing is known. A member that stays in the
    /// queue meanwhile is found.
    async fn member_of(&self, name: &Name, id: ClaimId) -> Result<Option<Vec<u8>>> {
        let [_, _, queue, _, _] = keys::keys(self.prefix(), name);
        let mut cursor = "0".to_owned();
        loop {
            let mut command = redis::cmd("ZSCAN");
            command.arg(&queue).arg(&cursor).arg("MATCH").arg(format!("{id} *"));
            command.arg("COUNT").arg(LOOKED_THROUGH);
            let answer = self.request(&command).await?;
            // Each member is followed by its join number.
            let (next, found): (String, Vec<Value>) = self.read(answer)?;
            if let Some(Value::BulkString(member)) = found.into_iter().next() {
                return Ok(Some(member));
            }
            if next == "0" {
                return Ok(None);
            }
            cursor = next;
        }
    }

    /// Notes that a claim has been evicted, and answers it.
    pub(super) fn evicted(&self, claim: &Claim, eviction: Eviction) -> ClaimStatus {
        let eviction = Arc::new(eviction);
        self.inbox.waiters.evict(claim.id, Arc::clone(&eviction));
        ClaimStatus::Evicted(eviction)
    }

    /// Looks whether claims that are gone have been evicted.
    pub(super) async fn tell_evicted(&self, claims: &[Arc<Claim>], statuses: &mut [Result<ClaimStatus>]) {
        let gone: Vec<usize> =
            (0..statuses.len()).filter(|at| matches!(statuses[*at], Ok(ClaimStatus::Gone))).collect();
        if gone.is_empty() {
            return;
        }
        let mut commands = Pipeline::with_capacity(gone.len());
        for at in &gone {
            let claim = &claims[*at];
            commands.cmd("GET").arg(keys::notice(self.prefix(), &claim.name, claim.id));
        }
        let answers = self.connection.requests(&commands, gone.len()).await;
        for (at, answer) in gone.into_iter().zip(answers) {
            statuses[at] = match answer {
                Ok(answer) => Ok(match inspect::text(&answer) {
                    Some(text) => self.evicted(&claims[at], Eviction::from_text(&text)),
                    None => ClaimStatus::Gone,
                }),
                Err(failure) => Err(self.error(failure)),
            };
        }
    }

    /// Makes the notice for a claim go after one lease, since its owner has been told and has given it up. A
    /// request of the owner's that is still on its way finds the notice until then.
    pub(super) fn shortened_notice(&self, claim: &Claim) -> Cmd {
        let mut command = redis::cmd("PEXPIRE");
        command.arg(keys::notice(self.prefix(), &claim.name, claim.id)).arg(milliseconds(claim.lease));
        command.arg("LT");
        command
    }

    /// Reads an answer of a command of the server's own.
    pub(super) fn read<T: redis::FromRedisValue>(&self, answer: Value) -> Result<T> {
        redis::from_redis_value(answer).map_err(|error| self.error(redis::RedisError::from(error).into()))
    }

    pub(super) fn error(&self, failure: Failure) -> crate::error::Error {
        self.connection.config().error(failure)
    }

    pub(super) fn not_a_lock(&self) -> crate::error::Error {
        self.error(Failure::new(
            Kind::FailedPrecondition,
            "the keys of this lock hold something that is not a lock: choose another prefix",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Inbox;
    use super::super::connection::Listener;
    use super::*;
    use crate::stores::pushed::Known;
    use futures_util::FutureExt;

    #[test]
    fn only_an_answer_with_a_notice_says_that_a_claim_is_evicted() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let array = |parts: &[Value]| Value::Array(parts.to_vec());
        let eviction = Eviction::new(crate::owner::Owner::default(), "a b");
        let good = [Value::Int(4), text(&eviction.to_text())];
        assert_eq!(notice(&array(&good)), Some(eviction));
        for other in [
            array(&good[..1]),
            array(&[Value::Int(2), text("a")]),
            array(&[Value::Int(4), Value::Nil]),
            array(&[Value::Int(4), text("a"), text("b")]),
            text("a"),
            Value::Int(4),
        ] {
            assert_eq!(notice(&other), None, "{other:?}");
        }
    }

    #[tokio::test]
    async fn only_the_eviction_of_a_claim_of_its_own_makes_a_manager_look() {
        let inbox = Inbox::default();
        let [ours, waits, other] = [1, 2, 3].map(|number| ClaimId::new(5, number));
        inbox.waiters.ask(ours, false);
        inbox.waiters.ask(waits, true);
        for quiet in [format!("{other} evicted a"), format!("{waits} evicted a"), format!("{ours} evict a")] {
            inbox.message(&quiet);
            assert!(inbox.hints.given().now_or_never().is_none(), "{quiet}");
        }
        inbox.message(&format!("{ours} evicted a"));
        assert!(inbox.hints.given().now_or_never().is_some());
        let eviction = Arc::new(Eviction::from_text("a"));
        for claim in [ours, waits] {
            assert_eq!(inbox.waiters.ask(claim, true), Known::Evicted(Arc::clone(&eviction)));
        }
        assert_eq!(inbox.waiters.ask(other, true), Known::New);
    }
}
