//! The terminal, which the command must have while it runs.

use std::io::{IsTerminal, stdin, stdout};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// In which process group the command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// One of its own, which has the terminal: as under a shell.
    OwnWithTerminal,
    /// One of its own. There is no terminal, or others have it.
    Own,
    /// This program's, since others in the group (a pager behind a pipe) share the terminal: what the keyboard sends
    /// reaches the command by itself.
    Shared,
}

impl Group {
    /// Chooses by who has the terminal now.
    pub(crate) fn choose() -> Self {
        match (has_terminal(), stdout().is_terminal()) {
            (true, true) => Group::OwnWithTerminal,
            (true, false) => Group::Shared,
            (false, _) => Group::Own,
        }
    }
}

/// Whether this program's group has the terminal that is its standard input.
fn has_terminal() -> bool {
    stdin().is_terminal() && tcgetpgrp(stdin()) == Ok(getpgrp())
}

/// Gives the terminal to a group, from the background too. Fails where there is no terminal any more.
pub(crate) fn give_to(group: Pid) -> nix::Result<()> {
    // A background process that changes the terminal is stopped, unless it blocks this signal.
    let blocked = SigSet::from(Signal::SIGTTOU);
    let before = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let given = tcsetpgrp(stdin(), group);
    before.thread_set_mask()?;
    given
}

/// Takes the terminal back from the command.
pub(crate) fn take_back() {
    // Nothing to take where it was closed.
    let _ = give_to(getpgrp());
}

/// Stops this program's own job, as the terminal has stopped the command's, and returns when it goes on; the command
/// gets the terminal again if the job has come back to the foreground.
pub(crate) fn stop_with(command: Pid) {
    take_back();
    let _ = killpg(getpgrp(), Signal::SIGTSTP);
    if has_terminal() {
        let _ = give_to(command);
    }
    let _ = killpg(command, Signal::SIGCONT);
}
