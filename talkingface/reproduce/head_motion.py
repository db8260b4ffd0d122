"""Compare the motion of generated heads, brows and lids with that of real ones.

The first frame of every clip speaks the clip's sound, and the face is detected again in the
generated frames. A generated head need not repeat the real motion, so only statistics are compared
(`metrics/head.py`). Clips of a corpus are short: portraits speak for longer and show
how often eyes blink.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from talkingface import audio, media, pipeline
from talkingface.audio import SAMPLE_RATE, SAMPLES_PER_FRAME
from talkingface.controls import Controls
from talkingface.data.dataset import Cache, ClipInfo
from talkingface.data.shards import open_cache
from talkingface.errors import BadRequest
from talkingface.evaluation import detection
from talkingface.evaluation.files import Progress, find_pictures, prepare_outputs
from talkingface.evaluation.results import REAL
from talkingface.evaluation.run import speaking_clips, spread
from talkingface.evaluation.tables import table
from talkingface.metrics.head import (
    BANDS,
    FOLLOWED,
    MOVES,
    HeadStatistics,
    HeadVideo,
    statistics,
)
from talkingface.pipeline import TalkingFace
from talkingface.training.head import prosody_labels
from talkingface.types import Array

RESULTS, TABLES = "heads.json", "heads.md"
SIDE = 384  # pixels of a portrait's long side, enough to find a face
LEGEND = """# How heads and eyes move

Measured on the face found anew in finished frames, relative to its median in the clip, less what
goes with the mouth's opening; nothing is smoothed. Rotations in degrees, shifts and brows in 0.01
interocular distances, scale in per cent. Blinks: closing from 20 to 80 % of the depth, opening
back, duration at half of it, medians in ms. Correlations with the voice: medians over stretches of
3 s.
Made by `talkingface head-motion`.
"""
BLINKS = ("blinks/min", "closing", "opening", "duration")


def evaluate_head_motion(
    models: Sequence[str],
    cache: Path,
    out: Path,
    *,
    split: str = "test",
    clips: int | None = None,
    portraits: Path | None = None,
    sound: Path | None = None,
    seconds: float = 60.0,
    seed: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> str:
    """Measure models and real video; write `RESULTS` and `TABLES` into `out`.

    cache: shards prepared with a natural pose. clips: at most so many. portraits: folder of
    pictures that speak `sound`, repeated to the length `seconds`. seed: of the first clip or
    picture. Returns the tables. Raises OutputError, BadRequest, UnreadableMedia.
    """
    prepare_outputs(out, (RESULTS, TABLES), overwrite)
    if (portraits is None) != (sound is None):
        raise BadRequest("portraits need a sound to speak, and a sound needs portraits: give both")
    opened = open_cache(cache)
    chosen = spread(speaking_clips(opened, split), clips)
    faces = {name: pipeline.load(name, device) for name in models}
    pictures = [] if portraits is None else find_pictures(portraits)
    samples = torch.zeros(0) if sound is None else _repeated(audio.load(sound), seconds)
    advance = progress or (lambda done, total: None)
    total = len(chosen) + len(pictures)
    found: dict[str, dict[str, list[HeadVideo]]] = {"clips": {}, "portraits": {}}
    for number, clip in enumerate(chosen):
        for name, videos in _measure_clip(opened, clip, faces, seed + number).items():
            found["clips"].setdefault(name, []).extend(videos)
        advance(number + 1, total)
    for number, picture in enumerate(pictures):
        for name, face in faces.items():
            videos = _measure_portrait(face, picture, samples, seed + number)
            found["portraits"].setdefault(name, []).extend(videos)
        advance(len(chosen) + number + 1, total)
    return _write(out, found)


def _measure_clip(
    cache: Cache, clip: ClipInfo, faces: Mapping[str, TalkingFace], seed: int
) -> dict[str, list[HeadVideo]]:
    """Measure the clip and videos of its first frame with its sound; none without a face."""
    frames = np.array(cache.frames[clip.start : clip.start + clip.frames])
    samples = cache.samples(clip, 0, clip.frames * SAMPLES_PER_FRAME)
    voice = prosody_labels(samples.numpy(), clip.frames)
    found = {REAL: _read(detection.detect_meshes(frames), voice)}
    for name, face in faces.items():
        video = face.generate(frames[0], samples, controls=_controls(face, seed))
        found[name] = _read(detection.detect_meshes(video), voice)
    return found


def _repeated(samples: Tensor, seconds: float) -> Tensor:
    count = round(seconds * SAMPLE_RATE)
    return samples.repeat(-(-count // len(samples)))[:count]


def _measure_portrait(
    face: TalkingFace, picture: Path, samples: Tensor, seed: int
) -> list[HeadVideo]:
    video = face.generate(picture, samples, controls=_controls(face, seed), max_size=SIDE)
    voice = prosody_labels(samples.numpy(), len(video))
    return _read(detection.detect_meshes(video), voice)


def _controls(face: TalkingFace, seed: int) -> Controls | None:
    return Controls(seed=seed) if face.moves_mesh else None


def _read(meshes: Array, voice: Array) -> list[HeadVideo]:
    """Measure one video from its meshes; [] if no face was found."""
    whole = detection.filled(meshes)
    return [] if whole is None else [HeadVideo.of(whole, voice)]


# --- what is written ------------------------------------------------------------------------------


def _write(out: Path, found: Mapping[str, Mapping[str, Sequence[HeadVideo]]]) -> str:
    """Write both files; return the tables."""
    numbers, text = {}, LEGEND
    for title, videos in found.items():
        rows = {name: statistics(own) for name, own in videos.items() if own}
        if rows:
            counts = ", ".join(
                f"{name} {len(videos[name])} of {row.seconds:.0f} s in all"
                for name, row in rows.items()
            )
            text += f"\n## {title.capitalize()}\n\n{counts}\n\n" + "\n".join(_tables(rows))
            numbers[title] = {name: _plain(asdict(row)) for name, row in rows.items()}
    media.write_text(out / RESULTS, json.dumps(numbers, indent=1) + "\n")
    media.write_text(out / TABLES, text)
    return text


def _tables(rows: Mapping[str, HeadStatistics]) -> list[str]:
    parts = {
        "standard deviation": {name: row.deviation for name, row in rows.items()},
        "range within 3 s": {name: row.reach for name, row in rows.items()},
        "mean speed, per second": {name: row.speed for name, row in rows.items()},
    }
    made = [_table(title, MOVES, values, 2) for title, values in parts.items()]
    bands = [
        f"{part} {low:g}-{high:g} Hz"
        for part in ("rotation", "shift", "brows")
        for low, high in BANDS
    ]
    shares = {
        name: 100 * np.concatenate([row.shares[:, own].mean(1) for own in _GROUPS])
        for name, row in rows.items()
    }
    made.append(_table("share of the variance, %", bands, shares, 0))
    eyes = {
        name: np.array([row.blinks, *(1000 * np.array([row.closing, row.opening, row.duration]))])
        for name, row in rows.items()
    }
    made.append(_table("eyes", BLINKS, eyes, 0))
    deciles = [f"{part} %" for part in range(10, 100, 10)]
    intervals = {name: row.intervals for name, row in rows.items()}
    made.append(_table("seconds from blink to blink, percentiles", deciles, intervals, 2))
    pairs = [f"{voice}, {part}" for voice in ("loudness", "F0") for part in FOLLOWED]
    voices = {name: row.correlations.ravel() for name, row in rows.items()}
    made.append(_table("correlation", pairs, voices, 2))
    return made


_GROUPS = (slice(0, 3), slice(3, 5), slice(6, 8))  # of MOVES: rotations, shifts, brows


def _table(title: str, columns: Sequence[str], rows: Mapping[str, Array], decimals: int) -> str:
    cells = {name: dict(zip(columns, map(float, row), strict=False)) for name, row in rows.items()}
    return table(title, cells, [(column, column, decimals) for column in columns])


def _plain(value: Any) -> Any:
    """Convert arrays and numbers for JSON."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return [_plain(part) for part in value.tolist()]
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return round(value, 5) if isinstance(value, float) and np.isfinite(value) else None
