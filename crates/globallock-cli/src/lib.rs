//! The command line of globallock, for programs that know more stores than the program `globallock` does.
//!
//! Who has a store of their own makes the command for it by a table of schemes:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use std::sync::Arc;
//! use globallock::{Backend, Memory, Schemes};
//!
//! fn main() -> ExitCode {
//!     let schemes = Schemes::default()
//!         .with_form("mine", "mine://host", |_address| Ok(Memory::new() as Arc<dyn Backend>));
//!     globallock_cli::main(&schemes)
//! }
//! ```
//!
//! `globallock --help` says what it does, and the project's `docs/run.md`.

mod address;
mod arguments;
mod exit;
mod log;
mod nested;
mod pages;
mod processes;
mod run;
mod signals;

use std::process::ExitCode;

use clap::FromArgMatches;
use globallock::Schemes;

use address::Sources;
use arguments::{Arguments, Verb};

/// Does what the arguments of this process say, with the stores of this table, and returns the exit status.
///
/// To be called in `main`, on its thread, before the program has started others or a runtime: the processes
/// of a run are made by forks, and the signals of the process are handled here. What becomes of
/// the lock is printed on standard error.
#[must_use]
pub fn main(schemes: &Schemes) -> ExitCode {
    let command = arguments::command(schemes);
    let matches = command.clone().try_get_matches();
    let parsed = matches.and_then(|matches| Ok((Arguments::from_arg_matches(&matches)?, matches)));
    let (arguments, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            if error.use_stderr() {
                log::error("usage").say(usage(&error));
                return exit::code(exit::USAGE);
            }
            // Requested help is no error. A failure to print cannot be reported, because the output is
            // closed.
            let _ = error.print();
            return exit::code(0);
        }
    };
    match arguments.verb {
        Verb::Run(run) => {
            let matches = matches.subcommand_matches("run");
            run::main(schemes, &run, matches.map(Sources::of).unwrap_or_default())
        }
        Verb::Completions { shell } => pages::completions(command, shell),
        Verb::Man => pages::manual(command),
    }
}

/// What is wrong with the arguments, on one line.
fn usage(error: &clap::Error) -> String {
    let text = error.to_string();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    // The first paragraph says what is wrong, tips are indented below it, and the usage follows.
    let mut wrong = String::new();
    for line in text.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more")) {
        let line = words(line.trim().trim_start_matches("error: "));
        let glue = match (line.strip_prefix("tip: "), wrong.is_empty()) {
            _ if line.is_empty() => continue,
            (Some(_), _) => "; ",
            (None, true) => "",
            (None, false) => " ",
        };
        wrong += glue;
        wrong += line.strip_prefix("tip: ").unwrap_or(&line);
    }
    format!("{wrong}; see globallock --help")
}
