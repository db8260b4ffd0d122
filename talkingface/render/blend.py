"""Blend a crop into its picture, at the picture's own resolution."""

from __future__ import annotations

import cv2
import numpy as np

from talkingface.geometry import invert, transform
from talkingface.raster import bounds_around, bounds_where, warp
from talkingface.types import Array, Bounds, Floats, Picture

FEATHER = 0.08  # of the crop's side, over which a crop fades into its picture
SMALLEST = 0.4  # levels: changes below are none


class Blender:
    """Brings crops into one picture. Only where they change something is the picture touched."""

    def __init__(self, shape: tuple[int, ...], matrix: Array, size: int) -> None:
        """shape: (H, W, ...) of the picture. matrix: (2, 3), its pixels to those of the crop, of
        `size` pixels a side."""
        self._shape, self._matrix, self._size = shape[:2], matrix, size
        ramp = np.clip((np.arange(size) + 0.5) / (FEATHER * size), 0, 1)
        edge = np.minimum(ramp, ramp[::-1]).astype(np.float32)
        self._feather = (edge[:, None] * edge[None])[..., None]

    def add(self, out: Picture, change: Floats) -> None:
        """Add a crop's change (S, S, 3), in levels of 255, to `out` in place, feathered."""
        size = np.abs(change)
        changed = np.maximum(np.maximum(size[..., 0], size[..., 1]), size[..., 2]) > SMALLEST
        box = bounds_where(changed, 2, 3)
        if box is not None:
            place, added = self._lifted(change * self._feather, box)
            out[place] = cv2.add(out[place], added, dtype=cv2.CV_8U)

    def replace(self, out: Picture, crop: Picture, own: Picture) -> None:
        """Lay a crop (S, S, 3) over the picture `out` in place, feathered, where it is not what the
        picture's `own` crop shows."""
        new = cv2.dilate((crop != own).any(-1).astype(np.float32), np.ones((5, 5), np.uint8))
        new = cv2.GaussianBlur(new, (5, 5), 0)  # the dilation keeps what is new at 1
        box = bounds_where(new > 0, 2, 3)
        if box is None:
            return
        share = self._feather * new[..., None]
        place, lifted = self._lifted(np.concatenate([crop * share, share], axis=-1), box)
        mixed = out[place] * (1 - lifted[..., 3:]) + lifted[..., :3]
        out[place] = np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)

    def _lifted(self, values: Floats, box: Bounds) -> tuple[tuple[slice, slice], Floats]:
        """A part of the crop at the picture's size, and where it lies in there."""
        top, bottom, left, right = box
        corners = np.array([(x, y) for x in (left, right) for y in (top, bottom)], np.float64) - 0.5
        places = transform(corners, invert(self._matrix))
        y0, y1, x0, x1 = bounds_around(places, self._shape)
        place = self._matrix.copy()
        place[:, 2] += place[:, :2] @ [float(x0), float(y0)] - [left, top]
        part = np.ascontiguousarray(values[top:bottom, left:right])
        lifted = warp(part, place, (x1 - x0, y1 - y0), cv2.BORDER_CONSTANT)
        return np.s_[y0:y1, x0:x1], lifted
