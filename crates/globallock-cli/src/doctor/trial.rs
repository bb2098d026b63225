//! A lock of two owners, through all that locks do: it is taken, handed over, broken, and gone.

use std::cell::Cell;
use std::pin::pin;
use std::time::{Duration, Instant};

use globallock::backend::ClaimId;
use globallock::{Error, Finding, Guard, LockManager, Loss, Name, Release, Result};
use tokio::time::{sleep, timeout};

use super::LEASE;
use super::report::Report;
use super::witness::{Granted, Witness};
use crate::exit::Failure;

/// From how long a hand-over takes on, it is worth a note.
const SLOW: Duration = Duration::from_secs(1);
/// The pause between two looks at the queue, of which nothing tells.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Why the lock is broken.
const REASON: &str = "globallock doctor tries whether the owner is told";

/// How far a trial has come, when it is dropped in the middle.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Whether the store was asked for a lock.
    pub(super) has_asked: Cell<bool>,
    /// The claim that may have been broken.
    pub(super) broken: Cell<Option<ClaimId>>,
}

/// A trial of one lock.
pub(super) struct Trial<'a> {
    pub(super) first: &'a LockManager,
    pub(super) second: &'a LockManager,
    /// The store as the second owner has it.
    pub(super) second_store: &'a Witness,
    pub(super) name: &'a Name,
    pub(super) progress: &'a Progress,
}

impl Trial<'_> {
    /// Does all of it, as far as it works, and tells what was found.
    ///
    /// # Cancel safety
    /// What is held is released in the background.
    pub(super) async fn run(self, report: &mut Report) -> std::result::Result<(), Failure> {
        let begun = Instant::now();
        let connected = tokio::join!(self.first.backend().ready(), self.second.backend().ready());
        if let Err(error) = connected.0.and(connected.1) {
            return report.say(&failed("connection", "locks cannot be taken", &error));
        }
        report.say(&Finding::good(
            "connection",
            format!("two owners are connected after {}", shown(begun.elapsed())),
        ))?;
        self.progress.has_asked.set(true);
        let begun = Instant::now();
        let guard = match self.first.mutex(self.name).acquire().await {
            Ok(guard) => guard,
            Err(error) => return report.say(&failed("lock", "the lock could not be taken", &error)),
        };
        let took = begun.elapsed();
        let token = guard.fencing_token();
        report.say(&Finding::good("lock", format!("taken in {}, fencing token {token}", shown(took))))?;
        let guard = match self.hand_over(guard).await {
            Ok((guard, finding)) => {
                report.say(&finding)?;
                guard
            }
            Err(error) => {
                return report.say(&failed("hand-over", "the lock could not be handed over", &error));
            }
        };
        if guard.fencing_token() <= token {
            let text = format!("the second owner has {}, which is not above {token}", guard.fencing_token());
            report
                .say(&Finding::bad("fencing token", text).remedy("check the store's clock and its data"))?;
        }
        match self.evict(&guard).await {
            Ok(finding) => report.say(&finding)?,
            Err(error) => report.say(&failed("eviction", "the lock could not be broken", &error))?,
        }
        // Says that the owner knows, so that the store need not keep the notice for long.
        let _ = guard.release().await;
        Ok(())
    }

    /// Hands the lock over to a waiter, which is told by the store.
    async fn hand_over(&self, guard: Guard) -> Result<(Guard, Finding)> {
        let waiter = self.second.mutex(self.name);
        let mut asked = pin!(waiter.acquire());
        tokio::select! {
            // It cannot be granted while the first one holds, unless the store does not keep locks apart.
            answer = &mut asked => {
                let second = answer?;
                let both = Finding::bad("hand-over", "two owners had the lock at the same time");
                return Ok((second, both.remedy("do not use this store for locks")));
            }
            queued = self.queued() => queued?,
        }
        let begun = Instant::now();
        let granted = async {
            let second = asked.await?;
            Ok::<_, Error>((second, begun.elapsed()))
        };
        let (released, granted) = tokio::join!(guard.release(), granted);
        released?;
        let (second, after) = granted?;
        let text = format!("the next owner had the lock {} after the release began", shown(after));
        Ok((
            second,
            match self.second_store.granted() {
                Some(Granted::Asked) => {
                    let text =
                        format!("{text}, because it asked by itself: what the store tells does not arrive");
                    Finding::bad("hand-over", text).remedy(
                        "let no proxy between drop what the server sends unasked (subscriptions, watches, \
                         streams)",
                    )
                }
                _ if after > SLOW => Finding::note("hand-over", format!("{text}, told by the store"))
                    .remedy("look for what is slow: the network, the store, its disk, or this host"),
                _ => Finding::good("hand-over", format!("{text}, told by the store")),
            },
        ))
    }

    /// Waits until the second owner is in the queue.
    async fn queued(&self) -> Result<()> {
        while self.first.inspect(self.name).await?.iter().filter(|entry| !entry.held).count() == 0 {
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Breaks the lock of the second owner, and waits until that is told.
    async fn evict(&self, guard: &Guard) -> Result<Finding> {
        let entries = self.first.inspect(self.name).await?;
        let Some(holder) = entries.iter().find(|entry| entry.held) else {
            let text = "the holder is not seen by another owner";
            return Ok(Finding::bad("eviction", text).remedy("look whether all servers show the same"));
        };
        self.progress.broken.set(holder.key.claim_id());
        let begun = Instant::now();
        if self.first.evict(self.name, &holder.key, REASON).await? == Release::NotHeld {
            let text = "the holder that was seen could not be taken out";
            return Ok(Finding::bad("eviction", text).remedy("look whether all servers show the same"));
        }
        let took = begun.elapsed();
        let text = format!("broken in {}", shown(took));
        Ok(match timeout(2 * LEASE, guard.lost()).await {
            Ok(Loss::Evicted(eviction)) if eviction.reason == REASON => {
                let after = begun.elapsed().saturating_sub(took);
                Finding::good(
                    "eviction",
                    format!("{text}; its owner was told who and why {} later", shown(after)),
                )
            }
            Ok(loss) => {
                Finding::note("eviction", format!("{text}, but its owner was told otherwise: {loss}"))
            }
            Err(_) => {
                Finding::bad("eviction", format!("{text}, but its owner was not told within two leases"))
                    .remedy("let no proxy between drop requests")
            }
        })
    }
}

/// Looks whether anything is left of the trial, and has the store drop what it keeps of the name.
pub(super) async fn left(manager: &LockManager, name: &Name, broken: Option<ClaimId>) -> Finding {
    match manager.inspect(name).await {
        Ok(entries) if entries.is_empty() => match manager.backend().forget(name, broken.as_slice()).await {
            Ok(()) => Finding::good("left behind", "nothing that stays"),
            Err(error) => {
                let text = format!("what the store keeps of the name {name} for a while: {error}");
                Finding::note("left behind", text)
            }
        },
        Ok(_) => Finding::bad(
            "left behind",
            format!("a claim of {name}, which ends with its lease of {} s", LEASE.as_secs()),
        ),
        Err(_) => unknown_rest(true),
    }
}

/// What is said if the store does not answer at the end.
pub(super) fn unknown_rest(closed: bool) -> Finding {
    let text = match closed {
        true => "the store does not answer: if anything is left, it ends within a lease",
        false => "the store has not released the lock: its lease will",
    };
    Finding::unknown("left behind", text)
}

/// What the failure of a step means.
fn failed(subject: &'static str, what: &str, error: &Error) -> Finding {
    let finding =
        if matches!(error, Error::PermissionDenied { .. }) { Finding::denied } else { Finding::bad };
    finding(subject, format!("{what}: {error}"))
}

/// A duration to three digits.
fn shown(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1e3;
    match milliseconds {
        ..0.9995 => format!("{:.0} µs", milliseconds * 1e3),
        ..9.995 => format!("{milliseconds:.2} ms"),
        ..99.95 => format!("{milliseconds:.1} ms"),
        ..999.5 => format!("{milliseconds:.0} ms"),
        _ => format!("{:.2} s", milliseconds / 1e3),
    }
}
