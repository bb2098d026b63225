//! Real servers as child processes: on free ports, in temporary directories, killed when their owner ends.

pub mod certificates;
pub mod clock;
pub mod disk;
pub mod etcd;
mod library;
pub mod peers;
mod ports;
pub mod postgres;
pub mod redis;
pub mod strace;
pub mod zookeeper;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Error, Read, Result};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub use self::ports::free_port;

/// A group of servers that tests can break one by one.
pub trait Cluster {
    /// Its address, without options.
    fn url(&self) -> String;

    /// The client port of each server.
    fn ports(&self) -> Vec<u16>;

    /// The number of the leader.
    fn leader(&self) -> Option<usize>;

    /// The id of a server's process, if it runs.
    fn id(&self, server: usize) -> Option<Pid>;

    /// Sends a signal to a server's process, if it runs.
    fn signal(&self, server: usize, signal: Signal);

    /// Kills a server, as a crash does.
    fn kill(&mut self, server: usize);

    /// Restarts a killed server, and waits until all servers that run are ready.
    ///
    /// # Errors
    /// When it does not start.
    fn resume_after_kill(&mut self, server: usize) -> Result<()>;
}

/// How long a server may take until it answers. On a busy machine, many of them start at once.
const START_LIMIT: Duration = Duration::from_secs(100);
/// The pause before a server that does not answer yet is polled again.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// A shell script that starts the command in its arguments, prints the command's process id, and kills the
/// command when the pipe from the owner closes. The pipe closes however the owner ends, even by `kill -9`.
/// When the guardian itself is killed, the kernel kills the command.
const GUARDIAN: &str = r#"
    if command -v setpriv >/dev/null 2>&1; then set -- setpriv --pdeathsig KILL "$@"; fi
    "$@" </dev/null >&2 & echo $!; read -r _; kill -KILL $! 2>/dev/null; wait"#;

/// A server's process. It is killed when this is dropped, and when this process ends for whatever reason.
#[derive(Debug)]
pub struct Process {
    guardian: Child,
    /// The guardian kills the server when this closes.
    pipe: Option<ChildStdin>,
    pid: Pid,
}

impl Process {
    /// Starts `program` with its output redirected to `log`.
    ///
    /// # Errors
    /// When it is not installed; the error names the package to install.
    pub fn start<A: AsRef<OsStr>>(
        program: &str,
        package: &str,
        arguments: impl IntoIterator<Item = A>,
        log: &Path,
    ) -> Result<Self> {
        Self::start_in([], program, package, arguments, log)
    }

    /// Starts `program` as [`Process::start`] does, with these environment variables.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_in<'a, A: AsRef<OsStr>>(
        environment: impl IntoIterator<Item = (&'a str, &'a OsStr)>,
        program: &str,
        package: &str,
        arguments: impl IntoIterator<Item = A>,
        log: &Path,
    ) -> Result<Self> {
        if Command::new("which")
            .arg(program)
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| !status.success())
        {
            return Err(Error::other(format!("{program} is not installed: run apt-get install {package}")));
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut guardian = Command::new("sh")
            .args(["-c", GUARDIAN, "sh", program])
            .args(arguments)
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let pipe = guardian.stdin.take();
        let mut line = String::new();
        if let Some(output) = guardian.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let pid = line.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Error::other(format!("{program} did not start")))?;
        Ok(Process { guardian, pipe, pid })
    }

    /// The server's process id.
    #[must_use]
    pub fn id(&self) -> Pid {
        self.pid
    }

    /// Sends a signal to the server, not to its guardian.
    ///
    /// # Panics
    /// When the server has ended.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("the server runs");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // The guardian ends after the server. So the server's port and files are free afterwards.
        let _ = self.guardian.wait();
    }
}

/// Waits until `ready` is true.
///
/// # Errors
/// When it is not within 100 s; the error has the end of the log.
pub fn wait_ready(what: &str, log: &Path, mut ready: impl FnMut() -> bool) -> Result<()> {
    let until = Instant::now() + START_LIMIT;
    while !ready() {
        if Instant::now() >= until {
            let mut text = String::new();
            if let Ok(mut file) = std::fs::File::open(log) {
                let _ = file.read_to_string(&mut text);
            }
            let end: Vec<&str> = text.lines().rev().take(15).collect();
            let end: Vec<&str> = end.into_iter().rev().collect();
            return Err(Error::other(format!(
                "{what} does not answer; the end of its log:\n{}",
                end.join("\n")
            )));
        }
        // A server does not notify anybody when it is ready, so it must be polled.
        std::thread::sleep(ASK_AGAIN);
    }
    Ok(())
}

/// Whether a server listens on a port of this host.
#[must_use]
pub fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_ends_with_its_guardian_and_with_its_owner() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let start = || Process::start("sleep", "coreutils", ["600"], log.path()).unwrap();
        // A zombie has an empty command line.
        let command = |process: &Process| format!("/proc/{}/cmdline", process.id().as_raw_nonzero());
        let ends = |command: &str| {
            let lives = || std::fs::read(command).is_ok_and(|text| !text.is_empty());
            wait_ready("the end of sleep", log.path(), || !lives()).unwrap();
        };
        let mut process = start();
        let killed = command(&process);
        // Until its exec, the process is a copy of the guardian.
        let runs = || std::fs::read(&killed).is_ok_and(|text| text.starts_with(b"sleep"));
        wait_ready("sleep", log.path(), runs).unwrap();
        process.guardian.kill().unwrap();
        process.guardian.wait().unwrap();
        ends(&killed);
        let process = start();
        let dropped = command(&process);
        drop(process);
        ends(&dropped);
    }
}
