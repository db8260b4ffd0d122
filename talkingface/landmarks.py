"""The 478 points of MediaPipe's mesh: their indices, and measures computed from them.

Left and right are the picture's. Upper and lower lip meet at the corners.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talkingface.contract import MESH_POINTS

M = TypeVar("M", Tensor, NDArray[Any])

# --- the 68 landmarks, in iBUG order --------------------------------------------------------------

LIPS = slice(48, 68)
EYES = (slice(36, 42), slice(42, 48))  # left, right: rings whose mean is the eye's centre
MOUTH_CORNERS = (48, 54)  # of the outer lips
INNER_TOP, INNER_BOTTOM = 62, 66  # the middle of the upper and of the lower inner lip
INNER_RING = slice(60, 68)  # the inner lips with their corners
INNER_RING_PAIRS = np.array([(61, 67), (62, 66), (63, 65)])  # (upper, lower), left to right
NOSE_TIP = 30
JAW_SIDES = (2, 14)  # of the face's outline, left and right of the nose

# The mean face: median of 362 synthetic portraits and 81 GRID frames (iBUG order), eye centres at
# (-0.5, 0) and (0.5, 0), mirrored and averaged. Unit: the distance of the eye centres.
MEAN_FACE: NDArray[np.float64] = np.array([
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

# --- the mesh -------------------------------------------------------------------------------------

# Rings, from the left corner over the upper lip to the right corner and back below.
OUTER_LIPS = np.array([
    61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146,
])  # fmt: skip
INNER_LIPS = np.array([
    78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95,
])  # fmt: skip

# The inner lips' edges, from the left corner to the right one.
UPPER_INNER, LOWER_INNER = INNER_LIPS[:11], INNER_LIPS[np.r_[0, 19:9:-1]]
INNER_CORNERS = UPPER_INNER[[0, -1]]
LOWER_LIP = 17  # the middle of the lower lip's outer edge

# Points of the inner lips that touch where the mouth is closed: (upper, lower), left to right.
INNER_PAIRS = np.array([
    (191, 95), (80, 88), (81, 178), (82, 87), (13, 14), (312, 317), (311, 402), (310, 318),
    (415, 324),
])  # fmt: skip

# Points that speech does not move: eye corners, nose bridge and tip, brows.
STABLE_MESH = np.array([
    33, 133, 362, 263, 168, 6, 197, 195, 5, 4, 1, 70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
])  # fmt: skip

LEFT_EYE, RIGHT_EYE = (33, 133), (362, 263)  # corners; their middle is the eye's centre

# Lids: of the left and of the right eye, the upper and the lower one, from the eye's left corner to
# its right one.
EYE_LIDS = np.array([
    [[33, 246, 161, 160, 159, 158, 157, 173, 133], [33, 7, 163, 144, 145, 153, 154, 155, 133]],
    [[362, 398, 384, 385, 386, 387, 388, 466, 263], [362, 382, 381, 380, 374, 373, 390, 249, 263]],
])  # fmt: skip
IRISES = np.array([range(468, 473), range(473, 478)])  # left, right: the centre, four around it
SKIN_POINTS = np.array([4, 5, 195, 2, 50, 280, 205, 425])  # nose and cheeks, where faces are bare

GAP_TOP, GAP_BOTTOM = 13, 14  # the middle of the upper and of the lower inner lip
LEFT_CORNER, RIGHT_CORNER = 61, 291  # of the mouth
FOREHEAD, CHIN = 10, 152  # the middle of the face's upper and lower edge
EARS = (234, 454)
JOINT = (0.0, 0.7)  # interocular, about which a head turns; its depth is that of the ears

# Rings and lines of the face: its outline from the forehead clockwise in the picture; upper and
# lower edge of each brow, left and right, from the outer end to the inner.
FACE_OUTLINE = np.array([
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152,
    148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
])  # fmt: skip
BROWS_UPPER = np.array([(70, 63, 105, 66, 107), (300, 293, 334, 296, 336)])
BROWS_LOWER = np.array([(46, 53, 52, 65, 55), (276, 283, 282, 295, 285)])
LID_TOPS = (159, 386)  # the middle of each upper lid
NOSE_BASE = 2  # where the nose meets the upper lip

# Mesh points that stand for the 68 iBUG points: jaw, brows, nose, eyes, lips.
IBUG = np.array([
    127, 234, 93, 215, 138, 136, 149, 148, 152, 377, 378, 365, 367, 435, 323, 454, 356,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
    168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 82, 13, 312, 308, 317, 14, 87,
])  # fmt: skip

# Points on the middle of the face. Of the others, those up to 247 are on the left; 248 to 467 are
# their partners on the right, in the same order. Then the irises: centre, and four around it.
MIDLINE = np.array([
    0, 1, 2, 4, 5, 6, *range(8, 20), 94, 151, 152, 164, 168, 175, 195, 197, 199, 200,
])  # fmt: skip


def _mirror_mesh() -> NDArray[np.int64]:
    """Pair left and right points: (478,), itself for one on the middle."""
    out = np.arange(MESH_POINTS)
    left, right = np.setdiff1d(np.arange(248), MIDLINE), np.arange(248, 468)
    left, right = np.r_[left, 468:473], np.r_[right, 473, 476, 475, 474, 477]
    out[left], out[right] = right, left
    return out


# Mesh indices after a left-right mirror: MIRROR_MESH[i] is the point that lands on point i's place.
# The best one-to-one match of faces and their mirrored pictures, in three dimensions, is the same.
MIRROR_MESH = _mirror_mesh()


@cache
def reference_mesh() -> NDArray[np.float64]:
    """A mean face (478, 2) in interocular units, eye centres at (-0.5, 0) and (0.5, 0).

    Its mouth is as open as mouths are on average in the frames that show them open: points of the
    two lips that would coincide otherwise are apart.
    """
    mesh: NDArray[np.float64] = np.load(Path(__file__).with_name("reference_mesh.npy"))
    return mesh.astype(np.float64)


@cache
def reference_depth() -> NDArray[np.float64]:
    """Depth (478,) of a mean face in interocular units, 0 at the eye corners; less is nearer.

    The median over 192 level portraits of what the face finder says, mirrored and averaged.
    """
    depth: NDArray[np.float32] = np.load(Path(__file__).with_name("reference_depth.npy"))
    return depth.astype(np.float64)


def lip_gap(landmarks: M) -> M:
    """Height of the gap of the inner lips: (..., 68, 2) -> (...), negative where they overlap."""
    gap: M = landmarks[..., INNER_BOTTOM, 1] - landmarks[..., INNER_TOP, 1]
    return gap


def ibug(mesh: Tensor) -> Tensor:
    """The 68 landmarks of meshes (..., 478, 2): (..., 68, 2)."""
    return mesh[..., torch.from_numpy(IBUG).to(mesh.device), :]


def aperture(mesh: M) -> M:
    """Gap of the inner lips (points 13 and 14): (..., 478, 2) -> (...), in the mesh's unit."""
    return _distance(mesh, GAP_TOP, GAP_BOTTOM)


def width(mesh: M) -> M:
    """Distance of the mouth's corners: (..., 478, 2) -> (...), in the mesh's unit."""
    return _distance(mesh, LEFT_CORNER, RIGHT_CORNER)


def eye_distance(mesh: M) -> M:
    """Distance of the eye centres: (..., 478, 2) -> (...), in the mesh's unit."""
    left = (mesh[..., LEFT_EYE[0], :] + mesh[..., LEFT_EYE[1], :]) / 2
    right = (mesh[..., RIGHT_EYE[0], :] + mesh[..., RIGHT_EYE[1], :]) / 2
    return _length(right - left)


def eye_openness(mesh: M) -> M:
    """Height of the open eyes by their width, mean of both: (..., 478, 2) -> (...).

    Soukupova and Cech 2016, the eye aspect ratio: about 0.3 open, under 0.15 in a blink.
    """
    upper, lower = EYE_LIDS[:, 0], EYE_LIDS[:, 1]
    height = _length(mesh[..., lower[:, 2:7], :] - mesh[..., upper[:, 2:7], :]).mean(-1)
    across = _length(mesh[..., upper[:, -1], :] - mesh[..., upper[:, 0], :])
    ratio: M = (height / across).mean(-1)
    return ratio


def _distance(mesh: M, first: int, second: int) -> M:
    if mesh.shape[-2:] != (MESH_POINTS, 2):
        raise ValueError(f"a mesh is (..., {MESH_POINTS}, 2), got {tuple(mesh.shape)}")
    return _length(mesh[..., second, :] - mesh[..., first, :])


def _length(vector: M) -> M:
    if isinstance(vector, Tensor):
        length: Tensor = torch.linalg.vector_norm(vector, dim=-1)
        return length
    return np.asarray(np.linalg.norm(vector, axis=-1))
