"""Types of arrays, boxes and paths that modules share. Shapes are written where an array enters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Floats = NDArray[np.float32]
Picture = NDArray[np.uint8]  # (H, W, 3), RGB
Frames = NDArray[np.uint8]  # (T, H, W, 3), RGB
Box = tuple[float, float, float, float]  # of a face: x, y, width, height in picture pixels
FaceChoice = int | Box  # number of a face by size, 1 is the largest; or its box in pixels
Bounds = tuple[int, int, int, int]  # rows and columns of a part of a picture: y0, y1, x0, x1
PathLike = str | Path
