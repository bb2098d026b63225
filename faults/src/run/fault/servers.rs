//! Faults of server processes.

use std::io::Result;
use std::time::Duration;

use globallock_conformance::proxy::Proxy;
use rustix::process::Signal;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use super::{Fault, FaultKind, Outcome, Store};

/// How often servers are restarted in a row.
const RESTARTS: usize = 3;
/// How long owners have at most to connect again before the next restart.
const CONNECTS: Duration = Duration::from_secs(20);

impl Fault {
    pub(super) async fn break_server(self, store: &mut Store) -> Result<Outcome> {
        let (forgets_when_killed, forgets_when_deposed) =
            (store.forgets_when_killed(), store.forgets_when_deposed());
        let Some(cluster) = store.cluster() else { unreachable!("only servers are given this fault") };
        let node = self.draw.choose(cluster.ports().len());
        let leader = block_in_place(|| cluster.leader());
        if self.kind == FaultKind::ServerStop {
            let length = self.any();
            cluster.signal(node, Signal::STOP);
            sleep(length).await;
            cluster.signal(node, Signal::CONT);
            let is_deposed = leader == Some(node) && block_in_place(|| cluster.leader()) != leader;
            let forgets = is_deposed && forgets_when_deposed;
            let proof = format!("server {node} was stopped for {length:?}, and deposed: {is_deposed}");
            return Ok(Outcome { forgets, ..Outcome::of(true, proof) });
        }
        let node = if self.kind == FaultKind::LeaderKill { leader.unwrap_or(node) } else { node };
        cluster.kill(node);
        sleep(self.draw.short()).await;
        let port = cluster.ports()[node];
        let gone = std::net::TcpStream::connect(("127.0.0.1", port)).is_err();
        block_in_place(|| cluster.resume_after_kill(node))?;
        let proof = format!("server {node} of port {port} refused connections; the leader was {leader:?}");
        Ok(Outcome { forgets: forgets_when_killed, ..Outcome::of(gone, proof) })
    }

    /// Kills servers that owners are connected to and restarts them, one after the other. Each time owners
    /// connect again, and the next kill comes when the first of them has got an answer.
    pub(super) async fn restart_again_and_again(self, store: &mut Store) -> Result<Outcome> {
        let forgets = store.forgets_when_killed();
        let (mut replaced, mut refused, mut reconnected) = (0, 0, Vec::new());
        for restart in 0..RESTARTS {
            let count = store.proxies.len();
            let from = self.draw.choose(count) + restart;
            let mut nodes = (from..from + count).map(|node| node % count);
            // Owners of several servers have some of them only.
            let used = nodes.find(|node| store.proxies[*node].open() > 0);
            let node = used.unwrap_or(from % count);
            let others = |store: &Store| answered(store) - store.proxies[node].answered();
            let before = others(store);
            let Some(cluster) = store.cluster() else { unreachable!("only servers are given this fault") };
            let old = cluster.id(node);
            cluster.kill(node);
            let port = cluster.ports()[node];
            refused += usize::from(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
            // Nobody is answered here before the restart, but meanwhile owners may go to another server.
            let before = before + store.proxies[node].answered();
            let Some(cluster) = store.cluster() else { unreachable!("only servers are given this fault") };
            block_in_place(|| cluster.resume_after_kill(node))?;
            replaced += usize::from(old.is_some() && cluster.id(node).is_some() && cluster.id(node) != old);
            let until = Instant::now() + CONNECTS;
            while answered(store) == before && Instant::now() < until {
                sleep(Duration::from_millis(5)).await;
            }
            // Some have connected again, others have not yet.
            sleep(self.draw.short() / 4).await;
            reconnected.push(answered(store) - before);
        }
        // A connection to one of several servers may be one that its owner does not need any more.
        let needed = if store.proxies.len() > 1 { 1 } else { RESTARTS };
        let came_back = reconnected.iter().filter(|connections| **connections > 0).count();
        let took_effect = replaced == RESTARTS && refused == RESTARTS && came_back >= needed;
        let proof = format!(
            "{replaced} processes replaced, {refused} refused connections; connections answered after each \
             restart: {reconnected:?}"
        );
        Ok(Outcome { forgets, ..Outcome::of(took_effect, proof) })
    }
}

/// On how many connections of owners a server has answered.
fn answered(store: &Store) -> u64 {
    store.proxies.iter().map(Proxy::answered).sum()
}
