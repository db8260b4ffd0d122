"""Measure finished frames of a portrait: gap of the lips, colour, sharpness, still parts.

Pictures and frames are (H, W, 3) uint8 RGB; a mesh is (478, 2) or (..., 478, 2) in their pixels,
NaN where no face was found. Lengths are in interocular units, colours in levels of 255.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface import landmarks
from talkingface.audio import FPS
from talkingface.evaluation.phone_checks import OPEN, TOLERANCE
from talkingface.evaluation.predicted_lips import CLOSED
from talkingface.landmarks import INNER_LIPS, OUTER_LIPS
from talkingface.types import Array, Picture

Mask = NDArray[np.bool_]

SENTENCES = 2  # for each portrait, chosen by its name
SIZES = (512, 1024, 2048)  # pixels of the longer side at which sharpness is measured
STEP = 5  # frames: sharpness is measured in one of so many
NOISE = -50  # dBFS of the quiet noise
SETTLED = 0.4  # seconds in which silence should close the lips
HULL_MARGIN = 0.1  # by which the face's hull is grown; the background is outside
LIPS_MARGIN = 0.3  # by which the hull of the outer lips is grown to be the mouth region
LIPS_AWAY = 0.6  # the same, for the region left out of the skin between cheeks and chin
ABOVE_EYES = 0.25  # interocular units above the line of the eyes
CHIN_REACH = 0.4  # interocular units by which an opening mouth may move the chin down
SPOT = 0.12  # interocular units: side of the square in which a local change is averaged
FEWEST_PIXELS = 12  # a smaller opening has no colour

# Skin between the cheeks and the chin: along the jaw, and back below the nose. Mesh points.
CHEEKS_TO_CHIN = np.array([
    132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 425, 2, 205,
])  # fmt: skip
SKIN_INSET = 0.08  # by which it is shrunk, so that the edge of the jaw stays outside


# --- lips -----------------------------------------------------------------------------------------


def gap(mesh: Array) -> Array:
    """Return the gap of the inner lips, in interocular units: (..., 478, 2) -> (...)."""
    return np.asarray(landmarks.aperture(mesh) / landmarks.eye_distance(mesh))


def closing(gaps: Array) -> tuple[float, float]:
    """Return whether lips close in time and stay so, from their gaps (T,) since the sound's begin.

    The first is 1.0 if a frame that ends within `SETTLED` seconds has a gap below `CLOSED`, else
    0.0. The second is the share of later frames below it (NaN if there is none). A frame without a
    face is not closed.
    """
    settled = int(SETTLED * FPS + TOLERANCE)
    shut = gaps < CLOSED
    later = shut[settled:]
    return float(shut[:settled].any()), float(later.mean()) if len(later) else math.nan


# --- regions --------------------------------------------------------------------------------------


def polygon_mask(polygon: Array, height: int, width: int) -> Mask:
    """Return which pixel centres (height, width) lie in a polygon (N, 2) of (x, y), even-odd."""
    mask = np.zeros((height, width), dtype=bool)
    low = np.maximum(np.floor(polygon.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(polygon.max(0)).astype(int) + 1, [width, height])
    if (high <= low).any():
        return mask
    x = np.arange(low[0], high[0], dtype=np.float64)[None]
    y = np.arange(low[1], high[1], dtype=np.float64)[:, None]
    part = mask[low[1] : high[1], low[0] : high[0]]
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 != y1:
            part ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return mask


def grown(polygon: Array, margin: float) -> Array:
    """Return a polygon (N, 2) scaled by 1 + margin about the mean of its points."""
    centre = polygon.mean(0)
    return np.asarray(centre + (polygon - centre) * (1 + margin))


def hull(points: Array) -> Array:
    """Return the convex hull (M, 2) of points (N, 2), in order around it."""
    found = cv2.convexHull(points.astype(np.float32))
    return np.asarray(found, dtype=np.float64).reshape(-1, 2)


def opening_mask(mesh: Array, height: int, width: int) -> Mask:
    """Return the pixels (height, width) inside the inner lips."""
    return polygon_mask(mesh[INNER_LIPS], height, width)


def mouth_mask(mesh: Array, height: int, width: int, margin: float = LIPS_MARGIN) -> Mask:
    """Return the mouth region (height, width): the hull of the outer lips grown by `margin`."""
    return polygon_mask(grown(hull(mesh[OUTER_LIPS]), margin), height, width)


def skin_mask(mesh: Array, height: int, width: int) -> Mask:
    """Return the skin (height, width) between cheeks and chin, without the mouth and around it."""
    skin = polygon_mask(grown(mesh[CHEEKS_TO_CHIN], -SKIN_INSET), height, width)
    return skin & ~mouth_mask(mesh, height, width, LIPS_AWAY)


def background_mask(mesh: Array, height: int, width: int) -> Mask:
    """Return the pixels (height, width) outside the face's hull grown by `HULL_MARGIN`."""
    return ~polygon_mask(grown(hull(mesh), HULL_MARGIN), height, width)


def forehead_mask(mesh: Array, height: int, width: int) -> Mask:
    """Return the pixels (height, width) of the face's hull at least `ABOVE_EYES` above the eyes."""
    left, right = (mesh[list(e)].mean(0) for e in (landmarks.LEFT_EYE, landmarks.RIGHT_EYE))
    across = right - left
    x, y = np.arange(width)[None] - left[0], np.arange(height)[:, None] - left[1]
    above = (x * across[1] - y * across[0]) / float(across @ across)  # interocular units
    return np.asarray(polygon_mask(hull(mesh), height, width) & (above >= ABOVE_EYES))


def chin_mask(mesh: Array, height: int, width: int) -> Mask:
    """Return the pixels (height, width) that the face covers while its chin moves `CHIN_REACH`."""
    left, right = (mesh[list(e)].mean(0) for e in (landmarks.LEFT_EYE, landmarks.RIGHT_EYE))
    down = np.array([left[1] - right[1], right[0] - left[0]]) * CHIN_REACH
    return polygon_mask(hull(np.concatenate([mesh, mesh + down])), height, width)


# --- colour ---------------------------------------------------------------------------------------


def tint(frame: Picture, mesh: Array) -> tuple[float, float]:
    """Return how green a mouth's opening is: mean, in levels, and share of green pixels.

    The first is the mean of green minus the mean of red and blue: above 0 is greenish, a real mouth
    is below. A pixel is green if its green is above the mean of its red and blue. The share shows a
    green middle that the rim, the colour of the lips, outweighs in the mean. Yellowish teeth count
    too. NaN for both if the gap is at most `OPEN`, the opening has under `FEWEST_PIXELS` pixels, or
    there is no face.
    """
    if not float(gap(mesh)) > OPEN:  # NaN too
        return math.nan, math.nan
    inside = frame[opening_mask(mesh, *frame.shape[:2])]
    if len(inside) < FEWEST_PIXELS:
        return math.nan, math.nan
    red, green, blue = inside.astype(np.int64).T
    return _green(inside), float((2 * green > red + blue).mean())


def skin_tint(picture: Picture, mesh: Array) -> float:
    """Return the mean tint of the skin from cheeks to chin, in levels; NaN where none is seen."""
    skin = picture[skin_mask(mesh, *picture.shape[:2])]
    return _green(skin) if len(skin) else math.nan


def _green(pixels: NDArray[np.uint8]) -> float:
    red, green, blue = pixels.astype(np.float64).mean(0)
    return float(green - (red + blue) / 2)


def colour_spread(frame: Picture) -> int:
    """Return the largest |R - G| or |G - B| of a picture's pixels, in levels; 0 is grey."""
    red, green, blue = np.moveaxis(frame, -1, 0)
    return int(max(cv2.absdiff(red, green).max(), cv2.absdiff(green, blue).max()))


def grey_copy(picture: Picture) -> Picture:
    """Return a picture without colour: its luma in all three channels."""
    luma = np.rint(_luma(picture)).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(luma[..., None], 3, axis=2))


def _luma(picture: Picture) -> NDArray[np.float32]:
    return np.asarray(picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32))


# --- sharpness ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sharpness:
    """Variance of the Laplacian of the luma. mouth: in the mouth region; skin: cheeks to chin."""

    mouth: float
    skin: float


def sharpness(frame: Picture, mesh: Array) -> Sharpness:
    """Measure how sharp mouth and skin are (see `mouth_mask`, `skin_mask`); NaN without a face."""
    if not np.isfinite(mesh).all():
        return Sharpness(math.nan, math.nan)
    edges = cv2.Laplacian(_luma(frame), cv2.CV_32F)
    masks = (of(mesh, *frame.shape[:2]) for of in (mouth_mask, skin_mask))
    mouth, skin = (
        float(edges[mask].astype(np.float64).var()) if mask.any() else math.nan for mask in masks
    )
    return Sharpness(mouth, skin)


def quotient(above: float, below: float) -> float:
    """Return above / below; NaN where `below` is not above 0."""
    return above / below if below > 0 else math.nan


# --- still parts ----------------------------------------------------------------------------------


class StillParts:
    """Compare frames with the picture where speech changes nothing.

    Two parts: the background (see `background_mask`) and the face above the eyes (see
    `forehead_mask`), both of the picture's own mesh.
    """

    def __init__(self, picture: Picture, mesh: Array) -> None:
        height, width = picture.shape[:2]
        self._picture = picture
        self._background = background_mask(mesh, height, width)
        self._forehead = forehead_mask(mesh, height, width)
        chin = chin_mask(mesh, height, width)
        self._spots = ((self._background & ~chin) | self._forehead).astype(np.float32)
        side = max(3, round(SPOT * float(landmarks.eye_distance(mesh))))
        self._spot = (side, side)
        self._cover = cv2.blur(self._spots, self._spot)

    def change(self, frame: Picture) -> tuple[float, float, float]:
        """Return the mean absolute change in levels: background, forehead, the worst spot of both.

        A spot is a square of side `SPOT` that lies at least half in the parts, without what the
        chin may cover (see `chin_mask`). NaN for a part that the picture does not have. Raises
        ValueError for a frame of another size.
        """
        if frame.shape != self._picture.shape:
            raise ValueError(f"a frame is {frame.shape}, its picture {self._picture.shape}")
        apart = np.asarray(cv2.absdiff(frame, self._picture), dtype=np.float32).mean(2)
        parts = [
            float(apart[mask].mean()) if mask.any() else math.nan
            for mask in (self._background, self._forehead)
        ]
        local = cv2.blur(apart * self._spots, self._spot)
        known = self._cover >= 0.5
        worst = float((local[known] / self._cover[known]).max()) if known.any() else math.nan
        return parts[0], parts[1], worst


def resampled(picture: Picture, side: int) -> Picture:
    """Return a picture whose longer side is `side` pixels: by area, or cubic where it grows."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale == 1:
        return picture
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=how), dtype=np.uint8)


def percentile(values: NDArray[Any], share: float) -> float:
    """Return a percentile of the values that are known; NaN where none is."""
    known = values[np.isfinite(values)]
    return float(np.percentile(known, share)) if len(known) else math.nan
