//! What an owner decides at each step. `choices.py` beside this crate draws the same numbers.
//!
//! Each step has a generator of its own, so that no decision depends on earlier answers of the store. The
//! order of the draws is part of the contract with `choices.py`.

use std::fmt;

use super::{LockSpec, Plan};
use crate::history::{Mode, Time};

/// A generator of random numbers: splitmix64 by Steele, Lea and Flood (2014), because it is a few lines in
/// any language.
struct Draw(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Draw {
    /// Makes the generator of one step.
    fn new(seed: u64, owner: u32, position: usize, step: u64) -> Self {
        let mixed = [u64::from(owner), position as u64, step];
        Draw(mixed.into_iter().fold(seed, |state, part| Draw(state).next().wrapping_add(part)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What is decided about one claim before it is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Whether it takes the exclusive side of a read-write lock.
    pub writes: bool,
    /// How many permits it takes of a semaphore.
    pub permits: u32,
    /// How it asks.
    pub mode: Mode,
    /// How often it checks that it holds, and writes, while it holds.
    pub rounds: u32,
    /// The time between a check and a write, in microseconds.
    pub pause: Time,
    /// Whether the guard is dropped instead of released.
    pub drops: bool,
    /// The pause before the next step, in microseconds.
    pub rest: Time,
    /// Whether it asks for the value of its name, and writes it in each round. Owners in Rust only.
    pub uses_value: bool,
}

impl Choice {
    /// Decides one step of one owner at one of its locks.
    #[must_use]
    pub fn draw(plan: &Plan, spec: &LockSpec, position: usize, step: u64) -> Self {
        let mut draw = Draw::new(plan.seed, plan.owner, position, step);
        let writes = draw.below(3) == 0;
        let permits = 1 + draw.below(u64::from(spec.capacity.clamp(1, 2)));
        let (mode, cancel) = (draw.below(10), draw.below(30_000));
        let (long, slow) = (draw.below(1_000) < u64::from(plan.long), draw.below(100) < 3);
        let (long_rounds, slow_pause) = (8 + draw.below(8), 2_000 + draw.below(18_000));
        let (rounds, pause) = (1 + draw.below(2), draw.below(800));
        let (rounds, pause) = match (long, slow) {
            // It holds for longer than a lease.
            (true, _) => (long_rounds, plan.lease / 8),
            // One check, some work, and a write without another check: what most programs do.
            (false, true) => (1, slow_pause),
            (false, false) => (rounds, pause),
        };
        Choice {
            writes,
            permits: u32::try_from(permits).unwrap_or(1),
            mode: match mode {
                0 => Mode::Try,
                1 => Mode::Cancel(cancel),
                _ => Mode::Wait(plan.limit),
            },
            rounds: u32::try_from(rounds).unwrap_or(1),
            pause,
            drops: draw.below(10) == 0,
            rest: draw.below(3_000),
            uses_value: draw.below(1_000) < u64::from(plan.values),
        }
    }
}

/// What an operator decides at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Which lock it looks at.
    pub(super) lock: u64,
    /// Which claim of the queue it evicts.
    pub(super) claim: u64,
    /// Whether it evicts any.
    pub(super) evicts: bool,
    /// For how long it looks away in between, in microseconds.
    pub(super) pause: Time,
}

impl Target {
    /// Decides for an operator at a time, which is one of all operators. They look at the same claim, so that
    /// several evict it at once.
    pub(super) fn draw(plan: &Plan, time: u64) -> Self {
        let mut common = Draw::new(plan.seed, u32::MAX, 0, time);
        let mut own = Draw::new(plan.seed, plan.owner, usize::MAX, time);
        let pause = if common.below(2) == 0 { 0 } else { own.below(20_000) };
        Target { lock: common.next(), claim: common.next(), evicts: own.below(2) == 0, pause }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Choice { writes, permits, mode, rounds, pause, drops, rest, uses_value } = self;
        let mode = match mode {
            Mode::Try => "try".to_owned(),
            Mode::Wait(limit) => format!("wait:{limit}"),
            Mode::Cancel(after) => format!("cancel:{after}"),
        };
        let [writes, drops, uses_value] = [writes, drops, uses_value].map(|is_so| u8::from(*is_so));
        write!(f, "{writes} {permits} {mode} {rounds} {pause} {drops} {rest} {uses_value}")
    }
}
