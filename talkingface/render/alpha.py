"""Move the opacity of a picture along with its face, and remove its background from its colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from talkingface.render.face import FaceRenderer
from talkingface.render.warp import BackwardWarp, MeshWarp
from talkingface.types import Array, Bounds, Floats, Picture


class AlphaRenderer:
    """Draws the opacity of frames of one picture, with the same fields as their colours."""

    def __init__(self, alpha: NDArray[np.uint8], warp: MeshWarp | BackwardWarp) -> None:
        """alpha: (H, W), 255 is opaque. warp: of the face in the picture."""
        levels = np.ascontiguousarray(np.repeat(alpha[..., None], 3, axis=2))
        self._face = FaceRenderer(levels, warp, _Opaque())

    def draw(self, mesh: Array) -> Picture:
        """Return the opacity (H, W, 3), three times the same, with the points at `mesh`."""
        return self._face.draw(mesh)


class _Opaque:
    """The inside of a mouth: nothing is seen through it."""

    def draw(self, mesh: Array, box: Bounds) -> Floats:
        y0, y1, x0, x1 = box
        return np.full((y1 - y0, x1 - x0, 3), 255, np.float32)


def unmixed(
    picture: Picture, alpha: NDArray[np.uint8], background: tuple[int, int, int]
) -> Picture:
    """Return RGBA (H, W, 4) of which `picture` is what lies on `background`.

    picture: (H, W, 3) uint8 RGB. alpha: (H, W). Where all is seen through, the colour is kept.
    """
    out = np.dstack([picture, alpha])
    rows, columns = np.nonzero((alpha > 0) & (alpha < 255))
    share = alpha[rows, columns, None].astype(np.float32) / 255
    behind = np.array(background, np.float32)
    colour = (picture[rows, columns] - (1 - share) * behind) / share
    out[rows, columns, :3] = np.rint(np.clip(colour, 0, 255)).astype(np.uint8)
    return out
