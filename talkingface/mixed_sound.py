"""Mix the sounds of several people to one, at equal level and without clipping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from talkingface import media
from talkingface.media import Sound
from talkingface.types import Floats

_RATE = 48_000  # Hz
_FULL = 0.98  # of full scale: the loudest sample of a mix that would clip


class OwnSound(Protocol):
    """A sound that can be opened for playback several times, as `streaming.Speech`."""

    def own(self, channels: int | None = None) -> Sound:
        """Open it. channels: at most so many."""


class MixedSound:
    """The sum of sounds; all are turned down alike where it would clip."""

    path = track = None

    def __init__(self, sounds: Sequence[OwnSound]) -> None:
        self._sounds = sounds
        _, parts = self._opened()
        loudest = max((float(np.abs(part).max(initial=0)) for part in parts), default=0.0)
        self._gain = np.float32(_FULL / loudest if loudest > 1 else 1)

    def own(self) -> Sound:
        """Open the mix for playback: 48 kHz, mono, or stereo where one of the sounds is."""
        channels, parts = self._opened()
        return Sound(_RATE, channels, (part * self._gain for part in parts))

    def _opened(self) -> tuple[int, Iterator[Floats]]:
        """Return the channels of the sum, and its parts (channels, n)."""
        opened = [sound.own(channels=2) for sound in self._sounds]
        channels = max(sound.channels for sound in opened)
        return channels, _sum([_seconds(_converted(sound, channels)) for sound in opened], channels)


def _sum(sources: Sequence[Iterator[Floats]], channels: int) -> Iterator[Floats]:
    """Yield the sum of sounds in seconds, up to the end of the longest."""
    while parts := [part for source in sources if (part := next(source, None)) is not None]:
        total = np.zeros((channels, max(part.shape[1] for part in parts)), np.float32)
        for part in parts:
            total[:, : part.shape[1]] += part
        yield total


def _converted(sound: Sound, channels: int) -> Iterator[Floats]:
    """Yield a sound's parts at the rate of a mix, with its channels."""
    resampler = media.Resampler(sound.rate, _RATE, sound.channels, channels)
    for chunk in sound.chunks:
        yield resampler.push(chunk)
    yield resampler.finish()


def _seconds(parts: Iterator[Floats]) -> Iterator[Floats]:
    """Yield parts (C, n) again, in seconds; the last is shorter."""
    held: list[Floats] = []
    for part in parts:
        held.append(part)
        if sum(one.shape[1] for one in held) >= _RATE:
            whole = np.concatenate(held, axis=1)
            full = whole.shape[1] // _RATE * _RATE
            yield from np.split(whole[:, :full], full // _RATE, axis=1)
            held = [whole[:, full:]]
    rest = np.concatenate(held, axis=1) if held else np.zeros((1, 0), np.float32)
    if rest.shape[1]:
        yield rest
