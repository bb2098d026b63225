//! Metrics of locks, by the crate [`metrics`](::metrics) and any exporter of it: the feature `metrics`.
//!
//! ```standalone_crate
//! use std::sync::Arc;
//! use globallock::metrics::{Metrics, buckets};
//! use globallock::{LockManager, ManagerOptions};
//! use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let mut exporter = PrometheusBuilder::new();
//! for (metric, buckets) in buckets() {
//!     exporter = exporter.set_buckets_for_metric(Matcher::Full(metric.to_owned()), buckets)?;
//! }
//! let exporter = exporter.install_recorder()?;
//!
//! // After the recorder, and once: give it to every manager.
//! let metrics = Arc::new(Metrics::new());
//! let options = ManagerOptions::new().observer(metrics);
//! let manager = LockManager::connect_with("memory:metrics", options).await?;
//! manager.mutex("nightly-report").acquire().await?.release().await?;
//! let granted = r#"globallock_acquire_seconds_count{store="memory",mode="mutex",outcome="granted"} 1"#;
//! assert!(exporter.render().contains(granted));
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```
//!
//! [`docs::metrics`](mod@crate::docs::metrics) lists all metrics, says what is worth an alert, and leads to a
//! dashboard and to rules for alerts.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram, Key, KeyName, Level, Metadata, Recorder, Unit, with_recorder};

use crate::backend::Capabilities;
use crate::counting::catalogue::{METRICS, Metric};
use crate::counting::{Counting, Label, Registry};
use crate::observe::{Event, Observer};

/// Counts what happens to the locks of its managers.
///
/// Make one, after the recorder of the exporter has been installed, and give it to every manager of the
/// process: see [the module](self). What it is told is counted at once and never waits.
///
/// Series are made once and kept. So do not let the exporter drop those that are idle (`idle_timeout` of
/// Prometheus' one), because it would not have them again.
#[derive(Debug)]
pub struct Metrics(Counting<Facade>);

impl Metrics {
    /// Counts in the recorder that is installed for the process when a manager is made.
    #[must_use]
    pub fn new() -> Self {
        Metrics(Counting::new(Facade { recorder: None }, None))
    }

    /// Counts in this recorder, such as one of several exporters.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use globallock::metrics::Metrics;
    /// use metrics_exporter_prometheus::PrometheusBuilder;
    ///
    /// let recorder = PrometheusBuilder::new().build_recorder();
    /// let exporter = recorder.handle();
    /// let metrics = Metrics::with_recorder(Arc::new(recorder));
    /// # drop((exporter, metrics));
    /// ```
    #[must_use]
    pub fn with_recorder(recorder: Arc<dyn Recorder + Send + Sync>) -> Self {
        Metrics(Counting::new(Facade { recorder: Some(recorder) }, None))
    }

    /// Tells locks apart by a label `group`, to which `group` maps their names. Without it, no metric says
    /// which lock it is about.
    ///
    /// There may be any number of names, such as one for each order, and each would be a time series of its
    /// own. So the map should answer a few words, and always the same one for a name. Whatever it answers, no
    /// more than 100 groups are told apart. Names that have none (`None`) are `other`, and so are those of
    /// any further groups.
    ///
    /// ```
    /// use globallock::metrics::Metrics;
    ///
    /// let metrics = Metrics::new().group_by(|name| match name.split_once('/') {
    ///     Some(("orders", _)) => Some("orders".into()),
    ///     Some(("reports", _)) => Some("reports".into()),
    ///     _ => None,
    /// });
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

/// The histograms, by their names, and the upper bounds of their buckets in seconds: an exporter must be told
/// of them, because the crate [`metrics`](::metrics) cannot. See [the module](self).
///
/// ```
/// let (metric, buckets) = globallock::metrics::buckets().next().unwrap();
/// assert_eq!((metric, buckets[0]), ("globallock_acquire_seconds", 0.001));
/// ```
pub fn buckets() -> impl Iterator<Item = (&'static str, &'static [f64])> {
    let histograms = METRICS.iter().filter(|metric| !metric.buckets.is_empty());
    histograms.map(|metric| (metric.prometheus, metric.buckets))
}

/// The recorder of the process, or one that was given.
#[derive(Clone)]
struct Facade {
    recorder: Option<Arc<dyn Recorder + Send + Sync>>,
}

impl Facade {
    fn with<T>(&self, use_it: impl FnOnce(&dyn Recorder) -> T) -> T {
        match &self.recorder {
            Some(recorder) => use_it(recorder.as_ref()),
            None => with_recorder(use_it),
        }
    }
}

impl fmt::Debug for Facade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facade").finish_non_exhaustive()
    }
}

static METADATA: Metadata<'static> = Metadata::new("globallock", Level::INFO, Some("globallock"));

fn key(metric: &Metric, labels: Vec<Label>) -> Key {
    let labels = labels.into_iter().map(|(label, value)| ::metrics::Label::new(label, value));
    Key::from_parts(metric.prometheus, labels.collect::<Vec<_>>())
}

impl Registry for Facade {
    type Histogram = Histogram;
    type Counter = Counter;
    type Level = Gauge;
    type State = Gauge;

    fn describe(&self) {
        for metric in METRICS {
            let (name, help) = (KeyName::from_const_str(metric.prometheus), metric.help.into());
            self.with(|recorder| match metric.prometheus {
                _ if !metric.buckets.is_empty() => {
                    recorder.describe_histogram(name, Some(Unit::Seconds), help);
                }
                counter if counter.ends_with("_total") => {
                    recorder.describe_counter(name, Some(Unit::Count), help);
                }
                _ => recorder.describe_gauge(name, Some(Unit::Count), help),
            });
        }
    }

    fn histogram(&self, metric: &Metric, labels: Vec<Label>) -> Histogram {
        self.with(|recorder| recorder.register_histogram(&key(metric, labels), &METADATA))
    }

    fn counter(&self, metric: &Metric, labels: Vec<Label>) -> Counter {
        let counter = self.with(|recorder| recorder.register_counter(&key(metric, labels), &METADATA));
        // So that it is there at 0.
        counter.increment(0);
        counter
    }

    fn level(&self, metric: &Metric, labels: Vec<Label>) -> Gauge {
        let gauge = self.with(|recorder| recorder.register_gauge(&key(metric, labels), &METADATA));
        gauge.increment(0.0);
        gauge
    }

    fn state(&self, metric: &Metric, labels: Vec<Label>) -> Gauge {
        self.with(|recorder| recorder.register_gauge(&key(metric, labels), &METADATA))
    }

    fn record(histogram: &Histogram, time: Duration) {
        histogram.record(time);
    }

    fn count(counter: &Counter) {
        counter.increment(1);
    }

    fn change(level: &Gauge, by: i8) {
        level.increment(f64::from(by));
    }

    fn set(state: &Gauge, is_so: bool) {
        state.set(f64::from(u8::from(is_so)));
    }
}
