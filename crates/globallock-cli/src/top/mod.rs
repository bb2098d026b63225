//! `globallock top`: all locks of a store, as they are now, on a terminal.

mod app;
mod events;
mod keys;
mod output;
mod terminal;
#[cfg(test)]
mod tests;
mod text;
mod view;

use std::cell::Cell;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use globallock::Schemes;

use crate::address::Sources;
use crate::break_claim::operator;
use crate::exit::{self, Failure};
use crate::ls::interval;
use crate::onlook::Looking;
use crate::onlook::select::{Filter, Sort};
use crate::signals::die_of;

/// What `top` does, for its help.
pub(crate) const ABOUT: &str = "\
Show the locks of a store as they are now, on a terminal.

Lists who holds which lock, for how long, how much of the lease is left, and who waits, and looks again \
after each interval. Enter opens the queue of a lock: its holders and waiters in order, whom each waits for, \
and the deadlocks that it is part of. u breaks a claim, after a question. ? shows all keys.";

/// The examples of `top --help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  All locks of this host:
    globallock top
  Those of a server whose names begin with reports/, the longest wait first:
    globallock top --url redis://10.0.0.7 --sort wait reports/";

/// The arguments of `top`.
#[derive(Args, Debug)]
pub(crate) struct Top {
    /// Show only names that begin with this.
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,

    #[command(flatten)]
    looking: Looking,

    #[command(flatten)]
    filter: Filter,

    /// The order.
    #[arg(long, value_name = "ORDER", default_value = "age")]
    sort: Sort,

    /// How long to wait between two looks.
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "2s")]
    interval: Duration,

    /// The socket of the system's log, which is told what is broken. It is no error if there is none.
    #[arg(long, value_name = "SOCKET", default_value = "/dev/log", hide_short_help = true)]
    syslog: PathBuf,
}

/// Shows the locks until it is told to end.
pub(crate) fn main(schemes: &Schemes, arguments: &Top, sources: Sources) -> ExitCode {
    if let Err(failure) = check_terminal() {
        return exit::code(failure.tell(arguments.looking.verbosity.quiet, exit::TAKEN));
    }
    arguments.looking.verbosity.set_without_name();
    // Before there are other threads.
    let signals = match terminal::block_signals() {
        Ok(signals) => signals,
        Err(error) => return exit::code(Failure::System(error).tell(false, exit::TAKEN)),
    };
    let ended_by = Cell::new(None);
    let by = operator();
    let status = arguments.looking.look(schemes, sources, Some(&by), async |manager| {
        ended_by.set(events::run(manager, arguments, &by, &signals).await?);
        Ok(0)
    });
    match ended_by.get() {
        Some(signal) => die_of(signal),
        None => status,
    }
}

/// Refuses to begin where there is no screen or no keyboard.
fn check_terminal() -> Result<(), Failure> {
    let refuse = |what: &str| {
        Err(Failure::Usage(format!("top needs a terminal: {what}; scripts use globallock ls -o json")))
    };
    if !std::io::stdout().is_terminal() {
        return refuse("standard output is none");
    }
    if !std::io::stdin().is_terminal() {
        return refuse("standard input is none");
    }
    match std::env::var("TERM").as_deref() {
        Err(_) | Ok("" | "dumb") => refuse("the variable TERM says that this one cannot move its cursor"),
        Ok(_) => Ok(()),
    }
}
