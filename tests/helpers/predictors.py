"""A model that predicts lips by a rule that tests know, and sounds that move it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers.media import write_sound
from talkingface.audio import SpeechSpec
from talkingface.contract import State
from talkingface.models.baselines.still import Still, StillConfig
from talkingface.weights import WeightsInfo

NEUTRAL_WIDTH = 0.9
SILENT = float(np.log(1e-4))  # of a log-mel band


def mesh_of(aperture: Any, width: Any) -> Any:
    """Curves (...) to meshes (..., 478, 2), arrays or tensors: eyes 1 apart, these lips."""
    tensor = isinstance(aperture, Tensor)
    gap, across = (torch.as_tensor(curve).double() for curve in (aperture, width))
    mesh = torch.zeros(*gap.shape, 478, 2, dtype=torch.float64)
    mesh[..., [33, 133], 0], mesh[..., [362, 263], 0] = -0.5, 0.5
    mesh[..., :, 1] = -1.0
    mesh[..., 13, 1], mesh[..., 14, 1] = 1 - gap / 2, 1 + gap / 2
    mesh[..., 61, 0], mesh[..., 291, 0] = -across / 2, across / 2
    return mesh if tensor else mesh.numpy()


class Space:
    """Expressions (..., 2) are aperture and width themselves."""

    def mesh(self, expression: Tensor) -> Any:
        return mesh_of(expression[..., 0], expression[..., 1])


class Loudness(Still):
    """The louder a frame, the wider open and the narrower the lips; silence closes them.

    As a generator it shows the portrait, which does not move.
    """

    space = Space()

    def __init__(self) -> None:
        super().__init__(StillConfig("loudness", SpeechSpec("log_mel", 26, 5)))

    def predict_expression(self, speech: Tensor, state: State = None) -> tuple[Tensor, State]:
        loud = (speech[..., speech.shape[-2] // 2, :].mean(-1) - SILENT) / 50
        return torch.stack([loud, NEUTRAL_WIDTH - loud / 2], dim=-1), state


def info(name: str, path: Path | None = None) -> WeightsInfo:
    return WeightsInfo(name, "loudness", path, "abc", "MIT", "", 0)


def syllables(seconds: float, seed: int) -> np.ndarray:
    """Bursts of noise of random loudness, five a second, one in four silent: (N,) at 16 kHz."""
    rng = np.random.default_rng(seed)
    count = round(seconds * 5)
    loud = rng.uniform(0.01, 0.2, count) * (rng.random(count) > 0.25)
    places = np.linspace(0, count - 1, round(seconds * 16_000))
    return np.interp(places, np.arange(count), loud) * rng.standard_normal(len(places)) / 4


def write_speech(path: Path, seconds: float, seed: int) -> Path:
    return write_sound(path, syllables(seconds, seed)[None].astype(np.float32), 16_000, "flac")
