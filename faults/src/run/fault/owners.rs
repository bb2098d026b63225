//! Faults of owner processes.

use std::collections::BTreeMap;
use std::io::Result;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Fault, FaultKind, Fleet, Outcome};
use crate::history::{OwnerEvent, Time, now};

/// How often an owner is stopped until it is found to hold a lock.
const LOOKS: u32 = 200;
/// How long it runs between two of them.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// How long an owner may take to log what it sees after it was suspended.
const NOTICES: Duration = Duration::from_secs(5);
/// By how much the suspension that an owner logs may differ from what was shown to it, in microseconds. It
/// may have run while its two clocks were read, or not at all.
const NEAR: Time = 250_000;

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

    /// Suspends the host of one owner (`hit`) for longer than the lease while the owner holds a lock.
    pub(super) async fn suspend_owner(self, fleet: &Fleet, hit: &mut Option<u32>) -> Result<Outcome> {
        let Some(member) = fleet.choose_in_rust(self.draw.target) else {
            return Ok(Outcome::of(false, "no owner is in Rust".to_owned()));
        };
        *hit = Some(fleet.number(member));
        let (mut log, mut held) = (fleet.log_of(member)?, BTreeMap::new());
        for _ in 0..LOOKS {
            fleet.stop(member).await?;
            note_holds(&mut held, &log.next_events()?);
            if !held.is_empty() {
                break;
            }
            fleet.go_on(member)?;
            sleep(BETWEEN_LOOKS).await;
        }
        if held.is_empty() {
            return Ok(Outcome::of(false, "it held no lock".to_owned()));
        }
        let since = Instant::now();
        sleep(self.long()).await;
        let length = since.elapsed();
        let woken = now();
        fleet.wake(member, length)?;
        let until = Instant::now() + NOTICES;
        let mut events = Vec::new();
        loop {
            events.extend(log.next_events()?);
            // It may have been suspended before.
            let slept = |event: &OwnerEvent| {
                let OwnerEvent::Suspended { at, length: seen } = event else { return false };
                *at >= woken && Time::try_from(length.as_micros()).unwrap_or(0).abs_diff(*seen) < NEAR
            };
            let lost = |event: &OwnerEvent| match event {
                OwnerEvent::Lost { claim, .. } => held.contains_key(claim),
                _ => false,
            };
            let (noticed, lost) =
                (events.iter().any(slept), events.iter().filter(|event| lost(event)).count());
            // What only the end of its process ends is not lost.
            let can_lose = held.values().any(Option::is_some);
            let took_effect = noticed && (lost > 0 || !can_lose);
            if took_effect || Instant::now() > until {
                let held = held.len();
                let proof =
                    format!("suspended for {length:.1?}, noticed: {noticed}; of {held} locks lost {lost}");
                return Ok(Outcome::of(took_effect, proof));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Notes which claims hold after these events, and until when each is surely held.
fn note_holds(held: &mut BTreeMap<u64, Option<Time>>, events: &[OwnerEvent]) {
    for event in events {
        match event {
            OwnerEvent::Granted { claim, until, .. } => drop(held.insert(*claim, *until)),
            OwnerEvent::Release { claim, .. } | OwnerEvent::Lost { claim, .. } => drop(held.remove(claim)),
            _ => {}
        }
    }
}
