//! Real servers as child processes: on free ports, in temporary directories, gone with their owner.

pub mod certificates;
pub mod clock;
pub mod etcd;
pub mod peers;
pub mod redis;
pub mod zookeeper;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Error, Read, Result};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Servers of which some may fail.
pub trait Cluster {
    /// Its plain address.
    fn url(&self) -> String;

    /// The port of each server for clients.
    fn ports(&self) -> Vec<u16>;

    /// The server that leads.
    fn leader(&self) -> Option<usize>;

    /// Sends a signal to a server's process, if it runs.
    fn signal(&self, server: usize, signal: Signal);

    /// Kills a server, as a crash does.
    fn kill(&mut self, server: usize);

    /// Starts a server that was killed again, and waits until all serve.
    ///
    /// # Errors
    /// When it does not come up.
    fn resume_after_kill(&mut self, server: usize) -> Result<()>;
}

/// How long a server may take until it answers: on a busy machine many of them start at once.
const START_LIMIT: Duration = Duration::from_secs(100);
/// How often a server that does not answer yet is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// Starts the command that follows, tells its process id, and kills it when the pipe to its owner closes: however the
/// owner ends, even by `kill -9`. Where the guardian itself is killed, the kernel kills the command.
const GUARDIAN: &str = r#"
    if command -v setpriv >/dev/null 2>&1; then set -- setpriv --pdeathsig KILL "$@"; fi
    "$@" </dev/null >&2 & echo $!; read -r _; kill -KILL $! 2>/dev/null; wait"#;

/// A server's process, killed when this is dropped or when this process ends in any way.
#[derive(Debug)]
pub struct Process {
    guardian: Child,
    /// Open as long as the server shall run.
    pipe: Option<ChildStdin>,
    pid: Pid,
}

impl Process {
    /// Starts `program` with its output going to `log`.
    ///
    /// # Errors
    /// When it is not installed, with the package to install.
    pub fn start<A: AsRef<OsStr>>(
        program: &str,
        package: &str,
        arguments: impl IntoIterator<Item = A>,
        log: &Path,
    ) -> Result<Self> {
        Self::start_in([], program, package, arguments, log)
    }

    /// Starts `program` as [`Process::start`] does, with more in its environment.
    ///
    /// # Errors
    /// As there.
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

    /// Sends a signal to the server itself.
    ///
    /// # Panics
    /// When the server is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("the server runs");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // The guardian waits for the server, so that its port and files are free afterwards.
        let _ = self.guardian.wait();
    }
}

/// A port that nobody uses at this moment, and that no later call in this process returns.
///
/// Below the range from which the kernel takes the ports of clients, so that none of those gets it meanwhile.
///
/// # Panics
/// When the host has none.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test programs that run at the same time begin at different ones.
    let first = u16::try_from(std::process::id() * 97 % 12_000).unwrap_or(0);
    for _ in 0..12_000 {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// Waits until `ready` says so.
///
/// # Errors
/// When it does not within 100 s, with the end of the log.
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
        // A server that starts tells nobody: it has to be asked.
        std::thread::sleep(ASK_AGAIN);
    }
    Ok(())
}

/// Whether somebody listens on a port of this host.
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
        // Of a process that is dead and was not waited for there is nothing left to read.
        let command = |process: &Process| format!("/proc/{}/cmdline", process.id().as_raw_nonzero());
        let ends = |command: &str| {
            let lives = || std::fs::read(command).is_ok_and(|text| !text.is_empty());
            wait_ready("the end of sleep", log.path(), || !lives()).unwrap();
        };
        let mut process = start();
        let killed = command(&process);
        // Before that it is still the guardian's copy.
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
