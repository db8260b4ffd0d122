"""A folder of anybody's own pairs, real beside generated: measured without a model of ours.

Of each pair both faces are found and aligned by themselves, so that only the face is compared, and
everything is measured that needs no transcript. A pair lies in a folder of its own (NAME/real.mp4,
NAME/generated.mp4) or beside others (NAME.real.mp4, NAME.generated.mp4); a single one may lie in
the folder itself (real.mp4, generated.mp4). Containers may differ.
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
from talkingface.evaluation.measures import Expert, Filmed, Floats
from talkingface.evaluation.results import REAL, Result, number
from talkingface.geometry import CropSpec, Picture
from talkingface.metrics.lips import aperture, mouth_box

GENERATED = "generated"
SIDES = (REAL, GENERATED)
SPLIT = "pairs"
VIDEOS = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .m2ts .ogv .flv .wmv .3gp .mxf .gif".split()
)
SEGMENT = 250  # frames in memory at a time, of either video
FEWEST = 2  # frames: a motion needs two


@dataclass(frozen=True)
class Pair:
    """What belongs together. real, generated: one file each, unless somebody made a mistake."""

    name: str
    real: tuple[Path, ...]
    generated: tuple[Path, ...]

    def files(self) -> tuple[Path, Path]:
        """The two videos. Raises BadRequest where one is missing or not the only one."""
        for side, paths in ((REAL, self.real), (GENERATED, self.generated)):
            if len(paths) > 1:
                names = ", ".join(path.name for path in paths)
                raise BadRequest(f"{self.name}: more than one {side} video ({names}); keep one")
            if not paths:
                (there,) = (*self.real, *self.generated)[:1]
                raise BadRequest(f"{there}: there is no {side} video beside it; add it")
        return self.real[0], self.generated[0]


def find(folder: Path) -> list[Pair]:
    """The pairs of a folder, by name. Raises BadRequest where there is none."""
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


def facts(pair: Pair, experts: Sequence[Expert], author_compat: bool) -> dict[str, Any]:
    """Everything that decides the numbers of `measure`. Raises BadRequest as `Pair.files`."""
    return {
        "pair": pair.name,
        "files": [_sha256(path) for path in pair.files()],
        "experts": [expert.sha256 for expert in experts],
        "author_compat": author_compat,
    }


def _sha256(path: Path) -> str:
    """Of a file's bytes. Raises UnreadableMedia."""
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while part := file.read(1 << 20):
                digest.update(part)
            return digest.hexdigest()
    except OSError as error:
        raise UnreadableMedia(f"{path}: cannot be read ({error.strerror or error})") from error


def measure(
    pair: Pair, experts: Sequence[Expert] = (), author_compat: bool = False
) -> list[Result]:
    """Two rows, GENERATED and REAL, each against the real video; over the length of the shorter.

    Raises BadRequest (a video missing, or under FEWEST frames), NoFaceFound, UnreadableMedia.
    """
    files = pair.files()
    real, made, note = _filmed(*files)
    size = real.frames.shape[1]
    mouth = mouth_box(real.landmarks, size)
    results = []
    for row, filmed, path in ((GENERATED, made, files[1]), (REAL, real, files[0])):
        metrics = {
            **measures.lip_measures(filmed.landmarks, real.landmarks, size),
            **measures.picture_measures(filmed.frames, real.frames, mouth),
            **measures.pixel_measures(filmed.frames, real.frames, mouth),
            **(measures.author_measures(filmed, real) if author_compat else {}),
        }
        if experts:
            sound = _sound(path, len(real.frames))
            metrics |= measures.asked(experts, filmed, real.frames[0], sound)
        result = replace(
            _empty(row, pair),
            sha256=_sha256(path),
            metrics={name: number(value) for name, value in metrics.items()},
            aperture=[number(value) for value in aperture(filmed.landmarks)],
            real_aperture=[number(value) for value in aperture(real.landmarks)],
            note=note if row == GENERATED else "",
        )
        results.append(result)
    return results


def failed(pair: Pair, reason: str) -> list[Result]:
    """The rows of a pair that could not be measured."""
    return [replace(_empty(row, pair), error=reason) for row in (GENERATED, REAL)]


def _empty(row: str, pair: Pair) -> Result:
    return Result(
        model=row,
        sha256="",
        clip=pair.name,
        speaker="",
        split=SPLIT,
        identity="unknown",
        portrait="",
        metrics={},
        aperture=[],
        real_aperture=[],
        words=[],
        ranks=[],
        judge="",
    )


def _filmed(real: Path, generated: Path) -> tuple[Filmed, Filmed, str]:
    """Both faces, aligned, as many frames of each; and a note where one video goes on."""
    streams = video.read_frames(real), video.read_frames(generated)
    parts: tuple[list[Filmed], list[Filmed]] = ([], [])
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
    first, second = (_joined(films) for films in parts)
    return first, second, note


def _aligned(path: Path, frames: list[Picture], begin: int) -> Filmed:
    """The face in these frames (H, W, 3), cropped; its landmarks as found before cropping."""
    try:
        track = faces.track(frames, CropSpec())
    except NoFaceFound as error:
        raise NoFaceFound(f"{path}: from {begin / FPS:g} s, {error}") from error
    landmarks = track.landmarks.astype(np.float64) * CropSpec().size
    landmarks[~track.found] = np.nan
    return Filmed(track.crops, landmarks)


def _joined(films: list[Filmed]) -> Filmed:
    return Filmed(
        np.concatenate([film.frames for film in films]),
        np.concatenate([film.landmarks for film in films]),
    )


def _sound(path: Path, frames: int) -> Floats | None:
    """(640 frames,) of a video; None where it is silent."""
    if not video.probe(path).has_audio:
        return None
    return np.asarray(fit_sound(audio.load(path).numpy(), frames) / 32768, dtype=np.float32)
