"""Faces that are given, not found: landmarks from a file, or the mean face in a box.

A landmarks file is JSON: a list of 68 [x, y] pairs in iBUG order (jaw 0-16, brows 17-26, nose
27-35, eyes 36-47, lips 48-67), or an object with that list as its "landmarks", other keys ignored.
Pixels are those of the picture as it is seen (turned as its EXIF says), from its top left corner.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface import media
from talkingface.contract import LANDMARKS
from talkingface.errors import BadLandmarks, NoFaceFound
from talkingface.faces.detect import choose_of, face_in_box, find_faces
from talkingface.landmarks import MEAN_FACE
from talkingface.types import Array, Box, Picture

FORMAT = 'a JSON list of 68 [x, y] pairs, or an object {"landmarks": [...]}'
ORDER = "iBUG: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, lips 48-67"
_INSIDE = 0.5  # least part of a box that lies in the picture
SMALLEST_BOX = 16  # pixels: in less, a crop would be all blur

_FOREHEAD = -0.82  # where a mesh begins above the mean face's eyes: median of 14 portraits
_LARGEST_FILE = 1_000_000  # bytes; 68 points take about three thousand
_SMALLEST_EXTENT = 8.0  # pixels
_NARROWEST = 0.05  # of the points' extent: less is a line
_LIKENESS = 0.5  # R^2 of the mean face; measured: faces above 0.9, x and y swapped below 0.1
_OVERLAY_FACE = 1000  # pixels: the picture is enlarged until the numbers are legible
_OVERLAY_SIDE = 4096
_PARTS = [(0, 17), (17, 22), (22, 27), (27, 31), (31, 36), (36, 42), (42, 48), (48, 60), (60, 68)]


@dataclass(frozen=True)
class Located:
    """A face's place. landmarks: (68, 2) picture pixels, iBUG order; origin: their source.

    mesh: (478, 3) picture pixels, the third is depth (less is nearer); None where only the
    landmarks are known. note: for the user; None where there is nothing to say.
    """

    landmarks: Array
    origin: Literal["detector", "mean face", "given"]
    mesh: Array | None = None
    note: str | None = None


def locate(
    picture: Picture,
    *,
    number: int | None = None,
    box: Box | None = None,
    landmarks: Path | str | NDArray[Any] | None = None,
    name: str = "picture",
    size: tuple[int, int] | None = None,
) -> Located:
    """The face of (H, W, 3) uint8 RGB: the `number`-th largest, in a box, or as given.

    At most one of number (from 1), box (x, y, width, height) and landmarks (a file, see above, or
    (68, 2)). With landmarks nothing is detected. A box is believed: where it shows no face, the
    mean face is laid into it. size: (width, height) of its file, whose pixels box and landmarks
    count, where `picture` is that shrunk. name: what errors call the picture.
    Raises NoFaceFound, BadLandmarks, BadRequest.
    """
    width, height = size or (picture.shape[1], picture.shape[0])
    scale = max(width, height) / max(picture.shape[:2])
    if landmarks is not None:
        points = given_landmarks(landmarks, width, height)
        return Located(points / scale + (0.5 / scale - 0.5), "given")
    if box is None:
        faces = find_faces(picture)
        face = choose_of(faces, picture, number, name)
        note = None
        if number is None and len(faces) > 1:
            shown = ",".join(f"{value * scale:.0f}" for value in face.box)
            note = (
                f"{len(faces)} faces were found: the largest one speaks, at {shown}; --face N "
                "(face=N) takes the N-th largest"
            )
        return Located(face.landmarks, "detector", face.mesh, note)
    _check_box(box, width, height, name)
    x, y, wide, high = (value / scale for value in box)
    seen = face_in_box(picture, (x, y, wide, high))
    if seen is None:
        note = "the box shows no face that the finder knows: the mean face was laid into it"
        return Located(mean_face_in((x, y, wide, high)), "mean face", None, note)
    return Located(seen.landmarks, "detector", seen.mesh)


def _check_box(box: Box, width: int, height: int, name: str) -> None:
    shown = ",".join(f"{value:g}" for value in box)
    x, y, wide, high = box
    if not all(math.isfinite(value) for value in box) or min(wide, high) < SMALLEST_BOX:
        raise NoFaceFound(
            f"{name}: the face box {shown} is too small: give x,y,width,height of at least "
            f"{SMALLEST_BOX}x{SMALLEST_BOX} pixels"
        )
    inside = [
        max(0.0, min(start + side, most) - max(start, 0.0)) / side
        for start, side, most in ((x, wide, width), (y, high, height))
    ]
    if inside[0] * inside[1] < _INSIDE:
        part = "" if min(inside) == 0 else "for the most part "
        raise NoFaceFound(
            f"{name}: the face box {shown} is {part}outside the picture, which is {width}x{height} "
            "pixels: give x,y,width,height in pixels from the top left corner"
        )


def mean_face_in(box: Box) -> Array:
    """(68, 2): the mean face, forehead to chin, as large as fits into the middle of a box."""
    x, y, width, height = box
    chin, side = MEAN_FACE[:, 1].max(), np.abs(MEAN_FACE[:, 0]).max()
    unit = min(width / (2 * side), height / (chin - _FOREHEAD))
    middle = np.array([x + width / 2, y + height / 2])
    middle[1] -= unit * (chin + _FOREHEAD) / 2
    return np.asarray(MEAN_FACE * unit + middle)


def given_landmarks(landmarks: Path | str | NDArray[Any], width: int, height: int) -> Array:
    """(68, 2) float64 out of a file or an array, checked against its picture of width x height.

    Raises BadLandmarks.
    """
    if isinstance(landmarks, (str, Path)):
        name, values = str(landmarks), _read_json(Path(landmarks))
    else:
        name, values = "landmarks", landmarks.tolist()
    points = _points(values, name)
    outside = int(((points < -0.5) | (points > [width, height])).any(1).sum())
    if outside:
        raise BadLandmarks(
            f"{name}: {outside} of {LANDMARKS} points lie outside the picture, which is "
            f"{width}x{height} pixels: give [x, y] in pixels from its top left corner"
        )
    _check_shape(points, name)
    return points


def _read_json(path: Path) -> Any:
    if not path.is_file():
        found = "is no file" if path.exists() else "no such file"
        raise BadLandmarks(f"{path}: {found}; expected {FORMAT}")
    size = path.stat().st_size
    if size > _LARGEST_FILE:
        raise BadLandmarks(f"{path}: {size} bytes are too many for {LANDMARKS} points; {FORMAT}")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BadLandmarks(f"{path}: unreadable ({error.strerror}); expected {FORMAT}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8 and numbers too long are ValueErrors
        raise BadLandmarks(f"{path}: no JSON ({error}); expected {FORMAT}") from error


def _points(values: Any, name: str) -> Array:
    """(68, 2) of what JSON gave; raises BadLandmarks."""
    if isinstance(values, dict):
        if "landmarks" not in values:
            raise BadLandmarks(f'{name}: an object without "landmarks"; expected {FORMAT}')
        values = values["landmarks"]
    if not isinstance(values, list):
        raise BadLandmarks(f"{name}: no list of points; expected {FORMAT}")
    if len(values) != LANDMARKS:
        raise BadLandmarks(
            f"{name}: {len(values)} points found, {LANDMARKS} expected ({ORDER}); "
            "`talkingface landmarks` writes such a file"
        )
    for index, pair in enumerate(values):
        if not (isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair))):
            raise BadLandmarks(f"{name}: point {index} is {str(pair)[:40]}; expected [x, y]")
    points = np.array([[_to_float(value) for value in pair] for pair in values])
    wrong = int((~np.isfinite(points)).any(1).sum())
    if wrong:
        raise BadLandmarks(
            f"{name}: {wrong} of {LANDMARKS} points are NaN or infinite; expected finite pixels"
        )
    return points


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _to_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:  # JSON's integers have no end
        return math.inf


def _check_shape(points: Array, name: str) -> None:
    """Raises BadLandmarks when no face can lie like this."""
    wide, high = np.ptp(points, axis=0)
    if max(wide, high) < _SMALLEST_EXTENT:
        raise BadLandmarks(
            f"{name}: all points lie within {wide:.3g}x{high:.3g} pixels: give pixels of the "
            "picture, of a face that is larger"
        )
    long, short = np.linalg.svd(points - points.mean(0), compute_uv=False)
    if short < _NARROWEST * long:
        raise BadLandmarks(f"{name}: all points lie on one line; expected a face ({ORDER})")
    own, mean = (p @ [1, 1j] for p in (points - points.mean(0), MEAN_FACE - MEAN_FACE.mean(0)))
    likeness = abs(np.vdot(mean, own)) ** 2 / (np.vdot(mean, mean) * np.vdot(own, own)).real
    if likeness < _LIKENESS:
        raise BadLandmarks(
            f"{name}: the points do not lie as in a face: give [x, y], not [y, x], in the order "
            f"{ORDER}"
        )


def write_landmarks(path: Path, points: Array, about: dict[str, Any], overwrite: bool) -> None:
    """Write (68, 2) picture pixels as a landmarks file, a line each, under `about`'s entries.

    Complete or not at all. Raises OutputError.
    """
    lines = ",\n".join(f"  {json.dumps(pair)}" for pair in points.tolist())
    entries = [f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in about.items()]
    text = "{\n" + "".join(entries) + f'"order": "{ORDER}",\n"landmarks": [\n{lines}\n]' + "}\n"
    with media.replacing(path, overwrite) as part, media.writing(path, OSError):
        part.write_text(text, encoding="utf-8")


def overlay(picture: Picture, points: Array) -> Picture:
    """(H, W, 3) uint8 RGB with its points (68, 2) numbered; a small one is enlarged for that."""
    largest = _OVERLAY_SIDE / max(picture.shape[:2])
    factor = max(1, math.floor(min(_OVERLAY_FACE / np.ptp(points, axis=0).max(), largest) + 0.5))
    factor = min(factor, max(1, math.floor(largest)))
    out = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    for low, high in _PARTS:
        away = MEAN_FACE[low:high] - MEAN_FACE[low:high].mean(0)
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        for index in range(low, high):
            at = (points[index] + 0.5) * factor - 0.5
            _dot(out, at, at + 12 * away[index - low], str(index))
    return np.asarray(out, dtype=np.uint8)


def _dot(out: Any, at: Array, beside: Array, text: str) -> None:
    font, size, green, black = cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 255, 0), (0, 0, 0)
    (width, height), _ = cv2.getTextSize(text, font, size, 1)
    corner = (round(beside[0] - width / 2), round(beside[1] + height / 2))
    cv2.circle(out, (round(at[0]), round(at[1])), 3, black, -1, cv2.LINE_AA)
    cv2.circle(out, (round(at[0]), round(at[1])), 2, green, -1, cv2.LINE_AA)
    cv2.putText(out, text, corner, font, size, black, 3, cv2.LINE_AA)
    cv2.putText(out, text, corner, font, size, green, 1, cv2.LINE_AA)
