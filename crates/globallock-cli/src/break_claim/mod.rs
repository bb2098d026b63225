//! The verb `break`: takes one claim away from its owner, and never another.

mod ask;
mod audit;
mod stale;
mod who;

pub(crate) use audit::send as tell_system;
pub(crate) use who::operator;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use globallock::internals::duration::Shown;
use globallock::{Entry, LockManager, Name, Release, Schemes};

use crate::address::Sources;
use crate::exit::{Failure, NO};
use crate::log::{self, Line};
use crate::onlook::Looking;
use crate::onlook::rows::ClaimRow;
use crate::onlook::text::shown;
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

    /// Why, in words that the owner is told.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,

    /// Break nothing unless its lease is more than half gone. To see that takes up to half a lease.
    #[arg(long)]
    stale: bool,

    /// The claim may be one that waits: it is taken out of the queue.
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

/// Breaks the claim, and returns the exit status.
pub(crate) fn main(schemes: &Schemes, arguments: &Break, sources: Sources) -> ExitCode {
    arguments.looking.verbosity.set(&arguments.name);
    let by = operator();
    arguments.looking.look(schemes, sources, Some(&by), async |manager| {
        match arguments.run(manager, &by).await? {
            Ok(()) => Ok(0),
            Err(why) => {
                log::error("not_broken").say(format_args!("nothing is broken: {why}"));
                Ok(NO)
            }
        }
    })
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

/// Why nothing was broken, though all was well.
type Refused<T> = Result<T, String>;

impl Break {
    async fn run(&self, manager: &LockManager, by: &str) -> Result<Refused<()>, Failure> {
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
                Ok(queue) => target.refresh(queue),
                Err(why) => return Ok(Err(why)),
            }
        }
        if !self.yes && !ask::confirms(&target, manager.backend().address()).await? {
            return Ok(Err("the answer was no".to_owned()));
        }
        self.evict(manager, &target, by).await
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

    async fn evict(
        &self,
        manager: &LockManager,
        target: &Target<'_>,
        by: &str,
    ) -> Result<Refused<()>, Failure> {
        let outcome = manager.evict(target.name, &target.entry.key, &self.reason).await;
        let store = manager.backend().address();
        match outcome {
            Ok(Release::Released) => {
                let done = done(target.entry.held);
                let text = deed(target.name, &target.claim(), done, (by, &self.reason), store);
                self.record(target.line(log::warning("broken"), by, &self.reason), &text);
            }
            Ok(Release::NotHeld) => {
                return Ok(Err("the claim ended by itself, or somebody else has just broken it".to_owned()));
            }
            Err(error) => {
                if error.is_unavailable() {
                    // Nobody knows, and that is to be found in the log too.
                    let text = deed(target.name, &target.claim(), UNANSWERED, (by, &self.reason), store);
                    self.record(target.line(log::error("broken_unanswered"), by, &self.reason), &text);
                }
                return Err(error.into());
            }
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
    /// Takes what was seen later, in which the claim still is.
    fn refresh(&mut self, queue: Vec<Entry>) {
        if let Some(entry) = queue.iter().find(|entry| entry.key == self.entry.key) {
            self.entry = entry.clone();
        }
        self.queue = queue;
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
