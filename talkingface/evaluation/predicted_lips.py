"""Predict the lips of a sound by a model, without any face; shared by the checks of lips.

The expressions of an `ExpressionPredictor` are applied to the mean face. The gap of its inner lips
(aperture) and the distance of its mouth corners (width) are measured in interocular units, per
25 fps frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from talkingface import audio, landmarks, media, weights
from talkingface.audio import SpeechSpec
from talkingface.contract import MESH_POINTS, predicts_expressions
from talkingface.errors import BadRequest
from talkingface.evaluation import intervals
from talkingface.evaluation.intervals import LEVEL, RESAMPLES, Sums
from talkingface.evaluation.results import check_rows, named_row
from talkingface.evaluation.tables import FEW, Estimate, mean
from talkingface.weights import WeightsInfo

Array = NDArray[np.float64]
CLOSED = 0.04  # interocular units: lips with a smaller gap touch
SOUNDS = (".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav", ".webm")


@dataclass(frozen=True)
class Lips:
    """Curves (T,) in interocular units, one value per video frame."""

    aperture: Array
    width: Array


@dataclass(frozen=True)
class Predictor:
    """A model that predicts lips. name: of its row. model: also an `ExpressionPredictor`."""

    name: str
    model: nn.Module
    info: WeightsInfo
    device: torch.device

    @torch.inference_mode()
    def predict(self, sound: Tensor) -> Lips:
        """Predict the lips of a sound (N,) at 16 kHz. Raises BadRequest for a wrong mesh."""
        predictor: Any = self.model
        spec: SpeechSpec = predictor.config.speech
        speech = audio.windows(sound, spec)[None].to(self.device)
        expressions, _ = predictor.predict_expression(speech)
        mesh = torch.as_tensor(predictor.space.mesh(expressions[0])).double().cpu().numpy()
        if mesh.shape != (speech.shape[1], MESH_POINTS, 2):
            raise BadRequest(
                f"{self.name}: its meshes are {mesh.shape}, expected "
                f"{(speech.shape[1], MESH_POINTS, 2)}"
            )
        return lips_of(mesh)


def lips_of(mesh: NDArray[Any]) -> Lips:
    """Measure aperture and width of meshes (T, 478, 2)."""
    points = mesh.astype(np.float64)
    return Lips(landmarks.aperture(points), landmarks.width(points))


def open_predictors(models: Sequence[str] | None, device: str = "cpu") -> list[Predictor]:
    """Open models by name or weights file; ROW=FILE calls the row ROW.

    models: None takes every model of the package that predicts expressions. Raises BadRequest (a
    model that predicts none, two rows of one name), UnknownModel, BadWeights.
    """
    if models is None:
        known = [info.name for info in weights.listing() if info.path is not None]
        opened = [_open(name, device) for name in known]
        found = [one for one in opened if predicts_expressions(one.model)]
        if not found:
            raise BadRequest(
                f"none of {', '.join(known)} predicts expressions from speech alone: give --models "
                "NAME or FILE.safetensors of one that does"
            )
        return found
    predictors = [_open(name, device) for name in models]
    for one in predictors:
        if not predicts_expressions(one.model):
            raise BadRequest(
                f"{one.name}: a {one.info.family} predicts no expressions from speech alone, so "
                "there are no lips to measure without a face: give a model that does, or measure "
                "its videos with --cache or --pairs"
            )
    check_rows(one.name for one in predictors)
    return predictors


def _open(name: str, device: str) -> Predictor:
    label, source = named_row(name)
    model, info = weights.load_with_info(source, device)
    return Predictor(label or info.name, model, info, torch.device(device))


def require_folder(folder: Path, content: str) -> None:
    """Raise BadRequest unless `folder` is one. content: what it should hold, for the message."""
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise BadRequest(f"{folder}: {found}; expected a folder with {content}")


def find_sounds(folder: Path) -> list[Path]:
    """Return the recordings of a folder, by name. Raises BadRequest where there is none."""
    require_folder(folder, "recordings")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SOUNDS)
    if not found:
        raise BadRequest(f"{folder}: holds no recording; expected files {', '.join(SOUNDS)}")
    return found


def prepare_outputs(out: Path, names: Iterable[str], overwrite: bool) -> None:
    """Make the folder `out` and check that these files may be written there. Raises OutputError."""
    with media.writing(out, OSError):
        out.mkdir(parents=True, exist_ok=True)
    for name in names:
        media.check_output(out / name, overwrite)


# --- numbers --------------------------------------------------------------------------------------


def rounded(values: Array) -> list[float | None]:
    """Return a curve for JSON: rounded, None for NaN."""
    return [round(float(value), 5) if math.isfinite(value) else None for value in values]


def mean_estimate(values: Iterable[float | None]) -> Estimate:
    """Return the mean over recordings with its interval; None is a recording without a value."""
    known = list(values)
    return ratio_estimate(per_recording(known), mean(known))


def per_recording(values: Iterable[float | None]) -> Sums:
    """Return the summands of a mean over recordings."""
    return intervals.ratio(np.array([math.nan if v is None else v for v in values], np.float64))


def ratio_estimate(sums: Sums, value: float | None = None) -> Estimate:
    """Return a number with its interval. value: the number [of the sums over all recordings]."""
    if value is None:
        value = float(sums.formula(sums.values.sum(0))) if len(sums.values) else math.nan
    low, high = intervals.interval(sums)
    return Estimate(value, low, high)


def starred(row: Mapping[str, Estimate], names: Iterable[str]) -> dict[str, Estimate]:
    """Return a row in which these numbers carry a star: they differ from the first model's."""
    chosen = set(names)
    return {
        name: Estimate(one.value, one.low, one.high, name in chosen) for name, one in row.items()
    }


def legend(reference: str | None) -> str:
    """Explain intervals and stars, for above a table. reference: the row stars compare with."""
    text = (
        f"[low, high]: {LEVEL:.0%} interval over recordings, bootstrap of {RESAMPLES:,} draws "
        f"(with fewer than {FEW} recordings it is too narrow)."
    )
    if reference is None:
        return text
    return (
        f"{text} *: differs from {reference} (the interval of the difference, on the same "
        "recordings, excludes 0)."
    )
