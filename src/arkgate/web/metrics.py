"""Prometheus metrics: what happened, in counters that carry no secret and no account."""

import functools

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from arkgate.core.ledger import Totals
from arkgate.core.money import Msat
from arkgate.gateway.readiness import Readiness

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """`ports.Observer` for Prometheus, and the text that the operator listener serves."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._challenges = Counter(
            "arkgate_challenges", "Challenges issued (402).", ["service"], registry=self.registry
        )
        self._sessions = Counter(
            "arkgate_funding_requests", "Sessions and top-ups opened.", registry=self.registry
        )
        self._payments = Counter("arkgate_payments", "Payments credited.", registry=self.registry)
        self._credited = Counter("arkgate_credited_msat", "Amount credited, msat.", registry=self.registry)
        self._calls = Counter(
            "arkgate_calls", "Finished calls by outcome.", ["service", "outcome"], registry=self.registry
        )
        self._charged = Counter(
            "arkgate_charged_msat", "Amount charged, msat.", ["service"], registry=self.registry
        )
        self._refunded = Counter(
            "arkgate_refunded_msat", "Holds given back, msat.", ["service"], registry=self.registry
        )
        self._seconds = Histogram(
            "arkgate_call_seconds", "Call time.", ["service"], buckets=_SECONDS, registry=self.registry
        )
        self._alarms = Counter(
            "arkgate_alarms", "What a person must look at.", ["kind"], registry=self.registry
        )
        self._requests = Counter(
            "arkgate_requests", "Public requests by status.", ["status"], registry=self.registry
        )
        self._up = Gauge(
            "arkgate_dependency_up", "1 while a dependency is ready.", ["dependency"], registry=self.registry
        )
        self._held = Gauge("arkgate_held_msat", "Held by open calls, msat.", registry=self.registry)
        self._open_holds = Gauge("arkgate_open_holds", "Open holds.", registry=self.registry)
        self._liabilities = Gauge(
            "arkgate_customers_msat", "Owed to customers, msat.", registry=self.registry
        )
        self._by_status = {str(status): self._requests.labels(str(status)) for status in (200, 402)}

    def challenge_issued(self, service: str) -> None:
        """See `ports.Observer`."""
        self._challenges.labels(service).inc()

    def session_opened(self) -> None:
        """See `ports.Observer`."""
        self._sessions.inc()

    def payment_credited(self, amount: Msat) -> None:
        """See `ports.Observer`."""
        self._payments.inc()
        self._credited.inc(amount)

    def call_finished(self, service: str, outcome: str, *, held: Msat, charged: Msat, seconds: float) -> None:
        """See `ports.Observer`."""
        calls, charges, refunds, times = self._children(service, outcome)
        calls.inc()
        if charged:
            charges.inc(charged)
        if held > charged:
            refunds.inc(held - charged)
        times.observe(seconds)

    @functools.cache  # noqa: B019 - one for the process; looking children up costs more than counting
    def _children(self, service: str, outcome: str) -> tuple[Counter, Counter, Counter, Histogram]:
        return (
            self._calls.labels(service, outcome),
            self._charged.labels(service),
            self._refunded.labels(service),
            self._seconds.labels(service),
        )

    def alarm(self, kind: str) -> None:
        """See `ports.Observer`."""
        self._alarms.labels(kind).inc()

    def request_answered(self, status: int) -> None:
        """A public request got its status."""
        key = str(status)
        counter = self._by_status.get(key)
        if counter is None:
            counter = self._by_status[key] = self._requests.labels(key)
        counter.inc()

    def render(self, readiness: Readiness, totals: Totals | None) -> bytes:
        """All metrics in Prometheus' text format, with the state of things now."""
        for name, health in readiness.dependencies.items():
            self._up.labels(name).set(health.ready)
        if totals is not None:
            self._held.set(totals.held)
            self._open_holds.set(totals.open_holds)
            self._liabilities.set(totals.customers)
        return generate_latest(self.registry)
