//! Breaks real stores under real owners, and judges what the owners logged.

use std::any::Any;
use std::io::{Error, ErrorKind, Result};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand};
use futures_util::FutureExt;
use globallock::internals::duration;
use globallock_conformance::server::strace::may_trace;
use globallock_faults::check::{History, Pass, Report, check};
use globallock_faults::model::{Protocol, sound};
use globallock_faults::run::{
    Means, RunOptions, all, enter, has_servers, install, interrupted, needs_tracing, owed_in_pass, run,
    stores,
};

/// How much longer than twice its length a run may take, for the start of servers and for faults that are
/// still owed.
const OWED: Duration = Duration::from_secs(600);

/// Breaks real stores under real owners, and judges what the owners logged.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    /// The seed that the schedule of faults is made from; the time by default.
    #[arg(long, global = true)]
    seed: Option<u64>,
    /// How many owner processes run at the same time.
    #[arg(long, global = true, default_value_t = 6)]
    owners: u32,
    /// The lease of all claims.
    #[arg(long, global = true, default_value = "2s", value_parser = span)]
    lease: Duration,
    /// A Python interpreter that has the package, for every third owner.
    #[arg(long, global = true)]
    python: Option<PathBuf>,
    /// The directory for the logs. Without it, logs of a run without violations are deleted.
    #[arg(long, global = true)]
    directory: Option<PathBuf>,
    /// Goes on without the faults of network links where there can be no network namespaces.
    #[arg(long, global = true)]
    links_optional: bool,
    /// Goes on without the faults that are made by tracing servers where the system does not permit that
    /// anything is traced.
    #[arg(long, global = true)]
    tracing_optional: bool,
    /// Whether servers may be traced.
    #[arg(skip)]
    tracing: bool,
    /// How long there are faults, in all.
    #[arg(long = "for", global = true, default_value = "1m", value_parser = span)]
    length: Duration,
}

#[derive(Subcommand)]
enum Verb {
    /// Breaks one store.
    Run {
        /// The store.
        #[arg(value_parser = PossibleValuesParser::new(stores()))]
        store: String,
        /// Only these kinds of faults, as the table at the end of a pass names them.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
    /// Breaks each store in turn.
    Pass,
    /// Searches the protocol, in every order of events, for a broken promise, and prints how many states it
    /// has.
    Model {
        /// The number of ticks until time ends; a lease is two ticks.
        #[arg(long, default_value_t = 3)]
        ticks: u8,
        /// The number of messages under way from which on owners send no more.
        #[arg(long, default_value_t = 2)]
        messages: usize,
        /// How often each claim is requested or renewed at most; by default each protocol's own number.
        #[arg(long)]
        asks: Option<u8>,
    },
    /// Judges the logs of a run again.
    Check {
        /// The directory with the logs.
        logs: PathBuf,
    },
}

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::parse();
    let needed: Vec<&str> = match &arguments.verb {
        Verb::Run { store, .. } => vec![store.as_str()],
        Verb::Pass => stores(),
        _ => Vec::new(),
    };
    for store in needed {
        install(store)?;
    }
    let has_links_to_break = match &arguments.verb {
        Verb::Run { store, .. } => has_servers(store),
        verb => matches!(verb, Verb::Pass),
    };
    if has_links_to_break && let Err(why) = enter() {
        eprintln!("network links cannot be taken down: {why}");
        if !arguments.links_optional {
            eprintln!("to go on without the faults link_down and network_down:");
            eprintln!("  --links-optional (make faults LINKS=--links-optional)");
            return Ok(ExitCode::from(2));
        }
    }
    let traces = match &arguments.verb {
        Verb::Run { store, .. } => needs_tracing(store),
        verb => matches!(verb, Verb::Pass),
    };
    let traced = if traces { may_trace() } else { Ok(()) };
    arguments.tracing = traced.is_ok();
    if let Err(why) = traced {
        eprintln!("disks cannot be made to hang: {why}");
        let is_forbidden = why.kind() == ErrorKind::PermissionDenied;
        if !is_forbidden {
            return Ok(ExitCode::from(2));
        }
        if !arguments.tracing_optional {
            eprintln!("to go on without the fault hang_disk:");
            eprintln!("  --tracing-optional (make faults TRACING=--tracing-optional)");
            return Ok(ExitCode::from(2));
        }
    }
    tokio::runtime::Runtime::new()?.block_on(arguments.follow())
}

impl Arguments {
    async fn follow(self) -> Result<ExitCode> {
        let arguments = self;
        let reports = match &arguments.verb {
            Verb::Run { store, only } => {
                let mut owed = all(store, Means::here(arguments.tracing));
                if let Some(unknown) = only.iter().find(|kind| !owed.contains(kind)) {
                    let known = owed.join(", ");
                    return Err(Error::other(format!("{store} has no {unknown}; its faults are {known}")));
                }
                owed.retain(|kind| only.is_empty() || only.contains(kind));
                vec![arguments.run(store, arguments.length, arguments.seed()?, owed, only).await?]
            }
            Verb::Check { logs } => vec![judge(logs)?],
            Verb::Model { ticks, messages, asks } => return Ok(model(*ticks, *messages, *asks)),
            Verb::Pass => arguments.pass().await?,
        };
        let fails = reports.iter().any(|report| !report.violations.is_empty());
        Ok(u8::from(fails).into())
    }

    /// Breaks each store in turn, and prints which faults took effect on which store.
    async fn pass(&self) -> Result<Vec<Report>> {
        let (seed, each) = (self.seed()?, self.length / stores().len() as u32);
        let mut reports = Vec::new();
        let means = Means::here(self.tracing);
        for (store, owed) in owed_in_pass(seed, each, means) {
            reports.push(self.run(store, each, seed, owed, &[]).await?);
        }
        print!("{}", Pass { reports: &reports, missing: &means.missing() });
        Ok(reports)
    }

    fn seed(&self) -> Result<u64> {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_err(Error::other)?;
        Ok(self.seed.unwrap_or(clock.as_secs()))
    }

    async fn run(
        &self,
        store: &str,
        length: Duration,
        seed: u64,
        owed: Vec<String>,
        only: &[String],
    ) -> Result<Report> {
        let parent = self.directory.clone().unwrap_or_else(std::env::temp_dir);
        let directory = fresh(&parent, &format!("faults-{store}-{seed}"))?;
        println!("{store}, seed {seed}, {length:.0?}: logs in {}", directory.display());
        let (owners, lease, python) = (self.owners, self.lease, self.python.clone());
        let (store, tracing, only) = (store.to_owned(), self.tracing, only.to_vec());
        let options =
            RunOptions { store, length, seed, owners, lease, directory, python, tracing, owed, only };
        // Faults that are still owed may take as long again, each with calm around it.
        let limit = length * 2 + OWED;
        let watched = options.directory.clone();
        let watchdog = watchdog(limit, move || {
            let why = format!("the run had not ended after {limit:.0?}");
            eprintln!("{why}: globallock-faults check {}", watched.display());
            let _ = interrupted(&watched, &why);
            std::process::exit(1);
        });
        // A panic in the harness of a server is reported like any other failure, and the owners' logs are
        // judged too.
        let failed = match AssertUnwindSafe(run(&options)).catch_unwind().await {
            Ok(ran) => ran.err().map(|error| error.to_string()),
            Err(panic) => Some(panicked(&*panic)),
        };
        drop(watchdog);
        if let Some(why) = failed {
            eprintln!("{}: {why}", options.store);
            interrupted(&options.directory, &why)?;
        }
        let report = judge(&options.directory)?;
        if !report.violations.is_empty() {
            println!("  judged again by: globallock-faults check {}", options.directory.display());
        } else if self.directory.is_none() {
            std::fs::remove_dir_all(&options.directory)?;
        }
        Ok(report)
    }
}

/// Calls `bark` after the limit, unless the returned sender is dropped before. It waits in a thread of its
/// own, so that a harness which blocks the runtime is noticed too.
fn watchdog(limit: Duration, bark: impl FnOnce() + Send + 'static) -> mpsc::Sender<()> {
    let (keep, kept) = mpsc::channel();
    std::thread::spawn(move || {
        if kept.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            bark();
        }
    });
    keep
}

/// Searches the protocol, and fails if a promise is broken.
fn model(ticks: u8, messages: usize, asks: Option<u8>) -> ExitCode {
    let mut is_sound = true;
    for protocol in sound(ticks, messages) {
        let found = Protocol { requests: asks.unwrap_or(protocol.requests), ..protocol }.search();
        println!("{found}");
        is_sound &= found.is_sound();
    }
    u8::from(!is_sound).into()
}

/// Makes a new directory. Logs of an earlier run with the same seed stay as they are, so a number is appended
/// then.
fn fresh(parent: &Path, name: &str) -> Result<PathBuf> {
    std::fs::create_dir_all(parent)?;
    let mut directory = parent.join(name);
    for number in 2.. {
        match std::fs::create_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                directory = parent.join(format!("{name}-{number}"));
            }
            made => return made.map(|()| directory),
        }
    }
    unreachable!("some number is free")
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a panic: {}", text.unwrap_or("without a message"))
}

fn span(text: &str) -> std::result::Result<Duration, String> {
    duration::parse(text).ok_or_else(|| format!("{text:?} is no span of time, such as 90s or 30m"))
}

fn judge(directory: &Path) -> Result<Report> {
    let report = check(&History::read(directory)?);
    print!("{report}");
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_blocks_is_ended_and_one_that_ends_is_not() {
        for ends in [false, true] {
            let (barks, barked) = mpsc::channel();
            let limit = if ends { Duration::from_secs(600) } else { Duration::from_millis(1) };
            let kept = watchdog(limit, move || barks.send(()).unwrap());
            if ends {
                drop(kept);
            }
            // If it does not bark, the thread drops its end of the channel.
            assert_eq!(barked.recv().is_ok(), !ends);
        }
    }

    #[test]
    fn what_was_kept_of_an_earlier_run_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let first = fresh(parent.path(), "faults-file-7").unwrap();
        std::fs::write(first.join("faults.jsonl"), "kept").unwrap();
        let second = fresh(parent.path(), "faults-file-7").unwrap();
        assert_ne!(first, second);
        assert_ne!(fresh(parent.path(), "faults-file-7").unwrap(), second);
        assert_eq!(std::fs::read_to_string(first.join("faults.jsonl")).unwrap(), "kept");
    }
}
