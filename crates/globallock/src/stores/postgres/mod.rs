//! The store in PostgreSQL: a table of claims, and functions that decide on the server.
//!
//! `docs/postgres.md` says what it promises, what it costs and how it fails; `sql/schema.sql` how claims are
//! stored, and the other texts in `sql` how they are granted. Each request is one statement in a transaction
//! of its own, so that a pooler may be between.

mod advisory;
mod answers;
mod arguments;
mod beacon;
mod calls;
mod config;
mod connection;
mod examine;
mod failure;
mod inspect;
mod interop;
mod login;
mod looks;
mod passfile;
mod pool;
mod requests;
mod server;
mod service;
mod setup;
mod tls;
mod unanswered;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use self::answers::Answer;
use self::arguments::Argument;
use self::calls::{Call, Calls, max_hold, milliseconds};
use self::config::{Config, Durability};
use self::connection::{Connection, Listener};
use self::failure::{Failure, Kind};
pub(crate) use self::interop::open;
use self::looks::Looks;
use self::unanswered::Unanswered;
use crate::backend::{
    Backend, Capabilities, Claim, ClaimId, ClaimStatus, CrashRelease, Entry, EntryKey, Eviction, Finding,
    Release, StoreNotice, Summary, Value, ValueWrite, WaitMode,
};
use crate::error::Result;
use crate::name::Name;
use crate::stores::address::Address;
use crate::stores::evictions::KEPT;
use crate::stores::pushed::{Clock, Evicted, Hints, Known, Polls, Pushed, Waiters, Whose, random_node};
use crate::stores::supervised::Supervised as _;
use crate::sync::Instant;

/// How the channel of a manager begins.
const CHANNEL: &str = "globallock_";
/// What a column of a table holds at most.
const MOST_PERMITS: u32 = i32::MAX.unsigned_abs();

/// A store in one schema of a database.
struct Postgres {
    connection: Arc<Connection>,
    inbox: Arc<Inbox>,
    calls: Arc<Calls>,
    /// Where the owners of our claims are told of what concerns them.
    channel: String,
    /// Set once the tables have been found to be ours.
    is_ours: OnceLock<()>,
    looks: Looks,
    unanswered: Unanswered,
}

/// Receives what the server pushes.
#[derive(Default)]
struct Inbox {
    waiters: Waiters,
    hints: Hints,
}

impl Postgres {
    /// A store of the database that `address` names, which connects at the first request.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress).
    fn open(address: Address) -> Result<Arc<Self>> {
        let config = Config::new(address)?;
        let calls = Arc::new(Calls::new(&config.schema, config.is_plain));
        let channel = format!("{CHANNEL}{}", random_node());
        let inbox = Arc::new(Inbox::default());
        let listener: Arc<dyn Listener> = Arc::<Inbox>::clone(&inbox);
        let connection = Connection::new(config, channel.clone(), listener);
        let is_ours = OnceLock::new();
        Ok(Arc::new(Postgres {
            connection,
            inbox,
            calls,
            channel,
            is_ours,
            looks: Looks::default(),
            unanswered: Unanswered::default(),
        }))
    }

    fn config(&self) -> &Config {
        self.connection.config()
    }

    fn key(&self, name: &Name) -> String {
        format!("{}{}", self.config().prefix, name.as_str())
    }

    /// Whether a commit waits for the disk.
    fn is_durable(&self) -> bool {
        self.config().durability == Durability::Wal
    }

    fn error(&self, failure: Failure) -> crate::error::Error {
        self.config().error(failure)
    }

    async fn query(&self, statement: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>> {
        self.connection.query(statement, parameters).await.map_err(|failure| self.error(failure))
    }

    /// Asks for one row.
    async fn row(&self, statement: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> Result<Row> {
        let rows = self.query(statement, parameters).await?;
        rows.into_iter().next().ok_or_else(|| self.error(not_ours()))
    }

    /// Makes a call that is the same when it is repeated.
    async fn call(&self, call: &Call, arguments: &[Argument<'_>]) -> Result<String> {
        let answer = self.connection.call(call, arguments, arguments).await;
        answer.map_err(|failure| self.error(failure))?.ok_or_else(|| self.error(not_ours()))
    }

    /// The same for a claim that may be given up by that.
    async fn take_out(&self, call: &Call, arguments: &[Argument<'_>]) -> Result<Release> {
        match self.call(call, arguments).await?.as_str() {
            "released" => Ok(Release::Released),
            "not held" => Ok(Release::NotHeld),
            _ => Err(self.error(not_ours())),
        }
    }

    /// Reads what the server says of a claim, for which it was asked at `sent`, and notes it for its waiter.
    fn status(&self, claim: &Claim, sent: Instant, answer: Answer) -> ClaimStatus {
        let waiters = &self.inbox.waiters;
        match answer {
            Answer::Held(grant) => {
                let grant = grant.since(sent, claim);
                self.look();
                // The eviction may have been pushed before the answer, but cannot have come before the grant.
                waiters.untrack(claim.id).map_or(ClaimStatus::Held(grant), ClaimStatus::Evicted)
            }
            Answer::Waiting { now_ms, look_in } => {
                let clock = Clock { sent, server_ms: now_ms };
                waiters.set_waiting(claim.id, clock, Some(look_in), false);
                self.look();
                ClaimStatus::Waiting
            }
            Answer::Gone => ClaimStatus::Gone,
            Answer::Evicted(text) => {
                let eviction = Arc::new(Eviction::from_text(&text));
                waiters.evict(claim.id, Arc::clone(&eviction));
                ClaimStatus::Evicted(eviction)
            }
        }
    }

    /// Sees to it that claims are told what concerns them though nothing is pushed.
    fn look(&self) {
        if !self.connection.listens() {
            self.looks.begin(&self.connection, &self.calls, &self.inbox);
        }
    }

    async fn join(&self, claim: &Claim, asked: bool) -> Result<Answer> {
        let permits = |number: u32| Argument::Number(Some(i64::from(number.min(MOST_PERMITS))));
        let (key, id) = (self.key(&claim.name), claim.id.to_string());
        let arguments = |again| {
            [
                Argument::Text(&key),
                Argument::Text(&id),
                permits(claim.permits.count),
                permits(claim.permits.capacity),
                Argument::Number(Some(milliseconds(claim.lease))),
                Argument::Number(max_hold(claim)),
                Argument::Flag(claim.wait_mode == WaitMode::Wait),
                Argument::Flag(again),
                Argument::Flag(claim.wants_value),
                Argument::Text(&self.channel),
                Argument::Text(&claim.owner),
                Argument::Flag(self.is_durable()),
            ]
        };
        let answer = self.connection.call(&self.calls.enqueue, &arguments(asked), &arguments(true)).await;
        let answer = answer.map_err(|failure| self.error(failure))?;
        answer.and_then(|answer| Answer::parse(&answer)).ok_or_else(|| self.error(not_ours()))
    }

    async fn keep(&self, claim: &Claim, rest: Duration, leaves: bool) -> Result<ClaimStatus> {
        // Rounded up, and one more, because the server rounds what is left down.
        let rest = milliseconds(rest).saturating_add(2);
        let sent = Instant::now();
        let arguments = [
            Argument::Text(&self.key(&claim.name)),
            Argument::Text(&claim.id.to_string()),
            Argument::Number(Some(rest)),
            Argument::Flag(leaves),
            Argument::Flag(self.is_durable()),
        ];
        let answer = self.call(&self.calls.keep, &arguments).await?;
        let answer = Answer::parse(&answer).ok_or_else(|| self.error(not_ours()))?;
        Ok(self.status(claim, sent, answer))
    }

    async fn renew_all(&self, claims: &[Arc<Claim>]) -> Result<Vec<ClaimStatus>, Failure> {
        let ids: Vec<String> = claims.iter().map(|claim| claim.id.to_string()).collect();
        let leases: Vec<i64> = claims.iter().map(|claim| milliseconds(claim.lease)).collect();
        let sent = Instant::now();
        let arguments = [Argument::Ids(&ids), Argument::Numbers(&leases), Argument::Flag(self.is_durable())];
        let answer = self.connection.call(&self.calls.renew, &arguments, &arguments).await?;
        let mut answers = answer.and_then(|text| answers::of_several(&text)).ok_or_else(not_ours)?;
        let status =
            |claim: &Arc<Claim>| self.status(claim, sent, answers.remove(&claim.id).unwrap_or(Answer::Gone));
        Ok(claims.iter().map(status).collect())
    }
}

#[async_trait]
impl Backend for Postgres {
    fn address(&self) -> &str {
        &self.config().shown
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("postgres", CrashRelease::Lease).with_values().with_keeping()
    }

    fn is_ready(&self) -> bool {
        self.connection.supervisor.is_live()
    }

    async fn ready(&self) -> Result<()> {
        self.connection.live().await.map(drop).map_err(|failure| self.error(failure))?;
        self.are_ours().await
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        self.are_ours().await?;
        let waits = claim.wait_mode == WaitMode::Wait;
        let asked = match self.inbox.waiters.ask(claim.id, waits) {
            Known::New => false,
            Known::Asked => true,
            Known::Evicted(eviction) => return Ok(ClaimStatus::Evicted(eviction)),
        };
        let sent = Instant::now();
        let unanswered = self.unanswered.ask(claim.id);
        let answer = self.join(claim, asked).await?;
        unanswered.answered();
        let status = self.status(claim, sent, answer);
        if !waits && status == ClaimStatus::Gone {
            self.inbox.waiters.forget(claim.id);
        }
        Ok(status)
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        match self.inbox.waiters.wait_for_change(claim.id).await {
            // The push has no value, and the claim is asked for again.
            Some(ClaimStatus::Held(_)) if claim.wants_value => Ok(None),
            changed => Ok(changed),
        }
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        match self.renew_all(claims).await {
            Ok(statuses) => statuses.into_iter().map(Ok).collect(),
            Err(failure) => claims.iter().map(|_| Err(self.error(failure.clone()))).collect(),
        }
    }

    async fn keep_for(&self, claim: &Claim, rest: Duration) -> Result<ClaimStatus> {
        self.keep(claim, rest, false).await
    }

    async fn release_after(&self, claim: &Claim, rest: Duration) -> Result<Release> {
        match self.keep(claim, rest, true).await? {
            ClaimStatus::Held(_) => {
                self.inbox.waiters.forget(claim.id);
                Ok(Release::Released)
            }
            // What is remembered of the claim is dropped as by any release.
            _ => self.release(claim).await,
        }
    }

    async fn session_lost_hint(&self) {
        self.inbox.hints.given().await;
    }

    fn notices(&self) -> BoxStream<'static, StoreNotice> {
        self.connection.supervisor.notices.stream()
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        let evicted = self.inbox.waiters.give_up(claim.id);
        // Requests on several connections have no order: an enqueue that was given up may come after this.
        let barred = if self.unanswered.has(claim.id) { milliseconds(claim.lease) } else { 0 };
        let arguments = [
            Argument::Text(&self.key(&claim.name)),
            Argument::Text(&claim.id.to_string()),
            Argument::Number(Some(barred)),
            Argument::Flag(self.is_durable()),
        ];
        let released = self.take_out(&self.calls.release, &arguments).await;
        if evicted {
            self.inbox.waiters.forget(claim.id);
        }
        let released = released?;
        self.unanswered.forget(claim.id);
        Ok(released)
    }

    async fn set_value(&self, claim: &Claim, bytes: &[u8], keep: Duration) -> Result<ValueWrite> {
        Value::check(bytes, keep)?;
        let arguments = [
            Argument::Text(&self.key(&claim.name)),
            Argument::Text(&claim.id.to_string()),
            Argument::Bytes(bytes),
            Argument::Number(Some(milliseconds(keep))),
            Argument::Flag(self.is_durable()),
        ];
        match self.call(&self.calls.set_value, &arguments).await?.as_str() {
            "written" => Ok(ValueWrite::Written),
            "not held" => Ok(ValueWrite::NotHeld),
            "outranked" => Ok(ValueWrite::Outranked),
            _ => Err(self.error(not_ours())),
        }
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        self.are_ours().await?;
        let rows = self.query(&self.calls.inspect, &[(&self.key(name), Type::TEXT)]).await?;
        inspect::entries(&rows).ok_or_else(|| self.error(not_ours()))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        self.summaries(prefix)
    }

    async fn evict(&self, name: &Name, entry: &EntryKey, eviction: &Eviction) -> Result<Release> {
        self.are_ours().await?;
        let Some(id) = entry.claim_id() else { return self.terminate(name, entry).await };
        let arguments = [
            Argument::Text(&self.key(name)),
            Argument::Text(&id.to_string()),
            Argument::Text(&eviction.to_text()),
            Argument::Number(Some(milliseconds(KEPT))),
            Argument::Flag(self.is_durable()),
        ];
        self.take_out(&self.calls.evict, &arguments).await
    }

    async fn examine(&self, name: &Name) -> Result<Vec<Finding>> {
        self.examined(name).await
    }

    async fn forget(&self, name: &Name, evicted: &[ClaimId]) -> Result<()> {
        let ids: Vec<String> = evicted.iter().map(ToString::to_string).collect();
        let key = self.key(name);
        self.query(&self.calls.forget, &[(&key, Type::TEXT), (&ids, Type::TEXT_ARRAY)]).await.map(drop)
    }

    async fn set_up(&self) -> Result<String> {
        self.made().await
    }

    fn set_up_script(&self) -> Option<String> {
        Some(format!("BEGIN;\n{}\nCOMMIT;\n", self.script()))
    }
}

impl Listener for Inbox {
    fn message(&self, text: &str) {
        if let Some(Evicted { id, eviction }) = Evicted::parse(text) {
            if self.waiters.evict(id, Arc::new(eviction)) == Whose::Other {
                self.hints.give();
            }
        } else if let Some(polls) = Polls::parse(text) {
            self.waiters.poll(polls);
        } else if let Some(pushed) = Pushed::parse(text) {
            // It may come after the answer that told the same, because that comes on another connection. And
            // a claim that was given up is released by who gave it up.
            drop(self.waiters.deliver(pushed));
        }
    }

    fn resubscribed(&self) {
        self.waiters.poll_all();
        self.hints.give();
    }
}

/// What it means that an answer has another shape than the functions give it.
fn not_ours() -> Failure {
    let reason = "it does not answer as the lock's functions do: run `globallock setup` for this address, or \
                  name another schema";
    Failure::new(Kind::FailedPrecondition, reason)
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("address", &self.config().shown).finish_non_exhaustive()
    }
}
