//! What two real exporters have of the metrics, in one form.

use std::collections::BTreeMap;
use std::sync::Arc;

use globallock::Observer;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ScopeMetrics};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};

use crate::pages::listed;

/// Values by the metric's name in OpenTelemetry and its labels, such as `globallock.held mode=mutex
/// store=memory`; of a histogram, how many values it has.
pub(crate) type Values = BTreeMap<String, f64>;

/// What metrics go into, and are read from.
pub(crate) trait Reader {
    fn observer(&self, grouped: bool) -> Arc<dyn Observer>;
    fn values(&self) -> Values;
}

fn group(name: &str) -> Option<std::borrow::Cow<'static, str>> {
    name.split_once('/').map(|(group, _)| group.to_owned().into())
}

fn series<'a>(metric: &str, labels: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut labels: Vec<String> =
        labels.into_iter().map(|(label, value)| format!(" {label}={value}")).collect();
    labels.sort();
    format!("{metric}{}", labels.concat())
}

pub(crate) struct Prometheus {
    recorder: Arc<dyn metrics::Recorder + Send + Sync>,
    pub(crate) exporter: PrometheusHandle,
}

impl Prometheus {
    pub(crate) fn new() -> Self {
        let mut builder = PrometheusBuilder::new();
        for (metric, buckets) in globallock::metrics::buckets() {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.to_owned()), buckets).unwrap();
        }
        let recorder = builder.build_recorder();
        let exporter = recorder.handle();
        Prometheus { recorder: Arc::new(recorder), exporter }
    }
}

/// The samples of Prometheus' text: their names, labels and values.
pub(crate) fn samples(text: &str) -> impl Iterator<Item = (&str, Vec<(&str, String)>, f64)> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap().split(',').filter(|label| !label.is_empty());
        let pair = |label: &'_ str| {
            let (label, value) = label.split_once('=').unwrap();
            (label.len(), value.trim_matches('"').to_owned())
        };
        let labels = labels.map(|label| (&label[..pair(label).0], pair(label).1)).collect();
        (name, labels, value.parse().unwrap())
    })
}

impl Reader for Prometheus {
    fn observer(&self, grouped: bool) -> Arc<dyn Observer> {
        let metrics = globallock::metrics::Metrics::with_recorder(self.recorder.clone());
        Arc::new(if grouped { metrics.group_by(group) } else { metrics })
    }

    fn values(&self) -> Values {
        let page = listed();
        let (text, mut values) = (self.exporter.render(), Values::new());
        for (name, labels, value) in samples(&text) {
            if name.ends_with("_bucket") || name.ends_with("_sum") {
                continue;
            }
            let name = name.strip_suffix("_count").unwrap_or(name);
            let metric = page.iter().find(|metric| metric.prometheus == name);
            let metric = metric.unwrap_or_else(|| panic!("docs/metrics.md lacks {name}"));
            values.insert(series(&metric.opentelemetry, labels), value);
        }
        values
    }
}

pub(crate) struct OpenTelemetry {
    provider: SdkMeterProvider,
    exporter: InMemoryMetricExporter,
}

impl OpenTelemetry {
    pub(crate) fn new() -> Self {
        let exporter = InMemoryMetricExporter::default();
        let provider = SdkMeterProvider::builder().with_periodic_exporter(exporter.clone()).build();
        OpenTelemetry { provider, exporter }
    }

    /// The bounds of a histogram's buckets.
    pub(crate) fn bounds(&self, metric: &str) -> Vec<f64> {
        self.provider.force_flush().unwrap();
        let all = self.exporter.get_finished_metrics().unwrap();
        let metrics = all.last().unwrap().scope_metrics().flat_map(ScopeMetrics::metrics);
        for found in metrics.filter(|found| found.name() == metric) {
            let AggregatedMetrics::F64(MetricData::Histogram(histogram)) = found.data() else { continue };
            return histogram.data_points().next().unwrap().bounds().collect();
        }
        panic!("there is no histogram {metric}");
    }
}

fn attributes<'a>(attributes: impl Iterator<Item = &'a KeyValue>) -> Vec<(&'a str, String)> {
    attributes.map(|pair| (pair.key.as_str(), pair.value.to_string())).collect()
}

impl Reader for OpenTelemetry {
    fn observer(&self, grouped: bool) -> Arc<dyn Observer> {
        let metrics = globallock::opentelemetry::Metrics::with_meter(&self.provider.meter("test"));
        Arc::new(if grouped { metrics.group_by(group) } else { metrics })
    }

    fn values(&self) -> Values {
        self.exporter.reset();
        self.provider.force_flush().unwrap();
        let (all, mut values) = (self.exporter.get_finished_metrics().unwrap(), Values::new());
        for metric in all.last().unwrap().scope_metrics().flat_map(ScopeMetrics::metrics) {
            let mut add = |labels, value| {
                values.insert(series(metric.name(), labels), value);
            };
            match metric.data() {
                AggregatedMetrics::F64(MetricData::Histogram(histogram)) => histogram
                    .data_points()
                    .for_each(|point| add(attributes(point.attributes()), point.count() as f64)),
                AggregatedMetrics::U64(MetricData::Sum(sum)) => sum
                    .data_points()
                    .for_each(|point| add(attributes(point.attributes()), point.value() as f64)),
                AggregatedMetrics::I64(MetricData::Sum(sum)) => sum
                    .data_points()
                    .for_each(|point| add(attributes(point.attributes()), point.value() as f64)),
                AggregatedMetrics::U64(MetricData::Gauge(gauge)) => gauge
                    .data_points()
                    .for_each(|point| add(attributes(point.attributes()), point.value() as f64)),
                other => panic!("{}: {other:?}", metric.name()),
            }
        }
        values
    }
}
