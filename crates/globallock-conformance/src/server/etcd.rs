//! etcd servers, alone and in clusters.

use std::io::{Error, Read, Result, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::certificates::Certificates;
use super::{Cluster, Process, free_port, wait_ready};

/// A cluster of one or more members.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    directory: TempDir,
    /// TLS for clients.
    certificates: Option<Certificates>,
    /// Whether authentication is enabled.
    has_auth: bool,
}

/// The user that may do everything, once authentication is enabled.
const ROOT: &str = "root:rootpw";

#[derive(Debug)]
struct Member {
    process: Option<Process>,
    client: u16,
    arguments: Vec<String>,
}

impl Etcd {
    /// Starts a cluster of this many members.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start(members: usize) -> Result<Self> {
        Self::start_with(members, None)
    }

    /// Starts a cluster. With `certificates`, it accepts TLS only and requires client certificates.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start_with(members: usize, certificates: Option<Certificates>) -> Result<Self> {
        let directory = TempDir::new()?;
        let ports: Vec<(u16, u16)> = (0..members).map(|_| (free_port(), free_port())).collect();
        let peers: Vec<String> =
            ports.iter().enumerate().map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}")).collect();
        let scheme = if certificates.is_some() { "https" } else { "http" };
        let mut cluster = Etcd { members: Vec::new(), directory, certificates, has_auth: false };
        for (number, (client, peer)) in ports.into_iter().enumerate() {
            let data = cluster.directory.path().join(format!("data-{number}")).display().to_string();
            let (client_url, peer_url) =
                (format!("{scheme}://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            let mut arguments: Vec<String> = Vec::new();
            for (option, value) in [
                ("--name", format!("m{number}")),
                ("--data-dir", data),
                ("--listen-client-urls", client_url.clone()),
                ("--advertise-client-urls", client_url),
                ("--listen-peer-urls", peer_url.clone()),
                ("--initial-advertise-peer-urls", peer_url),
                ("--initial-cluster", peers.join(",")),
                ("--initial-cluster-state", "new".to_owned()),
                ("--heartbeat-interval", "50".to_owned()),
                ("--election-timeout", "500".to_owned()),
                ("--log-level", "warn".to_owned()),
                ("--logger", "zap".to_owned()),
                ("--bcrypt-cost", "4".to_owned()),
            ] {
                arguments.extend([option.to_owned(), value]);
            }
            if let Some(files) = &cluster.certificates {
                for (option, file) in [
                    ("--cert-file", &files.server),
                    ("--key-file", &files.server_key),
                    ("--trusted-ca-file", &files.ca),
                ] {
                    arguments.extend([option.to_owned(), file.display().to_string()]);
                }
                arguments.push("--client-cert-auth".to_owned());
            }
            cluster.members.push(Member { process: None, client, arguments });
        }
        for member in 0..cluster.members.len() {
            cluster.launch(member)?;
        }
        cluster.wait_healthy()?;
        Ok(cluster)
    }

    /// Enables authentication and adds a user that may read and write globallock's keys only. `user` is
    /// `name:password`.
    ///
    /// # Errors
    /// When the cluster refuses a command.
    pub fn enable_auth(&mut self, user: &str) -> Result<()> {
        let name = user.split(':').next().unwrap_or_default();
        for command in [
            &format!("user add {ROOT}"),
            "user grant-role root root",
            "role add locks",
            "role grant-permission locks --prefix=true readwrite /locks/_glocks/",
            &format!("user add {user}"),
            &format!("user grant-role {name} locks"),
            "auth enable",
        ] {
            let words: Vec<&str> = command.split(' ').collect();
            let output = self.ctl(&words);
            if output.contains("Error") {
                return Err(Error::other(output));
            }
        }
        self.has_auth = true;
        Ok(())
    }

    /// Invalidates all tokens of users, as their expiry does. Needs authentication.
    ///
    /// # Errors
    /// When the cluster refuses a command.
    pub fn invalidate_tokens(&self) -> Result<()> {
        for command in ["disable", "enable"] {
            let output = self.ctl(&["auth", command]);
            if output.contains("Error") {
                return Err(Error::other(output));
            }
        }
        Ok(())
    }

    /// How many tokens a member has issued.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn tokens(&self, member: usize) -> Result<u64> {
        self.metric(member, "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Authenticate\"")
    }

    /// How many proposals a member has applied, whether they changed anything or not.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn proposals(&self, member: usize) -> Result<u64> {
        self.metric(member, "etcd_server_proposals_applied_total ")
    }

    fn metric(&self, member: usize, name: &str) -> Result<u64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.members[member].client))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let counted = text.lines().find(|line| line.starts_with(name));
        let number = counted.and_then(|line| line.rsplit(' ').next()).unwrap_or("0");
        number.parse::<f64>().map(|number| number as u64).map_err(Error::other)
    }

    fn log(&self, member: usize) -> std::path::PathBuf {
        self.directory.path().join(format!("log-{member}"))
    }

    fn launch(&mut self, member: usize) -> Result<()> {
        let log = self.log(member);
        let started = Process::start("etcd", "etcd-server", &self.members[member].arguments, &log)?;
        self.members[member].process = Some(started);
        Ok(())
    }

    /// Waits until every running member is healthy.
    ///
    /// # Errors
    /// When one is not.
    pub fn wait_healthy(&self) -> Result<()> {
        for (number, member) in self.members.iter().enumerate().filter(|(_, member)| member.process.is_some())
        {
            let endpoint = self.endpoint(member);
            wait_ready("etcd", &self.log(number), || {
                let output = self.ctl_at(&endpoint, &["endpoint", "health"]);
                // A member that asks for a user is healthy too.
                output.contains("is healthy") || output.contains("user name is empty")
            })?;
        }
        Ok(())
    }

    fn endpoint(&self, member: &Member) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", member.client)
    }

    /// The addresses of all members, in etcdctl's notation.
    #[must_use]
    pub fn endpoints(&self) -> String {
        self.members.iter().map(|member| self.endpoint(member)).collect::<Vec<_>>().join(",")
    }

    /// Runs a command with `etcdctl` and returns its standard output and standard error.
    ///
    /// # Panics
    /// When etcdctl is not installed.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        self.ctl_at(&self.endpoints(), arguments)
    }

    fn ctl_at(&self, endpoints: &str, arguments: &[&str]) -> String {
        let mut command = ctl(endpoints);
        if let Some(files) = &self.certificates {
            command
                .arg("--cacert")
                .arg(&files.ca)
                .arg("--cert")
                .arg(&files.client)
                .arg("--key")
                .arg(&files.client_key);
        }
        if self.has_auth {
            command.args(["--user", ROOT]);
        }
        let output = command.args(arguments).output();
        let output = output.expect("etcdctl is installed: run apt-get install etcd-client");
        let (output, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        format!("{output}{error}").trim_end().to_owned()
    }
}

impl Cluster for Etcd {
    fn url(&self) -> String {
        let hosts: Vec<String> =
            self.members.iter().map(|member| format!("127.0.0.1:{}", member.client)).collect();
        let scheme = if self.certificates.is_some() { "etcds" } else { "etcd" };
        format!("{scheme}://{}", hosts.join(","))
    }

    fn ports(&self) -> Vec<u16> {
        self.members.iter().map(|member| member.client).collect()
    }

    fn signal(&self, member: usize, signal: Signal) {
        if let Some(process) = &self.members[member].process {
            process.signal(signal);
        }
    }

    fn leader(&self) -> Option<usize> {
        let text = self.ctl(&["endpoint", "status", "--write-out", "simple"]);
        let leads = |member: &Member| {
            text.lines().any(|line| {
                line.starts_with(&self.endpoint(member)) && line.split(", ").nth(4) == Some("true")
            })
        };
        self.members.iter().position(leads)
    }

    fn kill(&mut self, member: usize) {
        drop(self.members[member].process.take());
    }

    fn resume_after_kill(&mut self, member: usize) -> Result<()> {
        self.launch(member)?;
        self.wait_healthy()
    }
}

/// An `etcdctl` command with these endpoints.
#[must_use]
pub fn ctl(endpoints: &str) -> Command {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", endpoints]);
    command
}
