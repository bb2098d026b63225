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
mod break_claim;
mod doctor;
mod exit;
mod free;
mod held;
mod hold;
mod inspect;
mod log;
mod ls;
mod nested;
mod onlook;
mod pages;
mod processes;
mod random;
mod run;
mod serve;
mod setup;
mod signals;
mod statuses;
mod suggested;
mod top;
mod waiting;

use std::process::ExitCode;

use clap::{ArgMatches, FromArgMatches};
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
    if let Some((run, matches)) = arguments::run_alone(std::env::args_os()) {
        return run::main(schemes, &run, Sources::of(&matches));
    }
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
                let verbs = arguments::verbs(&command);
                log::error("usage").say(usage(&error.to_string(), &words, &verbs));
                return exit::code(exit::USAGE);
            }
            // Requested help is no error. A failure to print cannot be reported, because the output is
            // closed.
            let _ = error.print();
            return exit::code(0);
        }
    };
    match arguments.verb {
        Verb::Run(run) => run::main(schemes, &run, sources(&matches)),
        Verb::Completions(completions) => pages::completions(schemes, command, &completions),
        Verb::Man(manual) => pages::manual(command, &manual),
        Verb::Hold(hold) => hold::main(schemes, &hold, sources(&matches)),
        Verb::Ls(ls) => ls::main(schemes, &ls, sources(&matches)),
        Verb::Inspect(inspect) => inspect::main(schemes, &inspect, sources(&matches)),
        Verb::Break(arguments) => break_claim::main(schemes, &arguments, sources(&matches)),
        Verb::Status(status) => free::status(schemes, &status, sources(&matches)),
        Verb::Wait(wait) => free::wait(schemes, &wait, sources(&matches)),
        Verb::Top(top) => top::main(schemes, &top, sources(&matches)),
        Verb::Doctor(doctor) => doctor::main(schemes, &doctor, sources(&matches)),
        Verb::Setup(setup) => setup::main(schemes, &setup, sources(&matches)),
        Verb::Serve(serve) => serve::main(schemes, &serve, sources(&matches)),
    }
}

/// Where the verb's address was given.
fn sources(matches: &ArgMatches) -> Sources {
    matches.subcommand().map(|(_, matches)| Sources::of(matches)).unwrap_or_default()
}

/// What a description of several lines says of the arguments, on one line: its first paragraph. Tips and the
/// usage follow.
fn usage(text: &str, arguments: &[&str], verbs: &[String]) -> String {
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
        [verb, ..] if verbs.iter().any(|known| known == verb) => {
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
            (
                &["ls", "--older-than", "soon"],
                "invalid value 'soon' for '--older-than <TIME>': write a time such as 250ms, 30s, 5m or \
                 1h30m; see globallock ls --help",
            ),
            (&["bogus"], "unrecognized subcommand 'bogus'; see globallock --help"),
            (
                &["run"],
                "the following required arguments were not provided: <NAME> <COMMAND>...; see globallock run \
                 --help",
            ),
        ] {
            let all = [&["globallock"], arguments].concat();
            let command = arguments::command(&schemes);
            let error = command.clone().try_get_matches_from(all).unwrap_err();
            assert_eq!(usage(&error.to_string(), arguments, &arguments::verbs(&command)), expected);
        }
    }
}
