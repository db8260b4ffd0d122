"""The bootstrap: closed forms, coverage, pairs, and a naive loop beside the matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest

from talkingface.evaluation import intervals
from talkingface.evaluation.intervals import difference, differs, interval, pooled, ratio
from talkingface.metrics.lips import amplitude_ratio, correlation

NORMAL = 1.959964  # 97.5 % of a normal distribution


def test_the_interval_of_a_mean_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = interval(ratio(values))
    half = NORMAL * values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_true_mean_lies_in_about_95_of_100_intervals() -> None:
    rng = np.random.default_rng(1)
    draws = [interval(ratio(rng.exponential(1, 45))) for _ in range(400)]
    covered = np.mean([low <= 1 <= high for low, high in draws])
    assert 0.90 <= covered <= 0.97  # a little under 0.95 with so few, and skewed, clips


def test_a_difference_is_taken_on_the_same_clips() -> None:
    rng = np.random.default_rng(2)
    hard, gain = rng.normal(0, 5, 40), rng.normal(0.5, 0.4, 40)
    first, second = ratio(hard + gain), ratio(hard)
    (low, high), (_, other_high) = interval(first), interval(second)
    assert low < other_high  # the intervals overlap: they cannot tell
    assert differs(first, second) and differs(second, first)
    half = NORMAL * gain.std() / math.sqrt(len(gain))
    expected = (gain.mean() - half, gain.mean() + half)
    assert difference(first, second) == pytest.approx(expected, abs=0.2 * half)
    assert not differs(ratio((hard + gain)[::-1]), second)  # other clips beside each other
    assert not differs(first, first) and difference(first, first) == (0, 0)
    assert high > low


def test_nothing_differs_by_chance_more_often_than_5_times_in_100() -> None:
    rng = np.random.default_rng(3)
    pairs = [rng.normal(0, 1, (2, 45)) for _ in range(400)]
    assert 0.02 <= np.mean([differs(ratio(a), ratio(b)) for a, b in pairs]) <= 0.09


def test_a_clip_that_does_not_count_is_as_if_it_were_not_there() -> None:
    values = np.array([1.0, 4.0, 2.0, 7.0])
    assert interval(ratio(np.insert(values, 2, math.nan))) == interval(ratio(values))
    other = np.array([0.0, 3.0, math.nan, 1.0])
    left = difference(ratio(values), ratio(other))
    assert left == difference(ratio(values[[0, 1, 3]]), ratio(other[[0, 1, 3]]))


def test_words_of_one_clip_are_no_independent_evidence() -> None:
    right = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    one, ten = ratio(right, np.ones(8)), ratio(right * 10, np.full(8, 10))
    assert interval(one) == interval(ten)
    free = interval(ratio(np.repeat(right, 10)))
    assert free[1] - free[0] < 0.5 * (interval(ten)[1] - interval(ten)[0])


def test_pooled_curves_are_drawn_by_whole_clips() -> None:
    rng = np.random.default_rng(4)
    real = [rng.normal(100, 1, n) for n in (30, 12, 25, 40, 18)]
    made = [0.7 * curve + rng.normal(0, 0.5, len(curve)) + 50 for curve in real]
    made[1][3] = math.nan
    counts = intervals._counts(5)
    for what, oracle in (("correlation", correlation), ("amplitude", amplitude_ratio)):
        sums = pooled(made, real, what)
        whole = oracle(np.concatenate(made), np.concatenate(real))
        assert sums.formula(sums.values.sum(0)) == pytest.approx(whole, rel=1e-9)
        naive = []
        for row in counts.astype(int):
            taken = np.repeat(np.arange(5), row)
            a, b = (np.concatenate([curves[n] for n in taken]) for curves in (made, real))
            naive.append(oracle(a, b))
        assert interval(sums) == pytest.approx(tuple(np.quantile(naive, [0.025, 0.975])), rel=1e-6)


def test_the_same_numbers_have_the_same_interval() -> None:
    values = np.random.default_rng(5).normal(0, 1, 30)
    first = interval(ratio(values))
    np.random.default_rng().normal(size=9)
    intervals._counts.cache_clear()
    assert interval(ratio(values)) == first
    assert interval(ratio(values + 3)) == pytest.approx((first[0] + 3, first[1] + 3))


def test_one_clip_has_no_interval() -> None:
    for values in ([], [1.0], [math.nan, 2.0]):
        assert all(math.isnan(bound) for bound in interval(ratio(np.array(values))))
    assert not differs(ratio(np.array([1.0])), ratio(np.array([0.0])))
    assert all(math.isnan(bound) for bound in interval(pooled([], [], "correlation")))
