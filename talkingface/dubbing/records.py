"""Facts of one face in one frame, packed: an hour of video takes 250 MB for each person."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from talkingface.contract import MESH_POINTS
from talkingface.faces import Face, pose
from talkingface.geometry import transform, warp_crop
from talkingface.raster import remap
from talkingface.render.teeth import face_light
from talkingface.types import Array, Floats, Picture

_SIDE = 96  # pixels of the small picture in which colours are read
_STEPS = 65535  # of a square's side, in which points are measured
_BLOCK = 512

# Points at which a face's colours are compared: the middle of the lips, what is around them, and
# the cheeks.
COLOURED = np.array([
    *(76, 184, 74, 73, 72, 11, 302, 303, 304, 408, 306, 307, 320, 404, 315, 16, 85, 180, 90, 77),
    *(164, 167, 393, 165, 391, 92, 322, 186, 410, 57, 287, 43, 273, 106, 335, 182, 406, 83, 313),
    *(18, 200, 199, 201, 421, 194, 418, 204, 424, 202, 422, 212, 432, 216, 436, 206, 426, 203, 423),
])  # fmt: skip

# Facts of a face. frame: its number. corner, side: of the square that holds the mesh, in pixels;
# points: the mesh in steps of it. score: presence in [0, 1]. angles: yaw, pitch and roll in
# degrees. skin: of the cheeks, RGB in [0, 255]. colours: RGB of the face at COLOURED.
RECORD = np.dtype([
    ("frame", "<i4"), ("corner", "<f8", 2), ("side", "<f8"), ("points", "<u2", (MESH_POINTS, 2)),
    ("score", "<f4"), ("angles", "<f4", 3), ("skin", "<f4", 3),
    ("colours", "u1", (len(COLOURED), 3)),
])  # fmt: skip
Record = NDArray[Any]  # of RECORD


def make_record(frame: int, face: Face, picture: Picture) -> Record:
    """Return the facts of a face in a picture (H, W, 3) uint8 RGB, as an array of one."""
    record = np.zeros(1, RECORD)
    record["frame"], record["score"] = frame, face.score
    record["angles"], record["skin"] = pose(face.mesh), face_light(picture, face.mesh[:, :2]).skin
    record["colours"] = _colours(picture, face.mesh[:, :2])
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


def _colours(picture: Picture, mesh: Array) -> Picture:
    """The colours of a face at COLOURED, (N, 3), each the mean of a few pixels around it."""
    x0, y0 = np.floor(mesh.min(0))
    scale = _SIDE / max(1.0, float(np.ptp(mesh, axis=0).max()))
    corner = 0.5 * (1 - scale)  # pixels are squares
    matrix = np.array([[scale, 0, -scale * x0 - corner], [0, scale, -scale * y0 - corner]])
    small = warp_crop(picture, matrix, _SIDE)
    points = transform(mesh[COLOURED], matrix).astype(np.float32)
    return np.asarray(remap(small, points[None, :, 0], points[None, :, 1])[0], np.uint8)


def strangeness(records: Record) -> Floats:
    """Return how far the colours of the faces of records (T,) are from the usual ones: (T,).

    The mean difference of their logarithms from each point's median, each frame's light removed.
    """
    colours = np.log(records["colours"].astype(np.float32) + 16)
    colours -= np.median(colours, 1, keepdims=True)
    off = np.abs(colours - np.median(colours, 0))
    return np.asarray(off.mean((1, 2)), np.float32)


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
