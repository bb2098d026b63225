//! The command line: see `globallock --help`.

/// Writes a line to standard error. A failure to write is ignored, because the lock and its command matter
/// more than a message.
macro_rules! say {
    ($($part:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($part)*);
    }};
}

mod arguments;
mod child;
mod exit;
mod pages;
mod run;
mod signals;
mod terminal;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use arguments::{Arguments, Verb};

fn main() -> ExitCode {
    let matches = Arguments::command().try_get_matches();
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
            let given = matches.subcommand_matches("run").and_then(|matches| matches.value_source("url"));
            run::main(&run, given == Some(clap::parser::ValueSource::CommandLine))
        }
        Verb::Completions { shell } => pages::completions(shell),
        Verb::Man => pages::manual(),
    }
}
