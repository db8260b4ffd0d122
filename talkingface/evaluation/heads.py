"""How generated heads move beside real ones, and whether a long clip stays the same person.

Of every clip its first frame speaks the clip's sound; the face is found anew in what came out. A
head does not have to do what the real one did, so only statistics are compared (`metrics/head.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from talkingface import media, picture, pipeline, weights
from talkingface.audio import FPS
from talkingface.data.shards import open_cache
from talkingface.errors import BadRequest
from talkingface.evaluation import detection, figures
from talkingface.evaluation.bench import Bench, Candidate, open_candidate
from talkingface.evaluation.detection import Array, Frames
from talkingface.evaluation.measures import Filmed
from talkingface.evaluation.results import REAL
from talkingface.evaluation.run import speaking_clips, spread
from talkingface.evaluation.tables import markdown_table
from talkingface.metrics import identity
from talkingface.metrics.head import BANDS, POSE, HeadStatistics, head_moves, statistics
from talkingface.video import contact_sheet

RESULTS, TABLES, DRIFT, SHEET = "heads.json", "heads.md", "heads-drift.png", "heads.png"
LEGEND = """# How heads move

Standard deviation within a clip of where the head is (x, y in pixels of a 128 px crop, roll in
degrees, scale in per cent), what share of its variance lies below 1, from 1 to 3 and above 3 Hz,
mean change from one frame to the next, and blinks, all measured on the face found anew in finished
frames. "identity": the cosine with the picture in the first and in the last five seconds of one
long clip; a face that drifts falls.
"""


def measure(
    models: Sequence[str],
    cache: Path,
    out: Path,
    *,
    split: str = "test",
    clips: int | None = None,
    seconds: float = 30.0,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Measure models beside real video and write `RESULTS`, `TABLES`, `DRIFT`, `SHEET` into `out`.

    cache: shards prepared with a natural pose. clips: at most so many. seconds: of the long clip,
    less where the split has less. Returns the table. Raises OutputError, BadRequest.
    """
    pipeline.make_folder(out)
    for name in (RESULTS, TABLES, DRIFT, SHEET):
        media.check_output(out / name, overwrite)
    opened = open_cache(cache)
    chosen = spread(speaking_clips(opened, split), clips)
    if not chosen:
        raise BadRequest(f"{cache} has no speaking clip in the split {split!r}")
    bench = Bench(opened, device=device)
    candidates = [open_candidate(name, device) for name in models]
    found: dict[str, list[Array]] = {REAL: []}
    shown: dict[str, Frames] = {}
    for number, clip in enumerate(chosen, start=1):
        films = {REAL: bench.real(clip)}
        for candidate in candidates:
            if candidate.generator is not None:
                frames = bench.generate(candidate.generator, clip, clip).frames
                films[candidate.name] = Filmed(frames, detection.detect(frames))
        shown = shown or {name: film.frames for name, film in films.items()}
        for name, film in films.items():
            found.setdefault(name, []).extend(_moves(film))
        if progress is not None:
            progress(number, len(chosen))
    spoken = sum(c.frames for c in speaking_clips(opened, split)) / FPS
    long = _long(bench, candidates, split, min(seconds, np.floor(spoken)))
    rows = {name: statistics(clips) for name, clips in found.items() if clips}
    return _write(out, rows, shown, *long)


def _moves(film: Filmed) -> list[Array]:
    """Of one clip, unless its face was lost."""
    landmarks = detection.filled(film.landmarks)
    return [] if landmarks is None else [head_moves(landmarks, film.frames.shape[1])]


def _long(
    bench: Bench, candidates: Sequence[Candidate], split: str, seconds: float
) -> tuple[dict[str, Frames], Frames, dict[str, Array]]:
    """What each model makes of a long clip, the picture, and its likeness second by second."""
    clip = figures.long_clip(bench.cache, split, seconds=seconds)
    embedding = weights.load("identity")
    films, likeness = {}, {}
    for candidate in candidates:
        if candidate.generator is None:
            continue
        speech = clip.speech(candidate.generator.config.speech)
        frames = bench.play(candidate.generator, clip.portrait, speech).frames
        films[candidate.name] = frames
        cosines = identity.likeness(embedding, frames, clip.picture)
        likeness[candidate.name] = identity.drift(cosines)
    return films, clip.picture, likeness


def _write(
    out: Path,
    rows: Mapping[str, HeadStatistics],
    shown: Mapping[str, Frames],
    long: Mapping[str, Frames],
    portrait: Frames,
    likeness: Mapping[str, Array],
) -> str:
    """All four files; returns the table."""
    text = f"{LEGEND}\n{_table(rows, likeness)}"
    numbers = {
        name: {"statistics": _plain(asdict(row)), "likeness": _plain(likeness.get(name))}
        for name, row in rows.items()
    }
    pictures = [list(frames[:75:5]) for frames in shown.values()]
    labels = [f"{name}, one frame in 5" for name in shown]
    for name, frames in long.items():
        pictures.append(list(frames[:: max(1, len(frames) // 15)][:15]))
        labels.append(f"{name}, {len(frames) / FPS:.0f} s, beginning to end")
    sheet = contact_sheet(pictures, labels)
    if long:
        drawn = figures.drift_plot(long, portrait)
        picture.write_png(out / DRIFT, drawn, overwrite=True)
    picture.write_png(out / SHEET, sheet, overwrite=True)
    media.write_text(out / RESULTS, json.dumps(numbers, indent=1) + "\n")
    media.write_text(out / TABLES, text)
    return text


def _table(rows: Mapping[str, HeadStatistics], likeness: Mapping[str, Array]) -> str:
    bands = [f"{low:g}-{high:g} Hz, %" for low, high in BANDS]
    head = ["video", *(f"{name} std" for name in POSE), *bands, "px/frame", "blinks/min", "frames"]
    body = []
    for name, row in rows.items():
        shares = 100 * row.shares[:, :3].mean(1)  # of x, y and roll
        curve = likeness.get(name)
        same = "-" if curve is None else f"{curve[:5].mean():.3f}, {curve[-5:].mean():.3f}"
        body.append(
            [
                name,
                *(f"{value:.2f}" for value in row.deviation),
                *(f"{value:.0f}" for value in shares),
                f"{np.hypot(*row.speed[:2]):.2f}",
                f"{row.blinks:.0f}",
                f"{row.blink_frames:.1f}" if np.isfinite(row.blink_frames) else "-",
                same,
            ]
        )
    return markdown_table([*head, "identity"], body, "---:")


def _plain(value: Any) -> Any:
    """Numbers as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return [_plain(part) for part in value.tolist()]
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return round(value, 5) if isinstance(value, float) and np.isfinite(value) else None
