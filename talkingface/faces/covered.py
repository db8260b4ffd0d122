"""Tell whether something lies before the mouth of a picture: a hand, a microphone, a mask.

The line between the lips, or an open mouth, is darker than the lips, and teeth are lighter. Where
the mesh has that line and the picture is even, something else is seen there.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.types import Picture

# Mesh points above and below the line between the lips, and on the lips' outer edges.
_UPPER, _LOWER = (81, 82, 13, 312, 311), (178, 87, 14, 317, 402)
_LIPS = (40, 37, 0, 267, 270, 91, 84, 17, 314, 321)
_CHEEKS = (50, 280, 205, 425, 5)
_REACH = 2 / 128  # of the crop's side, beyond those points
_LEAST = 0.06  # of the skin's lightness (docs/log.md, 2026-11-30)
NOTE = (
    "something seems to lie before the mouth (a hand, a microphone, a mask): it will move with the "
    "lips; a picture with a free mouth speaks better"
)


def covered_mouth(crop: Picture, mesh: NDArray[np.float32]) -> str | None:
    """Return a warning if the mouth seems to be covered; else None.

    crop: (S, S, 3) uint8 RGB. mesh: (478, 2) in [0, 1] of the crop.
    """
    return NOTE if mouth_line(crop, mesh) < _LEAST else None


def mouth_line(crop: Picture, mesh: NDArray[np.float32]) -> float:
    """Contrast of the line between the lips: its lightness against theirs, by the skin's."""
    lab: NDArray[Any] = cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    light: NDArray[Any] = cv2.GaussianBlur(lab[..., 0], (0, 0), crop.shape[0] / 160)
    lips = [
        _light(light, (mesh[a] + mesh[b]) / 2) for a, b in zip(_LIPS, _UPPER + _LOWER, strict=True)
    ]
    depths = []
    for upper, lower in zip(_UPPER, _LOWER, strict=True):
        steps = np.linspace(-_REACH, _REACH + float(mesh[lower, 1] - mesh[upper, 1]), 12)
        across = (mesh[upper, 0] + mesh[lower, 0]) / 2
        line = [_light(light, np.array([across, mesh[upper, 1] + step])) for step in steps]
        depths.append(float(np.abs(np.array(line) - np.median(lips)).max()))
    skin = np.median([_light(light, mesh[point]) for point in _CHEEKS])
    return float(np.mean(depths) / max(skin, 1.0))


def _light(light: NDArray[Any], point: NDArray[Any]) -> float:
    x, y = np.clip(np.rint(point * len(light) - 0.5), 0, len(light) - 1).astype(int)
    return float(light[y, x])
