"""Similarity transforms, the aligned crop, and the way back into the picture.

A similarity is a (2, 3) float64 matrix [sR | t] that maps picture pixels (x, y) to crop pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Picture = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # rows and columns of a crop: top, bottom, left, right

# The mean face: median of 362 synthetic portraits and 81 GRID frames (iBUG order), eye centres at
# (-0.5, 0) and (0.5, 0), mirrored and averaged. Unit: the distance of the eye centres.
MEAN_FACE: Array = np.array([
    (-1.075, 0.043), (-1.065, 0.263), (-1.046, 0.489), (-0.948, 0.923),
    (-0.854, 1.117), (-0.736, 1.369), (-0.479, 1.605), (-0.197, 1.751),
    (0.000, 1.774), (0.197, 1.751), (0.479, 1.605), (0.736, 1.369),
    (0.854, 1.117), (0.948, 0.923), (1.046, 0.489), (1.065, 0.263),
    (1.075, 0.043), (-0.889, -0.235), (-0.795, -0.319), (-0.645, -0.363),
    (-0.452, -0.349), (-0.228, -0.316), (0.228, -0.316), (0.452, -0.349),
    (0.645, -0.363), (0.795, -0.319), (0.889, -0.235), (0.000, -0.047),
    (0.000, 0.205), (0.000, 0.434), (0.000, 0.574), (-0.209, 0.704),
    (-0.125, 0.756), (0.000, 0.765), (0.125, 0.756), (0.209, 0.704),
    (-0.698, -0.006), (-0.602, -0.063), (-0.440, -0.072), (-0.270, 0.031),
    (-0.416, 0.054), (-0.573, 0.057), (0.270, 0.031), (0.440, -0.072),
    (0.602, -0.063), (0.698, -0.006), (0.573, 0.057), (0.416, 0.054),
    (-0.394, 1.096), (-0.231, 1.004), (-0.119, 0.971), (0.000, 0.996),
    (0.119, 0.971), (0.231, 1.004), (0.394, 1.096), (0.227, 1.247),
    (0.124, 1.286), (0.000, 1.296), (-0.124, 1.286), (-0.227, 1.247),
    (-0.358, 1.095), (-0.098, 1.089), (0.000, 1.095), (0.098, 1.089),
    (0.358, 1.095), (0.098, 1.127), (0.000, 1.133), (-0.098, 1.127),
])  # fmt: skip

# iBUG indices after a left-right mirror: MIRROR[i] is the point that lands on point i's place.
MIRROR = np.array(
    [
        *(*range(16, -1, -1), *range(26, 16, -1)),
        *(27, 28, 29, 30, *range(35, 30, -1)),
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
        *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),
    ]
)

# Points that speech does not move: brows, nose bridge, eyes.
STABLE = np.array([*range(17, 31), *range(36, 48)])


@dataclass(frozen=True)
class CropSpec:
    """Where an aligned face sits in its square crop; lives in each model's config.

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
    """The similarity that undoes `matrix`."""
    a, b = complex(matrix[0, 0], matrix[1, 0]), complex(matrix[0, 2], matrix[1, 2])
    return _matrix(1 / a, -b / a)


def transform(points: Array, matrix: Array) -> Array:
    """Apply a similarity to (..., 2) points."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def crop_matrix(landmarks: Array, spec: CropSpec) -> Array:
    """The similarity that brings a face, (68, 2) picture px, into its crop, by stable points."""
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


_MEAN = np.full(3, 1 / 3, np.float32)  # of the three colours


class Paster:
    """Puts generated crops back into their picture, feathered.

    The picture itself is bent along the model's flow, so that lips that move keep the detail of a
    large picture; what the crop changed beyond that is added. Where that is much (the inside of an
    open mouth), the picture's own detail would be a ghost of the closed one and gives way.

    Everything is decided in the crop, where pixels are few; only what it changes is brought up to
    the picture, and only there is the picture touched.
    """

    def __init__(
        self,
        picture: Picture,
        matrix: Array,
        crop: Picture,
        feather: float = 0.08,
    ) -> None:
        """picture: (H, W, 3) RGB; matrix: picture -> crop; crop: the identity's own, (S, S, 3)."""
        size = crop.shape[0]
        self._picture, self._matrix = picture, matrix
        self._crop = crop.astype(np.float32)
        ramp = np.clip((np.arange(size) + 0.5) / (feather * size), 0, 1)
        edge = (ramp * ramp[::-1]).astype(np.float32)
        self._feather = edge[:, None] * edge[None]
        self._to_picture = np.linalg.inv(matrix[:, :2]).T.astype(np.float32)
        self._crop_grid = _grid(0, size, 0, size)
        scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))  # crop pixels per picture pixel
        self._enlarged = int(np.clip(round(1 / scale), 1, 6))

    def __call__(self, generated: Picture, flow: NDArray[np.float32] | None = None) -> Picture:
        """The whole picture with this generated crop (S, S, 3) in it.

        flow: (S, S, 2) crop pixels, where the model took each pixel of the identity from, minus its
        own place (`Generated.flow`); None where a model does not bend.
        """
        out = self._picture.copy()
        if flow is not None:
            moved = np.einsum("yxc,cd->dyx", flow, self._to_picture)
            bent, box = self._bend_crop(flow), _box(np.abs(moved).max(0) > 0.02)  # pixels
            if box is not None:
                self._bend(out, moved, box)
        else:
            bent = self._crop
        change = cv2.subtract(generated, bent, dtype=cv2.CV_32F)
        size = np.abs(change) @ _MEAN
        way = np.clip((cv2.GaussianBlur(size, (0, 0), 2.0) - 4.0) / 12.0, 0, 1) * self._feather
        if (box := _box(way > 0.01)) is not None:  # first: it needs the picture without the change
            place, share = self._lift(way, box)
            lost = self._lift(bent, box)[1] - out[place]
            out[place] = cv2.add(out[place], lost * share[..., None], dtype=cv2.CV_8U)
        if (box := _box(size > 1.0)) is not None:
            place, added = self._lift(change * self._feather[..., None], box)
            out[place] = cv2.add(out[place], added, dtype=cv2.CV_8U)
        return out

    def _bend_crop(self, flow: NDArray[np.float32]) -> NDArray[np.float32]:
        x, y = (np.ascontiguousarray(self._crop_grid[..., k] + flow[..., k]) for k in (0, 1))
        return np.asarray(_remap(self._crop, x, y))

    def _bend(self, out: Picture, moved: NDArray[np.float32], box: Box) -> None:
        """The picture itself, read `moved` (2, S, S) picture pixels away."""
        y0, y1, x0, x1 = self._region(*box)
        place, shape = self._placed(box, (y0, x0), 1), (x1 - x0, y1 - y0)
        x, y = (_up(axis[box[0] : box[1], box[2] : box[3]], place, shape) for axis in moved)
        x += np.arange(x0, x1, dtype=np.float32)
        y += np.arange(y0, y1, dtype=np.float32)[:, None]
        out[y0:y1, x0:x1] = _remap(self._picture, x, y)

    def _lift(
        self, values: NDArray[np.float32], box: Box
    ) -> tuple[tuple[slice, slice], NDArray[np.float32]]:
        """A part of the crop at the picture's size, and where it lies in there.

        Enlarged smoothly to about that size first (fast), so that what is left is nearly a shift.
        """
        top, bottom, left, right = box
        part = values[top:bottom, left:right]
        size = (self._enlarged * (right - left), self._enlarged * (bottom - top))
        large = cv2.resize(part, size, interpolation=cv2.INTER_CUBIC)
        y0, y1, x0, x1 = self._region(*box)
        place = self._placed(box, (y0, x0), self._enlarged)
        return np.s_[y0:y1, x0:x1], _up(np.asarray(large, np.float32), place, (x1 - x0, y1 - y0))

    def _region(self, top: int, bottom: int, left: int, right: int) -> tuple[int, int, int, int]:
        """Rows and columns (y0, y1, x0, x1) of the picture that show this part of the crop."""
        corners = np.array([(x, y) for x in (left, right) for y in (top, bottom)], np.float64) - 0.5
        places = transform(corners, invert(self._matrix))
        height, width = self._picture.shape[:2]
        x0, y0 = np.clip(np.floor(places.min(0)).astype(int), 0, [width - 1, height - 1])
        x1, y1 = np.clip(np.ceil(places.max(0)).astype(int) + 1, [x0 + 1, y0 + 1], [width, height])
        return int(y0), int(y1), int(x0), int(x1)

    def _placed(self, box: Box, origin: tuple[int, int], enlarged: int) -> Array:
        """(2, 3): from pixels of the picture's region to those of the enlarged part of the crop."""
        out = self._matrix.copy()
        out[:, 2] += out[:, :2] @ [float(origin[1]), float(origin[0])]
        out[:, 2] -= [box[2], box[0]]
        out *= enlarged
        out[:, 2] += (enlarged - 1) / 2
        return out


def _grid(y0: int, y1: int, x0: int, x1: int) -> NDArray[np.float32]:
    """(y1 - y0, x1 - x0, 2): (x, y) of every pixel."""
    return np.stack(np.meshgrid(np.arange(x0, x1), np.arange(y0, y1)), -1).astype(np.float32)


def _box(there: NDArray[np.bool_]) -> Box | None:
    """(top, bottom, left, right) of what is true, two pixels wider; None where nothing is."""
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    if len(rows) == 0:
        return None
    (top, bottom), (left, right) = ((int(at[0]) - 2, int(at[-1]) + 3) for at in (rows, columns))
    height, width = there.shape
    return max(0, top), min(height, bottom), max(0, left), min(width, right)


def _up(values: NDArray[np.float32], place: Array, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Values of a part of the crop at every pixel of a region of `shape` (width, height)."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(values, place, shape, flags=flags), dtype=np.float32)


def _remap(picture: NDArray[Any], x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[Any]:
    """The picture's pixels at (H, W) fractional places."""
    out = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out)
