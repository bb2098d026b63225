//! What an owner does while it holds a lock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use globallock::{Error, Guard, Lock, Loss, Release, ValueWrite};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{Choice, Owner};
use crate::history::{OwnerEvent, Reason, RegisterAnswer, SeenValue, Time, ValueAnswer, now};

/// For how long values are kept. Longer than clocks are set by, because some stores tell the age of a value
/// by the clocks of the owners.
const KEEP: Duration = Duration::from_secs(24 * 3600);

/// After how long the write of a value is given up that is not answered.
const VALUE_LIMIT: Duration = Duration::from_secs(5);

/// Returns the time now, and until when the lock is surely held. The clock is read first, so the result is
/// never later than what the owner believes.
pub(super) fn until(guard: &Guard) -> (Time, Option<Time>) {
    let at = now();
    let left = guard.remaining();
    (at, left.map(|left| at + u64::try_from(left.as_micros()).unwrap_or(u64::MAX / 2)))
}

impl Owner {
    pub(super) async fn hold(
        &self,
        claim: u64,
        guard: Guard,
        lock: &Lock,
        choice: Choice,
        registers: &mut RegisterConnection,
    ) {
        let (log, loss) = (Arc::clone(&self.log), guard.ended());
        let loss_logged = tokio::spawn(async move {
            if let Some(loss) = loss.await {
                let (reason, eviction) = match loss {
                    Loss::Expired => (Reason::Expired, None),
                    Loss::MaxHold => (Reason::MaxHold, None),
                    Loss::Revoked => (Reason::Revoked, None),
                    Loss::Evicted(eviction) => (Reason::Evicted, Some(eviction.reason.clone())),
                    other => panic!("the checker does not know the reason {other:?}"),
                };
                log.write(&OwnerEvent::Lost { at: now(), claim, reason, eviction });
            }
        });
        if choice.uses_value {
            let value = guard.value().map(|value| SeenValue {
                fencing_token: value.fencing_token(),
                text: String::from_utf8_lossy(value.bytes()).into_owned(),
            });
            self.log.write(&OwnerEvent::Value { at: now(), claim, value });
        }
        let permits = lock.kind().permits().expect("good numbers");
        let verb = if permits.is_exclusive() { "write" } else { "look" };
        let name = guard.name().as_str();
        let line = format!("{name} {} {claim} {} {verb}\n", self.plan.owner, guard.fencing_token());
        for round in 1..=u64::from(choice.rounds) {
            let (at, until) = until(&guard);
            let held_before = guard.is_held();
            if !held_before || self.is_stopping() {
                break;
            }
            self.log.write(&OwnerEvent::Held { at, claim, until });
            sleep(Duration::from_micros(choice.pause)).await;
            let at = now();
            let guarded = registers.ask(&line).await;
            let (answered, held_after) = (now(), guard.is_held());
            let control = if guarded == RegisterAnswer::Unknown {
                RegisterAnswer::Unknown
            } else {
                RegisterAnswer::Accepted
            };
            let wrote = OwnerEvent::Wrote { at, answered, claim, held_before, held_after, guarded, control };
            self.log.write(&wrote);
            if choice.uses_value {
                self.set_value(claim, &guard, round).await;
            }
        }
        if guard.is_held() {
            self.log.write(&OwnerEvent::Release { at: now(), claim });
            let outcome = if choice.drops {
                drop(guard);
                "dropped".to_owned()
            } else {
                match guard.release().await {
                    Ok(Release::Released) => "left".to_owned(),
                    Ok(Release::NotHeld) => "gone".to_owned(),
                    Err(error) => error.to_string(),
                }
            };
            self.log.write(&OwnerEvent::Released { at: now(), claim, outcome });
        } else {
            drop(guard);
        }
        loss_logged.await.expect("the loss is logged");
    }

    /// Writes the value of the lock's name. It says who wrote it, and when in the order of its writes.
    async fn set_value(&self, claim: u64, guard: &Guard, write: u64) {
        let text = format!("{} {write}", guard.fencing_token());
        self.log.write(&OwnerEvent::SetValue { at: now(), claim, write });
        let answer = match timeout(VALUE_LIMIT, guard.set_value(text, KEEP)).await {
            Ok(Ok(ValueWrite::Written)) => ValueAnswer::Written,
            Ok(Ok(ValueWrite::Outranked)) => ValueAnswer::Outranked,
            Ok(Ok(ValueWrite::NotHeld) | Err(Error::Lost { .. })) => ValueAnswer::Lost,
            Ok(Err(error)) => ValueAnswer::Unknown(error.to_string()),
            Err(_) => ValueAnswer::Unknown(format!("no answer in {VALUE_LIMIT:?}")),
        };
        self.log.write(&OwnerEvent::ValueSet { at: now(), claim, write, answer });
    }
}

/// A connection to the registers.
pub(super) struct RegisterConnection {
    registers: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl RegisterConnection {
    pub(super) fn new(registers: SocketAddr) -> Self {
        RegisterConnection { registers, stream: None }
    }

    async fn ask(&mut self, line: &str) -> RegisterAnswer {
        let answer = timeout(Duration::from_secs(5), self.try_ask(line)).await;
        match answer {
            Ok(Ok(accepted)) => {
                if accepted {
                    RegisterAnswer::Accepted
                } else {
                    RegisterAnswer::Refused
                }
            }
            _ => {
                self.stream = None;
                RegisterAnswer::Unknown
            }
        }
    }

    async fn try_ask(&mut self, line: &str) -> std::io::Result<bool> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(self.registers).await?;
            stream.set_nodelay(true)?;
            self.stream = Some(BufReader::new(stream));
        }
        let stream = self.stream.as_mut().expect("it has been opened");
        stream.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_line(&mut answer).await?;
        match answer.as_str() {
            "accepted\n" => Ok(true),
            "refused\n" => Ok(false),
            _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
