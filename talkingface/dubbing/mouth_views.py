"""Pictures of a person's mouth, kept while a video is tracked: those that show most teeth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.faces import Face
from talkingface.landmarks import INNER_LIPS, OUTER_LIPS, aperture, eye_distance
from talkingface.raster import bounds_around
from talkingface.render.teeth import LUMA
from talkingface.types import Array, Picture

KEPT = 6  # pictures with an open mouth, and one with a closed one
_APART = 10  # frames between two of them
_LEAST_GAP = 0.06  # eye distances
_BRIGHT = 0.6  # of the light of the lips
_PALE, _RED = 0.93, 1.0  # of the lips' red beside green and blue
_LIPS = (INNER_LIPS, OUTER_LIPS)
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
        score = tooth_score(picture, mesh) * float(np.abs(angles[:2]).max() < _TURNED)
        near = [v for v in self.views if v.score * score > 0 and frame - v.frame < _APART]
        rivals = near or [v for v in self.views if v.score * score > 0]
        full = bool(near) or len(rivals) >= (KEPT if score > 0 else 1)
        worst = min(rivals, key=lambda view: view.score, default=None)
        if score == 0 or (full and worst is not None and worst.score >= score):
            return
        if full:
            self.views = [view for view in self.views if view is not worst]
        self.views.append(_cut(frame, score, picture, mesh))


def tooth_score(picture: Picture, mesh: Array) -> float:
    """Return how much of the teeth is seen and how clearly; for closed lips how clearly, less 1.

    Teeth are the bright pixels between the lips that are less red than the lips; those as red, of
    gums and tongue, or of lips that were taken for the opening, count against them.
    """
    unit = max(1.0, float(eye_distance(mesh)))
    y0, y1, x0, x1 = bounds_around(mesh[OUTER_LIPS], picture.shape)
    part = picture[y0:y1, x0:x1].astype(np.float32)
    light, red = part @ LUMA, part[..., 0] / (part[..., 1:].sum(-1) + 1)
    inner, outer = (_inside(mesh[ring] - [x0, y0], light.shape) for ring in _LIPS)
    lips = outer & ~inner
    around = light[outer]
    if not lips.any():
        return 0.0
    detail = float(np.abs(cv2.Laplacian(light, -1))[outer].mean()) / (float(around.mean()) + 8)
    if float(aperture(mesh)) < _LEAST_GAP * unit:
        return -1 + min(detail, 0.9)
    bright = inner & (light > _BRIGHT * float(np.median(light[lips])))
    beside = red / float(np.median(red[lips]))
    seen = float((bright & (beside < _PALE)).sum()) - float((bright & (beside > _RED)).sum())
    return max(0.0, seen) / unit**2 * (0.2 + detail)


def _inside(ring: Array, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the pixels inside a polygon."""
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.rint(ring * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    return np.asarray(mask > 0)


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
