"""Facts of one face in one frame, packed: an hour of video takes 250 MB for each person."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface.contract import MESH_POINTS
from talkingface.faces import Face, pose
from talkingface.landmarks import CHIN, EARS, NOSE_BASE
from talkingface.raster import bounds_around
from talkingface.render.teeth import LUMA, face_light
from talkingface.types import Array, Bounds, Floats, Picture

PATCH = 8  # pixels: side of the small picture of the lower face
_STEPS = 65535  # of a square's side, in which points are measured
_BLOCK = 512

# Facts of a face. frame: its number. corner, side: of the square that holds the mesh, in pixels;
# points: the mesh in steps of it. score: presence in [0, 1]. angles: yaw, pitch and roll in
# degrees. skin: of the cheeks, RGB in [0, 255]. patch: small picture of the lower face.
RECORD = np.dtype([
    ("frame", "<i4"), ("corner", "<f8", 2), ("side", "<f8"), ("points", "<u2", (MESH_POINTS, 2)),
    ("score", "<f4"), ("angles", "<f4", 3), ("skin", "<f4", 3), ("patch", "u1", (PATCH, PATCH, 3)),
])  # fmt: skip
Record = NDArray[Any]  # of RECORD


def make_record(frame: int, face: Face, picture: Picture) -> Record:
    """Return the facts of a face in a picture (H, W, 3) uint8 RGB, as an array of one."""
    record = np.zeros(1, RECORD)
    record["frame"], record["score"] = frame, face.score
    record["angles"], record["skin"] = pose(face.mesh), face_light(picture, face.mesh[:, :2]).skin
    y0, y1, x0, x1 = lower_face(face.mesh, picture.shape)
    small = cv2.resize(picture[y0:y1, x0:x1], (PATCH, PATCH), interpolation=cv2.INTER_AREA)
    record["patch"] = small
    return with_mesh(record, face.mesh[None, :, :2])


def with_mesh(records: Record, meshes: Array) -> Record:
    """Return a copy of records (T,) with other meshes (T, 478, 2), in picture pixels."""
    out = records.copy()
    corner = meshes.min(1)
    side = np.maximum((meshes.max(1) - corner).max(1), 1.0)
    out["corner"], out["side"] = corner, side
    inside = (meshes - corner[:, None]) / side[:, None, None]
    out["points"] = np.rint(inside * _STEPS).astype(np.uint16)
    return out


def meshes_of(records: Record) -> Array:
    """Meshes of records (T,): (T, 478, 2) picture pixels."""
    scale = (records["side"] / _STEPS)[:, None, None]
    return np.asarray(records["points"] * scale + records["corner"][:, None])


def lower_face(mesh: Array, shape: tuple[int, ...]) -> Bounds:
    """Return the bounds of what lies between the ears, from the nose to the chin."""
    points = mesh[[*EARS, NOSE_BASE, CHIN], :2].copy()
    points[:2] = (points[:2] * 2 + points[2]) / 3
    points[:2, 1] = points[2:, 1].mean()
    return bounds_around(points, shape)


def patch_distances(records: Record) -> Floats:
    """Return how far the lower faces of records (T,) look from their median: (T,).

    Differences of brightness, each picture's light removed, beside their usual spread.
    """
    light = np.log(records["patch"].astype(np.float32) @ LUMA + 8).reshape(len(records), -1)
    light -= np.median(light, 1, keepdims=True)
    off = np.abs(light - np.median(light, 0)).mean(1)
    return np.asarray(off, np.float32)


class Records:
    """Records that grow in blocks."""

    def __init__(self, records: Record | None = None) -> None:
        self._held = np.zeros(0, RECORD) if records is None else records
        self._count = len(self._held)

    def __len__(self) -> int:
        return self._count

    def add(self, record: Record) -> None:
        """Add an array of one."""
        if self._count == len(self._held):
            more = np.zeros(max(_BLOCK, self._count // 4), RECORD)
            self._held = np.concatenate([self._held, more])
        self._held[self._count] = record[0]
        self._count += 1

    def all(self) -> Record:
        """Return all of them, (T,)."""
        return self._held[: self._count]
