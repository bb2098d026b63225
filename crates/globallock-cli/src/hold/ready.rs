//! How the caller learns that the lock is held.

use std::fs::File;
use std::io::{BufRead, BufReader, Result, Write};
use std::os::unix::net::UnixStream;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::exit::{self, Failure};
use crate::processes::tree;

/// Who waits for the lock with the process that keeps it.
pub(super) enum Caller {
    /// A script that reads a line of standard output.
    Output(File),
    /// The process that the script has started and waits for.
    Front(tokio::net::UnixStream, Pid),
}

impl Caller {
    /// Tells that the lock is held. Returns false when nobody is there to hear it any more.
    pub(super) async fn is_told(&mut self, fencing_token: u64) -> Result<bool> {
        match self {
            Caller::Output(output) => writeln!(output, "{fencing_token}").map(|()| true),
            Caller::Front(front, _) => {
                front.write_all(format!("held {fencing_token}\n").as_bytes()).await?;
                Ok(front.read_u8().await.is_ok())
            }
        }
    }

    /// Whether the job that waits is stopped.
    pub(super) fn is_stopped(&self) -> bool {
        matches!(self, Caller::Front(_, id) if tree::is_stopped(*id))
    }

    /// Waits for the end of a front that must not end yet.
    pub(super) async fn is_gone(&mut self) {
        match self {
            Caller::Output(_) => std::future::pending().await,
            Caller::Front(front, _) => drop(front.read_u8().await),
        }
    }

    /// Tells how it has ended, where the lock was not held.
    pub(super) async fn end(self, status: u8) {
        if let Caller::Front(mut front, _) = self {
            // If it has ended, nobody is interested.
            let _ = front.write_all(format!("exit {status}\n").as_bytes()).await;
        }
    }
}

/// The process that the script has started: it waits until the lock is held. Returns the exit status.
pub(super) fn front(
    mut holder: UnixStream,
    holder_id: Pid,
    print_token: bool,
) -> std::result::Result<u8, Failure> {
    let mut told = String::new();
    BufReader::new(&holder).read_line(&mut told)?;
    match told.trim_end().split_once(' ') {
        Some(("held", token)) => {
            if print_token {
                let mut output = std::io::stdout();
                writeln!(output, "{token}").and_then(|()| output.flush())?;
            }
            // Only now it may rely on the lock.
            holder.write_all(b"\n")?;
            Ok(0)
        }
        Some((_, status)) => Ok(status.parse().unwrap_or(exit::INTERNAL)),
        // It has said why.
        None if matches!(waitpid(holder_id, None), Ok(WaitStatus::Exited(..))) => Ok(exit::INTERNAL),
        None => Err(std::io::Error::other("the process that was to keep the lock was killed").into()),
    }
}
