//! The store in PostgreSQL.

mod faults;
mod wire;

use std::io::Result;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::block_in_place;

use self::faults::{
    CONNECTION_LIMIT, DEADLOCK, FULL, ISOLATION, REPLICA_AWAY, ROTATE_PASSWORD, STATEMENT_TIMEOUT,
    TABLE_LOCK, TERMINATE,
};
use self::wire::{hostile, read_message};
use super::password::PasswordFile;
use super::{Draw, Outcome, OwnFault, ReadMessage, Role, StoreKind, TestStore, Trait};
use crate::fixtures::patient;
use crate::proxy::Proxy;
use crate::server::Cluster;
use crate::server::postgres::{Pair, Pooler, Postgres, Tools, USER, url_by};
use crate::store_under_test::StoreUnderTest;

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
        start: || Ok(Box::new(Alone { server: Postgres::start()?, login: None })),
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
        start: || Ok(Box::new(Alone::start_with_login()?)),
        own_faults: &[
            TERMINATE,
            TERMINATE,
            TABLE_LOCK,
            STATEMENT_TIMEOUT,
            CONNECTION_LIMIT,
            ISOLATION,
            DEADLOCK,
            FULL,
            ROTATE_PASSWORD,
        ],
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
        start: || Ok(Box::new(Replicated { pair: Pair::start()?, is_synchronous: false })),
        own_faults: &[PROMOTION, PROMOTION, SWITCHOVER, SWITCHOVER, TERMINATE, TABLE_LOCK],
        hostile,
    },
    // Here no promotion may lose anything.
    StoreKind {
        name: "postgres-sync",
        roles: &[Role::Faults],
        servers: 2,
        starts_in: 2,
        install: super::nothing,
        traits: &[Trait::BetweenProcesses, Trait::Moves],
        start: || Ok(Box::new(Replicated { pair: Pair::start_synchronous()?, is_synchronous: true })),
        own_faults: &[PROMOTION, PROMOTION, SWITCHOVER, REPLICA_AWAY, REPLICA_AWAY],
        hostile,
    },
];

/// One server. In fault runs, owners read their password from a file.
#[derive(Debug)]
struct Alone {
    server: Postgres,
    login: Option<PasswordFile>,
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
    /// Whether a commit waits for the replica.
    is_synchronous: bool,
}

#[async_trait]
impl TestStore for Alone {
    fn url(&self) -> String {
        self.url_by(&[format!("127.0.0.1:{}", self.server.port())])
    }

    fn url_by(&self, hosts: &[String]) -> String {
        let login = self.login.as_ref();
        login.map_or_else(|| url_by(hosts), |file| file.url_of(USER, "postgres", &hosts.join(",")))
    }

    fn cluster(&mut self) -> Option<&mut dyn Cluster> {
        Some(&mut self.server)
    }

    fn ports(&self) -> Vec<u16> {
        self.server.ports()
    }

    fn under_test(&self, kind: &str, child: Option<PathBuf>) -> Vec<StoreUnderTest> {
        let tools = || vec![self.server.tools()];
        // The server plans each statement anew, which keeps a busy machine from answering many at once.
        let lease = Duration::from_secs(3);
        let plain = under_test(&plain(&self.url()), tools(), &format!("{kind}-plain"), child.clone());
        vec![under_test(&self.url(), tools(), kind, child), StoreUnderTest { lease, ..plain }]
    }

    fn left(&self, name: &str) -> Vec<String> {
        left(&[self.server.tools()], name)
    }

    async fn break_by(&mut self, fault: &OwnFault, draw: Draw, _proxies: &[Proxy]) -> Result<Outcome> {
        match &mut self.login {
            Some(file) if fault.name == "rotate_password" => {
                faults::rotate_password(&self.server.tools(), file, draw).await
            }
            _ if fault.name == "full" => faults::full(&mut self.server, draw).await,
            _ => Ok(faults::done(fault, &self.server, draw).await),
        }
    }

    fn read_message(&self) -> Option<ReadMessage> {
        Some(read_message)
    }
}

impl Alone {
    fn start_with_login() -> Result<Self> {
        let (server, file) = (Postgres::start_with_disk()?, PasswordFile::new()?);
        server.sql(&format!("ALTER ROLE {USER} PASSWORD '{}'", file.password()));
        Ok(Alone { server, login: Some(file) })
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
        // A pooler is one process for both, and asks for one thing at a time.
        let lease = Duration::from_secs(3);
        [(self.url(), kind.to_owned()), (pushed, format!("{kind}-pushed"))]
            .map(|(url, kind)| StoreUnderTest { lease, ..under_test(&url, tools(), &kind, child.clone()) })
            .into()
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
            "switchover" => {
                block_in_place(|| self.pair.change_places(true, || ()))?;
                Outcome::of(true, format!("the primary was server {primary}, and had been shut down"))
            }
            "promotion" if self.is_synchronous => faults::promotion_without_loss(&mut self.pair, draw)?,
            "replica_away" => faults::replica_away(&mut self.pair, primary, draw).await?,
            "promotion" => {
                let lag = draw.short() / 2;
                let lost = block_in_place(|| self.pair.change_places(false, || std::thread::sleep(lag)))?;
                Outcome::that_forgets(lost > 0, format!("{lost} bytes of the log had not been replicated"))
            }
            _ => faults::done(fault, self.pair.server(primary), draw).await,
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

/// The address for those who may not have functions.
fn plain(url: &str) -> String {
    format!("{url}{}plain=yes", if url.contains('?') { '&' } else { '?' })
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
