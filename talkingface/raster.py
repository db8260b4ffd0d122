"""Arrays of pixels: sampling at points or through a matrix, and bounds of their parts."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.types import Array, Bounds, Floats


def remap(
    image: NDArray[Any], x: Floats, y: Floats, interpolation: int = cv2.INTER_LINEAR
) -> NDArray[Any]:
    """An image (h, w[, C]) read at its pixels x, y (rows, columns); its border is repeated."""
    return np.asarray(cv2.remap(image, x, y, interpolation, borderMode=cv2.BORDER_REPLICATE))


def warp(
    image: NDArray[Any], matrix: Array, size: tuple[int, int], border: int = cv2.BORDER_REPLICATE
) -> NDArray[Any]:
    """An image at `matrix` (2, 3) times the pixels of a (width, height), linear between them."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, matrix, size, flags=flags, borderMode=border))


def three(plane: Floats) -> Floats:
    """(h, w) -> (h, w, 3); products of equal shapes are five times as fast as broadcast ones."""
    return np.asarray(cv2.merge([plane, plane, plane]))


def bounds_where(there: NDArray[np.bool_], before: int, after: int) -> Bounds | None:
    """Bounds of what is true in (rows, columns), so much wider; None where nothing is.

    before, after: rows and columns, the second from the last true one on. Clipped to the array.
    """
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    if len(rows) == 0:
        return None
    wide = (rows[0] - before, rows[-1] + after, columns[0] - before, columns[-1] + after)
    y0, y1, x0, x1 = map(int, wide)
    return intersection((y0, y1, x0, x1), (0, there.shape[0], 0, there.shape[1]))


def bounds_around(points: Array, shape: tuple[int, ...]) -> Bounds:
    """Bounds of points (N, 2) within a picture of shape (H, W, ...), never empty."""
    height, width = shape[:2]
    x0, y0 = np.clip(np.floor(points.min(0)).astype(int), 0, [width - 1, height - 1])
    x1, y1 = np.clip(np.ceil(points.max(0)).astype(int) + 1, [x0 + 1, y0 + 1], [width, height])
    return int(y0), int(y1), int(x0), int(x1)


def intersection(a: Bounds, b: Bounds) -> Bounds:
    """The common part of two bounds; of no size where there is none."""
    y0, x0 = max(a[0], b[0]), max(a[2], b[2])
    return y0, max(y0, min(a[1], b[1])), x0, max(x0, min(a[3], b[3]))
