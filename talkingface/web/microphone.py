"""Sound of a live client's microphone, with silence while no sound comes.

Silence keeps a waiting face moving. It is added one frame at a time, as if the client had sent it.
The clock paces it, so that 25 frames a second result. New sound has priority over more silence.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talkingface import media
from talkingface.audio import FPS, SAMPLE_RATE
from talkingface.web.bounded_queue import BoundedQueue
from talkingface.web.service import BLOCK

SoundQueue = BoundedQueue[bytes]  # 16-bit mono sound, little-endian; an empty message ends it

PAUSE = 0.4  # seconds without sound after which silence is added


def sound_alone(incoming: SoundQueue) -> Iterator[bytes]:
    """Yield the client's sound until it ends. Raises ApiError (408) when none comes, Cancelled."""
    ended = False
    while not ended:
        data, ended = _with_waiting(incoming.get(), incoming)
        if data:
            yield data


def _with_waiting(data: bytes, incoming: SoundQueue) -> tuple[bytes, bool]:
    """Return a message with all that wait after it, and whether the sound has ended.

    Frames that are made together take less time: a server that is late catches up.
    """
    messages = [data, *incoming.get_waiting()]
    return b"".join(messages), b"" in messages


def sound_or_silence(
    incoming: SoundQueue,
    rate: int,
    frames: Callable[[], int],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[bytes]:
    """Yield the client's sound until it ends, and silence while none comes. Raises Cancelled.

    rate: of the sound, in Hz. frames: returns how many frames were generated so far.
    The next frame is due 1 / 25 s after the one before. Silence is added when a frame is due and
    no sound has come for `PAUSE`. Frames that are late by then are made up for, at most `PAUSE` of
    them. So a slow client or server does not get more late frames.
    """
    silence = bytes(2 * (rate // FPS))
    due = quiet = clock()  # times of the next frame and of the last sound
    ended = False
    while not ended:
        data = incoming.get_within(max(due, quiet + PAUSE) - clock())
        if data is not None:
            data, ended = _with_waiting(data, incoming)
            if not data:
                return
        begun, before = clock(), frames()
        yield silence if data is None else data
        made = (frames() - before) / FPS
        if data is not None:
            due, quiet = max(due, begun) + made, clock()
        else:
            due = max(due, begun - (PAUSE if before else 0.0)) + made


class Microphone:
    """Sound of the microphone for the model and for playback.

    `parts` yields the sound for the model. Iterating yields the sound that was not played yet.
    """

    def __init__(self, messages: Iterable[bytes], rate: int) -> None:
        """Take messages of 16-bit mono sound of `rate` Hz."""
        self._messages = messages
        self._resampler = media.Resampler(rate, SAMPLE_RATE)
        self._unplayed: deque[NDArray[np.float32]] = deque()

    def parts(self) -> Iterator[Tensor]:
        """Yield (n,) float32 at 16 kHz, n <= BLOCK, until the sound is over."""
        for data in self._messages:
            samples = np.frombuffer(data, "<i2").astype(np.float32)[None] / np.float32(32768)
            self._unplayed.append(samples)
            yield from torch.from_numpy(self._resampler.push(samples)[0]).split(BLOCK)
        yield torch.from_numpy(self._resampler.finish()[0])

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return self

    def __next__(self) -> NDArray[np.float32]:
        if not self._unplayed:
            raise StopIteration
        return self._unplayed.popleft()
