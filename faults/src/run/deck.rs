//! Which faults a run owes, and in which order they are dealt.

use std::collections::BTreeMap;
use std::time::Duration;

use super::STORES;
use super::fault::What;

/// From this length on, each store of a pass owes all that can be done to it.
const WHOLE: Duration = Duration::from_secs(60);
/// How often a fault is dealt at most until it bites.
const TRIES: u8 = 4;

/// What can go wrong with a store, the more often named the more often; and with its links if there are any.
pub(super) fn possible(store: &str, has_links: bool) -> Vec<What> {
    let mut faults = vec![What::OwnerKill, What::OwnerStopShort, What::OwnerStopLong, What::OwnerClockStep];
    if store != "file" {
        faults.extend([What::Cut, What::HoldAnswers, What::HoldRequests, What::HoldBoth]);
        faults.extend([What::Delay, What::SwallowAnswers, What::ServerStop]);
        if has_links {
            faults.extend([What::LinkDown, What::LinkDown, What::NetworkDown]);
        }
    }
    match store {
        "file" => faults.push(What::FilesGone),
        "redis" => faults.extend([
            What::ServerKill,
            What::FlushAll,
            What::ScriptFlush,
            What::KillPush,
            What::ClockStep,
        ]),
        "redis-replica" => faults.extend([What::Promotion; 4]),
        "etcd-1" => {
            faults.extend([What::ServerKill, What::RevokeLease, What::Compact, What::TokensEnd]);
        }
        "etcd-3" => {
            faults.extend([What::ServerKill, What::LeaderKill, What::RevokeLease, What::Compact]);
        }
        "zookeeper-1" => faults.extend([What::ServerKill, What::SessionEnd]),
        _ => faults.extend([What::ServerKill, What::LeaderKill, What::SessionEnd]),
    }
    faults
}

/// The kinds among them, each once.
fn kinds(mut faults: Vec<What>) -> Vec<What> {
    faults.sort_unstable();
    faults.dedup();
    faults
}

/// The names of all that can be done to a store.
#[must_use]
pub fn all(store: &str, has_links: bool) -> Vec<String> {
    kinds(possible(store, has_links)).into_iter().map(What::name).collect()
}

/// What each store of a pass owes, by name: all that can be done to it, or in a short pass a share of all that can be
/// done to stores of its sort, such that each is owed by one of them.
#[must_use]
pub fn shares(seed: u64, each: Duration, has_links: bool) -> Vec<(&'static str, Vec<String>)> {
    if each >= WHOLE {
        return STORES.into_iter().map(|store| (store, all(store, has_links))).collect();
    }
    let mut owed: BTreeMap<&str, Vec<What>> = STORES.into_iter().map(|store| (store, Vec::new())).collect();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut wanted: Vec<(&str, What)> = Vec::new();
    for store in STORES {
        wanted.extend(possible(store, has_links).into_iter().map(|what| (sort(store), what)));
    }
    wanted.sort_unstable();
    wanted.dedup();
    random.shuffle(&mut wanted);
    let stores = |(which, what): (&str, What)| -> Vec<&str> {
        let can = |store: &&str| sort(store) == which && possible(store, has_links).contains(&what);
        STORES.into_iter().filter(can).collect()
    };
    // What only one can do comes first, and then what takes long, each to who has the least to do.
    wanted.sort_by_key(|one| (stores(*one).len(), std::cmp::Reverse(one.1.takes())));
    for one in wanted {
        let load = |store: &&str| owed[store].iter().map(|what| what.takes()).sum::<u32>();
        if let Some(store) = stores(one).into_iter().min_by_key(load) {
            owed.entry(store).or_default().push(one.1);
        }
    }
    let named = |store| (store, owed[store].iter().copied().map(What::name).collect());
    STORES.into_iter().map(named).collect()
}

/// What a store has in common with others: it is the first word of their names.
fn sort(store: &str) -> &str {
    store.split('-').next().unwrap_or(store)
}

/// The faults of one run, in their order.
#[derive(Debug)]
pub(super) struct Deck {
    /// What is owed yet, the next one last, and how often it was dealt.
    owed: Vec<(What, u8)>,
    possible: Vec<What>,
}

impl Deck {
    /// Shuffles what is owed. The death of an owner comes first: how soon its locks go on is judged in calm alone.
    pub(super) fn new(owed: &[String], possible: Vec<What>, random: &mut fastrand::Rng) -> Self {
        let mut owed: Vec<(What, u8)> = kinds(possible.clone())
            .into_iter()
            .filter(|what| owed.contains(&what.name()))
            .map(|what| (what, 0))
            .collect();
        random.shuffle(&mut owed);
        owed.sort_by_key(|(what, _)| *what == What::OwnerKill);
        Deck { owed, possible }
    }

    /// Whether something is owed yet.
    pub(super) fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// The next one: of what is owed, or any.
    pub(super) fn next(&self, random: &mut fastrand::Rng) -> What {
        let any = self.possible[random.usize(0..self.possible.len())];
        self.owed.last().map_or(any, |(what, _)| *what)
    }

    /// Takes note whether the next one bit: what did not is owed again, a few times.
    pub(super) fn note(&mut self, bit: bool) {
        if let Some((what, tries)) = self.owed.pop()
            && !bit
            && tries + 1 < TRIES
        {
            self.owed.insert(0, (what, tries + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_pass_owes_everything_on_every_store() {
        for (store, owed) in shares(1, WHOLE, true) {
            assert_eq!(owed, all(store, true));
        }
    }

    #[test]
    fn a_short_pass_owes_everything_on_one_store_of_each_sort() {
        for seed in 0..50 {
            for has_links in [false, true] {
                let shares = shares(seed, Duration::from_secs(20), has_links);
                for (store, owed) in &shares {
                    assert!(
                        owed.iter().all(|kind| all(store, has_links).contains(kind)),
                        "{store}: {owed:?}"
                    );
                }
                for store in STORES {
                    for kind in all(store, has_links) {
                        let of_sort = shares.iter().filter(|(other, _)| sort(other) == sort(store));
                        let owing = of_sort.filter(|(_, owed)| owed.contains(&kind)).count();
                        assert_eq!(owing, 1, "{kind} of {store}, seed {seed}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_does_not_bite_is_dealt_again_but_not_for_ever() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut deck = Deck::new(&all("file", false), possible("file", false), &mut random);
        assert_eq!(deck.next(&mut random), What::OwnerKill);
        let mut dealt = Vec::new();
        while deck.owes() {
            let what = deck.next(&mut random);
            dealt.push(what);
            deck.note(what != What::FilesGone);
        }
        let count = |what| dealt.iter().filter(|other| **other == what).count();
        assert_eq!((count(What::FilesGone), dealt.len()), (usize::from(TRIES), 4 + usize::from(TRIES)));
    }
}
