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

/// Writes a line to standard error. A failure to write is ignored, because the lock and its command matter
/// more than a message.
macro_rules! say {
    ($($part:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($part)*);
    }};
}

mod address;
mod arguments;
mod exit;
mod hold;
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
/// of a run are made by forks, and the signals of the process are handled here. What the locks
/// tell is printed on standard error, unless the program has set a subscriber of `tracing` before.
#[must_use]
pub fn main(schemes: &Schemes) -> ExitCode {
    let command = arguments::command(schemes);
    let matches = command.clone().try_get_matches();
    let parsed = matches.and_then(|matches| Ok((Arguments::from_arg_matches(&matches)?, matches)));
    let (arguments, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // Requested help is no error. A failure to print cannot be reported, because the output is
            // closed.
            let _ = error.print();
            return exit::code(if error.use_stderr() { exit::USAGE } else { 0 });
        }
    };
    match arguments.verb {
        Verb::Run(run) => {
            let matches = matches.subcommand_matches("run");
            run::main(schemes, &run, matches.map(Sources::of).unwrap_or_default())
        }
        Verb::Completions(completions) => pages::completions(schemes, command, &completions),
        Verb::Man(manual) => pages::manual(command, &manual),
        Verb::Hold(hold) => {
            let matches = matches.subcommand_matches("hold");
            hold::main(schemes, &hold, matches.map(Sources::of).unwrap_or_default())
        }
    }
}
