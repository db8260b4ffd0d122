"""Cost of decoding in another process: the first file, later ones, and a whole command.

python benchmarks/decoding.py
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from talkingface import audio, decoding, picture, video

ROOT = Path(__file__).parents[1]
PORTRAIT = ROOT / "examples" / "portrait.jpg"
SENTENCE = ROOT / "tests" / "fixtures" / "sentence.wav"
CLIP = ROOT / "tests" / "clips" / "s1_bbaf2n.mp4"
RUNS = 20


def milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def first() -> float:
    """Return the time of a file for which a process is started."""
    decoding.set_limits(decoding.Limits())
    return milliseconds(lambda: picture.open_size(PORTRAIT))


def rows() -> Iterator[tuple[str, float]]:
    yield "start, and the size of a picture", min(first() for _ in range(5))
    for name, work in (
        ("size of a picture", lambda: picture.open_size(PORTRAIT)),
        ("picture, 768x768", lambda: picture.read(PORTRAIT)),
        ("sound, 3 s", lambda: audio.load(SENTENCE)),
        ("video, 75 frames", lambda: list(video.read_frames(CLIP))),
    ):
        yield name, min(milliseconds(work) for _ in range(RUNS))


def main() -> None:
    contained = list(rows())
    os.environ[decoding.SWITCH] = "direct"
    print(f"{'least of some runs, ms':34} {'contained':>10} {'direct':>10}")
    for (name, with_process), (_, direct) in zip(contained, rows(), strict=True):
        print(f"{name:34} {with_process:10.1f} {direct:10.1f}")


if __name__ == "__main__":
    main()
