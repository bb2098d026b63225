//! The completions and the manual pages, made from the definitions of the arguments.

mod completions;
mod manual;
mod names;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;
use globallock::Schemes;

use crate::exit::{self, Failure};
use crate::log;

/// The arguments of `completions`.
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// The shell.
    shell: Shell,

    /// The words behind the program's name, up to the one to be completed: prints the names of locks that it
    /// may become. For the completions themselves.
    #[arg(last = true, hide = true)]
    words: Option<Vec<OsString>>,
}

/// The arguments of `man`.
#[derive(Args, Debug)]
pub(crate) struct Manual {
    /// The verb whose page is printed, instead of the page of the program.
    verb: Option<String>,
}

/// Prints the completions of a shell, or what they ask for.
pub(crate) fn completions(schemes: &Schemes, command: Command, arguments: &Completions) -> ExitCode {
    match &arguments.words {
        Some(words) => finish(names::print(schemes, &command, words)),
        None => finish(std::io::stdout().write_all(&completions::of(command, arguments.shell))),
    }
}

/// Prints a manual page.
pub(crate) fn manual(command: Command, arguments: &Manual) -> ExitCode {
    match manual::page(command, arguments.verb.as_deref()) {
        Ok(page) => finish(page.and_then(|page| std::io::stdout().write_all(&page))),
        Err(verbs) => {
            log::error("usage").say(format_args!("there is no such verb; the verbs are {verbs}"));
            exit::code(exit::USAGE)
        }
    }
}

fn finish(written: std::io::Result<()>) -> ExitCode {
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            log::error("output").say(&error);
            exit::code(Failure::System(error).status(exit::TAKEN))
        }
    }
}
