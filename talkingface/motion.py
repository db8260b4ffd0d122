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
    """T frames of motion, all float32.

    expression: (T, K), absolute coefficients of `models.expression.ExpressionSpace`: the same
    vector means closed lips for everybody.
    head: (T, 6), HEAD: rotation in radians (pitch positive where the face looks down, yaw where it
    looks to the picture's right, roll clockwise), shift in interocular distances (right, down), and
    the natural logarithm of the size.
    brows: (T, 2), how far the inner and the outer ends are raised, interocular distances.
    lids: (T, 2), EYES of the picture: 0 as the picture shows them, 1 shut, below 0 wider.
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

    @staticmethod
    def still(expression: Floats) -> Motion:
        """Move the lower face alone: expressions (T, K)."""
        count = len(expression)
        parts = {name: np.zeros((count, size), np.float32) for name, size in SIZES.items()}
        return Motion(expression, **parts)

    @staticmethod
    def join(parts: Sequence[Motion]) -> Motion:
        """Lay motions one after the other."""
        return Motion(
            *(np.concatenate([getattr(p, part.name) for p in parts]) for part in fields(Motion))
        )
