//! What a run leaves behind: a directory with one file per process, and in it one JSON line per event.
//!
//! | file | written by |
//! |---|---|
//! | `owner-<number>.jsonl` | one owner process |
//! | `register.jsonl` | the registers |
//! | `observer.jsonl` | the observer of the queues |
//! | `faults.jsonl` | the run itself, which makes the faults |
//!
//! All times are microseconds of `CLOCK_BOOTTIME`, because all processes of one host share that clock, and it
//! goes on for an owner that is made to believe that its host was suspended. The
//! JSON names must stay: logs that were kept are judged again by later versions.

use serde::{Deserialize, Serialize};

/// Microseconds of `CLOCK_BOOTTIME`.
pub type Time = u64;

/// How much later than promised things may happen, because the machine is busy; in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// From a deadline until a process has run and logged it.
    pub slack: Time,
    /// From the end of a dead owner's lease until the next waiter has been granted the lock.
    pub recovery: Time,
    /// Whether an onlooker may be shown what was true before something that others have seen already.
    #[serde(default = "Terms::unknown")]
    pub reads_lag: bool,
}

impl Terms {
    /// What is assumed of a log that does not say so: nothing is judged that may be right.
    fn unknown() -> bool {
        true
    }
}

impl Default for Terms {
    fn default() -> Self {
        Terms { slack: 3_000_000, recovery: 2_000_000, reads_lag: false }
    }
}

/// Reads the clock that all logs share.
#[must_use]
pub fn now() -> Time {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000
}

/// The identity of a claim: its owner process, and a number which that process never uses twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClaimNumber {
    /// The number of the owner process, as in the name of its log.
    pub owner: u32,
    /// The number of the claim.
    pub claim: u64,
}

/// The kind of lock that a claim is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A mutex.
    Mutex,
    /// The shared side of a read-write lock.
    Read,
    /// The exclusive side of a read-write lock.
    Write,
    /// Permits of a semaphore.
    Permits,
}

/// How an owner asks for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Once, without waiting.
    Try,
    /// It waits for so many microseconds at most.
    Wait(Time),
    /// It waits; after so many microseconds the call is dropped unless it has been granted.
    Cancel(Time),
}

/// Why an acquisition was not granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// It was a try, and the lock was taken.
    Refused,
    /// The limit of the wait was reached.
    TimedOut,
    /// The call was dropped while it waited.
    Cancelled,
    /// An operator evicted the claim, for this reason.
    Evicted(String),
    /// The call returned this error.
    Error(String),
}

/// What a register answered to a write or read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegisterAnswer {
    /// It was accepted.
    Accepted,
    /// It was refused, because the register had seen a newer token.
    Refused,
    /// The register did not answer.
    Unknown,
}

/// The value that came with a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenValue {
    /// The fencing token of its writer, by the store.
    pub fencing_token: u64,
    /// What was written: by an owner, its fencing token and the number of the write.
    pub text: String,
}

/// What came of writing a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueAnswer {
    /// It was written.
    Written,
    /// A higher token had written before.
    Outranked,
    /// The lock was not held any more.
    Lost,
    /// There was this error, or no answer in time: it may have been written or not.
    Unknown(String),
}

/// Why an owner lost a lock, as it was notified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No renewal was confirmed in time.
    Expired,
    /// The max hold time has ended, as planned.
    MaxHold,
    /// The store no longer has the claim.
    Revoked,
    /// An operator evicted the claim.
    Evicted,
}

/// What came of an eviction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvictionAnswer {
    /// The claim was taken out of its queue.
    Released,
    /// The claim was not there any more, or an earlier request of the same eviction had taken it out.
    NotHeld,
    /// There was this error, or no answer in time: the claim may be gone or not.
    Unknown(String),
}

/// The reason that an owner is told: which operator evicted the claim, and its number of the eviction.
#[must_use]
pub fn reason_of_eviction(operator: u32, eviction: u64) -> String {
    format!("owner {operator} eviction {eviction}")
}

/// What an owner process logs. Each line is written with one call, right before or right after the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum OwnerEvent {
    /// The first line of a log.
    Start {
        /// When.
        at: Time,
        /// The process.
        pid: u32,
        /// The number in the log's file name; the claims' label in the store is `owner-<number>`.
        owner: u32,
        /// `rust` or `python`.
        language: String,
        /// The lease of all its claims, in microseconds.
        lease: Time,
    },
    /// Logged right before it asks.
    Invoke {
        /// When.
        at: Time,
        /// Which claim.
        claim: u64,
        /// The lock's name.
        name: String,
        /// The lock's kind.
        kind: Kind,
        /// How many permits it takes.
        #[serde(rename = "weight")]
        count: u32,
        /// How many permits there are.
        capacity: u32,
        /// How it asks.
        mode: Mode,
    },
    /// It was granted.
    Granted {
        /// When the call had returned.
        at: Time,
        /// Which claim.
        claim: u64,
        /// The fencing token.
        fencing_token: u64,
        /// Until when it is held for sure without a renewal; `None` where only the end of the process ends
        /// it.
        until: Option<Time>,
    },
    /// Logged behind the grant of a claim that asks for the value of its name.
    Value {
        /// When.
        at: Time,
        /// Which claim.
        claim: u64,
        /// What came with the grant.
        value: Option<SeenValue>,
    },
    /// It was not granted; the claim is out of the queue, or soon will be.
    Failed {
        /// When.
        at: Time,
        /// Which claim.
        claim: u64,
        /// Why.
        failure: Failure,
    },
    /// It checked that it still holds: logged before each pause and write while it holds.
    Held {
        /// When it checked.
        at: Time,
        /// Which claim.
        claim: u64,
        /// Until when, as far as it knows now; `None` where only the end of the process ends it.
        until: Option<Time>,
    },
    /// It used both registers with its token: an exclusive claim writes, a shared claim reads.
    Wrote {
        /// Right before it was sent.
        at: Time,
        /// When the answer arrived.
        answered: Time,
        /// Which claim.
        claim: u64,
        /// Whether it held when it checked before. With `held_after`: it believed to hold throughout.
        held_before: bool,
        /// Whether it held when it checked after the answer.
        held_after: bool,
        /// What the fenced register answered.
        guarded: RegisterAnswer,
        /// What the control answered, which accepts everything.
        control: RegisterAnswer,
    },
    /// Logged right before it writes the value of its name.
    SetValue {
        /// When.
        at: Time,
        /// Which claim.
        claim: u64,
        /// The number of the write: the first of a claim has 1.
        write: u64,
    },
    /// The write of a value was answered, or given up.
    ValueSet {
        /// When.
        at: Time,
        /// Which claim.
        claim: u64,
        /// The number of the write.
        write: u64,
        /// What came of it.
        answer: ValueAnswer,
    },
    /// It was notified that it lost a lock which it had held.
    Lost {
        /// When it was notified.
        at: Time,
        /// Which claim.
        claim: u64,
        /// Why.
        reason: Reason,
        /// The reason of the eviction, if it was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        eviction: Option<String>,
    },
    /// Logged right before it releases a lock.
    Release {
        /// When.
        at: Time,
        /// Which claim.
        claim: u64,
    },
    /// The release was answered.
    Released {
        /// When.
        at: Time,
        /// Which claim.
        claim: u64,
        /// `left` (released), `gone` (was not held any more), `dropped` or `unknown` (nobody waited for the
        /// answer), or the error.
        #[serde(rename = "departure")]
        outcome: String,
    },
    /// As an operator, logged right before it evicts a claim that it has seen.
    Evict {
        /// When.
        at: Time,
        /// A number which that process never uses twice.
        eviction: u64,
        /// The lock's name.
        name: String,
        /// The claim's owner.
        owner: u32,
        /// Whether the claim held then.
        held: bool,
        /// Its fencing token, or for a waiter its position in the order of the store.
        fencing_token: u64,
    },
    /// Its eviction was answered, or given up.
    Evicted {
        /// When.
        at: Time,
        /// Which.
        eviction: u64,
        /// What came of it.
        answer: EvictionAnswer,
    },
    /// The process did not run for a while, although it had something to do.
    Pause {
        /// When it ran again.
        at: Time,
        /// For how long it had not run.
        length: Time,
    },
    /// The wall clock of its host was set.
    Clock {
        /// When the process noticed.
        at: Time,
        /// By how many seconds.
        step: i64,
    },
    /// The host seems to have been suspended: one of its clocks has not counted for a while.
    Suspended {
        /// When the process noticed.
        at: Time,
        /// For how long the clock has not counted.
        length: Time,
    },
    /// The last line of a process that ended as it should.
    End {
        /// When.
        at: Time,
    },
}

/// What the registers log: one line per write or read, in the order in which they were served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterEvent {
    /// When it was served.
    pub at: Time,
    /// The lock's name.
    pub name: String,
    /// The claim.
    #[serde(flatten)]
    pub by: ClaimNumber,
    /// Its fencing token.
    pub fencing_token: u64,
    /// Whether it was a write; a read otherwise.
    pub exclusive: bool,
    /// Whether the fenced register accepted it.
    pub accepted: bool,
    /// Whether the control, which accepted it in any case, had seen a newer token: the damage that fencing
    /// prevents.
    pub stale: bool,
}

/// What the observer logs: the queue of one name, as `inspect` returned it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObserverEvent {
    /// Right before it asked.
    pub at: Time,
    /// When the answer arrived.
    pub answered: Time,
    /// The lock's name.
    pub name: String,
    /// The claims, oldest first.
    pub queue: Vec<ObservedClaim>,
}

/// A claim as the observer sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedClaim {
    /// The claim's id in the store; `None` for a foreign holder.
    pub id: Option<String>,
    /// The owner's label.
    pub label: Option<String>,
    /// Whether it holds.
    pub held: bool,
    /// Its fencing token, or for a waiter its position in the order of the store.
    pub fencing_token: u64,
}

/// What the run logs about itself and its faults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum FaultEvent {
    /// The first line.
    Start {
        /// When.
        at: Time,
        /// The name of the kind of store.
        store: String,
        /// What the schedule of faults was made from.
        seed: u64,
        /// The lease of all claims, in microseconds; the claims of the crowd have a shorter one.
        lease: Time,
        /// What the run is judged by.
        terms: Terms,
        /// The kinds of faults that must take effect in this run.
        owed: Vec<String>,
    },
    /// Logged right before a fault, in case the run does not live until the fault's end.
    Begin {
        /// When.
        at: Time,
        /// The kind of the fault.
        kind: String,
    },
    /// One fault, after it was mended.
    Fault {
        /// When it began.
        at: Time,
        /// When it was mended.
        mended: Time,
        /// Its kind, for example `owner_kill`, `owner_stop_long`, `leader_kill`, `swallow_answers`.
        kind: String,
        /// The owner process that it hit, if it hit only one.
        owner: Option<u32>,
        /// What was counted or seen of its effect.
        proof: String,
        /// Whether it took effect.
        #[serde(rename = "bit")]
        took_effect: bool,
        /// Whether the fault may make the store forget what it promised, or take back a grant. Then only the
        /// tokens exclude, until the leases from before have expired.
        forgets: bool,
    },
    /// The names that still had claims after all owners had ended and all leases had expired.
    Left {
        /// When it was checked.
        at: Time,
        /// What was there: names, or keys as the store's own tool lists them.
        left: Vec<String>,
    },
    /// The run was ended before its time, or failed.
    Interrupted {
        /// When.
        at: Time,
        /// Why.
        why: String,
    },
    /// The run ended as it should.
    End {
        /// When.
        at: Time,
    },
}

#[cfg(test)]
mod tests;
