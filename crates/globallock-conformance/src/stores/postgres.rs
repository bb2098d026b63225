//! The store in PostgreSQL.

use std::io::Result;
use std::path::PathBuf;

use async_trait::async_trait;
use tokio::task::block_in_place;

use super::{Draw, Outcome, OwnFault, ReadMessage, Role, StoreKind, TestStore, Trait};
use crate::fixtures::patient;
use crate::hostile::Hostile;
use crate::proxy::Proxy;
use crate::server::Cluster;
use crate::server::postgres::{Pair, Pooler, Postgres, Tools, USER, url_by};
use crate::store_under_test::StoreUnderTest;

const TERMINATE: OwnFault = OwnFault::new("terminate");
const PROMOTION: OwnFault = OwnFault { takes: 15, ..OwnFault::new("promotion") };
const SWITCHOVER: OwnFault = OwnFault { takes: 15, ..OwnFault::new("switchover") };

pub(super) const KINDS: &[StoreKind] = &[
    StoreKind {
        name: "postgres",
        roles: &[Role::Suite, Role::Scenarios],
        servers: 1,
        starts_in: 2,
        install: super::nothing,
        traits: &[Trait::BetweenProcesses],
        start: || Ok(Box::new(Alone { server: Postgres::start()? })),
        own_faults: &[],
        hostile,
    },
    StoreKind {
        name: "postgres-1",
        roles: &[Role::Faults],
        servers: 1,
        starts_in: 2,
        install: super::nothing,
        traits: &[Trait::BetweenProcesses],
        start: || Ok(Box::new(Alone { server: Postgres::start()? })),
        own_faults: &[TERMINATE],
        hostile,
    },
    StoreKind {
        name: "postgres-pooled",
        roles: &[Role::Suite],
        servers: 1,
        starts_in: 2,
        install: super::nothing,
        traits: &[Trait::BetweenProcesses],
        start: || Ok(Box::new(Pooled::start()?)),
        own_faults: &[],
        hostile: super::none,
    },
    StoreKind {
        name: "postgres-2",
        roles: &[Role::Suite, Role::Faults],
        servers: 2,
        starts_in: 2,
        install: super::nothing,
        traits: &[Trait::BetweenProcesses, Trait::Moves],
        start: || Ok(Box::new(Replicated { pair: Pair::start()? })),
        own_faults: &[PROMOTION, PROMOTION, SWITCHOVER, SWITCHOVER, TERMINATE],
        hostile,
    },
];

/// One server.
#[derive(Debug)]
struct Alone {
    server: Postgres,
}

/// One server behind a pooler that gives a connection of the server to each transaction.
#[derive(Debug)]
struct Pooled {
    pooler: Pooler,
    server: Postgres,
}

/// A primary and its replica. An address names both.
#[derive(Debug)]
struct Replicated {
    pair: Pair,
}

#[async_trait]
impl TestStore for Alone {
    fn url(&self) -> String {
        self.server.url()
    }

    fn url_by(&self, hosts: &[String]) -> String {
        url_by(hosts)
    }

    fn cluster(&mut self) -> Option<&mut dyn Cluster> {
        Some(&mut self.server)
    }

    fn ports(&self) -> Vec<u16> {
        self.server.ports()
    }

    fn under_test(&self, kind: &str, child: Option<PathBuf>) -> Vec<StoreUnderTest> {
        vec![under_test(&self.url(), vec![self.server.tools()], kind, child)]
    }

    fn left(&self, name: &str) -> Vec<String> {
        left(&[self.server.tools()], name)
    }

    async fn break_by(&mut self, _fault: &OwnFault, draw: Draw, _proxies: &[Proxy]) -> Result<Outcome> {
        Ok(terminate(&self.server.tools(), draw))
    }

    fn read_message(&self) -> Option<ReadMessage> {
        Some(read_message)
    }
}

#[async_trait]
impl TestStore for Pooled {
    fn url(&self) -> String {
        self.pooler.url()
    }

    fn url_by(&self, hosts: &[String]) -> String {
        url_by(hosts)
    }

    fn ports(&self) -> Vec<u16> {
        vec![self.pooler.port()]
    }

    /// By the pooler alone, and with a connection past it for what the server pushes.
    fn under_test(&self, kind: &str, child: Option<PathBuf>) -> Vec<StoreUnderTest> {
        let pushed = format!("{}?listen=127.0.0.1:{}", self.url(), self.server.port());
        let tools = || vec![self.server.tools()];
        vec![
            under_test(&self.url(), tools(), kind, child.clone()),
            under_test(&pushed, tools(), &format!("{kind}-pushed"), child),
        ]
    }

    fn left(&self, name: &str) -> Vec<String> {
        left(&[self.server.tools()], name)
    }

    fn read_message(&self) -> Option<ReadMessage> {
        Some(read_message)
    }
}

impl Pooled {
    fn start() -> Result<Self> {
        let server = Postgres::start()?;
        Ok(Pooled { pooler: Pooler::start(server.port())?, server })
    }
}

#[async_trait]
impl TestStore for Replicated {
    fn url(&self) -> String {
        Cluster::url(&self.pair)
    }

    fn url_by(&self, hosts: &[String]) -> String {
        url_by(hosts)
    }

    fn cluster(&mut self) -> Option<&mut dyn Cluster> {
        Some(&mut self.pair)
    }

    fn ports(&self) -> Vec<u16> {
        self.pair.ports()
    }

    fn under_test(&self, kind: &str, child: Option<PathBuf>) -> Vec<StoreUnderTest> {
        vec![under_test(&self.url(), self.tools(), kind, child)]
    }

    fn left(&self, name: &str) -> Vec<String> {
        left(&self.tools(), name)
    }

    async fn break_by(&mut self, fault: &OwnFault, draw: Draw, _proxies: &[Proxy]) -> Result<Outcome> {
        let Some(primary) = block_in_place(|| self.pair.primary()) else {
            return Ok(Outcome::of(false, "there is no primary".to_owned()));
        };
        Ok(match fault.name {
            "terminate" => terminate(&self.pair.server(primary).tools(), draw),
            "switchover" => {
                block_in_place(|| self.pair.change_places(true, || ()))?;
                Outcome::of(true, format!("the primary was server {primary}, and had been shut down"))
            }
            _ => {
                let lag = draw.short() / 2;
                let lost = block_in_place(|| self.pair.change_places(false, || std::thread::sleep(lag)))?;
                Outcome::that_forgets(lost > 0, format!("{lost} bytes of the log had not been replicated"))
            }
        })
    }

    fn read_message(&self) -> Option<ReadMessage> {
        Some(read_message)
    }
}

impl Replicated {
    fn tools(&self) -> Vec<Tools> {
        (0..2).map(|server| self.pair.server(server).tools()).collect()
    }
}

/// Ends the server's side of a connection of an owner, as an administrator does.
fn terminate(tools: &Tools, draw: Draw) -> Outcome {
    let theirs = format!("FROM pg_stat_activity WHERE usename = '{USER}'");
    let count: usize = tools.sql(&format!("SELECT count(*) {theirs}")).parse().unwrap_or(0);
    let chosen = draw.choose(count);
    let seen = tools.sql(&format!(
        "SELECT pg_terminate_backend(pid) FROM (SELECT pid {theirs} ORDER BY pid OFFSET {chosen} LIMIT 1) one"
    ));
    Outcome::of(seen == "t", format!("number {chosen} of {count} connections was ended: {seen}"))
}

fn under_test(url: &str, tools: Vec<Tools>, kind: &str, child: Option<PathBuf>) -> StoreUnderTest {
    let for_sabotage = tools.clone();
    StoreUnderTest::at(kind, &patient(url), child)
        .with_sabotage(move |name| {
            let key = key(name.as_str());
            for server in &for_sabotage {
                // A replica refuses it.
                server.sql(&format!(r#"DELETE FROM globallock.claims WHERE key = {key}"#));
            }
            async {}
        })
        .with_residue(move |name| {
            let left = left(&tools, name.as_str());
            async move { left }
        })
}

/// The key of a name, as a literal.
fn key(name: &str) -> String {
    format!("'_glocks:{}'", name.replace('\'', "''"))
}

/// The claims of a name that have not ended. Notices of evictions and values end by themselves.
fn left(tools: &[Tools], name: &str) -> Vec<String> {
    let key = key(name);
    let claims = format!(
        "SELECT id, number, owner FROM globallock.claims WHERE key = {key} \
         AND least(expires, ends) > clock_timestamp()"
    );
    let values =
        format!("SELECT key, until FROM globallock.\"values\" WHERE key = {key} AND NOT isfinite(until)");
    let primary = tools.iter().find(|server| server.sql("SELECT pg_is_in_recovery()") == "f");
    let Some(primary) = primary.or(tools.first()) else { return Vec::new() };
    primary.sql(&format!("{claims}; {values}")).lines().map(str::to_owned).collect()
}

/// A message of the server. It is a notification if it is one by its letter.
fn read_message(bytes: &[u8]) -> Option<(usize, bool)> {
    if let [b'N' | b'S'] = bytes {
        // Whether there is TLS: a letter alone, because the client now has its turn.
        return Some((1, false));
    }
    let header = bytes.first_chunk::<5>()?;
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    let end = usize::try_from(length).ok()?.max(4) + 1;
    (bytes.len() >= end).then_some((end, header[0] == b'A'))
}

/// A message of the server.
fn message(letter: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&[letter], &length.to_be_bytes()[..], body].concat()
}

fn hostile() -> Vec<(&'static str, Hostile)> {
    let answers = |bytes: Vec<u8>| Hostile::Answers(vec![bytes]);
    let ready = message(b'Z', b"I");
    vec![("no TLS, for ever", answers(b"N".to_vec())), ("always ready", answers(ready))]
}
