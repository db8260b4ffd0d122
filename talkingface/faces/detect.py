"""Find faces in pictures, and track one through a video. NumPy in, NumPy out.

Where a face is comes from the detector; what it looks like from the mesh, run twice: the second
look is centred and turned by the first, so that pictures and video frames are measured alike
(MediaPipe's tracking mode, second frame; one look is its static mode, and 13 % less steady).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice

import cv2
import numpy as np
import torch

from talkingface.errors import NoFaceFound
from talkingface.faces.networks import (
    DETECTOR_SIZE,
    MESH_SIZE,
    anchor_centres,
    detector,
    mesh,
)
from talkingface.geometry import transform
from talkingface.landmarks import IBUG, LEFT_EYE, RIGHT_EYE
from talkingface.types import Array, Box, Picture

_ROI_MARGIN = 1.5  # of the longer side of a face's box
_LIKELY = 0.3  # least score of a detection, which the mesh then confirms
_FOUND = 0.5  # least presence of a mesh
# Of a mesh that is one without a second look: a logit of 25. Measured: 19 to 40 of 57 portraits, up
# to 21 where a face is seen turned by more than a right angle.
_SURE = 1 - 1.4e-11
_TURN = 0.35  # radians, by which a second look is turned
# Mean distance of the points in turned views, in distances of the outer corners of the eyes. Faces:
# below 0.045, with covered mouths below 0.065, others above 0.085.
_STEADY = 0.075
_LOOKS = 4  # at a face that is turned around
_TURNED_VIEWS = 2  # of a turned picture: the whole, and with its border repeated
_SAME_BOX = 0.3  # intersection over union of detections of one face
_SAME_FACE = 0.5  # intersection over the smaller box of two meshes of one face
_WORKING_SIDE = 1024  # pixels: larger pictures are shrunk before detection
_SMALLEST_TILE = 256  # pixels
_DETECTOR_STEP = 4  # pixels between samples: up to here the detector gets what MediaPipe gives it
_BATCH = 16


@dataclass(frozen=True)
class Face:
    """One face in a picture.

    landmarks: (68, 2) picture pixels (x, y), iBUG order. mesh: (478, 3) picture pixels, depth in
    the same unit (less is nearer). box: x, y, width, height of the mesh. score: presence in [0, 1].
    """

    landmarks: Array
    mesh: Array
    box: Box
    score: float


@dataclass(frozen=True)
class _Region:
    """A turned square: where the mesh looks. angle: radians, of its horizontal in the picture."""

    x: float
    y: float
    side: float
    angle: float

    def matrix(self, size: int) -> Array:
        """(2, 3): pixels of a (size, size) view -> picture pixels."""
        c, s = np.cos(self.angle) * self.side / size, np.sin(self.angle) * self.side / size
        half = size / 2
        return np.array([[c, -s, self.x - (c - s) * half], [s, c, self.y - (s + c) * half]])


def find_faces(picture: Picture) -> list[Face]:
    """Every face in (H, W, 3) uint8 RGB, by area, largest first.

    Looks at the whole picture, at the picture with its border repeated (a face may fill it), and at
    halves and quarters of it, so that a face of about 1/25 of the longer side is found. Faces may
    be turned by any angle; where none is found, the picture is looked at turned, too.
    """
    faces = _find(picture, _detections(picture))
    for quarters in (2, 1, 3) if not faces else ():
        turned = np.ascontiguousarray(np.rot90(picture, quarters))
        faces = _find(turned, islice(_detections(turned), _TURNED_VIEWS))
        if faces:
            faces = [_turned_back(face, quarters, picture.shape) for face in faces]
            break
    return sorted(faces, key=lambda face: -face.box[2] * face.box[3])


def _find(picture: Picture, views: Iterator[list[_Region]]) -> list[Face]:
    faces: list[Face] = []
    for region in chain.from_iterable(views):
        if not any(_covers(face.box, region) for face in faces):
            face = _checked(picture, _settle(picture, region))
            if face is not None and not any(same_face(face.box, f.box) for f in faces):
                faces.append(face)
    return faces


def _turned_back(face: Face, quarters: int, shape: tuple[int, ...]) -> Face:
    """A face of `np.rot90(picture, quarters)` in the picture, whose shape is (H, W, 3)."""
    height, width = shape[:2]
    x, y, depth = face.mesh.T
    across, down = {
        1: (width - 1 - y, x),
        2: (width - 1 - x, height - 1 - y),
        3: (y, height - 1 - x),
    }[quarters]
    return _face(np.column_stack([across, down, depth]), face.score)


def _checked(picture: Picture, face: Face) -> Face | None:
    """Return the face if its mesh fits the picture; else the same face turned around, or None.

    The mesh of a view that holds no face, or one upside down, looks like a face too. It differs in
    its score, and in that it does not turn with the view.
    """
    if face.score < _FOUND or _fits(picture, face):
        return face if face.score >= _FOUND else None
    region = _region_of(face.mesh)
    region = replace(region, angle=region.angle + np.pi)
    for _ in range(_LOOKS):  # the first ones are off, and their scores low
        face = _measure(picture, region)
        region = _region_of(face.mesh)
    return face if _fits(picture, face) else None


def _fits(picture: Picture, face: Face) -> bool:
    return face.score >= _SURE or (face.score >= _FOUND and _is_steady(picture, face))


def _is_steady(picture: Picture, face: Face) -> bool:
    """Return whether the mesh is about the same in views that are turned a little."""
    region, points = _region_of(face.mesh), face.mesh[:, :2]
    unit = np.linalg.norm(points[RIGHT_EYE[1]] - points[LEFT_EYE[0]])
    turned = [replace(region, angle=region.angle + angle) for angle in (-_TURN, _TURN)]
    moved = [_measure(picture, view).mesh[:, :2] - points for view in turned]
    return bool(np.linalg.norm(moved, axis=-1).mean() < _STEADY * unit)


def face_in_box(picture: Picture, box: Box) -> Face | None:
    """The face in this box (x, y, width, height in pixels); None when the mesh sees none there."""
    x, y, width, height = box
    side = max(width, height) * _ROI_MARGIN
    region = _Region(x + width / 2, y + height / 2, side, 0.0)
    for quarters in range(4):
        face = _checked(picture, _settle(picture, replace(region, angle=quarters * np.pi / 2)))
        # A box with a drawing in it must not be answered with the photograph beside it.
        if face is not None and same_face(face.box, box):
            return face
    return None


class Tracker:
    """Follows one face from frame to frame: looks where it was, searches when it is lost."""

    def __init__(self, face: Face | None = None) -> None:
        """face: the one to follow, if it is known where it is."""
        self._region = None if face is None else _region_of(face.mesh)

    def follow(self, picture: Picture) -> Face | None:
        """The face where it was in the frame before; None if it is lost. Landmarks as measured."""
        if self._region is None:
            return None
        face = _measure(picture, self._region)
        found = face.score >= _FOUND
        self._region = _region_of(face.mesh) if found else None
        return face if found else None

    def update(self, picture: Picture) -> Face | None:
        """The face in the next frame, (H, W, 3) uint8 RGB; None when there is none.

        After a loss the largest face of the first view that shows one is taken. Landmarks are as
        measured: nothing is smoothed over time.
        """
        face = self.follow(picture)
        if face is None:
            face = max(find_quickly(picture), key=lambda f: f.box[2] * f.box[3], default=None)
            self._region = None if face is None else _region_of(face.mesh)
        return face


def find_quickly(picture: Picture) -> list[Face]:
    """The faces of the first view that shows one, from the whole picture to small parts of it."""
    for regions in _detections(picture):
        faces: list[Face] = []
        for region in regions:
            face = _settle(picture, region)
            if face.score >= _FOUND and not any(same_face(face.box, f.box) for f in faces):
                faces.append(face)
        if faces:
            return faces
    return []


def choose_face(picture: Picture, number: int | None = None, name: str = "picture") -> Face:
    """One face: the largest, or the `number`-th largest (from 1). See `choose_of`."""
    return choose_of(find_faces(picture), picture, number, name)


def choose_of(faces: list[Face], picture: Picture, number: int | None, name: str) -> Face:
    """Choose one of the faces that were found: the largest, or the `number`-th largest (from 1).

    name: what errors call the picture. Raises NoFaceFound, saying the picture's size, how many
    faces were found and what to do.
    """
    height, width = picture.shape[:2]
    if not faces:
        raise NoFaceFound(
            f"{name}: no face found in {width}x{height} pixels: give a picture with one clear "
            "face, seen from the front and at least 40 pixels wide, or say where it is with "
            "--face x,y,width,height or --landmarks points.json"
        )
    if number is not None and not 1 <= number <= len(faces):
        there = "is 1 face" if len(faces) == 1 else f"are {len(faces)} faces"
        raise NoFaceFound(
            f"{name}: no face number {number}, there {there} in {width}x{height} pixels: give a "
            f"number from 1 (the largest) to {len(faces)}, or --face x,y,width,height"
        )
    return faces[(number or 1) - 1]


def _settle(picture: Picture, region: _Region) -> Face:
    """Measure, then again from where the first measure says the face is."""
    first = _measure(picture, region)
    if first.score < _FOUND:
        return first
    second = _measure(picture, _region_of(first.mesh))
    return second if second.score >= _FOUND else first


@torch.inference_mode()
def _measure(picture: Picture, region: _Region) -> Face:
    view = _view(picture, region, MESH_SIZE, cv2.BORDER_REPLICATE)
    image = torch.from_numpy(view).permute(2, 0, 1)[None].float().div_(255)
    points, presence = mesh()(image)
    found = points[0].double().numpy()
    found[:, :2] = transform(found[:, :2], region.matrix(MESH_SIZE))
    found[:, 2] *= region.side / MESH_SIZE
    return _face(found, float(presence.double().sigmoid()[0]))


def _face(mesh: Array, score: float) -> Face:
    low, high = mesh[:, :2].min(0), mesh[:, :2].max(0)
    box = (float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1]))
    return Face(mesh[IBUG, :2].copy(), mesh, box, score)


def _region_of(points: Array) -> _Region:
    """Return the region to look into for a face whose mesh (478, 3) is about this."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    x, y = (low + high) / 2
    across = points[RIGHT_EYE[1]] - points[LEFT_EYE[0]]  # the outer corners
    side = float((high - low).max()) * _ROI_MARGIN
    return _Region(float(x), float(y), side, float(np.arctan2(across[1], across[0])))


def _view(picture: Picture, region: _Region, size: int, border: int, step: int = 1) -> Picture:
    """(size, size, 3): the region upright; by area first, to below 2 * `step` pixels a sample."""
    matrix = region.matrix(size)
    factor = int(region.side / (size * step))
    if factor >= 2:
        reach = region.side * 0.75  # half the diagonal, and some
        height, width = picture.shape[:2]
        x0, x1 = (int(np.clip(region.x + d, 0, width)) for d in (-reach, reach))
        y0, y1 = (int(np.clip(region.y + d, 0, height)) for d in (-reach, reach))
        shrunk = (max(1, (x1 - x0) // factor), max(1, (y1 - y0) // factor))
        part = picture[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
        fx, fy = part.shape[1] / shrunk[0], part.shape[0] / shrunk[1]
        picture = np.asarray(cv2.resize(part, shrunk, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        matrix[0] = (matrix[0] - [0, 0, x0 - 0.5]) / fx - [0, 0, 0.5]
        matrix[1] = (matrix[1] - [0, 0, y0 - 0.5]) / fy - [0, 0, 0.5]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    out = cv2.warpAffine(picture, matrix, (size, size), flags=flags, borderMode=border)
    return np.asarray(out, dtype=np.uint8)


def _detections(picture: Picture) -> Iterator[list[_Region]]:
    """Yield regions that may hold faces, from the whole picture to small tiles; best first."""
    height, width = picture.shape[:2]
    shrink = max(1.0, max(height, width) / _WORKING_SIDE)
    if shrink > 1:
        small = (max(1, round(width / shrink)), max(1, round(height / shrink)))
        picture = np.asarray(cv2.resize(picture, small, interpolation=cv2.INTER_AREA), np.uint8)
    height, width = picture.shape[:2]
    longer = float(max(height, width))
    whole = _Region(width / 2, height / 2, longer, 0.0)
    views = [([whole], cv2.BORDER_CONSTANT)]
    views.append(([_Region(whole.x, whole.y, 2 * longer, 0.0)], cv2.BORDER_REPLICATE))
    for side in (longer / 2, longer / 4):
        if side >= _SMALLEST_TILE or (shrink > 1 and side * shrink >= _SMALLEST_TILE):
            views.append((list(_tiles(width, height, side)), cv2.BORDER_REPLICATE))
    for regions, border in views:
        found = _detect(picture, regions, border)
        yield [_Region(r.x * shrink, r.y * shrink, r.side * shrink, r.angle) for r in found]


def _tiles(width: int, height: int, side: float) -> Iterator[_Region]:
    """Squares of this side that cover the picture, each half over the next."""
    columns = max(1, int(np.ceil(2 * width / side)) - 1)
    rows = max(1, int(np.ceil(2 * height / side)) - 1)
    for y in np.linspace(side / 2, height - side / 2, rows) if rows > 1 else [height / 2]:
        for x in np.linspace(side / 2, width - side / 2, columns) if columns > 1 else [width / 2]:
            yield _Region(float(x), float(y), side, 0.0)


@torch.inference_mode()
def _detect(picture: Picture, views: list[_Region], border: int) -> list[_Region]:
    """Run the detector on every view; regions for the mesh in picture pixels, best first."""
    boxes, scores = [], []
    for start in range(0, len(views), _BATCH):
        batch = views[start : start + _BATCH]
        seen = np.stack(
            [_view(picture, view, DETECTOR_SIZE, border, _DETECTOR_STEP) for view in batch]
        )
        images = torch.from_numpy(seen).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        logits, offsets = detector()(images)
        offsets[..., :2] += anchor_centres()
        offsets[..., 4:] += anchor_centres().repeat(1, 6)
        likely = logits.sigmoid()
        for view, score, box in zip(batch, likely.numpy(), offsets.double().numpy(), strict=True):
            good = score >= _LIKELY
            boxes.append(_in_picture(box[good], view))
            scores.append(score[good])
    return [_region_from(box) for box in _merge(np.concatenate(boxes), np.concatenate(scores))]


def _in_picture(boxes: Array, view: _Region) -> Array:
    """(N, 16) detector output, in pixels of its view -> picture pixels."""
    scale = view.side / DETECTOR_SIZE
    out = boxes * scale
    corner = np.array([view.x, view.y]) - view.side / 2
    for column in (0, *range(4, 16, 2)):
        out[:, column : column + 2] += corner
    return out


def _merge(boxes: Array, scores: Array) -> list[Array]:
    """Boxes of one face become their mean, weighted by score (BlazeFace, Sec. 3.4); best first."""
    merged = []
    order = np.argsort(-scores)
    boxes, weights = boxes[order], scores[order].astype(np.float64)
    while len(boxes):
        same = _overlap(boxes[0], boxes) > _SAME_BOX
        same[0] = True
        merged.append(np.average(boxes[same], axis=0, weights=weights[same]))
        boxes, weights = boxes[~same], weights[~same]
    return merged


def _overlap(box: Array, boxes: Array) -> Array:
    """Intersection over union of one centred box (x, y, width, height, ...) with N others."""
    low = np.maximum(box[:2] - box[2:4] / 2, boxes[:, :2] - boxes[:, 2:4] / 2)
    high = np.minimum(box[:2] + box[2:4] / 2, boxes[:, :2] + boxes[:, 2:4] / 2)
    common = np.clip(high - low, 0, None).prod(1)
    union = box[2:4].prod() + boxes[:, 2:4].prod(1) - common
    return np.asarray(common / np.maximum(union, 1e-9))


def _region_from(box: Array) -> _Region:
    """A detection's square, turned so that its eyes are level."""
    across = box[6:8] - box[4:6]
    side = float(box[2:4].max()) * _ROI_MARGIN
    return _Region(float(box[0]), float(box[1]), side, float(np.arctan2(across[1], across[0])))


def _covers(box: Box, region: _Region) -> bool:
    """Return whether a detection lies on a known face, and is not much larger than it."""
    x, y, width, height = box
    inside = 0 < region.x - x < width and 0 < region.y - y < height
    return inside and region.side < 2 * _ROI_MARGIN * max(width, height)


def same_face(a: Box, b: Box) -> bool:
    """Return whether the boxes of two meshes are of one face."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    smaller = min(a[2] * a[3], b[2] * b[3])
    return width > 0 and height > 0 and width * height > _SAME_FACE * smaller
