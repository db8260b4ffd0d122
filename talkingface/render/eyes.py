"""Blinks and small gaze shifts: the lids of one picture, drawn as layers over its eyeballs.

Each eye has its own axes: x from its left corner to its right one, y down, in picture pixels. What
the picture shows above the upper lid's line is taken apart into

    skin * folds * lashes + grain

The skin has no lashes and no lid margin; near the line it is synthesised, and it stretches over the
eyeball as the lid comes down. Folds stay where they are and fade. Lashes and grain move with the
lid's edge; lashes turn with it, too. The eyeball stays where it is, beneath. So nothing that has a
structure is stretched, and what is above the lid, as brows and glasses, stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.geometry import smoothstep
from talkingface.landmarks import BROWS_LOWER, EYE_LIDS, IRISES, SKIN_POINTS
from talkingface.raster import remap, three
from talkingface.types import Array, Bounds, Floats, Picture

# Lengths are in eye widths, from corner to corner.
CLOSED, NARROW = 0.10, 0.16  # opening of an eye that is shut in the picture; of one that can blink
WIDEST = -0.15  # the lowest value of `lids`
MEETING = 0.88  # of the opening: as far as the upper lid comes down; the lower one does the rest
OVERLAP = 0.06  # the upper lid goes further, or the wet margin of the lower one would be seen
EDGE = 0.015  # the upper lid ends below its line by this
MARGIN = 0.03  # height of the lid's margin, which is rigid; lashes grow out of it
SMOOTH = 0.16  # height above the line in which the skin is synthesised, and stretches most
HIGHEST = 0.4  # height above the line that may move, at most
TO_BROW = 0.8  # of the way to the brow that may move, at most
FOLLOWS = 0.15  # of the lid's travel: how far the skin above follows it
BELOW = 0.25  # how far below the lower lid its motion ends
LASH_TURN = 1.7  # lashes of length 1 are 1 - LASH_TURN long, thus hang down, when the lid is shut
GRAIN, COARSEST = 8.0, 0.025  # of the skin's fine detail: levels at most, and scale
TEXTURE_AT = 0.35  # where the lid's texture is kept, below the place where it is drawn
LINER = 0.1  # height above the line up to which all that is dark belongs to the lashes
EYEBALL = 0.03  # height above the line up to which the eyeball's pixels may reach
HANGING, FADING = 0.6, 0.12  # of hanging lashes: strength, and length at which they end
FORESHORTENED = 0.4  # lashes twice as long as this, as seen from the front, begin to show
SHADOW, SHADED = 0.35, 0.06  # of a shut lid on what is beneath its edge: strength, and height
FAINT = 6.0  # levels: what is darker than the skin by more is a lash
CREASE = 0.75  # of the skin's brightness: the darkest that a crease is on a shut lid
IN_SHADOW = 0.8  # of the difference to the brighter skin below the eye, added to a lid in shadow
# Behind lenses: less contrast of iris and white, and of iris and skin, than the first two; and the
# skin around the eyes differs from the face's in red, green or blue, by this natural logarithm.
LENS_WHITE, LENS_SKIN, LENS_COLOUR = 0.16, 0.18, 1.0
GAZE_LIMIT = 0.1  # the largest shift of an iris
AROUND = 0.51  # half the width of what is drawn
EVERY = slice(None)  # rows of a box

# The strip above the lid's line is sampled at ROWS x COLUMNS places to synthesise skin.
ROWS, COLUMNS, REACH, HEIGHT = 48, 96, 0.75, 0.5


@dataclass(frozen=True)
class _Eye:
    """One eye's geometry.

    middle, right, down: (2,), the point between the corners and the axes, in the picture.
    columns: (COLUMNS,), x of the curves `upper` and `lower` (y of the lids' lines) and `strip`
    (height above the upper line that may move), all (COLUMNS,). iris: (2,), its centre.
    """

    width: float
    middle: Array
    right: Array
    down: Array
    columns: Array
    upper: Array
    lower: Array
    strip: Array
    iris: Array
    iris_radius: float

    @staticmethod
    def of(mesh: Array, side: int) -> _Eye:
        """mesh: (478, 2) picture pixels. side: 0 left, 1 right."""
        first, last = mesh[EYE_LIDS[side, 0, [0, -1]]]
        width = max(float(np.hypot(*(last - first))), 1e-6)
        right = (last - first) / width
        axes = np.stack([right, [-right[1], right[0]]], 1)
        middle = (first + last) / 2
        lids, brow, iris = (
            (mesh[points] - middle) @ axes
            for points in (EYE_LIDS[side], BROWS_LOWER[side], IRISES[side])
        )
        columns = np.linspace(-REACH * width, REACH * width, COLUMNS)
        upper, lower = (_curve(points, columns) for points in lids)
        free = TO_BROW * (upper - _curve(brow[np.argsort(brow[:, 0])], columns))
        strip = _smooth(np.clip(free, 0.12 * width, HIGHEST * width), 3)
        radius = float(np.hypot(*(iris[1:] - iris[0]).T).mean())
        return _Eye(
            width=width,
            middle=middle,
            right=axes[:, 0],
            down=axes[:, 1],
            columns=columns,
            upper=upper,
            lower=np.maximum(upper, lower),
            strip=strip,
            iris=iris[0],
            iris_radius=radius,
        )

    @property
    def opening(self) -> Array:
        """(COLUMNS,), pixels between the lids' lines."""
        return self.lower - self.upper

    def at_pixels(self, box: Bounds) -> tuple[Floats, Floats]:
        """x and y of the pixels of a box: (h, w) each."""
        y0, y1, x0, x1 = box
        x, y = (np.arange(x0, x1) - self.middle[0])[None], np.arange(y0, y1)[:, None]
        y = y - self.middle[1]
        (a, b), (c, d) = self.right, self.down
        return (x * a + y * b).astype(np.float32), (x * c + y * d).astype(np.float32)

    def in_picture(self, x: Array | Floats, y: Array | Floats) -> tuple[Array, Array]:
        """Picture pixels of places in the eye's axes, as two arrays."""
        (a, b), (c, d) = self.right, self.down
        return self.middle[0] + x * a + y * c, self.middle[1] + x * b + y * d

    def box(self, half: float, above: float, below: float, shape: tuple[int, ...]) -> Bounds:
        """Return the box of the picture that holds x within +-half, y from above to below."""
        x, y = self.in_picture(
            np.array([-half, half, -half, half]), np.array([above] * 2 + [below] * 2)
        )
        x0, x1 = (min(max(int(v), 0), shape[1]) for v in (np.floor(x.min()), np.ceil(x.max()) + 1))
        y0, y1 = (min(max(int(v), 0), shape[0]) for v in (np.floor(y.min()), np.ceil(y.max()) + 1))
        return y0, y1, x0, x1


def _curve(points: Array, columns: Array) -> Array:
    """y of a line through (N, 2) points at `columns`, level beyond its ends."""
    x = np.maximum.accumulate(points[:, 0])
    return _smooth(np.interp(columns, x, points[:, 1]), 1)


def _smooth(values: Array, sigma: float) -> Array:
    return np.asarray(cv2.GaussianBlur(values[None], (0, 0), sigma, sigmaY=0.01)[0])


class _Columns:
    """Spreads values given by column over the pixels at x (h, w)."""

    def __init__(self, eye: _Eye, x: Floats) -> None:
        step = 2 * REACH * eye.width / (COLUMNS - 1)
        self.at = (x + np.float32(REACH * eye.width)) / np.float32(step)
        self._row = np.zeros_like(self.at)

    def __call__(self, values: Array) -> Floats:
        row = values[None].astype(np.float32)
        return remap(row, self.at, self._row)


class _Surroundings:
    """The picture around one eye, sampled by places in the eye's axes."""

    def __init__(self, picture: Picture, eye: _Eye) -> None:
        self.eye, w = eye, eye.width
        above, below = float(eye.upper.min()) - HEIGHT * w - 2, float(eye.lower.max()) + 0.6 * w
        y0, y1, x0, x1 = eye.box(REACH * w + 2, above, below, picture.shape)
        self.corner, self.pixels = (x0, y0), picture[y0:y1, x0:x1].astype(np.float32)
        size = round(2 * REACH * w / COLUMNS)  # pixels between samples
        averaged = cv2.blur(self.pixels, (size, size)) if size > 1 else self.pixels
        self.averaged = np.asarray(averaged, np.float32)

    def sample(self, x: Array, y: Array) -> Floats:
        """(..., 3) colours, averaged over the distance between samples; x, y: (rows, columns)."""
        return self._read(self.averaged, x, y)

    def grain(self, x: Floats, y: Floats) -> Floats:
        """Fine brightness detail, (h, w), at most a few levels."""
        grey = np.asarray(self.pixels.mean(-1), np.float32)
        sigma = max(1.0, COARSEST * self.eye.width)
        blurred = np.asarray(cv2.GaussianBlur(grey, (0, 0), sigma), np.float32)
        detail = np.clip(grey - blurred, -GRAIN, GRAIN)
        return self._read(detail, x, y)

    def _read(self, image: Floats, x: Array | Floats, y: Array | Floats) -> Floats:
        across, down = self.eye.in_picture(x, y)
        at = (
            (across - self.corner[0]).astype(np.float32),
            (down - self.corner[1]).astype(np.float32),
        )
        return remap(image, *at)


def _lid_skin(around: _Surroundings) -> tuple[Floats, Floats]:
    """Skin above the upper line, without lashes: (ROWS, COLUMNS, 3), from the line to HEIGHT.

    Near the line it is synthesised: of the colour of the lid's brighter parts, and as smooth as a
    shut lid. Above that it is the picture, without what is thin and dark.
    """
    eye, w = around.eye, around.eye.width
    height = np.linspace(0, HEIGHT * w, ROWS)[:, None]
    x = np.broadcast_to(eye.columns, (ROWS, COLUMNS))
    seen = around.sample(x, eye.upper - height)
    closed = cv2.morphologyEx(seen, cv2.MORPH_CLOSE, np.ones((1, 7), np.uint8))  # without lashes
    bare = np.asarray(cv2.GaussianBlur(closed, (7, 1), 0), np.float32)
    zone = np.minimum(SMOOTH * w, 0.6 * eye.strip)
    colour = _lid_colour(around, bare, height)
    blurred = np.maximum(cv2.GaussianBlur(bare, (25, 1), 4), CREASE * colour)
    above = np.clip((height - zone) / (0.06 * w), 0, 1)[..., None]
    near = smoothstep((height / zone - 0.35) / 0.65)[..., None]
    out = colour + near * (blurred + above * (bare - blurred) - colour)
    # Towards the corners, where the lid hardly moves, the picture stays as it is.
    share = _smooth(np.clip(eye.opening / (0.25 * w), 0, 1), 3)[:, None]
    return np.asarray(bare + share * (out - bare), np.float32), bare


def _lid_colour(around: _Surroundings, bare: Floats, height: Array) -> Floats:
    """Colour of a shut lid: (1, COLUMNS, 3)."""
    eye, w = around.eye, around.eye.width
    low, high = np.minimum(0.09 * w, 0.4 * eye.strip), np.minimum(0.26 * w, 0.9 * eye.strip)
    brightness = np.where((height >= low) & (height <= high), bare.mean(-1), np.nan)
    bright = (brightness >= np.nanmedian(brightness, 0))[..., None]
    lid = (bare * bright).sum(0) / bright.sum(0)
    below = eye.lower + np.linspace(0.12, 0.32, 8)[:, None] * w
    cheek = np.median(around.sample(np.broadcast_to(eye.columns, below.shape), below), 0)
    cheek = cv2.GaussianBlur(cheek[None].astype(np.float32), (25, 1), 5)[0]
    lid = lid + IN_SHADOW * np.maximum(cheek - 1.1 * lid, 0)
    return np.asarray(cv2.GaussianBlur(lid[None].astype(np.float32), (25, 1), 5))


@dataclass(frozen=True)
class _Lid:
    """One eye's upper lid in one frame.

    rows: of the box, that it may change. The arrays are over these rows: travel, how far the lid
    has come down; above_edge, each pixel's height above its edge; shown, its share in the picture,
    0 where it does not move.
    """

    rows: slice
    closure: float
    travel: Floats
    above_edge: Floats
    shown: Floats


class _Layers:
    """One eye of the picture, ready to be drawn with any closure and gaze.

    Arrays are float32 over the pixels of `box`: (h, w), or (h, w, 3) where they are colours.
    """

    def __init__(self, picture: Picture, eye: _Eye, around: _Surroundings) -> None:
        w = self.width = np.float32(eye.width)
        self.soft = max(np.float32(1), np.float32(0.02) * w)  # pixels over which an edge is blended
        top, bottom = (eye.upper - eye.strip).min() - 2, eye.lower.max() + BELOW * eye.width + 2
        self.box = eye.box(AROUND * eye.width, float(top), float(bottom), picture.shape)
        y0, y1, x0, x1 = self.box
        self.right, self.down = eye.right.astype(np.float32), eye.down.astype(np.float32)
        self.column, self.row = np.meshgrid(
            np.arange(x1 - x0, dtype=np.float32), np.arange(y1 - y0, dtype=np.float32)
        )
        self.x, self.y = eye.at_pixels(self.box)
        self._place(eye)
        self.seen = picture[y0:y1, x0:x1].astype(np.float32)
        self._separate(eye, around)
        self.texture = self._texture(around)
        within = np.abs(self.x) < w / 2
        moving = (self.rise < self.strip) & (self.depth < np.float32(BELOW) * w) & within
        self.moving = moving.astype(np.uint8)
        self.eyeball = _rows(moving & (self.rise < np.float32(0.1) * w))

    def _place(self, eye: _Eye) -> None:
        """Say of each pixel where it lies between the lids, and how far they travel there."""
        w, opening, spread = eye.width, eye.opening, _Columns(eye, self.x)
        self.rise = spread(eye.upper) - self.y  # above the upper line
        self.depth = self.y - spread(eye.lower)  # below the lower line
        self.travel = spread(MEETING * opening)
        # None at the corners.
        self.overlap = spread(OVERLAP * w * np.minimum(1, opening / (0.07 * w)))
        self.lift = spread((1 - MEETING) * opening)
        self.strip, self.smooth = spread(eye.strip), spread(np.minimum(SMOOTH * w, 0.6 * eye.strip))
        # How far lashes turn: not at the corners, which stay.
        self.pliant = spread(_smooth(np.clip(opening / (0.75 * opening.max()), 0, 1), 2))
        self.slopes = [spread(np.gradient(curve, eye.columns)) for curve in (eye.upper, eye.lower)]
        self.opening = spread(opening)
        self.iris = eye.iris.astype(np.float32)
        self.iris_radius = np.float32(eye.iris_radius)

    def _separate(self, eye: _Eye, around: _Surroundings) -> None:
        """Take what is above the line apart. Folds and lashes are factors, less 1."""
        w = self.width
        at = _Columns(eye, self.x).at, self.rise * np.float32((ROWS - 1) / HEIGHT) / w
        skin, bare = (remap(image, *at) for image in _lid_skin(around))
        share = np.clip((np.float32(0.9) * self.strip - self.rise) / (0.35 * self.strip), 0, 1)
        skin = np.maximum(self.seen + share[..., None] * (skin - self.seen), 4)
        rest = self.seen - skin
        strokes = np.minimum(rest + np.float32(FAINT), 0)
        # Higher up only what is thin is a lash; the rest is a fold, which stays and fades.
        low = np.clip((np.float32(LINER) * w - self.rise) / (np.float32(0.04) * w), 0, 1)
        thin = np.minimum(self.seen - bare + np.float32(FAINT), 0)
        thin = np.maximum(strokes, np.minimum(strokes * low[..., None], thin))
        dark = (skin + strokes) / skin
        self.lashes = thin / skin
        self.folds = (skin + strokes) / (skin + thin) - 1
        near = np.clip((np.float32(1.3) * self.smooth - self.rise) / (0.3 * self.smooth), 0, 1)
        # Bright pixels near the line are the eyeball's, and no part of the lid.
        own = np.clip(self.rise / w / np.float32(EYEBALL) - 1, 0, 1)
        self.grain = np.minimum(rest - strokes, (8 + 60 * own)[..., None]) * near[..., None]
        whole = (self.seen - self.grain) / dark
        self.skin = skin + own[..., None] * (whole - skin)

    def _texture(self, around: _Surroundings) -> Floats:
        """Fine detail for skin that is stretched: that of the skin below the eye, to and fro.

        It lies TEXTURE_AT below where the lid is, so that a shut lid finds it within the box.
        """
        height = self.rise + np.float32(TEXTURE_AT) * self.width
        below = np.abs(np.mod(height, self.width / 2) - self.width / 4)
        below += np.float32(0.12) * self.width
        return around.grain(self.x, self.y - self.depth + below)

    def draw(self, out: Picture, closure: float, shift: tuple[float, float]) -> None:
        """Draw into the picture's own pixels. shift: of the iris, pixels in the eye's axes."""
        travel = np.float32(closure) * self.travel
        if closure > 0:
            travel += np.float32(closure**2) * self.overlap  # late: half shut is half of the eye
        drawn = self._beneath(closure, travel, shift)
        if closure:
            lid = self._lid(closure, travel)
            self._add_lid(drawn[lid.rows], lid)
            self._add_lashes(drawn[lid.rows], lid)
        y0, y1, x0, x1 = self.box
        levels = np.rint(np.clip(drawn, 0, 255)).astype(np.uint8)
        cv2.copyTo(levels, self.moving, out[y0:y1, x0:x1])

    def _lid(self, closure: float, travel: Floats) -> _Lid:
        """Find the rows that the upper lid may change, to leave the others out."""
        above_edge = self.rise + travel
        near = above_edge > -np.float32(EDGE + FADING) * self.width
        rows = _rows(near & (self.moving > 0))
        shown = np.minimum(np.abs(travel[rows]) / self.soft, 1)
        return _Lid(rows, closure, travel[rows], above_edge[rows], shown)

    def _beneath(self, closure: float, travel: Floats, shift: tuple[float, float]) -> Floats:
        """The eyeball and the lower lid: (h, w, 3)."""
        rows, drawn = self.eyeball, self.seen.copy()
        rise, depth, travel = self.rise[rows], self.depth[rows], travel[rows]
        if closure > 0:
            # The lower lid goes up by `lift`, what is below it by less.
            lift, reach = np.float32(closure) * self.lift[rows], np.float32(BELOW) * self.width
            source = (depth + lift) * (reach / (reach + lift))
            down = np.clip(source / self.soft + 1, 0, 1) * (source - depth)
            down[depth > reach] = 0
        else:
            # A lid that opens wider takes the upper half of the eyeball with it.
            half = np.maximum(self.opening[rows] / 2, 1)
            down = -travel * np.clip(1 + (rise + travel) / half, 0, 1)
        right = None
        if any(shift):
            right, further = self._gaze(rise, depth, shift)
            down = down + further
        drawn[rows] = self._read(self.seen, down, rows, right)
        return drawn

    def _gaze(
        self, rise: Floats, depth: Floats, shift: tuple[float, float]
    ) -> tuple[Floats, Floats]:
        """Return the offsets (right, down) from which the eyeball's pixels come."""
        x, y, deep = self.x[self.eyeball], self.y[self.eyeball], np.float32(shift[1])
        inner = np.minimum(-rise, -depth)  # inside the opening, from its edge
        far = np.hypot(x - self.iris[0] - np.float32(shift[0]), y - self.iris[1] - deep)
        fade = (far - np.float32(1.1) * self.iris_radius) / (np.float32(0.2) * self.width)
        share = np.clip(1 - fade, 0, 1)
        across = share * np.clip(inner * (-np.float32(shift[0]) / self.soft), *_between(-shift[0]))
        along = share * np.clip(inner * np.float32(-np.sign(deep) / 2), *_between(-shift[1]))
        # Where the lids slant, a shift to the side leads out of the opening: stay inside.
        upper, lower = (across * slope[self.eyeball] for slope in self.slopes)
        edge = np.minimum(self.soft, np.maximum(inner, 0))
        low, high = rise + upper + edge, -depth + lower - edge
        inside = np.minimum(np.maximum(along, low), np.maximum(high, low))
        return across, np.where(inner > 0, inside, along)

    def _add_lid(self, drawn: Floats, lid: _Lid) -> None:
        """Lay the upper lid over the eyeball."""
        rise, smooth, strip = self.rise[lid.rows], self.smooth[lid.rows], self.strip[lid.rows]
        # Heights above the line from which the skin comes: the synthesised part stretches most,
        # the rest follows a little, and what is higher stays.
        most, rest = (1 - FOLLOWS) * lid.travel, FOLLOWS * lid.travel
        first, second = smooth / (smooth + most), (strip - smooth) / (strip - smooth + rest)
        near, middle = lid.above_edge * first, smooth + (lid.above_edge - smooth - most) * second
        pick = np.maximum if lid.closure > 0 else np.minimum
        source = pick(pick(near, middle), rise)
        skin = self._read(self.skin, rise - source, lid.rows)
        skin += self._read(self.grain, -lid.travel, lid.rows)
        lower = np.float32(TEXTURE_AT) * self.width - lid.travel
        texture = self._read(self.texture, lower, lid.rows)
        skin += three(texture * ((1 - first) * (source == near)))
        shade = np.clip(1 + lid.above_edge / (np.float32(SHADED) * self.width), 0, 1) * lid.shown
        drawn *= three(1 - np.float32(SHADOW * max(lid.closure, 0)) * shade)
        cover = lid.above_edge + np.float32(EDGE) * self.width
        skin *= 1 + self.folds[lid.rows] * np.float32((1 - lid.closure) ** 2)
        skin -= drawn
        skin *= three(np.clip(cover / self.soft + 0.5, 0, 1) * lid.shown)
        drawn += skin

    def _add_lashes(self, drawn: Floats, lid: _Lid) -> None:
        """Darken by the margin of the lid, which is rigid, and by lashes, which turn with it."""
        edge, margin = np.float32(EDGE) * self.width, np.float32(MARGIN) * self.width
        length = 1 - np.float32(LASH_TURN * lid.closure) * self.pliant[lid.rows]
        strength = np.clip(2 * np.abs(length) - np.float32(FORESHORTENED), 0, 1)
        length = np.where(length > 0, np.maximum(length, 0.08), np.minimum(length, -0.08))
        upright, above, below = length > 0, lid.above_edge, lid.above_edge + edge
        on_margin = np.clip((margin - above) / self.soft + 0.5, 0, 1)
        up = np.maximum(np.minimum(above, margin), margin + (above - margin) / length)
        on_lid = np.clip(below / self.soft + 1, 0, 1)  # wherever the lid covers anything
        up_share = on_lid * (on_margin + strength * (1 - on_margin))
        start = np.float32(0.3) * margin
        hanging = np.where(below < 0, start + below / length, np.maximum(above, start))
        fading = np.clip(1 + below / (np.float32(FADING) * self.width), 0, 1)
        fading *= np.float32(HANGING) * strength
        hanging_share = fading + on_lid * (on_margin - fading)
        height = np.where(upright, up, hanging)
        height = np.minimum(np.maximum(height, -edge), self.strip[lid.rows])
        share = np.where(upright, up_share, hanging_share) * lid.shown
        lashes = self._read(self.lashes, self.rise[lid.rows] - height, lid.rows)
        lashes *= three(share)
        drawn += drawn * lashes

    def _read(
        self, image: Floats, down: Floats, rows: slice = EVERY, right: Floats | None = None
    ) -> Floats:
        """Read an image of the box at every pixel of some rows, moved in the eye's axes."""
        x, y = self.column[rows] + down * self.down[0], self.row[rows] + down * self.down[1]
        if right is not None:
            x, y = x + right * self.right[0], y + right * self.right[1]
        return remap(image, x, y)


def _between(end: float) -> tuple[np.float32, np.float32]:
    """The interval between 0 and a number, in order."""
    return np.float32(min(0, end)), np.float32(max(0, end))


def _rows(marked: NDArray[np.bool_]) -> slice:
    """From the first to the last row that has a mark."""
    rows = np.flatnonzero(marked.any(1))
    return slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0)


class EyeRenderer:
    """Draws blinks and gaze shifts of one picture.

    blinks: (2,) bool, whether the eyes left and right can blink. An eye that is shut in the picture
    cannot, nor can eyes behind dark lenses. gaze_limits: (2, 2), the smallest and the largest shift
    of the irises, right and down.
    """

    def __init__(self, picture: Picture, mesh: Array) -> None:
        """picture: (H, W, 3) uint8 RGB. mesh: (478, 2) picture pixels, as the picture shows it."""
        eyes = [_Eye.of(mesh.astype(np.float64), side) for side in range(2)]
        self._layers: list[_Layers | None] = [None, None]
        self._closure = [_reach(eye, picture.shape) for eye in eyes]
        self.gaze_limits = np.zeros((2, 2))
        found = [side for side in range(2) if self._closure[side] > 0]
        around = {side: _Surroundings(picture, eyes[side]) for side in found}
        if found and not _behind_lenses(picture, mesh, list(around.values())):
            for side in found:
                self._layers[side] = _Layers(picture, eyes[side], around[side])
            limits = np.stack([_gaze_limits(eyes[side]) for side in found])
            self.gaze_limits = np.stack([limits[:, 0].max(0), limits[:, 1].min(0)])
        self.blinks: NDArray[np.bool_] = np.array([layer is not None for layer in self._layers])

    def draw(self, out: Picture, lids: Floats, gaze: Floats) -> None:
        """Draw into `out`, in place: a frame whose eyes are still the picture's own.

        lids: (2,), eyes left and right: 0 as in the picture, 1 shut, below 0 wider. gaze: (2,),
        shift of the irises in eye widths, right and down along the eyes' own axes; it is limited.
        """
        right, down = np.clip(gaze, *self.gaze_limits).tolist()
        for layers, lid, most in zip(self._layers, lids.tolist(), self._closure, strict=True):
            closure = min(max(lid, WIDEST), 1.0) * most
            if layers is not None and (closure or right or down):
                layers.draw(out, closure, (right * float(layers.width), down * float(layers.width)))


def _reach(eye: _Eye, shape: tuple[int, ...]) -> float:
    """Return how far an eye can shut, of its opening: 0 if it is shut already, or outside."""
    x, y = eye.middle
    if not (0 <= x < shape[1] and 0 <= y < shape[0] and np.isfinite(eye.upper).all()):
        return 0.0
    share = (float(eye.opening.max()) / eye.width - CLOSED) / (NARROW - CLOSED)
    return float(np.clip(share, 0, 1)) if eye.width >= 3 else 0.0


def _gaze_limits(eye: _Eye) -> Array:
    """(2, 2) eye widths: smallest and largest shift, right and down.

    The white between iris and corner is squeezed to no less than half.
    """
    centre, radius = eye.iris / eye.width, eye.iris_radius / eye.width
    left, right = np.clip([centre[0] - radius + 0.5, 0.5 - centre[0] - radius], 0, None) / 2
    tall = 0.2 * float(eye.opening.max()) / eye.width
    limits = np.array([[-left, -tall], [right, tall]])
    return np.asarray(np.clip(limits, -GAZE_LIMIT, GAZE_LIMIT))


def _behind_lenses(picture: Picture, mesh: Array, eyes: list[_Surroundings]) -> bool:
    """Return whether dark or mirroring lenses hide the eyes.

    No iris stands out from its white or from the skin around, and that skin is of another colour
    than the face's. Eyes in deep shadow look the same, and are left alone as well.
    """
    seen = [found for around in eyes if (found := _contrasts(around)) is not None]
    if not seen:
        return False
    white, skin = (float(np.mean([contrasts[i] for contrasts, _ in seen])) for i in range(2))
    colour = np.mean([colour for _, colour in seen], 0)
    height, width = picture.shape[:2]
    x, y = np.clip(np.rint(mesh[SKIN_POINTS]).astype(int), 0, [width - 1, height - 1]).T
    face = np.median(picture[y, x], 0)
    other = float(np.abs(np.log((colour + 8) / (face + 8))).max())
    return white < LENS_WHITE and abs(skin) < LENS_SKIN and other > LENS_COLOUR


def _contrasts(around: _Surroundings) -> tuple[tuple[float, float], Array] | None:
    """Contrasts of the white to the iris and of the iris to the skin, and the skin's colour (3,).

    None where too little of the eye is seen.
    """
    eye, w = around.eye, around.eye.width
    x, y = np.meshgrid(np.linspace(-0.6, 0.6, 73) * w, np.linspace(-0.5, 0.5, 61) * w)
    upper, lower = (np.interp(x, eye.columns, curve) for curve in (eye.upper, eye.lower))
    seen = around.sample(x, y).astype(np.float64)
    far = np.hypot(x - eye.iris[0], y - eye.iris[1]) / max(eye.iris_radius, 1e-6)
    inset = 0.15 * (lower - upper)
    inside = (y > upper + inset) & (y < lower - inset) & (lower - upper > 0.02 * w)
    lid = (y < upper - 0.12 * w) & (y > upper - 0.25 * w)
    below = (y > lower + 0.1 * w) & (y < lower + 0.3 * w)
    skin = seen[(lid | below) & (np.abs(x) < 0.4 * w)]
    iris, white = (seen[inside & part].mean(-1) for part in (far < 0.85, far > 1.15))
    if min(len(skin), len(iris), len(white)) < 3:
        return None
    colour: Array = np.median(skin, 0)
    dark, light, near = float(np.median(iris)), float(np.percentile(white, 60)), colour.mean()
    return (_contrast(light, dark), _contrast(dark, float(near))), colour


def _contrast(first: float, second: float) -> float:
    """Michelson's contrast of two levels, less in the dark, where noise is a large part of it."""
    return (first - second) / (first + second + 8)
