"""When data arrive that pass a link: a token bucket, delay and jitter. The clock is whoever's asks."""

from __future__ import annotations

import random
from collections.abc import Iterator

from cooperllm.simulate.link import Link

# Data move in pieces of about this much of the link's time, so that connections share it fairly.
_PIECE_S = 0.01
_LEAST_PIECE_BYTES = 1448  # what one Ethernet packet carries
_MOST_PIECE_BYTES = 64 * 1024
_BURST_S = 0.002  # what a link that was idle lets pass at once


class TokenBucket:
    """A rate, kept exactly over any busy stretch: data leave one after another, `size / rate` apart.

    Told as a queue in virtual time (the "generic cell rate algorithm", ITU-T I.371): `free_s` is when the
    bucket has let pass all that it was given; an idle bucket saves up at most `burst_s` of its rate.
    """

    def __init__(self, bytes_per_s: float, now_s: float, burst_s: float = _BURST_S) -> None:
        self.bytes_per_s = bytes_per_s
        self._burst_s = burst_s
        self._free_s = now_s - burst_s

    def leave_s(self, size_bytes: int, now_s: float) -> float:
        """When the last of these bytes has left."""
        self._free_s = max(self._free_s, now_s - self._burst_s) + size_bytes / self.bytes_per_s
        return max(self._free_s, now_s)

    def set_rate(self, bytes_per_s: float, now_s: float) -> None:
        """Change the rate: what still has to leave leaves at the new one."""
        if self._free_s > now_s:
            self._free_s = now_s + (self._free_s - now_s) * self.bytes_per_s / bytes_per_s
        self.bytes_per_s = bytes_per_s

    def hold(self, until_s: float, now_s: float) -> None:
        """Let nothing pass until then."""
        self._free_s = max(self._free_s, now_s) + max(until_s - now_s, 0.0)


class Way:
    """One direction of a link, shared by all its connections."""

    def __init__(self, bytes_per_s: float, link: Link, seed: int, now_s: float) -> None:
        self._bucket = TokenBucket(bytes_per_s, now_s)
        self._random = random.Random(seed)
        self._delay_s, self._jitter_s = link.rtt_s / 2, link.jitter_s
        self._rtt_s = link.rtt_s
        self.stalled_until_s = now_s

    def arrival_s(self, size_bytes: int, now_s: float) -> float:
        """When data that enter now have crossed. Later data of a connection never overtake: see to that."""
        jitter_s = self._random.uniform(0.0, self._jitter_s) if self._jitter_s else 0.0
        return self._bucket.leave_s(size_bytes, now_s) + self._delay_s + jitter_s

    def change(self, bytes_per_s: float, link: Link, now_s: float) -> None:
        """Become this link's direction; what has entered already keeps its time of arrival."""
        self._bucket.set_rate(bytes_per_s, max(now_s, self.stalled_until_s))
        self._delay_s, self._jitter_s, self._rtt_s = link.rtt_s / 2, link.jitter_s, link.rtt_s

    def stall(self, duration_s: float, now_s: float) -> None:
        """Nothing arrives for so long from now, not even what is on its way."""
        until_s = max(self.stalled_until_s, now_s + duration_s)
        self._bucket.hold(until_s, max(now_s, self.stalled_until_s))
        self.stalled_until_s = until_s

    @property
    def piece_bytes(self) -> int:
        """The most that is taken from a connection at once."""
        return int(min(max(self._bucket.bytes_per_s * _PIECE_S, _LEAST_PIECE_BYTES), _MOST_PIECE_BYTES))

    @property
    def queue_bytes(self) -> int:
        """The most that one connection may have on its way: the bandwidth-delay product and four pieces.

        With more the sender would not feel the link, with less the link would run dry.
        """
        in_flight_bytes = self._bucket.bytes_per_s * (self._rtt_s + self._jitter_s)
        return int(in_flight_bytes) + 4 * self.piece_bytes


def stalls(link: Link, seed: int) -> Iterator[tuple[float, float]]:
    """Draw (pause before it, duration) of one stall after another, in seconds; none for a steady link.

    Pauses are exponential, so that a stall is as likely at any moment.
    """
    source = random.Random(f"stalls {seed}")
    while link.stall_s and link.stall_every_s:
        yield source.expovariate(1 / link.stall_every_s), link.stall_s


def resets(link: Link, seed: int) -> Iterator[int]:
    """Draw how many bytes come down before each reset; none for a link that never breaks."""
    source = random.Random(f"resets {seed}")
    while link.reset_every_bytes:
        yield 1 + int(source.expovariate(1 / link.reset_every_bytes))
