"""Pictures of a person's mouth, kept while a video is tracked: those that show most teeth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.faces import Face
from talkingface.landmarks import INNER_LIPS, aperture, eye_distance
from talkingface.raster import bounds_around
from talkingface.render.teeth import LUMA
from talkingface.types import Array, Picture

KEPT = 6  # pictures with an open mouth, and one with a closed one
_APART = 10  # frames between two of them
_LEAST_GAP, _ENOUGH = 0.06, 0.22  # eye distances
_TURNED = 25.0  # degrees
_BORDER = 0.25  # of a face's sides, around its mesh
_LARGEST = 640  # pixels: side of a kept picture


@dataclass(frozen=True)
class MouthView:
    """A face at one moment. frame: its number. score: how much it shows; below 0: closed lips.

    picture: (h, w, 3) uint8 RGB, the face alone. mesh: (478, 2) in its pixels.
    """

    frame: int
    score: float
    picture: Picture
    mesh: Array


def view_tensors(views: list[MouthView]) -> dict[str, NDArray[Any]]:
    """Return views as arrays by name, for a file."""
    facts = np.array([(view.frame, view.score) for view in views]).reshape(-1, 2)
    out: dict[str, NDArray[Any]] = {"views": facts}
    for number, view in enumerate(views):
        out[f"view{number}"], out[f"view_mesh{number}"] = view.picture, view.mesh
    return out


def views_of(tensors: Mapping[str, NDArray[Any]]) -> list[MouthView]:
    """Return the views of which `view_tensors` made arrays."""
    return [
        MouthView(int(frame), float(score), tensors[f"view{k}"], tensors[f"view_mesh{k}"])
        for k, (frame, score) in enumerate(tensors["views"])
    ]


class MouthViews:
    """The best views of one person's mouth so far."""

    def __init__(self, views: list[MouthView] | None = None) -> None:
        self.views = views or []

    def add(self, frame: int, face: Face, angles: Array, picture: Picture) -> None:
        """Look at the face of a frame, and keep it if it shows more than others.

        angles: yaw, pitch and roll in degrees.
        """
        mesh = face.mesh[:, :2]
        score = _score(picture, mesh) * float(np.abs(angles[:2]).max() < _TURNED)
        near = [v for v in self.views if v.score * score > 0 and frame - v.frame < _APART]
        rivals = near or [v for v in self.views if v.score * score > 0]
        full = bool(near) or len(rivals) >= (KEPT if score > 0 else 1)
        worst = min(rivals, key=lambda view: view.score, default=None)
        if score == 0 or (full and worst is not None and worst.score >= score):
            return
        if full:
            self.views = [view for view in self.views if view is not worst]
        self.views.append(_cut(frame, score, picture, mesh))


def _score(picture: Picture, mesh: Array) -> float:
    """Return how much of the teeth is seen and how clearly; for closed lips how clearly, less 1."""
    unit = float(eye_distance(mesh))
    gap = float(aperture(mesh)) / max(unit, 1.0)
    y0, y1, x0, x1 = bounds_around(mesh[INNER_LIPS], picture.shape)
    light = np.asarray(picture[y0:y1, x0:x1].astype(np.float32) @ LUMA, np.float32)
    detail = float(np.abs(cv2.Laplacian(light, -1)).mean()) / (float(light.mean()) + 8)
    if gap < _LEAST_GAP:
        return -1 + min(detail, 0.9)
    inside = np.zeros(light.shape, np.uint8)
    ring = np.rint((mesh[INNER_LIPS] - [x0, y0]) * 16).astype(np.int32)
    cv2.fillPoly(inside, [ring], 1, cv2.LINE_8, 4)
    if not inside.any():
        return 0.0
    bright = float(np.percentile(light[inside > 0], 85)) / 255
    return min(gap / _ENOUGH, 1.0) * bright * (0.2 + detail)


def _cut(frame: int, score: float, picture: Picture, mesh: Array) -> MouthView:
    """Cut the face out of its picture, smaller where it is large."""
    low, high = mesh.min(0), mesh.max(0)
    border = (high - low) * _BORDER
    corners = np.stack([low - border, high + border])
    y0, y1, x0, x1 = bounds_around(corners, picture.shape)
    part, points = picture[y0:y1, x0:x1], mesh - [x0, y0]
    scale = _LARGEST / max(part.shape[:2])
    if scale < 1:
        size = (round(part.shape[1] * scale), round(part.shape[0] * scale))
        small = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        factor = np.array([size[0] / part.shape[1], size[1] / part.shape[0]])
        return MouthView(frame, score, np.asarray(small), (points + 0.5) * factor - 0.5)
    return MouthView(frame, score, part.copy(), points.copy())
