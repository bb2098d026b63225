//! Redis servers, alone and under sentinels.

use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use super::certificates::Certificates;
use super::clock::Clock;
use super::{Cluster, Process, free_port, listens, wait_ready};

/// The program of the servers: what the environment variable `GLOBALLOCK_REDIS_SERVER` says, or the one that
/// is installed.
#[must_use]
pub fn program() -> String {
    std::env::var("GLOBALLOCK_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

/// A redis-server.
#[derive(Debug)]
pub struct Redis {
    program: String,
    process: Option<Process>,
    port: u16,
    arguments: Vec<String>,
    /// Its wall clock, if that can be set.
    clock: Option<Clock>,
    directory: TempDir,
}

impl Redis {
    /// Starts a server without persistence.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts a server with more arguments.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start_with(more: &[&str]) -> Result<Self> {
        Self::start_program(&program(), more)
    }

    /// Starts a node of a cluster.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start_node() -> Result<Self> {
        let start = || Self::start_with(&["--cluster-enabled", "yes"]);
        let serves = |node: &Redis| node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:");
        // Its second port is 10000 above the first, where clients of other servers may be. Then it ends
        // again.
        let mut node = start();
        for _ in 0..9 {
            if node.as_ref().is_ok_and(serves) {
                break;
            }
            node = start();
        }
        node
    }

    /// Starts this program with more arguments.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start_program(program: &str, more: &[&str]) -> Result<Self> {
        let port = free_port();
        let mut arguments = vec!["--port".to_owned(), port.to_string()];
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        Self::launch(program.to_owned(), port, arguments)
    }

    /// Starts a server with more arguments that accepts TLS only and requires client certificates.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start_with_tls(certificates: &Certificates, more: &[&str]) -> Result<Self> {
        let port = free_port();
        let fixed = ["--port", "0", "--tls-auth-clients", "yes", "--tls-port", &port.to_string()];
        let mut arguments: Vec<String> =
            more.iter().chain(&fixed).map(|argument| (*argument).to_owned()).collect();
        for (option, file) in [
            ("--tls-ca-cert-file", &certificates.ca),
            ("--tls-cert-file", &certificates.server),
            ("--tls-key-file", &certificates.server_key),
        ] {
            arguments.push(option.to_owned());
            arguments.push(file.display().to_string());
        }
        Self::launch(program(), port, arguments)
    }

    fn launch(program: String, port: u16, arguments: Vec<String>) -> Result<Self> {
        let directory = TempDir::new()?;
        let mut server = Redis { program, process: None, port, arguments, clock: None, directory };
        server.resume_after_kill()?;
        Ok(server)
    }

    /// Starts a server without persistence whose wall clock can be set.
    ///
    /// # Errors
    /// When it or a C compiler is not installed, or it does not start.
    pub fn start_with_clock() -> Result<Self> {
        Self::start_clocked(&[])
    }

    /// Starts a server without persistence whose wall clock can be set, with these lines in the file of its
    /// users. It reads them again when it is restarted. Needs Redis 6.2, before which `&*` is no rule.
    ///
    /// # Errors
    /// When it or a C compiler is not installed, or it does not start.
    pub fn start_with_users(users: &[&str]) -> Result<Self> {
        Self::start_clocked(users)
    }

    /// Starts a server whose wall clock can be set. It has a file of users only if there are any.
    fn start_clocked(users: &[&str]) -> Result<Self> {
        let (port, directory) = (free_port(), TempDir::new()?);
        let clock = Some(Clock::new(directory.path(), "server")?);
        let mut arguments = vec!["--port".to_owned(), port.to_string()];
        if !users.is_empty() {
            let file = directory.path().join("users.acl");
            let mut lines = vec!["user default on nopass ~* &* +@all"];
            lines.extend(users);
            std::fs::write(&file, lines.join("\n") + "\n")?;
            arguments.extend(["--aclfile".to_owned(), file.display().to_string()]);
        }
        let mut server = Redis { program: program(), process: None, port, arguments, clock, directory };
        server.resume_after_kill()?;
        Ok(server)
    }

    /// Its wall clock, if that can be set.
    #[must_use]
    pub fn clock(&self) -> Option<&Clock> {
        self.clock.as_ref()
    }

    /// Restarts the server on the same port and in the same directory.
    ///
    /// # Errors
    /// When it does not start.
    pub fn resume_after_kill(&mut self) -> Result<()> {
        drop(self.process.take());
        let log = self.directory.path().join("log");
        let directory = self.directory.path().display().to_string();
        let fixed = ["--bind", "127.0.0.1", "--save", "", "--dir", &directory].map(str::to_owned);
        let arguments = self.arguments.iter().cloned().chain(fixed);
        let environment = self.clock.iter().flat_map(Clock::environment);
        let environment = environment.map(|(name, value)| (name, value.as_os_str()));
        self.process = Some(Process::start_in(environment, &self.program, "redis-server", arguments, &log)?);
        let socket = self.arguments.iter().skip_while(|argument| *argument != "--unixsocket").nth(1);
        let on_socket = || socket.is_none_or(|path| std::os::unix::net::UnixStream::connect(path).is_ok());
        wait_ready("redis-server", &log, || listens(self.port) && on_socket())
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address, without options.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The directory of its files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs a command with `redis-cli` and returns its output without the last line break.
    ///
    /// # Panics
    /// When redis-cli is not installed.
    pub fn cli(&self, arguments: &[&str]) -> String {
        cli(self.port, arguments)
    }

    /// Kills the server, as a crash does.
    pub fn kill(&mut self) {
        drop(self.process.take());
    }

    /// Stops the server's process without ending it (SIGSTOP).
    ///
    /// # Panics
    /// When it has been killed.
    pub fn stop(&self) {
        self.process.as_ref().expect("the server runs").signal(Signal::STOP);
    }

    /// Continues a stopped server (SIGCONT).
    ///
    /// # Panics
    /// When it has been killed.
    pub fn go_on(&self) {
        self.process.as_ref().expect("the server runs").signal(Signal::CONT);
    }
}

/// Runs a command on the server at `port` with `redis-cli` and returns its output without the last line
/// break.
///
/// # Panics
/// When redis-cli is not installed.
pub fn cli(port: u16, arguments: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(arguments).output();
    let output = output.expect("redis-cli is installed: run apt-get install redis-tools");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

impl Cluster for Redis {
    fn url(&self) -> String {
        self.url()
    }

    fn ports(&self) -> Vec<u16> {
        vec![self.port]
    }

    fn leader(&self) -> Option<usize> {
        Some(0)
    }

    fn id(&self, _server: usize) -> Option<Pid> {
        self.process.as_ref().map(Process::id)
    }

    fn signal(&self, _server: usize, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    fn kill(&mut self, _server: usize) {
        self.kill();
    }

    fn resume_after_kill(&mut self, _server: usize) -> Result<()> {
        self.resume_after_kill()
    }
}

/// A primary, a replica, and three sentinels that monitor them under the name `main`.
#[derive(Debug)]
pub struct Sentinels {
    /// The server that is the primary at first.
    pub primary: Redis,
    /// The server that is its replica at first.
    pub replica: Redis,
    sentinels: Vec<(Process, u16)>,
    _directory: TempDir,
}

impl Sentinels {
    /// Starts them and waits until the sentinels know the replica and each other.
    ///
    /// # Errors
    /// When redis-server is not installed or does not start.
    pub fn start() -> Result<Self> {
        let primary = Redis::start()?;
        let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &primary.port().to_string()])?;
        let directory = TempDir::new()?;
        let mut sentinels = Vec::new();
        for number in 0..3 {
            let port = free_port();
            let file = directory.path().join(format!("sentinel-{number}.conf"));
            std::fs::write(&file, sentinel_settings(port, primary.port(), directory.path()))?;
            let log = directory.path().join(format!("sentinel-{number}.log"));
            let arguments = [file.display().to_string(), "--sentinel".to_owned()];
            let process = Process::start(&program(), "redis-server", arguments, &log)?;
            wait_ready("the sentinel", &log, || listens(port))?;
            sentinels.push((process, port));
        }
        let set = Sentinels { primary, replica, sentinels, _directory: directory };
        let log: PathBuf = set._directory.path().join("sentinel-0.log");
        for (_, port) in &set.sentinels {
            wait_ready("the set of sentinels", &log, || {
                let known = cli(*port, &["SENTINEL", "MASTER", "main"]);
                let field =
                    |name: &str| known.lines().skip_while(|line| *line != name).nth(1).map(str::to_owned);
                field("num-slaves").as_deref() == Some("1")
                    && field("num-other-sentinels").as_deref() == Some("2")
            })?;
        }
        let synced = || set.replica.cli(&["INFO", "replication"]).contains("master_link_status:up");
        wait_ready("the replica", &log, synced)?;
        Ok(set)
    }

    /// The address of the set.
    #[must_use]
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
        format!("redis+sentinel://{}/main", hosts.join(","))
    }

    /// Waits until the replica has become the primary.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_failover(&self) -> Result<()> {
        let log = self._directory.path().join("sentinel-0.log");
        wait_ready("the new primary", &log, || self.replica.cli(&["ROLE"]).starts_with("master"))
            .map_err(|error| Error::other(format!("no failover: {error}")))
    }
}

fn sentinel_settings(port: u16, primary: u16, directory: &Path) -> String {
    format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {primary} 2\n\
         sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n",
        directory.display()
    )
}
