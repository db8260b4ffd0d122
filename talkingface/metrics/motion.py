"""Motion of a clip: its place by optical flow (Song et al. 2019, footnote 2), and steadiness."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.contract import LANDMARKS
from talkingface.landmarks import LIPS
from talkingface.metrics.lips import REFERENCE_SIZE, PixelBox
from talkingface.types import Array, Floats

NOSE_AND_CHEEKS = (3 / 16, 5 / 16, 13 / 16, 9 / 16)  # left, top, right, bottom, of the crop's side


def optical_flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Floats:
    """Return Farneback's dense flow of two grey pictures (H, W): (H, W, 2), (u, v) in pixels.

    The point (x, y) of the first is at (x + u, y + v) in the second.
    """
    flow: Any = cv2.calcOpticalFlowFarneback(
        first, second, np.zeros((*first.shape, 2), np.float32), 0.5, 3, 15, 3, 5, 1.2, 0
    )
    return np.asarray(flow, dtype=np.float32)


def _flows(frames: NDArray[np.uint8]) -> Iterator[Floats]:
    """Yield the flow of each frame to the next."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) < 2:
        raise ValueError(
            "expected a clip (T, H, W, 3) uint8 of two frames or more, "
            f"got {frames.shape} {frames.dtype}"
        )
    greys = (np.asarray(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), dtype=np.uint8) for f in frames)
    for first, second in pairwise(greys):
        yield optical_flow(first, second)


@dataclass(frozen=True)
class Motion:
    """Motion of one clip.

    intensity: (H, W), the paper's motion map (`motion_intensity`). mouth, rest: its mean inside the
    mouth's box, which speech moves, and outside, which the head and jitter move. warp_error: the
    change that motion does not explain, flicker and popping texture; lower is steadier. Each frame
    is compared with its successor, warped back along the flow: mean absolute difference over R, G,
    B (0-255). Noise of the camera counts too, so compare it with the real clip's.
    """

    intensity: Floats
    mouth: float
    rest: float
    warp_error: float


def clip_motion(frames: NDArray[np.uint8], mouth: PixelBox) -> Motion:
    """Return all measures of the flow of a clip from one pass: the flow is slow to compute.

    frames: (T, H, W, 3) uint8 RGB, T >= 2. mouth: the box of `lips.mouth_box`.
    """
    errors, total = [], np.zeros(frames.shape[1:3], np.float32)
    for flow, (here, following) in zip(_flows(frames), pairwise(frames), strict=True):
        total += np.square(flow).sum(-1)
        errors.append(_unexplained(here, following, flow))
    intensity = np.asarray(total / len(errors), dtype=np.float32)
    return Motion(intensity, *_split(intensity, mouth), float(np.mean(errors)))


def motion_intensity(frames: NDArray[np.uint8]) -> Floats:
    """Return the paper's motion map: u^2 + v^2 of the flow between neighbours, mean over the clip.

    frames: (T, H, W, 3) uint8 RGB, T >= 2. Returns (H, W), squared pixels per frame: high where the
    clip moves, which in a good clip is the mouth. Song et al. 2019, footnote 2.
    """
    total = np.zeros(frames.shape[1:3], np.float32)
    for flow in _flows(frames):
        total += np.square(flow).sum(-1)
    return np.asarray(total / (len(frames) - 1), dtype=np.float32)


def _split(intensity: Floats, box: PixelBox) -> tuple[float, float]:
    inside = np.zeros(intensity.shape, dtype=bool)
    inside[box.top : box.bottom, box.left : box.right] = True
    if inside.all() or not inside.any():
        raise ValueError(f"{box} leaves nothing in or around it of {intensity.shape} pixels")
    return float(intensity[inside].mean()), float(intensity[~inside].mean())


def _unexplained(here: NDArray[np.uint8], following: NDArray[np.uint8], flow: Floats) -> float:
    """Return the mean absolute difference of a frame and its successor warped along the flow."""
    height, width = flow.shape[:2]
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    back = cv2.remap(
        following,
        columns + flow[..., 0],
        rows[:, None] + flow[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return float(np.abs(back.astype(np.float32) - here).mean())


def jitter(landmarks: NDArray[Any], size: int = REFERENCE_SIZE) -> float:
    """Return the jitter of the mouth: mean length of the second difference of its 20 points.

    landmarks: (T, 68, 2) in pixels of a `size` px crop. Returns pixels per frame^2 at 128: 0 for
    lips that are still or move uniformly. Real lips change direction too, so compare it with the
    real clip's. Differences that include a frame without a face are left out; NaN if none is left.
    """
    if landmarks.ndim != 3 or landmarks.shape[1:] != (LANDMARKS, 2):
        raise ValueError(f"expected landmarks (T, {LANDMARKS}, 2), got {landmarks.shape}")
    bends = np.diff(landmarks[:, LIPS].astype(np.float64), n=2, axis=0)
    lengths = np.linalg.norm(bends, axis=-1)
    known = lengths[np.isfinite(lengths).all(1)]
    return float(known.mean()) * REFERENCE_SIZE / size if len(known) else math.nan


def drift(frames: NDArray[np.uint8], picture: NDArray[np.uint8], every: int = 25) -> Array:
    """Return the drift of a face from its identity picture, as a curve over time.

    frames: (T, S, S, 3). picture: (S, S, 3), the identity, an aligned crop. Returns a value per
    `every` frames (the last may have fewer). It is the mean absolute difference, of 255, of their
    mean picture, in which flicker and blinks fade. It is taken from the eyes to the upper lip
    (NOSE_AND_CHEEKS), where generators draw and speech moves little. 0 is the identity's own face.
    """
    if frames.ndim != 4 or frames.shape[1:] != picture.shape or not len(frames) or every < 1:
        raise ValueError(
            "expected a clip (T, S, S, 3), its picture (S, S, 3) and every 1 or more, "
            f"got {frames.shape}, {picture.shape} and {every}"
        )
    still = PixelBox(*(round(share * len(picture)) for share in NOSE_AND_CHEEKS))
    region, own = still.cut(frames), still.cut(picture).astype(np.float64)
    blocks = [region[first : first + every] for first in range(0, len(region), every)]
    return np.array([np.abs(block.mean(0, dtype=np.float64) - own).mean() for block in blocks])
