"""Time of each stage of one video: python benchmarks/stages.py [--seconds 10] [--threads 1]

Each stage alone, the quickest of several runs, then the whole command from process start to mp4.
The stages overlap in the command (the encoder has a thread of its own), so they add up to more.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import torch
from line import EXAMPLES, SENTENCE, Line, append, best, context, table

import talkingface
from talkingface import audio, picture, video_writing
from talkingface.controls import MOUTH_ALONE
from talkingface.frames import FrameRenderer

COLUMNS = ["model", "stage", "seconds", "ms_per_frame", "threads"]


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
    yield "face, layers", best(lambda: FrameRenderer(face.picture, face.matrix, face))
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", default="cran,atvg")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a .jsonl to append to")
    options = parser.parse_args()
    lines = measure(options.models.split(","), options.seconds, options.threads)
    print(table(lines, COLUMNS))
    if options.out is not None:
        append(options.out, lines)


if __name__ == "__main__":
    main()
