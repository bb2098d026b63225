//! The conformance suite on the store of the example `custom_store`, and what it does with its directory.

#[path = "../custom_store/ledger.rs"]
mod ledger;

use std::fs::File;
use std::path::{Path, PathBuf};

use globallock::Name;
use globallock_conformance::cases::trials;
use globallock_conformance::child;
use globallock_conformance::pauses::busy;
use globallock_conformance::store_under_test::StoreUnderTest;
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

fn main() {
    let owner: Vec<String> = std::env::args().skip(1).collect();
    if owner.first().is_some_and(|url| url.starts_with("ledger:")) {
        return own(&owner);
    }
    let mut arguments = Arguments::from_args();
    // The cases mostly wait.
    arguments.test_threads.get_or_insert(8);
    // In memory if possible: a file system may write a file to the disk when it takes the place of another.
    let parent = Some(PathBuf::from("/dev/shm")).filter(|parent| parent.is_dir());
    let directory = tempfile::tempdir_in(parent.unwrap_or_else(std::env::temp_dir));
    let directory = directory.expect("a directory can be made");
    let mut store = store(directory.path().join("ledger"));
    // Ledgers are read and written as a whole, which takes a while in a test build.
    store.lease *= 5 * busy();
    let cases = trials(&store).into_iter().map(|trial| {
        Trial::test(trial.name(), move || {
            trial.run();
            Ok::<(), Failed>(())
        })
    });
    let conclusion = libtest_mimic::run(&arguments, cases.collect());
    // The exit drops nothing, so the directory is dropped here.
    drop(directory);
    conclusion.exit();
}

/// Is a process that owns one lock, for cases to kill and stop.
#[tokio::main]
async fn own(arguments: &[String]) {
    child::run_by(&ledger::schemes(), arguments).await;
    // The thread that reads standard input would keep the process alive.
    std::process::exit(0);
}

fn store(directory: PathBuf) -> StoreUnderTest {
    let url = format!("ledger://{}", directory.display());
    let other = directory.clone();
    // This program is the owners' as well.
    StoreUnderTest::at_by(&ledger::schemes(), "ledger", &url, std::env::current_exe().ok())
        .with_sabotage(move |name| {
            let directory = directory.clone();
            async move { take_all_out(&directory, &name) }
        })
        .with_residue(move |name| {
            let left =
                ledgers(&other).into_iter().filter(|(_, ledger)| !ledger["queues"][name.as_str()].is_null());
            let left = left.map(|(file, _)| file.display().to_string()).collect();
            async move { left }
        })
}

/// The ledgers of a directory.
fn ledgers(directory: &Path) -> Vec<(PathBuf, Value)> {
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let ledgers = files.filter(|file| file.extension().is_some_and(|end| end == "json"));
    ledgers
        .map(|file| (file.clone(), serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()))
        .collect()
}

/// Strikes the claims of a name out of its ledger, as a user with an editor would.
fn take_all_out(directory: &Path, name: &Name) {
    for (file, _) in ledgers(directory) {
        let lock = File::create(file.with_extension("lock")).unwrap();
        lock.lock().unwrap();
        let mut ledger: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        if ledger["queues"].as_object_mut().unwrap().remove(name.as_str()).is_some() {
            std::fs::write(&file, serde_json::to_vec(&ledger).unwrap()).unwrap();
        }
    }
}
