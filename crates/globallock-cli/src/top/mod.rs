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
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use globallock::Schemes;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, raise};
use nix::unistd::{User, getuid};

use crate::address::Sources;
use crate::arguments::interval;
use crate::exit::{self, Failure};
use crate::onlook::Looking;
use crate::onlook::select::{Filter, Sort};

/// What `top` does, for its help.
pub(crate) const ABOUT: &str = "\
Show the locks of a store as they are now, on a terminal.

Lists who holds which lock, for how long, how much of the lease is left, and who waits, and looks again after \
each interval. Enter opens the queue of a lock: its holders and waiters in order, whom each waits for, and \
the deadlocks that it is part of. u breaks a claim, after a question. ? shows all keys.";

/// The end of `top --help`.
pub(crate) const HELP: &str = "\
Examples:
  All locks of this host:
    globallock top
  Those of a server whose names begin with reports/, the longest wait first:
    globallock top --url redis://10.0.0.7 --sort wait reports/

Exit status:
    0  it was quit
   64  wrong usage: an option, the address, or there is no terminal
   69  the store cannot serve, as it said at the first look; one that does not answer is waited for
   70  something went wrong inside
   77  the store refused the user at the first look
  128 + N  when signal N has ended it";

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
}

/// Shows the locks until it is told to end.
pub(crate) fn main(schemes: &Schemes, arguments: &Top, sources: Sources) -> ExitCode {
    if let Err(failure) = check_terminal() {
        return exit::code(failure.tell(arguments.looking.verbosity.quiet, exit::TAKEN));
    }
    // Before there are other threads.
    let signals = match terminal::block_signals() {
        Ok(signals) => signals,
        Err(error) => return exit::code(Failure::System(error).tell(false, exit::TAKEN)),
    };
    let ended_by = Cell::new(None);
    let label = operator();
    let status = arguments.looking.look(schemes, sources, Some(&label), async |manager| {
        ended_by.set(events::run(manager, arguments, &signals).await?);
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

/// Who sits at the terminal, for the owners of what is broken from there.
fn operator() -> String {
    let user = User::from_uid(getuid()).ok().flatten().map(|user| user.name);
    let user = user.unwrap_or_else(|| format!("user {}", getuid()));
    match std::env::var("SUDO_USER") {
        Ok(real) if getuid().is_root() && !real.is_empty() && real != user => format!("{real} as {user}"),
        _ => user,
    }
}

/// Ends by this signal, so that a shell stops its script at a Ctrl-C that was sent to all.
fn die_of(signal: Signal) -> ExitCode {
    // A dump of this process would be of no use.
    let _ = prctl::set_dumpable(false);
    let _ = raise(signal);
    let _ = SigSet::from(signal).thread_unblock();
    exit::code(exit::of_signal(signal as i32))
}
