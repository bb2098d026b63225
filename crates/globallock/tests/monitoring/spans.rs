//! The spans of locks, as an exporter has them.

use std::sync::Arc;

use futures_util::FutureExt;
use globallock::opentelemetry::Spans;
use globallock::{LockManager, Release};
use opentelemetry::Context;
use opentelemetry::trace::{SpanId, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tokio::time::{sleep, timeout};

use crate::story::{SECOND, State, Store, manager};

struct Traced {
    store: Arc<Store>,
    manager: LockManager,
    provider: SdkTracerProvider,
    exporter: InMemorySpanExporter,
}

impl Traced {
    fn new() -> Self {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let spans = Arc::new(Spans::with_tracer(provider.tracer("test")));
        let store = Store::new();
        let manager = manager(&store, vec![spans]);
        Traced { store, manager, provider, exporter }
    }

    /// The spans that have ended since this was asked last.
    fn ended(&self) -> Vec<SpanData> {
        let ended = self.exporter.get_finished_spans().unwrap();
        self.exporter.reset();
        ended
    }

    /// The only span that has ended, its name and its attributes.
    fn one(&self) -> (SpanData, String) {
        let mut ended = self.ended();
        assert_eq!(ended.len(), 1, "{ended:?}");
        let span = ended.remove(0);
        let text = described(&span);
        (span, text)
    }
}

/// A span's name and its attributes, without the prefix of ours.
fn described(span: &SpanData) -> String {
    let attribute = |pair: &opentelemetry::KeyValue| {
        let name = pair.key.as_str().strip_prefix("globallock.").expect("it is ours");
        format!(" {name}={}", pair.value)
    };
    let attributes: String = span.attributes.iter().map(attribute).collect();
    format!("{}:{attributes}", span.name)
}

fn failure(span: &SpanData) -> Option<&str> {
    match &span.status {
        Status::Error { description } => Some(description),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_acquired_in_one_span_and_held_in_another_that_is_linked_to_it() {
    let traced = Traced::new();
    let request = traced.provider.tracer("app").start("request");
    let request = Context::new().with_span(request);
    let parent = request.span().span_context().span_id();
    let lock = traced.manager.mutex("orders/1");
    let guard = {
        let _current = request.clone().attach();
        // It does not wait, so that the span is current until the end.
        lock.acquire().now_or_never().unwrap().unwrap()
    };
    let (acquired, text) = traced.one();
    assert_eq!(
        text,
        "globallock acquire: name=orders/1 mode=mutex store=memory fencing_token=1 outcome=granted"
    );
    assert_eq!((acquired.parent_span_id, failure(&acquired)), (parent, None));
    assert_eq!(acquired.events.iter().map(|event| &*event.name).collect::<Vec<_>>(), ["granted"]);
    sleep(SECOND).await;
    assert!(traced.ended().is_empty(), "it is held");
    guard.release().await.unwrap();
    let (held, text) = traced.one();
    assert_eq!(text, "globallock hold: name=orders/1 mode=mutex store=memory fencing_token=1");
    assert_eq!((held.parent_span_id, failure(&held)), (parent, None));
    assert_eq!(held.links.len(), 1);
    assert_eq!(held.links[0].span_context, acquired.span_context);
}

#[tokio::test(start_paused = true)]
async fn a_wait_has_the_length_of_its_queue_and_how_it_ended() {
    let traced = Traced::new();
    let held = traced.manager.rwlock("a").write().acquire().await.unwrap();
    traced.ended();
    let lock = traced.manager.mutex("a");
    let waiting = "globallock acquire: name=a mode=mutex store=memory";

    assert!(lock.try_acquire().await.unwrap().is_none());
    let (span, text) = traced.one();
    assert_eq!((text, failure(&span)), (format!("{waiting} outcome=taken"), None));
    assert_eq!(span.parent_span_id, SpanId::INVALID);

    timeout(SECOND, lock.acquire()).await.unwrap_err();
    let (span, text) = traced.one();
    assert_eq!((text, failure(&span)), (format!("{waiting} queue_length=1 outcome=cancelled"), None));
    // The claim leaves the queue in the background.
    sleep(SECOND).await;

    lock.clone().wait(SECOND).acquire().await.unwrap_err();
    let (span, text) = traced.one();
    assert_eq!(text, format!("{waiting} queue_length=1 outcome=timeout"));
    assert_eq!(failure(&span), Some("its wait ended"));

    traced.store.becomes(State::Denies);
    lock.acquire().await.unwrap_err();
    traced.store.becomes(State::Well);
    let (span, text) = traced.one();
    assert_eq!(text, format!("{waiting} outcome=error"));
    assert_eq!(failure(&span), Some("store denied access: not you"));

    let waiter = tokio::spawn(async move { lock.acquire().await.unwrap() });
    sleep(SECOND).await;
    held.release().await.unwrap();
    let guard = waiter.await.unwrap();
    let token = guard.fencing_token();
    let ended: Vec<String> = traced.ended().iter().map(described).collect();
    assert_eq!(ended[1], format!("{waiting} queue_length=1 fencing_token={token} outcome=granted"));
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn a_span_of_a_lock_that_is_lost_ends_with_an_error_that_says_why() {
    let traced = Traced::new();
    let guard = traced.manager.mutex("a").acquire().await.unwrap();
    traced.ended();
    traced.store.memory.revoke("a");
    guard.lost().await;
    let (span, text) = traced.one();
    assert!(text.ends_with(" fencing_token=1 loss=revoked"), "{text}");
    assert_eq!(failure(&span), Some("the store has no such claim any more"));
    assert_eq!(guard.release().await.unwrap(), Release::NotHeld);
    assert!(traced.ended().is_empty(), "a span ends once");
}
