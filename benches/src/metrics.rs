//! What observers cost an uncontended acquire and release in memory, where nothing else hides it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use globallock::{Event, LockManager, ManagerOptions, Memory, Observer};
use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::TracerProvider;

use crate::report::{row, title};
use crate::statistics::median;

const ROUNDS: usize = 300;
const PAIRS: u32 = 1000;

/// Hears everything, and does nothing.
#[derive(Debug)]
struct Deaf;

impl Observer for Deaf {
    fn event(&self, _event: &Event<'_>) {}

    fn hears_requests(&self) -> bool {
        true
    }
}

fn manager(observers: Vec<Arc<dyn Observer>>) -> LockManager {
    let mut options = ManagerOptions::new();
    options.observers = observers;
    LockManager::with_backend(Memory::new(), options).expect("the options are right")
}

/// How long a pair takes on average.
async fn pair(manager: &LockManager) -> Duration {
    let lock = manager.mutex("bench");
    let began = Instant::now();
    for _ in 0..PAIRS {
        let guard = lock.acquire().await.expect("the lock is free");
        guard.release().await.expect("the lock is held");
    }
    began.elapsed() / PAIRS
}

pub(crate) async fn run() {
    title("Uncontended acquire + release in memory, with observers (300 rounds of 1000, interleaved)");
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let exporter = recorder.handle();
    let meters = opentelemetry_sdk::metrics::SdkMeterProvider::builder()
        .with_periodic_exporter(opentelemetry_sdk::metrics::InMemoryMetricExporter::default())
        .build();
    let tracers = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();
    let plain = manager(Vec::new());
    let observed: Vec<(&str, LockManager)> = vec![
        ("an observer that does nothing", manager(vec![Arc::new(Deaf)])),
        (
            "metrics, Prometheus",
            manager(vec![Arc::new(globallock::metrics::Metrics::with_recorder(Arc::new(recorder)))]),
        ),
        (
            "metrics, OpenTelemetry's SDK",
            manager(vec![Arc::new(globallock::opentelemetry::Metrics::with_meter(&meters.meter("bench")))]),
        ),
        (
            "spans, OpenTelemetry's SDK, which go nowhere",
            manager(vec![Arc::new(globallock::opentelemetry::Spans::with_tracer(tracers.tracer("bench")))]),
        ),
    ];
    let (mut plain_figures, mut figures) = (Vec::new(), vec![(Vec::new(), Vec::new()); observed.len()]);
    for _ in 0..ROUNDS {
        let without = pair(&plain).await.as_secs_f64();
        plain_figures.push(without * 1e6);
        for ((_, manager), (times, ratios)) in observed.iter().zip(&mut figures) {
            let with = pair(manager).await.as_secs_f64();
            times.push(with * 1e6);
            ratios.push(with / without);
        }
        // What a scrape does now and then.
        exporter.run_upkeep();
    }
    row("without observers, median of rounds", median(plain_figures), "us", "");
    for ((label, _), (times, ratios)) in observed.iter().zip(figures) {
        let goal = if label.contains("Prometheus") { "<= 1.15" } else { "" };
        row(label, median(times), "us", "");
        row(&format!("{label} / without"), median(ratios), "x", goal);
    }
}
