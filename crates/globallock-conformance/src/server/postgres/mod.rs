//! PostgreSQL servers, alone, with a replica, and behind a pooler.

mod pair;
mod pooler;
mod processes;
mod template;

use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

use globallock::Schemes;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

pub use self::pair::Pair;
pub use self::pooler::Pooler;

use self::template::Template;
use super::certificates::Certificates;
use super::disk::Disk;
use super::{Cluster, Process, free_port, wait_ready};

/// The user of the owners, and the database. It is no superuser.
pub const USER: &str = "app";
/// Its password.
pub const PASSWORD: &str = "app-password";
/// The superuser, who needs no password on the socket.
pub const SUPERUSER: &str = "postgres";

/// What makes a server small and quick. What it has written is lost with its host, and not with its process.
const SETTINGS: [&str; 14] = [
    "listen_addresses=127.0.0.1",
    "fsync=off",
    "full_page_writes=off",
    "shared_buffers=16MB",
    "max_connections=300",
    "max_wal_size=64MB",
    "min_wal_size=2MB",
    "autovacuum_naptime=5s",
    "jit=off",
    "wal_retrieve_retry_interval=100ms",
    // Otherwise a killed server leaves files in /dev/shm.
    "dynamic_shared_memory_type=mmap",
    "log_line_prefix=%m [%p] ",
    "timezone=UTC",
    "lc_messages=C",
];

/// A PostgreSQL server, with its data.
#[derive(Debug)]
pub struct Postgres {
    process: Option<Process>,
    port: u16,
    /// Settings beside [`SETTINGS`], as `name=value`.
    settings: Vec<String>,
    directory: TempDir,
    /// Its disk, if that can be full.
    disk: Option<Disk>,
    /// What its data was copied from, which others may need too.
    _template: Option<Template>,
}

impl Postgres {
    /// Starts a server that holds locks of [`USER`].
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts a server that holds locks, with more settings, as `name=value`.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn start_with(settings: &[&str]) -> Result<Self> {
        let server = Self::start_bare(settings)?;
        set_up(&server.url())?;
        Ok(server)
    }

    /// Starts a server that has the user and its database, and nothing of globallock's, with more settings.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn start_bare(settings: &[&str]) -> Result<Self> {
        Self::launched_with(settings)?.begun()
    }

    /// Starts a server that holds locks and whose disk can be full.
    ///
    /// # Errors
    /// As [`Postgres::start`], or when there is no C compiler.
    pub fn start_with_disk() -> Result<Self> {
        let mut server = Self::launched_with(&[])?;
        server.disk = Some(Disk::new(server.directory.path())?);
        let server = server.begun()?;
        set_up(&server.url())?;
        Ok(server)
    }

    /// Starts a server that has no data yet, with the user and its database.
    fn begun(mut self) -> Result<Self> {
        let template = Template::shared()?;
        template.copy_to(&self.data())?;
        self._template = Some(template);
        self.resume_after_kill()?;
        Ok(self)
    }

    /// Starts a server that holds locks and accepts TLS only, but for the socket.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn start_with_tls(certificates: &Certificates, settings: &[&str]) -> Result<Self> {
        let mut server = Self::start_bare(settings)?;
        // The key must be the server's own, and nobody else's to read.
        for (file, name) in [
            (&certificates.ca, "ca.pem"),
            (&certificates.server, "server.pem"),
            (&certificates.server_key, "server.key"),
        ] {
            server.place(name, &std::fs::read(file)?)?;
        }
        let rules = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
        server.place("data/pg_hba.conf", rules.as_bytes())?;
        for (name, value) in
            [("ssl_ca_file", "ca.pem"), ("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.key")]
        {
            let path = server.directory.path().join(value);
            server.settings.push(format!("{name}={}", path.display()));
        }
        server.settings.push("ssl=on".to_owned());
        server.kill();
        server.resume_after_kill()?;
        set_up(&format!("{}?sslmode=require", server.url()))?;
        Ok(server)
    }

    /// A server that has a port, and neither data nor a process yet.
    fn launched_with(settings: &[&str]) -> Result<Self> {
        let directory = TempDir::new()?;
        template::give(directory.path())?;
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        Ok(Postgres { process: None, port: free_port(), settings, directory, disk: None, _template: None })
    }

    /// Restarts the server on the same port and with the same data, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub fn resume_after_kill(&mut self) -> Result<()> {
        drop(self.process.take());
        let (port, sockets) = (self.port, self.directory.path().display());
        let fixed = [format!("port={port}"), format!("unix_socket_directories={sockets}")];
        let settings = SETTINGS.iter().map(|setting| (*setting).to_owned()).chain(fixed);
        let mut arguments = vec!["-D".to_owned(), self.data().display().to_string()];
        for setting in settings.chain(self.settings.iter().cloned()) {
            arguments.extend(["-c".to_owned(), setting]);
        }
        let (log, pid) = (self.log(), self.data().join("postmaster.pid"));
        let environment = self.disk.iter().flat_map(Disk::environment);
        let environment = environment.map(|(name, path)| (name, path.as_os_str()));
        self.process = Some(template::start(environment, "postgres", "postgresql", arguments, &log)?);
        let process = self.process.as_ref().map(|process| process.id().as_raw_nonzero().to_string());
        // The server writes its state into its file. So nothing asks it that it would count or log.
        let state = || -> Option<String> {
            let text = std::fs::read_to_string(&pid).ok()?;
            let mut lines = text.lines();
            let is_its_own = lines.next() == process.as_deref();
            lines.nth(6).filter(|_| is_its_own).map(|state| state.trim().to_owned())
        };
        wait_ready("postgres", &log, || {
            state().as_deref() == Some("ready") || self.process.as_ref().is_none_or(processes::has_ended)
        })?;
        if state().as_deref() == Some("ready") {
            return Ok(());
        }
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        Err(Error::other(format!("postgres does not start: {}", text.lines().last().unwrap_or_default())))
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address for owners, without options.
    #[must_use]
    pub fn url(&self) -> String {
        url_by(&[format!("127.0.0.1:{}", self.port)])
    }

    /// The directory of its socket, its data and its log.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The file that it logs to.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// The way of tools to it.
    #[must_use]
    pub fn tools(&self) -> Tools {
        Tools { socket: self.directory.path().to_owned(), port: self.port }
    }

    /// Runs statements as [`Tools::sql`] does.
    ///
    /// # Panics
    /// When psql is not installed.
    pub fn sql(&self, statements: &str) -> String {
        self.tools().sql(statements)
    }

    /// Writes a file below the server's directory that the server can read, and nobody else.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn place(&self, name: &str, content: &[u8]) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.directory.path().join(name);
        std::fs::write(&path, content)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        template::give(&path)
    }

    /// Kills all processes of the server at once, as a crash of its host does.
    pub fn kill(&mut self) {
        let Some(process) = self.process.take() else { return };
        let memory = self.shared_memory();
        let children = processes::stop(process.id());
        for child in &children {
            processes::signal(*child, Signal::KILL);
        }
        drop(process);
        processes::wait_for_the_end_of(&children);
        if let Some(id) = memory {
            // What a killed server leaves of its shared memory is some bytes. But there is a limit to their
            // number.
            let _ = Command::new("ipcrm").args(["-m", &id]).output();
        }
    }

    /// Ends the server as its administrator does: clients are disconnected, replicas have everything.
    ///
    /// # Errors
    /// When it does not end.
    pub fn shut_down(&mut self) -> Result<()> {
        self.end_by(Signal::INT)
    }

    /// Ends the server by a signal that it ends by.
    fn end_by(&mut self, signal: Signal) -> Result<()> {
        let Some(process) = &self.process else { return Ok(()) };
        self.go_on();
        process.signal(signal);
        let ended = wait_ready("the end of postgres", &self.log(), || processes::has_ended(process));
        drop(self.process.take());
        ended
    }

    /// Stops all processes of the server without ending them (SIGSTOP).
    pub fn stop(&self) {
        if let Some(process) = &self.process {
            processes::stop(process.id());
        }
    }

    /// Continues a stopped server (SIGCONT).
    pub fn go_on(&self) {
        if let Some(process) = &self.process {
            processes::go_on(process.id());
        }
    }

    /// Its disk, if that can be full.
    #[must_use]
    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// Whether its process has ended, by itself or not.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.process.as_ref().is_none_or(processes::has_ended)
    }

    /// Whether it is a replica.
    #[must_use]
    pub fn is_replica(&self) -> bool {
        self.sql("SELECT pg_is_in_recovery()") == "t"
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The number of its shared memory, by which only its own processes find each other.
    fn shared_memory(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        text.lines().nth(6)?.split_whitespace().nth(1).map(str::to_owned)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // So it leaves no shared memory behind.
        let _ = self.end_by(Signal::QUIT);
    }
}

impl Cluster for Postgres {
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
        match (signal, &self.process) {
            (Signal::STOP, _) => self.stop(),
            (Signal::CONT, _) => self.go_on(),
            (_, Some(process)) => process.signal(signal),
            (_, None) => {}
        }
    }

    fn kill(&mut self, _server: usize) {
        self.kill();
    }

    fn resume_after_kill(&mut self, _server: usize) -> Result<()> {
        self.resume_after_kill()
    }
}

/// The way of tools to a server: as the superuser, by its socket.
#[derive(Clone, Debug)]
pub struct Tools {
    socket: PathBuf,
    port: u16,
}

impl Tools {
    /// Runs statements with `psql` in [`USER`]'s database, each in a transaction of its own, and returns what
    /// they return, a row a line with `|` between its columns, followed by what is wrong.
    ///
    /// # Panics
    /// When psql is not installed.
    pub fn sql(&self, statements: &str) -> String {
        self.sql_as(SUPERUSER, statements)
    }

    /// Does the same as another user.
    ///
    /// # Panics
    /// When psql is not installed.
    pub fn sql_as(&self, user: &str, statements: &str) -> String {
        use std::io::Write;
        use std::process::Stdio;
        let mut psql = self.command("psql", user);
        psql.args(["-XAtq", "-v", "VERBOSITY=terse", "-d", USER, "-f", "-"]);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = psql.spawn().expect("psql is installed: run apt-get install postgresql");
        if let Some(mut input) = child.stdin.take() {
            // It reads no more when the server has ended.
            let _ = input.write_all(statements.as_bytes());
        }
        let output = child.wait_with_output().expect("psql ends");
        let (rows, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        format!("{rows}{errors}").trim_end().to_owned()
    }

    /// A client program with the way to the server.
    fn command(&self, program: &str, user: &str) -> Command {
        let mut command = Command::new(template::program(program));
        command.arg("-h").arg(&self.socket).args(["-p", &self.port.to_string(), "-U", user]);
        command
    }
}

/// The address for owners by these hosts.
#[must_use]
pub fn url_by(hosts: &[String]) -> String {
    format!("postgres://{USER}:{PASSWORD}@{}", hosts.join(","))
}

/// Makes what globallock needs in a server, as `globallock setup` does, and returns what was said.
///
/// # Errors
/// When the store cannot be set up.
pub fn set_up(url: &str) -> Result<String> {
    let url = url.to_owned();
    // Those who start a server may already be in a runtime.
    let done = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let store = Schemes::default().open(&url).map_err(Error::other)?;
            store.set_up().await.map_err(Error::other)
        })
    });
    done.join().unwrap_or_else(|_| Err(Error::other("the setup panicked")))
}

#[cfg(test)]
mod tests;
