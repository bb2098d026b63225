//! The arguments of `hold`.

use clap::Args;
use nix::sys::signal::Signal;

use crate::arguments::{LockOptions, Store, Verbosity};
use crate::suggested::Suggested;

/// What `hold` does, for its help.
pub(crate) const ABOUT: &str = "\
Hold a lock for a part of a script.

Waits for the lock, first come, first served, and holds it for a process that is not its command. With \
--background it returns once the lock is held, and the lock is released when the script, or the subshell in \
parentheses, that has called it has ended, however that ends. Without, it writes the fencing token as a line \
to standard output once the lock is held, and releases the lock at the end of standard input: when every \
process that has the other end of the pipe has closed it.

Unlike run, it cannot end whatever the script has started beside the next holder: use run where it will do.";

/// The examples of `hold --help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  Until the end of the script:
    globallock hold --background deploy || exit
  For a part of a script, in parentheses:
    ( globallock hold --background deploy || exit; ./deploy.sh )
  With the fencing token:
    token=$(globallock hold --background --pid $$ --print-token deploy) || exit
  For a part of a bash script that changes its variables, so that it cannot stand in parentheses:
    coproc LOCK { exec globallock hold deploy; }
    holder=$LOCK_PID
    read -r token <&\"${LOCK[0]}\" || { wait \"$holder\"; exit; }
    ./deploy.sh
    exec {LOCK[1]}>&-; wait \"$holder\"";

/// The arguments of `hold`.
#[derive(Args, Debug)]
pub(crate) struct Hold {
    /// The name of the lock: 1 to 512 bytes of text.
    pub(crate) name: String,

    #[command(flatten)]
    pub(crate) store: Store,

    #[command(flatten)]
    pub(crate) lasts: Lasts,

    #[command(flatten)]
    pub(crate) lock: LockOptions,

    /// The label of this holder that others see, instead of the name of the process that it is held for.
    #[arg(long, value_name = "TEXT")]
    pub(crate) label: Option<String>,

    #[command(flatten)]
    pub(crate) verbosity: Verbosity,
}

/// What the lock is held for.
#[derive(Args, Debug)]
pub(crate) struct Lasts {
    /// Return when the lock is held, and keep it in the background until the caller has ended, or --pid.
    #[arg(short, long)]
    pub(crate) background: bool,

    /// Hold the lock until this process has ended, instead of until the end of standard input. If the lock is
    /// lost, it and all that it has started are sent --loss-signal.
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) pid: Option<i32>,

    /// Hold the lock until the end of this descriptor, the number of an open pipe, instead of standard input;
    /// with --pid or --background: until the first of the two.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) fd: Option<i32>,

    /// What the process of --pid is sent when the lock is lost, such as TERM or USR1.
    #[arg(long, value_name = "SIGNAL", default_value = "TERM", hide_possible_values = true)]
    #[arg(value_parser = Suggested::new(signals(), signal))]
    pub(crate) loss_signal: Signal,

    /// With --background: print the fencing token. For the shell's $( ), which may be a process of its own:
    /// say by --pid which one the lock is held for.
    #[arg(long, requires_all = ["background", "pid"])]
    pub(crate) print_token: bool,
}

/// The names of signals that a process can be sent to be told something.
fn signals() -> impl Iterator<Item = &'static str> {
    Signal::iterator().map(|signal| signal.as_str().trim_start_matches("SIG"))
}

fn signal(text: &str) -> Result<Signal, String> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    format!("SIG{name}").parse().map_err(|_| "write the name of a signal, such as TERM or USR1".to_owned())
}
