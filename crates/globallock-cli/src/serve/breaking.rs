//! Taking claims out of their queues, for whoever may.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use globallock::{Backend, EntryKey, Error, Eviction, Name, Owner, Release};
use serde::Deserialize;
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::secrets::User;
use super::view::{answer, failed, refused};
use super::{Serve, Site};
use crate::break_claim;
use crate::log::{self, Line};
use crate::onlook::rows::ClaimRow;

/// The longest body, in bytes: a name, twice, a claim and a reason, however they are escaped.
const MOST_BODY: usize = 16 * 1024;
/// How long a client may take for the body.
const BODY: Duration = Duration::from_secs(10);

/// Who takes claims out, where a user has no name.
#[derive(Debug)]
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
    #[serde(default)]
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
    let Ok(_place) = site.at_store.acquire().await else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "the server ends");
    };
    let by = breaker.name(&user);
    let key = EntryKey::new(&*order.claim);
    let outcome = |outcome: &'static str, status, message: String| {
        site.counts.count_broken(outcome);
        answer(status, &json!({ "outcome": outcome, "message": message, "by": by, "claim": order.claim }))
    };
    let failure =
        |error: &Error, then: &str| outcome("failed", failed(error).status(), format!("{error}; {then}"));
    let gone = || {
        let message = "the claim was not there any more; nothing was changed";
        outcome("gone", StatusCode::CONFLICT, message.into())
    };
    let backend = site.manager.backend();
    let seen = breaker.limited(backend, async {
        if !backend.is_ready() {
            backend.ready().await?;
        }
        backend.inspect(&name).await
    });
    let entry = match seen.await {
        Ok(queue) => queue.into_iter().find(|entry| entry.key == key),
        Err(error) => return failure(&error, "nothing was changed"),
    };
    let Some(entry) = entry else { return gone() };
    // Asked once: after an answer that was lost, a second one would say that there was nothing to do.
    let eviction = Eviction::new(Owner::current().with_label(by), &*order.reason);
    let done = breaker.limited(backend, backend.evict(&name, &key, &eviction)).await;
    site.watcher.hurry();
    let (line, deed) = match &done {
        Ok(Release::NotHeld) => return gone(),
        Ok(Release::Released) => (log::warning("broken"), break_claim::done(entry.held)),
        Err(error) if error.is_unavailable() => (log::error("broken_unanswered"), break_claim::UNANSWERED),
        Err(error) => return failure(error, "nothing was changed"),
    };
    let claim = ClaimRow::new(&entry, Duration::ZERO);
    let text = break_claim::deed(&name, &claim, deed, (by, &order.reason), backend.address());
    let line = line.with("lock", name.as_str()).with("claim", &*order.claim);
    breaker.record(line.with("by", by).with("reason", &*order.reason), text).await;
    match done {
        Err(error) => failure(&error, "the claim may be gone or not: look again"),
        Ok(_) => outcome("broken", StatusCode::OK, "the claim was taken out; its owner is told".into()),
    }
}

impl Breaker {
    /// What the store answers, or that it does not in time.
    async fn limited<T>(
        &self,
        backend: &Arc<dyn Backend>,
        work: impl Future<Output = globallock::Result<T>>,
    ) -> globallock::Result<T> {
        timeout(self.limit, work).await.unwrap_or_else(|_| {
            let reason = format!("it has not answered within {}", humantime::format_duration(self.limit));
            Err(Error::unavailable(backend.address(), reason))
        })
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
    if order.claim.is_empty() || order.claim.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return refuse(StatusCode::BAD_REQUEST, "a claim has a key without spaces");
    }
    Ok(order)
}
