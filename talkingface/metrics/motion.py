"""How a clip moves: where, by optical flow (Song et al. 2019, footnote 2), and how steadily."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def _greys(frames: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) < 2:
        raise ValueError(
            "expected a clip (T, H, W, 3) uint8 of two frames or more, "
            f"got {frames.shape} {frames.dtype}"
        )
    return [np.asarray(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), dtype=np.uint8) for f in frames]


def optical_flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Floats:
    """Farneback's dense flow of two grey pictures (H, W): (H, W, 2), (u, v) in pixels per frame.

    What is at (x, y) in the first is at (x + u, y + v) in the second.
    """
    flow: Any = cv2.calcOpticalFlowFarneback(
        first, second, np.zeros((*first.shape, 2), np.float32), 0.5, 3, 15, 3, 5, 1.2, 0
    )
    return np.asarray(flow, dtype=np.float32)


def _flows(greys: list[NDArray[np.uint8]]) -> Iterator[Floats]:
    for first, second in pairwise(greys):
        yield optical_flow(first, second)


def motion_intensity(frames: NDArray[np.uint8]) -> Floats:
    """The paper's motion map: u^2 + v^2 of the flow between neighbours, averaged over the clip.

    frames: (T, H, W, 3) uint8 RGB, T >= 2. Returns (H, W), squared pixels per frame: bright where
    the clip moves, which on a good clip is the mouth.
    """
    greys = _greys(frames)
    total = np.zeros(frames.shape[1:3], np.float32)
    for flow in _flows(greys):
        total += np.square(flow).sum(-1)
    return np.asarray(total / (len(greys) - 1), dtype=np.float32)


def warp_error(frames: NDArray[np.uint8]) -> float:
    """What motion does not explain: flicker, popping texture. Lower is steadier.

    frames: (T, H, W, 3) uint8 RGB, T >= 2. Each frame's successor is brought back along the flow
    and compared: the mean absolute difference over R, G, B (0-255). Noise of the camera counts too,
    so read it beside the real clip's; a clip that stands still scores about 0.
    """
    greys = _greys(frames)
    height, width = frames.shape[1:3]
    columns, rows = np.meshgrid(
        np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    )
    errors = []
    for flow, (here, following) in zip(_flows(greys), pairwise(frames), strict=True):
        back = cv2.remap(
            following,
            columns + flow[..., 0],
            rows + flow[..., 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        errors.append(np.abs(back.astype(np.float32) - here).mean())
    return float(np.mean(errors))
