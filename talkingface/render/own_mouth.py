"""The inside of a mouth as the picture shows it: upper teeth, and parts that follow the jaw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.landmarks import GAP_BOTTOM, GAP_TOP, INNER_LIPS
from talkingface.raster import remap
from talkingface.render.teeth import LUMA
from talkingface.types import Bounds, Floats, Picture

Points = NDArray[np.floating]

# Eye distances: with less between the lips they are taken for closed; without teeth seen, with less
# than the second.
_LEAST_GAP, _LEAST_DARK_GAP = 0.045, 0.1
_INSET = 0.012  # how far inside the inner lips their own colour ends
_AROUND = 0.03  # how far colours are carried outwards
_LEAST_LIFT = 0.02  # of the lip where the gap is too small to see what it hides
_LEAST_BELOW = 0.25  # of the opening: less than that below the teeth is left out
_TALL, _WIDE = 0.07, 0.45  # eye distances: teeth of the picture that need no others beside them
_COLUMNS = 160  # to the eye distance, where the edge of the teeth is looked for
_LEAST_TEETH = 0.3  # of the opening's columns

_GUM = np.array([1.0, 0.62, 0.6], np.float32)
TINT = np.array([1.06, 0.98, 0.92], np.float32)  # of the bank's teeth

_FLAT_SHARE = 0.55  # of neighbouring pixels that are equal, in drawings
_TOO_DARK = 40.0


class FaceAxes(Protocol):
    """The part of `mouth.Axes` that is needed here."""

    @property
    def unit(self) -> float:
        """Pixels between the eyes."""

    def points(self, points: Points) -> Points:
        """Picture pixels (N, 2) -> the mouth's own axes."""

    def grid(self, box: Bounds) -> tuple[Floats, Floats]:
        """The axes' coordinates of a box's pixels, (h, w) each."""


@dataclass(frozen=True)
class OwnMouth:
    """A picture's own teeth and tongue, premultiplied (h, w, 4) in the layers' box.

    upper: teeth of the skull; lower: the rest; seen: both as they are. has_teeth: whether there are
    upper ones. lip: where the upper lip is, eye distances under the resting lips. edge: of the
    upper teeth in the middle, likewise; colour: (3,), of them; whole: whether they need no others
    beside them. Where lips are parted and nothing is known of what is between them, both layers
    are empty.
    """

    upper: Floats
    lower: Floats
    seen: Floats
    has_teeth: bool
    lip: float
    edge: float = 0.0
    colour: Floats | None = None
    whole: bool = False


def is_flat(picture: Picture, box: Bounds) -> bool:
    """Return whether a face is drawn in flat colours: most neighbouring pixels are equal."""
    y0, y1, x0, x1 = box
    part = picture[y0:y1, x0:x1].astype(np.int16)
    if part.shape[1] < 2 or float(part.mean()) < _TOO_DARK:
        return False
    equal = (part[:, 1:] == part[:, :-1]).all(-1)
    return float(equal.mean()) > _FLAT_SHARE


def find(picture: Picture, mesh: Points, axes: FaceAxes, box: Bounds) -> OwnMouth | None:
    """Return what a picture shows between its lips; None where they are closed.

    box: y0, y1, x0, x1 of the layers in picture pixels; it may reach beyond the picture.
    """
    gap = np.linalg.norm(mesh[GAP_BOTTOM] - mesh[GAP_TOP]) / axes.unit
    if gap < _LEAST_GAP:
        return None
    inset = max(1.0, _INSET * axes.unit)
    distance = _distance(mesh, box)
    inside = np.clip(distance / inset - 0.5, 0, 1)
    x, y = axes.grid(box)
    lip = float(axes.points(mesh[GAP_TOP])[1])
    own = _padded(picture, box)
    edge = _edge(own, inside, x, y)
    if edge is None and gap < _LEAST_DARK_GAP:
        nothing = np.zeros((*inside.shape, 4), np.float32)
        return OwnMouth(nothing, nothing, nothing, False, max(lip, _LEAST_LIFT))
    colour = _filled(own, inside, _AROUND * axes.unit)
    seen = _premultiplied(colour, np.clip(distance + 0.5, 0, 1))
    whole = np.clip(1.5 + distance / (0.06 * axes.unit), 0, 1)
    if edge is None:
        lower = _premultiplied(colour, whole)
        return OwnMouth(np.zeros_like(lower), lower, seen, False, lip)
    centres, tops, ends = edge
    top = np.interp(x, centres, tops).astype(np.float32)
    end = np.interp(x, centres, ends, left=-9, right=-9).astype(np.float32) + _INSET
    teeth, below = _divided(x, y, centres, top, end, axes.unit)
    shown = np.clip(distance + 0.5, 0, 1)
    whole_set = float(np.median(ends - tops)) > _TALL and centres[-1] - centres[0] > _WIDE
    above = _above(colour, box, axes, y, top, teeth, whole_set)
    upper = over(_premultiplied(colour, shown * teeth), above)
    lower = _premultiplied(colour, whole * below)
    if (inside * below).sum() < _LEAST_BELOW * inside.sum():
        lower = np.zeros_like(upper)
    tooth = _bright(own[(inside * teeth) > 0.5])
    middle = float(np.interp(0, centres, ends))
    return OwnMouth(upper, lower, seen, True, lip, middle, tooth, whole_set)


def _divided(
    x: Floats, y: Floats, centres: Floats, top: Floats, end: Floats, unit: float
) -> tuple[Floats, Floats]:
    """Shares of the upper teeth and of what lies below them, soft at their edges: (h, w) each."""
    soft = np.float32(1 / max(1.0, 0.008 * unit) * unit)
    divided = np.clip((end - y) * soft + 0.5, 0, 1)
    sides = np.clip((np.minimum(x - centres[0], centres[-1] - x) + 0.005) / 0.06, 0, 1)
    return divided * sides * np.clip((end - top - 0.02) / 0.04, 0, 1), (1 - divided) * sides


def _bright(colours: Floats) -> Floats | None:
    """Mean of the brighter half of colours (N, 3): (3,)."""
    if not len(colours):
        return None
    light = colours @ LUMA
    return np.asarray(colours[light >= np.median(light)].mean(0), np.float32)


def _filled(colour: Floats, inside: Floats, reach: float) -> Floats:
    """Colours inside, and outside what they are nearby."""
    weight = cv2.GaussianBlur(inside, (0, 0), reach) + 1e-4
    near = cv2.GaussianBlur(colour * inside[..., None], (0, 0), reach) / weight[..., None]
    return np.asarray(colour * inside[..., None] + near * (1 - inside[..., None]), np.float32)


def _edge(
    colour: Floats, inside: Floats, x: Floats, y: Floats
) -> tuple[Floats, Floats, Floats] | None:
    """Centres of columns, and where in them the upper teeth begin and end; None without teeth."""
    there = inside > 0.5
    if there.sum() < 30:
        return None
    light = colour @ LUMA
    bright = float(np.percentile(light[there], 92))
    lab = np.asarray(cv2.cvtColor(colour / 255, cv2.COLOR_RGB2LAB), np.float32)
    redness = lab[..., 1] - np.median(lab[..., 1][there & (light > 0.85 * bright)])
    tooth = there & (light > 0.5 * bright) & (redness < 12)
    if not _beside_lips(light, lab, there, bright):
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
    smooth = _smoothed(centres, end[shown])
    return centres.astype(np.float32), _smoothed(centres, top[shown]), smooth


def _beside_lips(light: Floats, lab: Floats, there: NDArray[np.bool_], bright: float) -> bool:
    """Return whether an opening's brightest is brighter or less red than the lips around it."""
    size = max(5, int(np.sqrt(there.sum()) / 8)) | 1
    lips = (cv2.dilate(there.astype(np.uint8), np.ones((size, size), np.uint8)) > 0) & ~there
    best = there & (light > 0.85 * bright)
    redness = np.median(lab[..., 1][lips]) - np.median(lab[..., 1][best])
    brighter = bright / max(1.0, float(np.median(light[lips])))
    return brighter > 1.35 or (brighter > 0.8 and float(redness) > 8)


def _run_end(teeth: Floats, y: Floats, light: Floats) -> float:
    """Return the end of a column's first tooth: at a gap, or at a dark line across."""
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


def _smoothed(x: NDArray[np.float64], values: NDArray[np.float64]) -> Floats:
    """An edge near the parabola through most of it, without steps."""
    weight = np.ones(len(x))
    basis = np.stack([np.ones_like(x), x, x * x], 1)
    curve = values
    for _ in range(8):
        solved = np.linalg.lstsq(basis * weight[:, None], values * weight, rcond=None)[0]
        curve = basis @ solved
        weight = 1 / (1 + np.square((values - curve) / 0.015))
    off = np.pad(np.clip(values - curve, -0.012, 0.012), 6, mode="edge")
    kernel = np.exp(-np.square(np.arange(-6, 7) / 3.0) / 2)
    return np.asarray(curve + np.convolve(off, kernel / kernel.sum(), "valid"), np.float32)


def _above(
    colour: Floats,
    box: Bounds,
    axes: FaceAxes,
    y: Floats,
    top: Floats,
    teeth: Floats,
    whole: bool,
) -> Floats:
    """Return the teeth above the lip that hides them: the row under it drawn upwards.

    It fades to gum where the set is whole, else to the teeth of another set behind it.
    """
    y0, _, x0, _ = box
    under = np.maximum(y, top + 0.02)
    rise = (under - y)[..., None]
    ahead = axes.points(np.array([[x0, y0], [x0 + 1, y0], [x0, y0 + 1]]))
    turn = np.linalg.inv((ahead[1:] - ahead[:1]).T)  # eye distances -> pixels
    step = rise * turn[:, 1].astype(np.float32)
    height, width = y.shape
    columns = np.arange(width, dtype=np.float32)[None] + step[..., 0]
    rows = np.arange(height, dtype=np.float32)[:, None] + step[..., 1]
    drawn = remap(colour, columns, rows)
    hidden = np.clip(rise / 0.04 - 0.5, 0, 1)
    if not whole:
        return _premultiplied(drawn.astype(np.float32), teeth * (1 - hidden[..., 0]))
    grey = (drawn @ LUMA)[..., None]
    tint = _GUM if _coloured(colour) else np.ones(3, np.float32)
    return _premultiplied(drawn * (1 - hidden) + tint * grey * hidden, teeth)


def _coloured(colour: Floats) -> bool:
    return bool((colour != colour[..., :1]).any())


def _distance(mesh: Points, box: Bounds) -> Floats:
    """Pixels from the inner lips, positive between them, negative outside: (h, w)."""
    y0, y1, x0, x1 = box
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    ring = np.rint((mesh[INNER_LIPS] - [x0, y0]) * 16).astype(np.int32)
    cv2.fillPoly(mask, [ring], 255, cv2.LINE_8, 4)
    inner, outer = (cv2.distanceTransform(m, cv2.DIST_L2, 3) for m in (mask, 255 - mask))
    return np.asarray(inner - outer, np.float32)


def _padded(picture: Picture, box: Bounds) -> Floats:
    """A box of the picture, its border repeated: (h, w, 3) float32."""
    height, width = picture.shape[:2]
    rows = np.arange(box[0], box[1]).clip(0, height - 1)
    columns = np.arange(box[2], box[3]).clip(0, width - 1)
    return np.asarray(picture[rows[:, None], columns[None]], np.float32)


def _premultiplied(colour: Floats, alpha: Floats) -> Floats:
    return np.concatenate([colour * alpha[..., None], alpha[..., None]], -1).astype(np.float32)


def over(front: Floats, behind: Floats) -> Floats:
    """One premultiplied layer (h, w, 4) over another."""
    return np.asarray(front + behind * (1 - front[..., 3:]), np.float32)
