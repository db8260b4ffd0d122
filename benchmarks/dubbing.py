"""Quality and speed of dubbing: python benchmarks/dubbing.py VIDEO... [--speech speech.wav]

Every video is dubbed twice, with the speech and with its own sound. The finished frames are tracked
again by the face finder. Apertures are gaps of the inner lips in distances of the eye centres.

    error            of the drawn aperture against the commanded one: mean, and 95th percentile
    follows          correlation of the drawn aperture with the commanded one
    old              correlation of the drawn aperture with that of the video before
    old commanded    the same of the commanded aperture: what chance gives
    outside          PSNR of the worst frame outside the drawn parts, dB, all planes
    own              with its own sound: correlation of the apertures, LMD in distances of the eyes;
                     LMD of a still mouth, the clip's median, beside it
    frames/s, ms     of the whole command; processor time of a frame, and that of tracking faces in
                     the first pass, and of drawing them in the second
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import Any

import av
import numpy as np
from line import EXAMPLES, Line, append, context, table

import talkingface
from talkingface import TalkingFace, video
from talkingface.dubbing.face import DubbedFace
from talkingface.dubbing.tracking import FaceTracker
from talkingface.evaluation import detection
from talkingface.landmarks import aperture as mesh_aperture
from talkingface.landmarks import eye_distance
from talkingface.metrics import lips
from talkingface.types import Array, Bounds

COLUMNS = [
    *("video", "frames", "error", "error 95", "follows", "old", "old commanded", "outside"),
    *("own", "own LMD", "still LMD", "frames/s", "ms", "ms track", "ms draw", "load"),
]


@dataclass
class Seen:
    """Observations of a run. commanded: aperture by frame; bounds: of what was drawn."""

    commanded: dict[int, float] = field(default_factory=dict)
    bounds: dict[int, Bounds] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"track": 0.0, "draw": 0.0})


@contextmanager
def watched(seen: Seen) -> Iterator[None]:
    """Note what is drawn, and the processor time of the parts, during the block."""
    draw, add, numbers = DubbedFace.draw, FaceTracker.add, count()

    def timed(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        began = thread_time()
        out = work(*arguments)
        seen.seconds[name] += thread_time() - began
        return out

    def drawn(self: DubbedFace, index: int, time: float, picture: Any) -> Any:
        out, number = timed("draw", draw, self, index, time, picture), next(numbers)
        if out is not None:
            own, mesh = self.meshes(index, time)
            seen.commanded[number] = float(mesh_aperture(mesh) / eye_distance(own))
            seen.bounds[number] = out[1]
        return out

    def added(self: FaceTracker, time: float, picture: Any) -> None:
        timed("track", add, self, time, picture)

    DubbedFace.draw, FaceTracker.add = drawn, added  # type: ignore[method-assign]
    try:
        yield
    finally:
        DubbedFace.draw, FaceTracker.add = draw, add  # type: ignore[method-assign]


def landmarks(path: Path) -> Array:
    """Detect the face in every frame of a video: (T, 68, 2) pixels."""
    return detection.detect(video.read_frames(path))


def outside(before: Path, after: Path, bounds: dict[int, Bounds]) -> float:
    """Return the PSNR in dB of the worst frame outside the drawn parts."""
    worst = np.inf
    with av.open(str(before)) as old, av.open(str(after)) as new:
        for number, pair in enumerate(zip(old.decode(video=0), new.decode(video=0), strict=False)):
            first, second = (frame.to_ndarray(format="yuv444p").astype(float) for frame in pair)
            squares = (first - second) ** 2
            if number in bounds:
                y0, y1, x0, x1 = bounds[number]
                squares[:, y0 // 2 * 2 : y1 + y1 % 2, x0 // 2 * 2 : x1 + x1 % 2] = np.nan
            error = np.nanmean(squares)
            worst = min(worst, 10 * np.log10(255**2 / error) if error else np.inf)
    return float(worst)


def with_speech(speaker: TalkingFace, source: Path, speech: Path, out: Path, old: Array) -> Line:
    """Dub a video with other speech. old: its landmarks (T, 68, 2)."""
    seen, began, used = Seen(), perf_counter(), process_time()
    with watched(seen):
        result = speaker.dub(source, speech, length="video").save(out, overwrite=True)
    wall, cpu = perf_counter() - began, process_time() - used
    drawn, before = (lips.aperture(own) for own in (landmarks(out), old))
    commanded = np.full(len(drawn), np.nan)
    commanded[list(seen.commanded)] = list(seen.commanded.values())
    error, most = np.abs(drawn - commanded), min(len(drawn), len(before))
    return {
        "video": source.stem,
        "frames": result.frames,
        "error": float(np.nanmean(error)),
        "error 95": float(np.nanpercentile(error, 95)),
        "follows": lips.correlation(drawn, commanded),
        "old": lips.correlation(drawn[:most], before[:most]),
        "old commanded": lips.correlation(commanded[:most], before[:most]),
        "outside": outside(source, out, seen.bounds),
        "frames/s": result.frames / wall,
        "ms": 1000 * cpu / result.frames,
        **{f"ms {name}": 1000 * own / result.frames for name, own in seen.seconds.items()},
    }


def with_own_sound(speaker: TalkingFace, source: Path, out: Path, old: Array) -> Line:
    """Dub a video with its own sound. old: its landmarks (T, 68, 2)."""
    speaker.dub(source, source, length="video").save(out, overwrite=True)
    new = landmarks(out)
    most = min(len(new), len(old))
    new, old = new[:most], old[:most]
    middle = old.mean(1, keepdims=True)
    still = middle + np.nanmedian(old - middle, axis=0)
    return {
        "own": lips.correlation(lips.aperture(new), lips.aperture(old)),
        "own LMD": lips.landmark_distance(new, old).interocular,
        "still LMD": lips.landmark_distance(still, old).interocular,
    }


def main() -> None:
    """Dub, measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO")
    parser.add_argument("--speech", type=Path, default=EXAMPLES / "speech.wav")
    parser.add_argument("--model", default="cran")
    parser.add_argument("--append", type=Path, help="a file of JSON lines to add the results to")
    options = parser.parse_args()
    speaker, lines = talkingface.load(options.model), []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.mp4"
        for source in options.videos:
            old = landmarks(source)
            line = with_speech(speaker, source, options.speech, out, old)
            line |= with_own_sound(speaker, source, out, old)
            lines.append(line | context(1) | {"benchmark": "dubbing"})
            print(table(lines[-1:], COLUMNS).splitlines()[-1], flush=True)
    print(table(lines, COLUMNS))
    if options.append:
        append(options.append, lines)


if __name__ == "__main__":
    main()
