//! ZooKeeper servers, alone and in ensembles.

mod snapshot;

use std::fmt::Write as _;
use std::io::{Error, Read, Result, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use super::certificates::Certificates;
use super::clock::Clock;
use super::{Cluster, Process, free_port, listens, wait_ready};

/// The directory of Debian's jars.
const JARS: &str = "/usr/share/java";
/// The server's jar, and those that it does not reference itself: a logger, and what TLS needs.
const CLASSES: &[&str] = &[
    "zookeeper.jar",
    "slf4j-simple.jar",
    "netty-codec.jar",
    "netty-resolver.jar",
    "netty-transport-native-unix-common.jar",
];

/// The class path of a program of Java that uses ZooKeeper and these jars of Debian.
#[must_use]
pub fn class_path(more: &[&str]) -> String {
    let more = more.iter().map(|jar| format!("{JARS}/{jar}.jar"));
    let classes: Vec<String> = CLASSES.iter().map(|jar| format!("{JARS}/{jar}")).chain(more).collect();
    classes.join(":")
}

/// The optional settings of an ensemble.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Serves TLS with these certificates and requires client certificates. Default: none.
    pub certificates: Option<Certificates>,
    /// The name and password of a user that can log in by SASL. Default: none.
    pub user: Option<(String, String)>,
    /// More lines of the configuration. Default: none.
    pub more: String,
    /// The clock that the servers see. Default: that of the host.
    pub clock: Option<Arc<Clock>>,
}

/// An ensemble of one or more servers with a tick of 500 ms.
#[derive(Debug)]
pub struct ZooKeeper {
    servers: Vec<Server>,
    setup: Setup,
    directory: TempDir,
}

#[derive(Debug)]
struct Server {
    process: Option<Process>,
    /// The client port without TLS, which the harness itself uses.
    plain: u16,
    secure: u16,
    /// Where the other servers of an ensemble elect a leader with it.
    election: Option<u16>,
    configuration: PathBuf,
}

impl ZooKeeper {
    /// Starts this many servers.
    ///
    /// # Errors
    /// When they are not installed or do not start.
    pub fn start(servers: usize) -> Result<Self> {
        Self::start_with(servers, Setup::default())
    }

    /// Starts this many servers with these settings.
    ///
    /// # Errors
    /// When they are not installed or do not start.
    pub fn start_with(servers: usize, setup: Setup) -> Result<Self> {
        if !Path::new(JARS).join(CLASSES[0]).exists() {
            let packages = "libzookeeper-java libslf4j-java libnetty-java default-jre-headless";
            return Err(Error::other(format!("ZooKeeper is not installed: run apt-get install {packages}")));
        }
        let mut ensemble = ZooKeeper { servers: Vec::new(), setup, directory: TempDir::new()? };
        let mut members = String::new();
        let elections: Vec<u16> = (1..=servers).filter(|_| servers > 1).map(|_| free_port()).collect();
        for (number, election) in (1..).zip(&elections) {
            let _ = writeln!(members, "server.{number}=127.0.0.1:{}:{election}", free_port());
        }
        for number in 1..=servers {
            let election = elections.get(number - 1).copied();
            let server = Server { election, ..ensemble.configure(number, &members)? };
            ensemble.servers.push(server);
        }
        for server in 0..servers {
            ensemble.launch(server)?;
        }
        ensemble.wait_serving()?;
        Ok(ensemble)
    }

    fn configure(&self, number: usize, members: &str) -> Result<Server> {
        let home = self.directory.path().join(number.to_string());
        std::fs::create_dir_all(&home)?;
        std::fs::write(home.join("myid"), number.to_string())?;
        let (plain, secure) = (free_port(), free_port());
        let mut text = format!(
            "tickTime=500\ninitLimit=20\nsyncLimit=10\nmaxSessionTimeout=60000\nmaxClientCnxns=0\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\n\
             dataDir={}\nclientPort={plain}\nclientPortAddress=127.0.0.1\n{members}",
            home.display()
        );
        if let Some(files) = &self.setup.certificates {
            let both = home.join("server-key-and-certificate.pem");
            let parts = [std::fs::read(&files.server_key)?, std::fs::read(&files.server)?];
            std::fs::write(&both, parts.concat())?;
            let _ = write!(
                text,
                "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
                 secureClientPort={secure}\nsecureClientPortAddress=127.0.0.1\n\
                 ssl.keyStore.location={}\nssl.keyStore.type=PEM\n\
                 ssl.trustStore.location={}\nssl.trustStore.type=PEM\nssl.clientAuth=need\n",
                both.display(),
                files.ca.display()
            );
        }
        if let Some((user, password)) = &self.setup.user {
            text.push_str("authProvider.sasl=org.apache.zookeeper.server.auth.SASLAuthenticationProvider\n");
            let module = "org.apache.zookeeper.server.auth.DigestLoginModule";
            let known = format!("Server {{ {module} required user_{user}=\"{password}\"; }};\n");
            std::fs::write(home.join("jaas.conf"), known)?;
        }
        // Of a setting that is there twice, the last counts.
        text.push_str(&self.setup.more);
        let configuration = home.join("zoo.cfg");
        std::fs::write(&configuration, text)?;
        Ok(Server { process: None, plain, secure, election: None, configuration })
    }

    fn log(&self, server: usize) -> PathBuf {
        self.directory.path().join(format!("log-{server}"))
    }

    fn launch(&mut self, server: usize) -> Result<()> {
        let configuration = &self.servers[server].configuration;
        let mut arguments: Vec<String> = [
            "-Xmx256m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Xshare:auto",
            "-Dzookeeper.jmx.log4j.disable=true",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        ]
        .map(str::to_owned)
        .to_vec();
        if self.setup.user.is_some() {
            let known = configuration.with_file_name("jaas.conf");
            arguments.push(format!("-Djava.security.auth.login.config={}", known.display()));
        }
        arguments.extend(["-cp".to_owned(), class_path(&[])]);
        arguments.push("org.apache.zookeeper.server.quorum.QuorumPeerMain".to_owned());
        arguments.push(configuration.display().to_string());
        let environment = self.setup.clock.iter().flat_map(|clock| clock.environment());
        let environment = environment.map(|(name, path)| (name, path.as_os_str()));
        let log = self.log(server);
        let started = Process::start_in(environment, "java", "default-jre-headless", &arguments, &log)?;
        self.servers[server].process = Some(started);
        Ok(())
    }

    /// Waits until every running server serves clients.
    ///
    /// # Errors
    /// When one does not.
    pub fn wait_serving(&self) -> Result<()> {
        for (number, server) in self.servers.iter().enumerate() {
            if server.process.is_some() {
                let secure = self.setup.certificates.is_some();
                let serves = || mode(server.plain).is_some() && (!secure || listens(server.secure));
                wait_ready("ZooKeeper", &self.log(number), serves)?;
            }
        }
        Ok(())
    }

    /// Sets the number that the next sequential child of a node gets, in an ensemble of one server. The
    /// server is restarted.
    ///
    /// # Errors
    /// When it has no such node, or does not start.
    pub fn set_sequence(&mut self, path: &str, next: i32) -> Result<()> {
        // A server writes a snapshot of its whole tree when it starts.
        self.kill(0);
        self.resume_after_kill(0)?;
        self.kill(0);
        let home = self.servers[0].configuration.with_file_name("");
        snapshot::set_sequence(&home, path, next)?;
        self.resume_after_kill(0)
    }

    /// The servers' addresses without TLS, in the notation of other clients.
    #[must_use]
    pub fn hosts(&self) -> String {
        let hosts: Vec<String> =
            self.servers.iter().map(|server| format!("127.0.0.1:{}", server.plain)).collect();
        hosts.join(",")
    }

    /// The client port of one server, without TLS.
    #[must_use]
    pub fn port(&self, server: usize) -> u16 {
        self.servers[server].plain
    }

    /// The port at which one server elects a leader with the others, if there are others.
    #[must_use]
    pub fn election_port(&self, server: usize) -> Option<u16> {
        self.servers[server].election
    }
}

impl Cluster for ZooKeeper {
    fn url(&self) -> String {
        let secure = self.setup.certificates.is_some();
        let port = |server: &Server| if secure { server.secure } else { server.plain };
        let hosts: Vec<String> =
            self.servers.iter().map(|server| format!("127.0.0.1:{}", port(server))).collect();
        format!("zookeeper{}://{}", if secure { "s" } else { "" }, hosts.join(","))
    }

    fn ports(&self) -> Vec<u16> {
        self.servers.iter().map(|server| server.plain).collect()
    }

    fn id(&self, server: usize) -> Option<Pid> {
        self.servers[server].process.as_ref().map(Process::id)
    }

    fn signal(&self, server: usize, signal: Signal) {
        if let Some(process) = &self.servers[server].process {
            process.signal(signal);
        }
    }

    fn leader(&self) -> Option<usize> {
        let leads = |server: &Server| mode(server.plain).is_some_and(|mode| mode != "follower");
        self.servers.iter().position(leads)
    }

    fn kill(&mut self, server: usize) {
        drop(self.servers[server].process.take());
    }

    fn resume_after_kill(&mut self, server: usize) -> Result<()> {
        self.launch(server)?;
        self.wait_serving()
    }
}

/// The mode of a server: `standalone`, `leader` or `follower`; `None` while it does not serve clients.
fn mode(port: u16) -> Option<String> {
    let answer = ask(port, "srvr").ok()?;
    answer.lines().find_map(|line| line.strip_prefix("Mode: ")).map(str::to_owned)
}

/// The last zxid of a server: the id of its last transaction, whether it changed anything or not.
///
/// # Errors
/// When it does not answer.
pub fn last_transaction(port: u16) -> Result<u64> {
    let answer = ask(port, "srvr")?;
    let zxid = answer.lines().find_map(|line| line.strip_prefix("Zxid: 0x"));
    u64::from_str_radix(zxid.unwrap_or_default(), 16).map_err(Error::other)
}

/// Sends one of ZooKeeper's four-letter commands and returns the answer.
///
/// # Errors
/// When it does not answer.
pub fn ask(port: u16, word: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(word.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The sessions that have ephemeral nodes, as the leader lists them.
///
/// # Errors
/// When it does not answer.
pub fn sessions(port: u16) -> Result<Vec<u64>> {
    let answer = ask(port, "dump")?;
    let with_nodes = answer.split("with Ephemerals").nth(1).unwrap_or_default();
    let number = |line: &str| u64::from_str_radix(line.strip_prefix("0x")?.strip_suffix(':')?, 16).ok();
    Ok(with_nodes.lines().filter_map(number).collect())
}

/// Ends the session of another client: takes the session over with the password that the servers gave it, and
/// closes it.
///
/// # Errors
/// When the server does not answer.
pub fn end_session(port: u16, session: u64) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    // Protocol version, last zxid seen, timeout, session id, password, read-only.
    let mut connect = [0; 12].to_vec();
    connect.extend(4_000_u32.to_be_bytes());
    connect.extend(session.to_be_bytes());
    connect.extend(16_u32.to_be_bytes());
    connect.extend(password(session));
    connect.push(0);
    let close = [1_u32.to_be_bytes(), (-11_i32).to_be_bytes()].concat();
    let frame = |body: &[u8]| [&u32::try_from(body.len()).unwrap_or(0).to_be_bytes(), body].concat();
    // Both frames in one write: the takeover closes the owner's connection, and the owner reconnects to its
    // session within a moment.
    stream.write_all(&[frame(&connect), frame(&close)].concat())?;
    // The server closes the connection when the session has ended.
    stream.read_to_end(&mut Vec::new())?;
    Ok(())
}

/// The password that a server gives to a session: sixteen bytes of `java.util.Random`, seeded with the
/// session id and a constant.
fn password(session: u64) -> [u8; 16] {
    const MASK: u64 = (1 << 48) - 1;
    const FACTOR: u64 = 0x5_DEEC_E66D;
    let mut state = (session ^ 0xB341_5C00 ^ FACTOR) & MASK;
    let mut password = [0; 16];
    for four in password.chunks_mut(4) {
        state = state.wrapping_mul(FACTOR).wrapping_add(11) & MASK;
        four.copy_from_slice(&((state >> 16) as u32).to_le_bytes());
    }
    password
}

/// The children of a node, listed by kazoo.
///
/// # Panics
/// When kazoo fails.
#[must_use]
pub fn children(hosts: &str, path: &str) -> Vec<String> {
    let output =
        kazoo(hosts, path, "print(*client.get_children(path) if client.exists(path) else [], sep='\\n')");
    output.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// A node and all its descendants in order, each with its data and whether it is ephemeral.
///
/// # Panics
/// When kazoo fails.
#[must_use]
pub fn tree(hosts: &str, path: &str) -> String {
    let line = "def show(path):\n    \
                held, stat = client.get(path)\n    \
                print(path + (' (ephemeral)' if stat.ephemeralOwner else ''), repr(held or b''))\n    \
                [show(path + '/' + child) for child in sorted(client.get_children(path))]\n\
                show(path)";
    kazoo(hosts, path, line)
}

/// Allows a node and those below it this many nodes, with kazoo. The servers enforce that only with
/// `enforceQuota=true`.
///
/// # Panics
/// When kazoo fails.
pub fn set_quota(hosts: &str, path: &str, nodes: u32) {
    let line = format!(
        "at = '/zookeeper/quota' + path\n\
         client.ensure_path(path)\n\
         client.ensure_path(at)\n\
         limit = 'count=-1,bytes=-1=;byteHardLimit=-1;countHardLimit={nodes}'\n\
         client.create(at + '/zookeeper_limits', limit.encode())\n\
         client.create(at + '/zookeeper_stats', b'count=1,bytes=0')"
    );
    kazoo(hosts, path, &line);
}

/// Gives everybody these rights on a node, as the sum of read (1), write (2), create (4) and delete (8), with
/// kazoo. The node is made if it is not there.
///
/// # Panics
/// When kazoo fails.
pub fn set_rights(hosts: &str, path: &str, rights: u8) {
    let line = format!(
        "from kazoo.security import ACL, Id\n\
         client.ensure_path(path)\n\
         client.set_acls(path, [ACL({rights}, Id('world', 'anyone'))])"
    );
    kazoo(hosts, path, &line);
}

/// Deletes the children of a node, with kazoo.
///
/// # Panics
/// When kazoo fails.
pub fn delete_children(hosts: &str, path: &str) {
    // The youngest first, so that no deletion grants the lock to another child.
    let line = "for child in sorted(client.get_children(path), key=lambda name: name[-10:], reverse=True): \
                client.delete(path + '/' + child)";
    kazoo(hosts, path, line);
}

/// Runs Python code that uses kazoo's `client` and `path`, and returns its output.
fn kazoo(hosts: &str, path: &str, line: &str) -> String {
    let python = super::peers::python().expect("kazoo can be installed");
    let program = format!(
        "import sys\nfrom kazoo.client import KazooClient\nhosts, path = sys.argv[1:]\n\
         client = KazooClient(hosts=hosts)\nclient.start()\n{line}\nclient.stop()"
    );
    let output = std::process::Command::new(python).args(["-c", &program, hosts, path]).output();
    let output = output.expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Writes the data of a node, with kazoo.
///
/// # Panics
/// When kazoo fails.
pub fn set(hosts: &str, path: &str, data: &str) {
    kazoo(hosts, path, &format!("client.set(path, {data:?}.encode())"));
}
