"""Estimate a mesh from the 68 landmarks alone: a reference face, warped through them.

The reference is `landmarks.reference_mesh`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talkingface.contract import LANDMARKS
from talkingface.landmarks import IBUG, STABLE, reference_mesh

_SOFTNESS = 0.1  # interocular: below this distance the kernel is round, beyond it a cone


def mesh_from_landmarks(landmarks: Tensor) -> Tensor:
    """(..., 68, 2) in iBUG order -> (..., 478, 2) in the same unit, exact at those 68 points.

    A similarity brings the reference to the landmarks by points that speech does not move; what is
    left at the 68 points is spread over the others by multiquadrics (Hardy 1971).
    """
    if landmarks.shape[-2:] != (LANDMARKS, 2):
        raise ValueError(f"landmarks are (..., {LANDMARKS}, 2), got {tuple(landmarks.shape)}")
    reference, weights = (
        torch.from_numpy(a).to(landmarks.device, landmarks.dtype) for a in _interpolant()
    )
    stable = torch.from_numpy(STABLE).to(landmarks.device)
    laid = _laid(reference, reference[IBUG][stable], landmarks[..., stable, :])
    known = torch.from_numpy(IBUG).to(landmarks.device)
    bent = laid + weights @ (landmarks - laid[..., known, :])
    return bent.index_copy(-2, known, landmarks)


def _laid(points: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Points (P, 2) by the similarities that bring (N, 2) to (..., N, 2): (..., P, 2)."""
    middle, where = source.mean(0), target.mean(-2, keepdim=True)
    s, t, p = source - middle, target - where, points - middle
    real = (s * t).sum((-1, -2)) / s.square().sum()
    imaginary = (s[:, 0] * t[..., 1] - s[:, 1] * t[..., 0]).sum(-1) / s.square().sum()
    across = torch.stack([-p[:, 1], p[:, 0]], -1)  # a quarter turn
    return where + real[..., None, None] * p + imaginary[..., None, None] * across


@cache
def _interpolant() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The reference (478, 2), and (478, 68): how residuals at the landmarks reach all points."""
    reference = reference_mesh()
    apart = np.linalg.norm(reference[:, None] - reference[IBUG], axis=-1)
    kernel = np.hypot(apart, _SOFTNESS)
    plane = np.c_[np.ones(len(reference)), reference]
    known = np.block([
        [kernel[IBUG], plane[IBUG]],
        [plane[IBUG].T, np.zeros((3, 3))],
    ])  # fmt: skip
    weights = np.linalg.solve(known, np.c_[kernel, plane].T).T  # known is symmetric
    return reference, np.ascontiguousarray(weights[:, : len(IBUG)])
