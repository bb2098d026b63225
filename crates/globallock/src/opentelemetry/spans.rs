//! The spans of one lock: that of acquiring it, and that of holding it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ::opentelemetry::global::{self, BoxedSpan, BoxedTracer};
use ::opentelemetry::trace::{Span, SpanBuilder, SpanKind, Status, Tracer};
use ::opentelemetry::{Context, KeyValue};

use crate::backend::{Capabilities, Claim, ClaimId};
use crate::counting::catalogue::{GRANTED, MODES, OUTCOMES, REASONS, mode, outcome, reason};
use crate::observe::{Event, NotGranted, Observer};
use crate::sync::Mutex;

/// Makes spans of the locks of its managers.
///
/// - `globallock acquire`: from asking for a lock until it is granted, with an event `granted`, or given up.
///   It is a child of the span that was current when the lock was asked for. Its status is an error if the
///   call fails, and also if the wait ended.
/// - `globallock hold`: from the grant until the release or the loss, which is an error. It is a sibling of
///   the first, and linked to it.
///
/// Both have the attributes `globallock.name`, `globallock.mode` and `globallock.store` (its kind), and
/// `globallock.fencing_token` once it is known. The first has `globallock.queue_length`, which is how many
/// were in front when it began to wait, if the store has told, and `globallock.outcome`; the second has
/// `globallock.loss` if the lock was lost. The values of outcome and loss are those of the metrics.
///
/// ```
/// use std::sync::Arc;
/// use globallock::opentelemetry::Spans;
/// use globallock::{LockManager, ManagerOptions};
/// use opentelemetry::trace::{SpanId, TracerProvider};
/// use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let exporter = InMemorySpanExporter::default();
/// let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
/// let spans = Arc::new(Spans::with_tracer(provider.tracer("globallock")));
/// let manager = LockManager::connect_with("memory:spans", ManagerOptions::new().observer(spans)).await?;
/// manager.mutex("nightly-report").acquire().await?.release().await?;
/// let spans = exporter.get_finished_spans().unwrap();
/// assert_eq!((&*spans[0].name, &*spans[1].name), ("globallock acquire", "globallock hold"));
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct Spans(Arc<Shared>);

struct Shared {
    tracer: BoxedTracer,
    open: Mutex<HashMap<ClaimId, Open>>,
}

/// The span of a claim that has not ended.
struct Open {
    span: BoxedSpan,
    /// What was current when the lock was asked for.
    parent: Context,
}

impl Spans {
    /// Makes spans by the tracer `globallock` of the global provider.
    #[must_use]
    pub fn new() -> Self {
        Spans::by(global::tracer("globallock"))
    }

    /// Makes spans by this tracer.
    #[must_use]
    pub fn with_tracer<T>(tracer: T) -> Self
    where
        T: Tracer + Send + Sync + 'static,
        T::Span: Send + Sync + 'static,
    {
        Spans::by(BoxedTracer::new(Box::new(tracer)))
    }

    fn by(tracer: BoxedTracer) -> Self {
        Spans(Arc::new(Shared { tracer, open: Mutex::default() }))
    }
}

impl Default for Spans {
    fn default() -> Self {
        Spans::new()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spans").field("open", &self.open.lock().len()).finish_non_exhaustive()
    }
}

impl Observer for Spans {
    /// Does nothing: each manager has its own observer, from [`Observer::for_store`].
    fn event(&self, _event: &Event<'_>) {}

    fn for_store(&self, store: &Capabilities) -> Option<Arc<dyn Observer>> {
        Some(Arc::new(OfStore { shared: Arc::clone(&self.0), kind: store.kind }))
    }
}

/// The spans of one manager.
#[derive(Debug)]
struct OfStore {
    shared: Arc<Shared>,
    kind: &'static str,
}

impl OfStore {
    fn builder(&self, name: &'static str, kind: SpanKind, claim: &Claim) -> SpanBuilder {
        let name_of_lock = claim.name.as_str().to_owned();
        let attributes = vec![
            KeyValue::new("globallock.name", name_of_lock),
            KeyValue::new("globallock.mode", MODES[mode(claim)]),
            KeyValue::new("globallock.store", self.kind),
        ];
        SpanBuilder::from_name(name).with_kind(kind).with_attributes(attributes)
    }

    fn open(&self, claim: &Claim, span: BoxedSpan, parent: Context) {
        self.shared.open.lock().insert(claim.id, Open { span, parent });
    }

    fn close(&self, claim: &Claim) -> Option<Open> {
        self.shared.open.lock().remove(&claim.id)
    }

    fn asked(&self, claim: &Claim) {
        let parent = Context::current();
        let builder = self.builder("globallock acquire", SpanKind::Client, claim);
        let span = self.shared.tracer.build_with_context(builder, &parent);
        self.open(claim, span, parent);
    }

    fn granted(&self, claim: &Claim, fencing_token: u64) {
        let Some(Open { mut span, parent }) = self.close(claim) else { return };
        let token = token(fencing_token);
        span.set_attribute(token.clone());
        span.set_attribute(KeyValue::new("globallock.outcome", OUTCOMES[GRANTED]));
        span.add_event("granted", Vec::new());
        let acquired = span.span_context().clone();
        span.end();
        let builder = self.builder("globallock hold", SpanKind::Internal, claim);
        let mut hold = self.shared.tracer.build_with_context(builder, &parent);
        hold.set_attribute(token);
        hold.add_link(acquired, Vec::new());
        self.open(claim, hold, parent);
    }

    fn given_up(&self, claim: &Claim, why: NotGranted<'_>) {
        let Some(Open { mut span, .. }) = self.close(claim) else { return };
        span.set_attribute(KeyValue::new("globallock.outcome", OUTCOMES[outcome(why)]));
        // A try that finds the lock taken has told what it was asked, and a caller that gives up knows it.
        if !matches!(why, NotGranted::Taken | NotGranted::Cancelled) {
            span.set_status(Status::error(why.to_string()));
        }
        span.end();
    }
}

/// OpenTelemetry has no numbers without a sign; no store's tokens are so high.
fn token(fencing_token: u64) -> KeyValue {
    KeyValue::new("globallock.fencing_token", i64::try_from(fencing_token).unwrap_or(i64::MAX))
}

impl Observer for OfStore {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Asked { claim } => self.asked(claim),
            Event::Waiting { claim, place: Some(place) } => {
                if let Some(open) = self.shared.open.lock().get_mut(&claim.id) {
                    let length = i64::try_from(*place).unwrap_or(i64::MAX);
                    open.span.set_attribute(KeyValue::new("globallock.queue_length", length));
                }
            }
            Event::Granted { claim, fencing_token, .. } => self.granted(claim, *fencing_token),
            Event::GivenUp { claim, why, .. } => self.given_up(claim, *why),
            Event::Released { claim, .. } => {
                if let Some(Open { mut span, .. }) = self.close(claim) {
                    span.end();
                }
            }
            Event::Lost { claim, loss, .. } => {
                if let Some(Open { mut span, .. }) = self.close(claim) {
                    span.set_attribute(KeyValue::new("globallock.loss", REASONS[reason(loss)]));
                    span.set_status(Status::error(loss.to_string()));
                    span.end();
                }
            }
            _ => {}
        }
    }
}
