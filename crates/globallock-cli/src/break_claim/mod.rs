//! The verb `break`: takes one claim away from its owner, and never another.

mod ask;
mod audit;
mod outcome;
mod stale;
mod who;

pub(crate) use audit::send as tell_system;
pub(crate) use outcome::{Outcome, answered};
pub(crate) use who::operator;

use std::cell::Cell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use globallock::internals::duration::Shown;
use globallock::{Entry, Error, LockManager, Name, Schemes};
use nix::sys::signal::Signal;

use crate::address::Sources;
use crate::exit::{self, Failure, NO};
use crate::log::{self, Line};
use crate::onlook::Looking;
use crate::onlook::rows::ClaimRow;
use crate::onlook::text::shown;
use crate::signals::{Deferrable, die_of};
use crate::waiting::described;

/// What `break` does, for its help.
pub(crate) const ABOUT: &str = "\
Take a lock away from its holder.

Breaks one claim: the one that --claim or --token names, as globallock inspect shows it, or that is chosen \
on a terminal. If the lock has changed hands since, nothing is broken: whoever holds it now is never hit. \
The owner is told who broke the lock and why, and globallock run ends its command. Until the owner has \
heard of it, at its next renewal at the latest, it may go on beside the next holder; the next holder has a \
higher fencing token. What was done is written to standard error and to the system's log.";

/// The examples of `break --help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  Show the queue, ask which claim, and ask again before it is broken:
    globallock break nightly
  In a script, with a claim that was seen before:
    claim=$(globallock inspect -o json nightly | jq -r '.claims[0].claim')
    globallock break nightly --claim \"$claim\" --yes --reason 'it hangs since noon'
  Only if the holder gives no signs of life:
    globallock break nightly --token 42 --stale";

/// The arguments of `break`.
#[derive(Args, Debug)]
pub(crate) struct Break {
    /// The name of the lock.
    name: String,

    /// The claim to break, as inspect and ls -o wide show it.
    #[arg(long, value_name = "ID", conflicts_with = "token")]
    claim: Option<String>,

    /// The fencing token of the holder whose claim is to be broken.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    token: Option<u64>,

    /// Why, in words that the owner is told; 256 characters at most.
    #[arg(long, value_name = "TEXT", value_parser = reason, default_value = "", hide_default_value = true)]
    reason: String,

    /// Break nothing unless its lease is more than half gone. To see that takes up to half a lease.
    #[arg(long)]
    stale: bool,

    /// The claim may be one that waits: it is taken out of the queue. With --yes, it is not if it holds the
    /// lock by then.
    #[arg(long)]
    waiter: bool,

    /// Do not ask. Without a terminal, nothing is broken without this.
    #[arg(short, long)]
    yes: bool,

    #[command(flatten)]
    looking: Looking,

    /// The socket of the system's log. It is no error if there is none.
    #[arg(long, value_name = "SOCKET", default_value = "/dev/log", hide_short_help = true)]
    syslog: PathBuf,
}

/// A claim that was found, and what was around it.
struct Target<'a> {
    name: &'a Name,
    entry: Entry,
    queue: Vec<Entry>,
}

/// Who breaks it.
struct Operator {
    by: String,
    requests: Deferrable,
    /// The signal that has come while the claim was being broken, and ends this process after that.
    ended_by: Cell<Option<Signal>>,
}

/// Breaks the claim, and returns the exit status.
pub(crate) fn main(schemes: &Schemes, arguments: &Break, sources: Sources) -> ExitCode {
    arguments.looking.verbosity.set(&arguments.name);
    // Before there are other threads.
    let requests = match Deferrable::listen() {
        Ok(requests) => requests,
        Err(error) => return exit::code(Failure::System(error).tell(false, exit::TAKEN)),
    };
    let operator = Operator { by: operator(), requests, ended_by: Cell::new(None) };
    let status =
        arguments.looking.look(schemes, sources, Some(&operator.by), async |manager| {
            match arguments.run(manager, &operator).await? {
                Ok(()) => Ok(0),
                Err(why) => {
                    log::error("not_broken").say(format_args!("nothing is broken: {why}"));
                    Ok(NO)
                }
            }
        });
    match operator.ended_by.get() {
        Some(signal) => die_of(signal),
        None => status,
    }
}

/// The longest reason, in bytes: as long as what its owner is told.
pub(crate) const LONGEST_REASON: usize = 256;

/// Refuses a reason that its owner would not be told to its end.
pub(crate) fn reason(text: &str) -> Result<String, String> {
    match text.len() {
        ..=LONGEST_REASON => Ok(text.to_owned()),
        long => Err(format!(
            "a reason has at most {LONGEST_REASON} characters, fewer where they are not ASCII: this one \
             takes {long} bytes"
        )),
    }
}

/// What is done to a claim if the store does not answer.
pub(crate) const UNANSWERED: &str = "may be broken, which the store did not answer,";

/// What is done to a claim that is taken out.
pub(crate) fn done(held: bool) -> &'static str {
    if held { "is broken" } else { "is taken out of the queue" }
}

/// What is done to a claim, by whom and why, on one line without control characters:
/// `"a": claim 1 of job (pid 12 on db1), held for 2 h, fencing token 7, is broken by alice@db2: it hangs; …`
pub(crate) fn deed(
    name: &Name,
    claim: &ClaimRow,
    done: &str,
    (by, reason): (&str, &str),
    store: &str,
) -> String {
    let reason = if reason.is_empty() { "no reason was given".to_owned() } else { shown(reason) };
    let age = claim.age_seconds.and_then(|age| Duration::try_from_secs_f64(age).ok());
    let age = age.map(|age| format!(" for {}", Shown(age))).unwrap_or_default();
    let since = if claim.held { format!("held{age}") } else { format!("waiting{age}") };
    let token = claim.fencing_token.map(|token| format!(", fencing token {token}")).unwrap_or_default();
    format!(
        "{name}: claim {} of {}, {since}{token}, {done} by {}: {reason}; store {store}",
        shown(&claim.claim),
        claim.who(),
        shown(by)
    )
}

/// Why there was nothing to break.
const ENDED: &str = "the claim ended by itself, or somebody else has just broken it";

/// Why nothing was broken, though all was well.
type Refused<T> = Result<T, String>;

impl Break {
    async fn run(&self, manager: &LockManager, operator: &Operator) -> Result<Refused<()>, Failure> {
        let name = &Name::new(&self.name)?;
        if !self.yes && !ask::can() {
            return Err(Failure::Usage(
                "break asks before it breaks anything, and there is no terminal: add --yes".to_owned(),
            ));
        }
        if self.yes && self.claim.is_none() && self.token.is_none() {
            return Err(Failure::Usage(
                "say which claim is to be broken: --claim or --token, as globallock inspect shows them"
                    .to_owned(),
            ));
        }
        let queue = manager.inspect(name).await?;
        let entry = match self.find(name, &queue).await? {
            Ok(entry) => entry,
            Err(why) => return Ok(Err(why)),
        };
        let mut target = Target { name, entry, queue };
        if self.stale {
            match stale::watch(manager, name, &target.entry).await? {
                Ok(queue) => drop(target.refresh(queue)),
                Err(why) => return Ok(Err(why)),
            }
        }
        if self.yes {
            // Whoever says --waiter has seen it wait. A token, only a holder has.
            if target.entry.held && self.waiter && self.token.is_none() {
                return Ok(Err(
                    "that claim waits no more, but holds the lock: leave out --waiter to break a \
                               holder"
                        .to_owned(),
                ));
            }
        } else if let Err(why) = self.confirm(manager, &mut target).await? {
            return Ok(Err(why));
        }
        self.evict(manager, &target, operator).await
    }

    /// Asks whether that claim is meant, and once more if it has waited and holds the lock by the answer.
    async fn confirm(&self, manager: &LockManager, target: &mut Target<'_>) -> Result<Refused<()>, Failure> {
        loop {
            if !ask::confirms(target, manager.backend().address()).await? {
                return Ok(Err("the answer was no".to_owned()));
            }
            let has_waited = !target.entry.held;
            if !target.refresh(manager.inspect(target.name).await?) {
                return Ok(Err(ENDED.to_owned()));
            }
            if !has_waited || !target.entry.held {
                return Ok(Ok(()));
            }
            ask::tells_of_the_grant()?;
        }
    }

    /// The claim that was asked for.
    async fn find(&self, name: &Name, queue: &[Entry]) -> Result<Refused<Entry>, Failure> {
        if queue.is_empty() {
            return Ok(Err(format!("nobody holds {name} or waits for it")));
        }
        let found = match (&self.claim, self.token) {
            (Some(claim), _) => queue.iter().find(|entry| entry.key.as_str() == claim),
            (None, Some(token)) => queue.iter().find(|entry| entry.fencing_token == token),
            (None, None) => return ask::which(queue, self.waiter, name).await,
        };
        Ok(match found {
            Some(entry) if entry.held || self.waiter => Ok(entry.clone()),
            Some(_) => {
                Err("that claim holds nothing, but waits: --waiter takes it out of the queue".to_owned())
            }
            None => Err(format!("{name} has no such claim any more{}", described(queue))),
        })
    }

    /// Takes the claim out, and writes down what became of it, also if a signal comes before the answer.
    async fn evict(
        &self,
        manager: &LockManager,
        target: &Target<'_>,
        operator: &Operator,
    ) -> Result<Refused<()>, Failure> {
        let (by, store) = (&operator.by, manager.backend().address());
        let mut requests = operator.requests.defer();
        let evicted = manager.evict(target.name, &target.entry.key, &self.reason);
        let (evicted, asked) = answered(evicted, requests.next()).await;
        let late = || Err(Error::unavailable(store, "it had not answered when a signal came"));
        let outcome = Outcome::<()>::of(evicted.unwrap_or_else(late));
        if let Some((line, done)) = outcome.deed(target.entry.held) {
            let text = deed(target.name, &target.claim(), done, (by, &self.reason), store);
            self.record(target.line(line, by, &self.reason), &text);
        }
        operator.ended_by.set(asked.or(requests.end()));
        match outcome {
            Outcome::Failed(error) | Outcome::Unknown(error) => return Err(error.into()),
            Outcome::Gone => return Ok(Err(ENDED.to_owned())),
            Outcome::Broken | Outcome::Granted(()) => {}
        }
        if operator.ended_by.get().is_some() {
            return Ok(Ok(()));
        }
        if let Ok(queue) = manager.inspect(target.name).await {
            let now = match queue.iter().any(|entry| entry.held) {
                true => format!("is now taken{}", described(&queue)),
                false if queue.is_empty() => "is free now".to_owned(),
                false => format!("is about to be granted{}", described(&queue)),
            };
            log::info("after").more_on_a_terminal().say(format_args!("{} {now}", target.name));
        }
        Ok(Ok(()))
    }

    /// Writes it to standard error and to the system's log.
    fn record(&self, line: Line, text: &str) {
        line.say(text);
        match audit::send(&self.syslog, text) {
            Ok(true) => {}
            Ok(false) => log::info("no_syslog")
                .say(format_args!("there is no system log at {}", self.syslog.display())),
            Err(error) => log::warning("no_syslog")
                .say(format_args!("the system log at {}: {error}", self.syslog.display())),
        }
    }
}

impl Target<'_> {
    /// Takes what was seen later. Returns whether the claim is still there.
    fn refresh(&mut self, queue: Vec<Entry>) -> bool {
        let entry = queue.iter().find(|entry| entry.key == self.entry.key).cloned();
        let is_there = entry.is_some();
        if let Some(entry) = entry {
            self.entry = entry;
        }
        self.queue = queue;
        is_there
    }

    /// The claim as it is shown.
    fn claim(&self) -> ClaimRow {
        ClaimRow::new(&self.entry, Duration::ZERO)
    }

    /// Adds what programs read.
    fn line(&self, line: Line, by: &str, reason: &str) -> Line {
        let owner = &self.entry.owner;
        line.with("claim", self.entry.key.as_str())
            .with("fencing_token", Some(self.entry.fencing_token).filter(|token| *token > 0))
            .with("held", self.entry.held)
            .with("host", Some(owner.host.clone()).filter(|host| !host.is_empty()))
            .with("pid", owner.pid)
            .with("label", owner.label.clone())
            .with("by", by)
            .with("reason", reason)
    }
}
