"""Live face for conversations: sound in chunks of any format in, frames with their sound out.

Frames of an utterance are those that `TalkingFace.generate` makes of the same sound. A frame for
which no sound is there shows the waiting face. Frames are made when they are read.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from talkingface.animation import Transition
from talkingface.audio import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from talkingface.errors import BadRequest
from talkingface.frames import OutputFrame
from talkingface.live_sound import Sound, Utterance, as_channels, check_rate
from talkingface.motion import Motion
from talkingface.streaming import Stream
from talkingface.types import Floats, Picture

LONGEST_WAITING = 120.0  # seconds of sound that may wait
PAUSE = 10  # frames without new sound, after which an utterance is taken as over
BLOCK = 2 * SAMPLES_PER_FRAME  # samples that the model takes at once
KEPT = 10_000  # frames over which percentiles are taken

Kind = Literal["speech", "pause", "idle"]


@dataclass(frozen=True)
class LiveFrame:
    """One frame of a live face, 40 ms, with its sound.

    picture: (H, W, 3) uint8 RGB.
    sound: (n, channels) float32 in [-1, 1], n = rate / 25.
    number: number of frames before it.
    kind: "speech"; "pause" (the sound of an utterance is late, the picture stays); or "idle".
    ends: True for the last frame of an utterance.
    drawn: False if the picture is that of the frame before, to save time.
    """

    picture: Picture
    sound: Floats
    number: int
    kind: Kind
    ends: bool = False
    drawn: bool = True


@dataclass(frozen=True)
class Percentiles:
    """The 50th, 95th and 99th percentile of times, in seconds; zero if there are none."""

    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0

    @staticmethod
    def of(values: deque[float]) -> Percentiles:
        """Return those of the values."""
        if not values:
            return _NONE
        p50, p95, p99 = np.percentile(tuple(values), (50, 95, 99))
        return Percentiles(float(p50), float(p95), float(p99))


_NONE = Percentiles()


@dataclass(frozen=True)
class LiveStatistics:
    """Statistics of a live face since it was opened; percentiles are of its last 10,000 frames.

    frames: number of frames read.
    speech, pauses, idle: number of each kind.
    undrawn: number of frames with the picture of the frame before.
    interruptions: number of calls of `interrupt`.
    dropped: seconds of sound that they dropped.
    latency: from the push of the last sound that a frame of speech needs to the frame, seconds.
    first_frame: from the first push of an utterance to its first frame, seconds.
    work: time to make a frame, seconds.
    real_time_factor: time to make all frames, as a share of their length; below 1 keeps up.
    """

    frames: int = 0
    speech: int = 0
    pauses: int = 0
    idle: int = 0
    undrawn: int = 0
    interruptions: int = 0
    dropped: float = 0.0
    latency: Percentiles = _NONE
    first_frame: Percentiles = _NONE
    work: Percentiles = _NONE
    real_time_factor: float = 0.0


class LiveFace:
    """A face in a conversation. Made by `TalkingFace.live`. Not for several threads at once."""

    def __init__(
        self,
        stream: Stream,
        draw: Callable[[OutputFrame], Picture],
        transition: Transition | None,
        rate: int,
        channels: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """draw: draws the stream's frames. transition: the stream's source of motion; None for a
        model that moves no mesh. rate, channels: of the sound that comes out."""
        check_rate(rate)
        if channels not in (1, 2):
            raise BadRequest(f"{channels} channels: give 1 or 2")
        self.rate, self.channels, self.note = rate, channels, stream.note
        self._stream, self._draw, self._transition = stream, draw, transition
        self._clock = clock
        self._needed = SAMPLES_PER_FRAME + round(self.latency * SAMPLE_RATE)  # of a first frame
        self._utterances: deque[Utterance] = deque()
        self._ready: deque[OutputFrame] = deque()
        self._spoken = self._waited = 0  # frames of the first utterance; frames without new sound
        self._picture: Picture | None = None
        self._shown: Motion | None = None
        self._counts: dict[str, Any] = dict.fromkeys(("speech", "pause", "idle"), 0)
        self._undrawn, self._interruptions, self._dropped, self._seconds = 0, 0, 0.0, 0.0
        self._latency, self._first, self._work = (deque[float](maxlen=KEPT) for _ in range(3))

    @property
    def latency(self) -> float:
        """Seconds of sound that a frame needs after its own end (less at an utterance's end)."""
        return self._stream.latency

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the pictures; draws the first one, if there is none."""
        if self._picture is None:
            self.read()
        assert self._picture is not None
        return self._picture.shape[1], self._picture.shape[0]

    @property
    def waiting(self) -> float:
        """Seconds of sound that were pushed and not read."""
        return sum(utterance.seconds for utterance in tuple(self._utterances))

    @property
    def speaking(self) -> bool:
        """True while frames of an utterance are to come."""
        return bool(self._utterances)

    def push(self, samples: Sound, rate: int | None = None) -> None:
        """Push sound of the present utterance; the first push begins one.

        samples: (N,) or (N, channels), int16 or floats in [-1, 1], any N, mono or stereo.
        rate: its samples per second. The default is the rate of the sound that comes out.

        Raises BadRequest (no such sound, or more than 120 s wait: read frames first).
        """
        rate = self.rate if rate is None else rate
        check_rate(rate)
        given = as_channels(samples)
        if self.waiting + given.shape[1] / rate > LONGEST_WAITING:
            raise BadRequest(f"more than {LONGEST_WAITING:g} s of sound wait: read frames first")
        if given.shape[1] == 0:
            return
        if not self._utterances or self._utterances[-1].ended:
            self._utterances.append(Utterance(self.rate, self.channels, self._clock))
        self._utterances[-1].push(given, rate)
        self._waited = 0

    def end_of_utterance(self) -> None:
        """End the present utterance: its last frames need no more sound, and the mouth rests."""
        if self._utterances and not self._utterances[-1].ended:
            self._utterances[-1].end()

    def interrupt(self) -> None:
        """Drop all sound that waits. The lips close in the next 6 frames, from where they are."""
        self._interruptions += 1
        self._dropped += self.waiting
        self._utterances.clear()
        self._ready.clear()
        self._stream.forget()
        self._spoken = self._waited = 0
        if self._transition is not None and self._shown is not None:
            self._transition.begin(self._shown)

    def read(self, idle: bool = True, draw: bool = True) -> LiveFrame | None:
        """Make and return the next frame.

        idle: True returns a waiting face when no frame of speech can be made; False returns None.
        draw: False saves the time to draw: the frame has the picture of the frame before.
        """
        began = self._clock()
        self._advance()
        if not self._ready and idle:
            self._wait()
        if self._ready:
            frame = self._next(draw)
        elif idle:
            frame = self._still(draw)
        else:
            return None
        done = self._clock()
        self._work.append(done - began)
        self._seconds += done - began
        return frame

    def statistics(self) -> LiveStatistics:
        """Return the statistics so far."""
        speech, pauses, idle = (self._counts[kind] for kind in ("speech", "pause", "idle"))
        frames = speech + pauses + idle
        return LiveStatistics(
            frames=frames,
            speech=speech,
            pauses=pauses,
            idle=idle,
            undrawn=self._undrawn,
            interruptions=self._interruptions,
            dropped=self._dropped,
            latency=Percentiles.of(self._latency),
            first_frame=Percentiles.of(self._first),
            work=Percentiles.of(self._work),
            real_time_factor=self._seconds * FPS / frames if frames else 0.0,
        )

    def _advance(self) -> None:
        """Generate frames of speech, if there is sound for them."""
        while not self._ready and self._utterances and self._generate(self._utterances[0]):
            pass

    def _generate(self, first: Utterance) -> bool:
        """Generate some frames of the first utterance; False if more sound must come before."""
        if first.settled:
            self._utterances.popleft()
            self._spoken = 0
        elif not (first.begun or first.ended or first.waiting >= self._needed):
            return False
        elif first.waiting:
            self._ready.extend(self._stream.output(torch.from_numpy(first.take_speech(BLOCK))))
        elif first.ended:
            self._ready.extend(self._stream.settle())
            first.settled = True
        else:
            return False
        return True

    def _wait(self) -> None:
        """Count a frame without sound; end an utterance of which nothing more comes."""
        self._waited += 1
        if self._utterances and self._waited > PAUSE:
            self.end_of_utterance()
            self._advance()

    def _next(self, draw: bool) -> LiveFrame:
        """Return the next frame of speech."""
        made, first = self._ready.popleft(), self._utterances[0]
        frame = self._frame(made, first.take_playback(), "speech", draw)
        now = self._clock()
        self._latency.append(now - first.arrival(self._spoken, self.latency))
        if self._spoken == 0:
            self._first.append(now - first.began_at)
        self._spoken += 1
        if first.ended and not self._ready and not first.settled and not first.waiting:
            self._generate(first)  # tells if this was the last one
        if first.settled and not self._ready:
            self._generate(first)
            return replace(frame, ends=True)
        return frame

    def _still(self, draw: bool) -> LiveFrame:
        """Return a frame without speech: the last one again, or a waiting face."""
        silence = np.zeros((self.rate // FPS, self.channels), np.float32)
        if self._utterances and self._utterances[0].begun and self._picture is not None:
            self._counts["pause"] += 1
            return LiveFrame(self._picture, silence, self._number - 1, "pause", drawn=False)
        made = [*self._stream.output(torch.zeros(SAMPLES_PER_FRAME)), *self._stream.settle()]
        return self._frame(made[0], silence, "idle", draw)

    @property
    def _number(self) -> int:
        return sum(self._counts.values())

    def _frame(self, made: OutputFrame, sound: Floats, kind: Kind, draw: bool) -> LiveFrame:
        """Draw a frame that the stream made, unless it may keep the picture before."""
        drawn = draw or self._picture is None
        if drawn or self._picture is None:
            self._picture = self._draw(made)
        self._undrawn += not drawn
        if made.motion is not None:
            self._shown = made.motion[made.t : made.t + 1]
        self._counts[kind] += 1
        return LiveFrame(self._picture, sound, self._number - 1, kind, drawn=drawn)
