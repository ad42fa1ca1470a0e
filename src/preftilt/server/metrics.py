"""What ``/metrics`` shows, in Prometheus' format; labels come from a fixed set, never from clients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from preftilt.engines.base import Engine
from preftilt.server.work import Answer

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


@dataclass(frozen=True, slots=True)
class ReplicaMetrics(Collector):
    """How every replica does, read from the engine when it is asked for; labelled by the names the operator gave."""

    engine: Engine

    def collect(self) -> Iterator[Metric]:
        labels = ["replica"]
        up = GaugeMetricFamily("preftilt_replica_up", "Whether it is given work.", labels=labels)
        load = GaugeMetricFamily(
            "preftilt_replica_load", "Sequences under way there.", labels=labels
        )
        calls = CounterMetricFamily("preftilt_replica_calls", "Calls it was given.", labels=labels)
        failed = CounterMetricFamily(
            "preftilt_replica_failed", "Calls that came back undone.", labels=labels
        )
        for replica in self.engine.replica_statuses:
            up.add_metric([replica.name], replica.up)
            load.add_metric([replica.name], replica.load)
            calls.add_metric([replica.name], replica.calls)
            failed.add_metric([replica.name], replica.failed)
        yield from (up, load, calls, failed)


class Metrics:
    """The counters of one server.

    registry: where they are to be shown, if not only by :meth:`text`. Nothing here is computed when it is asked for,
    except of replicas: so processes that share their metrics by files (PROMETHEUS_MULTIPROC_DIR) show them all.
    """

    def __init__(self, engine: Engine, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        about = {"namespace": "preftilt", "registry": self.registry}
        self.requests = Counter("requests", "Requests.", ["endpoint", "status"], **about)
        self.seconds = Histogram(
            "request_seconds", "Wall seconds a request.", ["endpoint"], buckets=SECONDS, **about
        )
        self.tokens = Counter("tokens", "Tokens: sampled, scored, cached.", ["kind"], **about)
        self.candidates = Counter("candidates", "Candidates drawn.", **about)
        self.disconnects = Counter("disconnects", "Clients that left early.", **about)
        self.late = Counter("late", "Answers that a deadline cut short.", **about)
        self.admitted = Gauge(
            "admitted", "Requests at work or in the queue.", multiprocess_mode="livesum", **about
        )
        if engine.replica_statuses:
            self.registry.register(ReplicaMetrics(engine))

    def count(self, answer: Answer) -> None:
        """What one answer cost."""
        self.tokens.labels("sampled").inc(answer.usage.sampled)
        self.tokens.labels("scored").inc(sum(answer.usage.scored.values()))
        self.tokens.labels("cached").inc(answer.usage.reused)
        self.candidates.inc(answer.candidates)
        self.late.inc(bool(answer.late))

    def text(self) -> bytes:
        """All of them, as text."""
        return generate_latest(self.registry)
