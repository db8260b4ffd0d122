"""Time of each stage of one video: python benchmarks/stages.py [--seconds 10] [--threads 1]

Each stage alone, the quickest of several runs, then the whole command from process start to mp4.
The stages overlap in the command (the encoder has a thread of its own), so they add up to more.

--live: what a live video of the server costs instead, in milliseconds of its thread for a frame,
with sound in steps of so many ms. The quickest of three runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, thread_time

import cv2
import numpy as np
import torch
from line import EXAMPLES, SENTENCE, Line, append, best, context, table

import talkingface
from talkingface import audio, picture, video_writing
from talkingface.controls import MOUTH_ALONE
from talkingface.face_options import Show
from talkingface.frames import FrameRenderer
from talkingface.media import Sound
from talkingface.pipeline import TalkingFace
from talkingface.web.limits import Limits
from talkingface.web.microphone import Microphone

COLUMNS = ["model", "stage", "seconds", "ms_per_frame", "threads"]
LIVE = ["model", "show", "step_ms", "generate", "draw", "encode", "sum", "load"]
RATE = 48_000  # of a browser's microphone
SHOWN: tuple[tuple[Show, int], ...] = (("face", 40), ("face", 80), ("face", 160), ("picture", 40))


def recording(path: Path, seconds: float) -> Path:
    """Write a wav of the example sentence, repeated to a length, a part at a time."""
    sentence = (audio.load(SENTENCE).numpy() * 32767).astype("<i2")
    left = round(seconds * audio.SAMPLE_RATE)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, audio.SAMPLE_RATE, 0, "NONE", ""))
        while left > 0:
            file.writeframes(sentence[:left].tobytes())
            left -= len(sentence)
    return path


def stages(model: str, portrait: Path, sound: Path, folder: Path) -> Iterator[tuple[str, float]]:
    """Yield (name, seconds) of every part of `TalkingFace.generate(...).save(...)`."""
    fresh = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
    for name in ("torch", "talkingface.pipeline"):
        ran = [
            subprocess.run(
                [sys.executable, "-c", fresh.format(name)], capture_output=True, text=True
            )
            for _ in range(3)
        ]
        yield f"import {name}", min(float(one.stdout) for one in ran)
    speaker = talkingface.load(model)
    yield "weights", best(lambda: talkingface.load(model))
    yield "decode", best(lambda: list(audio.read(sound)))
    pixels = picture.read(portrait)
    yield "picture", best(lambda: picture.read(portrait))
    yield "face", best(lambda: talkingface.align(pixels))
    parts, spec = list(audio.read(sound)), speaker.model.config.speech  # type: ignore[union-attr]
    yield "features", best(lambda: _features(parts, spec))
    for label, controls in ((", mouth alone", MOUTH_ALONE), ("", None)):
        video_ = speaker.generate(pixels, sound, controls=controls)
        made = list(video_._frames())
        yield f"features, network{label}", best(lambda v=video_: list(v._frames()), 3)
        face = video_._face
        draw = face.renderer
        yield f"draw{label}", best(lambda d=draw, m=made: [d(frame) for frame in m], 3)
    yield "face, layers", best(lambda: FrameRenderer(face.picture, face.matrix, face, None))
    frames = [draw(frame) for frame in made[: 4 * 25]]
    again = len(made) / len(frames)
    out = folder / "encoded.mp4"
    once = best(lambda: video_writing.write(out, frames, sound, overwrite=True), 3)
    yield "encode", once * again


def _features(parts: list[torch.Tensor], spec: audio.SpeechSpec) -> None:
    stream = audio.WindowStream(spec)
    for part in parts:
        stream.push(part)
    stream.finish()


def command(model: str, portrait: Path, sound: Path, folder: Path) -> float:
    """Return the seconds of `talkingface generate`, from process start to the finished mp4."""
    words = ["generate", str(portrait), str(sound), "-o", str(folder / "talking.mp4")]
    call = [sys.executable, "-m", "talkingface", *words, "--model", model, "--overwrite"]
    began = perf_counter()
    subprocess.run(call, check=True, capture_output=True)
    return perf_counter() - began


def live(model: str, seconds: float) -> Iterator[Line]:
    """Yield a line for each kind of live video, with the costs of a frame."""
    speaker = talkingface.load(model)
    sound = np.resize(audio.load(SENTENCE).numpy(), round(seconds * audio.SAMPLE_RATE))
    sent = np.repeat(sound * 32767, RATE // audio.SAMPLE_RATE).astype("<i2").tobytes()
    for show, step in SHOWN:
        size = 2 * RATE * step // 1000
        messages = [sent[at : at + size] for at in range(0, len(sent), size)]
        costs = [_live_costs(speaker, show, messages) for _ in range(3)]
        line: Line = {"benchmark": "stages", "model": model, "show": show, "step_ms": step}
        yield {**line, **min(costs, key=lambda own: own["sum"]), **context(1)}


def _live_costs(speaker: TalkingFace, show: Show, messages: list[bytes]) -> dict[str, float]:
    """Return the milliseconds of this thread for a frame, by stage."""
    stream = speaker.open(EXAMPLES / "portrait.jpg", show=show, max_size=Limits().live_size)
    microphone, pieces, frames = Microphone(messages, RATE), None, 0
    spent = dict.fromkeys(("generate", "draw", "encode"), 0.0)
    before = thread_time()

    def lap(stage: str) -> None:
        nonlocal before
        spent[stage] += (now := thread_time()) - before
        before = now

    for part in microphone.parts():
        made = list(stream.output(part))
        lap("generate")
        for frame in made:
            drawn = stream.paint(frame)
            lap("draw")
            pieces = pieces or video_writing.Fragments(drawn, Sound(RATE, 1, microphone))
            pieces.add(drawn)
            frames += 1
            lap("encode")
    costs = {stage: 1000 * seconds / frames for stage, seconds in spent.items()}
    return {**costs, "sum": sum(costs.values())}


def measure(models: list[str], seconds: float, threads: int) -> list[Line]:
    """Measure; return lines for each stage and model, for the whole command, and for `--help`."""
    torch.set_num_threads(threads)
    lines, portrait, frames = [], EXAMPLES / "portrait.jpg", seconds * audio.FPS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sound = recording(folder / "speech.wav", seconds)
        for model in models:
            done = list(stages(model, portrait, sound, folder))
            whole = min(command(model, portrait, sound, folder) for _ in range(3))
            for stage, took in [*done, (f"talkingface generate, {seconds:g} s", whole)]:
                line = {"benchmark": "stages", "model": model, "stage": stage, "seconds": took}
                lines.append({**line, "ms_per_frame": 1000 * took / frames, **context(threads)})
        asking = [sys.executable, "-m", "talkingface", "--help"]
        took = best(lambda: subprocess.run(asking, capture_output=True, check=True))
        line = {"benchmark": "stages", "stage": "talkingface --help", "seconds": took}
        lines.append({**line, **context(threads)})
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="cran,atvg")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--live", action="store_true", help="measure live videos, see above")
    parser.add_argument("--out", type=Path, help="a .jsonl to append to")
    options = parser.parse_args()
    models = options.models.split(",")
    if options.live:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        lines = [line for model in models for line in live(model, options.seconds)]
    else:
        lines = measure(models, options.seconds, options.threads)
    print(table(lines, LIVE if options.live else COLUMNS))
    if options.out is not None:
        append(options.out, lines)


if __name__ == "__main__":
    main()
