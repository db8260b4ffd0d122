"""Sound of an utterance that waits to be spoken: for the model, and for playback beside it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talkingface.audio import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from talkingface.errors import BadRequest
from talkingface.media import Resampler
from talkingface.types import Floats

Sound = NDArray[np.floating[Any]] | NDArray[np.int16]

RATES = (8_000, 192_000)  # Hz
_FULL_SCALE = np.float32(32768)


def check_rate(rate: int) -> None:
    """Raise BadRequest unless a video frame has a whole number of samples at this rate."""
    low, high = RATES
    if not isinstance(rate, int) or not low <= rate <= high or rate % FPS:
        raise BadRequest(
            f"a sound of {rate} samples per second: give a multiple of {FPS} from {low} to {high}, "
            "as 16000, 24000, 44100 or 48000"
        )


def as_channels(samples: Sound) -> Floats:
    """Return a sound as (channels, n) float32. Chunks may be too short to guess which is which.

    samples: (N,) or (N, channels), int16, or floats in [-1, 1].

    Raises BadRequest for any other array.
    """
    given = np.asarray(samples)
    shaped = given[:, None] if given.ndim == 1 else given
    if shaped.ndim != 2 or shaped.shape[1] not in (1, 2):
        raise BadRequest(f"a sound must be (N,), (N, 1) or (N, 2), this array is {given.shape}")
    if given.dtype == np.int16:
        return np.ascontiguousarray(shaped.T, np.float32) / _FULL_SCALE
    if not np.issubdtype(given.dtype, np.floating):
        raise BadRequest(f"a sound must be int16 or floats in [-1, 1], this one is {given.dtype}")
    if not np.isfinite(given).all():
        raise BadRequest("a sound must be finite numbers, this array has NaN or infinite ones")
    return np.ascontiguousarray(shaped.T, np.float32).clip(-1, 1)


def as_int16(sound: Floats) -> NDArray[np.int16]:
    """Return floats in [-1, 1] as int16, to the bit those that `as_channels` was given."""
    levels = np.rint(sound * _FULL_SCALE).clip(-32768, 32767)
    return np.asarray(levels, np.int16)


class SampleQueue:
    """Samples in order, added and taken in pieces of any length. `len` is the number waiting."""

    def __init__(self, channels: int) -> None:
        self._parts: deque[Floats] = deque()
        self._channels, self._length = channels, 0

    def __len__(self) -> int:
        return self._length

    def add(self, samples: Floats) -> None:
        """Add (channels, n)."""
        if samples.shape[1]:
            self._parts.append(samples)
            self._length += samples.shape[1]

    def take(self, count: int) -> Floats:
        """Take the first `count` samples, or all where fewer wait: (channels, n)."""
        taken, left = [np.zeros((self._channels, 0), np.float32)], min(count, self._length)
        self._length -= left
        while left:
            part = self._parts.popleft()
            if part.shape[1] > left:
                self._parts.appendleft(part[:, left:])
            taken.append(part[:, :left])
            left -= taken[-1].shape[1]
        return np.concatenate(taken, axis=1)


class Utterance:
    """The sound of one utterance. It is taken twice: by the model, and frame by frame to play.

    begun: True when the model has taken some. ended: True when all of it was pushed.
    settled: True when all frames of it were generated.
    """

    def __init__(self, rate: int, channels: int, clock: Callable[[], float]) -> None:
        """rate, channels: of the sound to play. clock: seconds."""
        self._rate, self._clock = rate, clock
        self._speech, self._playback = SampleQueue(1), SampleQueue(channels)
        self._channels = channels
        self._format: tuple[int, int] | None = None
        self._resamplers: list[tuple[Resampler, SampleQueue]] = []
        self._arrivals: deque[tuple[int, float]] = deque()  # (16 kHz samples by then, seconds)
        self._total = 0
        self.began_at, self.ended_at = clock(), float("inf")
        self.begun = self.ended = self.settled = False

    @property
    def waiting(self) -> int:
        """Samples at 16 kHz that the model has not taken."""
        return len(self._speech)

    @property
    def seconds(self) -> float:
        """Seconds of sound that were not played."""
        return len(self._playback) / self._rate

    def push(self, samples: Floats, rate: int) -> None:
        """Append (channels, n); its rate and channels may differ from those before."""
        now = (rate, len(samples))
        if now != self._format:
            self._finish()
            self._format = now
            self._resamplers = [
                (Resampler(rate, SAMPLE_RATE, len(samples)), self._speech),
                (Resampler(rate, self._rate, len(samples), self._channels), self._playback),
            ]
        for resampler, queue in self._resamplers:
            queue.add(resampler.push(samples))
        self._arrived()

    def end(self) -> None:
        """The utterance is over: what the resamplers hold back comes too."""
        self._finish()
        self._arrived()
        self.ended, self.ended_at = True, self._clock()

    def _finish(self) -> None:
        for resampler, queue in self._resamplers:
            queue.add(resampler.finish())
        self._resamplers, self._format = [], None

    def _arrived(self) -> None:
        pushed = self._total + len(self._speech)
        if not self._arrivals or pushed > self._arrivals[-1][0]:
            self._arrivals.append((pushed, self._clock()))

    def take_speech(self, count: int) -> Floats:
        """Take (n,) samples at 16 kHz for the model, n <= count."""
        taken: Floats = self._speech.take(count)[0]
        self._total += len(taken)
        self.begun = True
        return taken

    def take_playback(self) -> Floats:
        """Take the sound of one frame, (n, channels); silence follows its end."""
        taken = self._playback.take(self._rate // FPS).T
        sound = np.zeros((self._rate // FPS, self._channels), np.float32)
        sound[: len(taken)] = taken
        return sound

    def arrival(self, frame: int, latency: float) -> float:
        """Return when the last sound was pushed that a frame needs, `latency` after its end.

        frame: number of the frame in this utterance, rising from call to call.
        """
        needed = (frame + 1) * SAMPLES_PER_FRAME + round(latency * SAMPLE_RATE)
        while self._arrivals and self._arrivals[0][0] < needed:
            self._arrivals.popleft()
        return self._arrivals[0][1] if self._arrivals else self.ended_at
