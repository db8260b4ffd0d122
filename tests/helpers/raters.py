"""Simulated raters with a known preference: how often each kind of interval covers it.

`python tests/helpers/raters.py` prints the table of docs/study.md.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
from scipy.stats import norm

from talkingface.evaluation import intervals
from talkingface.study import statistics

# true share, raters, samples, ratings of each, deviations of raters and of samples
STUDIES = (
    (0.74, 20, 60, 10, (0.0, 0.0)),
    (0.74, 20, 60, 10, (0.4, 0.4)),
    (0.87, 60, 60, 10, (0.3, 0.4)),
    (0.50, 12, 30, 6, (0.5, 0.2)),
    (0.74, 5, 30, 5, (0.3, 0.4)),
)


def simulated(
    rng: np.random.Generator,
    share: float,
    raters: int,
    samples: int,
    per_sample: int,
    between: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Simulate votes: (ones and zeros, rater of each, sample of each).

    Probit model: a vote is 1 with probability Phi(z + rater + sample). Its mean over all raters and
    samples is `share` for z = Phi^-1(share) sqrt(1 + variances). between: the normal deviations of
    raters and of samples.
    """
    whose = np.concatenate([rng.permutation(raters)[:per_sample] for _ in range(samples)])
    what = np.repeat(np.arange(samples), per_sample)
    z = norm.ppf(share) * math.sqrt(1 + between[0] ** 2 + between[1] ** 2)
    bias = rng.normal(0, between[0], raters)[whose] + rng.normal(0, between[1], samples)[what]
    return (rng.random(len(whose)) < norm.cdf(z + bias)).astype(float), whose, what


def bootstrap(votes: np.ndarray, labels: np.ndarray) -> statistics.Interval:
    """Return the bootstrap interval over raters or over samples."""
    return intervals.interval(intervals.ratio(np.bincount(labels, votes), np.bincount(labels)))


KINDS: dict[str, Callable[..., statistics.Interval]] = {
    "Wilson": lambda votes, whose, what: statistics.wilson(votes.sum(), len(votes)),
    "bootstrap of raters": lambda votes, whose, what: bootstrap(votes, whose),
    "bootstrap of samples": lambda votes, whose, what: bootstrap(votes, what),
    "both ways": statistics.two_way,
}


def main(studies: int = 1000) -> None:
    rng = np.random.default_rng(0)
    for share, raters, samples, per_sample, between in STUDIES:
        covered = dict.fromkeys(KINDS, 0)
        for _ in range(studies):
            votes = simulated(rng, share, raters, samples, per_sample, between)
            for kind, interval in KINDS.items():
                low, high = interval(*votes)
                covered[kind] += low <= share <= high
        found = " | ".join(f"{n / studies:.1%}" for n in covered.values())
        head = f"{share:.2f} | {raters} | {samples} | {per_sample} | {between[0]}, {between[1]}"
        sys.stdout.write(f"| {head} | {found} |\n")


if __name__ == "__main__":
    main()
