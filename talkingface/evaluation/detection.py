"""Detect faces in finished frames; detections of real videos are cached."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from talkingface import media
from talkingface.contract import MESH_POINTS
from talkingface.faces import Tracker
from talkingface.geometry import interpolate
from talkingface.landmarks import IBUG
from talkingface.types import Array, Frames, Picture


def follow(
    frames: Iterable[Picture], first: Picture | None = None
) -> Iterator[tuple[Picture, Array]]:
    """Yield each frame with its face's mesh (478, 2) in pixels, NaN where none is found.

    The tracker gets the picture `first` [the first frame] before, so that its settling is not taken
    for motion.
    """
    tracker = Tracker()
    for number, frame in enumerate(frames):
        if number == 0:
            tracker.update(frame if first is None else first)
        face = tracker.update(frame)
        yield frame, np.full((MESH_POINTS, 2), np.nan) if face is None else face.mesh[:, :2]


def detect_meshes(frames: Iterable[Picture]) -> Array:
    """Track a face through a clip; return the points of its mesh (T, 478, 2), see `follow`."""
    return np.stack([mesh for _, mesh in follow(frames)])


def detect(frames: Iterable[Picture]) -> Array:
    """Track a face through a clip; return landmarks (T, 68, 2) in pixels, NaN if lost."""
    return detect_meshes(frames)[:, IBUG]


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
