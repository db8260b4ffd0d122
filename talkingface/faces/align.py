"""Align faces in crops: one picture, or a whole clip, smoothed over time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from talkingface.errors import NoFaceFound
from talkingface.faces.detect import Face, Tracker
from talkingface.faces.given import Located
from talkingface.faces.interpolation import mesh_from_landmarks
from talkingface.geometry import (
    CropSpec,
    crop_matrix,
    interpolate,
    smooth_matrices,
    transform,
    warp_crop,
)
from talkingface.landmarks import IBUG, eye_distance, reference_depth
from talkingface.types import Array, Picture

# Pairs of mesh points on a line from the picture's left to its right (ears, temples, eye corners)
# and from the forehead to the chin: what a head's axes are read off.
_ACROSS = np.array([(234, 454), (127, 356), (33, 263), (133, 362)])
_DOWN = np.array([(10, 152), (109, 148), (338, 377)])
_LEVEL_PITCH = 7.0  # degrees: how far forehead to chin leans in a level face (median, 61 portraits)


@dataclass(frozen=True)
class Aligned:
    """One face in its crop. Made by `align`.

    Mesh and depth are estimated from the landmarks if only these were given.

    crop: (S, S, 3) uint8 RGB.
    landmarks: (68, 2) float32, (x, y) in [0, 1] of the crop.
    matrix: (2, 3), from pixels of the picture to pixels of the crop.
    mesh: (478, 2) float32, (x, y) in [0, 1] of the crop.
    depth: (478,), of the mesh, in sides of the crop; less is nearer.
    """

    crop: Picture
    landmarks: NDArray[np.float32]
    matrix: Array
    mesh: NDArray[np.float32]
    depth: NDArray[np.float32]


@dataclass(frozen=True)
class Track:
    """One face through T frames.

    crops: (T, S, S, 3) uint8 RGB. landmarks: (T, 68, 2) float32 in [0, 1] of the crop. matrices:
    (T, 2, 3), picture -> crop. found: (T,) bool; where it is False landmarks, mesh and angles are
    interpolated. yaw, pitch, roll: (T,) degrees, see `pose`. mesh: (T, 478, 2) float32 in [0, 1] of
    the crop.
    """

    crops: Picture
    landmarks: NDArray[np.float32]
    matrices: Array
    found: NDArray[np.bool_]
    yaw: Array
    pitch: Array
    roll: Array
    mesh: NDArray[np.float32]


def align(picture: Picture, face: Face | Located, spec: CropSpec) -> Aligned:
    """Cut the aligned crop of a face out of its picture, (H, W, 3) uint8 RGB."""
    matrix = crop_matrix(face.landmarks, spec)
    landmarks = _in_crop(face.landmarks, matrix, spec)
    if face.mesh is None:
        mesh = mesh_from_landmarks(torch.from_numpy(landmarks)).numpy()
        depth = reference_depth() * eye_distance(mesh)
    else:
        mesh = _in_crop(face.mesh[:, :2], matrix, spec)
        depth = face.mesh[:, 2] * (np.hypot(*matrix[:, 0]) / spec.size)
    crop = warp_crop(picture, matrix, spec.size)
    return Aligned(crop, landmarks, matrix, mesh, depth.astype(np.float32))


def track(frames: Iterable[Picture], spec: CropSpec, natural_pose: bool = False) -> Track:
    """Follow the face through a clip, frames (H, W, 3) uint8 RGB, all held in memory.

    A similarity per frame from points that speech does not move, smoothed over 9 frames; one for
    the whole clip with natural_pose, so that the head moves in its crop. Raises NoFaceFound when no
    frame shows a face.
    """
    clip = list(frames)
    tracker = Tracker()
    faces = [tracker.update(frame) for frame in clip]
    found = np.array([face is not None for face in faces], dtype=bool)
    if not found.any():
        size = f"{clip[0].shape[1]}x{clip[0].shape[0]} pixels" if clip else "no pixels"
        raise NoFaceFound(
            f"no face found in any of {len(clip)} frames of {size}: give a clip of one face, seen "
            "from the front and at least 40 pixels wide"
        )
    seen = [face for face in faces if face is not None]
    meshes = interpolate(np.stack([face.mesh[:, :2] for face in seen]), found)
    landmarks = meshes[:, IBUG]
    angles = interpolate(np.array([pose(face.mesh) for face in seen]), found)
    if natural_pose:
        matrices = np.repeat(crop_matrix(np.median(landmarks, 0), spec)[None], len(clip), 0)
    else:
        matrices = smooth_matrices(np.stack([crop_matrix(points, spec) for points in landmarks]))
    return Track(
        crops=np.stack([warp_crop(f, m, spec.size) for f, m in zip(clip, matrices, strict=True)]),
        landmarks=np.stack(
            [_in_crop(p, m, spec) for p, m in zip(landmarks, matrices, strict=True)]
        ),
        matrices=matrices,
        found=found,
        yaw=angles[:, 0],
        pitch=angles[:, 1],
        roll=angles[:, 2],
        mesh=np.stack([_in_crop(p, m, spec) for p, m in zip(meshes, matrices, strict=True)]),
    )


def pose(mesh: Array) -> tuple[float, float, float]:
    """Yaw, pitch, roll in degrees of a mesh (478, 3), from its own three axes.

    Yaw is positive where the face looks to the picture's right, pitch where it looks down, roll
    where it is turned clockwise in the picture. Zero is an upright face that looks into the camera.
    """
    across = (mesh[_ACROSS[:, 1]] - mesh[_ACROSS[:, 0]]).sum(0)
    down = (mesh[_DOWN[:, 1]] - mesh[_DOWN[:, 0]]).sum(0)
    across /= np.linalg.norm(across)
    down -= across * (across @ down)
    down /= np.linalg.norm(down)
    away = np.cross(across, down)  # from the face into the head
    yaw = np.arctan2(-away[0], away[2])
    pitch = np.arcsin(np.clip(-away[1], -1, 1))
    roll = np.arctan2(across[1], np.hypot(across[0], across[2]))
    return float(np.degrees(yaw)), float(np.degrees(pitch)) - _LEVEL_PITCH, float(np.degrees(roll))


def _in_crop(points: Array, matrix: Array, spec: CropSpec) -> NDArray[np.float32]:
    return (transform(points, matrix) / spec.size).astype(np.float32)
