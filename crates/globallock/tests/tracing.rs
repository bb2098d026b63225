//! What `tracing` is told, with a subscriber that counts spans. It has a process of its own, because the most
//! detailed level that any subscriber wants is one for all threads.

use std::collections::HashMap;
use std::fmt::{Debug, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use globallock::{Event, LockManager, ManagerOptions, Memory, Observer, Options};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber};

/// Keeps what it is told, a line each.
#[derive(Debug)]
struct Told {
    limit: Level,
    lines: Mutex<Vec<String>>,
    /// How many references to each open span there are.
    spans: Mutex<HashMap<u64, usize>>,
    last_span: AtomicU64,
}

impl Told {
    fn up_to(limit: Level) -> Arc<Self> {
        let (lines, spans, last_span) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        Arc::new(Told { limit, lines, spans, last_span })
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().unwrap())
    }

    fn open_spans(&self) -> usize {
        self.spans.lock().unwrap().len()
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // How long something took is another number each time.
        if ["waited", "held", "margin", "away"].contains(&field.name()) {
            write!(self.0, " {}", field.name()).unwrap();
        } else {
            write!(self.0, " {}={value:?}", field.name()).unwrap();
        }
    }
}

impl Subscriber for Told {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("globallock") && *metadata.level() <= self.limit
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.limit.into())
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut line = Line(format!("span {}", attributes.metadata().name()));
        attributes.record(&mut line);
        self.lines.lock().unwrap().push(line.0);
        let id = self.last_span.fetch_add(1, Ordering::Relaxed) + 1;
        self.spans.lock().unwrap().insert(id, 1);
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.lines.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}

    fn clone_span(&self, id: &Id) -> Id {
        *self.spans.lock().unwrap().get_mut(&id.into_u64()).unwrap() += 1;
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        let mut spans = self.spans.lock().unwrap();
        let references = spans.get_mut(&id.into_u64()).unwrap();
        *references -= 1;
        let is_last = *references == 0;
        if is_last {
            spans.remove(&id.into_u64());
        }
        is_last
    }
}

/// Counts the waiters of whose place it is told.
#[derive(Debug, Default)]
struct Places(AtomicUsize);

impl Observer for Places {
    fn event(&self, event: &Event<'_>) {
        if let Event::Waiting { place: Some(_), .. } = event {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A lock that is granted, waited for in vain, and lost.
async fn a_story(observer: Option<Arc<Places>>) {
    let store = Memory::new();
    let mut options = ManagerOptions::new().locks(Options::new().wait(Duration::from_millis(20)));
    if let Some(observer) = observer {
        options = options.observer(observer);
    }
    let manager = LockManager::with_backend(store.clone(), options).unwrap();
    let mutex = manager.mutex("a");
    let guard = mutex.acquire().await.unwrap();
    mutex.acquire().await.unwrap_err();
    while manager.inspect("a").await.unwrap().len() > 1 {
        tokio::task::yield_now().await;
    }
    guard.release().await.unwrap();
    let guard = manager.mutex("b").acquire().await.unwrap();
    store.revoke("b");
    guard.lost().await;
}

const STORY: &[&str] = &[
    "span lock name=\"a\" fencing_token=1",
    "DEBUG message=granted name=\"a\" fencing_token=1 waited",
    "DEBUG message=waiting name=\"a\" place=1",
    "DEBUG message=not granted name=\"a\" waited why=its wait ended",
    "DEBUG message=released name=\"a\" fencing_token=1 held",
    "span lock name=\"b\" fencing_token=3",
    "DEBUG message=granted name=\"b\" fencing_token=3 waited",
    "WARN message=a lock is lost name=\"b\" fencing_token=3 loss=the store has no such claim any more held",
];

#[tokio::test]
async fn each_level_is_told_what_it_wants() {
    let places = Arc::new(Places::default());
    a_story(Some(places.clone())).await;
    assert_eq!(places.0.load(Ordering::Relaxed), 1, "an observer is told without any subscriber");

    let told = Told::up_to(Level::DEBUG);
    let subscribed = tracing::subscriber::set_default(told.clone());
    a_story(None).await;
    assert_eq!(told.take(), STORY);
    assert_eq!(told.open_spans(), 0, "a span ends with the hold");
    let manager = LockManager::with_backend(Memory::new(), ManagerOptions::new()).unwrap();
    let guard = manager.mutex("a").acquire().await.unwrap();
    assert_eq!(told.open_spans(), 1);
    guard.release().await.unwrap();
    assert_eq!(told.open_spans(), 0);
    drop(subscribed);

    let told = Told::up_to(Level::WARN);
    let _subscribed = tracing::subscriber::set_default(told.clone());
    a_story(None).await;
    assert_eq!(told.take(), STORY[STORY.len() - 1..]);
    assert_eq!(told.open_spans(), 0);
}
