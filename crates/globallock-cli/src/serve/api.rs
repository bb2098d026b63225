//! The paths, and what they answer.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post};
use globallock::{Entry, Name, Summary};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::json;
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use super::secrets::User;
use super::view::{answer, failed, refused};
use super::{Site, breaking, events, files, gate, metrics};
use crate::onlook::rows::{ClaimRow, LockRow, WaitRow};

/// How long a request waits for others that are at the store.
const TURN: Duration = Duration::from_secs(10);
/// How long Prometheus waits at least, unless it is told otherwise, is ten seconds.
const SCRAPE: Duration = Duration::from_secs(8);
/// Who waits for whom is good enough when it was found not longer ago.
const RECENT: Duration = Duration::from_secs(2);

/// All paths, behind the gate.
pub(super) fn router(site: Arc<Site>) -> Router {
    Router::new()
        .route("/api/session", get(session))
        .route("/api/locks", get(locks))
        .route("/api/locks/{*name}", get(lock))
        .route("/api/lock", get(lock))
        .route("/api/events", get(events::events))
        .route("/api/waits", get(waits))
        .route("/api/break", post(breaking::break_claim))
        .route("/metrics", get(scrape))
        .route("/healthz", get(healthz))
        .fallback(get(async |uri: Uri| files::file(uri.path())).fallback(no_method))
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(Arc::clone(&site), gate::guard))
        .with_state(site)
}

/// What a page needs to know of the server.
async fn session(State(site): State<Arc<Site>>, Extension(user): Extension<User>) -> Response {
    let breaker = site.breaker.as_ref();
    let session = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "store": site.manager.backend().address(),
        "prefix": site.watcher.prefix(),
        "interval_seconds": site.watcher.interval().as_secs_f64(),
        "allow_break": breaker.is_some(),
        "user": breaker.map(|breaker| breaker.name(&user)),
        "token": breaker.map(|_| site.gate.token()),
    });
    answer(StatusCode::OK, &session)
}

#[derive(Serialize)]
struct Locks<'a> {
    names: usize,
    look_age_seconds: Option<f64>,
    failure: Option<&'a str>,
    locks: Vec<&'a LockRow>,
    /// Why this is no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

async fn locks(State(site): State<Arc<Site>>) -> Response {
    site.watcher.look(site.watcher.interval()).await;
    let snapshot = site.watcher.snapshot();
    let is_known = snapshot.complete_age().is_some();
    let error = (!is_known).then(|| match snapshot.failure() {
        Some(failure) => format!("the locks are not known yet: {failure}"),
        None => "the locks are not known yet".to_owned(),
    });
    let locks = Locks {
        names: snapshot.names(),
        look_age_seconds: snapshot.age().map(|age| age.as_secs_f64()),
        failure: snapshot.failure(),
        locks: snapshot.rows().collect(),
        error,
    };
    answer(if is_known { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &locks)
}

/// One lock: its queue, and what it has to do with deadlocks.
#[derive(Serialize)]
struct Lock<'a> {
    name: &'a str,
    /// As in the list; none where there is no claim.
    lock: Option<LockRow>,
    claims: Vec<ClaimRow>,
    waits: Vec<WaitRow>,
    /// Null where they could not be found out.
    deadlocks: Option<Vec<Vec<WaitRow>>>,
}

async fn lock(State(site): State<Arc<Site>>, uri: Uri) -> Response {
    let Some(name) = name_of(&uri) else {
        return refused(StatusCode::BAD_REQUEST, "write the name into the path, or as ?name=NAME");
    };
    if !name.starts_with(site.watcher.prefix()) {
        return refused(StatusCode::NOT_FOUND, "this server shows other names only: see --prefix");
    }
    let name = match Name::new(name) {
        Ok(name) => name,
        Err(error) => return failed(&error),
    };
    let Some(_turn) = turn(&site).await else { return busy() };
    let queue: Vec<Entry> = match site.manager.inspect(&name).await {
        Ok(queue) => queue,
        Err(error) => return failed(&error),
    };
    let waits = WaitRow::of_queue(&name, &queue);
    let is_waited_for = queue.iter().any(|entry| !entry.held);
    let deadlocks = if is_waited_for {
        let found = site.watcher.waits(RECENT).await.ok();
        let of_name = |cycle: &Vec<WaitRow>| cycle.iter().any(|wait| wait.name == name.as_str());
        found.map(|waits| WaitRow::deadlocks(&waits.graph).into_iter().filter(of_name).collect())
    } else {
        Some(Vec::new())
    };
    let mut lock = Summary::of(&name, &queue).map(|summary| LockRow::new(&summary, Duration::ZERO));
    if let Some(lock) = &mut lock {
        // That takes several looks to see.
        lock.stale = site.watcher.snapshot().stale(name.as_str(), lock.holder.as_ref());
    }
    let claims = ClaimRow::queue(&queue, Duration::ZERO);
    answer(StatusCode::OK, &Lock { name: name.as_str(), lock, claims, waits, deadlocks })
}

/// The name in the rest of the path, or in the query: a browser takes `.` and `..` out of a path.
fn name_of(uri: &Uri) -> Option<String> {
    let raw = match uri.path().strip_prefix("/api/locks/") {
        Some(path) => path,
        None => uri.query()?.split('&').find_map(|pair| pair.strip_prefix("name="))?,
    };
    Some(percent_decode_str(raw).decode_utf8().ok()?.into_owned()).filter(|name| !name.is_empty())
}

async fn waits(State(site): State<Arc<Site>>) -> Response {
    let Some(_turn) = turn(&site).await else { return busy() };
    match site.watcher.waits(RECENT).await {
        Ok(found) => answer(
            StatusCode::OK,
            &json!({
                "age_seconds": found.at.elapsed().as_secs_f64(),
                "waits": WaitRow::all(&found.graph),
                "deadlocks": WaitRow::deadlocks(&found.graph),
            }),
        ),
        Err(error) => failed(&error),
    }
}

async fn scrape(State(site): State<Arc<Site>>) -> Response {
    let look = async {
        site.watcher.look(site.watcher.interval()).await;
        site.watcher.search_deadlocks().await;
    };
    let is_late = timeout(SCRAPE, look).await.is_err();
    text("text/plain; version=0.0.4; charset=utf-8", metrics::text(&site.watcher, &site.counts, is_late))
}

/// That this server goes on, whatever the store does.
async fn healthz() -> Response {
    text("text/plain; charset=utf-8", "ok\n".to_owned())
}

async fn no_method() -> Response {
    refused(StatusCode::METHOD_NOT_ALLOWED, "nothing at this path answers to that method")
}

fn text(kind: &'static str, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Waits for the turn at the store.
async fn turn(site: &Site) -> Option<SemaphorePermit<'_>> {
    timeout(TURN, site.at_store.acquire()).await.ok()?.ok()
}

fn busy() -> Response {
    refused(StatusCode::SERVICE_UNAVAILABLE, "too many requests are at the store: try again")
}
