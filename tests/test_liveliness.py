"""Blinks, gaze, breath and sway: functions of a seed and of frame numbers, within stated limits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from talkingface import liveliness
from talkingface.audio import FPS
from talkingface.liveliness import blink_times, blinks, breathing, gaze
from talkingface.types import Floats

HOUR = 3600 * FPS
PARTS: tuple[Callable[[int, int, int], Floats], ...] = (blinks, gaze, breathing)
EDGE = int(liveliness.BLOCK * FPS)


@pytest.mark.parametrize("part", PARTS)
def test_any_range_is_the_same_numbers(part: Callable[[int, int, int], Floats]) -> None:
    whole = part(3, 0, 4 * EDGE)
    for start, count in ((0, 1), (7, 90), (EDGE - 1, 2), (EDGE, 700), (2 * EDGE - 40, 1900)):
        np.testing.assert_array_equal(part(3, start, count), whole[start : start + count])
    assert len(part(3, 5, 0)) == 0
    assert not np.array_equal(part(4, 0, 4 * EDGE), whole)


@pytest.mark.parametrize("seed", [0, -1, 2**70])
def test_any_seed_will_do(seed: int) -> None:
    for part in PARTS:
        assert np.isfinite(part(seed, 100, 100)).all()


@pytest.mark.parametrize("per_minute", [8, 15, 20, 30])
def test_blinks_are_as_many_as_asked(per_minute: float) -> None:
    counts = [len(blink_times(seed, 0, HOUR, per_minute)) / 60 for seed in range(3)]
    assert np.mean(counts) == pytest.approx(per_minute, rel=0.06)
    assert not blinks(0, 0, 1000, 0).any()


def test_intervals_between_blinks_are_irregular() -> None:
    gaps = np.concatenate([np.diff(blink_times(seed, 0, HOUR, 15)) for seed in range(3)])
    doubles = gaps < 0.5
    assert 0.10 <= doubles.sum() / (~doubles).sum() <= 0.15
    apart = gaps[~doubles]
    assert apart.min() > 0.6
    assert 0.45 < apart.std() / apart.mean() < 0.75  # a clock has 0, independent events have 1
    halves = [blink_times(1, part * EDGE, EDGE // 2, 15) for part in range(1, 40)]
    assert np.mean([len(half) for half in halves]) == pytest.approx(7.5, rel=0.15)  # of a block


def test_a_blink_closes_faster_than_it_opens() -> None:
    phases = [b for block in range(60) for b in liveliness._schedule(5, block, 15.0)]
    closing, opening = (np.array([getattr(b, n) for b in phases]) for n in ("closing", "opening"))
    assert 0.08 <= closing.min() and closing.max() <= 0.12
    assert 0.15 <= opening.min() and opening.max() <= 0.25
    partial = np.mean([b.depth < 1 for b in phases])
    assert 0.03 < partial < 0.1


def test_blinks_as_they_are_sampled() -> None:
    lids = blinks(2, 0, HOUR)
    np.testing.assert_array_equal(lids[:, 0], lids[:, 1])
    assert lids.min() == 0 and lids.max() == 1
    shown = np.flatnonzero(np.diff(np.r_[0, lids[:, 0] > 0, 0])).reshape(-1, 2)
    lengths = np.diff(shown, axis=1)[:, 0]
    deepest = np.array([lids[a:b, 0].max() for a, b in shown])
    assert 5 <= np.median(lengths) <= 10  # frames: 0.25 to 0.42 s
    assert np.mean(deepest > 0.9) > 0.85
    change = np.diff(lids[:, 0])
    assert change.max() > -1.3 * change.min()


def test_gaze_stays_near_the_viewer_and_jumps() -> None:
    eyes = gaze(6, 0, HOUR)
    assert (np.abs(eyes).max(0) <= [0.0501, 0.0201]).all()
    assert 0.5 < np.mean(np.hypot(*eyes.T) < 0.01) < 0.9
    assert np.abs(eyes.mean(0)).max() < 0.003
    moving = np.abs(np.diff(eyes, axis=0)).max(1) > 1e-5
    edges = np.flatnonzero(np.diff(np.r_[0, moving, 0])).reshape(-1, 2)
    assert np.diff(edges, axis=1).max() <= 2  # a saccade of 40 ms meets two frames at most
    assert 0.5 < len(edges) / 3600 < 2
    begins = edges[:, 0] / FPS
    near = np.abs(begins[:, None] - blink_times(6, 0, HOUR, 15.0)[None]).min(1) < 0.2
    assert near.mean() > 0.1  # by chance it would be less


def test_breath_and_sway_are_small_smooth_and_do_not_drift() -> None:
    head = breathing(8, 0, HOUR).astype(float)
    spread = np.degrees(head[:, :3].std(0))
    np.testing.assert_allclose(spread, [0.42, 0.7, 0.4], rtol=0.08)
    assert 0.003 < head[:, 4].std() < 0.005 and np.abs(head[:, 4]).max() < 0.007
    assert np.abs(head.mean(0)).max() < 1e-4
    quarters = head.reshape(4, -1, 6).mean(1)
    assert np.abs(quarters).max() < 1e-3
    assert np.degrees(np.abs(np.diff(head[:, :3], axis=0)).max()) < 0.08  # also between blocks
    power = np.abs(np.fft.rfft(head[:, 4])) ** 2
    hertz = np.fft.rfftfreq(HOUR, 1 / FPS)
    assert power[(hertz > 0.17) & (hertz < 0.33)].sum() > 0.95 * power.sum()


def test_wrong_rates_are_refused() -> None:
    for rate in (-1, 41):
        with pytest.raises(ValueError, match="blinks a minute: expected 0 to 40"):
            blinks(0, 0, 10, rate)
