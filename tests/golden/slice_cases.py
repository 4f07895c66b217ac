"""The inputs of the golden directions, updates, layouts and adapters: the edges first, then random ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEPS = 2**23
_LAST = float(STEPS - 1)
_NAN, _INF = float("nan"), float("inf")

LAYOUTS: tuple[list[tuple[str, int, tuple[int, ...], int]], ...] = (
    [],
    [("scalar", 0, (), 20)],
    [("b", 1, (3,), 20), ("a", 1, (2, 2), 18), ("lora_a", 0, (1, 4, 5), 21), ("empty", 0, (0, 4), 20)],
    [("gewicht-ä", 2, (7, 11), 12), ("bias", 2, (7,), -3), ("x.y.weight", 0, (301,), 20)],
)

ADAPTERS: tuple[tuple[str, list[float], int, str], ...] = (
    ("nothing", [], 20, "OK"),
    ("both bounds", [_LAST * 2.0**-20, -_LAST * 2.0**-20, 0.0], 20, "OK"),
    ("a bound of a negative exponent", [_LAST * 8, -8.0], -3, "OK"),
    ("one step too many", [8.0], 20, "OUT_OF_RANGE"),
    ("half a step too many", [(STEPS - 0.5) * 2.0**-20], 20, "OFF_GRID"),
    ("far out", [1.0, -1e30], 20, "OUT_OF_RANGE"),
    ("between two values", [2.0**-21], 20, "OFF_GRID"),
    ("a denormal", [1e-45], 20, "OFF_GRID"),
    ("minus zero", [0.0, 1.0, -0.0], 20, "OFF_GRID"),
    ("NaN", [_NAN], 20, "NOT_FINITE"),
    ("infinity and off the grid", [2.0**-21, 9.0, _INF], 20, "NOT_FINITE"),
)


def floats(*values: float) -> NDArray[np.float32]:
    """Return float32 values."""
    return np.array(values, np.float32)


def random_adapter(random: np.random.Generator, count: int, exponent: int) -> NDArray[np.float32]:
    """Return grid values anywhere within the bound, many of them zero or at it."""
    steps = np.rint(random.uniform(-_LAST, _LAST, count))
    steps[random.random(count) < 0.1] = 0.0
    steps[random.random(count) < 0.05] = _LAST
    steps[random.random(count) < 0.05] = -_LAST
    return ((steps + 0.0) * 2.0**-exponent).astype(np.float32)


def _direction(isotropic: float, seed: int = 7, scale: Any = None, guides: Any = ()) -> dict[str, Any]:
    pairs = [{"values": values, "coefficient": coefficient} for values, coefficient in guides]
    return {"seed": hex(seed), "isotropic_scale": isotropic, "scale": scale, "guides": pairs}


def _case(name: str, start: int, exponent: int, epsilon: float, adapter: Any, **more: Any) -> dict[str, Any]:
    place = {"name": name, "start": start, "exponent": exponent, "epsilon": epsilon, "adapter": adapter}
    return place | more


def _edges() -> Iterator[dict[str, Any]]:
    """Directions at the edges, on five values: the bounds, zero and their neighbours."""
    five = floats(_LAST, -_LAST, 0.0, 1.0, -1.0)  # exponent 0: values are grid steps

    def edge(name: str, direction: dict[str, Any], epsilon: float = 1.0, exponent: int = 0) -> dict[str, Any]:
        return _case(
            name, 3, exponent, epsilon, five if exponent == 0 else floats(0, 0, 0, 0, 0), **direction
        )

    huge = floats(0, 1, 1e30, 1, 1)
    ties = floats(0.5, 1.5, 2.5, -0.5, -1.5)
    yield edge("zero everywhere", _direction(0.0))
    yield edge("a guide of zeros of both signs", _direction(0.0, guides=[(floats(0.0, -0.0, 0, 0, 0), -1.0)]))
    for half in (0.5, 1.5, 2.5, 3.5):
        yield edge(f"noise on a tie at {half}", _direction(half))
    yield edge("a guide on ties", _direction(0.0, guides=[(ties, 1.0)]))
    yield edge("a scale on ties", _direction(1.0, scale=np.abs(ties)))
    yield edge("the largest step", _direction(_LAST))
    yield edge("just below the range's end", _direction(float(np.nextafter(STEPS - 0.5, 0))))
    yield edge("at the range's end", _direction(STEPS - 0.5))
    yield edge("a guide of 1e30", _direction(1.0, guides=[(huge, 1.0)]))
    yield edge("a guide of 1e30, made small", _direction(1.0, guides=[(huge, 1e-25)]))
    yield edge("a guide of 1e30, made infinite", _direction(1.0, guides=[(huge, 1e300)]))
    yield edge("a product that overflows", _direction(1e300), 1e300)
    yield edge("NaN in a guide", _direction(1.0, guides=[(floats(1, 1, _NAN, 1, 1), 1.0)]))
    yield edge("infinity times zero", _direction(1.0, guides=[(floats(1, 1, _INF, 1, 1), 0.0)]))
    yield edge("out of range before NaN", _direction(1.0, guides=[(floats(1e30, 1, _NAN, 1, 1), 1.0)]))
    yield edge("NaN in a scale", _direction(1.0, scale=floats(1, 1, 1, _NAN, 1)))
    yield edge("epsilon below the grid", _direction(1.0), 1e-9, 20)
    yield edge("epsilon a little below the grid", _direction(1.0), 10.3 * 2.0**-20, 20)
    yield edge("epsilon of nothing", _direction(1.0), 5e-324, 20)
    yield edge("epsilon zero", _direction(1.0), 0.0)
    yield edge("epsilon negative", _direction(1.0), -1.0)


def directions() -> Iterator[dict[str, Any]]:
    """Every golden direction, without its result."""
    yield from _edges()
    random = np.random.default_rng(2)
    for index, (start, count) in enumerate(
        [(0, 0), (0, 1), (0, 7), (5, 128), (127, 1), (129, 300), (1000, 2100), (1023, 2), (2048, 1024)]
    ):
        exponent = (20, 12, 23, -2)[index % 4]
        epsilon = 2.0 ** (10 - exponent) * float(random.uniform(0.5, 1.0))
        for kind in ("noise", "scale", "guide", "all"):
            scale = np.exp(random.normal(size=count)).astype(np.float32) if kind in ("scale", "all") else None
            guides = [
                (random.normal(size=count).astype(np.float32), float(random.normal()))
                for _ in range({"guide": 1, "all": 2}.get(kind, 0))
            ]
            adapter = random_adapter(random, count, exponent)
            seed = int(random.integers(2**63)) * 2 + 1
            direction = _direction(float(random.uniform(0.1, 1.0)), seed, scale, guides)
            yield _case(f"{kind} {start}+{count}", start, exponent, epsilon, adapter, **direction)


def _update(directions: Any, coefficients: list[float], guides: Any = (), seed: int = 11) -> dict[str, Any]:
    pairs = [{"values": values, "coefficient": coefficient} for values, coefficient in guides]
    more = {"directions": directions, "coefficients": coefficients, "guides": pairs}
    return {"update_seed": hex(seed), **more}


def _update_edges() -> Iterator[dict[str, Any]]:
    five = floats(_LAST, -_LAST, 0.0, 1.0, -1.0)
    ones = floats(1, 1, 1, 1, 1)

    def edge(name: str, update: dict[str, Any], epsilon: float = 1.0) -> dict[str, Any]:
        return _case(name, 6, 0, epsilon, five, **update)

    yield edge("nothing moves", _update([], []))
    yield edge("the smallest step", _update([], [], [(ones, 2.0**-17)]))
    yield edge("half steps", _update([], [], [(ones, 0.5)]))
    yield edge("half steps back", _update([], [], [(ones, -0.5)]))
    yield edge("over the upper bound", _update([], [], [(ones, 3.0)]))
    yield edge("over the lower bound", _update([], [], [(ones, -3.0)]))
    yield edge("everything to the bound", _update([], [], [(ones, 1e30)]))
    yield edge("a guide of 1e30", _update([], [], [(floats(1e30, -1e30, 1e30, -1e30, 0), 1.0)]))
    yield edge("back from the bounds", _update([], [], [(floats(-1, 1, 0, 0, 0), 2.0 * STEPS - 2.0)]))
    yield edge("a guide that overflows", _update([], [], [(floats(1, 1, 1e30, 1, 1), 1e300)]))
    yield edge("NaN in a guide", _update([], [], [(floats(1, 1, _NAN, 1, 1), 1.0)]))
    yield edge("infinity in a guide of weight 0", _update([], [], [(floats(1, 1, _INF, 1, 1), 0.0)]))
    yield edge("a direction out of range", _update([_direction(1e8)], [1e-8]))
    yield edge("a direction just in range", _update([_direction(_LAST)], [1e-6]))
    yield edge("a weight that overflows", _update([_direction(1e10)], [1e300], seed=2), 1e-9)
    yield edge(
        "NaN in a direction's scale", _update([_direction(1.0, scale=floats(1, _NAN, 1, 1, 1))], [1.0])
    )
    yield edge("zero divided away", _update([_direction(0.0)], [1.0]), 1e-300)


def updates() -> Iterator[dict[str, Any]]:
    """Every golden update, without its result."""
    yield from _update_edges()
    random = np.random.default_rng(3)
    for index, (start, count) in enumerate([(0, 0), (0, 1), (3, 9), (127, 130), (1000, 2100), (1019, 11)]):
        exponent = (20, 12, 23, -2)[index % 4]
        epsilon = 2.0 ** (9 - exponent)
        for number in (1, 5):
            made = [
                _direction(
                    float(random.uniform(0.1, 1.0)),
                    int(random.integers(2**63)),
                    np.exp(random.normal(size=count)).astype(np.float32) if j % 3 == 1 else None,
                    [(random.normal(size=count).astype(np.float32), float(random.normal()))] if j % 2 else [],
                )
                for j in range(number)
            ]
            coefficients = [float(c) for c in random.normal(size=number) * 2.0 ** (4 - exponent)]
            guides = [(random.normal(size=count).astype(np.float32), 2.0**-exponent)] if number == 5 else []
            adapter = random_adapter(random, count, exponent)
            update = _update(made, coefficients, guides, seed=2**64 - 1 - index)
            yield _case(f"{number} directions {start}+{count}", start, exponent, epsilon, adapter, **update)
