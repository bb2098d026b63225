//! What is done to owner processes.

use std::io::Result;

use tokio::time::sleep;

use super::{Fault, Fleet, Outcome, What};

impl Fault {
    pub(super) async fn hurt_owner(self, fleet: &mut Fleet) -> Result<Outcome> {
        let member = fleet.choose(self.target);
        let owner = Some(fleet.number(member));
        let (bit, proof) = match self.what {
            What::OwnerKill => {
                let seen = fleet.kill(member).await?;
                fleet.add().await?;
                (seen.contains("signal: 9"), seen)
            }
            What::OwnerClockStep => {
                // Up to an hour, both ways.
                let ahead = (3_600.0 * (self.length - 0.5) * 2.0) as i64;
                let step = if ahead < 0 { ahead - 2 } else { ahead + 2 };
                let seen = fleet.set_clock(member, step).await?;
                sleep(self.short()).await;
                fleet.mend_clock(member)?;
                (!seen.is_empty(), seen)
            }
            _ => {
                let seen = fleet.stop(member).await?;
                sleep(if self.what == What::OwnerStopLong { self.long() } else { self.short() }).await;
                fleet.go_on(member)?;
                (seen == "state T", seen)
            }
        };
        Ok(Outcome { owner, ..Outcome::of(bit, proof) })
    }
}
