//! Runs the conformance suite on every store. Tests are named `store::promise::sentence[/kind]`, and filtered
//! as usual.

use std::path::PathBuf;
use std::sync::Arc;

use globallock::{Backend, Memory};
use globallock_conformance::cases::{Trial, trials};
use globallock_conformance::faulty::Faulty;
use globallock_conformance::pauses::busy;
use globallock_conformance::store_under_test::StoreUnderTest;
use globallock_conformance::stores::{Role, StoreKind, kinds_with};
use libtest_mimic::{Arguments, Failed};

fn main() {
    let (filters, mut arguments) = arguments();
    // The cases mostly wait, so many can run at once. With more than 12, two processors would be the
    // bottleneck, and a store be silent for a lease when several crowds come at once.
    arguments.test_threads.get_or_insert(12);
    let wanted = |kind: &&StoreKind| {
        // A filter that begins with no store's name may be about all of them.
        let of_one = |filter: &String| {
            filter.starts_with("faulty")
                || kinds_with(Role::Suite).any(|other| filter.starts_with(other.scheme()))
        };
        let concerns = |filter: &String| filter.starts_with(kind.scheme()) || !of_one(filter);
        filters.is_empty() || filters.iter().any(concerns)
    };
    let running: Vec<_> =
        kinds_with(Role::Suite).filter(wanted).map(|kind| (kind.name, kind.started())).collect();
    let mut stores = vec![transparent()];
    stores.extend(running.iter().flat_map(|(kind, store)| store.under_test(kind, child())));
    let busy = busy();
    for store in &mut stores {
        store.lease *= busy;
    }
    let is_named = |trial: &Trial| {
        let names = |filter: &String| {
            if arguments.exact { trial.name() == *filter } else { trial.name().contains(filter.as_str()) }
        };
        filters.is_empty() || filters.iter().any(names)
    };
    let tests = side_by_side(stores.iter().map(trials).collect())
        .into_iter()
        .filter(is_named)
        .map(|trial| {
            libtest_mimic::Trial::test(trial.name(), move || {
                trial.run();
                Ok::<(), Failed>(())
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, tests);
    // The exit drops nothing, so the servers are dropped here.
    drop(running);
    conclusion.exit();
}

/// The filters of the cases, of which there may be several, and the other arguments.
fn arguments() -> (Vec<String>, Arguments) {
    const WITH_VALUE: [&str; 5] = ["--test-threads", "--logfile", "--skip", "--color", "--format"];
    let (mut filters, mut others) = (Vec::new(), Vec::new());
    let mut given = std::env::args();
    others.extend(given.next());
    while let Some(argument) = given.next() {
        if argument.starts_with('-') {
            let value = WITH_VALUE.contains(&argument.as_str()).then(|| given.next()).flatten();
            others.extend([argument].into_iter().chain(value));
        } else {
            filters.push(argument);
        }
    }
    (filters, Arguments::from_iter(others))
}

/// Interleaves the stores' cases, so that other stores use the machine while the cases of one store wait.
/// Each store starts at another case, so that the heaviest case does not run on all of them at once.
fn side_by_side(stores: Vec<Vec<Trial>>) -> Vec<Trial> {
    let count = stores.len();
    let mut numbered = Vec::new();
    for (store, mut trials) in stores.into_iter().enumerate() {
        let first = trials.len() * store / count;
        trials.rotate_left(first);
        numbered.extend(trials.into_iter().enumerate());
    }
    numbered.sort_by_key(|(number, _)| *number);
    numbered.into_iter().map(|(_, trial)| trial).collect()
}

/// The program of the owners that the cases kill.
fn child() -> Option<PathBuf> {
    Some(PathBuf::from(env!("CARGO_BIN_EXE_globallock-child")))
}

/// The wrapper that can fail. Without a fault it must change nothing.
fn transparent() -> StoreUnderTest {
    let store = Memory::new();
    StoreUnderTest::new("faulty", move || {
        let store = Faulty::new(Arc::clone(&store) as Arc<dyn Backend>) as Arc<dyn Backend>;
        async move { Ok(store) }
    })
}
