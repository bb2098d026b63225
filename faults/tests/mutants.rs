//! The checker itself: each mutant of a store is caught by the rule of the promise that it breaks, and a
//! sound store is not blamed.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use globallock::{Backend, LockManager, ManagerOptions, Options};
use globallock_conformance::faulty::{Fault, Faulty, Verb};
use globallock_faults::check::{History, Report, Rule, check};
use globallock_faults::history::{FaultEvent, Terms, now};
use globallock_faults::log::Log;
use globallock_faults::mutants::{Bug, Mutant};
use globallock_faults::owner::{Plan, run_over};
use globallock_faults::{registers, run};
use tempfile::TempDir;
use tokio::sync::watch;

const LEASE: Duration = Duration::from_millis(400);

/// The connections between owners and the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connections {
    Open,
    /// The renewals of one owner fail.
    CutOff,
    /// Renewals are slow, so that their answers may come after a grant.
    Slow,
}

/// Lets five owners use a store, and judges their logs. If these are not `enough`, it tries again for a
/// longer time, because on a busy machine less happens in the same time.
async fn judged(bug: Bug, connections: Connections, enough: impl Fn(&Report) -> bool) -> Report {
    let mut report = None;
    for seconds in [5, 10, 20] {
        let directory = TempDir::new().unwrap();
        use_store(directory.path(), bug, connections, Duration::from_secs(seconds), LEASE).await;
        let judged = report.insert(check(&History::read(directory.path()).unwrap()));
        if enough(judged) {
            break;
        }
    }
    report.unwrap()
}

/// Whether the store was blamed, or was used so much that a bug would have shown.
fn is_enough(report: &Report) -> bool {
    report.calm_grants > 500 || !report.violations.is_empty()
}

/// The same where an owner is cut off, and must lose something.
fn is_enough_with_losses(report: &Report) -> bool {
    report.all_grants() > 500 && report.all_losses() > 0 || !report.violations.is_empty()
}

/// Lets five owners use a store for a while, and leaves their logs.
async fn use_store(directory: &Path, bug: Bug, connections: Connections, length: Duration, lease: Duration) {
    let store = Mutant::new(bug);
    let microseconds = u64::try_from(lease.as_micros()).unwrap();
    let faults = Log::create(&directory.join("faults.jsonl")).unwrap();
    let terms = Terms { slack: 800_000, ..Terms::default() };
    let (name, owed) = ("memory".to_owned(), Vec::new());
    faults.write(&FaultEvent::Start { at: now(), store: name, seed: 0, lease: microseconds, terms, owed });
    let registers = registers::start(&directory.join("register.jsonl"), [127, 0, 0, 1].into()).await.unwrap();
    let manager = |backend: Arc<dyn Backend>, owner: u32| {
        let locks = Options::new().lease(lease);
        LockManager::with_backend(backend, ManagerOptions::new().locks(locks).label(format!("owner-{owner}")))
            .unwrap()
    };
    let observer = run::observe(manager(store.clone(), 99), directory).unwrap();
    let began = now();
    let (stopping, stop) = watch::channel(false);
    let mut owners = Vec::new();
    for owner in 0..5 {
        let behind = Faulty::new(store.clone());
        match connections {
            Connections::CutOff if owner == 0 => behind.always(Verb::Renew, Fault::Refuse),
            Connections::Slow => behind.always(Verb::Renew, Fault::Delay(lease / 16)),
            Connections::Open | Connections::CutOff => {}
        }
        let plan = Plan {
            url: String::new(),
            registers,
            log: directory.join(format!("owner-{owner}.jsonl")),
            owner,
            seed: 0,
            lease: microseconds,
            limit: 3_000_000,
            // If renewals fail, it is enough that one owner holds for long: the releases of the others show
            // that the store answers.
            long: match bug {
                Bug::RefusesRenewals if owner == 0 => 5,
                Bug::RefusesRenewals => 0,
                _ => 30,
            },
            values: 300,
            // An eviction would end some waits that another bug makes too long.
            evictions: match bug {
                Bug::None
                | Bug::EvictsTheNextHolder
                | Bug::EvictsAll
                | Bug::EvictsNothing
                | Bug::ConfirmsEveryEviction => 20_000,
                _ => 0,
            },
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
    if connections == Connections::CutOff {
        let (kind, proof) = ("renewals_refused".to_owned(), String::new());
        let (owner, took_effect, forgets) = (Some(0), true, false);
        faults.write(&FaultEvent::Fault {
            at: began,
            mended: now(),
            kind,
            owner,
            proof,
            took_effect,
            forgets,
        });
    }
    tokio::time::sleep(lease * 2).await;
    let left = manager(store, 98).list("").map(|listed| listed.unwrap().name.to_string()).collect().await;
    faults.write(&FaultEvent::Left { at: now(), left });
    faults.write(&FaultEvent::End { at: now() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_store_is_not_blamed() {
    let report = judged(Bug::None, Connections::Open, is_enough).await;
    assert!(report.violations.is_empty(), "{report}");
    assert!(
        report.all_grants() > 500
            && report.pairs > 0
            && report.all_losses() == report.paused + report.losses.get("evicted").copied().unwrap_or(0)
            && report.told > 10
            && report.at_once > 10
            && report.evictions["not_held"] > 10
            && report.calm_grants > 500,
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_store_is_not_blamed_for_an_owner_that_is_cut_off() {
    let report = judged(Bug::None, Connections::CutOff, is_enough_with_losses).await;
    assert!(report.violations.is_empty(), "{report}");
    assert!(report.all_grants() > 500 && report.all_losses() > 0, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_store_is_not_blamed_for_slow_renewals() {
    let report = judged(Bug::None, Connections::Slow, is_enough).await;
    assert!(report.violations.is_empty(), "{report}");
    assert!(report.calm_grants > 500, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_renews_nothing_is_caught_or_its_losses_are_counted() {
    for _ in 0..3 {
        let (directory, lease) = (TempDir::new().unwrap(), Duration::from_secs(4));
        use_store(directory.path(), Bug::RefusesRenewals, Connections::Open, lease * 3, lease).await;
        let report = check(&History::read(directory.path()).unwrap());
        if report.violates(Rule::Unprovoked) {
            return;
        }
        // While the machine makes others wait too, an expired lease proves nothing; but each of them is
        // counted.
        let expired = report.losses.get("expired").copied().unwrap_or(0);
        assert!(expired > 0 && report.paused == expired, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_that_were_kept_are_judged_again_as_they_were() {
    let directory = TempDir::new().unwrap();
    use_store(directory.path(), Bug::GrantsToAll, Connections::Open, Duration::from_secs(1), LEASE).await;
    let report = check(&History::read(directory.path()).unwrap());
    assert!(report.violates(Rule::Exclusion), "{report}");
    let program = env!("CARGO_BIN_EXE_globallock-faults");
    let again = Command::new(program).arg("check").arg(directory.path()).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(String::from_utf8(again.stdout).unwrap(), report.to_string());
}

/// One test for each mutant: it is caught by the rule of the promise that it breaks.
macro_rules! caught {
    ($($name:ident: $bug:ident by $rule:ident;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let is_cut_off = Bug::$bug == Bug::PromisesTooLong;
            let connections = if is_cut_off { Connections::CutOff } else { Connections::Open };
            let report = judged(Bug::$bug, connections, |report| report.violates(Rule::$rule)).await;
            assert!(report.violates(Rule::$rule), "{report}");
        })*
    };
}

caught! {
    a_store_that_grants_to_all_is_caught: GrantsToAll by Exclusion;
    a_store_that_repeats_tokens_is_caught: RepeatsTokens by Tokens;
    a_store_whose_tokens_fall_is_caught: TokensFall by Tokens;
    a_store_whose_tokens_fall_is_caught_at_the_register: TokensFall by BelievedWrites;
    a_store_whose_tokens_start_again_is_caught: TokensRestart by Tokens;
    a_store_whose_claims_share_a_token_is_caught: SharesTokens by Tokens;
    a_store_that_promises_too_long_is_caught: PromisesTooLong by Exclusion;
    a_store_that_forgets_renewals_is_caught: ForgetsRenewals by Exclusion;
    a_store_whose_tries_pass_the_queue_is_caught: TriesPassTheQueue by Exclusion;
    a_store_that_grants_the_newest_first_is_caught: GrantsNewestFirst by Queue;
    a_store_that_loses_wake_ups_is_caught: LosesWakeUps by Progress;
    a_store_that_drops_waiters_is_caught: DropsWaiters by Queue;
    a_store_that_counts_writers_as_readers_is_caught: CountsWritersAsReaders by Exclusion;
    a_store_that_counts_claims_as_permits_is_caught: CountsClaimsAsPermits by Exclusion;
    a_store_whose_releases_release_others_is_caught: ReleasesOthers by Exclusion;
    a_store_that_lets_all_write_values_is_caught: LetsAllWriteValues by Values;
    a_store_whose_evictions_hit_the_next_holder_is_caught: EvictsTheNextHolder by Evictions;
    a_store_whose_evictions_hit_all_is_caught: EvictsAll by Evictions;
    a_store_that_evicts_nothing_is_caught: EvictsNothing by Evictions;
    a_store_that_confirms_every_eviction_is_caught: ConfirmsEveryEviction by Evictions;
    a_store_that_revokes_without_reason_is_caught: RevokesAtWill by Unprovoked;
}
