"""Frames at any rate: motion is computed at 25 per second, and interpolated for other rates."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import fields, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from talkingface.audio import FPS
from talkingface.contract import Generated
from talkingface.frames import OutputFrame
from talkingface.motion import Motion
from talkingface.types import Floats


def frame_count(seconds: Fraction, rate: Fraction) -> int:
    """Return how many frames a video of a sound has: the last, partial one counts."""
    return max(1, -int(-seconds * rate // 1))


def at_rate(
    frames: Iterator[OutputFrame], count: int | None, rate: Fraction
) -> Iterator[OutputFrame]:
    """Yield `count` frames at `rate` per second, of frames at 25 per second.

    count: None for as many as begin before the end of the last given one.

    A frame shows the middle of its time. Meshes and motion run through those of the frames around
    it without overshooting (Fritsch and Carlson 1980), so closed lips stay closed; a model's
    corrections are mixed linearly. Whole crops are those of the nearest frame.
    """
    window = _Window(frames)
    for number in range(count) if count is not None else itertools.count():
        place = max((number + Fraction(1, 2)) * FPS / rate - Fraction(1, 2), Fraction(0))
        frame = window.at(place)
        if count is None and window.length is not None and number * FPS / rate >= window.length:
            return
        yield frame


class _Window:
    """Four frames in a row, of which the second and the third enclose a time."""

    def __init__(self, frames: Iterator[OutputFrame]) -> None:
        self._frames = frames
        self._held: deque[OutputFrame] = deque(maxlen=4)
        self._first = 0  # number of the second one
        self._read = 0
        self.length: int | None = None  # number of all frames, once it is known
        for _ in range(3):
            self._advance()
        self._held.appendleft(self._held[0])

    def _advance(self) -> None:
        new = next(self._frames, None)
        if new is None:
            self.length = self._read
            new = self._held[-1]  # the last one is held
        else:
            self._read += 1
        self._held.append(new)

    def at(self, place: Fraction) -> OutputFrame:
        """Return the frame at so many frames from the beginning; never earlier than before."""
        while self._first + 1 <= place:
            self._advance()
            self._first += 1
        share = float(place - self._first)
        return self._held[1] if share == 0 else _between(list(self._held), share)


def _between(around: list[OutputFrame], share: float) -> OutputFrame:
    """Return the frame at a share in (0, 1) of the way from the second to the third of four."""
    nearest = around[1] if share < 0.5 else around[2]
    made = _alone(nearest.made, nearest.t)
    if made.mesh is not None:
        made = replace(made, mesh=_curve([_of(own, "mesh") for own in around], share))
    if made.change is not None:
        first, second = (_of(own, "change") for own in around[1:3])
        made = replace(made, change=torch.lerp(first, second, share))
    return OutputFrame(nearest.crop, made, 0, _motion(around, share))


def _alone(made: Generated, t: int) -> Generated:
    """Return what was made for frame t, as that of one frame."""
    parts: dict[str, Any] = {
        part.name: None if (own := getattr(made, part.name)) is None else own[:, t : t + 1]
        for part in fields(made)
    }
    return Generated(**parts)


def _of(frame: OutputFrame, name: str) -> Tensor:
    values: Tensor = getattr(frame.made, name)
    return values[:, frame.t : frame.t + 1]


def _motion(around: list[OutputFrame], share: float) -> Motion | None:
    if any(own.motion is None for own in around):
        return None
    return Motion(*(_part(around, part.name, share) for part in fields(Motion)))


def _part(around: list[OutputFrame], name: str, share: float) -> Floats:
    values = [torch.from_numpy(getattr(own.motion, name)[own.t : own.t + 1]) for own in around]
    return np.asarray(_curve(values, share).numpy(), np.float32)


def _curve(values: list[Tensor], share: float) -> Tensor:
    """Interpolate between the second and the third of four tensors: monotone cubic."""
    before, step, after = (b - a for a, b in pairwise(values))
    start, end = _slope(before, step), _slope(step, after)
    s, r = share, 1 - share
    ease = s * s * (3 - 2 * s)
    return values[1] + ease * step + s * r * (r * start - s * end)


def _slope(before: Tensor, after: Tensor) -> Tensor:
    """Return the slope at a point, of the steps to it and from it: their harmonic mean, or 0."""
    product = before * after
    total = torch.where(product > 0, before + after, torch.ones_like(before))
    return torch.where(product > 0, 2 * product / total, torch.zeros_like(before))
