"""Similarity transforms and the aligned crop.

A similarity is a (2, 3) float64 matrix [sR | t] that maps picture pixels (x, y) to crop pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.landmarks import MEAN_FACE, STABLE
from talkingface.types import Array, Picture


@dataclass(frozen=True)
class CropSpec:
    """Place of an aligned face in its square crop; lives in each model's config.

    size: pixels of the side; eye_distance, eye_y: of the side. Chin margin: the 95th percentile of
    chins ends at eye_y + 2.0 eye_distance, an open mouth adds about 0.3.
    """

    size: int = 128
    eye_distance: float = 0.3125
    eye_y: float = 0.3125

    def template(self) -> Array:
        """(68, 2) crop pixels of the mean face."""
        return (MEAN_FACE * self.eye_distance + [0.5, self.eye_y]) * self.size


def fit_similarity(source: Array, target: Array) -> Array:
    """Least-squares similarity of (N, 2) to (N, 2) points (Umeyama 1991, no reflection): (2, 3)."""
    s, t = source @ [1, 1j], target @ [1, 1j]
    s0, t0 = s.mean(), t.mean()
    spread = float((np.abs(s - s0) ** 2).sum())
    if spread == 0.0:
        raise ValueError("a similarity needs at least two different points")
    a = ((t - t0) * np.conj(s - s0)).sum() / spread
    return _matrix(a, t0 - a * s0)


def _matrix(a: complex, b: complex) -> Array:
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def invert(matrix: Array) -> Array:
    """Return the similarity that undoes `matrix`."""
    a, b = complex(matrix[0, 0], matrix[1, 0]), complex(matrix[0, 2], matrix[1, 2])
    return _matrix(1 / a, -b / a)


def transform(points: Array, matrix: Array) -> Array:
    """Apply a similarity to (..., 2) points."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def compose(first: Array, second: Array) -> Array:
    """Return the similarity that applies `first` and then `second`."""
    return np.column_stack([second[:, :2] @ first[:, :2], transform(first[:, 2], second)])


def resized(scale: float) -> Array:
    """The similarity of a picture's pixels to those of it `scale` times as large.

    Pixels are squares, whose middles are whole numbers.
    """
    shift = 0.5 * scale - 0.5
    return np.array([[scale, 0, shift], [0, scale, shift]])


def crop_matrix(landmarks: Array, spec: CropSpec) -> Array:
    """Return the similarity of a face, (68, 2) picture px, into its crop, by stable points."""
    return fit_similarity(landmarks[STABLE], spec.template()[STABLE])


def smooth_matrices(matrices: Array, window: int = 9) -> Array:
    """(T, 2, 3) similarities smoothed over time with a Hann window of `window` frames.

    Smoothed are log-scale and angle, and where the crop's centre lies in the picture.
    """
    centre = np.array([64.0, 64.0])
    logs = np.log(matrices[:, 0, 0] + 1j * matrices[:, 1, 0])
    inverse = np.stack([transform(centre, invert(m)) for m in matrices])
    tracks = np.column_stack([logs.real, np.unwrap(logs.imag), inverse])
    kernel = np.hanning(window + 2)[1:-1]
    pad = window // 2
    padded = np.pad(tracks, ((pad, pad), (0, 0)), mode="reflect" if len(tracks) > pad else "edge")
    weights = kernel / kernel.sum()
    smooth = np.stack([np.convolve(c, weights, mode="valid") for c in padded.T], axis=1)
    out = []
    for log_scale, angle, x, y in smooth[: len(matrices)]:
        a = np.exp(log_scale + 1j * angle)
        out.append(_matrix(a, complex(*centre) - a * complex(x, y)))
    return np.stack(out)


def warp_crop(picture: Picture, matrix: Array, size: int) -> Picture:
    """The aligned crop, (size, size, 3) uint8; a much larger picture is area-averaged."""
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 0.75:  # shrink first, or the warp would skip pixels
        height, width = picture.shape[:2]
        shrunk = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = cv2.resize(picture, shrunk, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        fx, fy = shrunk[0] / width, shrunk[1] / height
        matrix = matrix.copy()
        matrix[:, 2] += matrix[:, :2] @ [0.5 / fx - 0.5, 0.5 / fy - 0.5]
        matrix[:, 0] /= fx
        matrix[:, 1] /= fy
    out = cv2.warpAffine(
        picture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(out, dtype=np.uint8)


def interpolate(values: Array, found: NDArray[np.bool_]) -> Array:
    """Values (N, ...) of the N frames that `found` (T,) marks -> (T, ...), linear between them."""
    known, times = np.flatnonzero(found), np.arange(len(found))
    columns = values.reshape(len(values), -1).T
    filled = np.stack([np.interp(times, known, column) for column in columns], axis=1)
    return filled.reshape(len(found), *values.shape[1:])


def rotation(pitch: Array, yaw: Array, roll: Array) -> Array:
    """Rotations (..., 3, 3), first yaw, then pitch, then roll, with the signs of `Motion.head`."""
    (a, b, c), (u, v, w) = np.cos([pitch, yaw, roll]), np.sin([pitch, yaw, roll])
    one, nil = np.ones_like(a), np.zeros_like(a)

    def matrices(*entries: Array) -> Array:
        return np.stack(entries, -1).reshape(*np.shape(a), 3, 3)

    turned = matrices(b, nil, -v, nil, one, nil, v, nil, b)
    nodded = matrices(one, nil, nil, nil, a, -u, nil, u, a)
    tilted = matrices(c, -w, nil, w, c, nil, nil, nil, one)
    return np.asarray(tilted @ nodded @ turned)


def smoothstep(values: NDArray[Any]) -> NDArray[Any]:
    """Return 0 up to 0, 1 from 1 on, and 3 x² - 2 x³ between, in the values' own precision."""
    part = np.clip(values, 0, 1)
    return np.asarray(part * part * (3 - 2 * part))
