"""Warp a picture along its mesh, in two layers: one follows the upper lip, one the lower.

The displacement of the mesh's points gives every node of a coarse grid its own, linearly:
barycentric inside the triangles, carried smoothly beyond them and faded out. Each layer knows only
its own side of the mouth, so that lips part and meet sharply where the layers are cut.

Points and flows are in picture pixels, (x, y); the face's own axes are those of its mesh aligned to
the reference (`landmarks.reference_mesh`), in interocular units.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.geometry import fit_similarity, invert, smoothstep, transform
from talkingface.landmarks import (
    INNER_LIPS,
    LEFT_CORNER,
    LOWER_INNER,
    NOSE_BASE,
    RIGHT_CORNER,
    STABLE_MESH,
    UPPER_INNER,
    reference_mesh,
)
from talkingface.raster import remap, warp
from talkingface.types import Array, Bounds, Floats

SURFACE = 468  # points of the mesh that are no iris

LIPS = (UPPER_INNER, LOWER_INNER)  # the layers' edges
SPACING = 0.04  # interocular: between the nodes of the coarse grid
REACH = 0.45  # interocular: how far beyond the face the motion fades out
ABOVE = 0.35  # interocular above the base of the nose: as far as triangles reach that speech moves
# Interocular: how far lips go past their edges, those that touch in the picture and those that are
# apart, once they have moved by the third.
SEAM, OVERLAP, OVERLAP_FROM = 0.018, 0.022, 0.05
TAPER = np.array([0.4, 0.8, 1, 1, 1, 1, 1, 0.8, 0.4])  # towards the corners, where lips are thin
# From where points go to where pixels come from: the part of the motion in each Newton step.
INVERSIONS = (0.5, 1.0, 1.0, 1.0)
BESIDE = 2.0  # nodes: as far beyond its lip's edge a layer moves as the edge does
LOST = 0.3  # nodes: a node that its last Newton step moved further has found no place
SQUEEZED = 0.15  # least area that a step believes in, of the picture's own


@cache
def triangles() -> NDArray[np.int64]:
    """(N, 3): Delaunay triangles of the reference mesh's surface, but none across the mouth.

    The edges of the inner lips are edges of theirs, also where Delaunay has others (the corners).
    """
    points = reference_mesh()[:SURFACE].astype(np.float32)
    low = points.min(0) - 1
    size = np.ceil(points.max(0) - low + 1)
    plane = cv2.Subdiv2D((0, 0, int(size[0]), int(size[1])))
    known: dict[tuple[float, float], int] = {}
    for index, (x, y) in enumerate((points - low).tolist()):
        plane.insert((x, y))
        known[(x, y)] = index
    found: set[frozenset[int]] = set()
    for x0, y0, x1, y1, x2, y2 in plane.getTriangleList():
        ends = ((x0, y0), (x1, y1), (x2, y2))
        corners = frozenset(known[end] for end in ends if end in known)
        if len(corners) == 3:
            found.add(corners)
    ring, places = INNER_LIPS.tolist(), [complex(x, y) for x, y in points]
    for start, end in pairwise([*ring, ring[0]]):
        _join(found, places, frozenset((start, end)))
    inside = {corners for corners in found if corners <= set(ring)}
    return np.array(sorted(sorted(corners) for corners in found - inside), dtype=np.int64)


def _join(found: set[frozenset[int]], points: list[complex], edge: frozenset[int]) -> None:
    """Make `edge` one of the triangles' edges: flip those that cross it (Sloan 1993)."""
    while not any(edge < corners for corners in found):
        edges = {frozenset(pair) for corners in found for pair in combinations(corners, 2)}
        for crossing in [other for other in edges if _cross(points, edge, other)]:
            sides = [corners for corners in found if crossing < corners]
            turned = frozenset(corner for corners in sides for corner in corners - crossing)
            if _cross(points, crossing, turned):  # the two make a convex shape
                found.difference_update(sides)
                found.update(turned | {corner} for corner in crossing)


def _cross(points: list[complex], first: frozenset[int], second: frozenset[int]) -> bool:
    """Return whether two edges without a common end cross."""
    if first & second:
        return False
    (a, b), (c, d) = ([points[end] for end in edge] for edge in (first, second))
    return _side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0


def _side(a: complex, b: complex, point: complex) -> float:
    """Positive on one side of the line through a and b, negative on the other."""
    return ((b - a).conjugate() * (point - a)).imag


@dataclass(frozen=True)
class Region:
    """A box of the picture and the coarse grid over it.

    box: rows and columns (y0, y1, x0, x1). step: pixels between nodes; node (i, j) lies at
    (x0 + j step, y0 + i step). shape: (rows, columns) of nodes.
    """

    box: Bounds
    step: float
    shape: tuple[int, int]

    def nodes(self) -> Floats:
        """(rows, columns, 2): picture pixels."""
        rows, columns = self.shape
        y = self.box[0] + self.step * np.arange(rows)
        x = self.box[2] + self.step * np.arange(columns)
        return np.stack(np.meshgrid(x, y), -1).astype(np.float32)

    def at_pixels(self, values: Floats, box: Bounds) -> Floats:
        """Values of nodes (rows, columns, C) at the pixels of a box within: (h, w, C)."""
        y0, y1, x0, x1 = box
        scale = 1 / self.step
        place = np.array(
            [[scale, 0, (x0 - self.box[2]) * scale], [0, scale, (y0 - self.box[0]) * scale]]
        )
        return warp(values, place, (x1 - x0, y1 - y0))


@dataclass(frozen=True)
class _Shares:
    """Shares of points in the motion of nodes: a sparse matrix (nodes, points).

    nodes: (R,), that move. starts: (R,), of each one's shares (E,), which are of `points` (E,).
    """

    shape: tuple[int, int]
    nodes: NDArray[np.int64]
    starts: NDArray[np.int64]
    points: NDArray[np.int64]
    shares: Floats

    @staticmethod
    def of(layer: Floats) -> _Shares:
        """layer: (rows, columns, P)."""
        rows, columns, count = layer.shape
        places = np.flatnonzero(layer != 0)
        nodes, points = np.divmod(places, max(count, 1))
        moved, starts = np.unique(nodes, return_index=True)
        return _Shares((rows, columns), moved, starts, points, layer.ravel()[places])

    def __call__(self, step: Floats) -> Floats:
        """(P, 2) -> (rows, columns, 2)."""
        out = np.zeros((self.shape[0] * self.shape[1], 2), np.float32)
        if len(self.nodes):
            parts = np.ascontiguousarray(step.T)[:, self.points] * self.shares
            out[self.nodes] = np.add.reduceat(parts, self.starts, axis=1).T
        return out.reshape(*self.shape, 2)


class FaceGrid:
    """A face in a picture, and the coarse grid over the part of it that speech moves."""

    def __init__(self, mesh: Array, moving: NDArray[np.int64]) -> None:
        """mesh: (478, 2), as the picture shows the face. moving: (P,), the points that may move."""
        self.mesh = mesh.astype(np.float64)
        self.moving = moving
        self.to_face = fit_similarity(self.mesh[STABLE_MESH], reference_mesh()[STABLE_MESH])
        self.to_picture = invert(self.to_face)
        self.unit = float(np.hypot(self.to_picture[0, 0], self.to_picture[1, 0]))
        self.region = self._region()

    def below(self, mesh: Array, side: NDArray[np.int64] | None = None) -> Array:
        """The polygon (N, 2) of what lies below the mouth line, or below one lip's edge."""
        upper, lower = (transform(mesh[lip], self.to_face) for lip in LIPS)
        line = (upper + lower) / 2 if side is None else transform(mesh[side], self.to_face)
        ends = transform(mesh[[LEFT_CORNER, RIGHT_CORNER]], self.to_face)
        far = [ends[0] - [9, 0], ends[0], *line, ends[1], ends[1] + [9, 0]]
        corners = np.array([*far, ends[1] + [9, 9], ends[0] + [-9, 9]])
        return transform(corners, self.to_picture)

    def _overlap(self, mesh: Array) -> Array:
        """Return how far moving lips go past their edges, more where they are apart: (9, 2), down.

        A tracker sees the edges some pixels off; without it a line of teeth, or of the other lip,
        would move with a lip and stay between the two when they close. Down, for the upper lip.
        """
        down = self.to_picture[:, 1] / self.unit
        own, now = (
            (points[LOWER_INNER] - points[UPPER_INNER])[1:-1] @ down for points in (self.mesh, mesh)
        )
        apart, moved = (
            np.clip(size / (OVERLAP_FROM * self.unit), 0, 1) for size in (own, np.abs(own - now))
        )
        amount = (SEAM + (OVERLAP - SEAM) * apart) * moved * TAPER
        step: Array = amount[:, None] * self.unit * down
        return step

    def _region(self) -> Region:
        """The lower face and what is around it, axis-parallel in the picture."""
        face = transform(self.mesh[self.moving], self.to_face)
        low, high = face.min(0) - REACH, face.max(0) + REACH
        low[1] = transform(self.mesh[NOSE_BASE], self.to_face)[1] - ABOVE
        corners = np.array([(x, y) for x in (low[0], high[0]) for y in (low[1], high[1])])
        there = transform(corners, self.to_picture)
        (x0, y0), (x1, y1) = np.floor(there.min(0)).astype(int), np.ceil(there.max(0)).astype(int)
        step = max(self.unit * SPACING, 1.0)
        shape = (int(np.ceil((y1 - y0) / step)) + 1, int(np.ceil((x1 - x0) / step)) + 1)
        return Region((int(y0), int(y1), int(x0), int(x1)), step, shape)

    def _layer(
        self,
        mesh: Array,
        inside: NDArray[np.bool_],
        plain: Floats,
        values: Floats,
        side: NDArray[np.int64],
    ) -> Floats:
        """Return values of points (478, C) at the nodes of one layer: (rows, columns, C).

        mesh: (478, 2) picture pixels, where the points are. inside, plain: nodes in triangles, and
        the values there. A layer knows all but the other side of the mouth, between its corners. A
        node that lies exactly on the edge belongs to its own side; those next to the edge go with
        it.
        """
        face = transform(self.region.nodes().astype(np.float64), self.to_face)
        x, y = _unfolded(transform(mesh[side], self.to_face)).T
        line = np.interp(face[..., 0], x, y)
        between = (face[..., 0] > x[0]) & (face[..., 0] < x[-1])
        off = face[..., 1] - line if side is UPPER_INNER else line - face[..., 1]
        beyond = between & (off > 0)
        near = beyond & (off < BESIDE * self.region.step / self.unit)
        out, known = plain.copy(), (inside & ~beyond) | near
        shares = np.stack([np.interp(face[near, 0], x, one) for one in np.eye(len(side))], 1)
        out[near] = shares @ values[side]
        return extended(out, known)

    def _fade(self, mesh: Array, inside: NDArray[np.bool_]) -> Floats:
        """1 in the face of a mesh, 0 at REACH beyond it: (rows, columns, 1)."""
        hull = np.zeros(self.region.shape, np.uint8)
        origin = [self.region.box[2], self.region.box[0]]
        points = ((mesh[:SURFACE] - origin) / self.region.step).astype(np.float32)
        outline = cv2.convexHull(points)
        cv2.fillConvexPoly(hull, np.rint(outline).astype(np.int32), 1)
        outside = (1 - hull) & ~inside
        distance = cv2.distanceTransform(outside.astype(np.uint8), cv2.DIST_L2, 5)
        part = smoothstep(1 - distance * self.region.step / (REACH * self.unit))
        fade: Floats = part[..., None].astype(np.float32)
        return fade


def _slopes(values: Floats) -> Floats:
    """Return the slopes of values (N, ...) along their first axis, as `np.gradient` does."""
    out = np.empty_like(values)
    out[1:-1] = (values[2:] - values[:-2]) * np.float32(0.5)
    out[0], out[-1] = values[1] - values[0], values[-1] - values[-2]
    return out


def _unfolded(edge: Array) -> Array:
    """A lip's edge (N, 2) from left to right, without the far end that a turned head hides."""
    x, middle = edge[:, 0], len(edge) // 2
    left = np.minimum.accumulate(x[middle::-1])[::-1]
    right = np.maximum.accumulate(x[middle:])
    return np.column_stack([np.concatenate([left, right[1:]]), edge[:, 1]])


class MeshWarp(FaceGrid):
    """Warp of one picture along its mesh: the source of every pixel, for any motion of the mesh."""

    def __init__(self, mesh: Array, moving: NDArray[np.int64]) -> None:
        """See `FaceGrid`. Of `moving`, those points are kept that reach the grid."""
        super().__init__(mesh, moving)
        rows, columns = self.region.shape
        self._rows = np.arange(rows, dtype=np.float32)[:, None].repeat(columns, 1)
        self._columns = np.arange(columns, dtype=np.float32)[None].repeat(rows, 0)
        inside, plain = self._barycentric()
        used = plain.any((0, 1)) | np.isin(moving, INNER_LIPS)
        self.moving, plain = moving[used], plain[..., used]
        points = np.zeros((len(self.mesh), len(self.moving)), np.float32)  # each one's own share
        points[self.moving, np.arange(len(self.moving))] = 1
        fade = self._fade(self.mesh, inside)
        self._layers = [
            _Shares.of(self._layer(self.mesh, inside, plain, points, side) * fade) for side in LIPS
        ]

    def flows(self, mesh: Array) -> tuple[Floats, Floats]:
        """Return both layers' flows, upper and lower: (rows, columns, 2) at the region's nodes.

        mesh: (478, 2), where the points are now. A pixel at p shows the picture's at p + flow.
        """
        moved, overlap = mesh - self.mesh, self._overlap(mesh)
        moved[UPPER_INNER[1:-1]] += overlap
        moved[LOWER_INNER[1:-1]] -= overlap
        step: Floats = moved[self.moving].astype(np.float32)
        upper, lower = (self._inverted(layer(step)) for layer in self._layers)
        return upper, lower

    def _barycentric(self) -> tuple[NDArray[np.bool_], Floats]:
        """Find the nodes in triangles that move, and the share of each moving point in them.

        (rows, columns), and (rows, columns, P).
        """
        column = np.full(len(self.mesh), len(self.moving))  # the last one is of points that stay
        column[self.moving] = np.arange(len(self.moving))
        inside = np.zeros(self.region.shape, bool)
        weights = np.zeros((*self.region.shape, len(self.moving) + 1), np.float32)
        corners = triangles()[(column < len(self.moving))[triangles()].any(1)]
        which, rows, columns, shares = barycentric(self.mesh[corners], self.region)
        weights[rows[:, None], columns[:, None], column[corners[which]]] = shares
        inside[rows, columns] = True
        return inside, weights[..., :-1]

    def _inverted(self, forward: Floats) -> Floats:
        """Invert the displacement of the picture's nodes: the source of each node of a frame.

        Newton's method, node by node, on a part of the motion that grows to the whole.
        """
        move = forward / np.float32(self.region.step)
        x, y = self._columns, self._rows
        known = np.concatenate(
            [move, _slopes(move.swapaxes(0, 1)).swapaxes(0, 1), _slopes(move)], -1
        )
        for number, part in enumerate(INVERSIONS):
            seen: Any = (remap(known, x, y) if number else known) * np.float32(part)
            a, c, b, d = seen[..., 2] + 1, seen[..., 3], seen[..., 4], seen[..., 5] + 1
            size = np.maximum(a * d - b * c, SQUEEZED)
            off_x, off_y = self._columns - x - seen[..., 0], self._rows - y - seen[..., 1]
            x = x + (d * off_x - b * off_y) / size
            y = y + (a * off_y - c * off_x) / size
        flow = np.stack([x - self._columns, y - self._rows], -1) * np.float32(self.region.step)
        lost = np.maximum(np.abs(off_x), np.abs(off_y)) > LOST
        if lost.any():  # the motion folds the picture there
            flow = extended(flow, cv2.dilate(lost.astype(np.uint8), np.ones((3, 3))) == 0)
        return np.asarray(flow, dtype=np.float32)


class BackwardWarp(FaceGrid):
    """Warp of one picture from its mesh to one other: cheap to make, for videos.

    The flow is that of the drawn mesh's points back to the picture's: nothing is inverted.
    """

    def flows(self, mesh: Array) -> tuple[Floats, Floats]:
        """See `MeshWarp.flows`."""
        overlap = self._overlap(mesh)
        back = np.zeros_like(self.mesh)
        back[self.moving] = (self.mesh - mesh)[self.moving]
        back[UPPER_INNER[1:-1]] -= overlap
        back[LOWER_INNER[1:-1]] += overlap
        values = back.astype(np.float32)
        reached = np.isin(triangles(), self.moving).any(1)
        corners = triangles()[reached & _facing(mesh)]
        which, rows, columns, shares = barycentric(mesh[corners], self.region)
        inside = np.zeros(self.region.shape, bool)
        plain = np.zeros((*self.region.shape, 2), np.float32)
        plain[rows, columns] = np.einsum("nk,nkc->nc", shares, values[corners[which]])
        inside[rows, columns] = True
        fade = self._fade(mesh, inside)
        upper, lower = (self._layer(mesh, inside, plain, values, side) * fade for side in LIPS)
        return upper, lower


def _facing(mesh: Array) -> NDArray[np.bool_]:
    """Return which triangles of a mesh are not turned away, as on the far side of a face: (N,)."""
    seen, front = (_area(points[triangles()]) for points in (mesh, reference_mesh()))
    return np.asarray(seen * np.sign(front) >= 0)


def _area(corners: Array) -> Array:
    """Twice the areas of triangles (N, 3, 2), with the sign of their direction."""
    first, second = (corners[:, k] - corners[:, 0] for k in (1, 2))
    return np.asarray(first[:, 0] * second[:, 1] - second[:, 0] * first[:, 1])


def barycentric(
    corners: Array, region: Region
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Array]:
    """Find the nodes of a grid that lie in triangles (N, 3, 2), picture pixels.

    Returns, of each node found: its triangle, the last one where several hold it, its row and
    column (M,), and its barycentric coordinates (M, 3).
    """
    nodes, step = region.nodes(), region.step
    origin, limit = np.array([region.box[2], region.box[0]]), np.array(region.shape[::-1])
    low = np.clip(np.ceil((corners.min(1) - origin) / step - 1e-6), 0, limit).astype(int)
    high = np.clip(np.floor((corners.max(1) - origin) / step + 1), 0, limit).astype(int)
    (a, b), (c, d) = (corners[:, 1] - corners[:, 0]).T, (corners[:, 2] - corners[:, 0]).T
    size = a * d - b * c
    span = np.maximum(high - low, 0) * (np.abs(size) >= 1e-9)[:, None]
    # Every node in the box around a triangle, of all triangles in a row.
    count = span.prod(1)
    which = np.repeat(np.arange(len(corners)), count)
    place = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    rows = low[which, 1] + place // span[which, 0]
    columns = low[which, 0] + place % span[which, 0]
    x, y = (nodes[rows, columns] - corners[which, 0]).T
    first, second = (x * d[which] - y * c[which]), (y * a[which] - x * b[which])
    shares = np.stack([size[which] - first - second, first, second], 1) / size[which, None]
    within = (shares >= -1e-6).all(1)
    which, rows, columns, shares = (v[within] for v in (which, rows, columns, shares))
    owner = np.zeros(region.shape, int)
    owner[rows, columns] = which  # of a node on an edge: the last
    own = owner[rows, columns] == which
    return which[own], rows[own], columns[own], shares[own]


def extended(values: Floats, known: NDArray[np.bool_]) -> Floats:
    """Values (rows, columns, C) where they are known, carried smoothly to where they are not.

    Ring by ring, each node is the weighted mean of its neighbours that have a value.
    """
    rows, columns = known.shape
    out = np.zeros((rows + 2, columns + 2, values.shape[-1]), np.float32)
    filled = np.zeros((rows + 2, columns + 2), np.float32)
    out[1:-1, 1:-1][known], filled[1:-1, 1:-1] = values[known], known
    while True:
        near = cv2.sepFilter2D(filled, -1, _NEAR, _NEAR, borderType=cv2.BORDER_CONSTANT)
        ring = np.argwhere((filled == 0)[1:-1, 1:-1] & (near > 0)[1:-1, 1:-1]) + 1
        if len(ring) == 0:
            return out[1:-1, 1:-1]
        y, x = ring[:, 0, None] + _AROUND[:, 0], ring[:, 1, None] + _AROUND[:, 1]
        share = filled[y, x] * _NEIGHBOUR
        share /= share.sum(1, keepdims=True)
        out[ring[:, 0], ring[:, 1]] = np.einsum("nk,nkc->nc", share, out[y, x])
        filled[ring[:, 0], ring[:, 1]] = 1


_NEAR = np.array([0.25, 0.5, 0.25], np.float32)
_AROUND = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)])
_NEIGHBOUR = np.array([_NEAR[1 + i] * _NEAR[1 + j] for i, j in _AROUND], np.float32)
