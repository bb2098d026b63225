//! The verb `ls`: which locks a store has.

mod lines;
mod watch;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use globallock::{LockManager, Schemes};

use crate::address::Sources;
use crate::arguments::time;
use crate::exit::{Failure, NO};
use crate::log;
use crate::onlook::Looking;
use crate::onlook::board::Board;
use crate::onlook::select::{Filter, Sort};
use crate::onlook::table::Sheet;
use crate::onlook::text::print;

/// What `ls` does, for its help.
pub(crate) const ABOUT: &str = "\
List the locks of a store.

Shows every name that somebody holds or waits for: the kind of lock, the holder of the longest standing and \
for how long it has held it, how long its lease lasts without another sign of life, and how many wait and \
the longest wait. A store with many names is asked in pages, so that this takes few round trips.";

/// The examples of `ls --help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  All locks, the longest held first:
    globallock ls --sort age
  What somebody has waited for longer than ten minutes, for a check that fails when there is such a lock:
    globallock ls --waited 10m --fail-found
  The names alone, for a script:
    globallock ls -o name reports/
  What changes, as it changes:
    globallock ls --watch -o json";

/// How long is watched whether holders give signs of life.
const MOST_WATCHED: Duration = Duration::from_secs(60);
/// How often, meanwhile.
const WATCHED_EVERY: Duration = Duration::from_secs(1);
/// The shortest time between two looks.
const SHORTEST: Duration = Duration::from_millis(100);

/// The arguments of `ls`.
#[derive(Args, Debug)]
pub(crate) struct Ls {
    /// Show only names that begin with this text.
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,

    #[command(flatten)]
    looking: Looking,

    /// How locks are written.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,

    #[command(flatten)]
    filter: Filter,

    /// In which order.
    #[arg(long, value_name = "BY", default_value = "name", conflicts_with = "watch")]
    sort: Sort,

    /// Go on, and print what has changed: a line for each lock.
    #[arg(short, long)]
    watch: bool,

    /// How long to wait between two looks of --watch.
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "2s")]
    interval: Duration,

    /// Exit with 1 when there is no such lock.
    #[arg(long, conflicts_with = "watch")]
    fail_empty: bool,

    /// Exit with 1 when there is such a lock.
    #[arg(long, conflicts_with_all = ["watch", "fail_empty"])]
    fail_found: bool,
}

/// How locks are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns, cut to the width of a terminal
    #[default]
    Table,
    /// Columns, with the fencing token, the label, the process and the claim
    Wide,
    /// A JSON object a line
    Json,
    /// The names
    Name,
}

/// The pause between two looks.
pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    match time(text)? {
        time if time < SHORTEST => Err(format!("the shortest is {}ms", SHORTEST.as_millis())),
        time => Ok(time),
    }
}

/// Lists the locks, and returns the exit status.
pub(crate) fn main(schemes: &Schemes, arguments: &Ls, sources: Sources) -> ExitCode {
    arguments.looking.verbosity.set_without_name();
    arguments.looking.look(schemes, sources, None, async |manager| match arguments.watch {
        true => watch::watch(manager, arguments).await,
        false => arguments.list(manager).await,
    })
}

impl Ls {
    async fn list(&self, manager: &LockManager) -> Result<u8, Failure> {
        let mut board = Board::default();
        board.look(manager, &self.prefix).await;
        if self.filter.stale {
            self.watch_signs(&mut board, manager).await;
        }
        let mut rows = board.shown_by(manager, &self.filter).await;
        self.sort.sort(&mut rows);
        print(&lines::of(&rows, self.output, Sheet::of_output()))?;
        if let Some(failure) = board.take_failure() {
            return Err(failure.into());
        }
        if rows.is_empty() {
            log::info("none")
                .more_on_a_terminal()
                .say(format_args!("there is no such lock in {}", manager.backend().address()));
        }
        let fails = if rows.is_empty() { self.fail_empty } else { self.fail_found };
        Ok(if fails { NO } else { 0 })
    }

    /// Looks again until it is known which holders give no signs of life.
    async fn watch_signs(&self, board: &mut Board, manager: &LockManager) {
        let until = tokio::time::Instant::now() + MOST_WATCHED;
        while let Some(known_in) = board.signs_known_in() {
            if tokio::time::Instant::now() >= until {
                log::warning("not_known").say(format_args!(
                    "not of all holders it is known whether they are stale: some leases are so long that it \
                     takes another {}",
                    globallock::internals::duration::Shown(known_in)
                ));
                break;
            }
            tokio::time::sleep(WATCHED_EVERY).await;
            board.look(manager, &self.prefix).await;
        }
        if board.is_without_signs() && board.rows().next().is_some() {
            log::warning("not_known").say(format_args!(
                "a list of {} does not tell whether holders are alive, so that none is known to be stale; \
                 see globallock inspect",
                manager.backend().address()
            ));
        }
    }
}
