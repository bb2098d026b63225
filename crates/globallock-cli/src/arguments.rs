//! The arguments of the command line. The help, the man page and the completions are made from the comments
//! here.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use globallock::{LockKind, MAX_DURATION, Options, Schemes};

use crate::break_claim::{self, Break};
use crate::doctor::{self, Doctor};
use crate::free::{self, Status, Wait};
use crate::hold::{self, Hold};
use crate::inspect::{self, Inspect};
use crate::ls::{self, Ls};
use crate::pages::{Completions, Manual};
use crate::serve::{self, Serve};
use crate::setup::{self, Setup};
use crate::statuses::below;
use crate::suggested::Suggested;
use crate::top::{self, Top};
use crate::{exit, log};

const RUN: &str = "\
Run a command while holding a lock.

Waits for the lock, first come, first served, runs the command, and releases the lock when the command has \
ended. Standard input, output and error, signals and the exit status pass through. The command finds the \
lock's name in GLOBALLOCK_NAME, and in GLOBALLOCK_FENCING_TOKEN a number that rises with every grant.";

/// The help of `--url` before and after the forms of addresses, which the table of schemes knows.
const URL: [&str; 2] = [
    "The store that the lock lives in, by its address:",
    "The default is the address in the file /etc/globallock/url, if there is one, and file: otherwise, which \
     is a private directory of this user under /tmp. Other users can read the arguments of a process: put an \
     address with a password into the variable, or into a file for --url-file.",
];

/// The end of the short help.
const MORE: &str = "Try --help for examples and the exit status.";

/// Below it, a command is told to end before it has begun.
const SHORTEST_HOLD: Duration = Duration::from_millis(100);

/// The definitions of the arguments, for a program that knows the stores of this table.
pub(crate) fn command(schemes: &Schemes) -> Command {
    // What lives in the memory of one process is shared with nobody, so it is no store for a command.
    let forms = schemes.forms().into_iter().filter(|form| !form.starts_with("memory:"));
    let forms: Vec<String> = forms.map(|form| format!("  {form}")).collect();
    let [before, after] = URL;
    let help = format!("{before}\n{}\n\n{after}", forms.join("\n"));
    let command = Arguments::command();
    let verbs = Suggested::new(verbs(&command), |verb| Ok(verb.to_owned()));
    command.mut_subcommands(|verb| {
        if verb.get_arguments().any(|argument| argument.get_id() == "url") {
            verb.mut_arg("url", |url| url.long_help(help.clone()))
        } else if verb.get_name() == "man" {
            verb.mut_arg("verb", |verb| verb.value_parser(verbs.clone()).hide_possible_values(true))
        } else {
            verb
        }
    })
}

/// The arguments of these words, of which the first is the program's name, if they are a `run` that is
/// understood.
///
/// A run is started by cron and by scripts, thousands of times, and need not wait until all other verbs are
/// defined. Whatever else the words are, [`command`] says.
pub(crate) fn run_alone(words: impl IntoIterator<Item = OsString>) -> Option<(Run, ArgMatches)> {
    let words: Vec<OsString> = words.into_iter().skip(1).collect();
    words.first().filter(|verb| *verb == "run")?;
    let matches = Run::augment_args(Command::new("run")).try_get_matches_from(words).ok()?;
    Some((Run::from_arg_matches(&matches).ok()?, matches))
}

/// The names of the verbs.
pub(crate) fn verbs(command: &Command) -> Vec<String> {
    command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect()
}

/// Runs a command while it holds a lock that is shared between processes or hosts.
#[derive(Debug, Parser)]
#[command(name = "globallock", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a command while holding a lock.
    #[command(long_about = RUN)]
    #[command(after_help = MORE, after_long_help = below(exit::EXAMPLES, "run"))]
    Run(Box<Run>),
    /// Hold a lock for a part of a script.
    #[command(long_about = hold::ABOUT)]
    #[command(after_help = MORE, after_long_help = below(hold::EXAMPLES, "hold"))]
    Hold(Box<Hold>),
    /// List the locks of a store.
    #[command(long_about = ls::ABOUT)]
    #[command(after_help = MORE, after_long_help = below(ls::EXAMPLES, "ls"))]
    Ls(Box<Ls>),
    /// Show the queue of a lock.
    #[command(long_about = inspect::ABOUT)]
    #[command(after_help = MORE, after_long_help = below(inspect::EXAMPLES, "inspect"))]
    Inspect(Box<Inspect>),
    /// Take a lock away from its holder.
    #[command(long_about = break_claim::ABOUT)]
    #[command(after_help = MORE, after_long_help = below(break_claim::EXAMPLES, "break"))]
    Break(Box<Break>),
    /// Wait until a lock is free, without taking it.
    #[command(long_about = free::WAIT)]
    #[command(after_help = MORE, after_long_help = below(free::WAIT_EXAMPLES, "wait"))]
    Wait(Box<Wait>),
    /// Tell whether a lock is free.
    #[command(long_about = free::STATUS)]
    #[command(after_help = MORE, after_long_help = below(free::STATUS_EXAMPLES, "status"))]
    Status(Box<Status>),
    /// Show the locks of a store as they are now, on a terminal.
    #[command(long_about = top::ABOUT)]
    #[command(after_help = MORE, after_long_help = below(top::EXAMPLES, "top"))]
    Top(Box<Top>),
    /// Show the locks of a store on a web page.
    #[command(long_about = serve::ABOUT)]
    #[command(after_help = MORE, after_long_help = below(serve::EXAMPLES, "serve"))]
    Serve(Box<Serve>),
    /// Examine a store before it is trusted with locks.
    #[command(long_about = doctor::ABOUT)]
    #[command(after_help = MORE, after_long_help = below(doctor::EXAMPLES, "doctor"))]
    Doctor(Box<Doctor>),
    /// Set a store up for locks.
    #[command(long_about = setup::ABOUT)]
    #[command(after_help = MORE, after_long_help = below(setup::EXAMPLES, "setup"))]
    Setup(Box<Setup>),
    /// Print the completions of a shell, to be put where that shell looks for them.
    Completions(Completions),
    /// Print a manual page, for `man -l` or to be put where manual pages are.
    Man(Manual),
}

/// Which store to use.
#[derive(Args, Debug)]
pub(crate) struct Store {
    /// The store that the lock lives in.
    #[arg(long, value_name = "URL", default_value = "file:")]
    #[arg(env = "GLOBALLOCK_URL", hide_env_values = true)]
    pub(crate) url: String,

    /// Read the store's address from this file instead; lines that are empty or begin with # are skipped.
    #[arg(long, value_name = "FILE", env = "GLOBALLOCK_URL_FILE")]
    pub(crate) url_file: Option<PathBuf>,
}

/// Which lock to ask for, and how.
#[derive(Args, Debug)]
pub(crate) struct LockOptions {
    /// Give up when the lock is not granted within this time, such as 250ms, 30s, 5m or 1h30m.
    #[arg(short, long, value_name = "TIME", value_parser = time)]
    pub(crate) wait: Option<Duration>,

    /// Give up at once when the lock is taken.
    #[arg(short, long, conflicts_with = "wait")]
    pub(crate) no_wait: bool,

    /// The exit status when the lock is taken or not granted in time.
    #[arg(short = 'E', long, value_name = "STATUS", default_value_t = exit::TAKEN)]
    pub(crate) conflict_exit_code: u8,

    /// If this host dies: how long the lock stays taken after the last sign of life.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "10s")]
    pub(crate) lease: Duration,

    /// Share the lock with other readers. Without this, the lock is exclusive.
    #[arg(short, long)]
    pub(crate) shared: bool,

    /// Take K of the N permits of a semaphore instead of a lock with one holder; N alone takes one permit.
    #[arg(long, value_name = "K/N", value_parser = permits, conflicts_with = "shared")]
    pub(crate) permits: Option<(u32, u32)>,
}

impl LockOptions {
    /// The kind of lock.
    pub(crate) fn kind(&self) -> LockKind {
        match self.permits {
            Some((count, capacity)) => LockKind::Permits { count, capacity },
            None if self.shared => LockKind::Read,
            None => LockKind::Mutex,
        }
    }

    /// How the lock is acquired and kept. A wait of zero is a try.
    pub(crate) fn options(&self) -> Options {
        let wait = if self.no_wait { Some(Duration::ZERO) } else { self.wait };
        Options::new().lease(self.lease).wait(wait)
    }
}

/// What is printed on standard error, and how.
#[derive(Args, Debug)]
pub(crate) struct Verbosity {
    /// Print errors only.
    #[arg(short, long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Print what happens.
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// Print lines for people, or a JSON object a line.
    #[arg(long, value_name = "FORMAT", default_value = "text", hide_short_help = true)]
    pub(crate) log_format: log::Format,
}

impl Verbosity {
    /// Prints from now on what was asked for, about this lock.
    pub(crate) fn set(&self, name: &str) {
        log::set(self.log_format, self.most(), Some(name));
    }

    /// The same, about the store.
    pub(crate) fn set_without_name(&self) {
        log::set(self.log_format, self.most(), None);
    }

    fn most(&self) -> log::Level {
        match (self.quiet, self.verbose) {
            (true, _) => log::Level::Error,
            (_, true) => log::Level::Info,
            (false, false) => log::Level::Warning,
        }
    }
}

/// The arguments of `run`.
#[derive(Args, Debug)]
pub(crate) struct Run {
    /// The name of the lock: 1 to 512 bytes of text.
    pub(crate) name: String,

    #[command(flatten)]
    pub(crate) store: Store,

    #[command(flatten)]
    pub(crate) lock: LockOptions,

    /// The longest that the command may run: then it is told to end, and the lock is released when it has.
    #[arg(long, value_name = "TIME", value_parser = hold_time)]
    pub(crate) max_hold: Option<Duration>,

    /// Skip the command if one that began less than this time ago has succeeded anywhere.
    ///
    /// The exit status is 0 then. Choose the time shorter than the time between two starts, such as 20h for
    /// every night.
    #[arg(long, value_name = "TIME", value_parser = span, conflicts_with_all = ["shared", "permits"])]
    pub(crate) every: Option<Duration>,

    /// Keep others out for at least this time.
    ///
    /// It counts from the grant, and goes on when the command has ended. Choose it longer than the clocks of
    /// the hosts are apart. Where the store keeps a lock only for processes, in a directory and in ZooKeeper,
    /// a process stays behind and says so.
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub(crate) hold_at_least: Option<Duration>,

    /// When the lock is lost or --max-hold has passed: how long the command may take to end after TERM before
    /// it is killed.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "5s")]
    pub(crate) grace: Duration,

    /// When the command has ended and processes that it has started have not: keep the lock until they end,
    /// kill them, or release the lock beside them.
    #[arg(long, value_name = "WHAT", default_value = "wait", hide_short_help = true)]
    pub(crate) leftovers: Leftovers,

    /// The label of this holder that others see, instead of the command's name.
    #[arg(long, value_name = "TEXT", hide_short_help = true)]
    pub(crate) label: Option<String>,

    /// Print a warning when the lock has been held for this time, and again after twice, four times, ….
    #[arg(long, value_name = "TIME", value_parser = hold_time, hide_short_help = true)]
    pub(crate) warn_held_over: Option<Duration>,

    /// Keep numbers about the runs in this file, for the textfile collector of Prometheus' node exporter.
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub(crate) metrics_file: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) verbosity: Verbosity,

    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// What becomes of the lock when the command has left processes behind.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leftovers {
    /// The lock is kept until they end
    Wait,
    /// They are killed
    Kill,
    /// The lock is released beside them
    Release,
}

pub(crate) fn time(text: &str) -> Result<Duration, String> {
    match globallock::internals::duration::parse(text) {
        None => Err("write a time such as 250ms, 30s, 5m or 1h30m".to_owned()),
        Some(time) if time > MAX_DURATION => Err("the longest is one year".to_owned()),
        Some(time) => Ok(time),
    }
}

/// A time that is not zero.
fn span(text: &str) -> Result<Duration, String> {
    match time(text)? {
        Duration::ZERO => Err("it must be more than nothing".to_owned()),
        time => Ok(time),
    }
}

fn hold_time(text: &str) -> Result<Duration, String> {
    match time(text)? {
        time if time < SHORTEST_HOLD => Err(format!("the shortest is {}ms", SHORTEST_HOLD.as_millis())),
        time => Ok(time),
    }
}

fn permits(text: &str) -> Result<(u32, u32), String> {
    let (count, capacity) = text.split_once('/').unwrap_or(("1", text));
    match (count.parse(), capacity.parse()) {
        (Ok(count), Ok(capacity)) if 0 < count && count <= capacity => Ok((count, capacity)),
        _ => Err("write K/N with K from 1 to N, such as 1/3".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;
    use std::sync::Arc;

    use globallock::{Backend, Memory};
    use proptest::prelude::*;

    use super::*;

    /// Words of command lines, in any order.
    const WORDS: &[&str] = &[
        "run",
        "hold",
        "doctor",
        "setup",
        "--print",
        "ls",
        "-o",
        "json",
        "--stale",
        "completions",
        "man",
        "help",
        "bash",
        "a",
        "",
        "-",
        "--",
        "--",
        "true",
        "--url",
        "--url=file:",
        "--url-file",
        "-w",
        "--wait",
        "--wait=1s",
        "-n",
        "--no-wait",
        "-E",
        "-E7",
        "256",
        "-1",
        "--max-hold",
        "1e9",
        "99999999999999999999d",
        "--lease",
        "0",
        "-s",
        "--shared",
        "--permits",
        "1/3",
        "3/1",
        "0/0",
        "4294967296/1",
        "/",
        "--grace",
        "5s",
        "--label",
        "-q",
        "-v",
        "-qv",
        "-b",
        "--background",
        "--pid",
        "--fd=3",
        "--loss-signal",
        "USR1",
        "--help",
        "-h",
        "--version",
        "-V",
        "--colour",
        "\u{1b}[2J",
        "☃",
        "\n",
        "-☃",
        "--=",
        "-=",
    ];

    fn word() -> impl Strategy<Value = OsString> {
        prop_oneof![
            6 => prop::sample::select(WORDS).prop_map(OsString::from),
            1 => any::<String>().prop_map(|text| OsString::from(text.replace('\0', ""))),
            1 => prop::collection::vec(1_u8.., 0..20).prop_map(OsString::from_vec),
            1 => ("[-]{1,2}", prop::collection::vec(1_u8.., 0..9)).prop_map(|(dashes, bytes)| {
                OsString::from_vec([dashes.into_bytes(), bytes].concat())
            }),
        ]
    }

    #[test]
    fn the_help_of_the_address_has_the_forms_of_the_table() {
        let schemes =
            Schemes::default().with_form("mine", "mine://host", |_| Ok(Memory::new() as Arc<dyn Backend>));
        let mut command = command(&schemes);
        assert_eq!(verbs(&command), verbs(&Arguments::command()));
        let help = command.find_subcommand_mut("run").unwrap().render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let (memory, others): (Vec<_>, Vec<_>) =
            schemes.forms().into_iter().partition(|form| form.starts_with("memory:"));
        assert!(others.len() >= 2 && others.last().unwrap() == "mine://host");
        assert!(others.iter().all(|form| help.contains(form.as_str())), "{others:?}: {help}");
        assert!(memory.len() == 1 && !help.contains("memory:"), "{help}");
        assert!(
            help.contains("or into a file for --url-file. [env: GLOBALLOCK_URL] [default: file:]"),
            "{help}"
        );
    }

    proptest! {
        #[test]
        fn any_command_line_is_understood_or_refused(
            words in prop::collection::vec(word(), 0..9),
            runs in any::<bool>(),
        ) {
            let verb = runs.then(|| OsString::from("run"));
            let all = std::iter::once(OsString::from("globallock")).chain(verb).chain(words);
            let all: Vec<OsString> = all.collect();
            let alone = run_alone(all.clone());
            prop_assert!(!runs || alone.is_some() == Arguments::try_parse_from(all.clone()).is_ok());
            match Arguments::try_parse_from(all) {
                Ok(Arguments { verb: Verb::Run(run) }) => {
                    prop_assert_eq!(format!("{:?}", alone.map(|(run, _)| run)), format!("{:?}", Some(&run)));
                    prop_assert!(!run.command.is_empty());
                    let permits = run.lock.permits;
                    prop_assert!(permits.is_none_or(|(count, capacity)| 0 < count && count <= capacity));
                }
                Ok(_) => {}
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }

        #[test]
        fn any_permits_are_understood_or_refused(text in any::<String>(), count: u64, capacity: u64) {
            let _ = permits(&text);
            let expected = 0 < count && count <= capacity && capacity <= u64::from(u32::MAX);
            prop_assert_eq!(permits(&format!("{count}/{capacity}")).is_ok(), expected);
        }
    }
}
