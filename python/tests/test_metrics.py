"""Metrics for Prometheus and OpenTelemetry, read from the real libraries."""

import importlib
import os
import re
import threading

import pytest
import redis
from conftest import ROOT, Late, ends, eventually, in_fork, run
from globallock import GlobalLockManager, metrics

#: Asks for metrics of a library that is not installed.
MISSING = """
import sys
sys.modules[sys.argv[1]] = None
from globallock import metrics
try:
    getattr(metrics, sys.argv[2])()
except ImportError as error:
    print(error)
"""


def framework(module):
    """Imports a library that only the newest CPython gets; there, it must be installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        if os.environ.get("GLOBALLOCK_FRAMEWORKS") == "1":
            raise
        pytest.skip(f"{module} is not installed")


class Prometheus:
    """Reads metrics as a scrape does."""

    def __init__(self):
        self.client = framework("prometheus_client")
        self.registry = self.client.CollectorRegistry()

    def start(self, **options):
        return metrics.prometheus(self.registry, **options)

    def text(self):
        return self.client.generate_latest(self.registry).decode()

    def value(self, name, store="redis", **labels):
        if store is not None:
            labels["store"] = store
        prometheus = {
            "acquire.duration": "acquire_seconds_count",
            "hold.duration": "hold_seconds_count",
            "renew.margin": "renew_margin_seconds_count",
            "renew.failures": "renew_failures_total",
            "losses": "losses_total",
            "handoff.duration": "handoff_seconds_count",
            "store.connected": "store_connected",
            "store.outages": "store_outages_total",
            "store.outage.duration": "store_outage_seconds_count",
        }.get(name, name)
        return self.registry.get_sample_value(f"globallock_{prometheus}", labels) or 0


class OpenTelemetry:
    """Reads metrics as an exporter does."""

    def __init__(self):
        framework("opentelemetry.metrics")
        sdk = framework("opentelemetry.sdk.metrics")
        export = framework("opentelemetry.sdk.metrics.export")
        self.reader = export.InMemoryMetricReader()
        self.meter = sdk.MeterProvider([self.reader]).get_meter("test")

    def start(self, **options):
        return metrics.opentelemetry(self.meter, **options)

    def points(self):
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        yield metric.name, dict(point.attributes), point

    def text(self):
        return "".join(f"{name} {attributes}\n" for name, attributes, _ in self.points())

    def value(self, name, store="redis", **labels):
        if store is not None:
            labels["store"] = store
        for found, attributes, point in self.points():
            if (found, attributes) == (f"globallock.{name}", labels):
                return point.count if hasattr(point, "count") else point.value
        return 0


@pytest.fixture(params=[Prometheus, OpenTelemetry], ids=["prometheus", "opentelemetry"])
def reader(request):
    return request.param()


def test_what_happens_to_locks_is_counted(reader, redis_server, name):
    with reader.start(), GlobalLockManager(redis_server.url) as lockman:
        lock, other = lockman.lock(name), lockman.lock(name)
        with lock:
            waiter = threading.Thread(target=lambda: other.acquire() and other.release())
            waiter.start()
            eventually("it waits", lambda: reader.value("waiting", mode="mutex") == 1)
            assert reader.value("held", mode="mutex") == 1
            assert not lockman.lock(name, blocking=False).acquire()
            assert not lockman.lock(name, blocking_timeout=0.5).acquire()
        waiter.join(30)
        with lockman.rwlock(name).read():
            eventually("a reader holds", lambda: reader.value("held", mode="read") == 1)
        lockman.close()
        counted = {
            outcome: reader.value("acquire.duration", mode="mutex", outcome=outcome)
            for outcome in ("granted", "taken", "timeout", "cancelled", "evicted", "error")
        }
        assert counted == {"granted": 2, "taken": 1, "timeout": 1, "cancelled": 0, "evicted": 0, "error": 0}
        assert reader.value("hold.duration", mode="mutex") == 2
        assert reader.value("hold.duration", mode="read") == 1
        gauges = [(gauge, mode) for gauge in ("held", "waiting") for mode in ("mutex", "read")]
        assert [reader.value(gauge, mode=mode) for gauge, mode in gauges] == [0, 0, 0, 0]
        assert name not in reader.text()


def test_a_loss_is_counted_by_its_reason(reader, redis_server, name):
    with reader.start(), GlobalLockManager(redis_server.url) as lockman:
        for reason in ("revoked", "held_too_long"):
            lock = lockman.lock(name, lock_ttl=0.6, timeout=0.2 if reason == "held_too_long" else None)
            with lock:
                if reason == "revoked":
                    redis.Redis(port=redis_server.port).delete(lock.lock_key)
                assert lock.wait_lost(30)
        lockman.close()
        assert reader.value("losses", mode="mutex", reason="revoked") == 1
        assert reader.value("losses", mode="mutex", reason="held_too_long") == 1
        assert reader.value("hold.duration", mode="mutex") == 2
        assert reader.value("held", mode="mutex") == 0


def test_renewals_and_outages_are_counted(reader, redis_server, name):
    with reader.start(), Late(redis_server.port, refusals=0) as proxy:
        with GlobalLockManager(f"redis://127.0.0.1:{proxy.port}") as lockman:
            with lockman.lock(name, lock_ttl=1.5):
                eventually("it is renewed", lambda: reader.value("renew.margin", mode="mutex") > 0)
                proxy.refuse(10**9)
                eventually("a renewal fails", lambda: reader.value("renew.failures") > 0)
                eventually("the store is away", lambda: reader.value("store.connected") == 0)
                proxy.left = 0
                eventually("the store is back", lambda: reader.value("store.outage.duration") == 1)
        assert reader.value("store.outages") == 1
        assert reader.value("store.connected") == 1


def test_groups_are_labels(reader, name):
    groups = {"orders/": "orders", "orders/late/": "late"}
    with reader.start(group=groups), GlobalLockManager(f"memory:{name}") as lockman:
        for lock in ("orders/1", "orders/2", "orders/late/3", "mail"):
            with lockman.lock(lock):
                pass
        lockman.close()
        granted = {"store": "memory", "mode": "mutex", "outcome": "granted"}
        counted = [
            reader.value("acquire.duration", **granted, group=group) for group in ("orders", "late", "other")
        ]
        assert counted == [2, 1, 1]
        assert "orders/1" not in reader.text()


def test_a_group_may_be_a_function_and_one_that_fails_stops_nothing(reader, name, caplog):
    def group(lock):
        if lock == "bad":
            raise LookupError("no group")
        return lock.partition("-")[0]

    with reader.start(group=group), GlobalLockManager(f"memory:{name}") as lockman:
        for lock in ("bad", "good-1", "good-2"):
            with lockman.lock(lock) as held:
                assert held.is_locked
        lockman.close()
        labels = {"store": "memory", "mode": "mutex", "outcome": "granted", "group": "good"}
        assert reader.value("acquire.duration", **labels) == 2
    assert "no group" in caplog.text


def test_a_hand_over_is_counted_where_nobody_else_stood_between(reader, name):
    with reader.start(), GlobalLockManager(f"memory:{name}") as lockman:
        lock, other = lockman.lock(name), lockman.lock(name)
        with lock:
            waiter = threading.Thread(target=lambda: other.acquire() and other.release())
            waiter.start()
            eventually("it waits", lambda: reader.value("waiting", mode="mutex", store="memory") == 1)
        waiter.join(30)
        lockman.close()
        assert reader.value("handoff.duration", mode="mutex", store="memory") == 1


def test_groups_are_few_whatever_the_map_answers(reader, name):
    with reader.start(group=lambda lock: lock), GlobalLockManager(f"memory:{name}") as lockman:
        for number in range(110):
            with lockman.lock(f"lock-{number}"):
                pass
        lockman.close()
        granted = {"store": "memory", "mode": "mutex", "outcome": "granted"}
        assert reader.value("acquire.duration", **granted, group="other") == 10
        assert reader.value("acquire.duration", **granted, group="lock-99") == 1


def test_nothing_is_counted_after_the_end(reader, name):
    with GlobalLockManager(f"memory:{name}") as lockman:
        counting = reader.start()
        with lockman.lock(name):
            pass
        lockman.close()
        assert reader.value("hold.duration", mode="mutex", store="memory") == 1
        counting.close()
        counting.close()
        before = reader.text()
        with lockman.lock(name):
            pass
        lockman.close()
        assert reader.text() == before


def test_the_page_lists_all_metrics_and_no_others():
    prometheus = Prometheus()
    with prometheus.start():
        exported = {line.split()[2] for line in prometheus.text().splitlines() if line.startswith("# TYPE")}
    page = (ROOT / "docs" / "metrics.md").read_text()
    row = r"^\| `(globallock_\w+)` \| `(globallock\.[\w.]+)` \|[^|]*\|(?![^|]*\(Rust\) \|)"
    listed = re.findall(row, page, flags=re.MULTILINE)
    assert {name for name, _ in listed} == {name for name in exported if not name.endswith("_created")}
    reader = OpenTelemetry()
    created = []
    for what in ("counter", "histogram", "observable_gauge", "observable_up_down_counter"):
        made = getattr(reader.meter, f"create_{what}")
        setattr(
            reader.meter, f"create_{what}",
            lambda name, *rest, _made=made, **more: created.append(name) or _made(name, *rest, **more),
        )  # fmt: skip
    reader.start().close()
    assert {name for _, name in listed} == set(created)


def test_metrics_of_prometheus_may_be_registered_again_after_their_end(name):
    prometheus = Prometheus()
    prometheus.start().close()
    with prometheus.start(), pytest.raises(ValueError, match="[Dd]uplicated"):
        prometheus.start()


def test_a_forked_child_holds_none_of_its_parents_locks(reader, name):
    with reader.start(), GlobalLockManager(f"memory:{name}") as lockman, lockman.lock(name):
        eventually("it is held", lambda: reader.value("held", mode="mutex", store="memory") == 1)
        assert in_fork(lambda: reader.value("held", mode="mutex", store="memory")) == "0"


@pytest.mark.parametrize(
    "module, function, package",
    [
        ("prometheus_client", "prometheus", "prometheus-client"),
        ("opentelemetry.metrics", "opentelemetry", "opentelemetry-api"),
    ],
)
def test_a_library_that_is_missing_is_named(module, function, package):
    assert f"pip install {package}" in ends(run(MISSING, module, function))
