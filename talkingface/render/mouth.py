"""The inside of a mouth: darkness, tongue, lower and upper teeth, drawn in layers.

The upper teeth stay where the skull is, the lower ones and the tongue move with the jaw. What the
picture itself shows between its lips is used as it is; the rest comes from the bank of teeth. All
layers are drawn once per face, in the picture's own pixels; a frame shifts and shades them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.geometry import smoothstep
from talkingface.landmarks import (
    CHIN,
    GAP_BOTTOM,
    GAP_TOP,
    INNER_CORNERS,
    INNER_LIPS,
    LEFT_EYE,
    LOWER_LIP,
    RIGHT_EYE,
)
from talkingface.raster import bounds_around, intersection, three, warp
from talkingface.render import own_mouth
from talkingface.render.own_mouth import Points
from talkingface.render.teeth import (
    LEVEL,
    LOWER_EDGE,
    LOWER_ROWS,
    LUMA,
    SCALE,
    UPPER_EDGE,
    WIDTH,
    TeethSet,
    bank,
    eye_span,
    face_light,
)
from talkingface.render.tone import blur_of, tone_of
from talkingface.types import Bounds, Floats, Picture

_JAW = np.array([LOWER_LIP, 18, 200, CHIN])  # the lower teeth move as these do

# Eye distances, down from the resting line of the lips.
_UPPER_EDGE, _LOWER_EDGE = 0.045, 0.02  # of the teeth
_UPPER_ARCH, _LOWER_ARCH = 0.15, 0.06  # by how much edges rise towards the sides, times x squared
_TONGUE_TOP, _TONGUE_WIDTH, _TONGUE_SOFT = 0.075, 0.25, 0.05
_USUAL_HALF = 0.38  # of a resting mouth
_SHADE = 0.05  # blur of the lips' shadow
_LEAST_SHADE, _MOST_LIGHT = 0.38, 1.15  # the second beside what the picture shows
# By these points a frame is compared with the picture, up to a distance.
_COMPARED = np.array([GAP_TOP, GAP_BOTTOM, LOWER_LIP, *INNER_CORNERS, CHIN])
_NEAR = 0.05

# Colours beside the level of the teeth, in neutral light. Inside a mouth light is warmer than the
# bank's: red from lips, tongue and gums.
_FRONT = np.array([0.44, 0.19, 0.17], np.float32)
_WARMTH = np.array([1.07, 0.99, 0.91], np.float32)
_TONGUE = np.array([0.66, 0.33, 0.33], np.float32)
_BACK_SIZE = 48
_BANK_BLUR, _LEAST_BLUR = 0.6, 0.2  # pixels, of teeth laid into a face; more than that is given
_ALIASING = 0.45  # blur of a set that is shrunk, by how much

_REACH = (-0.7, 0.7, -0.35, 0.8)  # eye distances about the resting lips that the layers hold


@dataclass(frozen=True)
class Axes:
    """A face's own axes in its picture.

    origin: (2,), the middle of the resting lips. across, down: (2,), one eye distance each in
    pixels. slope: of the resting lips in them. left, right: the mouth's halves in eye distances.
    """

    origin: Points
    across: Points
    down: Points
    slope: float
    left: float
    right: float

    @classmethod
    def of(cls, neutral: Points) -> Axes:
        """The axes of a face whose mesh (478, 2) at rest is `neutral`."""
        unit = eye_span(neutral)
        eyes = neutral[list(RIGHT_EYE)].mean(0) - neutral[list(LEFT_EYE)].mean(0)
        across = eyes / max(1e-6, float(np.linalg.norm(eyes))) * unit
        down = np.array([-across[1], across[0]])
        origin = neutral[[GAP_TOP, GAP_BOTTOM]].mean(0)
        corners = (neutral[INNER_CORNERS] - origin) @ np.stack([across, down], 1)
        (x0, y0), (x1, y1) = corners / unit**2
        slope = float(np.clip((y1 - y0) / max(0.1, x1 - x0), -0.25, 0.25))
        return cls(origin, across, down, slope, max(0.1, float(-x0)), max(0.1, float(x1)))

    @property
    def unit(self) -> float:
        """Eye distance in pixels."""
        return float(np.linalg.norm(self.across))

    def points(self, points: Points) -> Points:
        """Picture pixels (..., 2) -> eye distances across and down."""
        turn = np.stack([self.across, self.down], 1) / self.unit**2
        return np.asarray((points - self.origin) @ turn)

    def grid(self, box: Bounds) -> tuple[Floats, Floats]:
        """Eye distances across, and down from the resting lips, of a box's pixels."""
        y0, y1, x0, x1 = box
        x = np.arange(x0, x1, dtype=np.float32)[None] - np.float32(self.origin[0])
        y = np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(self.origin[1])
        a, b = (np.float32(v) for v in self.across / self.unit**2)
        across = a * x + b * y
        return across, a * y - b * x - np.float32(self.slope) * across

    def box(self, low: float, high: float, top: float, bottom: float) -> Bounds:
        """Return the picture's box that holds a part of the face, in eye distances."""
        places = [(x, y) for x in (low, high) for y in (top, bottom)]
        corners = [self.origin + x * self.across + y * self.down for x, y in places]
        x0, y0 = np.floor(np.min(corners, 0)).astype(int)
        x1, y1 = np.ceil(np.max(corners, 0)).astype(int) + 1
        return int(y0), int(y1), int(x0), int(x1)


@dataclass(frozen=True)
class _OwnFrame:
    """The mouth as the picture shows it. mesh: (478, 2) of it.

    seen: premultiplied (h, w, 4) in the layers' box; shade: (h, w), of its lips.
    """

    mesh: Points
    seen: Floats
    shade: Floats

    def likeness(self, mesh: Points, axes: Axes) -> float:
        """Return the likeness of a mouth to the picture's: 1 for the same, 0 beyond _NEAR."""
        off = np.linalg.norm((mesh - self.mesh)[_COMPARED], axis=1).max() / axes.unit
        return float(np.clip(1 - (off / _NEAR) ** 2, 0, 1))


class MouthInterior:
    """Inside of one face's mouth: what shows between its lips.

    picture: (H, W, 3) uint8 RGB. mesh: (478, 2) picture pixels, as the picture shows the face.
    neutral: (478, 2), the same face in the same pose at rest, lips closed. Faces of flat colours,
    as in drawings, get no teeth and no tongue.
    """

    def __init__(self, picture: Picture, mesh: Points, neutral: Points) -> None:
        mesh, neutral = (np.asarray(m, np.float64)[:, :2] for m in (mesh, neutral))
        self._axes = axes = Axes.of(neutral)
        self._box = axes.box(*_REACH)
        face = face_light(picture, mesh)
        around = bounds_around(mesh, picture.shape)
        self._tone = tone = tone_of(picture, face, around)
        flat = own_mouth.is_flat(picture, around)
        self._jaw = mesh[_JAW].mean(0)
        jaw = axes.points(self._jaw) - axes.points(neutral[_JAW].mean(0))
        own = own_mouth.find(picture, mesh, axes, self._box)
        self._dark = _dark_of(picture, around) if flat else tone.apply(_FRONT * tone.level)
        self._back = _back_texture(self._dark, flat)
        self._blur = float(np.sqrt(max(0.0, blur_of(picture, around) ** 2 - _BANK_BLUR**2)))
        teeth = bank().choose(face)
        sides = float(np.log(max(1.0, face.right) / max(1.0, face.left)))
        self._upper = self._empty()
        self._lower = self._empty()
        if not flat:
            if own is None or not own.whole:
                self._upper = self._upper_teeth(teeth, sides, own)
            self._lower = self._lower_mouth(teeth, sides, jaw)
        self._own: _OwnFrame | None = None
        self._own_teeth = 0.0
        if own is not None:
            if own.has_teeth:
                self._own_teeth = float(own.upper[..., 3].sum()) / axes.unit**2
            shade = self._shade(mesh, self._box)
            self._own = _OwnFrame(mesh, own.seen, shade)
            bank_shade = np.stack([shade, shade, shade, np.ones_like(shade)], -1)
            self._upper = own_mouth.over(own.upper, self._upper * bank_shade)
            self._lower = own_mouth.over(own.lower, self._lower * bank_shade)
        self._keep = np.repeat(1 - self._upper[..., 3:], 3, -1)
        self._upper = np.ascontiguousarray(self._upper[..., :3])

    @property
    def own_teeth(self) -> float:
        """Area of the upper teeth that the picture itself shows, in squared eye distances."""
        return self._own_teeth

    def draw(self, mesh: Points, box: Bounds) -> Floats:
        """Draw the inside of the mouth of one frame, (y1 - y0, x1 - x0, 3) in [0, 255].

        mesh: (478, 2) picture pixels, the head as in the picture. box: y0, y1, x0, x1. Every pixel
        of the box is drawn; what lies outside the lips is for the caller to cut.
        """
        mesh = np.asarray(mesh, np.float64)[:, :2]
        y0, y1, x0, x1 = box
        part = intersection(box, self._box)
        if part == box:
            return self._draw(mesh, box)
        out = np.empty((y1 - y0, x1 - x0, 3), np.float32)
        out[:] = self._dark * _LEAST_SHADE
        if part[0] < part[1] and part[2] < part[3]:
            out[part[0] - y0 : part[1] - y0, part[2] - x0 : part[3] - x0] = self._draw(mesh, part)
        return out

    def _draw(self, mesh: Points, box: Bounds) -> Floats:
        """`draw` of a box that the layers hold."""
        y0, y1, x0, x1 = box
        top, left = y0 - self._box[0], x0 - self._box[2]
        here = slice(top, top + y1 - y0), slice(left, left + x1 - x0)
        size = (x1 - x0, y1 - y0)
        out = warp(self._back, self._back_matrix(mesh, box), size)
        if self._own is not None:  # the shade below counts beside that of the picture
            out *= three(self._own.shade[here])
        jaw = mesh[_JAW].mean(0) - self._jaw
        shift = np.array([[1, 0, left - jaw[0]], [0, 1, top - jaw[1]]])
        lower = warp(self._lower, shift, size, cv2.BORDER_CONSTANT)
        out *= three(1 - lower[..., 3])
        out += lower[..., :3]
        out *= self._keep[here]
        out += self._upper[here]
        shade = self._shade(mesh, box)
        if self._own is not None:
            shade = np.minimum(shade / self._own.shade[here], _MOST_LIGHT)
        out *= three(shade)
        if self._own is not None:
            likeness = self._own.likeness(mesh, self._axes)
            if likeness > 0:
                seen = self._own.seen[here] * np.float32(likeness)
                out *= three(1 - seen[..., 3])
                out += seen[..., :3]
        np.minimum(out, 255, out=out)
        return three(np.ascontiguousarray(out[..., 1])) if self._tone.grey else out

    def _back_matrix(self, mesh: Points, box: Bounds) -> NDArray[np.float64]:
        """A box's pixels -> pixels of the darkness, which spans the opening: (2, 3)."""
        axes, last = self._axes, _BACK_SIZE - 1
        points = axes.points(mesh[[GAP_TOP, GAP_BOTTOM]])
        top, gap = points[0, 1], max(0.02, float(points[1, 1] - points[0, 1]))
        turn = np.stack([axes.across, axes.down]) / axes.unit**2
        scale = np.diag([last / (axes.left + axes.right), last / gap])
        linear = scale @ turn
        start = linear @ (np.array([box[2], box[0]]) - axes.origin)
        start += scale @ np.array([axes.left, -top])
        return np.concatenate([linear, start[:, None]], 1)

    def _shade(self, mesh: Points, box: Bounds) -> Floats:
        """Return the light that the lips leave inside, of a box's pixels: (h, w) in [0, 1].

        Drawn small: the opening, a little lower than it is, blurred.
        """
        y0, y1, x0, x1 = box
        step = max(1.0, _SHADE * self._axes.unit / 2.5)
        width, height = (max(2, int(np.ceil(n / step)) + 1) for n in (x1 - x0, y1 - y0))
        ring = (mesh[INNER_LIPS] + 0.012 * self._axes.down - [x0, y0]) / step
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [np.rint(ring * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        sigma = _SHADE * self._axes.unit / step
        blurred = cv2.GaussianBlur(mask, (0, 0), sigma).astype(np.float32) / 255
        light = np.clip((blurred - 0.12) / 0.62, 0, 1) * (1 - _LEAST_SHADE) + _LEAST_SHADE
        small = np.asarray(light, np.float32)
        matrix = np.array([[1 / step, 0, 0], [0, 1 / step, 0]])
        return warp(small, matrix, (x1 - x0, y1 - y0))

    def _empty(self) -> Floats:
        y0, y1, x0, x1 = self._box
        return np.zeros((y1 - y0, x1 - x0, 4), np.float32)

    def _upper_teeth(self, teeth: TeethSet, sides: float, own: own_mouth.OwnMouth | None) -> Floats:
        """The bank's upper teeth on the skull, premultiplied RGB and alpha: (h, w, 4).

        They take edge and colour of the picture's own, where it shows some; where it shows parted
        lips and no teeth, they are hidden by its upper lip.
        """
        lift = 0.0
        if own is not None:
            lift = own.edge if own.has_teeth else min(_UPPER_EDGE, own.lip - 0.015)
            lift -= _UPPER_EDGE
        x, y = self._axes.grid(self._box)
        edge = _UPPER_EDGE + lift - _UPPER_ARCH * np.square(np.clip(x, -0.45, 0.45))
        below = np.asarray(y - edge, np.float32)
        layer = self._teeth(teeth.upper, x, below, UPPER_EDGE, sides, 1.0)
        if own is not None and own.colour is not None:
            usual = self._tone.apply(own_mouth.TINT * self._tone.level)
            layer[..., :3] *= own.colour / np.maximum(usual, 1)
        return layer

    def _lower_mouth(self, teeth: TeethSet, sides: float, jaw: Points) -> Floats:
        """Tongue and lower teeth, the jaw as in the picture: premultiplied (h, w, 4)."""
        x, y = self._axes.grid(self._box)
        x, y = x - np.float32(jaw[0]), y - np.float32(jaw[1])
        edge = _LOWER_EDGE - _LOWER_ARCH * np.square(np.clip(x, -0.45, 0.45))
        below = np.asarray(y - edge, np.float32)
        lower = self._teeth(teeth.lower, x, below, LOWER_EDGE, sides, 0.68)
        height = y - _LOWER_EDGE + _TONGUE_TOP - 0.5 * np.square(x)
        alpha = np.clip(height / _TONGUE_SOFT + 0.5, 0, 1)
        alpha *= np.clip((_TONGUE_WIDTH - np.abs(x)) / 0.1 + 0.5, 0, 1)
        alpha = smoothstep(alpha)
        light = np.clip(0.5 + 3.2 * height, 0.42, 0.9) * (1 - 0.35 * np.exp(-np.square(x / 0.02)))
        colour = self._tone.apply(light[..., None] * _TONGUE * self._tone.level)
        tongue = np.concatenate([colour * alpha[..., None], alpha[..., None]], -1)
        return own_mouth.over(lower, tongue.astype(np.float32))

    def _teeth(
        self, teeth: Floats, x: Floats, below: Floats, edge_row: int, sides: float, light: float
    ) -> Floats:
        """A set (rows, WIDTH, 4) laid into the face: premultiplied (h, w, 4).

        x: eye distances across; below: under the set's edge. sides: logarithm of the light's right
        over left. light: brightness beside that of upper teeth.
        """
        left, right = self._axes.left, self._axes.right
        half = (left + right) / 2
        turned = x * half / np.where(x < 0, left, right).astype(np.float32)
        size = np.clip(np.sqrt(half / _USUAL_HALF), 0.9, 1.12)
        columns = turned * np.float32(SCALE / size) + np.float32(WIDTH / 2)
        rows = below * np.float32(SCALE / size) + np.float32(edge_row)
        rows = np.maximum(rows, 1) if edge_row == UPPER_EDGE else np.minimum(rows, LOWER_ROWS - 4)
        toned = self._tone.apply(teeth[..., :3] * _WARMTH * (self._tone.level * light / LEVEL))
        premultiplied = np.concatenate([toned * teeth[..., 3:], teeth[..., 3:]], -1)
        shrunk = SCALE / size / self._axes.unit  # pixels of the set to one of the picture
        if shrunk > 1:
            premultiplied = cv2.GaussianBlur(premultiplied, (0, 0), _ALIASING * shrunk)
        out = cv2.remap(
            np.asarray(premultiplied, np.float32),
            np.asarray(columns, np.float32),
            np.asarray(rows, np.float32),
            cv2.INTER_CUBIC,
        )
        if self._blur > _LEAST_BLUR:
            out = cv2.GaussianBlur(out, (0, 0), self._blur)
        out[..., 3] = out[..., 3].clip(0, 1)
        edge = np.square(turned / half)
        dim = np.clip(1.08 - 0.62 * edge, 0.2, 1) * np.exp(sides * np.clip(x, -0.4, 0.4) * 0.8)
        out[..., :3] *= dim[..., None]
        return np.asarray(out.clip(0, 255), np.float32)


def _back_texture(dark: Floats, flat: bool) -> Floats:
    """Darkness from the upper to the lower lip and from corner to corner, (N, N, 3)."""
    at = np.linspace(-1, 1, _BACK_SIZE, dtype=np.float32)
    light = 0.55 + 0.35 * np.square(at)[:, None] * (1 - 0.55 * np.square(at))[None]
    light = light * (1 - 0.35 * np.square(at))[None]
    if flat:
        light = np.full_like(light, 0.9)
    return np.asarray(light[..., None] * dark, np.float32)


def _dark_of(picture: Picture, box: Bounds) -> Floats:
    """Return the dark colour that a drawing has, (3,)."""
    y0, y1, x0, x1 = box
    part = picture[y0:y1, x0:x1].reshape(-1, 3)
    light = part.astype(np.float32) @ LUMA
    dark = part[light <= np.percentile(light, 3)]
    return np.asarray(np.median(dark, 0), np.float32)
