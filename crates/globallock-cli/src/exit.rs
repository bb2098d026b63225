//! The exit status, and the errors that it stands for.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::process::ExitCode;

use globallock::Error;
use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::log::{self, Line};

/// What was asked for is not so, or nothing was done.
pub(crate) const NO: u8 = 1;
/// The usage was wrong: an option, a name or an address.
pub(crate) const USAGE: u8 = 64;
/// The store cannot be reached or cannot serve.
const UNAVAILABLE: u8 = 69;
/// Something went wrong inside.
pub(crate) const INTERNAL: u8 = 70;
/// The lock is taken, or was not granted in time.
pub(crate) const TAKEN: u8 = 75;
/// The lock was lost while the command ran, or an operator took this waiter out of the queue.
pub(crate) const LOST: u8 = 76;
/// The store refused the user.
const DENIED: u8 = 77;

/// The examples of `run --help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  One backup at a time on this host; the second waits for the first:
    globallock run backup -- ./backup.sh
  The same between hosts:
    globallock run --url redis://10.0.0.7 backup -- ./backup.sh
  From cron on many hosts; one of them runs the command, and the next one if it fails:
    GLOBALLOCK_URL=redis://10.0.0.7 globallock run --every 20h nightly -- ./report.sh
  At most three imports at a time, each for an hour at most:
    globallock run --permits 1/3 --max-hold 1h import -- ./import.sh";

/// Why the command has no exit status.
pub(crate) enum Failure {
    /// The lock is taken, or was not granted in time; the text says which, and the line has the queue.
    Taken(Line, String),
    /// An error of the library.
    Lock(Error),
    /// The command could not be started.
    Command(String, std::io::Error),
    /// The usage was wrong.
    Usage(String),
    /// The system refused something that this program needs.
    System(std::io::Error),
    /// A signal ended the wait for the lock.
    Signal(Signal),
    /// Another process of the run was killed during the wait for the lock.
    Killed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Lock(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::System(error)
    }
}

impl Failure {
    /// Says it, and returns the exit status; `taken` is the one for a lock that is taken or was not granted
    /// in time, of which nothing is said if this is to be quiet.
    pub(crate) fn tell(self, quiet: bool, taken: u8) -> u8 {
        let status = self.status(taken);
        match self {
            Failure::Taken(..) if quiet => {}
            Failure::Taken(line, text) => line.say(text),
            Failure::Usage(text) => log::error("usage").say(text),
            Failure::Lock(error) => log::error("failed").say(error),
            Failure::Command(command, error) => {
                log::error("command").say(format_args!("{command}: {}", why_not_run(&command, &error)));
            }
            Failure::System(error) => log::error("system").say(refused(&error)),
            Failure::Signal(_) | Failure::Killed => {}
        }
        status
    }

    /// The exit status; `taken` is the one for a lock that is taken or was not granted in time.
    pub(crate) fn status(&self, taken: u8) -> u8 {
        match self {
            Failure::Taken(..) => taken,
            Failure::Usage(_) => USAGE,
            Failure::Lock(error) => match error {
                Error::InvalidName { .. } | Error::InvalidOption { .. } | Error::InvalidAddress { .. } => {
                    USAGE
                }
                Error::TimedOut { .. } => taken,
                Error::Unavailable { .. } | Error::FailedPrecondition { .. } => UNAVAILABLE,
                Error::PermissionDenied { .. } => DENIED,
                Error::Lost { .. } | Error::Evicted { .. } => LOST,
                _ => INTERNAL,
            },
            Failure::Command(_, error) if error.kind() == ErrorKind::NotFound => 127,
            Failure::Command(..) => 126,
            Failure::System(_) => INTERNAL,
            Failure::Signal(signal) => of_signal(*signal as i32),
            Failure::Killed => of_signal(Signal::SIGKILL as i32),
        }
    }
}

/// What the system has refused, and what to do about it.
fn refused(error: &std::io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE) => {
            "too few files may be open at a time: raise the limit of open files (ulimit -n)".to_owned()
        }
        Some(Errno::ENFILE) => {
            "too many files are open on this host: raise its limit of open files (sysctl fs.file-max)"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

/// Why a command could not be started.
fn why_not_run(command: &str, error: &std::io::Error) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = if command.contains('/') { vec![] } else { std::env::split_paths(&path).collect() };
    let found = places.iter().map(|place| place.join(command)).chain([command.into()]).find(|file| {
        // Without a slash, it is not looked for in the working directory.
        file.exists() && file.as_os_str().as_encoded_bytes().contains(&b'/')
    });
    match (error.kind(), found) {
        _ if command.is_empty() => "a command needs a name".to_owned(),
        (ErrorKind::NotFound, None) => "it was not found".to_owned(),
        (ErrorKind::NotFound, Some(file)) => {
            let interpreter = File::open(&file).and_then(|file| {
                let mut line = Vec::new();
                BufReader::new(file.take(256)).read_until(b'\n', &mut line)?;
                Ok(line)
            });
            let interpreter = interpreter.unwrap_or_default();
            let interpreter = String::from_utf8_lossy(&interpreter);
            match interpreter.strip_prefix("#!") {
                Some(line) => format!("its interpreter was not found: {:?}", line.trim()),
                None => "its interpreter was not found".to_owned(),
            }
        }
        (ErrorKind::PermissionDenied, Some(file)) if file.is_dir() => "it is a directory".to_owned(),
        (ErrorKind::PermissionDenied, Some(_)) => {
            "it may not be executed: see its permissions, and its interpreter".to_owned()
        }
        _ => match error.raw_os_error() {
            Some(nix::libc::ENOEXEC) => {
                "it is no program: a script begins with a line such as #!/bin/sh".to_owned()
            }
            Some(number) => Errno::from_raw(number).desc().to_owned(),
            None => error.to_string(),
        },
    }
}

/// The exit status that shells use for a command that was ended by a signal.
pub(crate) fn of_signal(number: i32) -> u8 {
    u8::try_from(128 + number).unwrap_or(u8::MAX)
}

pub(crate) fn code(status: u8) -> ExitCode {
    ExitCode::from(status)
}
