//! Metrics and spans of locks for OpenTelemetry, by its API alone: the feature `opentelemetry`.
//!
//! ```
//! use std::sync::Arc;
//! use globallock::opentelemetry::{Metrics, Spans};
//! use globallock::{LockManager, ManagerOptions};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! // After the providers of the process have been set, and once: give both to every manager.
//! let metrics = Arc::new(Metrics::new());
//! let spans = Arc::new(Spans::new());
//! let options = ManagerOptions::new().observer(metrics).observer(spans);
//! let manager = LockManager::connect_with("memory:opentelemetry", options).await?;
//! manager.mutex("nightly-report").acquire().await?.release().await?;
//! # Ok::<(), globallock::Error>(()) }).unwrap();
//! ```
//!
//! The crate `opentelemetry` is young, and a new release of it is another crate to the compiler. So this
//! library may go to a newer one in any release of its own.

mod spans;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use ::opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};
use ::opentelemetry::{KeyValue, global};

use crate::backend::Capabilities;
use crate::counting::catalogue::{
    CONNECTED, HELD, LOSSES, METRICS, Metric, OUTAGES, RENEW_FAILURES, WAITING,
};
use crate::counting::{Counting, Label, Registry};
use crate::observe::{Event, Observer};
use crate::sync::Mutex;
pub use spans::Spans;

/// Counts what happens to the locks of its managers.
///
/// Make one, after the provider of the process has been set, and give it to every manager of the process: see
/// [the module](self).
#[derive(Debug)]
pub struct Metrics(Counting<Instruments>);

impl Metrics {
    /// Counts in the meter `globallock` of the global provider.
    #[must_use]
    pub fn new() -> Self {
        Metrics::with_meter(&global::meter("globallock"))
    }

    /// Counts in this meter.
    ///
    /// ```
    /// use globallock::opentelemetry::Metrics;
    ///
    /// let metrics = Metrics::with_meter(&opentelemetry::global::meter("billing"));
    /// # drop(metrics);
    /// ```
    #[must_use]
    pub fn with_meter(meter: &Meter) -> Self {
        Metrics(Counting::new(Instruments::new(meter), None))
    }

    /// Tells locks apart by an attribute `group`, to which `group` maps their names. Without it, no metric
    /// says which lock it is about.
    ///
    /// There may be any number of names, such as one for each order, and each would be a time series of its
    /// own. So the map should answer a few words, and always the same one for a name. Whatever it answers, no
    /// more than 100 groups are told apart. Names that have none (`None`) are `other`, and so are those of
    /// any further groups.
    ///
    /// ```
    /// use globallock::opentelemetry::Metrics;
    ///
    /// let metrics = Metrics::new()
    ///     .group_by(|name| name.starts_with("orders/").then(|| "orders".into()));
    /// # drop(metrics);
    /// ```
    #[must_use]
    pub fn group_by<F>(self, group: F) -> Self
    where
        F: Fn(&str) -> Option<Cow<'static, str>> + Send + Sync + 'static,
    {
        Metrics(self.0.group_by(Box::new(group)))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Observer for Metrics {
    /// Does nothing: each manager has its own observer, from [`Observer::for_store`].
    fn event(&self, _event: &Event<'_>) {}

    fn for_store(&self, store: &Capabilities) -> Option<Arc<dyn Observer>> {
        Some(self.0.of(store))
    }
}

/// The instruments of a meter.
#[derive(Clone)]
struct Instruments {
    histograms: HashMap<&'static str, Histogram<f64>>,
    counters: HashMap<&'static str, Counter<u64>>,
    levels: HashMap<&'static str, Arc<Levels>>,
    connected: Gauge<u64>,
}

impl Instruments {
    fn new(meter: &Meter) -> Self {
        let histogram = |metric: &Metric| {
            let made = meter.f64_histogram(metric.opentelemetry).with_unit("s");
            made.with_description(metric.help).with_boundaries(metric.buckets.to_vec()).build()
        };
        let counter = |metric: &Metric| {
            meter.u64_counter(metric.opentelemetry).with_unit("1").with_description(metric.help).build()
        };
        let levels = |metric: &Metric| {
            let levels = Arc::<Levels>::default();
            let read = Arc::downgrade(&levels);
            let made = meter.i64_observable_up_down_counter(metric.opentelemetry).with_unit("{lock}");
            // The meter keeps the function for as long as it lives itself.
            made.with_description(metric.help)
                .with_callback(move |read_by| {
                    for level in read.upgrade().iter().flat_map(|levels| levels.0.lock().clone()) {
                        read_by.observe(level.instrument.load(Ordering::Relaxed), &level.attributes);
                    }
                })
                .build();
            levels
        };
        let histograms = METRICS.iter().filter(|metric| !metric.buckets.is_empty());
        let connected = meter.u64_gauge(CONNECTED.opentelemetry).with_unit("1");
        Instruments {
            histograms: histograms.map(|metric| (metric.opentelemetry, histogram(metric))).collect(),
            counters: [RENEW_FAILURES, LOSSES, OUTAGES]
                .map(|metric| (metric.opentelemetry, counter(&metric)))
                .into(),
            levels: [HELD, WAITING].map(|metric| (metric.opentelemetry, levels(&metric))).into(),
            connected: connected.with_description(CONNECTED.help).build(),
        }
    }
}

/// The series of a number that goes up and down. It is read when the meter is, because that costs less than
/// to tell the meter of each change.
#[derive(Default)]
struct Levels(Mutex<Vec<Arc<Series<AtomicI64>>>>);

impl Debug for Instruments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instruments").finish_non_exhaustive()
    }
}

/// A time series: an instrument with its attributes.
#[derive(Debug)]
struct Series<I> {
    instrument: I,
    attributes: Vec<KeyValue>,
}

impl<I> Series<I> {
    fn new(instrument: I, labels: Vec<Label>) -> Self {
        let attributes = labels.into_iter().map(|(label, value)| KeyValue::new(label, value));
        Series { instrument, attributes: attributes.collect() }
    }
}

impl Registry for Instruments {
    type Histogram = Series<Histogram<f64>>;
    type Counter = Series<Counter<u64>>;
    type Level = Arc<Series<AtomicI64>>;
    type State = Series<Gauge<u64>>;

    fn histogram(&self, metric: &Metric, labels: Vec<Label>) -> Self::Histogram {
        Series::new(self.histograms[metric.opentelemetry].clone(), labels)
    }

    fn counter(&self, metric: &Metric, labels: Vec<Label>) -> Self::Counter {
        let counter = Series::new(self.counters[metric.opentelemetry].clone(), labels);
        // So that it is there at 0. A histogram cannot be, since it would have a value.
        counter.instrument.add(0, &counter.attributes);
        counter
    }

    fn level(&self, metric: &Metric, labels: Vec<Label>) -> Self::Level {
        let level = Arc::new(Series::new(AtomicI64::new(0), labels));
        self.levels[metric.opentelemetry].0.lock().push(Arc::clone(&level));
        level
    }

    fn state(&self, _metric: &Metric, labels: Vec<Label>) -> Self::State {
        Series::new(self.connected.clone(), labels)
    }

    fn record(histogram: &Self::Histogram, time: Duration) {
        histogram.instrument.record(time.as_secs_f64(), &histogram.attributes);
    }

    fn count(counter: &Self::Counter) {
        counter.instrument.add(1, &counter.attributes);
    }

    fn change(level: &Self::Level, by: i8) {
        level.instrument.fetch_add(i64::from(by), Ordering::Relaxed);
    }

    fn set(state: &Self::State, is_so: bool) {
        state.instrument.record(u64::from(is_so), &state.attributes);
    }
}
