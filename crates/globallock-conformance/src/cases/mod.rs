//! The promises, one file each: a case is a sentence about every store.

mod contract;
mod crash;
mod exclusion;
mod blocking;
mod fencing;
mod fifo;
mod leaks;
mod listing;
mod loss;
mod max_hold;
mod names;
mod residue;
mod sharing;
mod together;
mod unknown;

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
    /// Claims that end with their lease.
    Lease,
    /// A store that outlives its owners, an address, and the owner's program.
    Owner,
    /// An owner, and claims that end with their lease.
    OwnerWithLease,
    /// A way to take claims away.
    Sabotage,
    /// A list of what stays.
    Residue,
}

/// A sentence about every store, and how to see whether it is true.
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
    /// `store::promise::sentence`, with `/kind` where the case runs over several.
    #[must_use]
    pub fn name(&self) -> String {
        let kind = if self.case.over_kinds { format!("/{}", self.kind) } else { String::new() };
        format!("{}::{:?}{kind}", self.store.kind, self.case)
    }

    /// Runs the case on a thread and a runtime of its own.
    ///
    /// # Panics
    /// When the sentence is not true of the store, or the case does not end: its thread is left alone then.
    pub fn run(&self) {
        let (tell, ended) = mpsc::channel();
        let (case, context) = (self.case.clone(), Context::new(&self.store, self.case.sentence, self.kind));
        let thread = thread::Builder::new().name(self.name()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime can be made");
            let result = catch_unwind(AssertUnwindSafe(|| runtime.block_on((case.run)(context))));
            // A case that failed may have left something behind that blocks.
            runtime.shutdown_background();
            // Nobody hears it who has given up.
            let _ = tell.send(result);
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
        exclusion::cases(),
        blocking::cases(),
        fencing::cases(),
        fifo::cases(),
        leaks::cases(),
        listing::cases(),
        loss::cases(),
        max_hold::cases(),
        names::cases(),
        residue::cases(),
        sharing::cases(),
        together::cases(),
        unknown::cases(),
    ]
    .concat()
}

/// All cases that a store can be asked about, over all kinds of lock.
///
/// # Panics
/// When the store cannot be opened.
#[must_use]
pub fn trials(store: &StoreUnderTest) -> Vec<Trial> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let profile =
        runtime.block_on(async { (store.open)().await.expect("the store answers").capabilities() });
    let has = |need: Need| match need {
        Need::Lease => profile.crash_release != CrashRelease::ProcessEnd,
        Need::Owner => {
            profile.crash_release != CrashRelease::Never && store.url.is_some() && store.child.is_some()
        }
        Need::OwnerWithLease => {
            profile.crash_release == CrashRelease::Lease && store.url.is_some() && store.child.is_some()
        }
        Need::Sabotage => store.sabotage.is_some(),
        Need::Residue => store.residue.is_some(),
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
