"""Where the face is in finished frames: looked for anew, and remembered for the real videos."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from talkingface import media
from talkingface.contract import MESH_POINTS
from talkingface.faces import Tracker
from talkingface.landmarks import IBUG

Array = NDArray[np.float64]
Frames = NDArray[np.uint8]


def detect(frames: Frames) -> Array:
    """The landmarks of a face followed through a clip of crops: (T, 68, 2) pixels, NaN if lost.

    The first frame is looked at twice, so that the tracker's own settling is not taken for motion.
    """
    return detect_meshes(frames)[:, IBUG]


def detect_meshes(frames: Iterable[NDArray[np.uint8]]) -> Array:
    """As `detect`, all points of the mesh: (T, 478, 2)."""
    tracker, found = Tracker(), []
    for number, frame in enumerate(frames):
        if number == 0:
            tracker.update(frame)
        face = tracker.update(frame)
        found.append(np.full((MESH_POINTS, 2), np.nan) if face is None else face.mesh[:, :2])
    return np.stack(found)


def digest(frames: Frames) -> str:
    """What tells these pixels (T, S, S, 3) from others."""
    return hashlib.sha256(frames.tobytes()).hexdigest()[:16]


def kept(folder: Path | None, key: str, frames: Frames) -> Array:
    """`detect`, or what an earlier call wrote into `folder`. Raises OutputError."""
    if folder is None:
        return detect(frames)
    # the name says which pixels were looked at: another cache's clip is never taken for this
    path = folder / f"{key}-{digest(frames)}.npy"
    if path.exists():
        return np.asarray(np.load(path), dtype=np.float64)
    landmarks = detect(frames)
    with media.replacing(path, overwrite=True) as part, media.writing(path, OSError):
        with part.open("wb") as file:
            np.save(file, landmarks)
    return landmarks


def filled(landmarks: Array) -> Array | None:
    """Points (T, P, 2) with lost frames interpolated; None where no frame has any."""
    found = np.flatnonzero(np.isfinite(landmarks).all((1, 2)))
    if len(found) == 0:
        return None
    times = np.arange(len(landmarks))
    columns = landmarks.reshape(len(landmarks), -1).T
    filled = np.stack([np.interp(times, found, column[found]) for column in columns], axis=1)
    return filled.reshape(landmarks.shape)
