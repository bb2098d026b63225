//! etcd servers, alone and in clusters.

use std::fs::DirEntry;
use std::io::{Error, Read, Result, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use super::certificates::Certificates;
use super::{Cluster, Process, free_port, wait_ready};

/// The path of a program: in the directory that the environment variable `GLOBALLOCK_ETCD` names, or else the
/// one that is installed.
fn program(name: &str) -> String {
    std::env::var("GLOBALLOCK_ETCD")
        .map_or_else(|_| name.to_owned(), |directory| format!("{directory}/{name}"))
}

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

/// How long a cluster may take until it has room again.
const ROOM_LIMIT: Duration = Duration::from_secs(60);

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

    /// Starts a cluster whose database has room for this many bytes.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start_small(members: usize, bytes: usize) -> Result<Self> {
        Self::launch_all(members, None, &["--quota-backend-bytes", &bytes.to_string()])
    }

    /// Starts a cluster. With `certificates`, it accepts TLS only and requires client certificates.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start_with(members: usize, certificates: Option<Certificates>) -> Result<Self> {
        Self::launch_all(members, certificates, &[])
    }

    fn launch_all(members: usize, certificates: Option<Certificates>, more: &[&str]) -> Result<Self> {
        let directory = TempDir::new()?;
        let ports: Vec<(u16, u16)> = (0..members).map(|_| (free_port(), free_port())).collect();
        let peers: Vec<String> =
            ports.iter().enumerate().map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}")).collect();
        let scheme = if certificates.is_some() { "https" } else { "http" };
        let mut cluster = Etcd { members: Vec::new(), directory, certificates, has_auth: false };
        for (number, (client, peer)) in ports.into_iter().enumerate() {
            let data = cluster.data(number).display().to_string();
            let (client_url, peer_url) =
                (format!("{scheme}://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            let mut arguments: Vec<String> = more.iter().map(|argument| (*argument).to_owned()).collect();
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

    /// The release of the first member: `3.4.23`.
    #[must_use]
    pub fn version(&self) -> String {
        let status = self.ctl(&["endpoint", "status", "--write-out", "simple"]);
        status.split(", ").nth(2).unwrap_or_default().to_owned()
    }

    /// Fills the database, until the cluster refuses more.
    ///
    /// # Errors
    /// When it refuses for another reason.
    pub fn fill(&self) -> Result<()> {
        for number in 0.. {
            let output = self.ctl(&["put", &format!("fill/{number}"), &"x".repeat(100_000)]);
            if self.is_full() {
                break;
            }
            if output != "OK" {
                return Err(Error::other(output));
            }
        }
        Ok(())
    }

    /// Raises the alarm that the cluster raises when its database has reached its quota. From then on it
    /// refuses what takes room, however much there is. Returns the member's answer.
    ///
    /// # Errors
    /// When a member does not answer, or refuses it.
    pub fn raise_full(&self, member: usize) -> Result<String> {
        let alarm = r#"{"action":"ACTIVATE","alarm":"NOSPACE"}"#;
        let length = alarm.len();
        let post = format!("POST /v3/maintenance/alarm HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{alarm}");
        let answer = self.http(member, &post)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.lines().next().unwrap_or_default();
        if status.split(' ').nth(1) != Some("200") {
            return Err(Error::other(format!("the alarm is not raised: {status}: {body}")));
        }
        Ok(body.trim().to_owned())
    }

    /// Whether the database is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.ctl(&["alarm", "list"]).contains("NOSPACE")
    }

    /// Makes room in a full database, as an operator does, and repeats it while the cluster does not answer.
    ///
    /// # Panics
    /// When there is no room after a while.
    pub fn make_room(&self) {
        let until = Instant::now() + ROOM_LIMIT;
        loop {
            self.ctl(&["del", "--prefix", "fill/"]);
            let status = self.ctl(&["get", "--write-out=json", "nothing"]);
            let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
            self.ctl(&["compact", &status["header"]["revision"].to_string()]);
            self.ctl(&["defrag"]);
            self.ctl(&["alarm", "disarm"]);
            let seen = self.ctl(&["put", "fill/room", "x"]);
            if seen == "OK" && !self.is_full() {
                self.ctl(&["del", "fill/room"]);
                return;
            }
            assert!(Instant::now() < until, "there is room: {seen}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Gives a user another password, which invalidates all tokens. Needs authentication.
    ///
    /// # Errors
    /// When the cluster refuses a command.
    pub fn change_password(&self, user: &str, password: &str) -> Result<()> {
        let mut command = ctl(&self.endpoints());
        command.args(["--user", ROOT, "user", "passwd", "--interactive=false", user]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        child.stdin.take().ok_or_else(|| Error::other("it has no input"))?.write_all(password.as_bytes())?;
        if child.wait()?.success() { Ok(()) } else { Err(Error::other("the password is not changed")) }
    }

    /// How many logins a member has refused.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn refused_logins(&self, member: usize) -> Result<u64> {
        self.metric(
            member,
            "grpc_server_handled_total{grpc_code=\"InvalidArgument\",grpc_method=\"Authenticate\"",
        )
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
        let text = self.http(member, "GET /metrics HTTP/1.0\r\n\r\n")?;
        let counted = text.lines().find(|line| line.starts_with(name));
        let number = counted.and_then(|line| line.rsplit(' ').next()).unwrap_or("0");
        number.parse::<f64>().map(|number| number as u64).map_err(Error::other)
    }

    /// Sends a request to a member, and returns its answer.
    fn http(&self, member: usize, request: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.members[member].client))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// The members that believe to lead: more than one, if a leader does not know that it was deposed.
    #[must_use]
    pub fn leaders(&self) -> Vec<usize> {
        let text = self.ctl(&["endpoint", "status", "--write-out", "simple"]);
        let leads = |member: &Member| {
            text.lines().any(|line| {
                line.starts_with(&self.endpoint(member)) && line.split(", ").nth(4) == Some("true")
            })
        };
        (0..self.members.len()).filter(|member| leads(&self.members[*member])).collect()
    }

    /// Makes the disk hang on which a member has its log, and has the member write, so that it waits for the
    /// disk, until the answer is dropped.
    ///
    /// # Errors
    /// When strace is not installed, or may not trace.
    pub fn hang_disk(&self, member: usize) -> Result<HungDisk> {
        let process = self.members[member].process.as_ref();
        let pid = process.ok_or_else(|| Error::other("the member does not run"))?.id().as_raw_nonzero();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"]);
        // In microseconds: an hour.
        strace.args(["-e", "inject=fsync,fdatasync:delay_enter=3600000000", "-p", &pid.to_string()]);
        // Only the log. While the database hangs too, the member answers nothing at all.
        for file in std::fs::read_dir(self.data(member).join("member/wal"))? {
            strace.arg("-P").arg(file?.path());
        }
        let strace = strace.stdin(Stdio::null()).spawn();
        let strace = strace.map_err(|error| Error::other(format!("strace does not run: {error}")))?;
        let mut hung = HungDisk { children: vec![strace] };
        let tracer = format!("TracerPid:\t{}", hung.children[0].id());
        let is_traced = |thread: Result<DirEntry>| {
            let status = thread.and_then(|thread| std::fs::read_to_string(thread.path().join("status")));
            // A thread that has ended meanwhile writes nothing.
            status.map_or(true, |status| status.lines().any(|line| line == tracer))
        };
        wait_ready("strace", &self.log(member), || {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
            threads.is_ok_and(|mut threads| threads.all(is_traced))
        })?;
        let mut put = ctl(&self.endpoint(&self.members[member]));
        put.args(["put", "hung", ""]).stdout(Stdio::null()).stderr(Stdio::null());
        hung.children.push(put.spawn()?);
        Ok(hung)
    }

    fn data(&self, member: usize) -> PathBuf {
        self.directory.path().join(format!("data-{member}"))
    }

    fn log(&self, member: usize) -> PathBuf {
        self.directory.path().join(format!("log-{member}"))
    }

    fn launch(&mut self, member: usize) -> Result<()> {
        let log = self.log(member);
        let started = Process::start(&program("etcd"), "etcd-server", &self.members[member].arguments, &log)?;
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

    fn id(&self, member: usize) -> Option<Pid> {
        self.members[member].process.as_ref().map(Process::id)
    }

    fn signal(&self, member: usize, signal: Signal) {
        if let Some(process) = &self.members[member].process {
            process.signal(signal);
        }
    }

    fn leader(&self) -> Option<usize> {
        self.leaders().first().copied()
    }

    fn kill(&mut self, member: usize) {
        drop(self.members[member].process.take());
    }

    fn resume_after_kill(&mut self, member: usize) -> Result<()> {
        self.launch(member)?;
        self.wait_healthy()
    }
}

/// The disk of a member that hangs. It goes on when this is dropped.
#[derive(Debug)]
pub struct HungDisk {
    /// What delays the calls, and what makes the member write.
    children: Vec<Child>,
}

impl Drop for HungDisk {
    fn drop(&mut self) {
        for child in &mut self.children {
            // The kernel lets go of what a killed process traces. A child that has ended needs no kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An `etcdctl` command with these endpoints.
#[must_use]
pub fn ctl(endpoints: &str) -> Command {
    let mut command = Command::new(program("etcdctl"));
    command.env("ETCDCTL_API", "3").args(["--endpoints", endpoints]);
    command
}
