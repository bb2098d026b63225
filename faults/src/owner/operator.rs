//! An owner as an operator: it looks at the queues, and evicts claims that it has seen.

use std::sync::Arc;
use std::time::Duration;

use globallock::{Entry, LockManager, Release};
use tokio::time::{sleep, timeout};

use super::Owner;
use super::choices::Target;
use crate::history::{EvictionAnswer, OwnerEvent, now, reason_of_eviction};

/// After how long a request is given up that is not answered.
const LIMIT: Duration = Duration::from_secs(5);

impl Owner {
    /// Evicts claims now and then, until the owner is stopped.
    ///
    /// All operators look at the same queue at the same time, because the processes of a host share the
    /// clock.
    pub(super) async fn operate(self: Arc<Self>, manager: LockManager) {
        let period = self.plan.evictions;
        if period == 0 {
            return;
        }
        for eviction in 1.. {
            let time = now() / period + 1;
            sleep(Duration::from_micros((time * period).saturating_sub(now()))).await;
            if self.is_stopping() {
                return;
            }
            let target = Target::draw(&self.plan, time);
            if target.evicts {
                self.evict(&manager, eviction, target).await;
            }
        }
    }

    /// Evicts a claim of the run's owners, if there is one.
    async fn evict(&self, manager: &LockManager, eviction: u64, target: Target) {
        let nth = |bound: usize, number: u64| usize::try_from(number).unwrap_or(0) % bound;
        // The first lock is left alone, because evictions end waits that a fault of the store makes too long.
        let [_, locks @ ..] = &self.plan.locks[..] else { return };
        let name = locks[nth(locks.len(), target.lock)].name.clone();
        let Ok(Ok(queue)) = timeout(LIMIT, manager.inspect(&name)).await else { return };
        let owner_of = |entry: &Entry| entry.owner.label.as_ref()?.strip_prefix("owner-")?.parse().ok();
        let claims: Vec<(u32, Entry)> =
            queue.into_iter().filter_map(|entry| Some((owner_of(&entry)?, entry))).collect();
        if claims.is_empty() {
            return;
        }
        let (owner, Entry { key, held, fencing_token, .. }) = &claims[nth(claims.len(), target.claim)];
        let (owner, held, fencing_token) = (*owner, *held, *fencing_token);
        sleep(Duration::from_micros(target.pause)).await;
        let reason = reason_of_eviction(self.plan.owner, eviction);
        let lock = name.clone();
        self.log.write(&OwnerEvent::Evict { at: now(), eviction, name, owner, held, fencing_token });
        let answer = match timeout(LIMIT, manager.evict(&lock, key, &reason)).await {
            Ok(Ok(Release::Released)) => EvictionAnswer::Released,
            Ok(Ok(Release::NotHeld)) => EvictionAnswer::NotHeld,
            Ok(Err(error)) => EvictionAnswer::Unknown(error.to_string()),
            Err(_) => EvictionAnswer::Unknown(format!("no answer in {LIMIT:?}")),
        };
        self.log.write(&OwnerEvent::Evicted { at: now(), eviction, answer });
    }
}
