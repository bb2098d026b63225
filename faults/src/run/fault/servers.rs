//! Faults of server processes.

use std::io::Result;

use rustix::process::Signal;
use tokio::task::block_in_place;
use tokio::time::sleep;

use super::{Fault, FaultKind, Outcome, Store};

impl Fault {
    pub(super) async fn break_server(self, store: &mut Store) -> Result<Outcome> {
        let forgets_when_killed = store.forgets_when_killed();
        let Some(cluster) = store.cluster() else { unreachable!("only servers are given this fault") };
        let node = self.draw.choose(cluster.ports().len());
        if self.kind == FaultKind::ServerStop {
            let length = self.any();
            cluster.signal(node, Signal::STOP);
            sleep(length).await;
            cluster.signal(node, Signal::CONT);
            return Ok(Outcome::of(true, format!("server {node} was stopped for {length:?}")));
        }
        let leader = block_in_place(|| cluster.leader());
        let node = if self.kind == FaultKind::LeaderKill { leader.unwrap_or(node) } else { node };
        cluster.kill(node);
        sleep(self.draw.short()).await;
        let port = cluster.ports()[node];
        let gone = std::net::TcpStream::connect(("127.0.0.1", port)).is_err();
        block_in_place(|| cluster.resume_after_kill(node))?;
        let proof = format!("server {node} of port {port} refused connections; the leader was {leader:?}");
        Ok(Outcome { forgets: forgets_when_killed, ..Outcome::of(gone, proof) })
    }
}
