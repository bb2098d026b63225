//! The descriptors of a process. Those of the command that another process keeps open would look like the
//! command itself to whoever waits at the other end of a pipe.

use std::fs::{File, read_dir};
use std::io::Result;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::unistd::{close, dup2_stderr, dup2_stdin, dup2_stdout};

/// How many descriptors a process of this program may need besides those that it was started with: those of
/// the runtime, of the other processes, and of the store.
const NEEDED: usize = 24;

/// Makes sure that there may be as many descriptors as this program needs.
///
/// Asked for before there is a lock or another process, because what fails later leaves more behind, and the
/// runtime takes it for an error of the program.
pub(crate) fn require() -> Result<()> {
    let error = std::io::stderr();
    let clones: Result<Vec<_>> = (0..NEEDED).map(|_| error.as_fd().try_clone_to_owned()).collect();
    clones.map(drop)
}

/// Which of the standard descriptors a process keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standard {
    /// Standard error, for messages.
    Error,
    /// None.
    None,
}

/// Closes all descriptors but these. Standard input and output are `/dev/null` afterwards, because a library
/// may use them and must not find a file of its own there.
pub(crate) fn keep_only(kept: &[&dyn AsRawFd], standard: Standard) -> Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    if standard == Standard::None {
        dup2_stderr(&null)?;
    }
    drop(null);
    let kept: Vec<RawFd> = kept.iter().map(|kept| kept.as_raw_fd()).collect();
    let names = read_dir("/proc/self/fd")?.flatten().map(|entry| entry.file_name());
    let open: Vec<RawFd> = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2 && !kept.contains(descriptor)) {
        // The one that listed them is closed already.
        let _ = close(descriptor);
    }
    Ok(())
}

/// Closes standard error.
pub(super) fn close_errors() {
    // Without it, somebody may wait for longer than needed.
    let _ = File::options().write(true).open("/dev/null").map(dup2_stderr);
}
