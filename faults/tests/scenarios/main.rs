//! Scenarios: failures that other distributed locks have had, one scenario each, on every store that can have
//! them. Tests are named `store::sentence`, and filtered as usual.

mod cancelled;
mod filter;
mod first;
mod killed;
mod names;
mod notifications;
mod releasing;
mod renewals;
mod silence;
mod store;
mod suspended;
mod swallowed;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use globallock_conformance::stores::{Role, StoreKind, Trait, kinds_with};
use libtest_mimic::{Arguments, Failed, Trial};

use store::Store;

/// What a scenario needs of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// Owners in other processes.
    Processes,
    /// A server, in front of which a proxy can stand.
    Server,
    /// A server, and a store that itself repeats a release that got no answer.
    RepeatedReleases,
}

/// A sentence, what it needs, and the function that checks it.
type Scenario = (&'static str, Need, fn(Store) -> LocalBoxFuture<'static, ()>);

/// Makes a scenario of a function.
macro_rules! scenario {
    ($module:ident::$function:ident, $need:ident) => {
        (stringify!($function), Need::$need, |store| $module::$function(store).boxed_local())
    };
}

const SCENARIOS: &[Scenario] = &[
    scenario!(cancelled::a_cancelled_acquire_leaves_nothing, Nothing),
    scenario!(first::the_first_request_waits_for_the_store, Server),
    scenario!(first::onlookers_wait_for_the_store_as_locks_do, Server),
    scenario!(killed::a_killed_owner_is_passed_over, Processes),
    scenario!(names::names_that_are_parts_of_each_other_are_independent, Nothing),
    scenario!(notifications::a_lost_notification_delays_by_a_lease_at_most, Server),
    scenario!(releasing::a_claim_under_release_is_never_held, RepeatedReleases),
    scenario!(renewals::failed_renewals_do_not_end_renewal, Server),
    scenario!(silence::a_lock_of_a_silent_store_is_lost_by_its_deadline, Server),
    scenario!(suspended::a_lock_is_lost_at_the_first_look_after_a_suspension, Processes),
    scenario!(swallowed::a_swallowed_answer_delays_by_a_lease_at_most, Server),
];

fn main() {
    let mut arguments = Arguments::from_args();
    // The scenarios mostly wait.
    arguments.test_threads.get_or_insert(4);
    let on_each = |scenario: &'static Scenario| {
        let can = move |kind: &&'static StoreKind| match scenario.1 {
            Need::Nothing => true,
            Need::Processes => kind.is(Trait::BetweenProcesses),
            Need::Server => kind.servers > 0,
            Need::RepeatedReleases => kind.servers > 0 && kind.is(Trait::RepeatsReleases),
        };
        kinds_with(Role::Scenarios).filter(can).map(move |kind| trial(scenario, kind))
    };
    libtest_mimic::run(&arguments, SCENARIOS.iter().flat_map(on_each).collect()).exit();
}

fn trial(scenario: &'static Scenario, kind: &'static StoreKind) -> Trial {
    let (sentence, _, run) = *scenario;
    Trial::test(format!("{}::{sentence}", kind.name), move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime can be made").block_on(run(Store::start(kind)));
        Ok::<(), Failed>(())
    })
}
