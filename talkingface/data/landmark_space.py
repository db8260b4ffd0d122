"""ATVGnet's landmark space: mean and principal components of a corpus (poster, Fig. 3).

It is computed once, saved in a file and then in the weights as buffers
(`models.atvg_published.LandmarkSpace`). Crops are aligned by points that speech does not move
(Procrustes). So a landmark contains the face's own shape and its motion. The mean is the shape; the
components are those of the motion, of landmarks minus their clip's mean.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from talkingface.contract import LANDMARKS
from talkingface.data.dataset import Cache, ClipInfo
from talkingface.data.expression_space import load_tensors, principal_components, save_tensors
from talkingface.errors import BadRequest, BadWeights
from talkingface.models.atvg_published import LandmarkSpace

KIND = "landmark space"  # in its file
Basis = dict[str, Tensor]  # mean (136,), basis (K, 136), scale (K,): see LandmarkSpace


def fit(
    cache: Cache, clips: list[ClipInfo], components: int, balance: float = 0.5
) -> tuple[Basis, float]:
    """Fit the mean face and the first components of its motion, on speaking clips only.

    Returns them and their share of the motion's variance. balance: a speaker's weight is
    (clips) ** balance, as in the sampling of batches.
    Raises BadRequest where there are fewer frames than components.
    """
    speaking = [c for c in clips if not c.silent]
    frames = sum(c.frames for c in speaking)
    if frames <= components:
        raise BadRequest(
            f"{components} components need more than the {frames} frames of speech at hand"
        )
    counts = Counter(c.speaker for c in speaking)
    size = 2 * LANDMARKS
    mean, covariance, total = np.zeros(size), np.zeros((size, size)), 0.0
    for clip in speaking:
        track = cache.landmarks[clip.rows].reshape(clip.frames, size).astype(np.float64)
        weight = counts[clip.speaker] ** (balance - 1.0)
        own = track.mean(0)
        mean += weight * clip.frames * own
        covariance += weight * (track - own).T @ (track - own)
        total += weight * clip.frames
    basis, scale, shares = principal_components(covariance / total, components)
    arrays = {"mean": mean / total, "basis": basis, "scale": scale}
    tensors = {name: torch.from_numpy(a.copy()).float() for name, a in arrays.items()}
    return tensors, float(shares[components - 1])


def save(basis: Basis, path: Path, training_data: str, overwrite: bool = False) -> None:
    """Write a basis atomically. Raises OutputError."""
    save_tensors(basis, path, KIND, training_data, overwrite)


def load(path: Path) -> Basis:
    """Read a basis of `save`. Raises BadWeights: missing, damaged, of another kind."""
    return load_tensors(path, KIND, ("mean", "basis", "scale"))


def install(basis: Basis, space: LandmarkSpace, name: str = KIND) -> None:
    """Copy a basis into a model. Raises BadWeights where its size differs from the model's."""
    wanted = (space.basis.shape[0], space.basis.shape[1] // 2)
    found = (basis["basis"].shape[0], basis["basis"].shape[1] // 2)
    if found != wanted:
        raise BadWeights(
            f"{name}: {found[0]} components of {found[1]} points, the model has {wanted[0]} of "
            f"{wanted[1]}: compute it with --components {wanted[0]}"
        )
    space.load_state_dict(basis)
