//! The store in Redis: a plain string key that all Redis locks respect, with a fair queue beside it.
//!
//! `docs/redis.md` says what it promises, what it costs and how it fails; `queue.lua` how the queue is
//! stored.

mod config;
mod connection;
mod evict;
mod examine;
mod facts;
mod failure;
mod inspect;
mod keeping;
mod keys;
mod list;
mod scripts;
mod server;
mod texts;
mod values;
mod watches;

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use redis::{Cmd, Pipeline, Script, Value};

use self::config::Config;
use self::connection::{Connection, Listener};
use self::failure::{Failure, Kind};
use self::keeping::Leaves;
use self::scripts::call;
use self::texts::{TAKEN_OUT, UNFINISHED, milliseconds};
use self::watches::Watches;
use crate::backend::{
    Backend, Capabilities, Claim, ClaimId, ClaimStatus, CrashRelease, Entry, EntryKey, Eviction, Finding,
    Grant, Release, StoreNotice, StoreNoticeKind, Summary, ValueWrite, WaitMode,
};
use crate::error::Result;
use crate::name::Name;
use crate::stores::address::Address;
use crate::stores::pushed::{Clock, Evicted, Hints, Known, Polls, Pushed, Waiters, Whose, random_node};
use crate::stores::supervised::Supervised as _;
use crate::sync::Instant;

/// A store in one Redis server, or in the primary that sentinels name.
pub(crate) struct Redis {
    connection: Arc<Connection>,
    inbox: Arc<Inbox>,
    channel: String,
    /// The number of the next write of a value, from 1.
    writes: AtomicU64,
}

/// Receives the pushes of a connection.
#[derive(Default)]
struct Inbox {
    waiters: Waiters,
    watches: Watches,
    hints: Hints,
    /// Needed to release a grant that nobody here waits for. Unset until the first connection is made.
    connection: OnceLock<Weak<Connection>>,
}

impl Redis {
    /// A store of the server that `address` names, which connects at the first request.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress).
    pub(crate) fn open(address: Address) -> Result<Arc<Self>> {
        let config = Config::new(address)?;
        let wake = if config.gap.is_some() { texts::WAKE_WITH_GAPS } else { texts::WAKE };
        let channel = format!("{wake}{}", random_node());
        let inbox = Arc::new(Inbox::default());
        let listener: Arc<dyn Listener> = Arc::<Inbox>::clone(&inbox);
        let connection = Connection::new(config, channel.clone(), listener);
        inbox.connection.get_or_init(|| Arc::downgrade(&connection));
        Ok(Arc::new(Redis { connection, inbox, channel, writes: AtomicU64::new(1) }))
    }

    async fn request(&self, command: &Cmd) -> Result<Value> {
        self.connection.request(command).await.map_err(|failure| self.error(failure))
    }

    fn prefix(&self) -> &str {
        &self.connection.config().prefix
    }

    /// The request that puts a claim into its queue. One that asks `again` may have been evicted, so that the
    /// server looks for the notice.
    fn join(&self, claim: &Claim, again: bool) -> Cmd {
        let scripts = self.connection.scripts();
        let is_fast = claim.permits.is_exclusive() && !again;
        let script = if is_fast { &scripts.enqueue } else { &scripts.enqueue_shared };
        let arguments = [
            claim.id.to_string(),
            milliseconds(claim.lease).to_string(),
            texts::max_hold(claim).to_string(),
            texts::asked(claim),
            format!("{} {}", u8::from(claim.wait_mode == WaitMode::Wait), self.channel),
        ];
        self.call(script, claim, again, &arguments)
    }

    /// A call of a script for a claim. One that may have been evicted is called with the notice of that.
    fn call(&self, script: &Script, claim: &Claim, may_be_evicted: bool, arguments: &[String]) -> Cmd {
        let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        let noticed = may_be_evicted.then_some(claim.id);
        self.connection.config().call(script, &claim.name, noticed, &arguments)
    }

    /// Reads the answer to an enqueue or a renewal that was sent at `sent`, and records what it tells a
    /// waiter.
    fn status(&self, claim: &Claim, sent: Instant, answer: &Value) -> Result<ClaimStatus> {
        let waiters = &self.inbox.waiters;
        // The eviction may have been pushed before the answer, but cannot have come before the grant.
        let held =
            |grant| Ok(waiters.untrack(claim.id).map_or(ClaimStatus::Held(grant), ClaimStatus::Evicted));
        if let Value::Int(fencing_token) = answer {
            let fencing_token = u64::try_from(*fencing_token).unwrap_or_default();
            return held(Grant::new(fencing_token).with_expires(sent + claim.lease));
        }
        if let Some(eviction) = evict::notice(answer) {
            return Ok(self.evicted(claim, eviction));
        }
        match *integers(answer).as_slice() {
            [texts::HELD, fencing_token, left, hold_left] => {
                let after = |milliseconds| sent + Duration::from_millis(milliseconds);
                let hold_ends = claim.max_hold.map(|_| after(hold_left));
                // More than a lease where the claim is kept for longer.
                let lease = Some(Duration::from_millis(left)).filter(|left| *left > claim.lease);
                held(Grant { fencing_token, expires: Some(after(left)), lease, hold_ends, value: None })
            }
            [texts::WAITING, server_ms, poll_in, foreign, ref place @ ..] => {
                waiters.note_place(claim.id, place.first().and_then(|place| usize::try_from(*place).ok()));
                let poll_in = (poll_in > 0).then(|| Duration::from_millis(poll_in));
                waiters.set_waiting(claim.id, Clock { sent, server_ms }, poll_in, foreign > 0);
                Ok(ClaimStatus::Waiting)
            }
            [texts::GONE] => Ok(ClaimStatus::Gone),
            _ => {
                let reason = "it does not answer as the lock's scripts do: check the address";
                Err(Failure::new(Kind::FailedPrecondition, reason)
                    .into_error(&self.connection.config().shown))
            }
        }
    }
}

/// Reads an array of integers that are not negative; anything else gives an empty one.
fn integers(answer: &Value) -> Vec<u64> {
    let Value::Array(values) = answer else { return Vec::new() };
    let integer = |value: &Value| match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    };
    values.iter().map(integer).collect::<Option<_>>().unwrap_or_default()
}

#[async_trait]
impl Backend for Redis {
    fn address(&self) -> &str {
        &self.connection.config().shown
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(self.connection.config().kind, CrashRelease::Lease).with_values().with_keeping()
    }

    fn is_ready(&self) -> bool {
        self.connection.supervisor.is_live()
    }

    async fn ready(&self) -> Result<()> {
        self.connection.live().await.map(drop).map_err(|failure| self.error(failure))
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        keys::check(self.prefix(), &claim.name)?;
        let waits = claim.wait_mode == WaitMode::Wait;
        let asked = match self.inbox.waiters.ask(claim.id, waits) {
            Known::New => false,
            Known::Asked => true,
            Known::Evicted(eviction) => return Ok(ClaimStatus::Evicted(eviction)),
        };
        let command = self.join(claim, asked);
        loop {
            let sent = Instant::now();
            let answer = if claim.wants_value {
                Box::pin(self.join_and_read(claim, &command)).await
            } else {
                let answer = self.connection.request_or(&command, || self.join(claim, true)).await;
                answer.map(|answer| (answer, None))
            };
            let (answer, value) = answer.map_err(|failure| self.error(failure))?;
            if *integers(&answer) != [texts::ASK_AGAIN] {
                let status = self.status(claim, sent, &answer).map(|status| match status {
                    ClaimStatus::Held(grant) => ClaimStatus::Held(grant.with_value(value)),
                    status => status,
                });
                if let [texts::WAITING, _, poll_in, foreign @ (texts::FOREIGN_HOLDER | texts::GAP)] =
                    *integers(&answer)
                {
                    Box::pin(self.watch(claim, foreign == texts::FOREIGN_HOLDER, poll_in)).await;
                }
                if !waits && matches!(status, Ok(ClaimStatus::Gone)) {
                    self.inbox.waiters.forget(claim.id);
                }
                return status;
            }
        }
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        match self.inbox.waiters.wait_for_change(claim.id).await {
            // The push is sent by another owner, who may be of a version that knows no values.
            Some(ClaimStatus::Held(grant)) if claim.wants_value => {
                let value = self.read_value(&claim.name).await?;
                Ok(Some(ClaimStatus::Held(grant.with_value(value))))
            }
            changed => Ok(changed),
        }
    }

    fn place(&self, claim: &Claim) -> Option<usize> {
        self.inbox.waiters.place(claim.id)
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        let mut commands = Pipeline::with_capacity(claims.len());
        for claim in claims {
            let arguments = [
                claim.id.to_string(),
                milliseconds(claim.lease).to_string(),
                texts::member(claim, &self.channel),
            ];
            commands.add_command(self.call(&self.connection.scripts().renew, claim, false, &arguments));
        }
        let sent = Instant::now();
        let answers = self.connection.requests(&commands, claims.len()).await;
        let status = |(claim, answer): (&Arc<Claim>, Result<Value, Failure>)| match answer {
            Ok(answer) => self.status(claim, sent, &answer),
            Err(failure) => Err(self.error(failure)),
        };
        let mut statuses: Vec<_> = claims.iter().zip(answers).map(status).collect();
        self.tell_evicted(claims, &mut statuses).await;
        statuses
    }

    async fn keep_for(&self, claim: &Claim, rest: Duration) -> Result<ClaimStatus> {
        self.keep(claim, rest, Leaves::No).await
    }

    async fn release_after(&self, claim: &Claim, rest: Duration) -> Result<Release> {
        self.keep_and_leave(claim, rest).await
    }

    async fn session_lost_hint(&self) {
        self.inbox.hints.given().await;
    }

    fn notices(&self) -> BoxStream<'static, StoreNotice> {
        self.connection.supervisor.notices.stream()
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        let evicted = self.inbox.waiters.give_up(claim.id);
        self.unwatch(claim);
        let arguments = [claim.id.to_string(), texts::member(claim, &self.channel)];
        let command = self.call(&self.connection.scripts().release, claim, false, &arguments);
        let answer = if evicted {
            let shortened = self.shortened_notice(claim);
            let both = async { tokio::join!(self.request(&command), self.request(&shortened)) };
            let (answer, _) = Box::pin(both).await;
            // Whatever the answer: a release that is repeated needs no notice any more.
            self.inbox.waiters.forget(claim.id);
            answer?
        } else {
            self.request(&command).await?
        };
        Ok(self.finished(command, &answer).await)
    }

    async fn set_value(&self, claim: &Claim, bytes: &[u8], keep: Duration) -> Result<ValueWrite> {
        self.write_value(claim, bytes, keep).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        keys::check(self.prefix(), name)?;
        let answer = self.request(&call(&self.connection.scripts().inspect, self.prefix(), name)).await?;
        inspect::entries(&answer).ok_or_else(|| self.not_a_lock())
    }

    async fn evict(&self, name: &Name, entry: &EntryKey, eviction: &Eviction) -> Result<Release> {
        self.take_out(name, entry, eviction).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        self.summaries(prefix)
    }

    async fn examine(&self, name: &Name) -> Result<Vec<Finding>> {
        self.examined(name).await
    }

    async fn forget(&self, name: &Name, evicted: &[ClaimId]) -> Result<()> {
        self.drop_remains(name, evicted).await
    }
}

impl Redis {
    /// Goes on with a release or an eviction until the lock has been granted to the next waiter.
    async fn finished(&self, command: Cmd, answer: &Value) -> Release {
        let parts = parts(answer);
        if parts & UNFINISHED != 0 {
            // In a task of its own, because the caller may drop this future. Waited for, because the process
            // may end afterwards.
            let handover = tokio::spawn(hand_over(Arc::clone(&self.connection), command));
            drop(Box::pin(tokio::time::timeout(self.connection.config().timeout, handover)).await);
        }
        if parts & TAKEN_OUT == 0 { Release::NotHeld } else { Release::Released }
    }
}

impl Listener for Inbox {
    fn message(&self, text: &str) {
        if let Some(Evicted { id, eviction }) = Evicted::parse(text) {
            if self.waiters.evict(id, Arc::new(eviction)) == Whose::Other {
                self.hints.give();
            }
            return;
        }
        if let Some(polls) = Polls::parse(text) {
            return self.waiters.poll(polls);
        }
        let Some(unwanted) = Pushed::parse(text).and_then(|pushed| self.waiters.deliver(pushed)) else {
            return;
        };
        let Some(connection) = self.connection.get().and_then(Weak::upgrade) else { return };
        tokio::spawn(async move {
            let config = connection.config();
            let Some(name) = unwanted.key.strip_prefix(&config.prefix).and_then(|name| Name::new(name).ok())
            else {
                return;
            };
            let id = unwanted.id.to_string();
            let command = config.call(&connection.scripts().release, &name, None, &[id.as_bytes(), b""]);
            hand_over(connection, command).await;
        });
    }

    fn changed(&self, key: Option<&str>) {
        match key {
            Some(key) => {
                if let Some(id) = self.watches.changed(key) {
                    self.waiters.poll(Polls { id, poll_in: Duration::ZERO });
                }
            }
            None => self.waiters.poll_all(),
        }
    }

    fn resubscribed(&self) {
        self.watches.forget();
        self.waiters.poll_all();
        self.hints.give();
    }
}

/// The parts of the answer to a release or an eviction.
fn parts(answer: &Value) -> i64 {
    if let Value::Int(parts) = answer { *parts } else { TAKEN_OUT }
}

/// Repeats a release until the lock has been granted to the next waiter, or nobody waits.
async fn hand_over(connection: Arc<Connection>, release: Cmd) {
    loop {
        match connection.request(&release).await {
            Ok(answer) if parts(&answer) & UNFINISHED != 0 => {}
            Ok(_) => return,
            Err(failure) => {
                let reason = connection.config().reason(&failure);
                connection.supervisor.notices.say(StoreNoticeKind::NotHandedOver, &reason);
                return;
            }
        }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("address", &self.connection.config().shown).finish_non_exhaustive()
    }
}
