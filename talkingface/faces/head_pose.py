"""Estimate the motion of a head in three dimensions from its two-dimensional mesh.

A mesh in a picture is a rotated, shifted and scaled neutral face, seen from far away:

    p = exp(scale) R(pitch, yaw, roll) (n - joint) + joint + shift          depth dropped

n are a person's own points, with the depth of a mean face. The least-squares solution over points
that neither speech nor brows nor lids move is found by fixed-point iteration with one constant
pseudo-inverse, since the angles are small.
"""

from __future__ import annotations

import numpy as np

from talkingface.contract import MESH_POINTS
from talkingface.geometry import fit_similarity, rotation, transform
from talkingface.landmarks import (
    BROWS_LOWER,
    BROWS_UPPER,
    EARS,
    JOINT,
    STABLE_MESH,
    aperture,
    reference_depth,
    reference_mesh,
)
from talkingface.types import Array, Floats

# Nose, cheekbones, eye corners and temples: neither speech nor brows nor lids move them.
RIGID = np.array([
    1, 2, 4, 5, 6, 168, 195, 197, 48, 278, 64, 294, 98, 327, 49, 279, 131, 360, 122, 351, 193, 417,
    33, 133, 362, 263, 130, 359, 243, 463, 226, 446, 35, 265, 31, 261, 111, 340, 116, 345, 117, 346,
    118, 347, 100, 329, 120, 349, 121, 350, 143, 372, 34, 264, 127, 356, 234, 454, 227, 447,
])  # fmt: skip
# Of the brows: the ends next to the nose, and those at the temples, upper and lower edge.
_BROWS = np.stack([BROWS_UPPER, BROWS_LOWER], 1)
INNER_BROWS, OUTER_BROWS = _BROWS[..., [4, 3]].ravel(), _BROWS[..., [0, 1]].ravel()
ITERATIONS = 8
_SMOOTHING = np.array([1.0, 6.0, 15.0, 20.0, 15.0, 6.0, 1.0]) / 64


def apply_pose(face: Array, depth: Array, head: Array) -> Array:
    """Points (P, 2) of a neutral face with depth (P,), moved by heads (T, 6): (T, P, 2).

    face and depth in interocular units of the reference face's frame; depth relative to the ears.
    """
    matrix = np.exp(head[:, 5])[:, None, None] * rotation(*head[:, :3].T)[:, :2]
    points = np.column_stack([face - JOINT, depth])
    return np.asarray(points @ matrix.transpose(0, 2, 1) + JOINT + head[:, None, 3:5])


def estimate_pose(meshes: Array, neutral: Array | None = None) -> tuple[Array, Array]:
    """Return head (T, 6) and brows (T, 2) of meshes (T, 478, 2) relative to a neutral one.

    meshes: in any unit. neutral: (478, 2) in the same one; without it, the median of the meshes.
    Units and signs as in `motion.Motion`. Raises ValueError for another shape.
    """
    if meshes.ndim != 3 or meshes.shape[1:] != (MESH_POINTS, 2):
        raise ValueError(f"meshes are (T, {MESH_POINTS}, 2), got {meshes.shape}")
    meshes = np.asarray(meshes, np.float64)
    own = np.median(meshes, 0) if neutral is None else np.asarray(neutral, np.float64)
    to_face = fit_similarity(own[STABLE_MESH], reference_mesh()[STABLE_MESH])
    face, moved = transform(own, to_face), transform(meshes, to_face)
    depth = reference_depth() - reference_depth()[list(EARS)].mean()
    head = _solve(face[RIGID], depth[RIGID], moved[:, RIGID])
    return head, _brows(face, depth, moved, head)


def clip_moves(meshes: Array | Floats, *, smooth: bool = True) -> Array:
    """Return moves (T, 8), HEAD and BROWS, of meshes (T, 478, 2) from their median.

    Less what goes with the mouth's opening: the mesh of an open mouth reads as a head that looks up
    (r = -0.55), whichever points the pose is measured by. smooth: as the trembling of the points
    is not the head's.
    """
    points = np.asarray(meshes, np.float64)
    moves = np.concatenate(estimate_pose(points), 1)
    opened = aperture(points) - aperture(points).mean()
    moves -= np.outer(opened, opened @ moves) / max(float(opened @ opened), 1e-12)
    if not smooth:
        return moves
    reach = len(_SMOOTHING) // 2
    padded = np.pad(moves, ((reach, reach), (0, 0)), "edge")
    return np.stack([np.convolve(column, _SMOOTHING, "valid") for column in padded.T], 1)


def _solve(face: Array, depth: Array, moved: Array) -> Array:
    """Heads (T, 6) that bring points (P, 2) with depth (P,) to (T, P, 2), by least squares."""
    x, y = (face - JOINT).T
    z, one, nil = depth, np.ones_like(depth), np.zeros_like(depth)
    # Derivatives at rest by pitch, yaw, roll, x, y, scale: (P, 2, 6).
    slopes = np.stack([[nil, -z, -y, one, nil, x], [-z, nil, x, nil, one, y]], 0).transpose(2, 0, 1)
    inverse = np.linalg.pinv(slopes.reshape(-1, 6))
    head = np.zeros((len(moved), 6))
    for _ in range(ITERATIONS):
        left = moved - apply_pose(face, depth, head)
        head += left.reshape(len(moved), -1) @ inverse.T
    return head


def _brows(face: Array, depth: Array, moved: Array, head: Array) -> Array:
    """Return how far the brows' ends are raised, the head's own motion removed."""
    raised = []
    for points in (INNER_BROWS, OUTER_BROWS):
        left = moved[:, points] - apply_pose(face[points], depth[points], head)
        scale, roll = np.exp(head[:, 5, None]), head[:, 2, None]
        up = np.sin(roll) * left[..., 0] - np.cos(roll) * left[..., 1]
        raised.append((up / scale).mean(1))
    return np.stack(raised, 1)
