"""Motion that does not depend on speech: blinks, gaze, breathing and a slow sway.

Everything is a function of a random seed and of frame numbers at 25 fps, and of nothing before:
any range of an hour's frames is the same numbers, however it is cut. Random numbers come from
Philox (Salmon et al. 2011), a generator whose key is the seed and the number of a block of time.
Rates and shapes of blinks: Stern, Walrath and Goldstein 1984; Bentivoglio et al. 1997 (17 a minute
at rest, 26 in conversation); VanderWerf et al. 2003 (lids close twice as fast as they open).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from talkingface.audio import FPS
from talkingface.geometry import smoothstep
from talkingface.motion import HEAD
from talkingface.types import Array, Floats

BLOCK = 60.0  # seconds of one schedule

BLINKS_PER_MINUTE = 15.0
_BLINK_SHAPE = 2.5  # of the gamma distribution of the intervals between blinks
_REFRACTORY = 0.7  # seconds between a blink's beginning and the next one's, doubles aside
_DOUBLE = 0.12  # share of the blinks that are followed by another at once
_DOUBLE_AFTER = (0.34, 0.46)  # seconds
_INCOMPLETE = 0.06  # share of blinks that do not shut the eye
_CLOSING, _SHUT, _OPENING = (0.08, 0.12), (0.02, 0.05), (0.18, 0.25)  # seconds
_EVENLY = 0.7  # how evenly lids open: 1 at one speed, 0 smooth at both ends
_LONGEST_BLINK = _CLOSING[1] + _SHUT[1] + _OPENING[1]

_FIXATION = (0.5, 3.0)  # seconds
_SACCADE = 0.04  # seconds
_GAZE_LIMIT = np.array([0.05, 0.02])  # eye widths
_GAZE_SPREAD = np.array([0.02, 0.008])
_AT_VIEWER = 0.6  # share of the fixations
_WITH_BLINK = 0.6  # share of the blinks under which the eyes move

_BREATHS = (0.2, 0.3)  # Hz
_BREATH_SHIFT, _BREATH_PITCH = 0.005, np.radians(0.15)  # amplitudes
_SWAY = np.radians([0.4, 0.7, 0.4])  # standard deviations of pitch, yaw, roll
_SWAY_HERTZ = (0.03, 0.25)
_SWAYS = 7  # sinusoids in a sway

_PARTS = ("blinks", "gaze", "breathing", "head")


class Blink(NamedTuple):
    """One blink: its beginning, the lengths of its three phases (seconds), and how far it shuts."""

    start: float
    closing: float
    shut: float
    opening: float
    depth: float


def block_generator(seed: int, part: str, block: int) -> np.random.Generator:
    """Return the random numbers of one block of one part of a performance."""
    key = np.array([seed % 2**64, _PARTS.index(part) * 2**56 + block % 2**56], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def blinks(seed: int, start: int, count: int, per_minute: float = BLINKS_PER_MINUTE) -> Floats:
    """Return how far both lids are shut in frames start ... start + count: (count, 2) in [0, 1].

    per_minute: blinks on average, 0 for none. Raises ValueError for a negative number, or for more
    than 40.
    """
    if not 0 <= per_minute <= 40:
        raise ValueError(f"{per_minute:g} blinks a minute: expected 0 to 40")
    lids = np.zeros(count)
    for blink in _blinks_between(seed, start, count, per_minute):
        first = max(0, int(blink.start * FPS) - start)
        shown = slice(first, max(first, int((blink.start + _LONGEST_BLINK) * FPS) + 2 - start))
        times = (start + np.arange(count)[shown]) / FPS - blink.start
        lids[shown] = np.maximum(lids[shown], blink.depth * _lid_profile(times, blink))
    return np.repeat(lids[:, None], 2, axis=1).astype(np.float32)


def blink_times(seed: int, start: int, count: int, per_minute: float) -> Array:
    """Return when the blinks that frames start ... start + count show begin: (N,) seconds."""
    return np.array([blink.start for blink in _blinks_between(seed, start, count, per_minute)])


def gaze(seed: int, start: int, count: int, per_minute: float = BLINKS_PER_MINUTE) -> Floats:
    """Return the shift of the irises in frames start ... start + count: (count, 2) eye widths.

    per_minute: as for `blinks`, with which the eyes like to move.
    """
    times = (start + np.arange(count)) / FPS
    out = np.zeros((count, 2))
    for block in _blocks(start, count):
        begins, targets = _fixations(seed, block, per_minute)
        inside = np.floor(times / BLOCK) == block
        local = times[inside] - block * BLOCK
        last = np.searchsorted(begins, local, side="right") - 1
        part = np.clip((local - begins[last]) / _SACCADE, 0, 1)[:, None]
        out[inside] = targets[last] + part * (targets[last + 1] - targets[last])
    return out.astype(np.float32)


def breathing(seed: int, start: int, count: int) -> Floats:
    """Return breath and a slow sway in frames start ... start + count: (count, 6), HEAD."""
    rng = block_generator(seed, "breathing", 0)
    times = (start + np.arange(count)) / FPS
    head = np.zeros((count, len(HEAD)))
    breath = _breath(times, rng)
    head[:, HEAD.index("y")] = _BREATH_SHIFT * breath
    head[:, HEAD.index("pitch")] = -_BREATH_PITCH * breath
    for axis, size in enumerate(_SWAY):
        head[:, axis] += size * _sway(times, rng)
    return head.astype(np.float32)


# --- blinks ---------------------------------------------------------------------------------------


def _blocks(start: int, count: int) -> range:
    """Return the blocks that these frames lie in."""
    if count <= 0:
        return range(0)
    return range(int(start / FPS // BLOCK), int((start + count - 1) / FPS // BLOCK) + 1)


def _blinks_between(seed: int, start: int, count: int, per_minute: float) -> Iterator[Blink]:
    """Return the blinks that these frames show."""
    if count <= 0 or per_minute == 0:
        return
    begin, end = start / FPS, (start + count) / FPS
    blocks = _blocks(start, count)
    for block in range(blocks[0] - 1, blocks[-1] + 1):
        for blink in _schedule(seed, block, per_minute):
            if begin - _LONGEST_BLINK < blink.start < end:
                yield blink


@lru_cache(maxsize=256)
def _schedule(seed: int, block: int, per_minute: float) -> tuple[Blink, ...]:
    """Return the blinks that begin in one block: a renewal process that is begun anew in each.

    Its first blink comes after part of an interval, so that the rate is even over the block.
    """
    rng = block_generator(seed, "blinks", block)
    mean = (1 + _DOUBLE) * 60.0 / per_minute - _DOUBLE * float(np.mean(_DOUBLE_AFTER))
    refractory = min(_REFRACTORY, mean / 2)

    def interval() -> float:
        return refractory + float(rng.gamma(_BLINK_SHAPE, (mean - refractory) / _BLINK_SHAPE))

    found: list[Blink] = []
    time = interval() - float(rng.uniform(0, mean)) if block else interval()
    time = max(time, 0.2)
    while time < BLOCK - _LONGEST_BLINK - _DOUBLE_AFTER[1]:
        found.append(_blink(block * BLOCK + time, rng))
        if rng.random() < _DOUBLE:
            time += float(rng.uniform(*_DOUBLE_AFTER))
            found.append(_blink(block * BLOCK + time, rng))
        time += interval()
    return tuple(found)


def _blink(start: float, rng: np.random.Generator) -> Blink:
    closing, shut, opening = (float(rng.uniform(*p)) for p in (_CLOSING, _SHUT, _OPENING))
    incomplete = rng.random() < _INCOMPLETE
    return Blink(start, closing, shut, opening, float(rng.uniform(0.5, 0.8)) if incomplete else 1.0)


def _lid_profile(time: Array, blink: Blink) -> Array:
    """Return how far a lid is shut, in [0, 1], so long after the blink began.

    It opens more evenly than it closes: real lids take 170 ms from a fifth to four fifths.
    """
    down = np.clip(time / blink.closing, 0, 1)
    up = np.clip((time - blink.closing - blink.shut) / blink.opening, 0, 1)
    opened = _EVENLY * up + (1 - _EVENLY) * smoothstep(up)
    return np.asarray(smoothstep(down) * (1 - opened))


# --- gaze -----------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _fixations(seed: int, block: int, per_minute: float) -> tuple[Array, Array]:
    """Saccades of a block, which begins and ends looking at the viewer.

    Returns when they begin, (N,) seconds of the block, the first at 0, and where the eyes look
    before and after each: (N + 1, 2).
    """
    rng = block_generator(seed, "gaze", block)
    begins, targets = [0.0], [np.zeros(2), np.zeros(2)]
    shut = [b.start + b.closing - block * BLOCK for b in _shown(seed, block, per_minute)]
    moves = [time for time in shut if rng.random() < _WITH_BLINK]
    time = 0.0
    while True:
        time += float(rng.uniform(*_FIXATION))
        time = next((move for move in moves if begins[-1] + _FIXATION[0] < move < time), time)
        if time > BLOCK - _FIXATION[0]:
            break
        begins.append(time)
        targets.append(_target(rng))
    targets[-1] = np.zeros(2)
    return np.array(begins), np.stack(targets)


def _shown(seed: int, block: int, per_minute: float) -> tuple[Blink, ...]:
    return _schedule(seed, block, per_minute) if per_minute else ()


def _target(rng: np.random.Generator) -> Array:
    """Draw the next fixation: mostly at the viewer, and never quite at the same point."""
    spread = _GAZE_SPREAD * (0.15 if rng.random() < _AT_VIEWER else 1.0)
    return np.asarray(np.clip(rng.normal(0, spread), -_GAZE_LIMIT, _GAZE_LIMIT))


# --- breathing ------------------------------------------------------------------------------------


def _breath(times: Array, rng: np.random.Generator) -> Array:
    """A breath of slowly varying rate and depth, about 1 at its largest."""
    rate, phase = rng.uniform(0.23, 0.27), rng.uniform(0, 2 * np.pi)
    slow, slower = rng.uniform(0.015, 0.03, 2)
    first, second = rng.uniform(0, 2 * np.pi, 2)
    # The rate stays within _BREATHS: its deviation is at most 0.03 Hz.
    wander = 0.03 / slow * np.sin(2 * np.pi * slow * times + first)
    depth = 1 + 0.2 * np.sin(2 * np.pi * slower * times + second)
    return np.asarray(depth * np.sin(2 * np.pi * rate * times + wander + phase))


def _sway(times: Array, rng: np.random.Generator) -> Array:
    """A sum of sinusoids of no common period, variance 1: slow ones are larger."""
    low, high = np.log(_SWAY_HERTZ)
    rates = np.exp(low + (np.arange(_SWAYS) + rng.uniform(0, 1, _SWAYS)) * (high - low) / _SWAYS)
    phases = rng.uniform(0, 2 * np.pi, _SWAYS)
    sizes = rates**-0.5
    sizes *= np.sqrt(2 / (sizes**2).sum())
    return np.asarray(np.sin(2 * np.pi * np.outer(times, rates) + phases) @ sizes)
