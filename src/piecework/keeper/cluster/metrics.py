"""What the keeper does, as Prometheus metrics.

Enters: each tick's snapshot and what was done. Leaves: gauges and counters on a port, under
`piecework_`. A registry of its own, so that a test may have several.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from piecework.keeper.cluster.actions import Admit, AdmitFollowers
from piecework.keeper.cluster.apply import Done
from piecework.keeper.cluster.snapshot import Snapshot
from piecework.keeper.cluster.writer import Writer
from piecework.kube.client import Kube

#: Buckets for seconds of waiting: from a hand-over to an hour in the queue.
_WAITING = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
#: From an event to the ledger.
_LAG = (0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 60)


class Metrics:
    """The keeper's metrics. `serve` offers them over HTTP."""

    def __init__(self, kube: Kube, writer: Writer, is_leader: Callable[[], bool]) -> None:
        from prometheus_client import CollectorRegistry, Gauge, Histogram
        from prometheus_client import Counter as Count

        self.registry = CollectorRegistry()
        self._writer = writer
        self._lags = 0

        def gauge(name: str, what: str, *by: str) -> Any:
            return Gauge(f"piecework_{name}", what, by, registry=self.registry)

        def count(name: str, what: str, *by: str) -> Any:
            return Count(f"piecework_{name}", what, by, registry=self.registry)

        self._actions = count("actions", "Actions, by kind and result", "action", "result")
        self._machines = gauge("machines", "Machines, by pool and state", "pool", "state")
        self._attempts = gauge("attempts", "Attempts, by pool and state", "pool", "state")
        self._usd = gauge("usd_per_hour", "What the machines of a pool cost per hour", "pool")
        self._handed = count("handovers", "Machines that were handed over", "pool")
        self._waited = Histogram(
            "piecework_admission_seconds",
            "From a run's being queued to its admission",
            ["pool"],
            buckets=_WAITING,
            registry=self.registry,
        )
        self._lag = Histogram(
            "piecework_ledger_lag_seconds",
            "From an event to the ledger",
            buckets=_LAG,
            registry=self.registry,
        )
        requests = gauge("api_requests", "Requests to the API server since the start")
        requests.set_function(lambda: kube.requests)
        waiting = gauge("ledger_waiting_events", "Events that are not in the ledger yet")
        waiting.set_function(lambda: writer.waiting)
        leader = gauge("keeper_leads", "1 where this keeper is the one that acts")
        leader.set_function(lambda: 1 if is_leader() else 0)

    def serve(self, port: int) -> int:
        """Serves them from now on; returns the port, which 0 lets the system choose."""
        from prometheus_client import start_http_server

        server, _ = start_http_server(port, registry=self.registry)
        return int(server.server_port)

    def tell(self, snapshot: Snapshot, done: list[Done]) -> None:
        """Takes note of a tick."""
        for result in done:
            outcome = "failed" if result.error else "done"
            self._actions.labels(result.action.kind, outcome).inc()
            if result.error is not None:
                continue
            if isinstance(result.action, Admit):
                self._admitted(snapshot, result.action)
            if isinstance(result.action, Admit | AdmitFollowers):
                pool = result.action.attempt.first.pool
                self._handed.labels(pool).inc(len(result.action.handed))
        lags = self._writer.take_lags()
        for lag in lags:
            self._lag.observe(lag)
        self._count(snapshot)

    def _admitted(self, snapshot: Snapshot, action: Admit) -> None:
        pool = action.attempt.first.pool
        waited = (snapshot.now - action.attempt.queued_at).total_seconds()
        self._waited.labels(pool).observe(max(0.0, waited))

    def _count(self, snapshot: Snapshot) -> None:
        machines = Counter((m.pool, m.state) for m in snapshot.machines.values())
        attempts = Counter(
            (attempt.first.pool, _state(attempt)) for attempt in snapshot.attempts.values()
        )
        self._machines.clear()
        self._attempts.clear()
        for (pool, state), number in machines.items():
            self._machines.labels(pool, state).set(number)
        for (pool, state), number in attempts.items():
            self._attempts.labels(pool, state).set(number)
        for name in snapshot.pools:
            alive = [m for m in snapshot.machines.values() if m.pool == name and not m.gone_at]
            prices = [snapshot.prices.get(machine.id) for machine in alive]
            self._usd.labels(name).set(float(sum(filter(None, prices), Decimal(0))))


def _state(attempt: Any) -> str:
    if not attempt.is_live:
        return "ended"
    if attempt.admitted_at is None:
        return "queued"
    return "running" if attempt.first.started_at else "admitted"
