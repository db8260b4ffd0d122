"""The sound of a live client as it comes, and silence while none comes.

A face that waits goes on moving: its stream is given silence, one frame at a time, as if the client
had sent it. The clock paces the frames that come of it, so that there are 25 a second, and the
first sound that comes again is heard before any more silence.
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
from talkingface.web.mailboxes import Mailbox
from talkingface.web.service import BLOCK

Inbox = Mailbox[bytes]  # 16-bit mono sound, little-endian; an empty message is its end

PAUSE = 0.4  # seconds without sound after which silence takes its place


def sound_alone(inbox: Inbox) -> Iterator[bytes]:
    """Give the client's sound until it ends. Raises Refused (408) when none comes, Cancelled."""
    while data := inbox.get():
        yield data


def sound_or_silence(
    inbox: Inbox,
    rate: int,
    frames: Callable[[], int],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[bytes]:
    """Give the client's sound until it ends, and silence while none comes. Raises Cancelled.

    rate: of the sound, in Hz. frames: how many were made of what was given so far.
    The next frame is due 1 / 25 s after the one before. Silence is given when a frame is due and
    no sound has come for `PAUSE`. The frames of a pause that are late by then are made up for, but
    never more of them than that: a slow client or server does not get the rest later.
    """
    silence = bytes(2 * (rate // FPS))
    due = quiet = clock()  # when the next frame is due, when there was sound last
    while True:
        data = inbox.get_within(max(due, quiet + PAUSE) - clock())
        if data == b"":
            return
        begun, before = clock(), frames()
        yield silence if data is None else data
        made = (frames() - before) / FPS
        if data is not None:
            due, quiet = max(due, begun) + made, clock()
        else:
            due = max(due, begun - (PAUSE if before else 0.0)) + made


class Microphone:
    """Sound for the model and for the ear.

    `parts` is for the model. Iterating gives what the ear has not been given yet.
    """

    def __init__(self, messages: Iterable[bytes], rate: int) -> None:
        """messages: 16-bit mono sound of that rate in Hz."""
        self._messages = messages
        self._resampler = media.Resampler(rate, SAMPLE_RATE)
        self._unheard: deque[NDArray[np.float32]] = deque()

    def parts(self) -> Iterator[Tensor]:
        """Give (n,) float32 at 16 kHz, n <= BLOCK, until the sound is over."""
        for data in self._messages:
            samples = np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
            self._unheard.append(samples[None])
            yield from torch.from_numpy(self._resampler.push(samples)).split(BLOCK)
        yield torch.from_numpy(self._resampler.finish())

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return self

    def __next__(self) -> NDArray[np.float32]:
        if not self._unheard:
            raise StopIteration
        return self._unheard.popleft()
