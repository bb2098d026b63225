//! The stores that the tests run on, a [`TestStore`] each.
//!
//! From these the suite, the crowds, the scenarios, the fault runs and the benches are built, and none of
//! them knows a store by its name.

mod etcd;
mod file;
mod held;
mod memory;
mod password;
mod postgres;
mod redis;
mod redis_tls;
mod zookeeper;

use std::fmt::Debug;
use std::io::Result;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::hostile::Hostile;
use crate::proxy::Proxy;
use crate::server::Cluster;
use crate::store_under_test::StoreUnderTest;

/// A kind of store: how it is started, and what is done with it.
#[derive(Debug)]
pub struct StoreKind {
    /// How tests name it: its scheme, with what is special about it behind a `-`.
    pub name: &'static str,
    /// The tests that it takes part in.
    pub roles: &'static [Role],
    /// What is special about it.
    pub traits: &'static [Trait],
    /// How many servers it has.
    pub servers: usize,
    /// About how long a server of it takes to start, in tenths of the lease of fault runs.
    pub starts_in: u32,
    /// Installs the tools of others that its tests need, where these are missing. That needs the internet.
    pub install: fn() -> Result<()>,
    /// Starts it, empty.
    pub start: fn() -> Result<Box<dyn TestStore>>,
    /// The faults that only this kind of store can have. One that is listed more often happens more often.
    pub own_faults: &'static [OwnFault],
    /// Servers that speak its protocol wrongly, for robustness.
    pub hostile: fn() -> Vec<(&'static str, Hostile)>,
}

impl StoreKind {
    /// The scheme of its addresses, which all kinds of one family have in common.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        self.name.split('-').next().unwrap_or(self.name)
    }

    /// Whether it takes part in these tests.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Whether this is true of it.
    #[must_use]
    pub fn is(&self, special: Trait) -> bool {
        self.traits.contains(&special)
    }

    /// Starts it.
    ///
    /// # Panics
    /// When its servers do not start.
    #[must_use]
    pub fn started(&self) -> Box<dyn TestStore> {
        (self.start)().unwrap_or_else(|error| panic!("{} does not start: {error}", self.name))
    }
}

/// The tests that a kind of store takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The conformance suite.
    Suite,
    /// The scenarios, and the crowds.
    Scenarios,
    /// The fault runs.
    Faults,
}

/// What is special about a kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trait {
    /// Owners in several processes can use it.
    BetweenProcesses,
    /// The store itself repeats a release that got no answer.
    RepeatsReleases,
    /// A fault can make another server the one that answers, so that the address moves.
    Moves,
    /// A look at the queue may show what was true before an earlier look, because another server answers it.
    ReadsLag,
}

/// A fault that only one kind of store can have.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnFault {
    /// Its name in the logs.
    pub name: &'static str,
    /// About how long it takes, in tenths of a lease.
    pub takes: u32,
    /// The calm after it, in leases.
    pub calm_after: u32,
    /// Whether it is made with a debugger's rights, which some machines do not give.
    pub needs_tracing: bool,
}

impl OwnFault {
    /// A fault that is over soon.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        OwnFault { name, takes: 3, calm_after: 0, needs_tracing: false }
    }
}

/// The outcome of a fault.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Whether it did anything.
    pub took_effect: bool,
    /// What was seen of it.
    pub proof: String,
    /// Whether the store may have forgotten what it promised.
    pub forgets: bool,
}

impl Outcome {
    /// The outcome of a fault after which the store still knows what it promised.
    #[must_use]
    pub fn of(took_effect: bool, proof: String) -> Self {
        Outcome { took_effect, proof, forgets: false }
    }

    /// The outcome of a fault that may free a lock whose owner still believes to hold it.
    #[must_use]
    pub fn that_forgets(took_effect: bool, proof: String) -> Self {
        Outcome { took_effect, proof, forgets: true }
    }
}

/// What a fault is drawn from.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// The part of a lease that it lasts, between 0 and 1.
    pub length: f64,
    /// The target, by a number of any size.
    pub target: u64,
    /// The lease of all claims.
    pub lease: Duration,
}

impl Draw {
    /// Less than half a lease.
    #[must_use]
    pub fn short(&self) -> Duration {
        self.lease.mul_f64(0.1 + 0.4 * self.length)
    }

    /// An index below `count`, by the target.
    #[must_use]
    pub fn choose(&self, count: usize) -> usize {
        usize::try_from(self.target).unwrap_or(0) % count.max(1)
    }
}

/// Where the first message of a server's bytes ends, and whether it is a notification that nobody has asked
/// for; `None` while it is incomplete. The flag says that the connection begins with these bytes.
pub type ReadMessage = fn(&[u8], bool) -> Option<(usize, bool)>;

/// A store that runs. It ends, with its servers, when this is dropped.
#[async_trait]
pub trait TestStore: Debug + Send + Sync {
    /// Its address, without options.
    fn url(&self) -> String;

    /// Its address by other hosts (`host:port`), one in front of each of its servers.
    fn url_by(&self, hosts: &[String]) -> String;

    /// Prepares for owners that reach it by proxies at this address.
    ///
    /// # Errors
    /// When the store cannot be prepared.
    fn be_reached_at(&mut self, _address: IpAddr) -> Result<()> {
        Ok(())
    }

    /// Its servers, if it has any.
    fn cluster(&mut self) -> Option<&mut dyn Cluster> {
        None
    }

    /// The port of each of its servers.
    fn ports(&self) -> Vec<u16> {
        Vec::new()
    }

    /// What the suite runs on: the store by its plain address, and by each other address whose claims look
    /// different. `kind` is how this kind of store is named.
    fn under_test(&self, kind: &str, child: Option<PathBuf>) -> Vec<StoreUnderTest>;

    /// What the store has of a name, as its own tools list it, but for what expires by itself.
    fn left(&self, name: &str) -> Vec<String>;

    /// Whether the store loses its data when the process of a server is killed.
    fn forgets_when_killed(&self) -> bool {
        false
    }

    /// Whether a leader that was deposed while it was stopped may undo what the next one has agreed to.
    fn forgets_when_deposed(&self) -> bool {
        false
    }

    /// Does one of the faults that only this kind of store can have, and undoes it.
    ///
    /// # Errors
    /// When the fault cannot be done or undone.
    ///
    /// # Cancel safety
    /// Not meant to be dropped.
    async fn break_by(&mut self, fault: &OwnFault, _draw: Draw, _proxies: &[Proxy]) -> Result<Outcome> {
        unreachable!("{} has no such fault: {}", self.url(), fault.name)
    }

    /// How the messages of its servers are read, if there are any.
    fn read_message(&self) -> Option<ReadMessage> {
        None
    }
}

/// All kinds of stores.
pub fn kinds() -> impl Iterator<Item = &'static StoreKind> {
    let servers = [redis::KINDS, redis_tls::KINDS, etcd::KINDS, zookeeper::KINDS, postgres::KINDS];
    [memory::KINDS, file::KINDS].into_iter().chain(servers).flatten()
}

/// The kinds that take part in these tests.
pub fn kinds_with(role: Role) -> impl Iterator<Item = &'static StoreKind> {
    kinds().filter(move |kind| kind.has(role))
}

fn nothing() -> Result<()> {
    Ok(())
}

fn none() -> Vec<(&'static str, Hostile)> {
    Vec::new()
}
