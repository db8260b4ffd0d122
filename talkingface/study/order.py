"""Tasks of a rater: the pairs, their order, their sides, and the attention checks.

All follow from the study's seed and the rater's number. So a design can be computed again, and
raters get different designs.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A pair shown to one rater. first_is_a: the pair's first video is video A, on the left."""

    pair: int
    first_is_a: bool


def checks_beside(comparisons: int, share: float) -> int:
    """Return the number of attention checks that makes up `share` of all tasks.

    At least one, except for share 0 or no comparisons.
    """
    if share == 0 or comparisons == 0:
        return 0
    return max(1, round(comparisons * share / (1 - share)))


def fitting(pairs: int, tasks: int, share: float) -> int:
    """Return the most comparisons that fit into `tasks` together with their checks."""
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
    """Return the tasks of one rater in order: at most `tasks`, `share` of them attention checks.

    votes: pair -> its ratings, for pairs that need more. Pairs with the fewest ratings are taken
    first, ties in random order. Checks are spread evenly: the sequence is divided into stretches
    with one check each, at a random position. The first video is on each side in half of the tasks.
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
