//! Network namespaces as hosts: each owner is in one of its own, with a link to the store that can be taken
//! down.
//!
//! The whole run is in a namespace too, so that nothing of it is visible outside, and nothing stays if it is
//! killed. A link that is down does what a proxy cannot do: packets vanish without an answer, in the middle
//! of a connection and at its beginning.

use std::fs::read_link;
use std::io::{Error, Result, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::time::sleep;

/// Set in the environment of a run that is in a namespace of its own.
const INSIDE: &str = "GLOBALLOCK_FAULTS_NETWORK";
/// Needed in a new namespace, because its loopback is down.
const LOOPBACK: &str = "ip link set lo up";
/// The bridges. Each owner's namespace has a link to each of them, by the same name.
const BRIDGES: [(&str, u8); 2] = [(STORE, 213), (REGISTERS, 214)];
const STORE: &str = "store";
const REGISTERS: &str = "registers";
/// How long a process may take to enter its namespace.
const LIMIT: Duration = Duration::from_secs(5);

/// Restarts this program in a network namespace, unless it is in one already.
///
/// # Errors
/// When this user cannot have one.
pub fn enter() -> Result<()> {
    if has_links() {
        return Ok(());
    }
    if !quiet(Command::new("ip").arg("-V")) {
        return Err(Error::other("iproute2 is not installed: run apt-get install iproute2"));
    }
    for options in [&["--net"][..], &["--map-root-user", "--net"]] {
        if quiet(Command::new("unshare").args(options).args(["sh", "-c", LOOPBACK])) {
            let mut command = Command::new("unshare");
            command.args(options).args(["sh", "-c", &format!("{LOOPBACK} && exec \"$@\""), "sh"]);
            command.arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(INSIDE, "1");
            return Err(command.exec());
        }
    }
    Err(Error::other(
        "this user may not make network namespaces: root may, and others where the system permits it",
    ))
}

/// Whether owners have network links that can be taken down.
pub(super) fn has_links() -> bool {
    std::env::var_os(INSIDE).is_some()
}

fn quiet(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().as_ref().is_ok_and(ExitStatus::success)
}

/// The network links of a run.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// How many owners have had links so far.
    owners: u32,
}

impl Network {
    /// Makes the bridges; `None` if this run has no namespace of its own.
    pub(super) fn begin() -> Result<Option<Self>> {
        if !has_links() {
            return Ok(None);
        }
        let mut lines = String::new();
        for (bridge, net) in BRIDGES {
            // Without an address of its own, a bridge has that of one of its ports, so it may change when a
            // link comes or goes. Owners go on sending to the old one.
            lines += &format!("link add {bridge} address 02:00:00:00:00:{net:02x} type bridge\n");
            lines += &format!("link set {bridge} up\n");
            lines += &format!("address add 10.{net}.0.1/16 dev {bridge}\n");
        }
        batch(&mut Command::new("ip"), &lines)?;
        Ok(Some(Network::default()))
    }

    /// The address on which the store's proxies listen.
    pub(super) fn store() -> IpAddr {
        Ipv4Addr::new(10, BRIDGES[0].1, 0, 1).into()
    }

    /// The address on which the registers listen. Links to them stay up.
    pub(super) fn registers() -> IpAddr {
        Ipv4Addr::new(10, BRIDGES[1].1, 0, 1).into()
    }

    /// Links an owner to the bridges, once it is in its namespace.
    pub(super) async fn link(&mut self, owner: u32, process: u32) -> Result<()> {
        let namespace = |process: &str| read_link(format!("/proc/{process}/ns/net"));
        let (ours, until) = (namespace("self")?, Instant::now() + LIMIT);
        while namespace(&process.to_string())? == ours {
            if Instant::now() > until {
                return Err(Error::other(format!("owner {owner} does not enter its namespace")));
            }
            sleep(Duration::from_millis(1)).await;
        }
        self.owners = owner + 1;
        let (mut outside, mut inside) = (String::new(), "link set lo up\n".to_owned());
        for (bridge, net) in BRIDGES {
            let end = end(bridge, owner);
            outside += &format!("link add {end} type veth peer name {bridge} netns {process}\n");
            outside += &format!("link set {end} master {bridge} up\n");
            let address = format!("10.{net}.{}.{}/16", owner / 250 + 1, owner % 250 + 1);
            inside += &format!("address add {address} dev {bridge}\nlink set {bridge} up\n");
        }
        batch(&mut Command::new("ip"), &outside)?;
        batch(Command::new("nsenter").args(["--net", "--target", &process.to_string(), "ip"]), &inside)
    }

    /// Takes down one owner's link to the store, or the store's bridge, and returns the state of the device.
    pub(super) fn down(&self, owner: Option<u32>) -> Result<String> {
        let device = owner.map_or(STORE.to_owned(), |owner| end(STORE, owner));
        batch(&mut Command::new("ip"), &format!("link set {device} down\n"))?;
        let seen = Command::new("ip").args(["-o", "link", "show", "dev", &device]).output()?;
        let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
        Ok(seen.split("state ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("").to_owned())
    }

    /// Brings it up again.
    pub(super) fn up(&self, owner: Option<u32>) -> Result<()> {
        let device = owner.map_or(STORE.to_owned(), |owner| end(STORE, owner));
        batch(&mut Command::new("ip"), &format!("link set {device} up\n"))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The kernel deletes the links of ended owners late, and the next run uses the same names.
        let mut lines = String::new();
        for (bridge, _) in BRIDGES {
            let ends = (0..self.owners).map(|owner| end(bridge, owner));
            lines.extend(ends.chain([bridge.to_owned()]).map(|device| format!("link delete {device}\n")));
        }
        // An error is expected, because most links are gone. If one stays, the next run fails with that.
        let _ = batch(Command::new("ip").arg("-force"), &lines);
    }
}

/// The outer end of an owner's link.
fn end(bridge: &str, owner: u32) -> String {
    format!("{}{owner}", &bridge[..1])
}

/// Lets `ip` carry out these lines, one after the other.
fn batch(ip: &mut Command, lines: &str) -> Result<()> {
    let mut child = ip
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(lines.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::other(format!("ip failed: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
