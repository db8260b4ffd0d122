"""What a rater sees: which pairs, in which order, on which side, and where attention is checked.

Everything follows from the study's seed and the rater's number, so that a design can be computed
again, and no two raters have the same.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One pair before one rater. first_is_a: the pair's first video is video A, on the left."""

    pair: int
    first_is_a: bool


def checks_beside(comparisons: int, share: float) -> int:
    """How many attention checks go with so many comparisons, so that they are `share` of all.

    At least one, unless none are wanted (share 0) or there is nothing to compare.
    """
    if share == 0 or comparisons == 0:
        return 0
    return max(1, round(comparisons * share / (1 - share)))


def fitting(pairs: int, tasks: int, share: float) -> int:
    """The most comparisons, of so many pairs, that fit into `tasks` together with their checks."""
    fits = (n for n in range(min(pairs, tasks), 0, -1) if n + checks_beside(n, share) <= tasks)
    return next(fits, 0)


def design(
    seed: int,
    rater: int,
    votes: Mapping[int, int],
    checks: Sequence[int],
    tasks: int,
    share: float,
) -> list[Task]:
    """The tasks of one rater, in their order; at most `tasks`, `share` of them attention checks.

    votes: each pair that still needs ratings, and how many it has: those with the fewest come in
    first, ties in an order of the rater's own. Checks are spread evenly: one in each stretch of the
    sequence, somewhere in it. Either side has the first video in half of the tasks.
    """
    rng = random.Random(f"{seed}/{rater}")
    pool = sorted(votes)
    rng.shuffle(pool)
    pool.sort(key=lambda pair: votes[pair])
    order = pool[: fitting(len(pool), tasks, share)]
    rng.shuffle(order)
    chosen = rng.sample(list(checks), min(len(checks), checks_beside(len(order), share)))
    stretch = (len(order) + len(chosen)) / max(1, len(chosen))
    for n, check in enumerate(chosen):
        order.insert(int((n + rng.random()) * stretch), check)
    sides = [n % 2 == 0 for n in range(len(order))]
    rng.shuffle(sides)
    return [Task(pair, side) for pair, side in zip(order, sides, strict=True)]
