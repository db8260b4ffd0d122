"""LiveKit Agents: a live face as the video generator of a self-hosted avatar worker."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
from livekit import rtc
from livekit.agents.voice.avatar import AudioSegmentEnd, AvatarOptions, VideoGenerator

from talkingface.audio import FPS
from talkingface.live_clock import LiveClock
from talkingface.live_face import LiveFace, LiveFrame, LiveStatistics
from talkingface.live_sound import as_int16


class FaceVideoGenerator(VideoGenerator):
    """Video generator for an `AvatarRunner`: 25 frames per second, also while nothing is said."""

    def __init__(self, face: LiveFace) -> None:
        """face: from `TalkingFace.live`, for one runner."""
        self._clock = LiveClock(face)
        self._awaited = 0  # ends of segments that were announced and not yet played
        self._over = 0  # of these, those that have no more frames

    @property
    def options(self) -> AvatarOptions:
        """Return the options for the `AvatarRunner`: size, rates and channels."""
        face = self._clock.face
        width, height = face.size
        return AvatarOptions(
            video_width=width,
            video_height=height,
            video_fps=FPS,
            audio_sample_rate=face.rate,
            audio_channels=face.channels,
        )

    @property
    def statistics(self) -> LiveStatistics:
        """Return the statistics of the face so far."""
        return self._clock.statistics()

    async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        """Push sound of any rate, mono or stereo, or the end of an utterance."""
        if isinstance(frame, AudioSegmentEnd):
            self._awaited += 1
            if not await self._clock.end_of_utterance():
                self._over = self._awaited
            return
        samples = np.frombuffer(frame.data, np.int16).reshape(-1, frame.num_channels)
        await self._clock.push(samples, frame.sample_rate)

    async def clear_buffer(self) -> None:
        """Drop all sound that waits; the lips close softly."""
        self._awaited = self._over = 0
        await self._clock.interrupt()

    async def __aiter__(self) -> AsyncIterator[rtc.VideoFrame | rtc.AudioFrame | AudioSegmentEnd]:
        """Yield each video frame, the sound of a frame of speech, and the ends of utterances."""
        async for frame in self._clock:
            yield _video(frame)
            if frame.kind == "speech":
                yield _audio(frame, self._clock.face.rate)
            more = self._awaited > 1 or not self._clock.face.speaking  # not the same utterance
            if frame.ends and self._awaited and more:
                self._over = max(1, self._over)
            while self._over:
                self._awaited, self._over = self._awaited - 1, self._over - 1
                yield AudioSegmentEnd()

    async def aclose(self) -> None:
        """Stop the face's thread."""
        await self._clock.close()


def _video(frame: LiveFrame) -> rtc.VideoFrame:
    height, width = frame.picture.shape[:2]
    return rtc.VideoFrame(width, height, rtc.VideoBufferType.RGB24, frame.picture.tobytes())


def _audio(frame: LiveFrame, rate: int) -> rtc.AudioFrame:
    count, channels = frame.sound.shape
    return rtc.AudioFrame(as_int16(frame.sound).tobytes(), rate, channels, count)
