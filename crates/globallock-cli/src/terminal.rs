//! The terminal, which the command must have while it runs.

use std::io::{IsTerminal, stdin, stdout};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// The process group that the command runs in.
///
/// | this program is in the foreground | standard output is a terminal | group |
/// |---|---|---|
/// | yes | yes | `OwnWithTerminal` |
/// | yes | no | `Shared` |
/// | no | either | `Own` |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// Its own group, which is in the foreground of the terminal, as under a shell.
    OwnWithTerminal,
    /// Its own group, without the terminal.
    Own,
    /// This program's group, because others in it (a pager behind a pipe) use the terminal too. The command
    /// receives the signals of the keyboard directly.
    Shared,
}

impl Group {
    /// Chooses the group; see the table above.
    pub(crate) fn choose() -> Self {
        match (has_terminal(), stdout().is_terminal()) {
            (true, true) => Group::OwnWithTerminal,
            (true, false) => Group::Shared,
            (false, _) => Group::Own,
        }
    }
}

/// Whether standard input is a terminal and this program's group is in its foreground.
fn has_terminal() -> bool {
    stdin().is_terminal() && tcgetpgrp(stdin()) == Ok(getpgrp())
}

/// Puts a group into the foreground of the terminal, also from the background. Fails when the terminal is
/// gone.
pub(crate) fn give_to(group: Pid) -> nix::Result<()> {
    // A background process that changes the foreground group is stopped by SIGTTOU, unless it blocks that
    // signal.
    let blocked = SigSet::from(Signal::SIGTTOU);
    let before = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let given = tcsetpgrp(stdin(), group);
    before.thread_set_mask()?;
    given
}

/// Takes the terminal back from the command.
pub(crate) fn take_back() {
    // Fails when the terminal was closed, and then there is nothing to take back.
    let _ = give_to(getpgrp());
}

/// Stops this program's job, after the terminal has stopped the command. Returns when the job is continued,
/// and continues the command; the command gets the terminal if the job is in the foreground again.
pub(crate) fn stop_with(command: Pid) {
    take_back();
    let _ = killpg(getpgrp(), Signal::SIGTSTP);
    if has_terminal() {
        let _ = give_to(command);
    }
    let _ = killpg(command, Signal::SIGCONT);
}
