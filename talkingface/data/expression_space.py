"""Fitting of the expression space to a corpus, and its file (`models.expression`).

The neutral face of a clip is the median of the frames with the smallest gap of the lips. The motion
of the lower face is measured from there. The variation of neutral faces is measured on the speakers
and on the still portraits with closed lips.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from talkingface import media
from talkingface.data.dataset import Cache, ClipInfo
from talkingface.errors import BadRequest, BadWeights
from talkingface.landmarks import LEFT_EYE, RIGHT_EYE, STABLE_MESH, aperture, eye_distance
from talkingface.models.expression import (
    COMPONENTS,
    IDENTITIES,
    ExpressionSpace,
    fade,
    similarity,
    transform,
)
from talkingface.types import Array

TENSORS = ("reference", "points", "basis", "scale", "identity_basis", "identity_scale")
CLOSED = 0.03  # interocular: a still portrait with a smaller gap shows a neutral mouth

_NEUTRAL_SHARE = 0.15  # of a clip's frames, those with the smallest gap
_NEUTRAL_FRAMES = 5  # and at least so many
_ROUNDS = 5  # of aligning the neutral faces to their mean


@dataclass(frozen=True)
class Fitted:
    """An expression space and the data of its fit.

    tensors: buffers of `ExpressionSpace`. shares: (2 P,), the share of the motion's variance of the
    first 1, 2, ... components. clips, speakers, portraits: their numbers in the fit.
    """

    tensors: dict[str, Tensor]
    shares: Array
    clips: int
    speakers: int
    portraits: int

    def share(self, components: int) -> float:
        """Return the share of the variance of so many components."""
        return float(self.shares[min(components, len(self.shares)) - 1])


def fit(
    cache: Cache,
    clips: list[ClipInfo],
    components: int = COMPONENTS,
    identities: int = IDENTITIES,
    balance: float = 0.5,
) -> Fitted:
    """Fit the expression space of clips of a cache, see `fit_meshes`. Raises BadRequest."""
    speaking = {c.key: (c.speaker, cache.mesh[c.rows]) for c in clips if not c.silent}
    still = [cache.mesh[c.start] for c in clips if c.silent]
    return fit_meshes(speaking, still, components, identities, balance)


def fit_meshes(
    clips: Mapping[str, tuple[str, NDArray[np.float32]]],
    portraits: Iterable[NDArray[np.float32]],
    components: int = COMPONENTS,
    identities: int = IDENTITIES,
    balance: float = 0.5,
) -> Fitted:
    """Fit the expression space of clips (speaker, (T, 478, 2)) and still portraits (478, 2).

    Meshes in any unit, upright. balance: a speaker's weight is (clips) ** balance, as in the
    sampling of batches. There are no more identities than people less one. Raises BadRequest where
    there are too few frames or people.
    """
    frames = sum(len(mesh) for _, mesh in clips.values())
    if frames <= components:
        raise BadRequest(
            f"{components} components need more than the {frames} frames of speech at hand"
        )
    closed = [p.astype(np.float64) for p in portraits if aperture(p) < CLOSED * eye_distance(p)]
    own = defaultdict(list)
    for speaker, mesh in clips.values():
        own[speaker].append(neutral_of(mesh))
    reference, people = _mean_face(list(own.values()), closed)
    if len(people) < 2:
        raise BadRequest("how faces differ needs more than the one person at hand")
    points = np.flatnonzero(fade(torch.from_numpy(reference)).numpy() > 0)
    basis, scale, shares = _motion(clips, reference, points, components, balance)
    identity_basis, identity_scale = _identity(people, reference, identities)
    arrays = {
        "reference": reference,
        "basis": basis,
        "scale": scale,
        "identity_basis": identity_basis,
        "identity_scale": identity_scale,
    }
    tensors = {name: torch.from_numpy(a.copy()).float() for name, a in arrays.items()}
    tensors["points"] = torch.from_numpy(points)
    return Fitted(tensors, shares, len(clips), len(own), len(closed))


def neutral_of(mesh: NDArray[np.float32] | Array, reference: Array | None = None) -> Array:
    """Return the neutral face of a clip (T, 478, 2): the median of 15 % of its frames, 5 at least.

    Each is aligned to the reference, or to the first of them, by points that speech does not move.
    """
    gap = aperture(mesh.astype(np.float64)) / eye_distance(mesh.astype(np.float64))
    count = max(_NEUTRAL_FRAMES, int(_NEUTRAL_SHARE * len(mesh)))
    calm = mesh[np.argsort(gap, kind="stable")[:count]].astype(np.float64)
    return np.asarray(np.median(aligned(calm, calm[0] if reference is None else reference), axis=0))


def aligned(mesh: NDArray[np.float32] | Array, reference: Array) -> Array:
    """Align meshes (..., 478, 2) to the reference."""
    points, target = torch.from_numpy(mesh.astype(np.float64)), torch.from_numpy(reference)
    matrix = similarity(points[..., STABLE_MESH, :], target[STABLE_MESH])
    return np.asarray(transform(points, matrix).numpy())


def _mean_face(speakers: list[list[Array]], portraits: list[Array]) -> tuple[Array, Array]:
    """Return the mean neutral face (478, 2), and each person's aligned to it (N, 478, 2).

    speakers: the neutral faces of each one's clips, which together have the weight of one person.
    """
    reference = _upright((speakers[0] if speakers else portraits)[0])
    people = np.empty(0)
    for _ in range(_ROUNDS):
        means = [aligned(np.stack(faces), reference).mean(0) for faces in speakers]
        people = np.stack([*means, *(aligned(face, reference) for face in portraits)])
        reference = _upright(people.mean(0))
    return reference, aligned(people, reference)


def _upright(face: Array) -> Array:
    """Align a face (478, 2) so that its eye centres are at (-0.5, 0) and (0.5, 0)."""
    z = face @ [1, 1j]
    left, right = z[list(LEFT_EYE)].mean(), z[list(RIGHT_EYE)].mean()
    z = (z - (left + right) / 2) / (right - left)
    return np.stack([z.real, z.imag], -1)


def _motion(
    clips: Mapping[str, tuple[str, NDArray[np.float32]]],
    reference: Array,
    points: NDArray[np.int64],
    components: int,
    balance: float,
) -> tuple[Array, Array, Array]:
    """Return basis (K, P, 2), scale (K,), and the share of the variance by number of components."""
    counts = Counter(speaker for speaker, _ in clips.values())
    weight = fade(torch.from_numpy(reference)).numpy()[points, None]
    size = 2 * len(points)
    covariance, total = np.zeros((size, size)), 0.0
    for speaker, mesh in clips.values():
        moved = aligned(mesh, reference) - neutral_of(mesh, reference)
        rows = (moved[:, points] * weight).reshape(-1, size)
        share = counts[speaker] ** (balance - 1.0)
        covariance += share * rows.T @ rows
        total += share * len(rows)
    basis, scale, shares = principal_components(covariance / total, components)
    return basis.reshape(components, -1, 2), scale, shares


def _identity(people: Array, reference: Array, identities: int) -> tuple[Array, Array]:
    """Return identity_basis (A, 956) and identity_scale (A,) of neutral faces (N, 478, 2)."""
    rows = (people - reference).reshape(len(people), -1)
    _, values, vectors = np.linalg.svd(rows, full_matrices=False)
    count = min(identities, len(people) - 1)
    scale = np.maximum(values[:count], 1e-6) / np.sqrt(len(people))
    return _signed(vectors[:count]), scale


def save(fitted: Fitted, path: Path, training_data: str, overwrite: bool = False) -> None:
    """Write an expression space atomically. Raises OutputError."""
    save_tensors(fitted.tensors, path, "expression space", training_data, overwrite)


def load(path: Path) -> ExpressionSpace:
    """Read what `save` wrote. Raises BadWeights: missing, damaged, of another kind."""
    return ExpressionSpace.from_tensors(load_tensors(path, "expression space", TENSORS))


# --- shared with `data.landmark_space` ------------------------------------------------------------


def principal_components(covariance: Array, count: int) -> tuple[Array, Array, Array]:
    """Return basis (count, D), scale (count,), and the share of the variance (D,) by number.

    covariance: (D, D). The largest entry of each component is positive.
    """
    values, vectors = np.linalg.eigh(covariance)
    values, basis = np.maximum(values[::-1], 0.0), vectors[:, ::-1][:, :count].T
    scale = np.sqrt(np.maximum(values[:count], 1e-12))
    return _signed(basis), scale, np.cumsum(values) / values.sum()


def _signed(rows: Array) -> Array:
    """Flip directions so that the largest entry of each is positive."""
    largest = rows[np.arange(len(rows)), np.abs(rows).argmax(1)]
    return np.asarray(rows * np.sign(largest)[:, None])


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, kind: str, training_data: str, overwrite: bool
) -> None:
    """Write the tensors of a space atomically. Raises OutputError."""
    with media.replacing(path, overwrite) as part, media.writing(path, OSError):
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, part, {"kind": kind, "training_data": training_data})


def load_tensors(path: Path, kind: str, names: Sequence[str]) -> dict[str, Tensor]:
    """Read tensors of these names. Raises BadWeights: missing, damaged, of another kind."""
    made_by = f"make one with `talkingface {kind.replace(' ', '-')}`"
    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise BadWeights(f"{path}: is no {kind} ({error}); {made_by}") from error
    if set(found) != set(names):
        raise BadWeights(
            f"{path}: holds {', '.join(sorted(found)) or 'nothing'}, expected "
            f"{', '.join(names)}: {made_by}"
        )
    return found
