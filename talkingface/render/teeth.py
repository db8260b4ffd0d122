"""A bank of teeth from synthetic portraits, and the choice of one for a face.

A set is straightened: columns run across the face, rows down from the lip; the edge of the upper
teeth is one row, and so is that of the lower teeth. Colours are as in neutral light: their level
and tint are set by the face that they are drawn into. `tools/make_teeth.py` makes the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.landmarks import CHIN, FOREHEAD, GAP_TOP, INNER_CORNERS, eye_distance
from talkingface.types import Floats, Picture

FILE = Path(__file__).with_name("teeth.npz")

# A set's pixels: 160 to the eye distance. Rows of the upper teeth above their edge and below it.
SCALE = 160
WIDTH, UPPER_ROWS, UPPER_EDGE, LOWER_ROWS, LOWER_EDGE = 176, 44, 36, 32, 6
LEVEL = 200.0  # brightness (75th percentile) of the teeth of every set, of 255

LUMA = np.array([0.299, 0.587, 0.114], np.float32)

# Patches of cheek to either side of the nose.
_LEFT_SKIN, _RIGHT_SKIN = (50, 205, 118), (280, 425, 347)
_PATCH = 0.05  # interocular: half the side of a patch of skin

# How much each number of a description counts where a set is chosen, by its spread over faces.
_SPREAD = np.array([0.35, 0.25, 0.03, 0.12, 0.15, 60.0])


@dataclass(frozen=True)
class FaceLight:
    """Light and shape of a face.

    skin: (3,) colour of the cheeks in [0, 255]; left, right: their brightness.
    roundness: eye distance over the face's height, larger in children. mouth:
    width over eye distance. turn: the mouth's right half less its left one, over their sum.
    sharpness: pixels to the eye distance.
    """

    skin: Floats
    left: float
    right: float
    roundness: float
    mouth: float
    turn: float
    sharpness: float

    def numbers(self) -> Floats:
        """Return what sets are compared by: (6,)."""
        return np.array(
            [
                np.log(max(1.0, float(self.skin @ LUMA))),
                np.log(max(1.0, self.right) / max(1.0, self.left)),
                self.roundness,
                self.mouth,
                self.turn,
                min(self.sharpness, 160.0),
            ],
            np.float32,
        )


@dataclass(frozen=True)
class TeethSet:
    """One set: RGB in [0, 255] and alpha in [0, 1] beside it, (rows, WIDTH, 4) each."""

    upper: Floats
    lower: Floats


@dataclass(frozen=True)
class TeethBank:
    """All sets. upper: (N, UPPER_ROWS, WIDTH, 4), lower: (M, LOWER_ROWS, WIDTH, 4) uint8.

    numbers: (N, 6), see `FaceLight.numbers`; lower_numbers: (M, 6).
    """

    upper: Picture
    lower: Picture
    numbers: Floats
    lower_numbers: Floats

    def choose(self, face: FaceLight) -> TeethSet:
        """Return the upper and the lower teeth that fit a face best."""
        wanted = face.numbers()
        upper, lower = (
            _as_floats(teeth[int(_distance(numbers, wanted).argmin())])
            for teeth, numbers in ((self.upper, self.numbers), (self.lower, self.lower_numbers))
        )
        return TeethSet(upper, lower)


def _distance(numbers: Floats, wanted: Floats) -> Floats:
    """Squared distances of (N, 6) from (6,); a set sharper than the face is as good as it."""
    apart = (numbers - wanted) / _SPREAD
    apart[:, -1] = np.minimum(apart[:, -1], 0)
    out: Floats = np.square(apart).sum(1)
    return out


def _as_floats(teeth: Picture) -> Floats:
    out = teeth.astype(np.float32)
    out[..., 3] /= 255
    return out


@cache
def bank() -> TeethBank:
    """Return the bank that comes with the package."""
    return read_bank(FILE)


def read_bank(path: Path) -> TeethBank:
    """Read a bank's file. Raises ValueError where it holds other things."""
    with np.load(path, allow_pickle=False) as file:
        parts = {name: file[name] for name in file.files}
    rows = {"upper": UPPER_ROWS, "lower": LOWER_ROWS}
    sets: dict[str, Picture] = {}
    for name, count in rows.items():
        colour = cv2.imdecode(parts[f"{name}_colour"], cv2.IMREAD_COLOR)
        alpha = cv2.imdecode(parts[f"{name}_alpha"], cv2.IMREAD_GRAYSCALE)
        if colour is None or alpha is None:
            raise ValueError(f"{path}: not a bank of teeth: its {name} teeth are no pictures")
        both = np.concatenate([colour[..., ::-1], alpha[..., None]], -1)
        sets[name] = np.asarray(both.reshape(-1, count, WIDTH, 4), np.uint8)
    return TeethBank(sets["upper"], sets["lower"], parts["numbers"], parts["lower_numbers"])


def write_bank(path: Path, bank: TeethBank) -> None:
    """Write a bank's file: colours as JPEG, alpha as PNG. The same bank gives the same bytes."""
    parts: dict[str, NDArray[np.uint8] | Floats] = {
        "numbers": bank.numbers,
        "lower_numbers": bank.lower_numbers,
    }
    quality = [
        cv2.IMWRITE_JPEG_QUALITY,
        94,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    for name, teeth in (("upper", bank.upper), ("lower", bank.lower)):
        flat = teeth.reshape(-1, WIDTH, 4)
        bgr = np.ascontiguousarray(flat[..., 2::-1])
        parts[f"{name}_colour"] = cv2.imencode(".jpg", bgr, quality)[1].ravel()
        alpha = np.ascontiguousarray(flat[..., 3])
        parts[f"{name}_alpha"] = cv2.imencode(".png", alpha, [cv2.IMWRITE_PNG_COMPRESSION, 9])[
            1
        ].ravel()
    np.savez(path, **parts)  # type: ignore[arg-type]


def face_light(picture: Picture, mesh: NDArray[np.floating]) -> FaceLight:
    """Describe a face. picture: (H, W, 3) uint8 RGB; mesh: (478, 2) picture pixels."""
    unit = eye_span(mesh)
    left, right = (
        np.mean([_patch(picture, mesh[point], _PATCH * unit) for point in points], 0)
        for points in (_LEFT_SKIN, _RIGHT_SKIN)
    )
    corner_left, corner_right, middle = mesh[[*INNER_CORNERS, GAP_TOP]]
    halves = [float(np.linalg.norm(corner - middle)) for corner in (corner_left, corner_right)]
    return FaceLight(
        skin=((left + right) / 2).astype(np.float32),
        left=float(left @ LUMA),
        right=float(right @ LUMA),
        roundness=unit / max(1e-6, float(np.linalg.norm(mesh[FOREHEAD] - mesh[CHIN]))),
        mouth=float(np.linalg.norm(corner_right - corner_left)) / unit,
        turn=(halves[1] - halves[0]) / max(1e-6, sum(halves)),
        sharpness=unit,
    )


def eye_span(mesh: NDArray[np.floating]) -> float:
    """Distance of the eye centres of a mesh (478, 2), at least a pixel."""
    return max(1.0, float(eye_distance(mesh)))


def _patch(picture: Picture, centre: NDArray[np.floating], reach: float) -> Floats:
    """Median colour of a square, (3,); of the nearest pixel where it lies outside."""
    height, width = picture.shape[:2]
    x0, x1 = np.clip([centre[0] - reach, centre[0] + reach], 0, width - 1).astype(int)
    y0, y1 = np.clip([centre[1] - reach, centre[1] + reach], 0, height - 1).astype(int)
    part = picture[y0 : y1 + 1, x0 : x1 + 1].reshape(-1, 3)
    out: Floats = np.median(part, 0).astype(np.float32)
    return out
