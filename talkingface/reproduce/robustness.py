"""Evaluate models under disturbed landmarks and head poses.

It repeats Chen et al. 2019, Fig. 5: Gaussian noise on landmarks, and rotated and sheared faces
without alignment. Each video is compared with the real clip under the same transform. The still
picture is evaluated too. Real poses: the undisturbed videos, grouped by the clip's yaw. Writes
robustness.jsonl, one line per clip, disturbance and model, then its means as a table and a figure.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from talkingface import media, video
from talkingface.contract import LandmarkDriven, Portrait
from talkingface.data.clip import split_name
from talkingface.data.dataset import Cache, ClipInfo, clip_speech
from talkingface.data.shards import open_cache
from talkingface.errors import BadRequest, OutputError
from talkingface.evaluation import detection
from talkingface.evaluation.evaluator import FROM_LANDMARKS, EvaluatedModel, Evaluator, open_model
from talkingface.evaluation.files import Progress, numbers, prepare_outputs, write_lines
from talkingface.evaluation.measures import VideoWithLandmarks, picture_measures
from talkingface.evaluation.results import STILL
from talkingface.evaluation.run import speaking_clips, spread
from talkingface.evaluation.tables import mean, table
from talkingface.geometry import transform
from talkingface.landmarks import IBUG
from talkingface.metrics.lips import REFERENCE_SIZE, landmark_distance, mouth_box
from talkingface.reproduce.figures import COLOURS
from talkingface.types import Array, Floats, Frames

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULTS, TABLES, FIGURE = "robustness.jsonl", "robustness.md", "robustness.png"
NONE = "none"
DRIVING, IDENTITY = "driving landmarks", "identity's landmarks"
ROTATION, SHEAR, YAW = "rotation", "shear", "real yaw"
NOISE = (0.5, 1.0, 2.0, 4.0)  # sigma, pixels at 128
DEGREES = (5.0, 10.0, 20.0, 30.0)
SHEARS = (0.1, 0.2, 0.3)  # pixels to the right per pixel down
YAW_STEP = 5.0  # degrees of a group of real poses
DISTURBANCES: tuple[tuple[str, float], ...] = (
    (NONE, 0.0),
    *((kind, sigma) for kind in (DRIVING, IDENTITY) for sigma in NOISE),
    *((ROTATION, angle) for angle in DEGREES),
    *((SHEAR, factor) for factor in SHEARS),
)
MEASURES = (  # keys of `Trial.metrics`, and labels of their axes
    ("psnr", "PSNR, whole face (dB)"),
    ("ssim", "SSIM, whole face"),
    ("mouth_psnr", "PSNR, mouth (dB)"),
    ("mouth_ssim", "SSIM, mouth"),
    ("lmd_pixels", "LMD, mouth (px at 128)"),
)


@dataclass(frozen=True)
class Trial:
    """Result of one model on one clip under one disturbance: a line of robustness.jsonl.

    yaw: the clip's own, in degrees (median), None if it is unknown. kind, amount: one of
    DISTURBANCES. metrics: MEASURES, and `missed`, frames in which no face was found; None is
    undefined or infinite.
    """

    model: str
    sha256: str
    clip: str
    speaker: str
    split: str
    yaw: float | None
    kind: str
    amount: float
    metrics: dict[str, float | None]


@dataclass(frozen=True)
class DisturbedClip:
    """A clip under one disturbance: the input of a model, and the real video to compare with.

    landmarks: (68, 2) of the identity picture, the first frame of `real`. mesh: (478, 2), its mesh.
    driving: (T, 68, 2). true: (T, 68, 2), without noise. All in [0, 1] of the crop.
    """

    kind: str
    amount: float
    real: VideoWithLandmarks
    landmarks: Floats
    mesh: Floats
    driving: Floats
    true: Floats


def evaluate_robustness(
    models: Sequence[str],
    cache: Path,
    out: Path,
    *,
    splits: Sequence[str] = ("test",),
    clips: int | None = 6,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Trial]:
    """Evaluate models on disturbed clips; write RESULTS, TABLES and FIGURE into the folder `out`.

    models: names or weights files. A model that draws landmarks is evaluated twice: from sound, and
    from real landmarks (NAME@landmarks, which may also be given alone). The still picture is always
    evaluated. cache: a training cache or shards. clips: at most so many of each split, from frontal
    to turned. The same arguments give the same numbers. Raises BadRequest, BadShard, BadWeights,
    UnknownModel, OutputError (also if matplotlib is not installed; RESULTS and TABLES are written
    then).
    """
    if clips is not None and clips < 1:
        raise BadRequest(f"clips is {clips}: must be at least 1")
    prepare_outputs(out, (RESULTS, TABLES, FIGURE), overwrite)
    opened = _open_models(models, device)
    evaluator = Evaluator(open_cache(cache), device=device)
    chosen = choose_clips(evaluator.cache, splits, clips)
    trials: list[Trial] = []
    for done, clip in enumerate(chosen):
        calm = evaluator.real(clip)
        for step, (kind, amount) in enumerate(DISTURBANCES):
            shown = disturb(evaluator.cache, clip, calm, kind, amount)
            trials += _trials(evaluator, opened, clip, shown)
            if progress is not None:
                progress(done * len(DISTURBANCES) + step + 1, len(chosen) * len(DISTURBANCES))
    write_lines(out / RESULTS, trials, overwrite)
    media.write_text(out / TABLES, tables(trials), overwrite)
    draw(trials, out / FIGURE, overwrite)
    return trials


def _open_models(models: Sequence[str], device: str) -> list[EvaluatedModel]:
    """Open the models, those that draw landmarks in both ways, and the still picture; each once."""
    found: dict[str, EvaluatedModel] = {}
    for name in (*models, STILL):
        model = open_model(name, device)
        if model.generator is None:
            raise BadRequest(f"{name} is no model: the real clip is what models are compared with")
        found[model.name] = model
        if isinstance(model.generator, LandmarkDriven) and not model.driven:
            twin = EvaluatedModel(model.name + FROM_LANDMARKS, model.sha256, model.generator, True)
            found[twin.name] = twin
    return list(found.values())


def choose_clips(cache: Cache, splits: Sequence[str], most: int | None) -> list[ClipInfo]:
    """Return at most `most` clips of each split, evenly from frontal to turned, else by name."""
    return [
        clip
        for split in splits
        for clip in spread(
            sorted(speaking_clips(cache, split), key=lambda c: (_yaw(c) or 0.0, c.key)),
            most,
        )
    ]


def _yaw(clip: ClipInfo) -> float | None:
    """Return the absolute yaw of the head in degrees; None if it is unknown."""
    yaw = clip.info.get("yaw")
    return None if yaw is None else abs(float(yaw))


# --- one clip, one disturbance --------------------------------------------------------------------


def pose_matrix(kind: str, amount: float, centre: Array) -> Array:
    """Return the matrix (2, 3) of a rotation or a shear about a point (x, y).

    amount: degrees, clockwise as seen; or pixels to the right per pixel down.
    """
    linear = np.array([[1.0, amount], [0.0, 1.0]])
    if kind == ROTATION:
        c, s = math.cos(math.radians(amount)), math.sin(math.radians(amount))
        linear = np.array([[c, -s], [s, c]])
    return np.column_stack([linear, centre - linear @ centre])


def disturb(
    cache: Cache, clip: ClipInfo, calm: VideoWithLandmarks, kind: str, amount: float
) -> DisturbedClip:
    """Return the clip under one disturbance. calm: the clip without it (`Evaluator.real`).

    Noise is drawn anew for each frame, and is the same at every call. Rotation and shear apply to
    identity picture, real frames and landmarks alike, about the centre of the first frame's
    landmarks. Pixels from outside the picture repeat its border.
    """
    rows = slice(clip.start, clip.start + clip.frames)
    true, size = cache.landmarks[rows].astype(np.float64), calm.frames.shape[1]
    mesh = cache.mesh[clip.start].astype(np.float64)
    real = calm
    if kind in (ROTATION, SHEAR):
        matrix = pose_matrix(kind, amount, true[0].mean(0) * size)
        frames = np.stack([_warped(frame, matrix) for frame in calm.frames])
        real = VideoWithLandmarks(frames, detection.detect(frames))
        true, mesh = (transform(points * size, matrix) / size for points in (true, mesh))
    landmarks, driving = true[0], true
    # one pattern per clip and kind, scaled: the points of a curve differ by strength alone
    rng = np.random.default_rng([zlib.crc32(clip.key.encode()), zlib.crc32(kind.encode())])
    if kind == DRIVING:
        driving = true + rng.standard_normal(true.shape) * amount / REFERENCE_SIZE
    elif kind == IDENTITY:
        landmarks = landmarks + rng.standard_normal(landmarks.shape) * amount / REFERENCE_SIZE
        own = mesh[IBUG]
        mesh = mesh + rng.standard_normal(mesh.shape) * amount / REFERENCE_SIZE
        mesh[IBUG] = own + landmarks - true[0]  # the same noise for a point in both arrays
    points = (array.astype(np.float32) for array in (landmarks, mesh, driving, true))
    return DisturbedClip(kind, amount, real, *points)


def _warped(frame: Frames, matrix: Array) -> Frames:
    # cubic: linear resampling removes the camera's noise, which raises PSNR by 0.6 dB at any angle
    side, flags, border = frame.shape[0], cv2.INTER_CUBIC, cv2.BORDER_REPLICATE
    out = cv2.warpAffine(frame, matrix, (side, side), flags=flags, borderMode=border)
    return np.asarray(out, dtype=np.uint8)


def _trials(
    evaluator: Evaluator, models: Sequence[EvaluatedModel], clip: ClipInfo, shown: DisturbedClip
) -> Iterator[Trial]:
    """Evaluate every model on a disturbed clip, except those without the disturbed input."""
    for model in models:
        ignores = model.name == STILL and shown.kind in (DRIVING, IDENTITY)
        if ignores or (shown.kind == DRIVING and not model.driven):
            continue
        yield Trial(
            model=model.name,
            sha256=model.sha256,
            clip=clip.key,
            speaker=clip.speaker,
            split=clip.split,
            yaw=_yaw(clip),
            kind=shown.kind,
            amount=shown.amount,
            metrics=numbers(_metrics(evaluator, model, clip, shown)),
        )


def _metrics(
    evaluator: Evaluator, model: EvaluatedModel, clip: ClipInfo, shown: DisturbedClip
) -> dict[str, float]:
    generator = model.generator
    if generator is None:
        raise BadRequest(f"{model.name} is no model")
    if model.driven:
        sequence = torch.from_numpy(shown.driving)
    else:
        sequence = clip_speech(evaluator.cache, clip, generator.config.speech)
    points, mesh = (torch.from_numpy(known)[None] for known in (shown.landmarks, shown.mesh))
    portrait = Portrait(video.to_tensor(shown.real.frames[0])[None], points, mesh)
    made = evaluator.generate_from(generator, portrait, sequence, model.driven).frames
    distance = landmark_distance(detection.detect(made), shown.real.landmarks, evaluator.size)
    mouth = mouth_box(shown.true * evaluator.size, evaluator.size)
    return {  # frame 0 is the identity picture and is left out of pixel measures
        **picture_measures(made[1:], shown.real.frames[1:], mouth),
        "lmd_pixels": distance.pixels,
        "missed": float(distance.missed),
    }


# --- curves ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """Means over clips. amount: as in DISTURBANCES, or the mean yaw of a group in degrees."""

    amount: float
    clips: int
    metrics: dict[str, float]


def curve(trials: Sequence[Trial], model: str, kind: str) -> list[Point]:
    """Return the quality of a model by strength of a disturbance, the undisturbed first.

    YAW groups the undisturbed trials by the clip's own pose, in steps of YAW_STEP. Returns [] if
    the model was not evaluated under the disturbance; for the still picture its undisturbed point.
    """
    own = [t for t in trials if t.model == model]
    calm = [t for t in own if t.kind == NONE]
    if kind == YAW:
        steps = [(t, int(t.yaw // YAW_STEP)) for t in calm if t.yaw is not None]
        groups = [[t for t, step in steps if step == n] for n in sorted({n for _, n in steps})]
        return [_point(g, float(np.mean([t.yaw for t in g if t.yaw is not None]))) for g in groups]
    amounts = sorted({t.amount for t in own if t.kind == kind})
    points = [_point([t for t in own if (t.kind, t.amount) == (kind, a)], a) for a in amounts]
    return [_point(calm, 0.0), *points] if points or model == STILL else []


def _point(trials: Sequence[Trial], amount: float) -> Point:
    metrics = {name: mean([t.metrics[name] for t in trials]) for name, _ in MEASURES}
    missed = sum(t.metrics["missed"] or 0.0 for t in trials)
    return Point(amount, len(trials), {**metrics, "missed": missed, "clips": float(len(trials))})


TITLES = {
    DRIVING: "Noise on the driving landmarks, sigma in px at 128",
    IDENTITY: "Noise on the identity's landmarks, sigma in px at 128",
    ROTATION: "Rotation in plane, degrees",
    SHEAR: "Shear, px per px",
    YAW: f"Real head pose: mean |yaw| of the clips in steps of {YAW_STEP:g} degrees",
}
COLUMNS = (
    ("clips", "clips", 0),
    ("PSNR dB", "psnr", 2),
    ("SSIM", "ssim", 4),
    ("mouth PSNR dB", "mouth_psnr", 2),
    ("mouth SSIM", "mouth_ssim", 4),
    ("LMD px", "lmd_pixels", 2),
    ("frames without face", "missed", 0),
)


def tables(trials: Sequence[Trial]) -> str:
    """Write Markdown: a table per disturbance, a row per model and strength, means over clips."""
    splits = ", ".join(dict.fromkeys(split_name(t.split) for t in trials))
    count = len({t.clip for t in trials})
    parts = [f"# Robustness: {count} clips of {splits}\n"]
    models = list(dict.fromkeys(t.model for t in trials))
    for kind, title in TITLES.items():
        curves = {model: curve(trials, model, kind) for model in models}
        if any(points for model, points in curves.items() if model != STILL):
            rows = {
                f"{m}, {p.amount:.1f}": p.metrics for m, points in curves.items() for p in points
            }
            parts += [f"## {title}\n", table("model, strength", rows, COLUMNS)]
    return "\n".join(parts)


# --- the figure -----------------------------------------------------------------------------------

ROWS = (  # disturbances that share an axis, and its label
    ((DRIVING, IDENTITY), "sigma of the noise (px at 128)"),
    ((ROTATION, SHEAR), "rotation, or angle of the shear (degrees)"),
    ((YAW,), "|yaw| of the real clips (degrees)"),
)
LINES = (("-", "o"), (":", "^"))  # of the first and the second disturbance of a row


def draw(trials: Sequence[Trial], path: Path, overwrite: bool = False) -> None:
    """Draw the curves as small plots, a column per measure.

    There is a row for noise on landmarks, one for rotation and shear, and one for real poses if
    they differ. Dashed: the still picture. Raises OutputError if the .png cannot be written, or
    matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OutputError(
            f"{path}: the figure needs matplotlib, which is not installed: "
            "pip install 'talkingface[figures]'; the measures themselves are written"
        ) from error
    rows = [row for row in ROWS if any(len(curve(trials, STILL, kind)) > 1 for kind in row[0])]
    rows = [ROWS[0], *(row for row in rows if row is not ROWS[0])]
    figure = Figure(figsize=(3.2 * len(MEASURES) + 2.6, 3.0 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(MEASURES), squeeze=False)
    for panels, (kinds, unit) in zip(grid, rows, strict=True):
        for axes, (measure, name) in zip(panels, MEASURES, strict=True):
            _panel(axes, trials, kinds, measure)
            axes.set_xlabel(unit, fontsize=8)
            axes.set_ylabel(name, fontsize=8)
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.3)
        panels[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=7, frameon=False)
    with media.replacing(path, overwrite) as part, media.writing(path, OSError):
        figure.savefig(part, format="png", dpi=110, metadata={"Software": None})


def _panel(axes: Axes, trials: Sequence[Trial], kinds: Sequence[str], measure: str) -> None:
    """Draw one measure: a line per model and disturbance."""
    models = [m for m in dict.fromkeys(t.model for t in trials) if m != STILL]
    for kind, (line, mark) in zip(kinds, LINES, strict=False):
        for model, colour in zip(models, COLOURS * len(models), strict=False):
            points = curve(trials, model, kind)
            if points:
                x, y = [_degrees(kind, p) for p in points], [p.metrics[measure] for p in points]
                name = f"{model}, {kind}"
                axes.plot(x, y, line, color=colour, marker=mark, markersize=4, label=name)
        points = curve(trials, STILL, kind)
        x, y = [_degrees(kind, p) for p in points], [p.metrics[measure] for p in points]
        if len(points) > 1:
            name = f"still picture, {kind}"
            axes.plot(x, y, "--", color="0.4", marker=mark, markersize=3, label=name)
        elif kind == kinds[0]:  # it uses no landmarks: one line for both
            axes.axhline(y[0], linestyle="--", color="0.4", label="still picture")


def _degrees(kind: str, point: Point) -> float:
    """Return the amount in degrees; of a shear the angle by which it tilts a vertical line."""
    return math.degrees(math.atan(point.amount)) if kind == SHEAR else point.amount
