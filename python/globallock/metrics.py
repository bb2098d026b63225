"""Metrics of locks for Prometheus (``prometheus_client``) and OpenTelemetry (``opentelemetry-api``).

Neither is a dependency of this package. The names of locks are no labels, because there may be any number of
them: ``group`` maps them to a few words of yours.
"""

from __future__ import annotations

import importlib
import os
import weakref
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Tuple, Union

from .events import Fields, add_listener, remove_listener

__all__ = ["Group", "Metrics", "opentelemetry", "prometheus"]

#: Maps the name of a lock to the value of its label ``group``: a function, or the values by prefix, of which
#: the longest counts. A name without one is ``other``.
Group = Union[Callable[[str], str], Mapping[str, str]]

#: Label names, or their values in the same order.
Labels = Tuple[str, ...]

_WAITS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_HOLDS = (0.001, 0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 14400)
_MARGINS = (0.1, 0.25, 0.5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 30, 60)
_HAND_OVERS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

#: How many groups are told apart at most, besides ``other``.
_MAX_GROUPS = 100

#: The metrics that are recorded one by one: their names in Prometheus and OpenTelemetry, what they measure in
#: (seconds in these buckets, or counts), their labels besides ``group``, and what they are.
_RECORDED = (
    ("acquire_seconds", "acquire.duration", _WAITS, ("store", "mode", "outcome"),
     "How long acquiring took, until it was granted or given up."),
    ("hold_seconds", "hold.duration", _HOLDS, ("store", "mode"),
     "How long locks were held, until released or lost."),
    ("renew_margin_seconds", "renew.margin", _MARGINS, ("store", "mode"),
     "How much later a lock would have been lost when its renewal was confirmed."),
    ("handoff_seconds", "handoff.duration", _HAND_OVERS, ("store", "mode"),
     "How long it took from the release of one lock of this process to the grant of its next waiter here."),
    ("losses", "losses", None, ("store", "mode", "reason"),
     "Locks that were lost while they were held."),
    ("renew_failures", "renew.failures", None, ("store",), "Requests to renew locks that failed."),
    ("store_outages", "store.outages", None, ("store",), "How often a store stopped to answer."),
    ("store_outage_seconds", "store.outage.duration", _HOLDS, ("store",),
     "How long a store did not answer, once it did again."),
    ("events_left_out", "events.left_out", None, None,
     "Events that the other metrics lack, because this process was too slow to take them."),
)  # fmt: skip

#: The metrics that are looked at: their names in Prometheus and OpenTelemetry, their labels besides
#: ``group``, and what they are.
_LOOKED_AT = (
    ("held", "held", ("store", "mode"), "Locks that are held now."),
    ("waiting", "waiting", ("store", "mode"), "Callers that wait for a lock now."),
    ("store_connected", "store.connected", ("store",),
     "1 while the stores of a kind answer, and 0 while one of them does not."),
)  # fmt: skip

#: The metrics of this process, for a child that is forked.
_all: "weakref.WeakSet[Metrics]" = weakref.WeakSet()


class Metrics:
    """Metrics of all locks of this process, counted until ``close()``."""

    def __init__(self, group: Optional[Group]) -> None:
        self._group = group
        self._groups: "set[str]" = set()
        #: How many managers have a store that does not answer, by its kind.
        self._away: "Dict[str, int]" = {}
        self._held: "Dict[str, Labels]" = {}
        self._waiting: "Dict[str, Labels]" = {}
        #: The labels that a gauge was shown with.
        self._seen: "Dict[str, Tuple[Labels, ...]]" = {name: () for name, *_ in _LOOKED_AT}
        _all.add(self)

    # What each adapter does in its own way.

    def _record(self, name: str, value: float, labels: Labels) -> None:
        raise NotImplementedError

    def _withdraw(self) -> None:
        """Takes the metrics out of the registry, where that is possible."""

    def _start(self) -> None:
        add_listener(self._hear)

    def close(self) -> None:
        """Counts no more. May be called again."""
        remove_listener(self._hear)
        self._withdraw()

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _labels(self, names: Optional[Labels]) -> Labels:
        """The names of the labels of a metric: those of a lock have ``group``, if there is one."""
        if names is None:
            return ()
        return names if self._group is None or "mode" not in names else (*names, "group")

    def _values(self, fields: Fields, *values: str) -> Labels:
        labels = (str(fields["kind"]), str(fields["mode"]), *values)
        return labels if self._group is None else (*labels, self._group_of(str(fields["lock"])))

    def _group_of(self, name: str) -> str:
        """The group of a name. There are no more than a few, whatever the user's map answers."""
        group = _group_of(self._group, name) if self._group is not None else "other"
        if group not in self._groups:
            if len(self._groups) >= _MAX_GROUPS:
                return "other"
            if group != "other":
                self._groups.add(group)
        return group

    def _hear(self, fields: Fields) -> None:
        event, claim = fields["event"], fields["claim"]
        if fields["kind"]:
            self._away.setdefault(fields["kind"], 0)
        if event == "waiting":
            self._waiting[claim] = self._values(fields)
        elif event == "granted":
            self._waiting.pop(claim, None)
            self._held[claim] = self._values(fields)
            self._record("acquire_seconds", fields["waited"], self._values(fields, fields["outcome"]))
            if fields["handed_over"] is not None:
                self._record("handoff_seconds", fields["handed_over"], self._values(fields))
        elif event == "not_granted":
            self._waiting.pop(claim, None)
            self._record("acquire_seconds", fields["waited"], self._values(fields, fields["outcome"]))
        elif event in ("released", "lost"):
            self._held.pop(claim, None)
            self._record("hold_seconds", fields["held"], self._values(fields))
            if event == "lost":
                self._record("losses", 1, self._values(fields, fields["reason"]))
        elif event == "lost_before_release":
            self._record("losses", 1, self._values(fields, "found_at_release"))
        elif event == "renewed" and fields["margin"] is not None:
            self._record("renew_margin_seconds", fields["margin"], self._values(fields))
        elif event == "renewal_failed":
            self._record("renew_failures", 1, (fields["kind"],))
        elif event == "store_away":
            self._away[fields["kind"]] += 1
            self._record("store_outages", 1, (fields["kind"],))
        elif event in ("store_back", "store_left"):
            self._away[fields["kind"]] = max(0, self._away[fields["kind"]] - 1)
            if event == "store_back":
                self._record("store_outage_seconds", fields["away"], (fields["kind"],))
        elif event == "left_out":
            self._record("events_left_out", fields["count"], ())

    def _counts(self, name: str) -> "Dict[Labels, int]":
        """The values of a gauge, by their labels. Locks that there were once are 0, not gone."""
        if name == "store_connected":
            return {(kind,): int(not away) for kind, away in list(self._away.items())}
        counts = dict.fromkeys(self._seen[name], 0)
        for labels in list(self._held.values() if name == "held" else self._waiting.values()):
            counts[labels] = counts.get(labels, 0) + 1
        self._seen[name] = tuple(counts)
        return counts

    def _forget(self) -> None:
        # What is held is the parent's.
        self._held, self._waiting, self._away = {}, {}, {}


def _group_of(group: Group, name: str) -> str:
    if callable(group):
        return str(group(name))
    prefix = max((prefix for prefix in group if name.startswith(prefix)), key=len, default=None)
    return "other" if prefix is None else str(group[prefix])


class _Prometheus(Metrics):
    """The metrics in a registry of ``prometheus_client``."""

    def __init__(self, registry: Any, group: Optional[Group]) -> None:
        super().__init__(group)
        client = _framework("prometheus_client", "globallock.metrics.prometheus()")
        self._core: Any = importlib.import_module("prometheus_client.core")
        self._registry = client.REGISTRY if registry is None else registry
        self._metrics: "Dict[str, Any]" = {}
        for name, _, buckets, labels, text in _RECORDED:
            full, names = f"globallock_{name}", self._labels(labels)
            self._metrics[name] = (
                client.Counter(full, text, names, registry=self._registry)
                if buckets is None
                else client.Histogram(full, text, names, registry=self._registry, buckets=buckets)
            )
        self._registry.register(self)
        self._start()

    def describe(self) -> "list[Any]":
        """What ``collect()`` gives, without values: called by the registry."""
        return [self._core.GaugeMetricFamily(f"globallock_{name}", text) for name, *_, text in _LOOKED_AT]

    def collect(self) -> "Iterator[Any]":
        """Gives the gauges: called by the registry."""
        for name, _, names, text in _LOOKED_AT:
            family = self._core.GaugeMetricFamily(f"globallock_{name}", text, labels=self._labels(names))
            for values, count in self._counts(name).items():
                family.add_metric(values, count)
            yield family

    def _record(self, name: str, value: float, labels: Labels) -> None:
        metric = self._metrics[name]
        metric = metric.labels(*labels) if labels else metric
        if hasattr(metric, "observe"):
            metric.observe(value)
        else:
            metric.inc(value)

    def _withdraw(self) -> None:
        metrics, self._metrics = self._metrics, {}
        for metric in [*metrics.values(), *([self] if metrics else [])]:
            self._registry.unregister(metric)


class _OpenTelemetry(Metrics):
    """The metrics of a meter of OpenTelemetry."""

    def __init__(self, meter: Any, group: Optional[Group]) -> None:
        super().__init__(group)
        self._api = _framework("opentelemetry.metrics", "globallock.metrics.opentelemetry()")
        meter = self._api.get_meter("globallock") if meter is None else meter
        self._closed = False
        self._instruments: "Dict[str, Any]" = {}
        self._names: "Dict[str, Labels]" = {}
        for name, dotted, buckets, labels, text in _RECORDED:
            self._names[name] = self._labels(labels)
            full = f"globallock.{dotted}"
            if buckets is None:
                self._instruments[name] = meter.create_counter(full, "1", text).add
            else:
                self._instruments[name] = _histogram(meter, full, text, buckets).record
        for name, dotted, labels, text in _LOOKED_AT:
            full, look = f"globallock.{dotted}", [self._look(name, self._labels(labels))]
            if "mode" in labels:
                meter.create_observable_up_down_counter(full, look, "{lock}", text)
            else:
                meter.create_observable_gauge(full, look, "1", text)
        self._start()

    def _look(self, name: str, names: Labels) -> "Callable[[Any], Iterator[Any]]":
        def look(_: Any) -> "Iterator[Any]":
            # A meter has no way to give an instrument back.
            if not self._closed:
                for values, count in self._counts(name).items():
                    yield self._api.Observation(count, dict(zip(names, values)))

        return look

    def _record(self, name: str, value: float, labels: Labels) -> None:
        self._instruments[name](value, dict(zip(self._names[name], labels)))

    def _withdraw(self) -> None:
        self._closed = True


def _histogram(meter: Any, name: str, text: str, buckets: "Tuple[float, ...]") -> Any:
    try:
        return meter.create_histogram(name, "s", text, explicit_bucket_boundaries_advisory=buckets)
    except TypeError:
        # Older than this parameter: the buckets are those of the user's views, or the default ones.
        return meter.create_histogram(name, "s", text)


def prometheus(registry: Any = None, group: Optional[Group] = None) -> Metrics:
    """Counts in metrics of ``prometheus_client`` what happens to the locks of this process from now on.

    ::

        from globallock import metrics

        metrics.prometheus(group={"orders/": "orders", "reports/": "reports"})

    :param registry: where the metrics are registered. Default: ``prometheus_client.REGISTRY``.
    :param group: maps names of locks to a few words, which are the label ``group``. Default: no such label.
    :raises ImportError: ``prometheus_client`` is not installed.
    :raises ValueError: the registry has these metrics already.
    """
    return _Prometheus(registry, group)


def opentelemetry(meter: Any = None, group: Optional[Group] = None) -> Metrics:
    """Counts in instruments of OpenTelemetry what happens to the locks of this process from now on.

    ::

        from globallock import metrics

        metrics.opentelemetry(group=lambda name: name.partition("/")[0])

    :param meter: what makes the instruments. Default: the meter ``globallock`` of the global provider.
    :param group: maps names of locks to a few words, which are the attribute ``group``. Default: no such
        attribute.
    :raises ImportError: ``opentelemetry-api`` is not installed.
    """
    return _OpenTelemetry(meter, group)


def _framework(module: str, caller: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = {"prometheus_client": "prometheus-client"}.get(module, "opentelemetry-api")
        raise ImportError(f"{caller} needs a package that is not installed: pip install {package}") from error


def _after_fork() -> None:
    for metrics in list(_all):
        metrics._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
