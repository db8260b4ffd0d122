"""Evaluate pairs of finished videos, real and generated, from a folder; no model is needed.

The face of each video is detected and aligned on its own, so that only faces are compared.
Everything is measured that needs no transcript. A pair is a folder of its own (NAME/real.mp4,
NAME/generated.mp4), or two files beside others (NAME.real.mp4, NAME.generated.mp4). A single pair
may be in the folder itself (real.mp4, generated.mp4). Containers may differ.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from talkingface import audio, faces, video
from talkingface.audio import FPS
from talkingface.data.clip import fit_sound
from talkingface.errors import BadRequest, NoFaceFound, UnreadableMedia
from talkingface.evaluation import measures
from talkingface.evaluation.files import number, numbers
from talkingface.evaluation.measures import LearnedMetric, VideoWithLandmarks
from talkingface.evaluation.results import REAL, Result
from talkingface.geometry import CropSpec
from talkingface.metrics.lips import aperture, mouth_box
from talkingface.types import Floats, Picture

GENERATED = "generated"
SIDES = (REAL, GENERATED)
SPLIT = "pairs"
VIDEOS = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .m2ts .ogv .flv .wmv .3gp .mxf .gif".split()
)
SEGMENT = 250  # frames in memory at a time, of either video
FEWEST = 2  # frames: motion needs two


@dataclass(frozen=True)
class Pair:
    """Files of one pair. real, generated: one file each; `files` checks it."""

    name: str
    real: tuple[Path, ...]
    generated: tuple[Path, ...]

    def files(self) -> tuple[Path, Path]:
        """Return the two videos. Raises BadRequest unless there is exactly one of each."""
        for side, paths in ((REAL, self.real), (GENERATED, self.generated)):
            if len(paths) > 1:
                names = ", ".join(path.name for path in paths)
                raise BadRequest(f"{self.name}: more than one {side} video ({names}); keep one")
            if not paths:
                (there,) = (*self.real, *self.generated)[:1]
                raise BadRequest(f"{there}: there is no {side} video beside it; add it")
        return self.real[0], self.generated[0]


def find(folder: Path) -> list[Pair]:
    """Return the pairs of a folder, by name. Raises BadRequest if there is none."""
    if not folder.is_dir():
        raise BadRequest(f"{folder}: is no folder; give one of real and generated videos")
    found: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(folder.iterdir()):
        for video_path in sorted(path.iterdir()) if path.is_dir() else [path]:
            name, dot, side = video_path.stem.rpartition(".")
            inside = path.is_dir() and not dot
            if side in SIDES and video_path.suffix.lower() in VIDEOS and (inside or path.is_file()):
                sides = found.setdefault(path.name if inside else name or folder.name, {})
                sides.setdefault(side, []).append(video_path)
    if not found:
        raise BadRequest(
            f"{folder}: holds no pairs; expected NAME/real.mp4 and NAME/generated.mp4, or "
            "NAME.real.mp4 and NAME.generated.mp4"
        )
    return [
        Pair(name, tuple(sides.get(REAL, ())), tuple(sides.get(GENERATED, ())))
        for name, sides in sorted(found.items())
    ]


def facts(pair: Pair, metrics: Sequence[LearnedMetric], author_compat: bool) -> dict[str, Any]:
    """Return everything that decides the numbers of `evaluate_pair`, the key of a result cache.

    Raises BadRequest as `Pair.files`.
    """
    return {
        "pair": pair.name,
        "files": [_sha256(path) for path in pair.files()],
        "experts": [metric.sha256 for metric in metrics],
        "author_compat": author_compat,
    }


def _sha256(path: Path) -> str:
    """Return the hash of a file's bytes. Raises UnreadableMedia."""
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while part := file.read(1 << 20):
                digest.update(part)
            return digest.hexdigest()
    except OSError as error:
        raise UnreadableMedia(f"{path}: cannot be read ({error.strerror or error})") from error


def evaluate_pair(
    pair: Pair, learned_metrics: Sequence[LearnedMetric] = (), author_compat: bool = False
) -> list[Result]:
    """Evaluate a pair; return two rows, GENERATED and REAL, each against the real video.

    Frames after the end of the shorter video are left out. Raises BadRequest (a video is missing,
    or has under FEWEST frames), NoFaceFound, UnreadableMedia.
    """
    files = pair.files()
    real, made, note = _read_pair(*files)
    size = real.frames.shape[1]
    mouth = mouth_box(real.landmarks, size)
    results = []
    for row, clip, path in ((GENERATED, made, files[1]), (REAL, real, files[0])):
        metrics = {
            **measures.lip_measures(clip.landmarks, real.landmarks, size),
            **measures.picture_measures(clip.frames, real.frames, mouth),
            **measures.pixel_measures(clip.frames, real.frames, mouth),
            **(measures.author_measures(clip, real) if author_compat else {}),
        }
        if learned_metrics:
            sound = _sound(path, len(real.frames))
            metrics |= measures.learned_measures(learned_metrics, clip, real.frames[0], sound)
        result = replace(
            _empty(row, pair),
            sha256=_sha256(path),
            metrics=numbers(metrics),
            aperture=[number(value) for value in aperture(clip.landmarks)],
            real_aperture=[number(value) for value in aperture(real.landmarks)],
            note=note if row == GENERATED else "",
        )
        results.append(result)
    return results


def failed(pair: Pair, reason: str) -> list[Result]:
    """Return the rows of a pair whose evaluation failed."""
    return [replace(_empty(row, pair), error=reason) for row in (GENERATED, REAL)]


def _empty(row: str, pair: Pair) -> Result:
    return Result(row, "", pair.name, "", SPLIT, "unknown", "")


def _read_pair(real: Path, generated: Path) -> tuple[VideoWithLandmarks, VideoWithLandmarks, str]:
    """Read both videos with aligned faces, as many frames of each.

    Also returns a note if their lengths differ, else "".
    """
    streams = video.read_frames(real), video.read_frames(generated)
    parts: tuple[list[VideoWithLandmarks], list[VideoWithLandmarks]] = ([], [])
    lengths = [0, 0]
    while True:
        read = [list(itertools.islice(stream, SEGMENT)) for stream in streams]
        common = min(map(len, read))
        for n, path in enumerate((real, generated)):
            if common:
                parts[n].append(_aligned(path, read[n][:common], lengths[n]))
            lengths[n] += len(read[n])
        if common < SEGMENT:
            break
    lengths = [n + sum(1 for _ in stream) for n, stream in zip(lengths, streams, strict=True)]
    if min(lengths) < FEWEST:
        short = (real, generated)[lengths.index(min(lengths))]
        raise BadRequest(f"{short}: {min(lengths)} frame at {FPS} fps; {FEWEST} are needed")
    note = ""
    if lengths[0] != lengths[1]:
        note = f"real has {lengths[0]} frames, generated {lengths[1]}: compared over the shorter"
    first, second = (_joined(clips) for clips in parts)
    return first, second, note


def _aligned(path: Path, frames: list[Picture], begin: int) -> VideoWithLandmarks:
    """Crop the face in frames (H, W, 3); its landmarks are those found before cropping."""
    try:
        track = faces.track(frames, CropSpec())
    except NoFaceFound as error:
        raise NoFaceFound(f"{path}: from {begin / FPS:g} s, {error}") from error
    landmarks = track.landmarks.astype(np.float64) * CropSpec().size
    landmarks[~track.found] = np.nan
    return VideoWithLandmarks(track.crops, landmarks)


def _joined(clips: list[VideoWithLandmarks]) -> VideoWithLandmarks:
    return VideoWithLandmarks(
        np.concatenate([clip.frames for clip in clips]),
        np.concatenate([clip.landmarks for clip in clips]),
    )


def _sound(path: Path, frames: int) -> Floats | None:
    """Return the sound (640 frames,) of a video; None if it has none."""
    if not video.probe(path).has_audio:
        return None
    return np.asarray(fit_sound(audio.load(path).numpy(), frames) / 32768, dtype=np.float32)
