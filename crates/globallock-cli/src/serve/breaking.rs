//! Taking claims out of their queues, for whoever may.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use globallock::{EntryKey, Error, Eviction, Name, Owner, Release};
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::Site;
use super::secrets::User;
use super::view::{answer, failed, refused};
use crate::log;

/// The longest body, in bytes: a name, twice, a claim and a reason, however they are escaped.
const MOST_BODY: usize = 16 * 1024;
/// How long a client may take for the body.
const BODY: Duration = Duration::from_secs(10);

/// Who takes claims out, where a user has no name.
#[derive(Debug)]
pub(super) struct Breaker {
    name: String,
    /// How long the store may take.
    limit: Duration,
}

impl Breaker {
    pub(super) fn new(name: Option<&str>, limit: Duration) -> Self {
        let user = || {
            let id = nix::unistd::getuid();
            let named = std::env::var("SUDO_USER").ok();
            let named = named.or_else(|| Some(nix::unistd::User::from_uid(id).ok()??.name));
            named.unwrap_or_else(|| format!("user {id}"))
        };
        Breaker { name: name.map_or_else(user, str::to_owned), limit }
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
    let eviction = Eviction::new(Owner::current().with_label(by), &*order.reason);
    let key = EntryKey::new(&*order.claim);
    // Asked once: after an answer that was lost, a second one would say that there was nothing to do.
    let backend = site.manager.backend();
    let evicting = async {
        if !backend.is_ready() {
            backend.ready().await?;
        }
        backend.evict(&name, &key, &eviction).await
    };
    let done = timeout(breaker.limit, evicting).await;
    site.watcher.hurry();
    let done = done.unwrap_or_else(|_| {
        let reason = format!("it has not answered within {}", humantime::format_duration(breaker.limit));
        Err(Error::unavailable(backend.address(), reason))
    });
    audit(&name, &order, by, &done);
    let outcome = |outcome: &str, status, message: String| {
        let by = by.to_owned();
        answer(status, &json!({ "outcome": outcome, "message": message, "by": by, "claim": order.claim }))
    };
    match done {
        Ok(Release::Released) => {
            site.counts.count_broken("broken");
            outcome("broken", StatusCode::OK, "the claim was taken out; its owner is told".into())
        }
        Ok(Release::NotHeld) => {
            site.counts.count_broken("gone");
            outcome(
                "gone",
                StatusCode::CONFLICT,
                "the claim was not there any more; nothing was changed".into(),
            )
        }
        Err(error) => {
            site.counts.count_broken("failed");
            let unknown =
                if error.is_unavailable() { "; the claim may be gone or not: look again" } else { "" };
            let status = failed(&error).status();
            outcome("failed", status, format!("{error}{unknown}"))
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

/// Writes down who has done what, also under `--quiet`.
fn audit(name: &Name, order: &Order, by: &str, done: &globallock::Result<Release>) {
    let outcome = match done {
        Ok(Release::Released) => "is broken".to_owned(),
        Ok(Release::NotHeld) => "was not there any more".to_owned(),
        Err(error) => format!("could not be broken: {error}"),
    };
    let [claim, who, reason] =
        [&*order.claim, by, &*order.reason].map(|text| text.escape_debug().to_string());
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    log::error("break")
        .with("lock", name.as_str())
        .with("claim", &*order.claim)
        .with("by", by)
        .with("reason", &*order.reason)
        .say(format_args!("the claim {claim} of {name} {outcome}; by {who}{reason}"));
}
