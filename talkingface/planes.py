"""Planes of luma and chroma, as video codecs hold pictures, and changes in a part of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from talkingface.types import Bounds, Picture

Plane = NDArray[np.uint8] | NDArray[np.uint16]
# Layouts that are kept: (horizontal, vertical) pixels per sample of chroma, and bits per sample.
LAYOUTS = {
    "yuv420p": (2, 2, 8),
    "yuv422p": (2, 1, 8),
    "yuv444p": (1, 1, 8),
    "yuv420p10le": (2, 2, 10),
    "yuv422p10le": (2, 1, 10),
    "yuv444p10le": (1, 1, 10),
}


@dataclass(frozen=True)
class Layout:
    """Layout of a picture in planes.

    height, width: pixels as stored. pixels: a name of LAYOUTS. full: luma is 0 to 255, not 16 to
    235. matrix: code of ITU-T H.273. turns: quarter turns to the left that make a picture
    upright.
    """

    height: int
    width: int
    pixels: str
    full: bool
    matrix: int
    turns: int


# Weights of red and blue in luma, by matrix (ITU-T H.273, table 4).
_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}


def change_planes(
    planes: list[Plane], layout: Layout, before: Picture, after: Picture, bounds: Bounds
) -> list[Plane]:
    """Return planes with the difference of two pictures added.

    Samples whose pixels are the same in both pictures keep their bits: nothing is converted there.

    before, after: (H, W, 3) uint8 RGB, upright. bounds: y0, y1, x0, x1 of upright pictures, outside
    which they are the same.
    """
    y0, y1, x0, x1 = _stored_bounds(bounds, layout)
    if y0 >= y1 or x0 >= x1:
        return planes
    turned = [np.rot90(own, -layout.turns)[y0:y1, x0:x1] for own in (before, after)]
    wide, high, bits = LAYOUTS[layout.pixels]
    delta = np.subtract(turned[1], turned[0], dtype=np.int16).astype(np.float32)
    luma, chroma = _differences(delta, layout, bits)
    out = [plane.copy() for plane in planes]
    _add(out[0][y0:y1, x0:x1], luma, bits)
    rows, columns = slice(y0 // high, -(-y1 // high)), slice(x0 // wide, -(-x1 // wide))
    padding = ((0, -(y1 - y0) % high), (0, -(x1 - x0) % wide), (0, 0))
    blocks = np.pad(chroma, padding, mode="edge")
    blocks = blocks.reshape(blocks.shape[0] // high, high, blocks.shape[1] // wide, wide, 2)
    for number, plane in enumerate(out[1:]):
        _add(plane[rows, columns], blocks[..., number].mean(axis=(1, 3)), bits)
    return out


def _stored_bounds(bounds: Bounds, layout: Layout) -> Bounds:
    """Bounds in an upright picture to those in the planes, which fall on samples of chroma."""
    y0, y1, x0, x1 = bounds
    height, width = layout.height, layout.width
    stored = {
        0: (y0, y1, x0, x1),
        1: (x0, x1, width - y1, width - y0),
        2: (height - y1, height - y0, width - x1, width - x0),
        3: (height - x1, height - x0, y0, y1),
    }[layout.turns]
    wide, high, _ = LAYOUTS[layout.pixels]
    y0, y1, x0, x1 = stored
    return (
        max(0, y0 // high * high),
        min(height, -(-y1 // high) * high),
        max(0, x0 // wide * wide),
        min(width, -(-x1 // wide) * wide),
    )


def _differences(
    delta: NDArray[np.float32], layout: Layout, bits: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Differences of RGB, (H, W, 3), to those of luma, (H, W), and of chroma, (H, W, 2)."""
    red, blue = _WEIGHTS[layout.matrix]
    unit = (2**bits - 1) / 255 if layout.full else 2 ** (bits - 8)
    luma_scale, chroma_scale = (unit, unit) if layout.full else (unit * 219 / 255, unit * 224 / 255)
    luma = delta @ np.array([red, 1 - red - blue, blue], np.float32)
    cb = (delta[..., 2] - luma) / (2 * (1 - blue))
    cr = (delta[..., 0] - luma) / (2 * (1 - red))
    return luma * luma_scale, np.stack([cb, cr], -1) * chroma_scale


def _add(plane: Plane, difference: NDArray[np.float32], bits: int) -> None:
    changed = np.rint(plane + difference).clip(0, 2**bits - 1)
    plane[...] = changed.astype(plane.dtype)
