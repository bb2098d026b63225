//! The cases, a file for each promise. A case is a sentence that must be true of every store.

mod blocking;
mod contract;
mod crash;
mod deadlocks;
mod evicting;
mod examining;
mod exclusion;
mod fencing;
mod fifo;
mod held_at_least;
mod leaks;
mod listing;
mod loss;
mod max_hold;
mod names;
mod once;
mod residue;
mod sharing;
mod together;
mod unknown;
mod value;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use globallock::backend::CrashRelease;

use crate::context::Context;
use crate::store_under_test::StoreUnderTest;

/// The longest that a case may take.
const LIMIT: Duration = Duration::from_secs(120);
/// The kinds of lock that a case about mutual exclusion runs over.
const KINDS: [&str; 3] = ["mutex", "write", "1/1"];

/// What a case needs of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Claims that expire with their lease.
    Lease,
    /// Owner processes: a store that outlives its owners, its address, and the owner's program.
    Owner,
    /// Owner processes, and claims that expire with their lease.
    OwnerWithLease,
    /// A way to delete claims without their owners' knowledge.
    Sabotage,
    /// A way to list what is left of a name.
    Residue,
    /// Values beside the queues.
    Values,
    /// Claims that are kept beyond their owners.
    Keeping,
    /// Such claims, and owner processes.
    OwnerWithKeeping,
    /// A store that keeps no claims beyond their owners.
    NoKeeping,
    /// Values, and a way to list what is left of a name.
    ValuesAndResidue,
}

/// A sentence about every store, and the function that checks it.
#[derive(Clone)]
pub struct Case {
    promise: &'static str,
    sentence: &'static str,
    over_kinds: bool,
    needs: Option<Need>,
    run: fn(Context) -> LocalBoxFuture<'static, ()>,
}

impl Case {
    fn new(
        promise: &'static str,
        sentence: &'static str,
        run: fn(Context) -> LocalBoxFuture<'static, ()>,
    ) -> Self {
        Case { promise, sentence, over_kinds: false, needs: None, run }
    }

    fn over_kinds(self) -> Self {
        Case { over_kinds: true, ..self }
    }

    fn needs(self, need: Need) -> Self {
        Case { needs: Some(need), ..self }
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.promise, self.sentence)
    }
}

/// Makes a case of a function.
macro_rules! case {
    ($promise:literal, $function:ident) => {
        $crate::cases::Case::new($promise, stringify!($function), |context| Box::pin($function(context)))
    };
}
use case;

/// One case on one store.
#[derive(Clone, Debug)]
pub struct Trial {
    case: Case,
    kind: &'static str,
    store: StoreUnderTest,
}

impl Trial {
    /// `store::promise::sentence`, with `/kind` where the case runs over several kinds of lock.
    #[must_use]
    pub fn name(&self) -> String {
        let kind = if self.case.over_kinds { format!("/{}", self.kind) } else { String::new() };
        format!("{}::{:?}{kind}", self.store.kind, self.case)
    }

    /// Runs the case on its own thread and runtime.
    ///
    /// # Panics
    /// When the sentence is not true of the store, or when the case does not end in time; then its thread
    /// keeps running.
    pub fn run(&self) {
        let (sender, ended) = mpsc::channel();
        let (case, context) = (self.case.clone(), Context::new(&self.store, self.case.sentence, self.kind));
        let thread = thread::Builder::new().name(self.name()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime can be made");
            let result = catch_unwind(AssertUnwindSafe(|| runtime.block_on((case.run)(context))));
            // A failed case may have left a blocking task behind, so the runtime must not be waited for.
            runtime.shutdown_background();
            // After the time limit nobody receives the result.
            let _ = sender.send(result);
        });
        thread.expect("a thread can be started");
        match ended.recv_timeout(LIMIT) {
            Ok(Ok(())) => {}
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => panic!("{} takes longer than {LIMIT:?}", self.name()),
        }
    }
}

/// All cases.
#[must_use]
pub fn cases() -> Vec<Case> {
    [
        contract::cases(),
        crash::cases(),
        deadlocks::cases(),
        evicting::cases(),
        examining::cases(),
        exclusion::cases(),
        blocking::cases(),
        fencing::cases(),
        fifo::cases(),
        held_at_least::cases(),
        leaks::cases(),
        listing::cases(),
        loss::cases(),
        max_hold::cases(),
        names::cases(),
        once::cases(),
        residue::cases(),
        sharing::cases(),
        together::cases(),
        unknown::cases(),
        value::cases(),
    ]
    .concat()
}

/// All cases that can run on a store, each over all its kinds of lock.
///
/// # Panics
/// When the store cannot be opened.
#[must_use]
pub fn trials(store: &StoreUnderTest) -> Vec<Trial> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let capabilities =
        runtime.block_on(async { (store.open)().await.expect("the store answers").capabilities() });
    let crash_release = capabilities.crash_release;
    let has = |need: Need| match need {
        Need::Lease => crash_release != CrashRelease::ProcessEnd,
        Need::Owner => crash_release != CrashRelease::Never && store.url.is_some() && store.child.is_some(),
        Need::OwnerWithLease => {
            crash_release == CrashRelease::Lease && store.url.is_some() && store.child.is_some()
        }
        Need::Sabotage => store.sabotage.is_some(),
        Need::Residue => store.residue.is_some(),
        Need::Keeping => capabilities.keeps_after_owner,
        Need::OwnerWithKeeping => {
            capabilities.keeps_after_owner
                && crash_release != CrashRelease::Never
                && store.url.is_some()
                && store.child.is_some()
        }
        Need::NoKeeping => !capabilities.keeps_after_owner,
        Need::Values => capabilities.keeps_values,
        Need::ValuesAndResidue => capabilities.keeps_values && store.residue.is_some(),
    };
    let mut trials = Vec::new();
    for case in cases() {
        if case.needs.is_none_or(has) {
            let kinds = if case.over_kinds { &KINDS[..] } else { &KINDS[..1] };
            let trial = |kind: &&'static str| Trial { case: case.clone(), kind, store: store.clone() };
            trials.extend(kinds.iter().map(trial));
        }
    }
    trials
}
