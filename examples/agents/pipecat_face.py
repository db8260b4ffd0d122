"""A Pipecat pipeline without a network: a text, an offline voice, a face, a video file.

pip install 'talkingface[pipecat,voice]'; python examples/agents/pipecat_face.py face.mp4
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    OutputImageRawFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TTSService
from pipecat.workers.runner import WorkerRunner

import talkingface
from talkingface import video_writing, voice
from talkingface.agents.pipecat import FaceVideoService
from talkingface.live_sound import as_channels, as_int16

PORTRAIT = Path(__file__).parents[1] / "portrait.jpg"
RATE = 16_000  # Hz, of the sound that comes out
TEXT = "Good morning. The tram stops in front of the door."


class OfflineVoice(TTSService):
    """Speaks with `talkingface.voice`."""

    def __init__(self) -> None:
        settings = TTSSettings(model=None, voice=None, language=None)
        super().__init__(push_start_frame=True, settings=settings)
        next(voice.sentences("Hello."))  # loads it: Pipecat waits 3 s for a sound

    async def run_tts(self, text: str, context_id: str) -> AsyncIterator[Frame]:
        """Yield the speech of each sentence, and the end."""
        for sound in await asyncio.to_thread(list, voice.sentences(text)):
            samples = as_int16(sound).tobytes()
            yield TTSAudioRawFrame(samples, voice.RATE, 1, context_id=context_id)
        yield TTSStoppedFrame(context_id=context_id)


class Recorder(FrameProcessor):
    """Stands where the transport would; keeps pictures, and sounds by their time."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[OutputImageRawFrame] = []
        self.sounds: dict[int, TTSAudioRawFrame] = {}

    async def process_frame(self, frame: Any, direction: FrameDirection) -> None:
        """Keep pictures and sounds; pass everything."""
        await super().process_frame(frame, direction)
        if isinstance(frame, OutputImageRawFrame):
            self.pictures.append(frame)
        elif isinstance(frame, TTSAudioRawFrame):
            self.sounds[frame.pts] = frame
        await self.push_frame(frame, direction)

    def write(self, path: str, tag: str) -> None:
        """Write the video; waiting frames are silent."""
        silence = bytes(2 * RATE // 25)
        heard = (self.sounds.get(picture.pts) for picture in self.pictures)
        sound = b"".join(frame.audio if frame else silence for frame in heard)
        frames = (
            np.frombuffer(picture.image, np.uint8).reshape(*picture.size[::-1], 3)
            for picture in self.pictures
        )
        samples = as_channels(np.frombuffer(sound, np.int16))[0]
        video_writing.write(path, frames, samples, tag=tag)


async def main(output: str) -> None:
    """Speak the text; write what the transport would get."""
    speaker = talkingface.load("cran")
    service = FaceVideoService(speaker.live(PORTRAIT, rate=RATE, max_size=384))
    recorder = Recorder()
    worker = PipelineWorker(
        Pipeline([OfflineVoice(), service, recorder]),
        params=PipelineParams(audio_out_sample_rate=RATE),
        cancel_on_idle_timeout=False,
    )
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await worker.queue_frames([TTSSpeakFrame(TEXT), EndFrame()])
    await runner.run()
    recorder.write(output, speaker.tag)
    print(service.statistics)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
