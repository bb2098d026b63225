//! The faults: how each is done and undone, and the proof that it took effect.

mod links;
mod owners;
mod servers;

use std::io::Result;
use std::time::Duration;

use globallock_conformance::stores::{Draw, Outcome, OwnFault, StoreKind};

use super::fleet::Fleet;
use super::store::Store;
use crate::history::{FaultEvent, Terms, now};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::run) enum FaultKind {
    OwnerKill,
    OwnerStopShort,
    OwnerStopLong,
    OwnerClockStep,
    OwnerSuspend,
    ServerKill,
    LeaderKill,
    ServerStop,
    RestartStorm,
    Cut,
    HoldAnswers,
    HoldRequests,
    HoldBoth,
    Delay,
    SwallowAnswers,
    LinkDown,
    NetworkDown,
    /// One that only this kind of store can have.
    Own(&'static OwnFault),
}

impl FaultKind {
    /// The name in the logs.
    pub(in crate::run) fn name(self) -> String {
        match self {
            FaultKind::Own(fault) => fault.name.to_owned(),
            kind => snake(&format!("{kind:?}")),
        }
    }

    /// About how long it takes with a kind of store, in tenths of a lease.
    pub(in crate::run) fn takes(self, store: &StoreKind) -> u32 {
        match self {
            FaultKind::Own(fault) => fault.takes,
            FaultKind::OwnerKill => 20,
            FaultKind::OwnerStopLong | FaultKind::OwnerSuspend | FaultKind::HoldBoth => 18,
            FaultKind::ServerStop | FaultKind::LinkDown | FaultKind::NetworkDown | FaultKind::HoldAnswers => {
                10
            }
            FaultKind::HoldRequests | FaultKind::Delay => 11,
            FaultKind::ServerKill | FaultKind::LeaderKill => 6 + store.starts_in,
            FaultKind::RestartStorm => 3 * (3 + store.starts_in),
            _ => 3,
        }
    }
}

/// How much calm there is between two faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::run) enum Pace {
    /// Enough to judge what happens in it.
    Easy,
    /// Only a little, because the run is short.
    Quick,
}

/// One fault of a schedule. It is drawn from the seed alone, so it does not depend on what happened before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    /// The calm before it.
    pub(super) calm: Duration,
    /// The calm after it, in addition to the calm before the next fault.
    pub(super) calm_after: Duration,
    draw: Draw,
}

impl Fault {
    /// Draws the details of a fault.
    pub(super) fn draw(random: &mut fastrand::Rng, kind: FaultKind, lease: Duration, pace: Pace) -> Self {
        let easy = Duration::from_millis(random.u64(200..1_000));
        let quick = Duration::from_millis(random.u64(100..400));
        // Recovery after the kill of an owner is judged only while there is no other fault.
        let alone = kind == FaultKind::OwnerKill && (random.bool() || pace == Pace::Quick);
        // The order of waiters is judged only long after the last fault.
        let rest = if random.u8(0..16) == 0 { lease * 5 } else { Duration::ZERO };
        let before = match pace {
            Pace::Easy => easy + if alone { lease * 5 / 2 } else { rest },
            Pace::Quick => quick,
        };
        let after = match kind {
            FaultKind::OwnerKill if alone => lease + Duration::from_micros(Terms::default().recovery),
            FaultKind::Own(fault) => lease * fault.calm_after,
            _ => Duration::ZERO,
        };
        Fault {
            kind,
            calm: before,
            calm_after: after,
            draw: Draw { length: random.f64(), target: random.u64(0..1 << 32), lease },
        }
    }

    /// Does the fault, and undoes it.
    pub(super) async fn happen(self, store: &mut Store, fleet: &mut Fleet) -> Result<FaultEvent> {
        let at = now();
        let mut owner = None;
        let outcome = match self.kind {
            FaultKind::OwnerKill
            | FaultKind::OwnerStopShort
            | FaultKind::OwnerStopLong
            | FaultKind::OwnerClockStep => self.break_owner(fleet, &mut owner).await?,
            FaultKind::OwnerSuspend => self.suspend_owner(fleet, &mut owner).await?,
            FaultKind::ServerKill | FaultKind::LeaderKill | FaultKind::ServerStop => {
                self.break_server(store).await?
            }
            FaultKind::RestartStorm => self.restart_again_and_again(store).await?,
            FaultKind::LinkDown | FaultKind::NetworkDown => self.take_down(fleet, &mut owner).await?,
            FaultKind::Cut
            | FaultKind::HoldAnswers
            | FaultKind::HoldRequests
            | FaultKind::HoldBoth
            | FaultKind::Delay
            | FaultKind::SwallowAnswers => self.break_connections(store).await,
            FaultKind::Own(fault) => store.break_by(fault, self.draw).await?,
        };
        let Outcome { took_effect, proof, forgets } = outcome;
        let kind = self.kind.name();
        Ok(FaultEvent::Fault { at, mended: now(), kind, owner, proof, took_effect, forgets })
    }

    /// More than a lease.
    fn long(&self) -> Duration {
        self.draw.lease.mul_f64(1.2 + 0.8 * self.draw.length)
    }

    fn any(&self) -> Duration {
        self.draw.lease.mul_f64(0.1 + 1.4 * self.draw.length)
    }
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
