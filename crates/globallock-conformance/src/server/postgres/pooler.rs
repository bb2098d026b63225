//! PgBouncer in front of a server.

use std::io::{Result, Write};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::super::{Process, free_port, listens, wait_ready};
use super::{PASSWORD, USER, template, url_by};

/// A pooler that gives a connection of its own to each transaction.
#[derive(Debug)]
pub struct Pooler {
    process: Option<Process>,
    port: u16,
    directory: TempDir,
}

impl Pooler {
    /// Starts it in front of the server at this port.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start(server: u16) -> Result<Self> {
        Self::start_with(server, "")
    }

    /// Starts it with more settings, a line each as in its file.
    ///
    /// # Errors
    /// As [`Pooler::start`].
    pub fn start_with(server: u16, settings: &str) -> Result<Self> {
        let (directory, port) = (TempDir::new()?, free_port());
        template::give(directory.path())?;
        let path = |name: &str| directory.path().join(name);
        let users = path("users.txt");
        let file = format!(
            "[databases]\n* = host=127.0.0.1 port={server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\n\
             admin_users = {USER}\npool_mode = transaction\nmax_client_conn = 2000\n\
             default_pool_size = 20\n{settings}\n",
            users.display()
        );
        for (path, text) in [(&users, format!("\"{USER}\" \"{PASSWORD}\"\n")), (&path("settings.ini"), file)]
        {
            std::fs::write(path, text)?;
            template::give(path)?;
        }
        let mut pooler = Pooler { process: None, port, directory };
        pooler.resume_after_kill()?;
        Ok(pooler)
    }

    /// Restarts it on the same port.
    ///
    /// # Errors
    /// When it does not start.
    pub fn resume_after_kill(&mut self) -> Result<()> {
        drop(self.process.take());
        let log = self.directory.path().join("log");
        let file = self.directory.path().join("settings.ini");
        self.process = Some(template::start([], "pgbouncer", "pgbouncer", [&file], &log)?);
        wait_ready("pgbouncer", &log, || listens(self.port))
    }

    /// Kills it, as a crash does.
    pub fn kill(&mut self) {
        drop(self.process.take());
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address for owners through it.
    #[must_use]
    pub fn url(&self) -> String {
        url_by(&[format!("127.0.0.1:{}", self.port)])
    }

    /// Runs a command of its console, such as `SHOW POOLS`, and returns what it says.
    ///
    /// # Panics
    /// When psql is not installed.
    pub fn console(&self, command: &str) -> String {
        let mut psql = Command::new(template::program("psql"));
        psql.args(["-XAtq", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", USER, "pgbouncer"]);
        psql.env("PGPASSWORD", PASSWORD).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = psql.spawn().expect("psql is installed: run apt-get install postgresql");
        if let Some(mut input) = child.stdin.take() {
            let _ = input.write_all(command.as_bytes());
        }
        let output = child.wait_with_output().expect("psql ends");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }
}
