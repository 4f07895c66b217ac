"""Mixing what public data say with what the devices measured.

    g = weight * g_B + (1 - weight) * g_Z,    weight* = d sigma^2 / (d sigma^2 + |b|^2 + tau^2)

g_B is the public gradient, as the guide that devices received (bias b, variance tau^2); g_Z is the devices'
estimate (unbiased, total variance d sigma^2); weight* minimises E|g - grad f|^2 (CooperLLM, arXiv
2601.12917). Both are in the metric of the scale.

Neither term is known; both are measured. d sigma^2 comes from the spread of the round's scalars. As g_B and
g_Z are independent given the version, E|g_Z - g_B|^2 = d sigma^2 + |b|^2 + tau^2, so the second term is that
distance less the first, averaged over rounds. A round's noise is not what the adapter feels: momentum
averages it over about (1 + momentum) / (1 - momentum) rounds and further rounds go on averaging, whereas a
bias stays. So d sigma^2 counts divided by the number of rounds that average it.
"""

from __future__ import annotations

from collections.abc import Mapping

# Each running mean forgets with this factor per round: about 10 rounds.
_KEEP = 0.9


def update_statistics(
    statistics: Mapping[str, float] | None, variance: float, squared_distance: float
) -> dict[str, float]:
    """Running means of d sigma^2 and of |g_Z - g_B|^2 over `count` rounds, corrected for their start."""
    old = {"count": 0.0, "variance": 0.0, "squared_distance": 0.0} if statistics is None else dict(statistics)
    count = old["count"] + 1.0
    fresh = (1.0 - _KEEP) / (1.0 - _KEEP**count)
    return {
        "count": count,
        "variance": old["variance"] + fresh * (variance - old["variance"]),
        "squared_distance": old["squared_distance"] + fresh * (squared_distance - old["squared_distance"]),
    }


def optimal_weight(statistics: Mapping[str, float], averaged_rounds: float) -> float:
    """weight* of the public gradient, 0 to 1; 0 where there is no noise at all.

    `averaged_rounds` (at least 1) is the number of rounds over which the optimiser averages the devices'
    noise.
    """
    noise = statistics["variance"] / averaged_rounds
    bias = max(0.0, statistics["squared_distance"] - statistics["variance"])
    return noise / (noise + bias) if noise > 0.0 else 0.0
