//! `globallock serve`: the locks of a store on a web page, as JSON, and as metrics.
//!
//! One look at the store serves all that ask, because the looks are shared. Whoever asks is untrusted until
//! its request has passed the gate; what the store says is untrusted text for good.

mod api;
mod arguments;
mod breaking;
mod changes;
mod events;
mod files;
mod gate;
mod listener;
mod metrics;
mod secrets;
mod timed;
mod tls;
mod view;
mod watcher;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use globallock::{LockManager, Schemes};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub(crate) use arguments::{ABOUT, EXAMPLES, Serve};

use crate::address::Sources;
use crate::exit::Failure;
use crate::log;
use crate::signals::Requests;

use breaking::Breaker;
use gate::Gate;
use listener::Listener;
use secrets::Secrets;
use watcher::Watcher;

/// What all requests share.
#[derive(Debug)]
struct Site {
    manager: LockManager,
    watcher: Arc<Watcher>,
    gate: Gate,
    /// Who takes claims out of their queues, where that is allowed.
    breaker: Option<Breaker>,
    counts: metrics::Counts,
    /// How many requests are at the store at a time.
    at_store: Arc<tokio::sync::Semaphore>,
    /// Becomes true when this is to end.
    ending: watch::Receiver<bool>,
}

/// How many requests may be at the store at a time, beside the look that all share.
const AT_STORE: u32 = 8;

/// Serves until a signal asks it to end.
pub(crate) fn main(schemes: &Schemes, serve: &Serve, sources: Sources) -> ExitCode {
    serve.looking.verbosity.set_without_name();
    serve.looking.look(schemes, sources, None, async |manager| run(serve, manager).await)
}

async fn run(serve: &Serve, manager: &LockManager) -> Result<u8, Failure> {
    let address = serve.address()?;
    serve.check_exposure(address)?;
    let secrets = Secrets::read(serve.token_file.as_deref(), serve.auth_file.as_deref())?;
    let tls = tls::Certificate::of(serve)?;
    let socket = TcpListener::bind(address).await.map_err(|error| listener::not_bound(serve, &error))?;
    let bound = socket.local_addr()?;
    let (end, ending) = watch::channel(false);
    let watcher = Arc::new(Watcher::new(manager.clone(), serve.prefix.clone(), serve.interval));
    let is_open = secrets.is_none();
    let site = Arc::new(Site {
        manager: manager.clone(),
        watcher: Arc::clone(&watcher),
        gate: Gate::new(bound, secrets, &serve.allow_host)?,
        breaker: serve.allow_break.then(|| Breaker::new(serve)),
        counts: metrics::Counts::default(),
        at_store: Arc::new(tokio::sync::Semaphore::new(AT_STORE as usize)),
        ending: ending.clone(),
    });
    let mut requests = Requests::listen()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    if serve.allow_break && is_open {
        log::warning("open").say(
            "every user of this host can break locks here: give --token-file or --auth-file if that is too \
             many",
        );
    }
    // For scripts, and to be clicked in a terminal.
    let _ = writeln!(std::io::stdout(), "{scheme}://{bound}/");
    let looking = tokio::spawn(async move { watcher.keep_looking().await });
    let serving = tokio::spawn(Listener::new(socket, tls, ending).serve(api::router(Arc::clone(&site))));
    requests.next().await;
    end.send_replace(true);
    let _ = serving.await;
    breaking::finish(&site).await;
    looking.abort();
    Ok(0)
}
