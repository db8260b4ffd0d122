"""A conversation as a video, without a network: text, offline voice, face; twice interrupted.

pip install 'talkingface[voice]'; python examples/agents/conversation.py conversation.mp4
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import talkingface
from talkingface import video_writing, voice
from talkingface.live_face import LiveFace, LiveFrame

PORTRAIT = Path(__file__).parents[1] / "portrait.jpg"
# What is said, and the frames after which somebody interrupts (None: nobody does).
TURNS = (
    ("Good morning. How can I help you?", None),
    ("The museum opens at nine, and on Thursdays it stays open until late in the evening.", 40),
    ("Of course. The tram stops in front of the door, and the next one leaves in ten minutes.", 50),
    ("You are welcome. Have a good day.", None),
)
REST = 25  # frames after each turn


def conversation(face: LiveFace) -> Iterator[LiveFrame]:
    """Yield the frames of all turns, each with its sound."""
    for text, interrupted in TURNS:
        for sound in voice.sentences(text):
            face.push(sound, voice.RATE)
        face.end_of_utterance()
        frames = 0
        while (frame := face.read(idle=False)) is not None:
            yield frame
            frames += 1
            if frames == interrupted:
                face.interrupt()
        yield from filter(None, (face.read() for _ in range(REST)))


def main(output: str) -> None:
    """Write the video."""
    speaker = talkingface.load("cran")
    face = speaker.live(PORTRAIT, rate=16_000, max_size=384)
    frames = list(conversation(face))
    sound = np.concatenate([frame.sound[:, 0] for frame in frames])
    video_writing.write(output, (frame.picture for frame in frames), sound, tag=speaker.tag)
    print(face.statistics())


if __name__ == "__main__":
    main(sys.argv[1])
