"""Similarity of generated and real lip motion: aperture, landmark distance, reading accuracy.

Landmarks are (T, 68, 2) in pixels, iBUG order, detected on the finished frames. A frame in which no
face was found is a row of NaN: it is left out of both clips, and counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from talkingface.contract import LANDMARKS
from talkingface.landmarks import EYES, INNER_BOTTOM, INNER_TOP, LIPS, MOUTH_CORNERS
from talkingface.models.lipreader import MouthSpec
from talkingface.types import Array

EQUAL = 1e-9  # correlations that differ by less are equal: rounding does not decide
REFERENCE_SIZE = 128  # pixels: the crop side at which landmark distances are quoted


def _check(*tracks: NDArray[Any]) -> None:
    shapes = [track.shape for track in tracks]
    if len(set(shapes)) != 1 or len(shapes[0]) != 3 or shapes[0][1:] != (LANDMARKS, 2):
        raise ValueError(f"expected landmarks (T, {LANDMARKS}, 2), as many for each: got {shapes}")


def interocular(landmarks: NDArray[Any]) -> Array:
    """Return the distance (T,) of the eye centres, means of points 36-41 and 42-47 of 68."""
    _check(landmarks)
    points = landmarks.astype(np.float64)
    left, right = (points[:, eye].mean(1) for eye in EYES)
    apart = left - right
    return np.asarray(np.linalg.norm(apart, axis=-1))


def aperture(landmarks: NDArray[Any]) -> Array:
    """Return the gap (T,) of the inner lips, points 62 and 66, in interocular distances."""
    _check(landmarks)
    gap = landmarks[:, INNER_TOP].astype(np.float64) - landmarks[:, INNER_BOTTOM]
    return np.asarray(np.linalg.norm(gap, axis=-1) / interocular(landmarks))


def _finite(generated: NDArray[Any], real: NDArray[Any]) -> tuple[Array, Array]:
    if generated.shape != real.shape or real.ndim != 1:
        raise ValueError(f"expected two curves (T,), got {generated.shape} and {real.shape}")
    found = np.isfinite(generated) & np.isfinite(real)
    return generated[found].astype(np.float64), real[found].astype(np.float64)


def correlation(generated: NDArray[Any], real: NDArray[Any]) -> float:
    """Return Pearson's r of two curves (T,) over the frames in which both are finite.

    NaN if it is undefined: for a constant curve (a still picture), or under two frames.
    """
    first, second = _finite(generated, real)
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])


def amplitude_ratio(generated: NDArray[Any], real: NDArray[Any]) -> float:
    """Return the standard deviation of a curve (T,) over the real one's; NaN if that is 0."""
    first, second = _finite(generated, real)
    if len(first) == 0 or np.ptp(second) == 0:
        return math.nan
    return float(first.std() / second.std())


def lag(generated: NDArray[Any], real: NDArray[Any], reach: int = 5) -> float:
    """Return the lag of the generated curve (T,) in frames; negative if it is early.

    It is the shift within +-`reach` with the largest correlation, the smallest of equals (of +k and
    -k the early one). A shift that leaves fewer than 2 `reach` frames finite in both does not
    count. NaN if no shift counts, a curve is constant, or no correlation is positive.
    """
    if generated.shape != real.shape or real.ndim != 1 or reach < 1:
        raise ValueError(
            f"expected two curves (T,) and a reach of 1 or more, got {generated.shape}, "
            f"{real.shape} and {reach}"
        )
    best, found = math.nan, 0.0
    for shift in sorted(range(-reach, reach + 1), key=abs):
        late, on_time = generated[max(0, shift) :], real[max(0, -shift) :]
        common = min(len(late), len(on_time))
        first, second = _finite(late[:common], on_time[:common])
        likeness = correlation(first, second) if len(first) >= 2 * reach else math.nan
        if likeness > found + EQUAL:
            best, found = float(shift), likeness
    return best


@dataclass(frozen=True)
class LandmarkDistance:
    """LMD of the 20 mouth points; each frame's mean of all 68 points is subtracted first.

    pixels: mean over points and frames, in pixels of a 128 px crop; interocular: the same in the
    real face's interocular distances; author_sum: summed over the points, not averaged, as
    ATVGnet's published script does; missed: frames without a face, which are left out.
    """

    pixels: float
    interocular: float
    author_sum: float
    missed: int


def landmark_distance(
    generated: NDArray[Any], real: NDArray[Any], size: int = REFERENCE_SIZE
) -> LandmarkDistance:
    """Return LMD (Chen et al. 2018) of two tracks (T, 68, 2) in pixels of a `size` px crop."""
    _check(generated, real)
    found = np.isfinite(generated).all((1, 2)) & np.isfinite(real).all((1, 2))
    missed = int((~found).sum())
    if not found.any():
        return LandmarkDistance(math.nan, math.nan, math.nan, missed)
    first, second = (track[found].astype(np.float64) for track in (generated, real))
    first_mouth, second_mouth = (t[:, LIPS] - t.mean(1, keepdims=True) for t in (first, second))
    apart = np.linalg.norm(first_mouth - second_mouth, axis=-1)
    pixels = apart * REFERENCE_SIZE / size
    return LandmarkDistance(
        float(pixels.mean()),
        float((apart.mean(1) / interocular(second)).mean()),
        float(pixels.sum(1).mean()),
        missed,
    )


class PixelBox(NamedTuple):
    """A box of whole pixels; right and bottom are the first column and row outside."""

    left: int
    top: int
    right: int
    bottom: int

    def cut(self, frames: NDArray[Any]) -> NDArray[Any]:
        """Return the view (..., bottom - top, right - left, 3) of frames (..., H, W, 3)."""
        return frames[..., self.top : self.bottom, self.left : self.right, :]


def mouth_box(landmarks: NDArray[Any], size: int, spec: MouthSpec | None = None) -> PixelBox:
    """Return one box per clip for PSNR and SSIM of the mouth, inside the `size` px crop.

    landmarks: (T, 68, 2) pixels of the real clip. The box is around the mean of the mouth corners'
    middles; its size is a lip reader's (48 x 36 px of 128).
    """
    _check(landmarks)
    spec = spec or MouthSpec()
    left, right = MOUTH_CORNERS
    middles = (landmarks[:, left] + landmarks[:, right]) / 2
    found = np.isfinite(middles).all(1)
    if not found.any():
        raise ValueError("no frame has landmarks: there is no mouth to box")
    x, y = middles[found].mean(0)
    width = round(2 * spec.half_width * size)
    height = round((spec.above + spec.below) * size)
    left = min(max(0, round(float(x) - spec.half_width * size)), size - width)
    top = min(max(0, round(float(y) - spec.above * size)), size - height)
    return PixelBox(left, top, left + width, top + height)


def reading_accuracy(logits: NDArray[Any], labels: NDArray[Any], top: int = 1) -> float:
    """Return LRA: the share of clips whose word is among the reader's `top` likeliest.

    logits: (N, words); labels: (N,), -1 for a clip without a word, which does not count. NaN if no
    clip has a word. A tie for the last rank counts as wrong.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"expected (N, words) and (N,), got {logits.shape} and {labels.shape}")
    known = labels >= 0
    if not known.any():
        return math.nan
    own = logits[known, labels[known]]
    rivals = (logits[known] >= own[:, None]).sum(1)  # itself included
    return float((rivals <= top).mean())
