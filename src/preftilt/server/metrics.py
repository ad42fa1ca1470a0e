"""What ``/metrics`` shows, in Prometheus' format; labels come from a fixed set, never from clients."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from preftilt.server.work import Answer, Gate

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The counters of one server."""

    def __init__(self, gate: Gate) -> None:
        self.registry = CollectorRegistry()
        about = {"namespace": "preftilt", "registry": self.registry}
        self.requests = Counter("requests", "Requests.", ["endpoint", "status"], **about)
        self.seconds = Histogram(
            "request_seconds", "Wall seconds a request.", ["endpoint"], buckets=SECONDS, **about
        )
        self.tokens = Counter("tokens", "Tokens: sampled, scored, cached.", ["kind"], **about)
        self.candidates = Counter("candidates", "Candidates drawn.", **about)
        self.disconnects = Counter("disconnects", "Clients that left early.", **about)
        self.late = Counter("late", "Answers that a deadline cut short.", **about)
        admitted = Gauge("admitted", "Requests at work or in the queue.", **about)
        admitted.set_function(lambda: gate.admitted)

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
