//! What all verbs share that look at a store, and act on what others hold.

pub(crate) mod away;
pub(crate) mod board;
pub(crate) mod rows;
pub(crate) mod select;
pub(crate) mod table;
pub(crate) mod text;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use globallock::{LockManager, ManagerOptions, Options, Schemes};

use crate::address::{self, Sources};
use crate::arguments::{Store, Verbosity, time};
use crate::exit::{self, Failure};

/// Which store is looked at, for how long at most, and what is said about it.
#[derive(Args, Debug)]
pub(crate) struct Looking {
    #[command(flatten)]
    pub(crate) store: Store,

    /// How long the store may take to answer.
    #[arg(long, value_name = "TIME", value_parser = some_time, default_value = "10s")]
    pub(crate) timeout: Duration,

    #[command(flatten)]
    pub(crate) verbosity: Verbosity,
}

fn some_time(text: &str) -> Result<Duration, String> {
    match time(text)? {
        Duration::ZERO => Err("no store answers in no time".to_owned()),
        time => Ok(time),
    }
}

impl Looking {
    /// Looks at the store and returns the exit status: that of the work, or of its failure, which is said.
    ///
    /// The owner that the store is told, where it is told anything, has this label.
    pub(crate) fn look(
        &self,
        schemes: &Schemes,
        sources: Sources,
        label: Option<&str>,
        work: impl AsyncFnOnce(&LockManager) -> Result<u8, Failure>,
    ) -> ExitCode {
        let looked = || {
            let url = address::choose(&self.store, sources)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let looked = runtime.block_on(async {
                let locks = Options::new().store_timeout(self.timeout);
                let options = ManagerOptions::new().locks(locks);
                let options = match label {
                    Some(label) => options.label(label),
                    None => options,
                };
                let manager = LockManager::connect_lazy_by(schemes, &url, options)?;
                let looked = work(&manager).await;
                manager.close().await;
                looked
            });
            runtime.shutdown_background();
            looked
        };
        exit::code(looked().unwrap_or_else(|failure| failure.tell(self.verbosity.quiet, exit::TAKEN)))
    }
}
