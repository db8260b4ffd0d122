"""LiveKit's own avatar runner and media sources, with a room that only keeps what is published."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import talkingface

pytest.importorskip("livekit.agents", reason="needs talkingface[livekit]")
from livekit import rtc
from livekit.agents.voice.avatar import AvatarRunner, QueueAudioOutput

from talkingface import audio
from talkingface.agents.livekit import FaceVideoGenerator
from talkingface.live_sound import as_int16

RATE = 16_000


class Publication:
    async def wait_for_subscription(self) -> None:
        return None


class Room:
    """A room without a server."""

    def __init__(self) -> None:
        self.tracks: dict[str, Any] = {}
        self.local_participant = self
        self.published = asyncio.Event()

    async def publish_track(self, track: Any, options: Any) -> Publication:
        self.tracks[track.name] = track
        if len(self.tracks) == 2:
            self.published.set()
        return Publication()

    def isconnected(self) -> bool:
        return True

    def on(self, event: str, callback: Any = None) -> None:
        return None

    off = on


class TimedGenerator(FaceVideoGenerator):
    """Keeps when it yields sound."""

    def __init__(self, face: Any) -> None:
        super().__init__(face)
        self.sounded: list[float] = []

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for frame in super().__aiter__():
            if isinstance(frame, rtc.AudioFrame):
                self.sounded.append(time.monotonic())
            yield frame


async def record(room: Room, heard: list[Any], shown: list[Any]) -> None:
    """Keep what a listener would get, with the time."""
    await room.published.wait()

    sound = rtc.AudioStream(room.tracks["avatar_audio"], sample_rate=RATE, num_channels=1)
    pictures = rtc.VideoStream(room.tracks["avatar_video"])

    async def listen() -> None:
        async for event in sound:
            heard.append((time.monotonic(), np.frombuffer(event.frame.data, np.int16).copy()))

    async def look() -> None:
        async for event in pictures:
            shown.append((time.monotonic(), (event.frame.width, event.frame.height)))

    try:
        await asyncio.gather(listen(), look())
    finally:
        await asyncio.gather(sound.aclose(), pictures.aclose())


async def run(face: Any, script: Any) -> tuple[list[Any], list[Any], list[Any], TimedGenerator]:
    room, heard, shown, finished = Room(), list[Any](), list[Any](), list[Any]()
    output, generator = QueueAudioOutput(sample_rate=RATE), TimedGenerator(face)
    output.on("playback_finished", finished.append)
    runner = AvatarRunner(
        room,
        audio_recv=output,
        video_gen=generator,
        options=generator.options,
    )
    await runner.start()
    recording = asyncio.create_task(record(room, heard, shown))
    await room.published.wait()
    await asyncio.sleep(0.4)
    await script(output)
    await asyncio.sleep(0.2)
    recording.cancel()
    await asyncio.gather(recording, return_exceptions=True)
    await runner.aclose()
    await generator.aclose()
    await asyncio.sleep(0.2)
    return heard, shown, finished, generator


@pytest.fixture
def face(portrait: Path) -> Any:
    return talkingface.load("cran-tiny").live(portrait, rate=RATE, show="face", crop_size=64)


@pytest.fixture(scope="module")
def spoken(speech: Path) -> np.ndarray:
    return as_int16(audio.load(speech)[4000:20_000].numpy())


async def say(output: QueueAudioOutput, samples: np.ndarray, rate: int = RATE) -> None:
    for part in np.array_split(samples, 9):
        await output.capture_frame(rtc.AudioFrame(part.tobytes(), rate, 1, len(part)))
    output.flush()


def test_an_utterance_is_played_and_reported(face: Any, spoken: np.ndarray) -> None:
    async def script(output: QueueAudioOutput) -> None:
        await say(output, spoken)
        await asyncio.wait_for(output.wait_for_playout(), 20)

    heard, shown, finished, generator = asyncio.run(run(face, script))
    statistics = generator.statistics
    (event,) = finished
    assert event.playback_position == pytest.approx(1.0, abs=1e-6) and not event.interrupted
    assert statistics.speech == 25 and statistics.idle > 5
    sound = np.concatenate([samples for _, samples in heard]).astype(float)
    assert (sound**2).sum() / (spoken**2.0).sum() == pytest.approx(1, abs=0.05)  # all of it
    assert {size for _, size in shown} == {(64, 64)} and len(shown) > 25


def test_a_cleared_buffer_is_silent_at_once(face: Any, spoken: np.ndarray) -> None:
    at: list[float] = []

    async def script(output: QueueAudioOutput) -> None:
        for _ in range(2):
            await say(output, np.tile(spoken, 3))
            await asyncio.sleep(0.7)
            at.append(time.monotonic())
            output.clear_buffer()
            await asyncio.wait_for(output.wait_for_playout(), 20)
            await asyncio.sleep(0.5)

    heard, shown, finished, generator = asyncio.run(run(face, script))
    statistics = generator.statistics
    assert [event.interrupted for event in finished] == [True, True]
    assert all(0.1 < event.playback_position < 1.2 for event in finished)
    assert statistics.interruptions == 2 and statistics.dropped > 3
    for cleared in at:
        late = [when for when in generator.sounded if cleared < when < cleared + 0.5]
        assert not late or max(late) - cleared < 0.1
        loud = [when for when, samples in heard if np.abs(samples).max() > 300]
        assert not [when for when in loud if cleared + 0.3 < when < cleared + 0.5]
        assert [when for when, _ in shown if cleared < when < cleared + 0.5]  # it still moves
