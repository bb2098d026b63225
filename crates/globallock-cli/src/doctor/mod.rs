//! The verb `doctor`: what a person should know of a store before trusting it with locks.
//!
//! First the store is examined, as each kind of store does it. Then a lock of two owners goes through all
//! that locks do: see [`trial`].

mod report;
mod trial;
mod witness;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use globallock::{Backend, Error, Finding, LockManager, ManagerOptions, Name, Options, Schemes};
use tokio::time::timeout;

use crate::address::{self, Sources};
use crate::arguments::{Store, Verbosity, time};
use crate::exit::{self, Failure};
use crate::random;
use crate::signals::Requests;
use report::{Output, Report};
use trial::{Progress, Trial};
use witness::Witness;

/// What `doctor` does, for its help.
pub(crate) const ABOUT: &str = "\
Examine a store before it is trusted with locks.

Says what the store is and what its version lacks, what it may forget and when, which rights this user \
lacks, how far the clocks of the store and of this host are apart, and how long a round trip takes. Then it \
takes a lock, hands it over to a second owner and breaks it, and sees whether the owners are told at once. \
Nothing is left behind. The names of these locks begin with --name, and nobody else uses them.

Each line begins with ok, note (worth knowing), unknown (the store does not tell), bad (to be changed before \
locks can be relied on) or denied (a right that is missing). A line below says what to do about it.";

/// The examples of `doctor --help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  The store that run and hold would use:
    globallock doctor
  Another one:
    globallock doctor redis://10.0.0.7
  As a user who may use some names only:
    globallock doctor --name reports/ redis://10.0.0.7
  For a program that checks it:
    globallock doctor -o json redis://10.0.0.7";

/// The lease of the locks that are tried, so that a waiter that nobody tells asks after a third of it.
const LEASE: Duration = Duration::from_secs(3);
/// How long this program waits at its end for releases that the store does not answer.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);
/// What the other side of these locks is called.
const LABEL: &str = "globallock doctor";

/// The arguments of `doctor`.
#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// The address of the store, as for --url.
    #[arg(value_name = "URL")]
    address: Option<String>,

    #[command(flatten)]
    store: Store,

    /// The longest that the examination may take. What it has taken by then is given back.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "10s")]
    timeout: Duration,

    /// What the names of the locks that are tried begin with.
    #[arg(long, value_name = "PREFIX", default_value = "globallock-doctor/")]
    name: String,

    /// How the findings are printed.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Output,

    #[command(flatten)]
    verbosity: Verbosity,
}

/// Examines the store and prints what is found.
pub(crate) fn main(schemes: &Schemes, arguments: &Doctor, sources: Sources) -> ExitCode {
    let quiet = arguments.verbosity.quiet;
    let examined = examined(schemes, arguments, sources);
    exit::code(examined.unwrap_or_else(|failure| failure.tell(quiet, exit::TAKEN)))
}

fn examined(schemes: &Schemes, arguments: &Doctor, sources: Sources) -> Result<u8, Failure> {
    let url = match &arguments.address {
        Some(address) => address::given(address, sources)?,
        None => address::choose(&arguments.store, sources)?,
    };
    let name = trial_name(&arguments.name)?;
    arguments.verbosity.set(name.as_str());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = Report::new(arguments.output, arguments.verbosity.quiet);
    let ended = runtime.block_on(examine(schemes, &url, &name, arguments.timeout, report));
    runtime.shutdown_background();
    ended
}

/// A name that nobody uses, below a prefix.
fn trial_name(prefix: &str) -> Result<Name, Failure> {
    Ok(Name::new(format!("{prefix}{}", random::digits::<16>()?))?)
}

/// Examines the store until it is done, it has taken too long, or a signal comes; and gives back what it has
/// taken, in each case. Returns the exit status.
async fn examine(
    schemes: &Schemes,
    url: &str,
    name: &Name,
    limit: Duration,
    mut report: Report,
) -> Result<u8, Failure> {
    let mut requests = Requests::listen()?;
    let witness = || Ok::<_, Error>(Arc::new(Witness::new(schemes.open(url)?)));
    let manager = |store: &Arc<Witness>| {
        let locks = Options::new().lease(LEASE).wait(limit).store_timeout(LEASE);
        let store: Arc<dyn Backend> = Arc::<Witness>::clone(store);
        LockManager::with_backend(store, ManagerOptions::new().label(LABEL).locks(locks))
    };
    let (managers, second_store) = match (witness(), witness()) {
        (Ok(first), Ok(second)) => ([manager(&first)?, manager(&second)?], second),
        (Err(error), _) | (_, Err(error)) => {
            let is_usage = matches!(error, Error::InvalidAddress { .. });
            return if is_usage { Err(error.into()) } else { report.unreached(error) };
        }
    };
    let [first, second] = &managers;
    let progress = Progress::default();
    let work = async {
        match first.examine(name).await {
            Ok(findings) => findings.iter().try_for_each(|finding| report.say(finding))?,
            Err(error) => return report.unreached(error).map(drop),
        }
        let trial = Trial { first, second, second_store: &second_store, name, progress: &progress };
        trial.run(&mut report).await
    };
    // What is dropped in the middle releases its locks in the background.
    let worked = tokio::select! {
        biased;
        signal = requests.next() => Err(signal),
        worked = timeout(limit, work) => Ok(worked),
    };
    let signal = match worked {
        Ok(Ok(worked)) => {
            worked?;
            None
        }
        Ok(Err(_)) => {
            let text = format!("not all was examined within {} s", limit.as_secs_f64());
            let remedy = "give it more time (--timeout), or look into the store";
            report.say(&Finding::bad("time", text).remedy(remedy))?;
            None
        }
        Err(signal) => Some(signal),
    };
    let closed = timeout(CLOSE_LIMIT, async { tokio::join!(first.close(), second.close()) }).await.is_ok();
    if progress.has_asked.get() {
        let left = timeout(CLOSE_LIMIT, trial::left(first, name, progress.broken.get())).await;
        report.say(&left.unwrap_or_else(|_| trial::unknown_rest(closed)))?;
    }
    match signal {
        Some(signal) => Ok(exit::of_signal(signal as i32)),
        None => report.end(first.backend().address()),
    }
}
