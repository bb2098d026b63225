//! What is counted, and how often.

use std::sync::Arc;

use globallock::{LockManager, ManagerOptions, Memory};
use tokio::time::sleep;

use crate::readers::{OpenTelemetry, Prometheus, Reader, Values, samples};
use crate::story::{SECOND, State, Store, everything, manager};

/// What happens exactly so often in the story.
const COUNTED: &[(&str, f64)] = &[
    ("globallock.acquire.duration mode=mutex outcome=cancelled store=memory", 1.0),
    ("globallock.acquire.duration mode=mutex outcome=error store=memory", 1.0),
    ("globallock.acquire.duration mode=mutex outcome=evicted store=memory", 1.0),
    ("globallock.acquire.duration mode=mutex outcome=granted store=memory", 8.0),
    ("globallock.acquire.duration mode=mutex outcome=taken store=memory", 1.0),
    ("globallock.acquire.duration mode=mutex outcome=timeout store=memory", 1.0),
    ("globallock.acquire.duration mode=permits outcome=granted store=memory", 1.0),
    ("globallock.acquire.duration mode=read outcome=granted store=memory", 1.0),
    ("globallock.acquire.duration mode=write outcome=granted store=memory", 1.0),
    ("globallock.handoff.duration mode=mutex store=memory", 1.0),
    ("globallock.hold.duration mode=mutex store=memory", 8.0),
    ("globallock.hold.duration mode=permits store=memory", 1.0),
    ("globallock.hold.duration mode=read store=memory", 1.0),
    ("globallock.hold.duration mode=write store=memory", 1.0),
    ("globallock.losses mode=mutex reason=evicted store=memory", 1.0),
    ("globallock.losses mode=mutex reason=expired store=memory", 1.0),
    ("globallock.losses mode=mutex reason=found_at_release store=memory", 1.0),
    ("globallock.losses mode=mutex reason=held_too_long store=memory", 1.0),
    ("globallock.losses mode=mutex reason=revoked store=memory", 1.0),
    ("globallock.store.connected store=memory", 1.0),
    ("globallock.store.outage.duration store=memory", 1.0),
    ("globallock.store.outages store=memory", 1.0),
];

/// What happens several times, as often as there is time for it.
const HAPPENED: &[&str] = &[
    "globallock.renew.failures store=memory",
    "globallock.renew.margin mode=mutex store=memory",
    "globallock.store.request.duration op=connect result=ok store=memory",
    "globallock.store.request.duration op=enqueue result=denied store=memory",
    "globallock.store.request.duration op=enqueue result=ok store=memory",
    "globallock.store.request.duration op=evict result=ok store=memory",
    "globallock.store.request.duration op=inspect result=ok store=memory",
    "globallock.store.request.duration op=keep result=ok store=memory",
    "globallock.store.request.duration op=list result=ok store=memory",
    "globallock.store.request.duration op=release result=ok store=memory",
    "globallock.store.request.duration op=release result=unavailable store=memory",
    "globallock.store.request.duration op=renew result=ok store=memory",
    "globallock.store.request.duration op=renew result=unavailable store=memory",
    "globallock.store.request.duration op=set_value result=ok store=memory",
];

fn readers() -> [Box<dyn Reader>; 2] {
    [Box::new(Prometheus::new()), Box::new(OpenTelemetry::new())]
}

#[tokio::test(start_paused = true)]
async fn everything_that_happens_is_counted_once_and_nothing_else() {
    for reader in readers() {
        let store = Store::new();
        let manager = manager(&store, vec![reader.observer(false)]);
        everything(&store, &manager).await;
        let mut values = reader.values();
        values.retain(|_, value| *value != 0.0);
        for often in HAPPENED {
            assert!(values.remove(*often).is_some(), "{often} is missing in {values:#?}");
        }
        let expected: Values = COUNTED.iter().map(|(series, value)| ((*series).to_owned(), *value)).collect();
        assert_eq!(values, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn gauges_show_what_is_held_and_waited_for_now_and_whether_the_store_answers() {
    for reader in readers() {
        let store = Store::new();
        let [one, other] = {
            let observer = reader.observer(false);
            [0, 1].map(|_| manager(&store, vec![observer.clone()]))
        };
        let now = |gauge: &str| reader.values()[&format!("globallock.{gauge} store=memory")];
        let (held, waiting) = (|| now("held mode=mutex"), || now("waiting mode=mutex"));
        assert_eq!((held(), waiting(), now("store.connected")), (0.0, 0.0, 1.0));
        let guard = one.mutex("a").acquire().await.unwrap();
        let lock = other.mutex("a");
        let waiter = tokio::spawn(async move { lock.acquire().await.unwrap() });
        sleep(SECOND).await;
        assert_eq!((held(), waiting()), (1.0, 1.0));
        guard.release().await.unwrap();
        let guard = waiter.await.unwrap();
        assert_eq!((held(), waiting()), (1.0, 0.0));
        drop(guard);
        assert_eq!((held(), waiting()), (0.0, 0.0));

        // Two managers find that the store is away, and it is back when both have.
        store.becomes(State::Away);
        for manager in [&one, &other] {
            manager.mutex("a").store_timeout(SECOND).acquire().await.unwrap_err();
        }
        assert_eq!(now("store.connected"), 0.0);
        store.becomes(State::Well);
        drop(one.mutex("a").acquire().await.unwrap());
        assert_eq!(now("store.connected"), 0.0);
        // The other one ends before it has.
        drop(other);
        sleep(SECOND).await;
        assert_eq!(now("store.connected"), 1.0);
    }
}

#[tokio::test(start_paused = true)]
async fn names_are_told_apart_by_groups_alone() {
    for reader in readers() {
        let store = Store::new();
        let manager = manager(&store, vec![reader.observer(true)]);
        for name in ["orders/1", "orders/2", "reports/1", "mail"] {
            drop(manager.mutex(name).acquire().await.unwrap());
        }
        let values = reader.values();
        let granted = ["orders", "reports", "other"].map(|group| {
            let series = format!("globallock.acquire.duration group={group} mode=mutex outcome=granted");
            values[&format!("{series} store=memory")]
        });
        assert_eq!(granted, [2.0, 1.0, 1.0]);
        for (series, value) in &values {
            assert!(!series.contains("orders/") && !series.contains("mail"), "{series}");
            assert_eq!(series.contains("mode="), series.contains("group="), "{series}");
            assert!(!series.contains("globallock.held") || *value == 0.0, "{series} {value}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_map_that_answers_every_name_makes_few_series() {
    let reader = Prometheus::new();
    let options = ManagerOptions::new();
    let metrics = reader.observer(true);
    let manager = LockManager::with_backend(Memory::new(), options.observer(metrics)).unwrap();
    for number in 0..300 {
        drop(manager.mutex(format!("{number}/a")).acquire().await.unwrap());
    }
    let groups = reader.values().keys().filter(|series| series.starts_with("globallock.held")).count();
    assert_eq!(groups, 101);
}

#[tokio::test(start_paused = true)]
async fn what_may_happen_is_0_before_it_does() {
    let reader = Prometheus::new();
    let manager = manager(&Store::new(), vec![reader.observer(false)]);
    let before = reader.values();
    for (series, _) in COUNTED.iter().filter(|(series, _)| !series.contains("permits")) {
        let is_seldom = series.contains("mode=read") || series.contains("mode=write");
        assert_eq!(before.contains_key(*series), !is_seldom, "{series}");
    }
    assert_eq!(before.values().filter(|value| **value != 0.0).count(), 1, "the store is connected");
    // All of a mode come with its first use.
    drop(manager.rwlock("a").read().acquire().await.unwrap());
    assert_eq!(reader.values()["globallock.acquire.duration mode=read outcome=timeout store=memory"], 0.0);
}

#[tokio::test(start_paused = true)]
async fn times_are_in_seconds_and_fall_into_buckets() {
    let (prometheus, opentelemetry) = (Prometheus::new(), OpenTelemetry::new());
    let observers = vec![prometheus.observer(false), opentelemetry.observer(false)];
    let manager = manager(&Store::new(), observers);
    let guard = manager.mutex("a").acquire().await.unwrap();
    sleep(SECOND * 3).await;
    guard.release().await.unwrap();
    let text = prometheus.exporter.render();
    let holds: Vec<_> = samples(&text).filter(|(name, ..)| name.starts_with("globallock_hold_")).collect();
    let sum = holds.iter().find(|(name, ..)| name.ends_with("_sum")).unwrap();
    assert!((3.0..3.1).contains(&sum.2), "{sum:?}");
    let below = |bound: &str| {
        let is = |labels: &[(&str, String)]| labels.contains(&("le", bound.to_owned()));
        holds.iter().find(|(_, labels, _)| is(labels)).unwrap().2
    };
    assert_eq!((below("1"), below("5"), below("+Inf")), (0.0, 1.0, 1.0));
    for (metric, bounds) in globallock::metrics::buckets() {
        assert!(bounds.is_sorted(), "{metric}");
        assert!(text.contains(&format!("# TYPE {metric} histogram")), "{metric} has no buckets");
    }
    let (_, holds) = globallock::metrics::buckets().find(|(metric, _)| metric.contains("hold")).unwrap();
    assert_eq!(opentelemetry.bounds("globallock.hold.duration"), holds);
}

#[tokio::test]
async fn the_recorder_of_the_process_is_used_unless_another_is_given() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let exporter = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let metrics = Arc::new(globallock::metrics::Metrics::default());
        manager(&Store::new(), vec![metrics])
    });
    assert!(exporter.render().contains("globallock_held{store=\"memory\",mode=\"mutex\"} 0"));
}
