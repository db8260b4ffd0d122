"""The video generator of a LiveKit avatar worker, without a room: text, offline voice, video file.

pip install 'talkingface[livekit,voice]'; python examples/agents/livekit_face.py face.mp4

In an agent, `AvatarRunner` does what `played` does here: it publishes what the generator yields.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
from livekit import rtc
from livekit.agents.voice.avatar import AudioSegmentEnd

import talkingface
from talkingface import video_writing, voice
from talkingface.agents.livekit import FaceVideoGenerator
from talkingface.live_sound import as_channels, as_int16
from talkingface.types import Floats, Picture

PORTRAIT = Path(__file__).parents[1] / "portrait.jpg"
RATE = 16_000  # Hz, of the sound that comes out
TEXT = "Good morning. The tram stops in front of the door."


async def speak(generator: FaceVideoGenerator) -> None:
    """Push the speech of the text, and its end."""
    for sound in await asyncio.to_thread(list, voice.sentences(TEXT)):
        samples = as_int16(sound).tobytes()
        await generator.push_audio(rtc.AudioFrame(samples, voice.RATE, 1, len(sound)))
    await generator.push_audio(AudioSegmentEnd())


async def played(generator: FaceVideoGenerator) -> tuple[list[Picture], Floats]:
    """Return the pictures until the speech has ended, and their sound; waiting is silent."""
    pictures, sounds = [], []
    async for frame in generator:
        if isinstance(frame, rtc.VideoFrame):
            shape = frame.height, frame.width, 3
            pictures.append(np.frombuffer(frame.data, np.uint8).reshape(shape))
            sounds.append(bytes(2 * RATE // 25))
        elif isinstance(frame, rtc.AudioFrame):
            sounds[-1] = bytes(frame.data)
        else:
            break
    return pictures, as_channels(np.frombuffer(b"".join(sounds), np.int16))[0]


async def main(output: str) -> None:
    """Speak the text; write what a room would get."""
    speaker = talkingface.load("cran")
    generator = FaceVideoGenerator(speaker.live(PORTRAIT, rate=RATE, max_size=384))
    _, (pictures, sound) = await asyncio.gather(speak(generator), played(generator))
    await generator.aclose()
    video_writing.write(output, pictures, sound, tag=speaker.tag)
    print(generator.statistics)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
