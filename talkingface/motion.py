"""Motion of a face, frame by frame at 25 fps: the same numbers for every face.

`Motion` is what speech, the head model, blinks and a user's file all come down to, and what the
renderer draws. Everything but the expression is relative to the picture: zero is the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from talkingface.types import Floats

HEAD = ("pitch", "yaw", "roll", "x", "y", "scale")
BROWS = ("inner", "outer")
EYES = ("left", "right")
SIZES = {"head": len(HEAD), "brows": len(BROWS), "lids": len(EYES), "gaze": 2}  # of the parts


@dataclass(frozen=True)
class Motion:
    """Motion of a face: T frames at 25 per second, the same numbers for every face.

    All arrays are float32. All but the expression are relative to the picture: zero is the picture.
    A slice of a motion is a motion, and `len` is T.

    expression: (T, K), coefficients of the lower face (`models.expression.ExpressionSpace`). They
    are absolute: the same vector means closed lips for every face.
    head: (T, 6), rotation, shift and size. Pitch (positive: down), yaw (positive: to the picture's
    right) and roll (positive: clockwise) are in radians. The shift, right and down, is in
    interocular distances. The size is its natural logarithm.
    brows: (T, 2), rise of the inner and outer ends, in interocular distances.
    lids: (T, 2), left and right eye of the picture: 0 as in the picture, 1 shut, below 0 wider.
    gaze: (T, 2), shift of the irises in eye widths, right and down along the eyes' own axes.
    """

    expression: Floats
    head: Floats
    brows: Floats
    lids: Floats
    gaze: Floats

    def __len__(self) -> int:
        return len(self.expression)

    def __getitem__(self, frames: slice | NDArray[np.int64]) -> Motion:
        return Motion(*(getattr(self, part.name)[frames] for part in fields(self)))

    def joined(self, before: Motion, share: Floats) -> Motion:
        """Return the motion mixed with one frame, `before`; share: (T, 1) of its own."""
        mixed = (
            share * getattr(self, part.name) + (1 - share) * getattr(before, part.name)
            for part in fields(self)
        )
        return Motion(*(np.asarray(values, np.float32) for values in mixed))

    @staticmethod
    def still(expression: Floats) -> Motion:
        """Return a motion of the lower face alone, from expressions (T, K)."""
        count = len(expression)
        parts = {name: np.zeros((count, size), np.float32) for name, size in SIZES.items()}
        return Motion(expression, **parts)

    @staticmethod
    def join(parts: Sequence[Motion]) -> Motion:
        """Concatenate motions, in time."""
        return Motion(
            *(np.concatenate([getattr(p, part.name) for p in parts]) for part in fields(Motion))
        )
