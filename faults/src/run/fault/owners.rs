//! Faults of owner processes.

use std::io::Result;

use tokio::time::sleep;

use super::{Fault, FaultKind, Fleet, Outcome};

impl Fault {
    /// Breaks one owner (`hit`).
    pub(super) async fn break_owner(self, fleet: &mut Fleet, hit: &mut Option<u32>) -> Result<Outcome> {
        let member = fleet.choose(self.draw.target);
        *hit = Some(fleet.number(member));
        let (took_effect, proof) = match self.kind {
            FaultKind::OwnerKill => {
                let seen = fleet.kill(member).await?;
                fleet.add().await?;
                (seen.contains("signal: 9"), seen)
            }
            FaultKind::OwnerClockStep => {
                // Up to an hour, forward or back.
                let ahead = (3_600.0 * (self.draw.length - 0.5) * 2.0) as i64;
                let step = if ahead < 0 { ahead - 2 } else { ahead + 2 };
                let seen = fleet.set_clock(member, step).await?;
                sleep(self.draw.short()).await;
                fleet.mend_clock(member)?;
                (!seen.is_empty(), seen)
            }
            _ => {
                let seen = fleet.stop(member).await?;
                sleep(if self.kind == FaultKind::OwnerStopLong { self.long() } else { self.draw.short() })
                    .await;
                fleet.go_on(member)?;
                (seen == "state T", seen)
            }
        };
        Ok(Outcome::of(took_effect, proof))
    }
}
