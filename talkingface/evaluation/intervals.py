"""Bootstrap intervals of means over clips, of one model and of two on the same clips.

Efron 1979: the clips are drawn again with replacement, as many as there are. The interval of a
number holds 95 % of its values over the draws. Every number here is a function of sums over clips:
a mean is one of values and of ones, a correlation over all frames one of products of both curves.
So a draw is a row of counts, and all draws are one product of matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talkingface.types import Array

RESAMPLES = 2000
LEVEL = 0.95
SEED = 2019  # one for all tables: the same results give the same intervals


@dataclass(frozen=True)
class Sums:
    """Summands of a number of a table.

    values: (N, K), K summands of each clip; all are zero for a clip that does not count. formula:
    sums (..., K) -> (...), the number.
    """

    values: Array
    formula: Callable[[Array], Array]


def ratio(parts: NDArray[Any], wholes: NDArray[Any] | None = None) -> Sums:
    """Return the sum of `parts` (N,) over the sum of `wholes` (N,); None: the mean of `parts`.

    A clip whose part is NaN does not count.
    """
    above = np.asarray(parts, dtype=np.float64)
    below = np.ones(len(above)) if wholes is None else np.asarray(wholes, dtype=np.float64)
    known = np.isfinite(above)
    values = np.stack([np.where(known, above, 0.0), np.where(known, below, 0.0)], axis=1)
    return Sums(values, _quotient)


def _quotient(sums: Array) -> Array:
    return _divided(sums[..., 0], sums[..., 1])


def _divided(above: Array, below: Array) -> Array:
    out = np.full(np.shape(above), math.nan)
    return np.asarray(np.divide(above, below, out=out, where=below > 0))


def pooled(made: list[Array], real: list[Array], what: str) -> Sums:
    """Return the "correlation" or "amplitude" (ratio of deviations) of curves over all clips.

    It equals that of `metrics.lips` for the curves of all clips, one after the other. Frames that
    are NaN in either curve do not count.
    """
    pairs = [np.stack([a, b]) for a, b in zip(made, real, strict=True)]
    pairs = [pair[:, np.isfinite(pair).all(0)] for pair in pairs]
    frames = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0))
    centre = frames.mean(1, keepdims=True) if frames.size else np.zeros((2, 1))
    moved = [pair - centre for pair in pairs]  # sums of squares about 0 would cancel
    rows = [(x.size, x.sum(), y.sum(), x @ x, y @ y, x @ y) for x, y in moved]
    formula = {"correlation": _correlation, "amplitude": _amplitude}[what]
    return Sums(np.array(rows, dtype=np.float64).reshape(-1, 6), formula)


def _moments(sums: Array) -> tuple[Array, Array, Array]:
    """Return the variance of each curve and their covariance, times the square of the count."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    return np.maximum(n * xx - x * x, 0.0), np.maximum(n * yy - y * y, 0.0), n * xy - x * y


def _correlation(sums: Array) -> Array:
    first, second, both = _moments(sums)
    return _divided(both, np.sqrt(first * second))


def _amplitude(sums: Array) -> Array:
    first, second, _ = _moments(sums)
    return np.sqrt(_divided(first, second))


def interval(number: Sums) -> tuple[float, float]:
    """Return the bounds of 95 % of the draws: (low, high). NaN for under two clips that count."""
    counted = number.values[number.values.any(1)]
    return _middle(number.formula(_draws(counted)), len(counted))


def difference(first: Sums, second: Sums) -> tuple[float, float]:
    """Return the interval of first - second, whose rows are the same clips: (low, high).

    A draw takes the same clips of both, so that the difficulty of a clip cancels. A clip counts
    only if it counts in both.
    """
    both = first.values.any(1) & second.values.any(1)
    ours, theirs = (sums.formula(_draws(sums.values[both])) for sums in (first, second))
    return _middle(ours - theirs, int(both.sum()))


def differs(first: Sums, second: Sums) -> bool:
    """Return whether 0 lies outside of the interval of the difference."""
    low, high = difference(first, second)
    return low > 0 or high < 0


def _draws(values: Array) -> Array:
    """Return sums over N clips drawn with replacement: (N, K) -> (RESAMPLES, K)."""
    return np.asarray(_counts(len(values)) @ values)


@lru_cache(maxsize=16)
def _counts(clips: int) -> Array:
    """Return the count of each clip in each draw, (RESAMPLES, clips); the same at every call."""
    if clips == 0:
        return np.zeros((RESAMPLES, 0))
    rng = np.random.default_rng([SEED, clips])
    drawn = rng.multinomial(clips, np.full(clips, 1 / clips), size=RESAMPLES)
    return np.asarray(drawn, dtype=np.float64)


def _middle(draws: Array, clips: int) -> tuple[float, float]:
    known = draws[np.isfinite(draws)]
    if clips < 2 or not known.size:
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
