//! Taking claims out of their queues, for whoever may.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use globallock::{EntryKey, Error, Eviction, Name, Owner};
use serde::Deserialize;
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::secrets::User;
use super::view::{answer, failed, refused};
use super::{AT_STORE, Serve, Site};
use crate::break_claim::{self, Outcome, answered};
use crate::log::{self, Line};
use crate::onlook::rows::ClaimRow;

/// The longest body, in bytes: a name, twice, a claim and a reason, however they are escaped.
const MOST_BODY: usize = 16 * 1024;
/// How long a client may take for the body.
const BODY: Duration = Duration::from_secs(10);

/// How long at most what was asked for may take when the server ends: the answers of the store and of the
/// system's log are waited for only briefly then.
const FINISH: Duration = Duration::from_secs(8);

/// Who takes claims out, where a user has no name.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    name: String,
    /// How long the store may take to answer.
    limit: Duration,
    /// The socket of the system's log.
    syslog: PathBuf,
}

impl Breaker {
    pub(super) fn new(serve: &Serve) -> Self {
        let name = serve.as_name.clone().unwrap_or_else(break_claim::operator);
        Breaker { name, limit: serve.looking.timeout, syslog: serve.syslog.clone() }
    }

    /// Who is said to have done it.
    pub(super) fn name<'a>(&'a self, user: &'a User) -> &'a str {
        user.name.as_deref().unwrap_or(&self.name)
    }
}

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    name: String,
    /// The name again, as the user has typed it.
    confirm: String,
    claim: String,
    /// Whether it was seen to hold the lock, rather than to wait.
    held: bool,
    #[serde(default)]
    reason: String,
}

/// An order that may be carried out.
struct Deed {
    name: Name,
    key: EntryKey,
    held: bool,
    by: String,
    reason: String,
}

/// Takes a claim out of its queue, and answers what has become of it.
pub(super) async fn break_claim(State(site): State<Arc<Site>>, request: Request) -> Response {
    let Some(breaker) = &site.breaker else {
        return refused(
            StatusCode::FORBIDDEN,
            "this server only shows locks: it was started without --allow-break",
        );
    };
    if let Err(why) = site.gate.check_origin(request.headers()) {
        site.counts.count_refused();
        return refused(StatusCode::FORBIDDEN, why);
    }
    let user = request.extensions().get::<User>().cloned().unwrap_or_default();
    let order = match order(request).await {
        Ok(order) => order,
        Err(refused) => return *refused,
    };
    let name = match Name::new(&order.name) {
        Ok(name) if name.as_str().starts_with(site.watcher.prefix()) => name,
        Ok(_) => return refused(StatusCode::FORBIDDEN, "this server shows other names only: see --prefix"),
        Err(error) => return failed(&error),
    };
    let Ok(place) = Arc::clone(&site.at_store).acquire_owned().await else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "the server ends");
    };
    let by = breaker.name(&user).to_owned();
    let key = EntryKey::new(&*order.claim);
    let deed = Deed { name, key, held: order.held, by, reason: order.reason };
    // A client that goes away ends its request, but nothing that is done to a claim remains unwritten.
    let (site, breaker) = (Arc::clone(&site), breaker.clone());
    let done = tokio::spawn(async move {
        let answer = breaker.answer(&site, &deed).await;
        drop(place);
        answer
    });
    done.await.unwrap_or_else(|_| {
        let why = "something went wrong inside: the claim may be gone or not, look again";
        refused(StatusCode::INTERNAL_SERVER_ERROR, why)
    })
}

/// Waits until all that was asked for has been carried out and written down, once no more is.
pub(super) async fn finish(site: &Site) {
    let _ = timeout(FINISH, site.at_store.acquire_many(AT_STORE)).await;
}

impl Breaker {
    /// Carries it out, and says what has become of it.
    async fn answer(&self, site: &Site, deed: &Deed) -> Response {
        let outcome = self.carry_out(site, deed).await;
        let (what, status, message) = match outcome {
            Outcome::Broken => {
                ("broken", StatusCode::OK, "the claim was taken out; its owner is told".to_owned())
            }
            Outcome::Gone => {
                let message = "the claim was not there any more; nothing was changed";
                ("gone", StatusCode::CONFLICT, message.to_owned())
            }
            Outcome::Granted(()) => {
                let message = "the claim was seen to wait, and holds the lock by now; nothing was changed";
                ("granted", StatusCode::CONFLICT, message.to_owned())
            }
            Outcome::Failed(error) => {
                ("failed", failed(&error).status(), format!("{error}; nothing was changed"))
            }
            Outcome::Unknown(error) => {
                let message = format!("{error}; the claim may be gone or not: look again");
                ("unknown", failed(&error).status(), message)
            }
        };
        site.counts.count_broken(what);
        let (by, claim) = (&deed.by, deed.key.as_str());
        answer(status, &json!({ "outcome": what, "message": message, "by": by, "claim": claim }))
    }

    /// Looks at the claim, takes it out if it is as it was seen, and writes down what was done.
    async fn carry_out(&self, site: &Site, deed: &Deed) -> Outcome<()> {
        let backend = site.manager.backend();
        let look = async {
            if !backend.is_ready() {
                backend.ready().await?;
            }
            backend.inspect(&deed.name).await
        };
        let queue = match self.limited(site, look).await {
            Ok(queue) => queue,
            Err(error) => return Outcome::Failed(error),
        };
        let Some(entry) = queue.into_iter().find(|entry| entry.key == deed.key) else { return Outcome::Gone };
        if entry.held && !deed.held {
            return Outcome::Granted(());
        }
        // Asked once: after an answer that was lost, a second one would say that there was nothing to do.
        let eviction = Eviction::new(Owner::current().with_label(&*deed.by), &*deed.reason);
        let evicted = self.limited(site, backend.evict(&deed.name, &deed.key, &eviction)).await;
        site.watcher.hurry();
        let outcome = Outcome::of(evicted);
        if let Some((line, done)) = outcome.deed(entry.held) {
            let claim = ClaimRow::new(&entry, Duration::ZERO);
            let text =
                break_claim::deed(&deed.name, &claim, done, (&deed.by, &deed.reason), backend.address());
            let line = line.with("lock", deed.name.as_str()).with("claim", deed.key.as_str());
            self.record(line.with("by", &*deed.by).with("reason", &*deed.reason), text).await;
        }
        outcome
    }

    /// What the store answers, or that it does not in time, which is short once this server is to end.
    async fn limited<T>(
        &self,
        site: &Site,
        work: impl Future<Output = globallock::Result<T>>,
    ) -> globallock::Result<T> {
        let late = |limit: String| Err(Error::unavailable(site.manager.backend().address(), limit));
        let in_time = async {
            timeout(self.limit, work).await.unwrap_or_else(|_| {
                late(format!("it has not answered within {}", humantime::format_duration(self.limit)))
            })
        };
        let mut ending = site.ending.clone();
        let ended = async { drop(ending.wait_for(|ending| *ending).await) };
        let (answer, _) = answered(in_time, ended).await;
        answer.unwrap_or_else(|| late("it had not answered when this server was to end".to_owned()))
    }

    /// Writes what was done to standard error and to the system's log, which may take its time.
    async fn record(&self, line: Line, text: String) {
        line.say(&text);
        let syslog = self.syslog.clone();
        let told = spawn_blocking(move || break_claim::tell_system(&syslog, &text)).await;
        if let Ok(Err(error)) = told {
            let syslog = self.syslog.display();
            log::warning("no_syslog").say(format_args!("the system log at {syslog}: {error}"));
        }
    }
}

/// Reads what is asked for.
async fn order(request: Request<Body>) -> Result<Order, Box<Response>> {
    let refuse = |status, why: &str| Err(Box::new(refused(status, why)));
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    // A page of another site could send other types without asking first.
    if !kind.eq_ignore_ascii_case("application/json") {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send application/json");
    }
    let body = match timeout(BODY, to_bytes(request.into_body(), MOST_BODY)).await {
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the body has not come in time"),
        Ok(Err(_)) => return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long, or was cut"),
        Ok(Ok(body)) => body,
    };
    let order: Order = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &format!("this is no order: {error}")),
    };
    if order.confirm != order.name {
        return refuse(StatusCode::BAD_REQUEST, "the name that was typed is another one");
    }
    if let Err(why) = break_claim::reason(&order.reason) {
        return refuse(StatusCode::BAD_REQUEST, &why);
    }
    if order.claim.is_empty() || order.claim.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return refuse(StatusCode::BAD_REQUEST, "a claim has a key without spaces");
    }
    Ok(order)
}
