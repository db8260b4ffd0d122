"""Predict the lips of a sound by a model, without any face; shared by the checks of lips.

The expressions of an `ExpressionPredictor` are applied to the mean face. The gap of its inner lips
(aperture) and the distance of its mouth corners (width) are measured in interocular units, per
25 fps frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from talkingface import audio, landmarks, weights
from talkingface.audio import SpeechSpec
from talkingface.contract import MESH_POINTS, predicts_expressions
from talkingface.errors import BadRequest
from talkingface.evaluation.files import Progress
from talkingface.evaluation.jobs import run
from talkingface.evaluation.results import check_rows, named_row
from talkingface.types import Array
from talkingface.weights import WeightsInfo

T = TypeVar("T")
R = TypeVar("R")
CLOSED = 0.04  # interocular units: lips with a smaller gap touch


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


def run_predictors(
    predictors: Sequence[Predictor],
    items: Sequence[T],
    evaluate: Callable[[Predictor, T], Sequence[R]],
    progress: Progress | None,
) -> list[R]:
    """Return the results of every model on every item, model by model."""
    tasks = [(predictor, item) for predictor in predictors for item in items]
    return run(lambda task: evaluate(*task), tasks, progress=progress)
