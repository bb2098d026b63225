//! Which faults a run owes, and in which order they happen.
//!
//! The deck is shuffled by the run's seed, and faults are dealt from it like cards.

use std::collections::BTreeMap;
use std::time::Duration;

use globallock_conformance::stores::Trait;

use super::fault::FaultKind;
use super::means::Means;
use super::store::{kind, stores};

/// The shortest run per store for which a pass owes every possible kind of fault on every store.
const WHOLE: Duration = Duration::from_secs(60);
/// How often a kind of fault that takes no effect is dealt at most.
const TRIES: u8 = 4;

/// The faults that are possible with a store on this machine. A kind that is listed more than once is dealt
/// more often.
pub(super) fn possible(store: &str, means: Means) -> Vec<FaultKind> {
    let mut faults = vec![
        FaultKind::OwnerKill,
        FaultKind::OwnerStopShort,
        FaultKind::OwnerStopLong,
        FaultKind::OwnerClockStep,
        FaultKind::OwnerSuspend,
    ];
    let Ok(kind) = kind(store) else { return faults };
    if kind.servers > 0 {
        faults.extend([FaultKind::Cut, FaultKind::HoldAnswers, FaultKind::HoldRequests, FaultKind::HoldBoth]);
        faults.extend([FaultKind::Delay, FaultKind::SwallowAnswers, FaultKind::ServerStop]);
        if means.links {
            faults.extend([FaultKind::LinkDown, FaultKind::LinkDown, FaultKind::NetworkDown]);
        }
        // Where another server takes over, that is the fault.
        if !kind.is(Trait::Moves) {
            faults.extend([FaultKind::ServerKill, FaultKind::RestartStorm]);
        }
    }
    if kind.servers > 1 {
        faults.push(FaultKind::LeaderKill);
    }
    let own = kind.own_faults.iter().filter(|fault| means.tracing || !fault.needs_tracing);
    faults.extend(own.map(FaultKind::Own));
    faults
}

/// The same kinds, each of them once.
fn kinds(mut faults: Vec<FaultKind>) -> Vec<FaultKind> {
    faults.sort_unstable();
    faults.dedup();
    faults
}

/// The names of all kinds of faults that are possible with a store.
#[must_use]
pub fn all(store: &str, means: Means) -> Vec<String> {
    kinds(possible(store, means)).into_iter().map(FaultKind::name).collect()
}

/// The kinds that each store of a pass owes, by name. In a long pass these are all that are possible with the
/// store. In a short pass each kind that is possible in a family of stores is owed by one store of the
/// family.
#[must_use]
pub fn owed_in_pass(seed: u64, each: Duration, means: Means) -> Vec<(&'static str, Vec<String>)> {
    if each >= WHOLE {
        return stores().into_iter().map(|store| (store, all(store, means))).collect();
    }
    let mut owed: BTreeMap<&str, Vec<FaultKind>> =
        stores().into_iter().map(|store| (store, Vec::new())).collect();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut wanted: Vec<(&str, FaultKind)> = Vec::new();
    for store in stores() {
        wanted.extend(possible(store, means).into_iter().map(|kind| (family(store), kind)));
    }
    wanted.sort_unstable();
    wanted.dedup();
    random.shuffle(&mut wanted);
    let that_can = |(wanted, kind): (&str, FaultKind)| -> Vec<&str> {
        let can = |store: &&str| family(store) == wanted && possible(store, means).contains(&kind);
        stores().into_iter().filter(can).collect()
    };
    let takes = |store: &str, one: FaultKind| kind(store).map_or(0, |kind| one.takes(kind));
    // Each kind goes to the store that has the least to do. Kinds that only one store can have come first,
    // because they leave no choice; then the longest ones, because short ones even out the load.
    wanted.sort_by_key(|one| {
        let stores = that_can(*one);
        let longest = stores.iter().map(|store| takes(store, one.1)).max();
        (stores.len(), std::cmp::Reverse(longest))
    });
    for one in wanted {
        let load = |store: &&str| owed[store].iter().map(|kind| takes(store, *kind)).sum::<u32>();
        if let Some(store) = that_can(one).into_iter().min_by_key(load) {
            owed.entry(store).or_default().push(one.1);
        }
    }
    let named = |store| (store, owed[store].iter().copied().map(FaultKind::name).collect());
    stores().into_iter().map(named).collect()
}

/// The family of a store, in which all stores can have about the same faults: the first word of its name.
fn family(store: &str) -> &str {
    store.split('-').next().unwrap_or(store)
}

/// The faults of one run, in their order.
#[derive(Debug)]
pub(super) struct Deck {
    /// The kinds that are still owed, with how often each was dealt. The last one is next.
    owed: Vec<(FaultKind, u8)>,
    possible: Vec<FaultKind>,
}

impl Deck {
    /// Shuffles the owed kinds. The kill of an owner comes first: recovery from it is judged only in calm,
    /// and before the first fault there is calm.
    pub(super) fn new(owed: &[String], possible: Vec<FaultKind>, random: &mut fastrand::Rng) -> Self {
        let mut owed: Vec<(FaultKind, u8)> = kinds(possible.clone())
            .into_iter()
            .filter(|kind| owed.contains(&kind.name()))
            .map(|kind| (kind, 0))
            .collect();
        random.shuffle(&mut owed);
        owed.sort_by_key(|(kind, _)| *kind == FaultKind::OwnerKill);
        Deck { owed, possible }
    }

    /// Whether some kind is still owed.
    pub(super) fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// The next fault: one that is owed, or else any possible one.
    pub(super) fn next(&self, random: &mut fastrand::Rng) -> FaultKind {
        let any = self.possible[random.usize(0..self.possible.len())];
        self.owed.last().map_or(any, |(kind, _)| *kind)
    }

    /// Records whether the dealt fault took effect. If it did not, it is owed again, up to [`TRIES`] times.
    pub(super) fn record(&mut self, took_effect: bool) {
        if let Some((kind, tries)) = self.owed.pop()
            && !took_effect
            && tries + 1 < TRIES
        {
            self.owed.insert(0, (kind, tries + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_pass_owes_everything_on_every_store() {
        for (store, owed) in owed_in_pass(1, WHOLE, Means::ALL) {
            assert_eq!(owed, all(store, Means::ALL));
        }
    }

    #[test]
    fn a_short_pass_owes_everything_on_one_store_of_each_family() {
        for seed in 0..50 {
            for links in [false, true] {
                let means = Means { links, tracing: !links };
                let pass = owed_in_pass(seed, Duration::from_secs(20), means);
                for (store, owed) in &pass {
                    assert!(owed.iter().all(|kind| all(store, means).contains(kind)), "{store}: {owed:?}");
                }
                for store in stores() {
                    for kind in all(store, means) {
                        let of_family = pass.iter().filter(|(other, _)| family(other) == family(store));
                        let owing = of_family.filter(|(_, owed)| owed.contains(&kind)).count();
                        assert_eq!(owing, 1, "{kind} of {store}, seed {seed}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_fault_without_effect_is_dealt_again_but_not_for_ever() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut deck = Deck::new(&all("file", Means::ALL), possible("file", Means::ALL), &mut random);
        assert_eq!(deck.next(&mut random), FaultKind::OwnerKill);
        let mut dealt = Vec::new();
        while deck.owes() {
            let kind = deck.next(&mut random);
            dealt.push(kind);
            deck.record(!matches!(kind, FaultKind::Own(_)));
        }
        let own = dealt.iter().filter(|kind| matches!(kind, FaultKind::Own(_))).count();
        assert_eq!((own, dealt.len()), (usize::from(TRIES), 5 + usize::from(TRIES)));
    }
}
