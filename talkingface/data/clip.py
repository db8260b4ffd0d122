"""One record of a prepared corpus: crops of a face, landmarks, sound and words."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talkingface.audio import SAMPLES_PER_FRAME
from talkingface.contract import LANDMARKS, MESH_POINTS

Word = tuple[str, float, float]  # the word, its start and its end in seconds

TRAIN, VALIDATION, TEST = "train", "val", "test"  # splits
UNSEEN = "stranger"  # the split of unseen speakers, as shards and caches store it
UNSEEN_NAME = "unseen"  # its name for users, who may also give the stored value
HELD_OUT_PORTRAITS = "portrait-heldout"

MAX_FRAMES = 500  # a clip is one JPEG, which is at most 65500 rows: 500 crops of 128
_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Clip:
    """One person for T frames at 25 fps.

    key: letters, digits, "-" and "_"; unique in its corpus. crops: (T, S, S, 3) uint8 RGB.
    landmarks: (T, 68, 2) and mesh: (T, 478, 2) float32 in [0, 1] of the crop. sound: (640 T,) int16
    at 16 kHz. words: seconds from the clip's start, empty where times are unknown. sentence: ""
    where unknown. split: TRAIN, VALIDATION, TEST, UNSEEN ... silent: a still picture, its sound is
    all zero.
    info: `yaw`, `pitch`, `roll` (degrees, medians), `found` (share of frames with a face), `snr`
    (dB), `natural_pose`, `source` (file name); whatever JSON can hold.
    """

    key: str
    speaker: str
    crops: NDArray[np.uint8]
    landmarks: NDArray[np.float32]
    mesh: NDArray[np.float32]
    sound: NDArray[np.int16]
    words: tuple[Word, ...] = ()
    sentence: str = ""
    split: str = TRAIN
    silent: bool = False
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError when shapes or types do not fit together."""
        frames = len(self.crops)
        side = self.crops.shape[1] if self.crops.ndim == 4 else 0
        expected: dict[str, tuple[NDArray[Any], tuple[int, ...], type]] = {
            "crops": (self.crops, (frames, side, side, 3), np.uint8),
            "landmarks": (self.landmarks, (frames, LANDMARKS, 2), np.float32),
            "mesh": (self.mesh, (frames, MESH_POINTS, 2), np.float32),
            "sound": (self.sound, (frames * SAMPLES_PER_FRAME,), np.int16),
        }
        for name, (array, shape, kind) in expected.items():
            if array.shape != shape or array.dtype != kind:
                raise ValueError(
                    f"clip {self.key}: {name} are {array.dtype} {array.shape}, expected "
                    f"{np.dtype(kind)} {shape}"
                )
        if not 0 < frames <= MAX_FRAMES:
            raise ValueError(f"clip {self.key}: {frames} frames, expected 1 to {MAX_FRAMES}")
        if not _KEY.fullmatch(self.key):
            raise ValueError(f"clip {self.key!r}: a key is letters, digits, - and _")


def split_name(split: str) -> str:
    """Return the name of a split for users: "unseen" for the stored value "stranger"."""
    return UNSEEN_NAME if split == UNSEEN else split


def stored_split(name: str) -> str:
    """Return the stored value of a split that a user names: "stranger" for "unseen"."""
    return UNSEEN if name == UNSEEN_NAME else name


def key_of(*parts: str) -> str:
    """Return a clip's key from names: joined by "_", other characters become "-"."""
    return "_".join(re.sub(r"[^A-Za-z0-9-]", "-", part) for part in parts)


def fit_sound(samples: NDArray[np.float32], frames: int) -> NDArray[np.int16]:
    """Convert samples (N,) in [-1, 1] to the (640 frames,) int16 of a clip; pad or cut the end."""
    wanted = frames * SAMPLES_PER_FRAME
    kept = np.pad(samples[:wanted], (0, max(0, wanted - len(samples))))
    return np.clip(np.rint(kept * 32768), -32768, 32767).astype(np.int16)
