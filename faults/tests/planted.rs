//! The checker itself: stores with a bug are caught by the rule of the promise that they break, and a sound one is not.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use globallock::{Backend, LockManager, ManagerOptions, Options};
use globallock_conformance::faulty::{Fault, Faulty, Verb};
use globallock_faults::broken::{Broken, Bug};
use globallock_faults::check::{History, Report, Rule, Terms, check};
use globallock_faults::history::{FaultEvent, now};
use globallock_faults::log::Log;
use globallock_faults::owner::{Plan, run_over};
use globallock_faults::{registers, run};
use tempfile::TempDir;
use tokio::sync::watch;

const LEASE: Duration = Duration::from_millis(400);

/// Has five owners use a store, and judges what they logged. If one is cut off, its renewals do not arrive.
async fn judged(bug: Bug, is_cut_off: bool, length: Duration) -> Report {
    let directory = TempDir::new().unwrap();
    let store = Broken::new(bug);
    let lease = u64::try_from(LEASE.as_micros()).unwrap();
    let faults = Log::create(&directory.path().join("faults.jsonl")).unwrap();
    faults.write(&FaultEvent::Start { at: now(), store: "memory".to_owned(), seed: 0, lease });
    let registers =
        registers::start(&directory.path().join("register.jsonl"), [127, 0, 0, 1].into()).await.unwrap();
    let manager = |backend: Arc<dyn Backend>, owner: u32| {
        let locks = Options { lease: LEASE, ..Options::default() };
        LockManager::over(backend, ManagerOptions { locks, label: Some(format!("owner-{owner}")) }).unwrap()
    };
    let observer = run::observe(manager(store.clone(), 99), directory.path()).unwrap();
    let began = now();
    let (stopping, stop) = watch::channel(false);
    let mut owners = Vec::new();
    for owner in 0..5 {
        let behind = Faulty::new(store.clone());
        if owner == 0 && is_cut_off {
            behind.always(Verb::Renew, Fault::Refuse);
        }
        let plan = Plan {
            url: String::new(),
            registers,
            log: directory.path().join(format!("owner-{owner}.jsonl")),
            owner,
            seed: u64::from(owner),
            lease,
            limit: 3_000_000,
            long: 30,
            locks: run::locks(),
        };
        owners.push(tokio::spawn(run_over(manager(behind, owner), plan, stop.clone())));
    }
    tokio::time::sleep(length).await;
    stopping.send_replace(true);
    for owner in owners {
        owner.await.unwrap().unwrap();
    }
    observer.abort();
    if is_cut_off {
        let (kind, proof) = ("renewals_refused".to_owned(), String::new());
        let (owner, bit, forgets) = (Some(0), true, false);
        faults.write(&FaultEvent::Fault { at: began, mended: now(), kind, owner, proof, bit, forgets });
    }
    tokio::time::sleep(LEASE * 2).await;
    let left = manager(store, 98).names("").map(|name| name.unwrap().to_string()).collect().await;
    faults.write(&FaultEvent::Left { at: now(), left });
    faults.write(&FaultEvent::End { at: now() });
    let terms = Terms { slack: 800_000, ..Terms::default() };
    check(&History::read(directory.path()).unwrap(), terms)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_store_is_not_blamed() {
    let report = judged(Bug::None, false, Duration::from_secs(5)).await;
    assert!(report.violations.is_empty(), "{report}");
    assert!(report.all_grants() > 500 && report.pairs > 0 && report.losses == 0, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_store_is_not_blamed_for_an_owner_that_is_cut_off() {
    let report = judged(Bug::None, true, Duration::from_secs(5)).await;
    assert!(report.violations.is_empty(), "{report}");
    assert!(report.all_grants() > 500 && report.losses > 0, "{report}");
}

/// One test for each bug: it is caught by the rule of the promise that it breaks.
macro_rules! caught {
    ($($name:ident: $bug:ident by $rule:ident;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let report = judged(Bug::$bug, Bug::$bug == Bug::PromisesTooLong, Duration::from_secs(5)).await;
            assert!(report.violates(Rule::$rule), "{report}");
        })*
    };
}

caught! {
    a_store_that_grants_to_all_is_caught: GrantsToAll by Exclusion;
    a_store_that_repeats_tokens_is_caught: RepeatsTokens by Tokens;
    a_store_whose_tokens_fall_is_caught: TokensFall by Tokens;
    a_store_whose_tokens_fall_is_caught_at_the_register: TokensFall by BelievedWrites;
    a_store_whose_tokens_begin_anew_is_caught: TokensRestart by Tokens;
    a_store_whose_claims_share_a_token_is_caught: SharesTokens by Tokens;
    a_store_that_promises_too_long_is_caught: PromisesTooLong by Exclusion;
    a_store_that_forgets_renewals_is_caught: ForgetsRenewals by Exclusion;
    a_store_that_lets_in_the_impatient_is_caught: LetsInTheImpatient by Exclusion;
    a_store_that_grants_to_the_newest_is_caught: NewestFirst by Queue;
    a_store_that_loses_wake_ups_is_caught: LosesWakeUps by Progress;
    a_store_that_drops_waiters_is_caught: DropsWaiters by Queue;
    a_store_that_takes_writers_for_readers_is_caught: WritersRead by Exclusion;
    a_store_that_counts_claims_for_permits_is_caught: CountsClaims by Exclusion;
    a_store_whose_departures_take_others_out_is_caught: LeavesForOthers by Exclusion;
}
