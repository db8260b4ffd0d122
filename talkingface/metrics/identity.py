"""Identity similarity of a clip and its picture, and the accuracy of that measure.

The measure is the cosine of our own face embedding (`models/measures/identity.py`): 1 is the same
picture. It is neither CSIM nor ArcFace's. It is comparable only with cosines of the same weights
file. The file's header holds its accuracy of verification on people outside the training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talkingface import video
from talkingface.types import Array

Embedding = Callable[[Tensor], Tensor]  # (B, 3, S, S) in [-1, 1] -> (B, D) of length 1
EVERY = 5  # frames: five per second, a face does not change faster
AT_ONCE = 64  # pictures that are embedded together
# The least cosine with a person's mean face that counts as the same person. With the package's
# embedding 99 % of s1's held-out frames are above 0.97, all of 500 other people's faces below 0.45.
SAME_PERSON = 0.65


def embed(embedding: Embedding, frames: NDArray[np.uint8]) -> Array:
    """Embed uint8 RGB aligned crops (T, S, S, 3), T >= 1: (T, D), the network's own outputs."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(f"expected pictures (T, S, S, 3) uint8, got {frames.shape} {frames.dtype}")
    with torch.inference_mode():
        parts = [
            embedding(video.to_tensor(np.array(frames[begin : begin + AT_ONCE]))).cpu()
            for begin in range(0, len(frames), AT_ONCE)
        ]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float64)


def likeness(
    embedding: Embedding,
    frames: NDArray[np.uint8],
    picture: NDArray[np.uint8],
    every: int = EVERY,
) -> Array:
    """Return the cosine of every `every`-th frame, from the first, with the identity picture.

    frames: (T, S, S, 3), picture: (S, S, 3), uint8 RGB aligned crops. Returns (ceil(T / every),)
    in [-1, 1].
    """
    first = embed(embedding, picture[None])[0]
    return np.asarray(embed(embedding, frames[::every]) @ first)


def similarity(
    embedding: Embedding,
    frames: NDArray[np.uint8],
    picture: NDArray[np.uint8],
    every: int = EVERY,
) -> float:
    """Return the identity similarity of a clip: the mean of `likeness`."""
    return float(likeness(embedding, frames, picture, every).mean())


@dataclass(frozen=True)
class Person:
    """The person that a model was trained on.

    face: (D,), the mean embedding. sha256: of the weights of the embedding network.
    """

    name: str
    face: tuple[float, ...]
    sha256: str

    @classmethod
    def of(cls, name: str, embedding: Embedding, frames: NDArray[np.uint8], sha256: str) -> Person:
        """Create a person from frames (T, S, S, 3), aligned crops of this person alone."""
        mean = embed(embedding, frames).mean(0)
        return cls(name, tuple(round(float(x), 5) for x in mean / np.linalg.norm(mean)), sha256)

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> Person:
        """Read a person from `facts`, as a weights file's header holds them."""
        return cls(str(facts["name"]), tuple(map(float, facts["face"])), str(facts["sha256"]))

    @property
    def facts(self) -> dict[str, Any]:
        """Values for a weights file's header."""
        return {"name": self.name, "face": list(self.face), "sha256": self.sha256}

    def likeness(self, embedding: Embedding, crop: NDArray[np.uint8]) -> float:
        """Return the cosine of a crop (S, S, 3) with the mean; compare it with SAME_PERSON."""
        return float(embed(embedding, crop[None])[0] @ np.array(self.face))


def verification(same: NDArray[Any], different: NDArray[Any]) -> tuple[float, float]:
    """Return (AUC, equal error rate) of scores for pairs of one person and pairs of two.

    same: (N,), different: (M,) scores, higher is more alike. AUC: the chance that a pair of one
    person scores above a pair of two; a tie counts half. EER: the error at the threshold that
    rejects as large a share of the same pairs as it accepts of the different ones; it is the mean
    of both shares where they are closest. NaN if there are no pairs.
    """
    if len(same) == 0 or len(different) == 0:
        return math.nan, math.nan
    same, different = np.sort(same), np.sort(different)
    below = np.searchsorted(different, same, "left")
    at_most = np.searchsorted(different, same, "right")
    auc = float((below + at_most).mean() / 2 / len(different))
    thresholds = np.concatenate([same, different, [np.inf]])  # accepted: not below it
    refused = np.searchsorted(same, thresholds, "left") / len(same)
    accepted = 1 - np.searchsorted(different, thresholds, "left") / len(different)
    best = int(np.argmin(np.abs(refused - accepted)))
    return auc, float((refused[best] + accepted[best]) / 2)
