//! What is done to a run, how it is undone, and what shows that it was done.

use std::io::Result;
use std::time::Duration;

use globallock_conformance::proxy::{Flow, Proxy};
use rustix::process::Signal;
use tokio::task::block_in_place;
use tokio::time::sleep;

use super::fleet::Fleet;
use super::store::Store;
use crate::history::{FaultEvent, now};

/// A sort of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    OwnerKill,
    OwnerStopShort,
    OwnerStopLong,
    ServerKill,
    LeaderKill,
    ServerStop,
    Cut,
    HoldAnswers,
    HoldRequests,
    HoldBoth,
    Delay,
    SwallowAnswers,
    FlushAll,
    ScriptFlush,
    KillPush,
    Promotion,
    RevokeLease,
    Compact,
}

/// One fault of a schedule: nothing in it depends on what happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub(super) what: What,
    /// The calm before it.
    pub(super) calm: Duration,
    /// The calm after it, besides that before the next.
    pub(super) calm_after: Duration,
    /// A share of a lease, between 0 and 1.
    pub(super) length: f64,
    /// Whom it hits.
    pub(super) target: u64,
}

impl Fault {
    /// Decides on the next fault.
    pub(super) fn next(random: &mut fastrand::Rng, faults: &[What], lease: Duration) -> Self {
        let what = faults[random.usize(0..faults.len())];
        let calm = Duration::from_millis(random.u64(300..1_500));
        // How soon a dead owner's lock goes on can only be judged while nothing else is wrong.
        let alone = what == What::OwnerKill && random.bool();
        let around = if alone { lease * 5 / 2 } else { Duration::ZERO };
        Fault {
            what,
            calm: calm + around,
            calm_after: around,
            length: random.f64(),
            target: random.u64(0..1 << 32),
        }
    }

    /// Does it, and undoes it.
    pub(super) async fn happen(
        self,
        store: &mut Store,
        fleet: &mut Fleet,
        lease: Duration,
    ) -> Result<FaultEvent> {
        let at = now();
        let mut forgets = false;
        let mut owner = None;
        let short = lease.mul_f64(0.1 + 0.4 * self.length);
        let long = lease.mul_f64(1.2 + 0.8 * self.length);
        let any = lease.mul_f64(0.1 + 1.4 * self.length);
        let node = usize::try_from(self.target).unwrap_or(0) % store.proxies.len().max(1);
        let (bit, proof) = match self.what {
            What::OwnerKill => {
                let member = fleet.choose(self.target);
                owner = Some(fleet.number(member));
                let seen = fleet.kill(member).await?;
                fleet.add()?;
                (seen.contains("signal: 9"), seen)
            }
            What::OwnerStopShort | What::OwnerStopLong => {
                let member = fleet.choose(self.target);
                owner = Some(fleet.number(member));
                let seen = fleet.stop(member).await?;
                sleep(if self.what == What::OwnerStopLong { long } else { short }).await;
                fleet.go_on(member)?;
                (seen == "state T", seen)
            }
            What::ServerKill | What::LeaderKill => {
                forgets = store.forgets_when_killed();
                let Some(cluster) = store.cluster() else {
                    unreachable!("only servers are given this fault")
                };
                let leader = block_in_place(|| cluster.leader());
                let node = if self.what == What::LeaderKill { leader.unwrap_or(node) } else { node };
                cluster.kill(node);
                sleep(short).await;
                let port = cluster.ports()[node];
                let gone = std::net::TcpStream::connect(("127.0.0.1", port)).is_err();
                block_in_place(|| cluster.resume_after_kill(node))?;
                (gone, format!("server {node} of port {port} refused connections; the leader was {leader:?}"))
            }
            What::ServerStop => {
                let Some(cluster) = store.cluster() else {
                    unreachable!("only servers are given this fault")
                };
                cluster.signal(node, Signal::STOP);
                sleep(any).await;
                cluster.signal(node, Signal::CONT);
                (true, format!("server {node} was stopped for {any:?}"))
            }
            What::Cut => {
                let cuts = |store: &Store| store.proxies.iter().map(Proxy::cuts).sum::<u64>();
                let before = cuts(store);
                store.proxies.iter().for_each(Proxy::cut);
                sleep(Duration::from_millis(20)).await;
                let cut = cuts(store) - before;
                (cut > 0, format!("{cut} connections cut"))
            }
            What::HoldAnswers => network(store, any, None, Some(Flow::Hold), false).await,
            What::HoldRequests => network(store, any, Some(Flow::Hold), None, false).await,
            What::HoldBoth => network(store, long, Some(Flow::Hold), Some(Flow::Hold), false).await,
            What::Delay => {
                let delay = Flow::Delay(lease.mul_f64(0.02 + 0.1 * self.length));
                network(store, any, Some(delay), Some(delay), false).await
            }
            What::SwallowAnswers => network(store, short / 4, None, Some(Flow::Swallow), true).await,
            What::FlushAll => {
                forgets = true;
                let before = store.redis(&["DBSIZE"]);
                let done = store.redis(&["FLUSHALL"]);
                (done == "OK" && before != "0", format!("{before} keys before"))
            }
            What::ScriptFlush => {
                let done = store.redis(&["SCRIPT", "FLUSH"]);
                (done == "OK", done)
            }
            What::KillPush => {
                let killed = store.redis(&["CLIENT", "KILL", "TYPE", "pubsub"]);
                (killed != "0", format!("{killed} connections killed"))
            }
            What::Promotion => {
                forgets = true;
                let seen = store.promote().await?;
                (!seen.starts_with("0 "), seen)
            }
            What::RevokeLease => {
                forgets = true;
                let leases = store.etcd(&["lease", "list"]);
                let leases: Vec<&str> = leases.lines().skip(1).collect();
                let chosen = leases.get(usize::try_from(self.target).unwrap_or(0) % leases.len().max(1));
                let seen = chosen.map_or(String::new(), |lease| store.etcd(&["lease", "revoke", lease]));
                (seen.contains("revoked"), seen)
            }
            What::Compact => {
                let status = store.etcd(&["get", "--write-out=json", "nothing"]);
                let told: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
                let revision = told["header"]["revision"].to_string();
                let seen = store.etcd(&["compact", &revision]);
                (seen.contains("compacted"), seen)
            }
        };
        let kind = format!("{:?}", self.what);
        Ok(FaultEvent::Fault { at, mended: now(), kind: snake(&kind), owner, proof, bit, forgets })
    }
}

/// Lets the network before all servers be bad for a while.
async fn network(
    store: &Store,
    length: Duration,
    requests: Option<Flow>,
    answers: Option<Flow>,
    cut: bool,
) -> (bool, String) {
    let count =
        |store: &Store| store.proxies.iter().map(|proxy| proxy.held() + proxy.swallowed()).sum::<u64>();
    let before = count(store);
    for proxy in &store.proxies {
        proxy.requests(requests.unwrap_or_default());
        proxy.answers(answers.unwrap_or_default());
    }
    sleep(length).await;
    for proxy in &store.proxies {
        if cut {
            proxy.cut();
        }
        proxy.requests(Flow::Pass);
        proxy.answers(Flow::Pass);
    }
    let bitten = count(store) - before;
    (bitten > 0, format!("{bitten} times or bytes kept back within {length:?}"))
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}
