//! What is done to a run, how it is undone, and what shows that it was done.

mod links;
mod owners;
mod servers;
mod stores;

use std::io::Result;
use std::time::Duration;

use super::fleet::Fleet;
use super::store::Store;
use crate::history::{FaultEvent, Terms, now};

/// A sort of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::run) enum What {
    OwnerKill,
    OwnerStopShort,
    OwnerStopLong,
    OwnerClockStep,
    ServerKill,
    LeaderKill,
    ServerStop,
    Cut,
    HoldAnswers,
    HoldRequests,
    HoldBoth,
    Delay,
    SwallowAnswers,
    LinkDown,
    NetworkDown,
    FlushAll,
    ScriptFlush,
    KillPush,
    Promotion,
    ClockStep,
    RevokeLease,
    Compact,
    TokensEnd,
    SessionEnd,
    FilesGone,
}

impl What {
    /// As logs name it.
    pub(in crate::run) fn name(self) -> String {
        snake(&format!("{self:?}"))
    }

    /// About how long it takes, in tenths of a lease.
    pub(in crate::run) fn takes(self) -> u32 {
        match self {
            What::ClockStep => 35,
            What::OwnerKill => 20,
            What::OwnerStopLong | What::HoldBoth => 18,
            What::ServerStop | What::LinkDown | What::NetworkDown | What::HoldAnswers => 10,
            What::HoldRequests | What::Delay => 11,
            What::ServerKill | What::LeaderKill => 12,
            What::TokensEnd => 6,
            _ => 3,
        }
    }
}

/// How much calm there is between two faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::run) enum Pace {
    /// As much as can be judged in.
    Easy,
    /// As little as a short run can afford.
    Quick,
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
    length: f64,
    /// Whom it hits.
    target: u64,
    lease: Duration,
}

/// What became of a fault.
#[derive(Debug, Default)]
struct Outcome {
    bit: bool,
    proof: String,
    /// The owner that it hit, if it hit one alone.
    owner: Option<u32>,
    /// Whether the store may have forgotten what it promised.
    forgets: bool,
}

impl Outcome {
    fn of(bit: bool, proof: String) -> Self {
        Outcome { bit, proof, ..Outcome::default() }
    }

    /// One that frees what somebody believes to hold.
    fn that_forgets(bit: bool, proof: String) -> Self {
        Outcome { bit, proof, forgets: true, ..Outcome::default() }
    }
}

impl Fault {
    /// Decides on how a fault happens.
    pub(super) fn draw(random: &mut fastrand::Rng, what: What, lease: Duration, pace: Pace) -> Self {
        let easy = Duration::from_millis(random.u64(300..1_500));
        let quick = Duration::from_millis(random.u64(100..400));
        // How soon a dead owner's lock goes on can only be judged while nothing else is wrong.
        let alone = what == What::OwnerKill && (random.bool() || pace == Pace::Quick);
        // The order of those who wait, only long after anything was.
        let rest = if random.u8(0..16) == 0 { lease * 5 } else { Duration::ZERO };
        let before = match pace {
            Pace::Easy => easy + if alone { lease * 5 / 2 } else { rest },
            Pace::Quick => quick,
        };
        let after = match what {
            What::OwnerKill if alone => lease + Duration::from_micros(Terms::default().recovery),
            // Tokens are the clock's where the last one is lost: not before it is as late again as it has been.
            What::ClockStep => lease * 3,
            _ => Duration::ZERO,
        };
        Fault {
            what,
            calm: before,
            calm_after: after,
            length: random.f64(),
            target: random.u64(0..1 << 32),
            lease,
        }
    }

    /// Does it, and undoes it.
    pub(super) async fn happen(self, store: &mut Store, fleet: &mut Fleet) -> Result<FaultEvent> {
        let at = now();
        let outcome = match self.what {
            What::OwnerKill | What::OwnerStopShort | What::OwnerStopLong | What::OwnerClockStep => {
                self.hurt_owner(fleet).await?
            }
            What::ServerKill | What::LeaderKill | What::ServerStop => self.hurt_server(store).await?,
            What::LinkDown | What::NetworkDown => self.take_down(fleet).await?,
            What::Cut
            | What::HoldAnswers
            | What::HoldRequests
            | What::HoldBoth
            | What::Delay
            | What::SwallowAnswers => self.hurt_connections(store).await,
            _ => self.hurt_store(store).await?,
        };
        let Outcome { bit, proof, owner, forgets } = outcome;
        let kind = self.what.name();
        Ok(FaultEvent::Fault { at, mended: now(), kind, owner, proof, bit, forgets })
    }

    /// Less than half a lease.
    fn short(&self) -> Duration {
        self.lease.mul_f64(0.1 + 0.4 * self.length)
    }

    /// More than a lease.
    fn long(&self) -> Duration {
        self.lease.mul_f64(1.2 + 0.8 * self.length)
    }

    fn any(&self) -> Duration {
        self.lease.mul_f64(0.1 + 1.4 * self.length)
    }

    /// A number below another.
    fn choose(&self, count: usize) -> usize {
        usize::try_from(self.target).unwrap_or(0) % count.max(1)
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
