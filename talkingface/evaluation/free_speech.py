"""Compare predicted lips with real ones on free speech, of people and words outside the training.

A folder holds NAME.flac (or another recording) beside NAME.npz, whose `mesh` (T, 478, 2) is the
speaker's face at 25 fps, aligned, in interocular units. No picture is needed. With a portrait, the
finished video is measured too: it shows the loss of the renderer.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from talkingface import audio, media, video
from talkingface.audio import FPS
from talkingface.contract import MESH_POINTS, Generator
from talkingface.controls import MOUTH_ALONE, Controls
from talkingface.errors import BadRequest, UnreadableMedia
from talkingface.evaluation import detection
from talkingface.evaluation.files import (
    SOUNDS,
    Progress,
    curve,
    numbers,
    prepare_outputs,
    require_folder,
    rounded,
    write_lines,
)
from talkingface.evaluation.predicted_lips import (
    CLOSED,
    Lips,
    Predictor,
    lips_of,
    open_predictors,
    run_predictors,
)
from talkingface.evaluation.tables import (
    Column,
    Row,
    compared,
    grouped,
    legend,
    metric_means,
    metric_sums,
    percent,
    table,
)
from talkingface.landmarks import LEFT_EYE, RIGHT_EYE
from talkingface.metrics import lips as tracked
from talkingface.metrics.lips import EQUAL, amplitude_ratio, correlation
from talkingface.pipeline import TalkingFace
from talkingface.types import Array

RESULTS, TABLES, VIDEOS = "free-speech.jsonl", "free-speech.md", "videos"
REACH = 3  # frames: how far the best lag may be from zero
MAX_DIFFERENCE = FPS  # frames by which the length of a recording may differ from its mesh
MAX_SIDE = 768  # pixels of a finished video
UNIT = (0.5, 2.0)  # the eye centres of meshes in interocular units are about 1 apart

COLUMNS: tuple[Column, ...] = (
    ("recordings", "recordings", 0),
    ("aperture corr.", "correlation", 3),
    ("best in ±3", "best_correlation", 3),
    ("at lag", "lag", 2),
    ("width corr.", "width_correlation", 3),
    ("best in ±3", "width_best_correlation", 3),
    ("at lag", "width_lag", 2),
)
CLOSURE_COLUMNS: tuple[Column, ...] = (
    ("amplitude", "amplitude", 2),
    ("closed when really closed %", "closed_found", 1),
    ("at best lag %", "closed_found_best", 1),
    ("closed, predicted %", "closed_predicted", 1),
    ("closed, real %", "closed_real", 1),
)
VIDEO_COLUMNS: tuple[Column, ...] = (
    ("video vs. predicted corr.", "video_predicted_correlation", 3),
    ("amplitude", "video_predicted_amplitude", 2),
    ("closed when predicted closed %", "video_predicted_closed_found", 1),
    ("video vs. real corr.", "video_correlation", 3),
    ("best in ±3", "video_best_correlation", 3),
    ("amplitude", "video_amplitude", 2),
    ("closed when really closed %", "video_closed_found", 1),
    ("frames without face %", "video_missed", 1),
)
CAPTION = (
    "Aperture: gap of the inner lips; width: distance of the mouth corners; both in interocular "
    f'units. "best in ±{REACH}": the largest correlation when the prediction is moved by at most '
    f"{REACH} frames; a positive lag: the prediction comes late. Closed: a gap below {CLOSED}. "
    "Amplitude: the standard deviation of the predicted aperture over that of the real one. Every "
    "number is a mean over recordings."
)
VIDEO_CAPTION = (
    "The finished videos of one portrait: the aperture is found again in the written frames by "
    "the package's own tracker, in distances of the portrait's eye centres. What is missing to 1 "
    'in the columns "video vs. predicted" is what the renderer loses.'
)
PERCENT = {
    *("closed_found", "closed_found_best", "closed_predicted", "closed_real"),
    *("video_closed_found", "video_predicted_closed_found", "video_missed"),
}


@dataclass(frozen=True)
class Recording:
    """A recording and the meshes of its speaker. mesh: a .npz file."""

    name: str
    sound: Path
    mesh: Path


@dataclass(frozen=True)
class FreeSpeechResult:
    """Result of one model on one recording: a line of `RESULTS`.

    metrics: see `compare` and `compare_video`; None is undefined. Curves: per frame, interocular
    units, None where no face was found. video_aperture: [] where no video was made.
    """

    model: str
    sha256: str
    recording: str
    frames: int
    metrics: dict[str, float | None]
    aperture: list[float | None]
    real_aperture: list[float | None]
    width: list[float | None]
    real_width: list[float | None]
    video_aperture: list[float | None] = field(default_factory=list)


def evaluate_free_speech(
    models: Sequence[str] | None,
    folder: Path,
    out: Path,
    *,
    portrait: Path | None = None,
    controls: Controls = MOUTH_ALONE,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[FreeSpeechResult]:
    """Measure models on the recordings of a folder; write `RESULTS` and `TABLES` into `out`.

    models: see `open_predictors`. portrait: a picture that speaks every recording; its videos are
    kept in the folder `VIDEOS`. controls: its motion beside speech. The same arguments give
    the same bytes. Raises BadRequest, UnreadableMedia, UnknownModel, BadWeights, OutputError,
    NoFaceFound (the portrait).
    """
    recordings = find_recordings(folder)
    predictors = open_predictors(models, device)
    if portrait is not None:
        media.require_file(portrait, "a picture with a face")
        for predictor in predictors:
            _require_generator(predictor)
    prepare_outputs(out, (RESULTS, TABLES), overwrite)
    if portrait is not None:
        names = [_video_name(model, one) for model in predictors for one in recordings]
        prepare_outputs(out / VIDEOS, names, overwrite)
    meshes = [read_mesh(one.mesh) for one in recordings]  # errors are raised before the work

    def evaluate(predictor: Predictor, item: tuple[Recording, Array]) -> list[FreeSpeechResult]:
        result = _evaluate(predictor, *item)
        if portrait is None:
            return [result]
        return [_with_video(predictor, item[0], result, portrait, out / VIDEOS, controls)]

    items = list(zip(recordings, meshes, strict=True))
    results = run_predictors(predictors, items, evaluate, progress)
    write_lines(out / RESULTS, results, overwrite)
    media.write_text(out / TABLES, markdown(results), overwrite)
    return results


# --- files ----------------------------------------------------------------------------------------


def find_recordings(folder: Path) -> list[Recording]:
    """Return the recordings of a folder with their meshes, by name. Raises BadRequest."""
    require_folder(folder, "NAME.flac and NAME.npz of every recording")
    files = sorted(folder.iterdir())
    meshes = [path for path in files if path.suffix == ".npz"]
    if not meshes:
        raise BadRequest(
            f"{folder}: holds no .npz file; expected NAME.npz (its `mesh`: {_shape()}, 25 fps) "
            "beside NAME.flac"
        )
    found = []
    for mesh in meshes:
        sounds = [p for p in files if p.stem == mesh.stem and p.suffix.lower() in SOUNDS]
        if len(sounds) != 1:
            names = ", ".join(path.name for path in sounds) or "none"
            raise BadRequest(
                f"{mesh}: needs exactly one recording {mesh.stem}.flac (or {', '.join(SOUNDS)}) "
                f"beside it; found {names}"
            )
        found.append(Recording(mesh.stem, sounds[0], mesh))
    return found


def _shape() -> str:
    return f"(T, {MESH_POINTS}, 2)"


def read_mesh(path: Path) -> Array:
    """Read the meshes (T, 478, 2) of a .npz file. Raises UnreadableMedia, which names its content.

    A frame in which no face was found is NaN.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = sorted(file.files)
            mesh = np.asarray(file["mesh"], dtype=np.float64) if "mesh" in names else None
    except (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise UnreadableMedia(
            f"{path}: no readable .npz file ({' '.join(str(error).split())[:80]}); expected one "
            f"with `mesh`, {_shape()}"
        ) from error
    if mesh is None:
        found = ", ".join(names) or "nothing"
        raise UnreadableMedia(f"{path}: holds {found}; expected `mesh`, {_shape()}")
    if mesh.ndim != 3 or mesh.shape[1:] != (MESH_POINTS, 2) or len(mesh) < 2:
        raise UnreadableMedia(f"{path}: its `mesh` is {mesh.shape}; expected {_shape()}")
    seen = mesh[np.isfinite(mesh).all((1, 2))]
    left, right = (seen[:, list(corners)].mean(1) for corners in (LEFT_EYE, RIGHT_EYE))
    apart = float(np.median(np.linalg.norm(left - right, axis=-1))) if len(seen) else math.nan
    if not UNIT[0] < apart < UNIT[1]:
        raise UnreadableMedia(
            f"{path}: the eye centres of its `mesh` are {apart:.3g} apart; expected about 1, "
            "interocular units of the aligned face"
        )
    return mesh


# --- one recording --------------------------------------------------------------------------------


def _evaluate(predictor: Predictor, recording: Recording, mesh: Array) -> FreeSpeechResult:
    predicted, real = predictor.predict(audio.load(recording.sound)), lips_of(mesh)
    lengths = (len(predicted.aperture), len(real.aperture))
    if abs(lengths[0] - lengths[1]) > MAX_DIFFERENCE:
        raise BadRequest(
            f"{recording.sound}: lasts {lengths[0]} frames at 25 fps, {recording.mesh.name} has "
            f"{lengths[1]}; expected as many, give or take {MAX_DIFFERENCE}"
        )
    frames = min(lengths)
    predicted, real = (Lips(x.aperture[:frames], x.width[:frames]) for x in (predicted, real))
    return FreeSpeechResult(
        predictor.name,
        predictor.info.sha256,
        recording.name,
        frames,
        numbers(compare(predicted, real)),
        rounded(predicted.aperture),
        rounded(real.aperture),
        rounded(predicted.width),
        rounded(real.width),
    )


def compare(predicted: Lips, real: Lips) -> dict[str, float]:
    """Measure predicted lips against real ones of as many frames; NaN is undefined.

    correlation, width_correlation: of the curves at zero lag. best_correlation, lag (also width_):
    see `best_lag`. amplitude: the ratio of the apertures' standard deviations. closed_found: the
    share of really closed frames that are predicted closed; closed_found_best: the same at `lag`.
    closed_predicted, closed_real: shares of closed frames.
    """
    lag, best = best_lag(predicted.aperture, real.aperture)
    width_lag, width_best = best_lag(predicted.width, real.width)
    moved = shifted(predicted.aperture, real.aperture, 0 if math.isnan(lag) else int(lag))
    found = np.isfinite(real.aperture)
    return {
        "correlation": correlation(predicted.aperture, real.aperture),
        "best_correlation": best,
        "lag": lag,
        "width_correlation": correlation(predicted.width, real.width),
        "width_best_correlation": width_best,
        "width_lag": width_lag,
        "amplitude": amplitude_ratio(predicted.aperture, real.aperture),
        "closed_found": closed_found(predicted.aperture, real.aperture),
        "closed_found_best": closed_found(*moved),
        "closed_predicted": _share(predicted.aperture[found] < CLOSED),
        "closed_real": _share(real.aperture[found] < CLOSED),
    }


def shifted(predicted: Array, real: Array, lag: int) -> tuple[Array, Array]:
    """Return the common frames of two curves (T,) after the lag of the predicted one is removed."""
    late, on_time = predicted[max(0, lag) :], real[max(0, -lag) :]
    common = min(len(late), len(on_time))
    return late[:common], on_time[:common]


def best_lag(predicted: Array, real: Array, reach: int = REACH) -> tuple[float, float]:
    """Return the lag of the predicted curve in frames (positive is late), and its correlation.

    It is the lag within ±`reach` with the largest correlation, which may be negative; of equals the
    smallest, of +k and -k the early one. NaN for both if no correlation is defined.
    """
    best, found = math.nan, -math.inf
    for lag in sorted(range(-reach, reach + 1), key=abs):
        likeness = correlation(*shifted(predicted, real, lag))
        if likeness > found + EQUAL:
            best, found = float(lag), likeness
    return best, found if math.isfinite(found) else math.nan


def closed_found(predicted: Array, real: Array) -> float:
    """Return the share of closed frames of one curve (T,) that are closed in the other.

    Frames that are NaN in either do not count; NaN if none is closed.
    """
    known = np.isfinite(predicted) & np.isfinite(real)
    return _share(predicted[known & (real < CLOSED)] < CLOSED)


def _share(which: np.ndarray) -> float:
    return float(which.mean()) if len(which) else math.nan


# --- finished videos ------------------------------------------------------------------------------


def _require_generator(predictor: Predictor) -> None:
    if not isinstance(predictor.model, Generator):
        raise BadRequest(
            f"{predictor.name}: a {predictor.info.family} makes no video; leave --video, or give a "
            "generator"
        )


def _video_name(predictor: Predictor, recording: Recording) -> str:
    return f"{predictor.name}-{recording.name}.mp4"


def _with_video(
    predictor: Predictor,
    recording: Recording,
    result: FreeSpeechResult,
    portrait: Path,
    folder: Path,
    controls: Controls,
) -> FreeSpeechResult:
    """Make the finished video; return the result with its measures added."""
    path = folder / _video_name(predictor, recording)
    generator: Any = predictor.model
    made = TalkingFace(generator, predictor.info).generate(
        portrait, recording.sound, controls=controls, max_size=MAX_SIDE
    )
    made.save(path, overwrite=True)
    aperture = video_aperture(path)[: result.frames]
    measured = compare_video(aperture, curve(result.aperture), curve(result.real_aperture))
    metrics = {**result.metrics, **numbers(measured)}
    return replace(result, metrics=metrics, video_aperture=rounded(aperture))


def video_aperture(path: Path) -> Array:
    """Measure the aperture (T,) of the face in every frame of a video; NaN if no face is found.

    In distances of the eye centres.
    """
    return tracked.aperture(detection.detect(video.read_frames(path)))


def compare_video(video: Array, predicted: Array, real: Array) -> dict[str, float]:
    """Measure the aperture (T,) of a video against the predicted and the real one.

    Names begin with video_predicted_ and video_. video_missed: the share of frames without a face.
    """
    _, best = best_lag(video, real)
    return {
        "video_predicted_correlation": correlation(video, predicted),
        "video_predicted_amplitude": amplitude_ratio(video, predicted),
        "video_predicted_closed_found": closed_found(video, predicted),
        "video_correlation": correlation(video, real),
        "video_best_correlation": best,
        "video_amplitude": amplitude_ratio(video, real),
        "video_closed_found": closed_found(video, real),
        "video_missed": _share(~np.isfinite(video)),
    }


# --- tables ---------------------------------------------------------------------------------------


def markdown(results: Sequence[FreeSpeechResult]) -> str:
    """Write the tables of results as Markdown; stars compare with the first model."""
    groups = grouped(results, lambda r: r.model)
    first = results[0].model
    rows = {model: _row(own, groups[first]) for model, own in groups.items()}
    parts = [
        "# Lips on free speech\n",
        f"{CAPTION}\n",
        legend(first if len(groups) > 1 else None, "recordings") + "\n",
        table("model", rows, COLUMNS),
        table("model", rows, CLOSURE_COLUMNS),
    ]
    if any(result.video_aperture for result in results):
        parts += [f"## In the finished video\n\n{VIDEO_CAPTION}\n"]
        parts += [table("model", rows, VIDEO_COLUMNS)]
    each = {f"{r.model}, {r.recording}": percent(r.metrics, PERCENT) for r in results}
    columns = [*COLUMNS[1:], *CLOSURE_COLUMNS]
    parts += ["## Each recording\n", table("model, recording", each, columns, "---")]
    return "\n".join(parts)


def _row(results: Sequence[FreeSpeechResult], reference: Sequence[FreeSpeechResult]) -> Row:
    """Return the means of one model's results. reference: the results that stars compare with."""
    row = compared(results, reference, metric_means, metric_sums, lambda r: r.recording)
    return {**percent(row, PERCENT), "recordings": float(len(results))}
