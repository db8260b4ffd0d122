"""Reenacted portraits: still portraits with a speaker's mouth motion, for more faces.

The portrait is warped by its moved mesh, as every face is (`render/`). The inside of the mouth is
that of the speaker.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from talkingface.faces.interpolation import mesh_from_landmarks
from talkingface.landmarks import (
    IBUG,
    INNER_PAIRS,
    INNER_RING,
    INNER_RING_PAIRS,
    JAW_SIDES,
    MOUTH_CORNERS,
    NOSE_BASE,
    NOSE_TIP,
    lip_gap,
    reference_mesh,
)
from talkingface.models.mouth_region import MOUTH_POINTS
from talkingface.render.face import FaceRenderer
from talkingface.render.warp import SURFACE, MeshWarp
from talkingface.types import Array, Bounds, Floats, Frames, Picture

# More than this between the inner lips, of the crop's side, shows teeth that cannot be closed.
CLOSED_GAP = 1.5 / 128
# Nose to either side of the face, difference over sum: beyond this the far lips are hidden.
TURNED = 0.4
MOVING = np.array(MOUTH_POINTS)
# Pixels at 128 of open lips: the inside of the driver's mouth is blended in between these.
PARTING = (0.4, 1.2)
LUMINANCE = np.array([0.299, 0.587, 0.114])


def can_speak(landmarks: Floats) -> NDArray[np.bool_]:
    """Return whether lips are (nearly) closed and the face is frontal, (...) of (..., 68, 2)."""
    gap = lip_gap(landmarks)
    nose = landmarks[..., NOSE_TIP, :]
    left, right = (np.linalg.norm(nose - landmarks[..., side, :], axis=-1) for side in JAW_SIDES)
    return np.asarray((gap < CLOSED_GAP) & (np.abs(left - right) <= TURNED * (left + right)))


def closed_mouth(landmarks: Floats) -> Floats:
    """Return the mean (68, 2) of the most closed tenth of a clip's landmarks (T, 68, 2)."""
    gap = lip_gap(landmarks)
    order = np.argsort(gap, kind="stable")[: max(1, len(gap) // 10)]
    return np.asarray(landmarks[order].mean(0), dtype=np.float32)


def move_landmarks(portrait: Floats, driver: Floats, neutral: Floats) -> Floats:
    """Move the portrait's lips and jaw as the driver: (68, 2), (T, 68, 2), (68, 2) -> (T, 68, 2).

    The driver's displacement from its neutral, scaled by the ratio of the mouths' widths; inner
    lips that would cross meet half-way.
    """
    scale = _mouth_width(portrait) / max(_mouth_width(neutral), 1e-3)
    out = np.repeat(portrait[None], len(driver), axis=0).astype(np.float64)
    out[:, MOVING] += scale * (driver[:, MOVING] - neutral[MOVING])
    _meet(out, portrait, INNER_RING_PAIRS)
    return out.astype(np.float32)


def _meet(moved: Array, still: Floats, pairs: NDArray[np.int64]) -> None:
    """Bring points (T, N, 2) of lips that cross together half-way, in place.

    pairs: (P, 2), upper and lower. A crossing that the portrait has, a detector's own noise, stays.
    """
    above, below = pairs.T
    own = np.minimum(still[below, 1] - still[above, 1], 0)
    crossed = np.maximum(own - (moved[:, below, 1] - moved[:, above, 1]), 0) / 2
    moved[:, above, 1] -= crossed
    moved[:, below, 1] += crossed


def move_mesh(mesh: Floats, moved: Floats) -> Floats:
    """Move a portrait's mesh (478, 2) to where its landmarks went, (T, 68, 2): (T, 478, 2).

    Exact at the landmarks; their steps reach the other points as `mesh_from_landmarks` spreads
    them, faded out towards the eyes. Lips that would cross meet. The face's own shape stays.
    """
    known = np.concatenate([mesh[None, IBUG], moved])
    laid = mesh_from_landmarks(torch.from_numpy(known)).numpy()
    out = mesh + (laid[1:] - laid[0]).astype(np.float64) * _fade()
    _meet(out, mesh, INNER_PAIRS)
    out[:, IBUG] = moved
    return np.asarray(out, dtype=np.float32)


@cache
def _fade() -> Floats:
    """Return the weight of a step at each point, (478, 1): 0 at the eyes, 1 below the nose."""
    height = reference_mesh()[:, 1:]
    eyes, nose = height[IBUG[36:48]].max(), height[NOSE_BASE]
    return np.asarray(np.clip((height - eyes) / (nose - eyes), 0, 1), dtype=np.float32)


@cache
def _moving() -> NDArray[np.int64]:
    """Return the points of a mesh that `move_mesh` may move."""
    return np.flatnonzero(_fade()[:SURFACE, 0] > 0)


def animate(
    portrait: Picture, mesh: Floats, driver: Frames, driver_landmarks: Floats, neutral: Floats
) -> tuple[Frames, Floats]:
    """Reenact a portrait with the mouth motion of a driver.

    portrait: (S, S, 3) uint8, an aligned crop with closed lips (`can_speak`); mesh: its (478, 2) in
    [0, 1]. driver: (T, S, S, 3) uint8 and (T, 68, 2); neutral: (68, 2), the driver at rest
    (`closed_mouth`). Returns (T, S, S, 3) uint8 frames and their (T, 478, 2) float32 meshes.
    """
    size = portrait.shape[0]
    moved = move_mesh(mesh, move_landmarks(mesh[IBUG], driver_landmarks, neutral))
    here, there = mesh.astype(np.float64) * size, moved.astype(np.float64) * size
    mouth = DriverMouth(portrait, here, driver, driver_landmarks.astype(np.float64) * size)
    face = FaceRenderer(portrait, MeshWarp(here, _moving()), mouth)
    out = np.empty((len(there), *portrait.shape), np.uint8)
    for t, target in enumerate(there):
        mouth.frame = t
        out[t] = face.draw(target)
    return out, moved


class DriverMouth:
    """The inside of a reenacted mouth (`render.face.Interior`): that of the driver, in one frame.

    With nearly closed lips it is the portrait's own picture, which shows only lips.
    """

    def __init__(self, portrait: Picture, mesh: Array, driver: Frames, seen: Array) -> None:
        """Estimate the ratio of the two pictures' light.

        portrait: (S, S, 3), mesh: (478, 2) its pixels. driver: (T, S, S, 3), seen: (T, 68, 2) its
        pixels.
        """
        self.frame = 0  # of the driver, for the next `draw`
        self._portrait, self._own, self._driver, self._seen = portrait, mesh[IBUG], driver, seen
        self._gain = _light_ratio(portrait, self._own, driver, seen)

    def draw(self, mesh: Array, box: Bounds) -> NDArray[np.float32]:
        """Draw the inside for a mesh (478, 2) in pixels: a box (h, w, 3) in [0, 255]."""
        target = mesh[IBUG]
        opened = (_gaps(target) - _gaps(self._own)).max() * 128 / len(self._portrait)
        share = float(np.clip((opened - PARTING[0]) / (PARTING[1] - PARTING[0]), 0, 1))
        out = np.zeros((box[1] - box[0], box[3] - box[2], 3), np.float32)
        if share < 1:
            out += (1 - share) * _laid(self._portrait, self._own, target, box)
        if share > 0:
            driver, seen = self._driver[self.frame], self._seen[self.frame]
            out += share * np.minimum(_laid(driver, seen, target, box) * self._gain, 255)
        return out


def _laid(picture: Picture, source: Array, target: Array, box: Bounds) -> Picture:
    """Return a box of the picture, its inner lips moved from source to target, both (68, 2)."""
    y0, y1, x0, x1 = box
    matrix = _affine(source[INNER_RING], target[INNER_RING] - [x0, y0])
    out = cv2.warpAffine(
        picture, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(out, dtype=np.uint8)


def _mouth_width(landmarks: Floats) -> float:
    left, right = MOUTH_CORNERS
    return float(np.linalg.norm(landmarks[right] - landmarks[left]))


def _gaps(points: Array) -> Array:
    upper, lower = INNER_RING_PAIRS.T
    return np.asarray(points[lower, 1] - points[upper, 1])


def _affine(source: Array, target: Array) -> Array:
    """Fit the affine map (2, 3) of (N, 2) to (N, 2), with a prior for flat points.

    The prior is the scale of the width, since a nearly closed mouth does not determine its height.
    """
    start, end = source.mean(0), target.mean(0)
    a, b = source - start, target - end
    scale = np.sqrt((b[:, 0] ** 2).sum() / max((a[:, 0] ** 2).sum(), 1e-6))
    ridge = np.eye(2)
    linear = np.linalg.solve(a.T @ a + ridge, a.T @ b + ridge * scale).T
    return np.column_stack([linear, end - linear @ start])


def _light_ratio(portrait: Picture, here: Array, driver: Frames, seen: Array) -> Array:
    """Return gains (3,) from the driver's light to the portrait's, measured on skin at the mouth.

    Luminance is limited to 0.6 to 1.4. Colour (a yellow lamp makes yellow teeth) is applied in
    part, since skin has a colour of its own.
    """
    wanted, given = _skin(portrait, here), _skin(driver[0], seen[0])
    ratio = wanted / np.maximum(given, 1.0)
    light = (wanted @ LUMINANCE) / max(float(given @ LUMINANCE), 1.0)
    return np.asarray(np.clip(ratio / max(light, 1e-3), 0.5, 2.0) ** 0.6 * np.clip(light, 0.6, 1.4))


def _skin(picture: Picture, points: Array) -> Array:
    """Return the mean colour (3,) of patches under the nose, at the chin and beside the mouth."""
    size = picture.shape[0]
    pairs = ((33, 51, 0.5), (57, 8, 0.5), (48, 4, 0.4), (54, 12, 0.4))
    reach = max(1, round(size / 64))
    values = []
    for a, b, part in pairs:
        x, y = np.rint(points[a] + part * (points[b] - points[a])).astype(int)
        x, y = (int(np.clip(v, reach, size - 1 - reach)) for v in (x, y))
        patch = picture[y - reach : y + reach + 1, x - reach : x + reach + 1]
        values.append(patch.reshape(-1, 3).mean(0))
    return np.asarray(np.mean(values, axis=0))
