"""Map the frames of a dubbed video to those of its source: which one is shown, and when."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from talkingface.errors import BadRequest

Length = Literal["video", "sound", "loop", "bounce", "freeze"]
LENGTHS: tuple[Length, ...] = get_args(Length)
LONGEST = 100_000_000  # frames of a video, before a length is called absurd


@dataclass(frozen=True)
class Timeline:
    """The frames of an output, in order.

    sources: number of the source's frame that each shows. starts: ticks from the beginning at which
    each is shown, rising. end: ticks at which the last one ends.
    """

    sources: Sequence[int]
    starts: Sequence[int]
    end: int

    def __len__(self) -> int:
        return len(self.sources)

    def lengths(self) -> Iterator[int]:
        """Yield the ticks for which each frame is shown."""
        for start, after in itertools.pairwise([*self.starts, self.end]):
            yield after - start


def parse(text: str | None) -> Length | None:
    """Return a length by its name; None for the default. Raises BadRequest."""
    for name in LENGTHS:
        if text == name:
            return name
    if text is None:
        return None
    raise BadRequest(f"length is {text!r}: give {', '.join(LENGTHS)}")


class FrameClock:
    """Times of frames as they come, in ticks from the first, each later than the one before."""

    def __init__(self, step: Fraction) -> None:
        """step: ticks from frame to frame, for those without a stamp."""
        self._step = max(1, round(step))
        self._zero: int | None = None
        self._last: int | None = None

    def add(self, stamp: int | None) -> int:
        """Return the time of the next frame. stamp: as the file has it, None where it has none."""
        if stamp is not None and self._zero is None:
            self._zero = stamp
        if self._last is None:
            self._last = 0
        elif stamp is None or self._zero is None:
            self._last += self._step
        else:
            self._last = max(self._last + 1, stamp - self._zero)
        return self._last


def timeline(starts: Sequence[int], end: int, sound: Fraction, length: Length | None) -> Timeline:
    """Return the frames of an output.

    starts: ticks at which the source's frames are shown, from 0. end: when the last one ends.
    sound: length of the new sound in ticks. length: where the output ends, and what it shows after
    the source's end:

    - video: with the video. The sound is cut there, or silence follows it.
    - sound: with the sound, at the latest with the video.
    - loop: with the sound; the video begins again.
    - bounce: with the sound; the video runs backwards and forwards.
    - freeze: with the sound; the last frame stays, only the mouth moves.
    - None: video, or bounce where the sound is longer by a frame or more.

    """
    if length is None:
        typical = statistics.median(after - own for own, after in _pairs(starts, end))
        length = "bounce" if sound >= end + typical else "video"
    if length == "video":
        return Timeline(range(len(starts)), starts, end)
    shown = [after - own for own, after in _pairs(starts, end)]
    return _until(sound, _order(length, len(starts)), shown)


def _pairs(starts: Sequence[int], end: int) -> Iterator[tuple[int, int]]:
    return itertools.pairwise([*starts, end])


def _order(length: Length, count: int) -> Iterator[int]:
    """Numbers of the source's frames as they follow each other."""
    whole = range(count)
    if length == "sound":
        return iter(whole)
    if length == "freeze":
        return itertools.chain(whole, itertools.repeat(count - 1))
    back = range(count - 2, 0, -1) if length == "bounce" else range(0)
    return itertools.cycle([*whole, *back])


def _until(sound: Fraction, order: Iterator[int], shown: Sequence[int]) -> Timeline:
    """Frames that begin before the sound's end, at least one.

    shown: ticks for which each of the source's frames is shown; the last of the output is shown no
    longer than a usual one, or than the sound needs.
    """
    usual, now = round(statistics.median(shown)), 0
    sources: list[int] = []
    starts: list[int] = []
    for number in order:
        if sources and (now >= sound or len(sources) >= LONGEST):
            break
        sources.append(number)
        starts.append(now)
        repeated = len(sources) > 1 and sources[-2] == number
        now += min(shown[number], usual) if repeated else shown[number]
    rest = -int(-(sound - starts[-1]) // 1)
    return Timeline(sources, starts, min(now, starts[-1] + max(usual, rest)))
