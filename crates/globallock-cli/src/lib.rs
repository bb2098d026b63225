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
mod held;
mod hold;
mod log;
mod nested;
mod onlook;
mod pages;
mod processes;
mod run;
mod serve;
mod signals;
mod suggested;
mod waiting;

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
                let words = std::env::args_os().skip(1);
                let words: Vec<String> = words.map(|word| word.to_string_lossy().into()).collect();
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                let ours = words.split(|word| *word == "--").next().unwrap_or_default();
                if ours.join("=").contains("--log-format=json") {
                    log::set(log::Format::Json, log::Level::Error, None);
                }
                log::error("usage").say(usage(&error.to_string(), &words));
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
        Verb::Completions(completions) => pages::completions(schemes, command, &completions),
        Verb::Man(manual) => pages::manual(command, &manual),
        Verb::Hold(hold) => {
            let matches = matches.subcommand_matches("hold");
            hold::main(schemes, &hold, matches.map(Sources::of).unwrap_or_default())
        }
        Verb::Serve(serve) => {
            let matches = matches.subcommand_matches("serve");
            serve::main(schemes, &serve, matches.map(Sources::of).unwrap_or_default())
        }
    }
}

/// What a description of several lines says of the arguments, on one line: its first paragraph. Tips and the
/// usage follow.
fn usage(text: &str, arguments: &[&str]) -> String {
    let is_end = |line: &&str| line.is_empty() || line.starts_with("Usage:");
    let paragraph = text.lines().map(str::trim).take_while(|line| !is_end(line));
    let mut wrong = paragraph.collect::<Vec<_>>().join(" ");
    if let Some(begin) = wrong.find("error: ") {
        wrong.drain(..begin + "error: ".len());
    }
    match arguments {
        ["run", rest @ ..] if !rest.contains(&"--") && !rest.is_empty() => {
            wrong += "; write globallock run NAME -- COMMAND; see globallock run --help";
        }
        [verb @ ("run" | "hold" | "serve" | "man" | "completions"), ..] => {
            wrong += &format!("; see globallock {verb} --help");
        }
        _ => wrong += "; see globallock --help",
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_usage_is_told_on_one_line_with_what_to_write() {
        let schemes = Schemes::default();
        for (arguments, expected) in [
            (
                &["run", "x", "echo"][..],
                "unexpected argument 'echo' found; write globallock run NAME -- COMMAND; see globallock run \
                 --help",
            ),
            (
                &["run", "--wait", "-5s", "x", "--", "true"],
                "unexpected argument '-5' found; see globallock run --help",
            ),
            (&["bogus"], "unrecognized subcommand 'bogus'; see globallock --help"),
            (
                &["run"],
                "the following required arguments were not provided: <NAME> <COMMAND>...; see globallock run \
                 --help",
            ),
        ] {
            let all = [&["globallock"], arguments].concat();
            let error = arguments::command(&schemes).try_get_matches_from(all).unwrap_err();
            assert_eq!(usage(&error.to_string(), arguments), expected);
        }
    }
}
