"""ATVGnet's landmark space: mean and principal components of a corpus (poster, Fig. 3).

It is computed once, saved in a file and then in the weights as buffers
(`models.atvg.LandmarkSpace`). Crops are aligned by points that speech does not move (Procrustes).
So a landmark contains the face's own shape and its motion. The mean is the shape; the components
are those of the motion, of landmarks minus their clip's mean.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from talkingface import media
from talkingface.contract import LANDMARKS
from talkingface.data.dataset import Cache, ClipInfo
from talkingface.errors import BadRequest, BadWeights
from talkingface.models.atvg import LandmarkSpace

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
        rows = cache.landmarks[clip.start : clip.start + clip.frames]
        track = rows.reshape(clip.frames, size).astype(np.float64)
        weight = counts[clip.speaker] ** (balance - 1.0)
        own = track.mean(0)
        mean += weight * clip.frames * own
        covariance += weight * (track - own).T @ (track - own)
        total += weight * clip.frames
    values, vectors = np.linalg.eigh(covariance / total)
    basis = vectors[:, ::-1][:, :components].T
    basis *= np.sign(basis[np.arange(components), np.abs(basis).argmax(1)])[:, None]
    scale = np.sqrt(np.maximum(values[::-1][:components], 1e-12))
    arrays = {"mean": mean / total, "basis": basis, "scale": scale}
    share = float(values[::-1][:components].sum() / values.sum())
    return {name: torch.from_numpy(a.copy()).float() for name, a in arrays.items()}, share


def save(basis: Basis, path: Path, training_data: str, overwrite: bool = False) -> None:
    """Write a basis atomically. Raises OutputError."""
    with media.replacing(path, overwrite) as part, media.writing(path, OSError):
        save_file(
            {name: tensor.contiguous() for name, tensor in basis.items()},
            part,
            {"kind": "landmark space", "training_data": training_data},
        )


def load(path: Path) -> Basis:
    """Read a basis of `save`. Raises BadWeights: missing, damaged, of another kind."""
    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise BadWeights(
            f"{path}: is no landmark space ({error}); make one with `talkingface landmark-space`"
        ) from error
    if set(found) != {"mean", "basis", "scale"}:
        raise BadWeights(
            f"{path}: holds {', '.join(sorted(found)) or 'nothing'}, expected mean, basis and "
            "scale: make one with `talkingface landmark-space`"
        )
    return found


def install(basis: Basis, space: LandmarkSpace, name: str = "landmark space") -> None:
    """Copy a basis into a model. Raises BadWeights where its size differs from the model's."""
    wanted = (space.basis.shape[0], space.basis.shape[1] // 2)
    found = (basis["basis"].shape[0], basis["basis"].shape[1] // 2)
    if found != wanted:
        raise BadWeights(
            f"{name}: {found[0]} components of {found[1]} points, the model has {wanted[0]} of "
            f"{wanted[1]}: compute it with --components {wanted[0]}"
        )
    space.load_state_dict(basis)
