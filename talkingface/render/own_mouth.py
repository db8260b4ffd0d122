"""The inside of a mouth as the picture shows it: teeth of the skull, and what moves with the jaw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.landmarks import GAP_BOTTOM, GAP_TOP, INNER_LIPS
from talkingface.render.teeth import LUMA, Floats, Picture

Points = NDArray[np.floating]
Box = tuple[int, int, int, int]

_LEAST_GAP = 0.045  # eye distances: less is taken for closed lips
_INSET = 0.012  # how far inside the inner lips their own colour ends
_COLUMNS = 160  # to the eye distance, where the edge of the teeth is looked for
_LEAST_TEETH = 0.3  # of the opening's columns
_GUM = np.array([1.0, 0.62, 0.6], np.float32)

_FLAT_SHARE = 0.55  # of neighbouring pixels that are equal, in drawings
_TOO_DARK = 40.0


class FaceAxes(Protocol):
    """What is needed of `mouth.Axes`."""

    unit: float

    def points(self, points: Points) -> Points: ...
    def grid(self, box: Box) -> tuple[Floats, Floats]: ...


@dataclass(frozen=True)
class OwnMouth:
    """What a picture shows between its lips, premultiplied (h, w, 4) in the layers' box.

    upper: teeth of the skull; lower: the rest. has_teeth: whether there are upper ones. lip: where
    the upper lip is, eye distances under the resting lips.
    """

    upper: Floats
    lower: Floats
    has_teeth: bool
    lip: float


def is_flat(picture: Picture, box: Box) -> bool:
    """Whether a face is drawn in flat colours: most neighbouring pixels are equal."""
    y0, y1, x0, x1 = box
    part = picture[y0:y1, x0:x1].astype(np.int16)
    if part.shape[1] < 2 or float(part.mean()) < _TOO_DARK:
        return False
    equal = (part[:, 1:] == part[:, :-1]).all(-1)
    return float(equal.mean()) > _FLAT_SHARE


def find(picture: Picture, mesh: Points, axes: FaceAxes, box: Box) -> OwnMouth | None:
    """Return what a picture shows between its lips; None where they are closed.

    box: y0, y1, x0, x1 of the layers in picture pixels; it may reach beyond the picture.
    """
    gap = np.linalg.norm(mesh[GAP_BOTTOM] - mesh[GAP_TOP]) / axes.unit
    if gap < _LEAST_GAP:
        return None
    colour = _padded(picture, box)
    inside = _inside(mesh, axes.unit, box)
    x, y = axes.grid(box)
    lip = float(axes.points(mesh[GAP_TOP])[1])
    edge = _edge(colour, inside, x, y)
    if edge is None:
        lower = _premultiplied(colour, inside)
        return OwnMouth(np.zeros_like(lower), lower, False, lip)
    centres, tops, ends = edge
    top = np.interp(x, centres, tops).astype(np.float32)
    end = np.interp(x, centres, ends, left=-9, right=-9).astype(np.float32)
    soft = np.float32(1 / max(1.0, 0.008 * axes.unit) * axes.unit)
    teeth = np.clip((end - y) * soft + 0.5, 0, 1)
    upper = _over(
        _premultiplied(colour, inside * teeth), _above(colour, box, axes, x, y, top, teeth)
    )
    return OwnMouth(upper, _premultiplied(colour, inside * (1 - teeth)), True, lip)


def _edge(
    colour: Floats, inside: Floats, x: Floats, y: Floats
) -> tuple[Floats, Floats, Floats] | None:
    """Centres of columns, and where in them the upper teeth begin and end; None without teeth."""
    there = inside > 0.5
    if there.sum() < 30:
        return None
    light = colour @ LUMA
    bright = np.percentile(light[there], 92)
    lab = cv2.cvtColor(colour / 255, cv2.COLOR_RGB2LAB)
    redness = lab[..., 1] - np.median(lab[..., 1][there & (light > 0.85 * bright)])
    tooth = there & (light > 0.5 * bright) & (redness < 12)
    around = cv2.dilate(there.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    if bright < 0.75 * np.median(light[around & ~there]):
        return None
    column = np.rint(x * _COLUMNS).astype(int)
    low = int(column[there].min())
    count = int(column[there].max()) - low + 1
    top, end = np.full(count, np.nan), np.full(count, np.nan)
    for k in range(count):
        here = there & (column == low + k)
        rows = np.sort(y[here])
        teeth = np.sort(y[here & tooth])
        if len(rows):
            top[k] = rows[0]
        if len(rows) and len(teeth) and teeth[0] - rows[0] < 0.08:
            end[k] = _run_end(teeth, y[here], light[here])
    shown = np.isfinite(end)
    if shown.mean() < _LEAST_TEETH:
        return None
    centres = ((low + np.arange(count)) / _COLUMNS)[shown]
    smooth = _smoothed(end[shown])
    return centres.astype(np.float32), top[shown].astype(np.float32), smooth


def _run_end(teeth: Floats, y: Floats, light: Floats) -> float:
    """Where the first tooth of a column ends: at a gap, or at a dark line across."""
    order = np.argsort(y, kind="stable")
    y, light = y[order], light[order]
    first = last = float(teeth[0])
    for row in teeth[1:]:
        if row - last > 0.02:
            break
        before = light[(y >= first) & (y <= last)]
        if last - first > 0.05 and float(light[np.searchsorted(y, row)]) < 0.75 * np.median(before):
            break
        last = float(row)
    return last


def _smoothed(values: NDArray[np.float64]) -> Floats:
    padded = np.pad(values, 4, mode="edge")
    middle = np.median(np.stack([padded[k : k + len(values)] for k in range(9)]), 0)
    return np.asarray(middle, np.float32)


def _above(
    colour: Floats, box: Box, axes: FaceAxes, x: Floats, y: Floats, top: Floats, teeth: Floats
) -> Floats:
    """The teeth above the lip that hides them: the row under it drawn upwards, fading to gum."""
    y0, _, x0, _ = box
    under = np.maximum(y, top + 0.02)
    rise = (under - y)[..., None]
    ahead = axes.points(np.array([[x0, y0], [x0 + 1, y0], [x0, y0 + 1]]))
    turn = np.linalg.inv((ahead[1:] - ahead[:1]).T)  # eye distances -> pixels
    step = (rise * turn[:, 1].astype(np.float32))
    height, width = y.shape
    columns = np.arange(width, dtype=np.float32)[None] + step[..., 0]
    rows = np.arange(height, dtype=np.float32)[:, None] + step[..., 1]
    drawn = cv2.remap(colour, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    gum = np.clip((rise - 0.02) / 0.05, 0, 1)
    grey = (drawn @ LUMA)[..., None]
    tint = drawn.mean((0, 1)) * 0 + _GUM if _coloured(colour) else np.ones(3, np.float32)
    drawn = drawn * (1 - gum) + tint * grey * gum
    return _premultiplied(drawn.astype(np.float32), teeth)


def _coloured(colour: Floats) -> bool:
    return bool((colour != colour[..., :1]).any())


def _inside(mesh: Points, unit: float, box: Box) -> Floats:
    """1 between the inner lips, falling to 0 towards them: (h, w)."""
    y0, y1, x0, x1 = box
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    ring = np.rint((mesh[INNER_LIPS] - [x0, y0]) * 16).astype(np.int32)
    cv2.fillPoly(mask, [ring], 255, cv2.LINE_8, 4)
    inset = max(1.0, _INSET * unit)
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    return np.asarray(np.clip(distance / inset - 0.5, 0, 1), np.float32)


def _padded(picture: Picture, box: Box) -> Floats:
    """A box of the picture, its border repeated: (h, w, 3) float32."""
    height, width = picture.shape[:2]
    rows = np.arange(box[0], box[1]).clip(0, height - 1)
    columns = np.arange(box[2], box[3]).clip(0, width - 1)
    return picture[rows[:, None], columns[None]].astype(np.float32)


def _premultiplied(colour: Floats, alpha: Floats) -> Floats:
    return np.concatenate([colour * alpha[..., None], alpha[..., None]], -1).astype(np.float32)


def _over(front: Floats, behind: Floats) -> Floats:
    return np.asarray(front + behind * (1 - front[..., 3:]), np.float32)
