//! What happens, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::stream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Site;
use super::view::refused;

/// How many pages may follow at a time.
pub(super) const MOST_VIEWERS: usize = 128;
/// After so long without news, a page is told that all is well.
const SILENCE: Duration = Duration::from_secs(10);

/// One who follows; counted while this lives.
#[derive(Debug)]
struct Viewer(Arc<Site>);

impl Viewer {
    fn new(site: &Arc<Site>) -> Option<Self> {
        let viewers = &site.counts.viewers;
        let more = |viewers| (viewers < MOST_VIEWERS).then_some(viewers + 1);
        viewers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Viewer(Arc::clone(site)))
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let viewers: &AtomicUsize = &self.0.counts.viewers;
        viewers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one page knows.
#[derive(Debug)]
struct Following {
    viewer: Viewer,
    looked: watch::Receiver<u64>,
    seen: Option<u64>,
    /// The second half of an event of which the first is under way.
    rest: Option<Bytes>,
}

/// Tells all rows, and then what changes.
///
/// An event is made when the connection has room for it, out of what the page does not know yet. So nothing
/// is kept for a page that reads slowly: it is told less often.
pub(super) async fn events(State(site): State<Arc<Site>>) -> Response {
    let Some(viewer) = Viewer::new(&site) else {
        let why = format!("{MOST_VIEWERS} pages are open, which is the most: close one of them");
        let mut refused = refused(StatusCode::SERVICE_UNAVAILABLE, &why);
        refused.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
        return refused;
    };
    let looked = site.watcher.follow().await;
    let start = Following { viewer, looked, seen: None, rest: None };
    let events = stream::unfold(start, |mut following| async move {
        let part = following.next().await?;
        Some((Ok::<_, Infallible>(part), following))
    });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Proxies would keep events until there are many.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl Following {
    /// The next part of an event; none when the server ends.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(rest) = self.rest.take() {
            return Some(rest);
        }
        let site = Arc::clone(&self.viewer.0);
        let mut ending = site.ending.clone();
        if self.seen.is_some() {
            let news = tokio::select! {
                _ = ending.wait_for(|ending| *ending) => return None,
                news = timeout(SILENCE, self.looked.changed()) => news,
            };
            match news {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => return Some(Bytes::from(format!("event: well\ndata: {{{}}}\n\n", age(&site)))),
            }
        } else if *ending.borrow() {
            return None;
        }
        self.looked.mark_unchanged();
        let (number, news) = site.watcher.snapshot().news(self.seen);
        self.seen = Some(number);
        // The age is another one for each page, and the rest is shared.
        self.rest = Some(Bytes::from_static(b"\n\n"));
        let begin = format!("event: rows\ndata: {{{},\"news\":", age(&site));
        Some(Bytes::from([begin.as_bytes(), &news, b"}"].concat()))
    }
}

/// How long ago the last look was begun, and the last that told all.
fn age(site: &Site) -> String {
    let snapshot = site.watcher.snapshot();
    let seconds =
        |age: Option<Duration>| age.map_or("null".to_owned(), |age| format!("{:.3}", age.as_secs_f64()));
    format!(
        "\"look_age_seconds\":{},\"complete_age_seconds\":{}",
        seconds(snapshot.age()),
        seconds(snapshot.complete_age())
    )
}
