//! The store in ZooKeeper.

use std::io::Result;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::block_in_place;

use super::{Draw, Outcome, OwnFault, ReadMessage, Role, StoreKind, TestStore, Trait};
use crate::fixtures::patient;
use crate::hostile::Hostile;
use crate::proxy::Proxy;
use crate::server::zookeeper::{ZooKeeper, children, delete_children, end_session, sessions};
use crate::server::{Cluster, peers};
use crate::store_under_test::StoreUnderTest;

/// The parents of the locks' nodes, by the plain address and by that of Curator's layout.
const ROOTS: [(&str, &str); 2] = [("", "/_glocks"), ("curator", "/curator")];

const SESSION_END: OwnFault = OwnFault::new("session_end");

pub(super) const KINDS: &[StoreKind] = &[
    StoreKind {
        name: "zookeeper",
        roles: &[Role::Suite, Role::Scenarios],
        servers: 1,
        starts_in: 10,
        install: || peers::python().map(drop),
        traits: &[Trait::BetweenProcesses, Trait::RepeatsReleases],
        start: || Ok(Box::new(Servers(ZooKeeper::start(1)?))),
        own_faults: &[],
        hostile,
    },
    StoreKind {
        name: "zookeeper-1",
        roles: &[Role::Faults],
        servers: 1,
        starts_in: 10,
        install: || peers::python().map(drop),
        traits: &[Trait::BetweenProcesses, Trait::RepeatsReleases],
        start: || Ok(Box::new(Servers(ZooKeeper::start(1)?))),
        own_faults: &[SESSION_END],
        hostile,
    },
    StoreKind {
        name: "zookeeper-3",
        roles: &[Role::Suite, Role::Faults],
        servers: 3,
        starts_in: 10,
        install: || peers::python().map(drop),
        traits: &[Trait::BetweenProcesses, Trait::RepeatsReleases, Trait::ReadsLag],
        start: || Ok(Box::new(Servers(ZooKeeper::start(3)?))),
        own_faults: &[SESSION_END],
        hostile,
    },
];

#[derive(Debug)]
struct Servers(ZooKeeper);

#[async_trait]
impl TestStore for Servers {
    fn url(&self) -> String {
        self.0.url()
    }

    fn url_by(&self, hosts: &[String]) -> String {
        format!("zookeeper://{}", hosts.join(","))
    }

    fn cluster(&mut self) -> Option<&mut dyn Cluster> {
        Some(&mut self.0)
    }

    fn ports(&self) -> Vec<u16> {
        self.0.ports()
    }

    fn under_test(&self, kind: &str, child: Option<PathBuf>) -> Vec<StoreUnderTest> {
        let plain = self.on(kind, "", ROOTS[0].1, child.clone());
        if self.0.ports().len() > 1 {
            return vec![plain];
        }
        let curator = format!("?naming=curator&prefix={}", ROOTS[1].1);
        vec![plain, self.on(&format!("{kind}-{}", ROOTS[1].0), &curator, ROOTS[1].1, child)]
    }

    fn left(&self, name: &str) -> Vec<String> {
        ROOTS.iter().flat_map(|(_, root)| left(&self.0.hosts(), root, name)).collect()
    }

    /// Closes one of the sessions that have claims.
    async fn break_by(&mut self, _fault: &OwnFault, draw: Draw, _proxies: &[Proxy]) -> Result<Outcome> {
        let port = self.0.ports()[self.0.leader().unwrap_or(0)];
        block_in_place(|| {
            let open = sessions(port)?;
            let Some(&session) = open.get(draw.choose(open.len())) else { return Ok(Outcome::default()) };
            for tries in 1..=5 {
                end_session(port, session)?;
                if !sessions(port)?.contains(&session) {
                    let seen = format!("session {session:#x} was closed by somebody else in {tries} tries");
                    return Ok(Outcome::that_forgets(true, seen));
                }
            }
            Ok(Outcome::default())
        })
    }

    fn read_message(&self) -> Option<ReadMessage> {
        Some(read_message)
    }
}

impl Servers {
    fn on(&self, kind: &str, options: &str, root: &'static str, child: Option<PathBuf>) -> StoreUnderTest {
        let (for_sabotage, for_residue) = (self.0.hosts(), self.0.hosts());
        let store = StoreUnderTest::at(kind, &patient(&format!("{}{options}", self.url())), child)
            .with_sabotage(move |name| {
                delete_children(&for_sabotage, &format!("{root}/{}", name.as_str()));
                async {}
            })
            .with_residue(move |name| {
                let left = left(&for_residue, root, name.as_str());
                async move { left }
            });
        StoreUnderTest { lease: Duration::from_secs(2), ..store }
    }
}

/// The claims of a name, and its value. The lock's node is a container, which the servers delete once it is
/// empty, so only its children count.
fn left(hosts: &str, root: &str, name: &str) -> Vec<String> {
    let values = children(hosts, &format!("{root}/%values")).into_iter();
    let value = values.filter(|value| *value == format!("{name}%"));
    children(hosts, &format!("{root}/{name}")).into_iter().chain(value).collect()
}

/// A frame. It is a notification if its xid is -1.
fn read_message(bytes: &[u8], _begins: bool) -> Option<(usize, bool)> {
    let length = usize::try_from(i32::from_be_bytes(bytes.first_chunk().copied()?)).ok()?;
    let frame = bytes.get(4..4 + length)?;
    Some((4 + length, frame.starts_with(&(-1_i32).to_be_bytes())))
}

fn hostile() -> Vec<(&'static str, Hostile)> {
    let answers = |bytes: &[u8]| Hostile::Answers(vec![bytes.to_vec()]);
    let greets = |timeout: i32| Hostile::Answers(vec![framed(&greeting(timeout))]);
    // The handshake succeeds, and then each request is answered with a good header and these bytes.
    let replies = |body: Vec<u8>| Hostile::Replies {
        greeting: framed(&greeting(2_000)),
        reply: Box::new(move |request: &[u8]| framed(&reply(request, &body))),
    };
    let many = i32::MAX.to_be_bytes().to_vec();
    vec![
        ("a frame without end", answers(&i32::MAX.to_be_bytes())),
        ("a frame of less than nothing", answers(&(-5_i32).to_be_bytes())),
        ("an empty frame", answers(&0_i32.to_be_bytes())),
        ("a session of no time", greets(0)),
        ("a session of less than no time", greets(-1)),
        ("a greeting again and again", greets(2_000)),
        ("a greeting cut short", answers(&framed(&greeting(2_000)[..20]))),
        ("answers without a body", replies(Vec::new())),
        ("a list without end", replies(many.clone())),
        ("a list of less than nothing", replies((-7_i32).to_be_bytes().to_vec())),
        ("a text without end", replies([1_i32.to_be_bytes().to_vec(), many].concat())),
        ("no text", replies([2_i32.to_be_bytes().to_vec(), vec![0xc3, 0x28]].concat())),
        ("much", replies(vec![0x20; 4 * 1024 * 1024])),
    ]
}

/// The first answer of a server: protocol, timeout, session, password.
fn greeting(timeout: i32) -> Vec<u8> {
    let mut answer = 0_i32.to_be_bytes().to_vec();
    answer.extend(timeout.to_be_bytes());
    answer.extend(7_i64.to_be_bytes());
    answer.extend(16_i32.to_be_bytes());
    answer.extend([1; 16]);
    answer.push(0);
    answer
}

/// An answer without error to the first request in `bytes`.
fn reply(bytes: &[u8], body: &[u8]) -> Vec<u8> {
    let mut answer = bytes.get(4..8).unwrap_or(&[0; 4]).to_vec();
    answer.extend(1_i64.to_be_bytes());
    answer.extend(0_i32.to_be_bytes());
    answer.extend(body);
    answer
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut frame = i32::try_from(bytes.len()).expect("it is short").to_be_bytes().to_vec();
    frame.extend(bytes);
    frame
}
