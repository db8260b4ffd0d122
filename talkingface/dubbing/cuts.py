"""Find cuts in a video: frames that look nothing like the frame before."""

from __future__ import annotations

import cv2
import numpy as np

from talkingface.types import Array, Picture

_SIZE = (32, 18)  # columns and rows of the small picture
_READ = 180  # rows that are read for it, at least
_LEAST, _TIMES = 16.0, 4.0  # levels of 255; of the usual difference of two frames
_USUAL = 0.9  # how slowly the usual difference follows


class CutDetector:
    """Compares every frame with the one before."""

    def __init__(self, state: Array | None = None) -> None:
        """state: of a detector before, to go on."""
        self._before: Array | None = None
        self._usual = 0.0
        if state is not None and len(state):
            self._before, self._usual = state[:-1], float(state[-1])

    def add(self, picture: Picture) -> bool:
        """Return whether a new shot begins with this frame, (H, W, 3) uint8 RGB.

        The first frame begins none.
        """
        step = max(1, min(picture.shape[:2]) // _READ)
        part = np.ascontiguousarray(picture[::step, ::step])
        small = cv2.resize(part, _SIZE, interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
        if self._before is None:
            self._before = small
            return False
        off = float(np.abs(small - self._before).mean())
        self._before = small
        cut = off > max(_LEAST, _TIMES * self._usual)
        if not cut:
            self._usual = _USUAL * self._usual + (1 - _USUAL) * off
        return cut

    def state(self) -> Array:
        """Return everything that decides what follows, (N,)."""
        return np.zeros(0) if self._before is None else np.append(self._before, self._usual)
