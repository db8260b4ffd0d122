"""Move the whole head of a finished frame: small rotations and shifts in three dimensions, brows.

The mesh with its depth is turned about the skull's joint with the neck. Around it the motion of its
outline is carried outwards, kept over hair and ears, and faded out, so that shoulders, background
and the picture's border stay. All of it is linear in the entries of a matrix: six fields per face.

Fields lie on a coarse grid over the picture, in the face's own axes and interocular units.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.geometry import fit_similarity, invert, rotation, smoothstep, transform
from talkingface.landmarks import (
    BROWS_LOWER,
    BROWS_UPPER,
    EARS,
    FACE_OUTLINE,
    INNER_LIPS,
    JOINT,
    LID_TOPS,
    STABLE_MESH,
    reference_mesh,
)
from talkingface.raster import bounds_where, remap
from talkingface.render.warp import SURFACE, Region, barycentric, extended, triangles
from talkingface.types import Array, Bounds, Floats, Picture

SPACING = 0.08  # interocular: between the nodes of the grid
# Interocular: how far beyond the mesh the skull and its hair move with it, above and beside; and
# over what distance beyond that the motion fades.
HAIR_ABOVE, HAIR_BESIDE, FADE = 0.7, 0.3, 1.3
BORDER = 0.6  # interocular: what is nearer to the picture's border moves less towards and from it
# Radians, interocular, natural logarithm: softly approached, never passed. Beyond them the picture
# would have to show what it does not.
LARGEST = np.array([0.16, 0.19, 0.16, 0.15, 0.15, 0.06])
NARROWEST = 0.15  # interocular: over less than that no motion fades beside another face
STILL = 0.02  # pixels: what moves less is left as it is
BROW_ABOVE, BROW_BELOW = 0.30, 0.5  # interocular; of the distance to the lid: reach of a brow
BROW_LARGEST = 0.1  # interocular
ITERATIONS = 3
_NONE = np.empty(0, np.float32)  # OpenCV's second map, where the first holds both coordinates


class HeadRenderer:
    """Moves finished frames of one picture."""

    def __init__(
        self, shape: tuple[int, ...], mesh: Array, depth: Array, bounds: Bounds | None = None
    ) -> None:
        """shape: of the picture (H, W, ...). mesh: (478, 2) and depth: (478,) in its pixels, as the
        picture shows the face; less depth is nearer. bounds: outside which nothing moves, see
        `frames.PreparedFace`. The nearer they are to the face, the less it moves."""
        whole = 0, shape[0], 0, shape[1]
        self._bounds = whole if bounds is None else bounds
        self._to_face = fit_similarity(mesh[STABLE_MESH], reference_mesh()[STABLE_MESH])
        back = invert(self._to_face)
        self._turn = back[:, :2]  # interocular, the face's axes -> picture pixels
        unit = float(np.hypot(back[0, 0], back[1, 0]))
        self._face = transform(mesh, self._to_face)
        self._depth = (depth - depth[list(EARS)].mean()) / unit
        self._faded = self._fading(mesh, unit, whole)
        self._strength = np.float32(min(self._faded) / (BORDER * unit))
        self._region = self._grid(back, unit)
        self._nodes = self._region.nodes()
        self._fields = self._made_fields(mesh, unit)

    def draw(self, frame: Picture, head: Floats, brows: Floats) -> Picture:
        """A frame (H, W, 3) with its head moved as `Motion.head` (6,) and `brows` (2,) say.

        Returns the frame itself where nothing moves.
        """
        if not head.any() and not brows.any():
            return frame
        move = self._fields @ self._weights(head, brows)
        nodes = self._moved_nodes(move)
        if nodes is None:
            return frame
        (y0, y1, x0, x1), places = self._box(nodes), self._sources(move, nodes)
        out, places = frame.copy(), places[: y1 - y0, : x1 - x0]
        out[y0:y1, x0:x1] = remap(frame, places, _NONE, cv2.INTER_CUBIC)
        return out

    def _weights(self, head: Floats, brows: Floats) -> Floats:
        """Return the fields' factors of one frame: (6, 2), picture pixels."""
        pitch, yaw, roll, x, y, scale = self._strength * LARGEST * np.tanh(head / LARGEST)
        moved = np.exp(scale) * rotation(pitch, yaw, roll)[:2] - np.eye(3)[:2]
        inner, outer = BROW_LARGEST * np.tanh(brows / BROW_LARGEST)
        rows = [*moved.T, (x, y), (0, -inner), (0, -outer)]
        return (np.array(rows) @ self._turn.T).astype(np.float32)

    def _fading(self, mesh: Array, unit: float, whole: Bounds) -> list[float]:
        """Return over how many pixels motion fades at each of the bounds.

        At the picture's borders it is BORDER; elsewhere no more than there is beside the face.
        """
        (left, top), (right, bottom) = mesh[:SURFACE].min(0), mesh[:SURFACE].max(0)
        y0, y1, x0, x1 = self._bounds
        rooms = top - y0, y1 - bottom, left - x0, x1 - right
        return [
            BORDER * unit if own == edge else float(np.clip(room / unit, NARROWEST, BORDER)) * unit
            for own, edge, room in zip(self._bounds, whole, rooms, strict=True)
        ]

    def _grid(self, back: Array, unit: float) -> Region:
        """Return the part of the picture that may move, and its nodes."""
        low, high = self._face[:SURFACE].min(0), self._face[:SURFACE].max(0)
        low = low - FADE - [HAIR_BESIDE, HAIR_ABOVE]
        high = high + FADE + [HAIR_BESIDE, 0]
        corners = np.array([(x, y) for x in (low[0], high[0]) for y in (low[1], high[1])])
        there = transform(corners, back)
        first, last = np.array(self._bounds)[[2, 0]], np.array(self._bounds)[[3, 1]]
        (x0, y0), (x1, y1) = np.clip((there.min(0), there.max(0)), first, last).astype(int)
        step = 2 * int(unit * SPACING / 2) + 1  # odd, see `_sources`
        size = ((y1 - y0 - 1) // step + 2, (x1 - x0 - 1) // step + 2)
        return Region((int(y0), int(y1), int(x0), int(x1)), step, size)

    def _made_fields(self, mesh: Array, unit: float) -> Floats:
        """(rows, columns, 6): three coordinates from the joint, 1, and both ends of the brows."""
        points = np.column_stack([self._face - JOINT, self._depth])[:SURFACE]
        values, inside = self._interpolated(mesh, points)
        carried = extended(values, inside)
        smooth = cv2.GaussianBlur(carried, (0, 0), 1.5)
        carried = np.where(inside[..., None], carried, smooth)
        nodes = transform(self._nodes.astype(np.float64), self._to_face)
        ones = np.ones((*inside.shape, 1), np.float32)
        rigid = np.concatenate([carried, ones], -1) * self._fade(unit)[..., None]
        fields = np.concatenate([rigid, self._brow_fields(nodes)], -1)
        return (fields * self._border()[..., None]).astype(np.float32)

    def _interpolated(self, mesh: Array, values: Array) -> tuple[Floats, NDArray[np.bool_]]:
        """Values of points (468, C) at the grid's nodes, and which nodes lie in the mesh."""
        rows, columns = self._region.shape
        out = np.zeros((rows, columns, values.shape[1]), np.float32)
        inside = np.zeros((rows, columns), bool)
        corners = np.concatenate([triangles(), _MOUTH])
        which, row, column, shares = barycentric(mesh[corners], self._region)
        out[row, column] = np.einsum("nk,nkc->nc", shares, values[corners[which]])
        inside[row, column] = True
        return out, inside

    def _fade(self, unit: float) -> Floats:
        """1 on the head with its hair, 0 at FADE beyond it: (rows, columns)."""
        outline = self._face[FACE_OUTLINE].copy()
        middle, top = outline.mean(0), outline[:, 1].min()
        up = np.clip((middle[1] - outline[:, 1]) / (middle[1] - top), 0, 1)
        side = np.sign(outline[:, 0] - middle[0]) * np.sqrt(up)
        outline += np.column_stack([HAIR_BESIDE * side, -HAIR_ABOVE * up])
        y0, _, x0, _ = self._region.box
        there = (transform(outline, invert(self._to_face)) - [x0, y0]) / self._region.step
        head = np.zeros(self._region.shape, np.uint8)
        cv2.fillConvexPoly(head, cv2.convexHull(np.rint(there).astype(np.int32)), 1)
        distance = cv2.distanceTransform(1 - head, cv2.DIST_L2, 5) * self._region.step / unit
        return _ramp(1 - distance / FADE)

    def _brow_fields(self, nodes: Array) -> Floats:
        """Return how far nodes rise with the brows' inner and outer ends: (rows, columns, 2)."""
        out = np.zeros((*nodes.shape[:2], 2))
        for upper, lower, lid in zip(BROWS_UPPER, BROWS_LOWER, LID_TOPS, strict=True):
            brow = (self._face[upper] + self._face[lower]) / 2  # from the outer end to the inner
            order = np.argsort(brow[:, 0])
            x, y = brow[order].T
            across = nodes[..., 0]
            line = np.interp(across, x, y)
            below = max(float(self._face[lid, 1] - y.mean()), 0.05) * BROW_BELOW
            off = nodes[..., 1] - line
            tall = np.exp(-((off / np.where(off < 0, BROW_ABOVE, below)) ** 2))
            length = abs(brow[-1, 0] - brow[0, 0])
            beyond = np.maximum(np.maximum(x[0] - across, across - x[-1]), 0)
            wide = np.exp(-((beyond / (0.3 * length)) ** 2))
            inward = _ramp((across - brow[0, 0]) / (brow[-1, 0] - brow[0, 0]))
            out += (tall * wide)[..., None] * np.stack([inward, 1 - inward], -1)
        return np.minimum(out, 1).astype(np.float32)

    def _border(self) -> Floats:
        """0 at the bounds, 1 where they are far enough: (rows, columns)."""
        x, y = self._nodes.transpose(2, 0, 1)
        y0, y1, x0, x1 = self._bounds
        sides = y - y0, y1 - 1 - y, x - x0, x1 - 1 - x
        shares = [side / fade for side, fade in zip(sides, self._faded, strict=True)]
        return _ramp(np.minimum.reduce(shares))

    def _inverted(self, move: Floats) -> Floats:
        """Invert the nodes' displacement, by fixed-point iteration."""
        rows, columns = self._region.shape
        down, across = np.mgrid[:rows, :columns].astype(np.float32)
        scale = np.float32(1 / self._region.step)
        flow = -move
        for _ in range(ITERATIONS):
            x, y = across + flow[..., 0] * scale, down + flow[..., 1] * scale
            flow = -remap(move, x, y)
        return flow

    def _moved_nodes(self, move: Floats) -> Bounds | None:
        """Rows and columns of the nodes around what moves more than STILL; None where none does."""
        return bounds_where(np.abs(move).max(-1) > STILL, 1, 2)

    def _box(self, nodes: Bounds) -> Bounds:
        """The pixels between those nodes, within the picture."""
        (top, bottom, left, right), step = self._region.box, int(self._region.step)
        first, last, begin, end = nodes
        return (
            top + step * first,
            min(top + step * (last - 1) + 1, bottom),
            left + step * begin,
            min(left + step * (end - 1) + 1, right),
        )

    def _sources(self, move: Floats, nodes: Bounds) -> Floats:
        """Return the source of each pixel from the first of those nodes on: (rows, columns, 2).

        Enlarged by an odd factor, a node's value lies in the middle of its pixels.
        """
        first, last, begin, end = nodes
        step = int(self._region.step)
        place = np.s_[first:last, begin:end]
        at = (self._nodes + self._inverted(move.astype(np.float32)))[place]
        large = cv2.resize(at, None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR)
        return np.asarray(large[step // 2 :, step // 2 :], np.float32)


def _ramp(values: Array | Floats) -> Floats:
    """Return `smoothstep` as a field, computed in double precision."""
    return np.asarray(smoothstep(np.asarray(values, np.float64)), np.float32)


# The mouth, which `triangles` leaves out: a fan from its left corner.
_MOUTH = np.array([(INNER_LIPS[0], *pair) for pair in pairwise(INNER_LIPS[1:])])
