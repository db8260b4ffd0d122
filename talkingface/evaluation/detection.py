"""Detect faces in finished frames; detections of real videos are cached."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from talkingface import media
from talkingface.contract import MESH_POINTS
from talkingface.faces import Tracker
from talkingface.geometry import interpolate
from talkingface.landmarks import IBUG
from talkingface.types import Array, Frames


def detect(frames: Frames) -> Array:
    """Track a face through a clip of crops; return landmarks (T, 68, 2) in pixels, NaN if lost.

    The tracker gets the first frame twice, so that its settling is not taken for motion.
    """
    return detect_meshes(frames)[:, IBUG]


def detect_meshes(frames: Iterable[NDArray[np.uint8]]) -> Array:
    """Track a face as `detect`; return all points of the mesh (T, 478, 2)."""
    tracker, found = Tracker(), []
    for number, frame in enumerate(frames):
        if number == 0:
            tracker.update(frame)
        face = tracker.update(frame)
        found.append(np.full((MESH_POINTS, 2), np.nan) if face is None else face.mesh[:, :2])
    return np.stack(found)


def digest(frames: Frames) -> str:
    """Return a hash of frames (T, S, S, 3)."""
    return hashlib.sha256(frames.tobytes()).hexdigest()[:16]


def detect_cached(folder: Path | None, key: str, frames: Frames) -> Array:
    """Return `detect(frames)`, cached in `folder` if it is given. Raises OutputError."""
    if folder is None:
        return detect(frames)
    # the hash of the pixels is in the name: clips of one name may differ between caches
    path = folder / f"{key}-{digest(frames)}.npy"
    if path.exists():
        return np.asarray(np.load(path), dtype=np.float64)
    landmarks = detect(frames)
    with media.replacing(path, overwrite=True) as part, media.writing(path, OSError):
        with part.open("wb") as file:
            np.save(file, landmarks)
    return landmarks


def filled(landmarks: Array) -> Array | None:
    """Interpolate lost frames of points (T, P, 2). Returns None if all frames are lost."""
    found = np.asarray(np.isfinite(landmarks).all((1, 2)))
    return interpolate(landmarks[found], found) if found.any() else None
