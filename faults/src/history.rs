//! What a run leaves behind: one JSON line an event, one file a process, in one directory.
//!
//! `owner-<number>.jsonl` is an owner process, `register.jsonl` the registers, `observer.jsonl` the onlooker, and
//! `faults.jsonl` whoever breaks things. All times are microseconds of `CLOCK_MONOTONIC`, which all processes of one
//! host share.

use serde::{Deserialize, Serialize};

/// Microseconds of `CLOCK_MONOTONIC`.
pub type Time = u64;

/// What a busy machine is given on top of what is promised, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// From a deadline until a process has run and said so.
    pub slack: Time,
    /// From the end of a dead owner's lease until the next has been granted.
    pub recovery: Time,
}

impl Default for Terms {
    fn default() -> Self {
        Terms { slack: 3_000_000, recovery: 2_000_000 }
    }
}

/// Reads the clock that all logs share.
#[must_use]
pub fn now() -> Time {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000
}

/// A claim, by the owner process and the number that it gave it; numbers are never used twice by one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClaimNumber {
    /// The owner process, as its log is named.
    pub owner: u32,
    /// Which of its claims.
    pub claim: u64,
}

/// What sort of lock a claim is for.
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

/// How a claim asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Once, without waiting.
    Try,
    /// It waits, at most so many microseconds.
    Wait(Time),
    /// It waits, and is dropped on the way after so many microseconds unless it has been granted.
    Cancel(Time),
}

/// How an acquisition ended that was not granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// A try that found the lock taken.
    Refused,
    /// A wait whose time was over.
    TimedOut,
    /// A wait that was dropped.
    Cancelled,
    /// An error, as it was told.
    Error(String),
}

/// What a register answered to a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Written {
    /// It was taken.
    Accepted,
    /// A newer token had been seen.
    Refused,
    /// The register did not answer.
    Unknown,
}

/// Why an owner was told that it holds no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No renewal was confirmed in time.
    Expired,
    /// The longest hold has ended, as planned.
    MaxHold,
    /// The store does not know the claim any more.
    Revoked,
}

/// What an owner process logs. Each line is written with one call, before or right after what it tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum OwnerEvent {
    /// The first line of a log.
    Start {
        /// When.
        at: Time,
        /// The process.
        pid: u32,
        /// What the log's file is named by; the claims' label in the store is `owner-<number>`.
        owner: u32,
        /// `rust` or `python`.
        language: String,
        /// The lease of all its claims, in microseconds.
        lease: Time,
    },
    /// Right before it asks.
    Invoke {
        /// When.
        at: Time,
        /// Which claim.
        claim: u64,
        /// The lock.
        name: String,
        /// Its sort.
        kind: Kind,
        /// How much of the lock it takes.
        weight: u32,
        /// How much of the lock there is.
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
        /// Until when it is surely held without a renewal; `None` where only the process's end ends it.
        until: Option<Time>,
    },
    /// It was not granted, and the claim is nobody's any more or soon will be.
    Failed {
        /// When.
        at: Time,
        /// Which claim.
        claim: u64,
        /// Why.
        failure: Failure,
    },
    /// It looked whether it holds, and it does: logged now and then while it holds, and around every write.
    Held {
        /// When it looked.
        at: Time,
        /// Which claim.
        claim: u64,
        /// Until when, as far as is known now; `None` where only the process's end ends it.
        until: Option<Time>,
    },
    /// It wrote to both registers: with the token and, if alone, an exclusive write; if not, a shared look.
    Wrote {
        /// Right before it was sent.
        at: Time,
        /// When the answer was there.
        answered: Time,
        /// Which claim.
        claim: u64,
        /// Whether it held, as it looked before and after; both means that it believed to hold all the while.
        held_before: bool,
        /// See there.
        held_after: bool,
        /// What the fenced register answered.
        guarded: Written,
        /// What the control answered, which takes everything.
        control: Written,
    },
    /// The loss of a lock that it held was told.
    Lost {
        /// When it was told.
        at: Time,
        /// Which claim.
        claim: u64,
        /// Why.
        reason: Reason,
    },
    /// Right before it gives a lock back.
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
        /// `left`, `gone`, or the error.
        departure: String,
    },
    /// It did not run, though it had something to do.
    Pause {
        /// When it ran again.
        at: Time,
        /// For how long it had not.
        length: Time,
    },
    /// Its host's wall clock was set.
    Clock {
        /// When it was seen.
        at: Time,
        /// By how many seconds.
        step: i64,
    },
    /// The last line of a process that ended in order.
    End {
        /// When.
        at: Time,
    },
}

/// What the registers log: one line a write or look, in the order in which they served them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterEvent {
    /// When it was served.
    pub at: Time,
    /// The lock's name.
    pub name: String,
    /// Whose claim.
    #[serde(flatten)]
    pub by: ClaimNumber,
    /// Its token.
    pub fencing_token: u64,
    /// Whether it wrote, rather than looked.
    pub exclusive: bool,
    /// Whether the fenced register took it.
    pub accepted: bool,
    /// Whether the control, which took it in any case, had seen a newer token: what fencing is for.
    pub stale: bool,
}

/// What the onlooker logs: the queue of one name, as `inspect` told it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObserverEvent {
    /// Right before it asked.
    pub at: Time,
    /// When the answer was there.
    pub answered: Time,
    /// The lock's name.
    pub name: String,
    /// The claims, oldest first.
    pub queue: Vec<Seen>,
}

/// A claim as the onlooker sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The claim's id in the store, where it is ours.
    pub id: Option<String>,
    /// The owner's label.
    pub label: Option<String>,
    /// Whether it holds.
    pub held: bool,
    /// Its place in the order of the store.
    pub fencing_token: u64,
}

/// What whoever breaks things logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum FaultEvent {
    /// The first line.
    Start {
        /// When.
        at: Time,
        /// `redis`, `redis-replica`, `etcd-1`, `etcd-3`, `zookeeper-1`, `zookeeper-3`, `file`.
        store: String,
        /// What the schedule was made from.
        seed: u64,
        /// The lease of all claims, in microseconds; that of the crowd is shorter.
        lease: Time,
        /// What the run is judged by.
        terms: Terms,
        /// The kinds of faults that must bite in this run.
        owed: Vec<String>,
    },
    /// Right before something is broken, in case the run does not see its end.
    Begin {
        /// When.
        at: Time,
        /// What is going to be done.
        kind: String,
    },
    /// One fault, from when it began to when it was mended.
    Fault {
        /// When it began.
        at: Time,
        /// When it was mended.
        mended: Time,
        /// What was done, for example `owner_kill`, `owner_stop_long`, `leader_kill`, `answers_swallowed`.
        kind: String,
        /// The owner process that it hit, if it hit one alone.
        owner: Option<u32>,
        /// What shows that it bit, as counted or seen.
        proof: String,
        /// Whether it did bite.
        bit: bool,
        /// Whether the store may forget what it has promised, or take back a grant, by what was done: exclusion is then
        /// a matter of the tokens until the leases from before have ended.
        forgets: bool,
    },
    /// The names that still had claims when all owners had ended and all leases were over.
    Left {
        /// When it looked.
        at: Time,
        /// What was there: names, or keys by the store's own tool.
        left: Vec<String>,
    },
    /// The run was ended before its time, or failed.
    Interrupted {
        /// When.
        at: Time,
        /// Why.
        why: String,
    },
    /// The run is over, and the store was in order.
    End {
        /// When.
        at: Time,
    },
}
