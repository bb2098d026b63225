//! Ten thousand waiters on one name, on every store: `cargo test --test crowds -- redis`.

use std::path::PathBuf;
use std::time::Duration;

use globallock_conformance::crowd::crowd;
use globallock_conformance::pauses::busy;
use globallock_conformance::stores::{Role, StoreKind, kinds_with};
use libtest_mimic::{Arguments, Failed, Trial};

/// The lease of all claims on an idle machine. It is longer on a busy one.
const LEASE: Duration = Duration::from_secs(5);
/// The longest that one store may take.
const LIMIT: Duration = Duration::from_secs(180);

fn main() {
    let mut arguments = Arguments::from_args();
    // One at a time, because each crowd uses the whole machine.
    arguments.test_threads.get_or_insert(1);
    let trials = kinds_with(Role::Scenarios).map(trial).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial(kind: &'static StoreKind) -> Trial {
    let name = format!("{}::ten_thousand_waiters_on_one_name_cost_nobody_a_lock", kind.name);
    Trial::test(name, move || {
        let store = kind.started();
        let subject = store.under_test(kind.name, child()).swap_remove(0);
        let (url, child) = match subject.url {
            Some(url) => (url, subject.child),
            None => (store.url(), None),
        };
        run(&url, child, LEASE * busy());
        Ok::<(), Failed>(())
    })
}

/// The program of the members that are killed.
fn child() -> Option<PathBuf> {
    Some(PathBuf::from(env!("CARGO_BIN_EXE_globallock-child")))
}

fn run(url: &str, child: Option<PathBuf>, lease: Duration) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let ended = runtime.block_on(async { tokio::time::timeout(LIMIT, crowd(url, child, lease)).await });
    runtime.shutdown_background();
    assert!(ended.is_ok(), "it takes longer than {LIMIT:?}");
}
