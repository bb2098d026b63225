//! Faults that only one kind of store can have.

use std::io::Result;
use std::time::Duration;

use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use super::{Fault, FaultKind, Outcome, Store};
use crate::run::locks;

impl Fault {
    pub(super) async fn break_store(self, store: &mut Store) -> Result<Outcome> {
        Ok(match self.kind {
            FaultKind::FlushAll => {
                let before = store.redis(&["DBSIZE"]);
                let done = store.redis(&["FLUSHALL"]);
                Outcome::that_forgets(done == "OK" && before != "0", format!("{before} keys before"))
            }
            FaultKind::ScriptFlush => {
                let done = store.redis(&["SCRIPT", "FLUSH"]);
                Outcome::of(done == "OK", done)
            }
            FaultKind::KillPush => {
                let killed = store.redis(&["CLIENT", "KILL", "TYPE", "pubsub"]);
                Outcome::of(killed != "0", format!("{killed} connections killed"))
            }
            FaultKind::Promotion => {
                let seen = store.promote().await?;
                Outcome::that_forgets(!seen.starts_with("0 "), seen)
            }
            FaultKind::ClockStep => self.step_clock(store).await?,
            FaultKind::RevokeLease => {
                let leases = store.etcd(&["lease", "list"]);
                let leases: Vec<&str> = leases.lines().skip(1).collect();
                let chosen = leases.get(self.choose(leases.len()));
                let seen = chosen.map_or(String::new(), |lease| store.etcd(&["lease", "revoke", lease]));
                Outcome::that_forgets(seen.contains("revoked"), seen)
            }
            FaultKind::Compact => {
                let status = store.etcd(&["get", "--write-out=json", "/locks/_glocks/nothing"]);
                let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
                let revision = status["header"]["revision"].to_string();
                let seen = store.etcd(&["compact", &revision]);
                Outcome::of(seen.contains("compacted"), seen)
            }
            FaultKind::TokensEnd => {
                let before = store.tokens()?;
                block_in_place(|| store.invalidate_tokens())?;
                let until = Instant::now() + self.lease;
                while store.tokens()? == before && Instant::now() < until {
                    sleep(Duration::from_millis(10)).await;
                }
                let given = store.tokens()? - before;
                Outcome::of(given > 0, format!("{given} new tokens were requested"))
            }
            FaultKind::SessionEnd => {
                let seen = block_in_place(|| store.end_session(|count| self.choose(count)))?;
                Outcome::that_forgets(seen.is_some(), seen.unwrap_or_default())
            }
            FaultKind::FilesGone => {
                let names = locks();
                let gone = store.remove_files(&names[self.choose(names.len())].name);
                Outcome::that_forgets(gone > 0, format!("{gone} files deleted"))
            }
            other => unreachable!("{other:?} is no fault of a store"),
        })
    }

    /// Sets the server's wall clock forward or back for a while, by up to three leases.
    async fn step_clock(self, store: &Store) -> Result<Outcome> {
        let seconds = (self.lease.as_secs_f64() * 3.0 * self.length).ceil() as i64;
        let step = if self.target.is_multiple_of(2) { seconds } else { -seconds };
        let before: i64 =
            store.redis(&["TIME"]).lines().next().and_then(|time| time.parse().ok()).unwrap_or(0);
        store.set_clock(step)?;
        let after: i64 =
            store.redis(&["TIME"]).lines().next().and_then(|time| time.parse().ok()).unwrap_or(0);
        sleep(self.short()).await;
        store.set_clock(0)?;
        let seen = after - before;
        Ok(Outcome::that_forgets((seen - step).abs() <= 1, format!("TIME went on by {seen} s")))
    }
}
