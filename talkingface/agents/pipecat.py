"""Pipecat: a live face as a video service, after the text-to-speech and before the transport."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    OutputImageRawFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.ai_service import AIService
from pipecat.services.settings import ServiceSettings

from talkingface.audio import FPS
from talkingface.live_clock import LiveClock
from talkingface.live_face import LiveFace, LiveFrame, LiveStatistics
from talkingface.live_sound import as_int16


@dataclass
class _Turn:
    """An utterance that is not played. stopped: frame to push after it, once it has come."""

    context: str | None
    stopped: TTSStoppedFrame | None = None
    played: bool = False


class FaceVideoService(AIService):
    """Turns speech into pictures and the same speech, in step, in real time.

    Frames in: `TTSAudioRawFrame`, mono or stereo, of any rate. Frames out: an `OutputImageRawFrame`
    (RGB, 25 per second, also while nothing is said) and, while something is said, the
    `TTSAudioRawFrame` of the same 40 ms after it, with the same `pts` in nanoseconds. A
    `TTSStoppedFrame` and an `EndFrame` wait until all before them was played. An
    `InterruptionFrame` drops it. All other frames pass.
    """

    def __init__(self, face: LiveFace, **options: Any) -> None:
        """face: from `TalkingFace.live`, with the transport's rate and channels. options: of a
        Pipecat service."""
        super().__init__(settings=ServiceSettings(model=None), **options)
        self._face, self._clock = face, LiveClock(face)
        self._turns: deque[_Turn] = deque()
        self._quiet = asyncio.Event()  # set while nothing waits to be played
        self._quiet.set()
        self._playing: Any = None

    @property
    def statistics(self) -> LiveStatistics:
        """Return the statistics of the face so far."""
        return self._clock.statistics()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """See `FaceVideoService`."""
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            await self._push_sound(frame)
            return
        if isinstance(frame, TTSStoppedFrame) and self._turns:
            await self._end_turn(frame)
            return
        if isinstance(frame, InterruptionFrame):
            self._turns.clear()
            self._quiet.set()
            await self._clock.interrupt()
        await self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            self._playing = self.create_task(self._play())

    async def stop(self, frame: EndFrame) -> None:
        """Wait until everything was played; stop."""
        await super().stop(frame)
        if self._turns:
            await self._clock.end_of_utterance()
            await self._quiet.wait()
        await self._close()

    async def cancel(self, frame: CancelFrame) -> None:
        """Stop at once."""
        await super().cancel(frame)
        await self._close()

    async def cleanup(self) -> None:
        """Stop, if nothing else did."""
        await super().cleanup()
        await self._close()

    async def _close(self) -> None:
        if self._playing is not None:
            playing, self._playing = self._playing, None
            await self.cancel_task(playing)
            await self._clock.close()

    async def _push_sound(self, frame: TTSAudioRawFrame) -> None:
        if not self._turns or self._turns[-1].stopped is not None:
            self._turns.append(_Turn(frame.context_id))
        self._turns[-1].played = False
        self._quiet.clear()
        samples = np.frombuffer(frame.audio, np.int16).reshape(-1, frame.num_channels)
        await self._clock.push(samples, frame.sample_rate)

    async def _end_turn(self, frame: TTSStoppedFrame) -> None:
        self._turns[-1].stopped = frame
        await self._clock.end_of_utterance()
        await self._finish_turns()

    async def _finish_turns(self) -> None:
        """Push the end of each turn that was played and stopped."""
        while self._turns and self._turns[0].played and self._turns[0].stopped is not None:
            await self.push_frame(self._turns.popleft().stopped)
        if all(turn.played for turn in self._turns):
            self._quiet.set()

    async def _play(self) -> None:
        async for frame in self._clock:
            pts = frame.number * 1_000_000_000 // FPS
            await self.push_frame(_image(frame, pts))
            if frame.kind == "speech" and self._turns:
                await self.push_frame(self._sound(frame, pts))
            if frame.ends and self._turns:
                self._turns[0].played = len(self._turns) > 1 or not self._face.speaking
                await self._finish_turns()

    def _sound(self, frame: LiveFrame, pts: int) -> TTSAudioRawFrame:
        sound = TTSAudioRawFrame(
            audio=as_int16(frame.sound).tobytes(),
            sample_rate=self._face.rate,
            num_channels=frame.sound.shape[1],
            context_id=self._turns[0].context,
        )
        sound.pts = pts
        return sound


def _image(frame: LiveFrame, pts: int) -> OutputImageRawFrame:
    height, width = frame.picture.shape[:2]
    image = OutputImageRawFrame(image=frame.picture.tobytes(), size=(width, height), format="RGB")
    image.sync_with_audio = True  # the transport shows it when the sound before it was sent
    image.pts = pts
    return image
