//! The verb `inspect`: who holds a lock, who waits for it, and for whom.

mod deadlocks;
pub(crate) mod queue;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use globallock::internals::duration::Shown;
use globallock::{LockManager, Name, Schemes};
use serde::Serialize;

use crate::address::Sources;
use crate::log;
use crate::onlook::Looking;
use crate::onlook::rows::{ClaimRow, WaitRow};
use crate::onlook::table::Sheet;
use crate::onlook::text::{json_line, print};

/// What `inspect` does, for its help.
pub(crate) const ABOUT: &str = "\
Show the queue of a lock.

Shows the holders and then the waiters in the order in which they will be granted the lock: since when, how \
long the lease lasts without another sign of life, and for whom each of them waits. If owners wait for each \
other over several locks, so that none of them goes on, the deadlock is shown too: for that, the queues of \
all names that somebody waits for are read.";

/// The examples of `inspect --help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  Who holds up the others:
    globallock inspect nightly
  The claim of the holder, for globallock break:
    globallock inspect -o json nightly | jq -r '.claims[0].claim'";

/// The arguments of `inspect`.
#[derive(Args, Debug)]
pub(crate) struct Inspect {
    /// The name of the lock.
    name: String,

    #[command(flatten)]
    looking: Looking,

    /// How the queue is written.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

/// How a queue is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Columns, cut to the width of a terminal
    #[default]
    Text,
    /// A JSON object
    Json,
}

/// All that is known of a lock, as programs read it.
#[derive(Debug, Serialize)]
struct Inspected<'a> {
    name: &'a str,
    /// The holders, and then the waiters in their order.
    claims: &'a [ClaimRow],
    /// For whom each waiter waits.
    waits: &'a [WaitRow],
    /// In each, the blocker of a wait is the waiter of the next. Null where it is not known.
    deadlocks: Option<&'a [Vec<WaitRow>]>,
}

/// Shows the queue, and returns the exit status.
pub(crate) fn main(schemes: &Schemes, arguments: &Inspect, sources: Sources) -> ExitCode {
    arguments.looking.verbosity.set(&arguments.name);
    arguments.looking.look(schemes, sources, None, async |manager| {
        let name = Name::new(&arguments.name)?;
        let entries = manager.inspect(&name).await?;
        let claims = ClaimRow::queue(&entries, Duration::ZERO);
        let waits = WaitRow::of_queue(&name, &entries);
        if arguments.output == Output::Text {
            // Whoever waits for the search has something to read.
            print(&text(&name, &claims, &waits, manager.backend().address()))?;
        }
        let deadlocks =
            if waits.is_empty() { Some(Vec::new()) } else { arguments.deadlocks(manager, &name).await };
        print(&match arguments.output {
            Output::Text => deadlocks::lines(deadlocks.as_deref()),
            Output::Json => json_line(&Inspected {
                name: name.as_str(),
                claims: &claims,
                waits: &waits,
                deadlocks: deadlocks.as_deref(),
            }),
        })?;
        Ok(0)
    })
}

impl Inspect {
    /// The deadlocks that this lock is part of. Says why they are not known.
    async fn deadlocks(&self, manager: &LockManager, name: &Name) -> Option<Vec<Vec<WaitRow>>> {
        let why = match tokio::time::timeout(self.looking.timeout, deadlocks::find(manager, name)).await {
            Ok(Ok(found)) => return Some(found),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it takes more than the --timeout of {}", Shown(self.looking.timeout)),
        };
        log::warning("deadlocks").say(format_args!("deadlocks could not be looked for: {why}"));
        None
    }
}

/// The queue for people.
fn text(name: &Name, claims: &[ClaimRow], waits: &[WaitRow], store: &str) -> String {
    if claims.is_empty() {
        return format!("{name} is free: nobody holds it or waits for it; store {store}\n");
    }
    let held = claims.iter().filter(|claim| claim.held).count();
    let counted = |count: usize, one: &str, many: &str| match count {
        0 => format!("nobody {one}"),
        1 => format!("one {one}"),
        count => format!("{count} {many}"),
    };
    format!(
        "{name}: {}, {}; store {store}\n{}",
        counted(held, "holds it", "hold it"),
        counted(claims.len() - held, "waits", "wait"),
        queue::table(claims, waits).drawn(Sheet::of_output())
    )
}
