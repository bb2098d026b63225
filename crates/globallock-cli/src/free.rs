//! The verbs `status` and `wait`: whether a lock is free, without asking for it.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use globallock::internals::duration::Shown;
use globallock::{Entry, Name, Schemes};
use tokio::time::{Instant, sleep_until};

use crate::address::Sources;
use crate::arguments::time;
use crate::exit::NO;
use crate::log;
use crate::onlook::Looking;
use crate::onlook::text::print;
use crate::waiting::{described, refusal, who};

/// What `status` does, for its help.
pub(crate) const STATUS: &str = "\
Tell whether a lock is free.

Prints a line about the lock, and exits with 0 when it is free and with 1 when it is not. A lock is free \
when nobody holds it or waits for it: one that is passed from holder to holder is free only behind the last \
of them.";

/// What `wait` does, for its help.
pub(crate) const WAIT: &str = "\
Wait until a lock is free, without taking it.

A lock is free when nobody holds it or waits for it: one that is passed from holder to holder is free only \
behind the last of them. It is looked at once a second, so that a lock which is free for less may be \
missed. Another may take it at any time: to be sure that nobody else does, use run or hold.";

/// The examples of `status --help`.
pub(crate) const STATUS_EXAMPLES: &str = "\
Examples:
  In a script:
    if globallock status --quiet deploy; then echo idle; fi";

/// The examples of `wait --help`.
pub(crate) const WAIT_EXAMPLES: &str = "\
Examples:
  Until no deployment runs, for ten minutes at most:
    globallock wait --wait 10m deploy";

/// How long between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// The arguments of `status`.
#[derive(Args, Debug)]
pub(crate) struct Status {
    /// The name of the lock.
    name: String,

    #[command(flatten)]
    looking: Looking,
}

/// The arguments of `wait`.
#[derive(Args, Debug)]
pub(crate) struct Wait {
    /// The name of the lock.
    name: String,

    #[command(flatten)]
    looking: Looking,

    /// Give up when the lock is not free within this time, such as 250ms, 30s, 5m or 1h30m.
    #[arg(short, long, value_name = "TIME", value_parser = time)]
    wait: Option<Duration>,
}

/// Tells whether the lock is free, by a line and by the exit status.
pub(crate) fn status(schemes: &Schemes, arguments: &Status, sources: Sources) -> ExitCode {
    let verbosity = &arguments.looking.verbosity;
    verbosity.set(&arguments.name);
    arguments.looking.look(schemes, sources, None, async |manager| {
        let name = Name::new(&arguments.name)?;
        let queue = manager.inspect(&name).await?;
        if !verbosity.quiet {
            print(&format!("{}\n", line(&name, &queue)))?;
        }
        Ok(if queue.is_empty() { 0 } else { NO })
    })
}

fn line(name: &Name, queue: &[Entry]) -> String {
    match queue.iter().any(|entry| entry.held) {
        _ if queue.is_empty() => format!("{name} is free"),
        true => format!("{name} is taken{}", described(queue)),
        false => format!("{name} is about to be granted{}", described(queue)),
    }
}

/// Waits until the lock is free, and returns the exit status.
pub(crate) fn wait(schemes: &Schemes, arguments: &Wait, sources: Sources) -> ExitCode {
    arguments.looking.verbosity.set(&arguments.name);
    arguments.looking.look(schemes, sources, None, async |manager| {
        let name = Name::new(&arguments.name)?;
        let begun = Instant::now();
        // A wait that does not end is one without a limit.
        let until = arguments.wait.and_then(|wait| begun.checked_add(wait));
        let mut told = String::new();
        loop {
            let look_again = Instant::now() + EVERY;
            let looked = manager.inspect(&name).await?;
            if looked.is_empty() {
                log::info("free").say(format_args!("{name} is free"));
                return Ok(0);
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                let what = format!("was not free within {}", Shown(begun.elapsed()));
                return Err(refusal(&name, manager, &looked, &what));
            }
            tell(&name, &looked, &mut told);
            let next = until.map_or(look_again, |until| until.min(look_again));
            sleep_until(next).await;
        }
    })
}

/// Says who holds the lock, when that is another than was said.
fn tell(name: &Name, queue: &[Entry], told: &mut String) {
    let now = who(queue);
    if now != *told {
        log::info("waiting")
            .more_on_a_terminal()
            .say(format_args!("waiting until {name} is free{}", described(queue)));
        *told = now;
    }
}
