//! The store in etcd.

use std::io::Result;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rustix::process::Signal;
use tokio::task::block_in_place;
use tokio::time::sleep;

use super::held::{Held, Parts, connect, hosts, takes_a_lock};
use super::password::{FIRST, PasswordFile, USER};
use super::{Draw, Outcome, OwnFault, ReadMessage, Role, StoreKind, TestStore, Trait};
use crate::fixtures::patient;
use crate::hostile::Hostile;
use crate::proxy::Proxy;
use crate::server::Cluster;
use crate::server::etcd::{Etcd, ctl};
use crate::store_under_test::StoreUnderTest;

/// Where the claims are, by the plain address and by that of python-etcd3's layout.
const PREFIXES: [(&str, &str); 2] = [("", "/locks/_glocks/"), ("interop", "/locks/interop/")];

/// How often the password is changed in a row.
const ROTATIONS: usize = 2;

/// No owner's lease lasts for so many seconds.
const LONG_LEASE: u64 = 600;

const REVOKE_LEASE: OwnFault = OwnFault::new("revoke_lease");
const COMPACT: OwnFault = OwnFault::new("compact");
const HANG_DISK: OwnFault = OwnFault { takes: 22, needs_tracing: true, ..OwnFault::new("hang_disk") };
const ROTATE_PASSWORD: OwnFault = OwnFault { takes: 8, ..OwnFault::new("rotate_password") };
const FULL: OwnFault = OwnFault { takes: 24, ..OwnFault::new("full") };

pub(super) const KINDS: &[StoreKind] = &[
    StoreKind {
        name: "etcd",
        roles: &[Role::Suite, Role::Scenarios],
        servers: 1,
        starts_in: 2,
        install: super::nothing,
        traits: &[Trait::BetweenProcesses, Trait::RepeatsReleases],
        start: || Ok(Box::new(Servers { cluster: Etcd::start(1)?, login: None })),
        own_faults: &[],
        hostile,
    },
    StoreKind {
        name: "etcd-1",
        roles: &[Role::Faults],
        servers: 1,
        starts_in: 2,
        install: super::nothing,
        traits: &[Trait::BetweenProcesses, Trait::RepeatsReleases],
        start: || {
            let mut cluster = Etcd::start(1)?;
            cluster.enable_auth(&format!("{USER}:{FIRST}"))?;
            Ok(Box::new(Servers { cluster, login: Some(PasswordFile::new()?) }))
        },
        own_faults: &[
            REVOKE_LEASE,
            COMPACT,
            FULL,
            ROTATE_PASSWORD,
            OwnFault { takes: 6, ..OwnFault::new("tokens_end") },
        ],
        hostile,
    },
    StoreKind {
        name: "etcd-3",
        roles: &[Role::Suite, Role::Faults],
        servers: 3,
        starts_in: 2,
        install: super::nothing,
        traits: &[Trait::BetweenProcesses, Trait::RepeatsReleases],
        start: || Ok(Box::new(Servers { cluster: Etcd::start(3)?, login: None })),
        own_faults: &[REVOKE_LEASE, COMPACT, FULL, HANG_DISK],
        hostile,
    },
];

#[derive(Debug)]
struct Servers {
    cluster: Etcd,
    /// Where the cluster has users.
    login: Option<PasswordFile>,
}

#[async_trait]
impl TestStore for Servers {
    fn url(&self) -> String {
        self.by(self.cluster.url().trim_start_matches("etcd://"))
    }

    fn url_by(&self, hosts: &[String]) -> String {
        self.by(&hosts.join(","))
    }

    fn cluster(&mut self) -> Option<&mut dyn Cluster> {
        Some(&mut self.cluster)
    }

    fn ports(&self) -> Vec<u16> {
        self.cluster.ports()
    }

    fn under_test(&self, kind: &str, child: Option<PathBuf>) -> Vec<StoreUnderTest> {
        let plain = self.on(kind, "", PREFIXES[0].1, child.clone());
        if self.cluster.ports().len() > 1 {
            return vec![plain];
        }
        let interop = format!("?interop=python-etcd3&prefix={}", PREFIXES[1].1);
        let interop = self.on(&format!("{kind}-{}", PREFIXES[1].0), &interop, PREFIXES[1].1, child);
        vec![plain, interop]
    }

    /// Before 3.4.31 and 3.5.13 it revokes leases that the next leader has renewed (etcd#15247).
    fn forgets_when_deposed(&self) -> bool {
        true
    }

    fn left(&self, name: &str) -> Vec<String> {
        PREFIXES.iter().flat_map(|(_, prefix)| left(&self.cluster.endpoints(), prefix, name)).collect()
    }

    async fn break_by(&mut self, fault: &OwnFault, draw: Draw, proxies: &[Proxy]) -> Result<Outcome> {
        Ok(match fault.name {
            "revoke_lease" => {
                let leases = self.cluster.ctl(&["lease", "list"]);
                let leases: Vec<&str> = leases.lines().skip(1).collect();
                // The lease of a value lasts for longer than any owner's, and holds no lock.
                let has_claims = |lease: &&&str| {
                    let seen = self.cluster.ctl(&["lease", "timetolive", lease]);
                    granted_seconds(&seen).is_some_and(|seconds| seconds < LONG_LEASE)
                };
                let from = draw.choose(leases.len());
                let chosen = leases[from..].iter().chain(&leases[..from]).find(has_claims);
                let seen =
                    chosen.map_or(String::new(), |lease| self.cluster.ctl(&["lease", "revoke", lease]));
                Outcome::that_forgets(seen.contains("revoked"), seen)
            }
            "compact" => {
                let status = self.cluster.ctl(&["get", "--write-out=json", "/locks/_glocks/nothing"]);
                let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
                let revision = status["header"]["revision"].to_string();
                let seen = self.cluster.ctl(&["compact", &revision]);
                Outcome::of(seen.contains("compacted"), seen)
            }
            "hang_disk" => self.hang_disk(draw).await?,
            "full" => self.fill(draw, proxies).await?,
            "rotate_password" => self.rotate_password(draw, proxies).await?,
            _ => {
                let before = self.cluster.tokens(0)?;
                block_in_place(|| self.cluster.invalidate_tokens())?;
                let until = Instant::now() + draw.lease;
                // A member that does not answer has not told yet.
                let given = || block_in_place(|| self.cluster.tokens(0)).map_or(0, |now| now - before);
                let mut seen = given();
                while seen == 0 && Instant::now() < until {
                    sleep(Duration::from_millis(50)).await;
                    seen = given();
                }
                let given = seen;
                Outcome::of(given > 0, format!("{given} new tokens were requested"))
            }
        })
    }

    fn read_message(&self) -> Option<ReadMessage> {
        Some(read_message)
    }
}

impl Servers {
    /// The address by these hosts.
    fn by(&self, hosts: &str) -> String {
        self.login.as_ref().map_or_else(|| format!("etcd://{hosts}"), |file| file.url("etcd", hosts))
    }

    /// Changes the password of the owners twice, and cuts their connections. The file has it a moment later
    /// than the cluster.
    async fn rotate_password(&mut self, draw: Draw, proxies: &[Proxy]) -> Result<Outcome> {
        let url = self.url_by(&hosts(proxies));
        let Servers { cluster, login: Some(file) } = self else { return Ok(Outcome::default()) };
        let one = match connect(&url, draw.lease).await {
            Ok(one) => one,
            Err(error) => return Ok(Outcome::of(false, format!("no owner could log in before: {error}"))),
        };
        let (mut granted, mut refused) = (0, 0);
        for _ in 0..ROTATIONS {
            // From now on it has a token.
            let mut has_token = takes_a_lock(&one).await;
            let old = format!("{USER}:{}", file.password());
            let new = file.choose_next();
            block_in_place(|| cluster.change_password(USER, &new))?;
            file.write()?;
            proxies.iter().for_each(Proxy::cut);
            // The change has ended all tokens, so who is granted a lock has logged in with the new password.
            has_token &= takes_a_lock(&one).await;
            granted += usize::from(has_token);
            let mut get = ctl(&cluster.endpoints());
            get.args(["--user", &old, "get", PREFIXES[0].1]);
            let seen = block_in_place(|| get.output())?;
            let seen = String::from_utf8_lossy(&seen.stderr).into_owned();
            refused += usize::from(seen.contains("authentication failed"));
            sleep(draw.short() / 2).await;
        }
        one.close().await;
        let proof = format!(
            "{refused} old passwords were refused; after {granted} changes an owner was granted a lock"
        );
        Ok(Outcome::of(refused == ROTATIONS && granted == ROTATIONS, proof))
    }

    /// Makes the cluster refuse what takes room for more than a lease, and then makes room as an operator
    /// does. Meanwhile locks are held and waited for.
    async fn fill(&self, draw: Draw, proxies: &[Proxy]) -> Result<Outcome> {
        let mut held = match Held::take(&self.url_by(&hosts(proxies)), draw.lease).await {
            Ok(held) => held,
            Err(error) => return Ok(Outcome::of(false, format!("nothing was held: {error}"))),
        };
        let raised = block_in_place(|| self.cluster.raise_full(draw.choose(self.cluster.ports().len())))?;
        let mut refused = Parts::of(draw.lease.mul_f64(1.2 + 0.8 * draw.length));
        while !refused.are_over() {
            let seen = block_in_place(|| self.cluster.ctl(&["put", "stranger", "x"]));
            if seen.contains("database space exceeded") {
                refused.see();
            }
            sleep(draw.lease / 20).await;
        }
        held.look();
        block_in_place(|| self.cluster.make_room());
        let (outlived, seen) = held.hand_over().await?;
        let parts = refused.seen();
        let proof = format!("alarm: {raised}; {parts:?} puts were refused in the parts of the time; {seen}");
        Ok(Outcome::of(refused.all_seen() && outlived, proof))
    }

    /// Makes the leader's disk hang for longer than a lease, so that another leader lets leases expire.
    ///
    /// The old leader is killed while it hangs. Otherwise, before 3.4.31, it would then revoke leases that
    /// the other one has renewed.
    async fn hang_disk(&mut self, draw: Draw) -> Result<Outcome> {
        let Some(leader) = block_in_place(|| self.cluster.leader()) else {
            return Ok(Outcome::of(false, "there is no leader".to_owned()));
        };
        let hung = block_in_place(|| self.cluster.hang_disk(leader))?;
        let until = Instant::now() + draw.lease.mul_f64(1.5 + draw.length);
        let mut is_deposed = false;
        while Instant::now() < until {
            is_deposed |= block_in_place(|| self.cluster.leaders()).len() > 1;
            sleep(Duration::from_millis(50)).await;
        }
        block_in_place(|| {
            self.cluster.signal(leader, Signal::KILL);
            // Who is traced ends only when the tracer lets go of it.
            drop(hung);
            self.cluster.kill(leader);
            self.cluster.resume_after_kill(leader)
        })?;
        Ok(Outcome::of(is_deposed, format!("member {leader} was deposed and did not know it: {is_deposed}")))
    }

    fn on(&self, kind: &str, options: &str, prefix: &'static str, child: Option<PathBuf>) -> StoreUnderTest {
        let (for_sabotage, for_residue) = (self.cluster.endpoints(), self.cluster.endpoints());
        let store = StoreUnderTest::at(kind, &patient(&format!("{}{options}", self.url())), child)
            .with_sabotage(move |name| {
                let mut delete = ctl(&for_sabotage);
                delete.args(["del", "--prefix", &format!("{prefix}{}", name.as_str())]);
                async move { drop(delete.output().expect("etcdctl is installed")) }
            })
            .with_residue(move |name| {
                let left = left(&for_residue, prefix, name.as_str());
                async move { left }
            });
        // Longer, because etcd counts leases in whole seconds and an election takes time.
        StoreUnderTest { lease: Duration::from_secs(2), ..store }
    }
}

/// The keys of a name: the claims' keys, which are below it, and the python-etcd3 key, which is the name
/// itself.
fn left(endpoints: &str, prefix: &str, name: &str) -> Vec<String> {
    let mut get = ctl(endpoints);
    get.args(["get", "--prefix", "--keys-only", &format!("{prefix}{name}")]);
    let output = get.output().expect("etcdctl is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// For how long a lease was granted, as `etcdctl lease timetolive` says it: `granted with TTL(2s)`.
fn granted_seconds(seen: &str) -> Option<u64> {
    seen.split_once("TTL(")?.1.split_once("s)")?.0.parse().ok()
}

/// An HTTP/2 frame. It is a notification if it is data with a message that has the field `events`.
fn read_message(bytes: &[u8], _begins: bool) -> Option<(usize, bool)> {
    const DATA: u8 = 0;
    let header = bytes.first_chunk::<9>()?;
    let length = usize::try_from(u32::from_be_bytes([0, header[0], header[1], header[2]])).ok()?;
    let body = bytes.get(9..9 + length)?;
    // In front of the message are a flag and its length.
    Some((9 + length, header[3] == DATA && has_events(body.get(5..).unwrap_or_default()).unwrap_or(false)))
}

/// Whether a message has field 11: among etcd's answers, only a watch's have it.
fn has_events(mut message: &[u8]) -> Option<bool> {
    while !message.is_empty() {
        let tag = number(&mut message)?;
        match tag & 7 {
            0 => drop(number(&mut message)?),
            2 if tag >> 3 == 11 => return Some(true),
            2 => {
                let length = usize::try_from(number(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            _ => return None,
        }
    }
    Some(false)
}

/// Takes a varint: a number with seven bits per byte.
fn number(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn hostile() -> Vec<(&'static str, Hostile)> {
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let frame = |kind: u8, flags: u8, stream: u8, length: [u8; 3], body: &[u8]| {
        let mut bytes = settings.to_vec();
        bytes.extend(length);
        bytes.extend([kind, flags, 0, 0, 0, stream]);
        bytes.extend(body);
        Hostile::Answers(vec![bytes])
    };
    // A header list of one field: `:status: 200`, as HPACK has it in its table.
    let ok = 0x88;
    vec![
        ("settings alone", Hostile::Answers(vec![settings.to_vec()])),
        ("a frame without end", frame(0, 0, 1, [255, 255, 255], b"x")),
        ("go away", frame(7, 0, 0, [0, 0, 8], &[0, 0, 0, 0, 0, 0, 0, 2])),
        ("headers that are none", frame(1, 4, 1, [0, 0, 3], &[255, 255, 255])),
        ("an answer without a body", frame(1, 5, 1, [0, 0, 1], &[ok])),
        ("a stream that nobody opened", frame(1, 4, 99, [0, 0, 1], &[ok])),
    ]
}
