"""Sounds as callers have them: files, bytes, file objects and arrays of any rate."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talkingface import audio, media
from talkingface.audio import SAMPLE_RATE
from talkingface.errors import BadRequest
from talkingface.sound_analysis import SoundAnalysis
from talkingface.types import PathLike

Samples = NDArray[Any] | Tensor
# A file by its name, its content or open for reading; samples at 16 kHz; or samples and their rate.
AudioInput = PathLike | bytes | BinaryIO | Samples | Sequence[float] | tuple[Any, Any]

EXPECTED = (
    "a sound must be the path, the bytes or the file object of a recording, (N,) floats in [-1, 1] "
    "at 16 kHz, or (samples, rate)"
)
_RATES = range(1_000, 768_001)  # Hz
_MOST_CHANNELS = 8
_INTEGERS = ("int16", "int32", "uint8")  # what sound files hold
_LOUDEST = 10.0  # of full scale: what is louder are integers kept as floats


class FileSound:
    """A recording or a video. It is never in memory whole."""

    def __init__(self, path: Path, track: int | None, file: Any = None) -> None:
        """track: see `media.open_sound`. file: a temporary file that is to live as long."""
        self.path, self.track, self._file = path, track, file

    def channels(self) -> Iterator[NDArray[np.float32]]:
        """Yield (1, n) or (2, n) samples at 16 kHz. Raises UnreadableMedia."""
        sound = media.open_sound(self.path, SAMPLE_RATE, channels=2, track=self.track)
        yield from sound.chunks

    def parts(self, mix: tuple[float, float] | None, block: int = SAMPLE_RATE) -> Iterator[Tensor]:
        """Yield (n,) samples at 16 kHz, `block` at a time. mix: see `SoundAnalysis.mix`."""
        yield from audio.read(self.path, block, self.track, mix)  # keeps the file until its end

    def own(self, channels: int | None = None) -> media.Sound:
        """Open the sound for playback: at its own rate, level and layout.

        channels: see `media.open_sound`.
        """
        return media.open_sound(self.path, channels=channels, track=self.track)


class ArraySound:
    """Samples (C, N) float32 in [-1, 1], C is 1 or more, at a rate in Hz."""

    path = track = None

    def __init__(self, samples: NDArray[np.float32], rate: int) -> None:
        self._samples, self._rate = samples, rate

    def channels(self) -> Iterator[NDArray[np.float32]]:
        """Yield (1, n) or (2, n) samples at 16 kHz, of more than two channels their mean."""
        samples = self._samples if len(self._samples) <= 2 else self._samples.mean(0, keepdims=True)
        if self._rate == SAMPLE_RATE:
            yield samples
            return
        resampler = media.Resampler(self._rate, SAMPLE_RATE, len(samples), len(samples))
        for start in range(0, samples.shape[1], self._rate):
            yield resampler.push(samples[:, start : start + self._rate])
        yield resampler.finish()

    def parts(self, mix: tuple[float, float] | None, block: int = SAMPLE_RATE) -> Iterator[Tensor]:
        """Yield (n,) samples at 16 kHz, at most `block`. mix: see `SoundAnalysis.mix`."""
        for chunk in self.channels():
            yield from torch.from_numpy(mixed(chunk, mix)).split(block)

    def own(self, channels: int | None = None) -> media.Sound:
        """Open the sound for playback; more than two channels as their mean."""
        kept = self._samples if len(self._samples) <= 2 else self._samples.mean(0, keepdims=True)
        if self._rate in media.AAC_RATES or self._rate == SAMPLE_RATE:
            return media.Sound(self._rate, len(kept), iter([kept]))
        return media.Sound(SAMPLE_RATE, len(kept), self.channels())


def mixed(chunk: NDArray[np.float32], mix: tuple[float, float] | None) -> NDArray[np.float32]:
    """(1 or 2, n) samples to (n,): their mean, or their sum with these weights."""
    if len(chunk) == 2 and mix is not None:
        return np.asarray(np.array(mix, np.float32) @ chunk)
    return np.asarray(chunk.mean(0))


def open_input(given: Any, track: int | None = None) -> FileSound | ArraySound:
    """Take any `AudioInput`. track: see `media.open_sound`; for files only.

    Raises BadRequest, one line that tells what was given and what is expected.
    """
    if isinstance(given, (str, Path)):
        return FileSound(Path(given), track)
    if isinstance(given, (bytes, bytearray, memoryview)) or hasattr(given, "read"):
        file = temporary(given, EXPECTED)
        return FileSound(Path(file.name), track, file)
    if track is not None:
        raise BadRequest("samples have no audio tracks: give track=None, or a file")
    if isinstance(given, tuple) and len(given) == 2 and any(map(_is_rate, given)):
        samples, rate = given if _is_rate(given[1]) else given[::-1]
        if rate not in _RATES:
            raise BadRequest(f"a sound of {rate} Hz: give {_RATES[0]} to {_RATES[-1]} Hz")
        return ArraySound(to_channels(samples), int(rate))
    return ArraySound(to_channels(given), SAMPLE_RATE)


def _is_rate(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def temporary(given: Any, expected: str) -> Any:
    """Write bytes, or what is left of a file object, to a temporary file. Raises BadRequest."""
    content = given if isinstance(given, (bytes, bytearray, memoryview)) else given.read()
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise BadRequest(f"{expected}; this file object gives text: open it as 'rb'")
    file = tempfile.NamedTemporaryFile(prefix="talkingface-")
    file.write(content)
    file.flush()
    return file


def to_channels(given: Any) -> NDArray[np.float32]:
    """Samples as (C, N) float32; integers are divided by their full scale. Raises BadRequest."""
    try:
        array = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadRequest(f"{EXPECTED}; this is a {type(given).__name__}") from error
    known = array.dtype.kind == "f" or array.dtype.name in _INTEGERS
    if not known or array.ndim not in (1, 2):
        found = f"{type(given).__name__} of {array.shape} {array.dtype}"
        raise BadRequest(f"{EXPECTED}; this is a {found}")
    if array.ndim == 2 and min(array.shape) > _MOST_CHANNELS:
        raise BadRequest(f"{EXPECTED}; this array of {array.shape} has too many channels")
    channels = np.atleast_2d(array if array.ndim == 1 or _is_flat(array) else array.T)
    if array.dtype.kind == "f":
        return _checked(np.ascontiguousarray(channels, np.float32))
    scale = np.float32(2.0 ** (8 * array.dtype.itemsize - 1))
    middle = scale if array.dtype.kind == "u" else np.float32(0)
    return np.ascontiguousarray((channels.astype(np.float32) - middle) / scale)


def _is_flat(array: NDArray[Any]) -> bool:
    """Return whether rows are channels: (C, N), not (N, C)."""
    return bool(array.shape[0] <= array.shape[1])


def _checked(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(samples).all():
        raise BadRequest("a sound must be finite numbers, this array has NaN or infinite ones")
    loudest = float(np.abs(samples).max(initial=0.0))
    if loudest > _LOUDEST:
        raise BadRequest(
            f"a sound must be floats in [-1, 1], this array goes to {loudest:g}: give integers "
            "(int16) as they are, or divide by 32768"
        )
    return samples


def analyse(sound: FileSound | ArraySound, check: Callable[[], None]) -> SoundAnalysis:
    """Read a sound once, to its end. check: called often meanwhile. Raises UnreadableMedia."""
    analysis = SoundAnalysis()
    for chunk in sound.channels():
        check()
        analysis.push(chunk)
    return analysis
