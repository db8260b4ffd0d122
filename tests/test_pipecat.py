"""Pipecat's own pipeline and output transport, with a face between speech and transport."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import talkingface

pytest.importorskip("pipecat", reason="needs talkingface[pipecat]")
from pipecat.frames.frames import (
    EndFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
    OutputImageRawFrame,
    StartFrame,
    TextFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner

from talkingface import audio, media
from talkingface.agents.pipecat import FaceVideoService
from talkingface.live_sound import as_int16

RATE = 24_000


class Recorder(FrameProcessor):  # type: ignore[misc]
    """Keeps what goes to the transport, with the time."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[float, Any]] = []

    async def process_frame(self, frame: Any, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if direction == FrameDirection.DOWNSTREAM:
            self.seen.append((time.monotonic(), frame))
        await self.push_frame(frame, direction)

    def of(self, kind: type) -> list[Any]:
        return [frame for _, frame in self.seen if isinstance(frame, kind)]


class Speakers(BaseOutputTransport):  # type: ignore[misc]
    """A transport of this process: sound takes the time that it lasts."""

    def __init__(self, params: TransportParams) -> None:
        super().__init__(params)
        self.heard: list[tuple[float, bytes]] = []
        self.shown: list[tuple[float, bytes]] = []
        self._due = 0.0

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        now = time.monotonic()
        self._due = max(now, self._due) + frame.num_frames / RATE
        self.heard.append((now, frame.audio))
        await asyncio.sleep(self._due - now)
        return True

    async def write_video_frame(self, frame: OutputImageRawFrame) -> bool:
        self.shown.append((time.monotonic(), frame.image))
        return True


async def run(face: Any, script: Any) -> tuple[Recorder, Speakers, FaceVideoService]:
    width, height = face.size
    service, recorder = FaceVideoService(face), Recorder()
    transport = Speakers(
        TransportParams(
            audio_out_enabled=True,
            audio_out_sample_rate=RATE,
            audio_out_end_silence_secs=0,
            video_out_enabled=True,
            video_out_width=width,
            video_out_height=height,
            video_out_framerate=25,
        )
    )
    params = PipelineParams(audio_out_sample_rate=RATE)
    pipeline = Pipeline([service, recorder, transport])
    worker = PipelineWorker(pipeline, params=params, cancel_on_idle_timeout=False)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)

    async def play() -> None:
        await asyncio.sleep(0.5)
        await script(worker)
        await worker.queue_frame(EndFrame())

    await asyncio.gather(runner.run(), play())
    return recorder, transport, service


@pytest.fixture(scope="module")
def spoken(speech: Path) -> np.ndarray:
    """One second of speech, int16 at 24 kHz."""
    resampler = media.Resampler(audio.SAMPLE_RATE, RATE)
    sound = audio.load(speech)[4000:20_000].numpy()[None]
    return as_int16(np.concatenate([resampler.push(sound), resampler.finish()], 1)[0])[:RATE]


@pytest.fixture
def face(portrait: Path) -> Any:
    return talkingface.load("cran-tiny").live(portrait, rate=RATE, show="face", crop_size=64)


async def say(worker: Any, samples: np.ndarray, context: str) -> None:
    for part in np.array_split(samples, 9):
        await worker.queue_frame(TTSAudioRawFrame(part.tobytes(), RATE, 1, context_id=context))


def test_speech_comes_out_whole_with_its_pictures(face: Any, spoken: np.ndarray) -> None:
    async def script(worker: Any) -> None:
        await say(worker, spoken, "first")
        await worker.queue_frame(TTSStoppedFrame())
        await worker.queue_frame(TextFrame("after"))
        await say(worker, spoken[: RATE // 5], "second")  # without its end: the end frame is it

    recorder, transport, service = asyncio.run(run(face, script))
    sounds = recorder.of(TTSAudioRawFrame)
    heard = np.concatenate([np.frombuffer(frame.audio, np.int16) for frame in sounds])
    assert np.array_equal(heard, np.concatenate([spoken, spoken[: RATE // 5]]))
    assert [frame.context_id for frame in sounds] == ["first"] * 25 + ["second"] * 5
    kinds = [type(frame) for _, frame in recorder.seen]
    assert (
        kinds.index(TTSStoppedFrame)
        == recorder.seen.index(next(pair for pair in recorder.seen if pair[1] is sounds[24])) + 1
    )
    images = {frame.pts: (when, frame) for when, frame in recorder.seen if hasattr(frame, "image")}
    for when, sound in recorder.seen:
        if isinstance(sound, TTSAudioRawFrame):  # its picture came just before
            assert sound.pts in images and 0 <= when - images[sound.pts][0] < 0.02
            assert images[sound.pts][1].size == (64, 64)
    assert len(recorder.of(OutputImageRawFrame)) > 30  # it waited, too
    assert np.array_equal(
        np.frombuffer(b"".join(data for _, data in transport.heard), np.int16)[:RATE], spoken
    )
    assert len({image for _, image in transport.shown}) > 15
    assert service.statistics.speech == 30 and kinds[-1] is EndFrame


def test_an_interruption_silences_it_at_once(face: Any, spoken: np.ndarray) -> None:
    at: list[float] = []

    async def script(worker: Any) -> None:
        for _ in range(2):
            await say(worker, np.tile(spoken, 3), "long")
            await worker.queue_frame(TTSStoppedFrame())
            await asyncio.sleep(0.6)
            at.append(time.monotonic())
            await worker.queue_frame(InterruptionFrame())
            await asyncio.sleep(0.3)

    recorder, _, service = asyncio.run(run(face, script))
    assert len(at) == 2 and recorder.of(TTSStoppedFrame) == []
    for interrupted in at:
        late = [
            when
            for when, frame in recorder.seen
            if isinstance(frame, TTSAudioRawFrame) and interrupted < when < interrupted + 0.3
        ]
        assert not late or max(late) - interrupted < 0.1
    found = service.statistics
    assert found.interruptions == 2 and 2.5 < found.dropped < 6 and found.idle > 5
