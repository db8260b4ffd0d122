"""Draw one face in its picture with any motion of its mesh: layers, mouth, correction."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.landmarks import INNER_LIPS, OUTER_LIPS
from talkingface.raster import bounds_where, intersection, remap
from talkingface.render.warp import BackwardWarp, MeshWarp
from talkingface.types import Array, Bounds, Floats, Picture

FINE = 4  # fractional bits with which polygons are drawn
STILL = 0.04  # pixels: what moves less is left as it is
MARGIN = 4  # pixels around the lips in which the two layers are blended


class Interior(Protocol):
    """Inside of a mouth, see `render.mouth.MouthInterior`."""

    def draw(self, mesh: Array, box: Bounds) -> Floats:
        """(478, 2) picture pixels and a box -> its pixels (h, w, 3) in [0, 255]."""


class FaceRenderer:
    """Draws frames of one picture; nothing outside the moving region is touched."""

    def __init__(self, picture: Picture, warp: MeshWarp | BackwardWarp, interior: Interior) -> None:
        """picture: (H, W, 3) uint8 RGB. warp: of the face in it. interior: of the mouth."""
        self.picture, self.interior, self.warp = picture, interior, warp
        self.box = intersection(self.warp.region.box, (0, picture.shape[0], 0, picture.shape[1]))
        y0, y1, x0, x1 = self.box
        self._x = np.arange(x0, x1, dtype=np.float32)[None].repeat(y1 - y0, 0)
        self._y = np.arange(y0, y1, dtype=np.float32)[:, None].repeat(x1 - x0, 1)

    def draw(self, mesh: Array) -> Picture:
        """The picture (H, W, 3) with the face's points at `mesh` (478, 2), picture pixels."""
        return self.draw_part(mesh)[0]

    def draw_part(self, mesh: Array) -> tuple[Picture, Bounds]:
        """Return what `draw` returns, and the bounds outside which it is the picture to the bit."""
        out = self.picture.copy()
        upper, lower = self.warp.flows(mesh)
        y0, y1, x0, x1 = box = self._moved_box(upper, lower)
        if y0 < y1 and x0 < x1:
            flow = self.warp.region.at_pixels(upper, box)
            below = self.warp.below(mesh)
            under = min(max(y0, int(below[:, 1].min()) - 1), y1), y1, x0, x1
            if under[0] < y1:
                side = np.zeros((y1 - under[0], x1 - x0), np.uint8)
                _fill(side, below, (x0, under[0]))
                cv2.copyTo(self.warp.region.at_pixels(lower, under), side, flow[under[0] - y0 :])
            out[y0:y1, x0:x1] = self._bent(flow, box)
        mouth = self._mouth_box(mesh)
        if mouth is not None:
            self._part(out, mesh, mouth, upper, lower)
        return out, _union(box, mouth or box)

    def _moved_box(self, upper: Floats, lower: Floats) -> Bounds:
        """Return the box of the pixels that move more than STILL."""
        size = np.maximum(np.abs(upper), np.abs(lower))
        moved = np.maximum(size[..., 0], size[..., 1]) > STILL
        nodes = bounds_where(moved, 1, 1)
        if nodes is None:
            return 0, 0, 0, 0
        step, (top, _, left, _) = self.warp.region.step, self.warp.region.box
        y0, y1 = (int(top + step * row) for row in nodes[:2])
        x0, x1 = (int(left + step * column) for column in nodes[2:])
        return intersection((y0, y1 + 1, x0, x1 + 1), self.box)

    def _part(self, out: Picture, mesh: Array, box: Bounds, upper: Floats, lower: Floats) -> None:
        """Cut the layers along the mouth line, and show what is behind where the lips part."""
        y0, y1, x0, x1 = box
        place, corner = np.s_[y0:y1, x0:x1], (x0, y0)
        above, below = (
            self._bent(self.warp.region.at_pixels(flow, box), box).astype(np.float32)
            for flow in (upper, lower)
        )
        cut = _coverage((y1 - y0, x1 - x0), self.warp.below(mesh), corner)[..., None]
        drawn = above + (below - above) * cut
        hole = _coverage((y1 - y0, x1 - x0), mesh[INNER_LIPS], corner)[..., None]
        if hole.any():
            drawn += (self.interior.draw(mesh, box) - drawn) * hole
        out[place] = np.rint(np.clip(drawn, 0, 255)).astype(np.uint8)

    def _bent(self, flow: Floats, box: Bounds) -> Picture:
        """The picture read at every pixel of a box + flow."""
        y0, y1, x0, x1 = box
        place = np.s_[y0 - self.box[0] : y1 - self.box[0], x0 - self.box[2] : x1 - self.box[2]]
        x, y = flow[..., 0] + self._x[place], flow[..., 1] + self._y[place]
        return remap(self.picture, x, y, cv2.INTER_CUBIC)

    def _mouth_box(self, mesh: Array) -> Bounds | None:
        lips = mesh[OUTER_LIPS]
        (x0, y0), (x1, y1) = np.floor(lips.min(0)) - MARGIN, np.ceil(lips.max(0)) + MARGIN + 1
        box = intersection(self.box, (int(y0), int(y1), int(x0), int(x1)))
        return box if box[0] < box[1] and box[2] < box[3] else None


def _union(a: Bounds, b: Bounds) -> Bounds:
    """The least bounds that hold two others, of which one may be of no size."""
    parts = [part for part in (a, b) if part[0] < part[1] and part[2] < part[3]] or [a]
    y0, y1, x0, x1 = zip(*parts, strict=True)
    return min(y0), max(y1), min(x0), max(x1)


def _fill(image: NDArray[np.uint8], polygon: Array, corner: tuple[int, int]) -> None:
    points = np.rint((polygon - corner) * 2**FINE).astype(np.int32)
    cv2.fillPoly(image, [points], 1, lineType=cv2.LINE_8, shift=FINE)


def _coverage(shape: tuple[int, int], polygon: Array, corner: tuple[int, int]) -> Floats:
    """Return each pixel's coverage by a polygon, in [0, 1]: drawn four times as large, averaged.

    Without its outline, which is a quarter of a pixel wide and would be all of a shut mouth.
    """
    large = np.zeros((4 * shape[0], 4 * shape[1]), np.uint8)
    points = np.rint((polygon - corner + 0.5) * 4 - 0.5).astype(np.int32)
    cv2.fillPoly(large, [points], 255)
    cv2.polylines(large, [points], True, 0)
    small = cv2.resize(large, shape[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) / np.float32(255)
