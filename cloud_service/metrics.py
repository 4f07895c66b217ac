"""Counters and gauges for Prometheus, and the bytes of a round by kind."""

from __future__ import annotations

import threading
from collections import Counter as Tally

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest


class Metrics:
    """One service's own registry: nothing is shared between two services in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "cooperllm_requests",
            "Calls of devices and operators, by method and status.",
            ["method", "status"],
            registry=self.registry,
        )
        self.traffic_bytes = Counter(
            "cooperllm_traffic_bytes",
            "Payload bytes, by kind; reports, scalars and check_in_requests come in, the rest go out.",
            ["kind"],
            registry=self.registry,
        )
        self.round = Gauge("cooperllm_round", "Number of the round that is out.", registry=self.registry)
        self.stage = Gauge(
            "cooperllm_chain_stage", "Stage of a chain that the round trains, from 0.", registry=self.registry
        )
        self.version = Gauge("cooperllm_adapter_version", "Newest adapter version.", registry=self.registry)
        self.reports = Counter(
            "cooperllm_reports", "Accepted reports, by status.", ["status"], registry=self.registry
        )
        self.expired = Counter("cooperllm_leases_expired", "Leases that ran out.", registry=self.registry)
        self.guides_s = Gauge(
            "cooperllm_guides_seconds", "Time that the last guides took.", registry=self.registry
        )
        self._tally: Tally[str] = Tally()
        self._lock = threading.Lock()

    def moved(self, kind: str, size_bytes: int) -> None:
        """Counts bytes that came in or went out."""
        self.traffic_bytes.labels(kind).inc(size_bytes)
        with self._lock:
            self._tally[kind] += size_bytes

    def take_traffic(self) -> dict[str, int]:
        """Bytes by kind since the last call: what a round moved."""
        with self._lock:
            moved, self._tally = dict(self._tally), Tally()
        return moved

    def text(self) -> bytes:
        """Everything in Prometheus' text form."""
        return generate_latest(self.registry)
