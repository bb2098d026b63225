//! The verb `setup`: makes what a store needs before it can hold locks.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use globallock::{Backend, Error, Schemes};
use tokio::time::{Instant, sleep, timeout_at};

use crate::address::{self, Sources};
use crate::exit::{self, Failure};
use crate::log;
use crate::onlook::Looking;
use crate::onlook::text::print;

/// What `setup` does, for its help.
pub(crate) const ABOUT: &str = "\
Set a store up for locks.

Makes what the store needs before it can hold locks, such as the tables in a database, or brings it to this \
version. What is there already stays, with all locks, so that this can be done as often as you like. It \
needs more rights than locks do. A store that needs nothing says so.";

/// The examples of `setup --help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  As the owner of the database, whose password is in ~/.pgpass:
    globallock setup postgres://owner@10.0.0.7/locks
  By other means, or to read it first:
    globallock setup --print postgres://10.0.0.7/locks | psql -d locks";

/// The pause before a store that did not answer is asked again.
const AGAIN: Duration = Duration::from_millis(200);

/// The arguments of `setup`.
#[derive(Args, Debug)]
pub(crate) struct Setup {
    /// The address of the store, as for --url.
    #[arg(value_name = "URL")]
    address: Option<String>,

    #[command(flatten)]
    looking: Looking,

    /// Print what would be run, and ask no store.
    #[arg(long)]
    print: bool,
}

/// Sets the store up, and returns the exit status.
pub(crate) fn main(schemes: &Schemes, arguments: &Setup, sources: Sources) -> ExitCode {
    let verbosity = &arguments.looking.verbosity;
    verbosity.set_without_name();
    let done = arguments.set_up(schemes, sources);
    exit::code(done.map_or_else(|failure| failure.tell(verbosity.quiet, exit::TAKEN), |()| 0))
}

impl Setup {
    fn set_up(&self, schemes: &Schemes, sources: Sources) -> Result<(), Failure> {
        let url = match &self.address {
            Some(address) => address::given(address, sources)?,
            None => address::choose(&self.looking.store, sources)?,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let done = runtime.block_on(async {
            let store = schemes.open(&url)?;
            if self.print {
                match store.set_up_script() {
                    // Who reads no more has seen enough.
                    Some(script) => drop(print(&script)?),
                    None => log::warning("nothing")
                        .say(format_args!("nothing to print: {} needs no setup", store.address())),
                }
                return Ok(());
            }
            let done = done_by(&*store, Instant::now() + self.looking.timeout).await?;
            if !self.looking.verbosity.quiet {
                print(&format!("{}: {done}\n", store.address()))?;
            }
            Ok(())
        });
        runtime.shutdown_background();
        done
    }
}

/// Asks a store that does not answer again, because it may be starting.
async fn done_by(store: &dyn Backend, until: Instant) -> Result<String, Error> {
    let mut last = None;
    loop {
        match timeout_at(until, store.set_up()).await {
            Ok(Err(error @ Error::Unavailable { .. })) => last = Some(error),
            Ok(done) => return done,
            Err(_) => {}
        }
        if Instant::now() + AGAIN >= until {
            let silent = || Error::unavailable(store.address(), "it was not set up in time (--timeout)");
            return Err(last.unwrap_or_else(silent));
        }
        sleep(AGAIN).await;
    }
}
