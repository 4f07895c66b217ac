"""Who is calling: devices by their signature, operators by their token, and neither of them too often."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cloud_service import signatures, wire
from cloud_service.federation import Federation

_MOST_CALLERS = 100_000


class RateLimit:
    """A token bucket for every caller: `burst` calls at once, `per_s` in the long run."""

    def __init__(self, per_s: float, burst: int, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._burst, self._clock_s = per_s, float(burst), clock_s
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, caller: str) -> None:
        """Counts a call. Raises WireError when there were too many."""
        now_s = self._clock_s()
        with self._lock:
            tokens, since_s = self._buckets.pop(caller, (self._burst, now_s))
            tokens = min(self._burst, tokens + (now_s - since_s) * self._per_s)
            self._buckets[caller] = (max(0.0, tokens - 1), now_s)
            while len(self._buckets) > _MOST_CALLERS:
                self._buckets.popitem(last=False)
        if tokens < 1:
            raise wire.WireError("RESOURCE_EXHAUSTED", "too many requests: repeat later")


@dataclass(frozen=True)
class Callers:
    """Checks who calls. `operator_token` opens everything but the calls of devices."""

    federation: Federation
    operator_token: str
    limit: RateLimit = field(default_factory=lambda: RateLimit(per_s=50, burst=200))

    def device(self, metadata: Mapping[str, str], signed: Callable[[str], bytes]) -> str:
        """The client id of a signed call; `signed` makes the signed bytes of the time in the metadata."""
        client_id = metadata.get("cooperllm-client", "")
        time_ms = metadata.get("cooperllm-time-ms", "")
        signatures.check_identity(client_id, time_ms, self.federation.clock_ms())
        signature = signatures.signature_bytes(metadata.get("cooperllm-signature", ""))
        signatures.check_signature(self.federation.public_key(client_id), signature, signed(time_ms))
        # After the signature: nobody can use up another client's calls.
        self.limit.check(client_id)
        return client_id

    def operator(self, authorization: str) -> None:
        """Checks an operator's `Authorization: Bearer TOKEN`."""
        kind, _, token = authorization.partition(" ")
        if kind.lower() != "bearer" or not wire.is_token(token.strip(), self.operator_token):
            raise wire.WireError("UNAUTHENTICATED", "give the operator's token: Authorization: Bearer TOKEN")
