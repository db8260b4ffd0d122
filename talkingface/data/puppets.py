"""Puppets: still portraits whose mouth moves as a speaker's does, so that more faces speak.

The portrait is bent by two smooth fields, one that follows the upper lip and one that follows the
lower, met where the lips meet: the mouth opens instead of stretching. What shows between the lips
is the speaker's own.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from talkingface.contract import INNER_BOTTOM, INNER_TOP
from talkingface.faces.interpolation import mesh_from_landmarks
from talkingface.landmarks import IBUG, NOSE_BASE, reference_mesh
from talkingface.models.window import SPEAKING

Frames = NDArray[np.uint8]
Picture = NDArray[np.uint8]
Points = NDArray[np.float32]
Floats = NDArray[np.float64]
Steps = NDArray[np.float32]

# More than this between the inner lips, of the crop's side, shows teeth that cannot be closed.
CLOSED_GAP = 1.5 / 128
# Nose to either side of the face, difference over sum: beyond this the far lips are hidden.
TURNED = 0.4
# Inner lips: corner, three points above, corner; and the three below, left to right.
UPPER, LOWER = np.array([60, 61, 62, 63, 64]), np.array([60, 67, 66, 65, 64])
INNER = np.arange(60, 68)
MOVING = np.array(SPEAKING)
STILL = np.array([0, 1, 2, 3, 13, 14, 15, 16, 17, 21, 22, 26, *range(27, 31), 36, 39, 42, 45])
# Whom each field follows: all but the other lip.
UPPER_FIELD = np.array([*range(4, 13), *range(48, 55), *range(60, 65), 31, 33, 35])
LOWER_FIELD = np.array([*range(4, 13), 48, *range(54, 61), *range(64, 68), 31, 33, 35])
SOFTNESS = 2.0  # pixels at 128 over which a field is rounded at its points
SLACK = 0.05  # pixels at 128
COARSE = 40  # the fields are solved on a grid of this side, then interpolated
LUMINANCE = np.array([0.299, 0.587, 0.114])
FEATHER = 4  # the mouth's outline is drawn this much larger, then averaged: an edge of one pixel


def can_speak(landmarks: Points) -> NDArray[np.bool_]:
    """(..., 68, 2) in [0, 1] of the crop -> (...): are the lips (nearly) closed, the face ahead?"""
    gap = landmarks[..., INNER_BOTTOM, 1] - landmarks[..., INNER_TOP, 1]
    left = np.linalg.norm(landmarks[..., 30, :] - landmarks[..., 2, :], axis=-1)
    right = np.linalg.norm(landmarks[..., 30, :] - landmarks[..., 14, :], axis=-1)
    return np.asarray((gap < CLOSED_GAP) & (np.abs(left - right) <= TURNED * (left + right)))


def closed_mouth(landmarks: Points) -> Points:
    """A clip's (T, 68, 2) landmarks -> (68, 2): the mean of its most closed tenth."""
    gap = landmarks[:, INNER_BOTTOM, 1] - landmarks[:, INNER_TOP, 1]
    order = np.argsort(gap, kind="stable")[: max(1, len(gap) // 10)]
    return np.asarray(landmarks[order].mean(0), dtype=np.float32)


def move_landmarks(portrait: Points, driver: Points, neutral: Points) -> Points:
    """(68, 2), (T, 68, 2), (68, 2) -> (T, 68, 2): the portrait's lips and jaw, moved as the driver.

    The driver's displacement from its neutral, scaled by the ratio of the mouths' widths; inner
    lips that would cross meet half-way.
    """
    scale = _mouth_width(portrait) / max(_mouth_width(neutral), 1e-3)
    out = np.repeat(portrait[None], len(driver), axis=0).astype(np.float64)
    out[:, MOVING] += scale * (driver[:, MOVING] - neutral[MOVING])
    above, below = UPPER[1:-1], LOWER[1:-1]
    own = np.minimum(portrait[below, 1] - portrait[above, 1], 0)  # a detector's own noise stays
    crossed = np.maximum(own - (out[:, below, 1] - out[:, above, 1]), 0) / 2
    out[:, above, 1] -= crossed
    out[:, below, 1] += crossed
    return out.astype(np.float32)


def move_mesh(mesh: Points, moved: Points) -> Points:
    """Move a portrait's mesh (478, 2) to where its landmarks went, (T, 68, 2): (T, 478, 2).

    Exact at the landmarks; their steps reach the other points as `mesh_from_landmarks` spreads
    them, faded out towards the eyes as in the picture. What is the face's own stays.
    """
    known = np.concatenate([mesh[None, IBUG], moved])
    laid = mesh_from_landmarks(torch.from_numpy(known)).numpy()
    out = mesh + (laid[1:] - laid[0]) * _fade()
    out[:, IBUG] = moved
    return np.asarray(out, dtype=np.float32)


@cache
def _fade() -> Points:
    """Which part of a step reaches each point, (478, 1): none at the eyes, all below the nose."""
    height = reference_mesh()[:, 1:]
    eyes, nose = height[IBUG[36:48]].max(), height[NOSE_BASE]
    return np.asarray(np.clip((height - eyes) / (nose - eyes), 0, 1), dtype=np.float32)


def animate(
    portrait: Picture, own: Points, driver: Frames, driver_landmarks: Points, neutral: Points
) -> tuple[Frames, Points]:
    """The portrait speaks as the driver does.

    portrait: (S, S, 3) uint8, an aligned crop with closed lips (`can_speak`); own: its (68, 2) in
    [0, 1]. driver: (T, S, S, 3) uint8 and (T, 68, 2); neutral: (68, 2), the driver at rest
    (`closed_mouth`). Returns (T, S, S, 3) uint8 frames and their (T, 68, 2) float32 landmarks.
    """
    size = portrait.shape[0]
    moved = move_landmarks(own, driver_landmarks, neutral)
    here, there = own.astype(np.float64) * size, moved.astype(np.float64) * size
    seen = driver_landmarks.astype(np.float64) * size
    upper, lower = _Field(here, UPPER_FIELD, size), _Field(here, LOWER_FIELD, size)
    gain = _light_ratio(portrait, here, driver, seen)
    out = np.empty((len(there), *portrait.shape), np.uint8)
    for t, target in enumerate(there):
        bent = _bend(portrait, target, upper(target), lower(target))
        out[t] = _open(bent, here, target, driver[t], seen[t], gain)
    return out, moved


def _mouth_width(landmarks: Points) -> float:
    return float(np.linalg.norm(landmarks[54] - landmarks[48]))


class _Field:
    """From a target's pixel to its source, for points that follow: what a portrait keeps of it.

    Multiquadric interpolation of the points' steps: exact at the points (to SLACK), still at the
    fixed points and the border, and faded out towards the eyes.
    """

    def __init__(self, here: Floats, follow: NDArray[np.int64], size: int) -> None:
        """here: (68, 2) the portrait's landmarks in pixels; follow: which of them move."""
        self._here, self._follow, self._unit = here[follow], follow, size / 128
        edge, zero, full = np.linspace(0, size - 1, 6), np.zeros(6), np.full(6, size - 1.0)
        sides = [np.stack(s, 1) for s in ((zero, edge), (full, edge), (edge, zero), (edge, full))]
        self._fixed = np.concatenate([np.unique(np.concatenate(sides), axis=0), here[STILL]])
        eyes, nose = here[36:48, 1].max() + 2 * self._unit, here[33, 1]
        line = np.linspace(0, size - 1, COARSE)
        fade = np.clip((line - eyes) / max(nose - eyes, 1.0), 0, 1)
        self._first = int(np.argmax(fade > 0))  # above, nothing moves
        self._fade = fade[self._first :, None, None]
        self._grid = np.stack(np.meshgrid(line, line[self._first :]), axis=-1).reshape(-1, 2)
        self._seen = _kernel(self._grid, self._fixed, self._unit)
        self._among = _kernel(self._fixed, self._fixed, self._unit)

    def __call__(self, target: Floats) -> Steps:
        """(68, 2) pixels -> (COARSE, COARSE, 2) steps in pixels."""
        there = target[self._follow]
        cross = _kernel(there, self._fixed, self._unit)
        kernel = np.block([[_kernel(there, there, self._unit), cross], [cross.T, self._among]])
        kernel -= SLACK * self._unit * np.eye(len(kernel))  # two in one place may disagree
        steps = np.zeros((len(kernel), 2))
        steps[: len(there)] = self._here - there
        weights = np.linalg.solve(kernel, steps)
        field = _kernel(self._grid, there, self._unit) @ weights[: len(there)]
        field += self._seen @ weights[len(there) :]
        out = np.zeros((COARSE, COARSE, 2), np.float32)
        out[self._first :] = field.reshape(-1, COARSE, 2) * self._fade
        return out


def _kernel(a: Floats, b: Floats, unit: float) -> Floats:
    """(N, 2), (M, 2) -> (N, M): distance, rounded near zero."""
    squares = (a[:, None, 0] - b[:, 0]) ** 2 + (a[:, None, 1] - b[:, 1]) ** 2
    return np.asarray(np.sqrt(squares + (SOFTNESS * unit) ** 2))


def _bend(portrait: Picture, target: Floats, upper: Steps, lower: Steps) -> Picture:
    """The portrait, its upper part by the upper field and its lower by the lower."""
    size = portrait.shape[0]
    line = np.arange(size, dtype=np.float32)
    middle = (target[UPPER] + target[LOWER]) / 2
    left, right = middle[0], middle[-1]
    slope = (right[1] - left[1]) / max(right[0] - left[0], 1.0)
    outside = np.maximum(np.maximum(left[0] - line, line - right[0]), 0)
    lips = np.interp(line, middle[:, 0], middle[:, 1])
    lips += slope * (np.maximum(line - right[0], 0) - np.maximum(left[0] - line, 0))
    soft = 0.5 + 0.5 * outside  # beyond the corners the two fields pass into each other
    below = np.clip((line[:, None] - lips) / (2 * soft) + 0.5, 0, 1).astype(np.float32)[..., None]
    fields = [_upsample(f, size) for f in (upper, lower)]
    step = fields[0] + below * (fields[1] - fields[0])
    step[..., 0] += line
    step[..., 1] += line[:, None]
    out = cv2.remap(portrait, step, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return np.asarray(out, dtype=np.uint8)


def _upsample(field: Steps, size: int) -> Steps:
    """(COARSE, COARSE, 2) -> (S, S, 2), corner on corner."""
    scale = (COARSE - 1) / (size - 1)
    matrix = np.array([[scale, 0.0, 0.0], [0.0, scale, 0.0]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    out = cv2.warpAffine(field, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out, dtype=np.float32)


def _open(
    bent: Picture, here: Floats, target: Floats, driver: Picture, seen: Floats, gain: Floats
) -> Picture:
    """What shows between the driver's lips, between the target's."""
    size = bent.shape[0]
    opened = (_gaps(target) - _gaps(here)).max() * 128 / size
    strength = float(np.clip((opened - 0.4) / 0.8, 0, 1))
    if strength == 0.0:
        return bent
    outline = np.concatenate([target[UPPER], target[LOWER[1:-1]][::-1]])
    low = np.maximum(np.floor(outline.min(0)).astype(int) - 2, 0)
    high = np.minimum(np.ceil(outline.max(0)).astype(int) + 3, size)
    width, height = (int(n) for n in high - low)
    large = np.zeros((height * FEATHER, width * FEATHER), np.float32)
    corners = np.rint(((outline - low + 0.5) * FEATHER - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(large, [corners], strength, shift=4)
    mask = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)[..., None]
    matrix = _affine(seen[INNER], target[INNER] - low)
    inside = cv2.warpAffine(
        driver, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    region = (slice(low[1], high[1]), slice(low[0], high[0]))
    mixed = bent[region] * (1 - mask) + np.minimum(inside * gain, 255) * mask
    bent[region] = np.rint(mixed).astype(np.uint8)
    return bent


def _gaps(points: Floats) -> Floats:
    return np.asarray(points[LOWER[1:-1], 1] - points[UPPER[1:-1], 1])


def _affine(source: Floats, target: Floats) -> Floats:
    """The (2, 3) affine map of (N, 2) to (N, 2); where the points are flat, closest to the width's

    scale: a nearly closed mouth says nothing of its height.
    """
    start, end = source.mean(0), target.mean(0)
    a, b = source - start, target - end
    scale = np.sqrt((b[:, 0] ** 2).sum() / max((a[:, 0] ** 2).sum(), 1e-6))
    ridge = np.eye(2)
    linear = np.linalg.solve(a.T @ a + ridge, a.T @ b + ridge * scale).T
    return np.column_stack([linear, end - linear @ start])


def _light_ratio(portrait: Picture, here: Floats, driver: Frames, seen: Floats) -> Floats:
    """(3,) gains that bring the driver's light to the portrait's, by the skin near the mouth.

    Luminance within 0.6 to 1.4; colour (a yellow lamp makes yellow teeth) by part:
    skin has a colour of its own, which is not the lamp's.
    """
    wanted, given = _skin(portrait, here), _skin(driver[0], seen[0])
    ratio = wanted / np.maximum(given, 1.0)
    light = (wanted @ LUMINANCE) / max(float(given @ LUMINANCE), 1.0)
    return np.asarray(np.clip(ratio / max(light, 1e-3), 0.5, 2.0) ** 0.6 * np.clip(light, 0.6, 1.4))


def _skin(picture: Picture, points: Floats) -> Floats:
    """(3,) mean of four patches: under the nose, of the chin, and beside the mouth."""
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
