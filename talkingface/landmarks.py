"""Measure lips on the 478-point face mesh, in arrays and in tensors."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

MESH_POINTS = 478  # MediaPipe's face mesh
INNER_UPPER_LIP, INNER_LOWER_LIP = 13, 14  # the middle of the inner lips
RIGHT_CORNER, LEFT_CORNER = 61, 291  # of the mouth; the person's own right and left


@overload
def aperture(mesh: Tensor) -> Tensor: ...
@overload
def aperture(mesh: NDArray[Any]) -> NDArray[Any]: ...
def aperture(mesh: NDArray[Any] | Tensor) -> NDArray[Any] | Tensor:
    """Return the gap of the inner lips of meshes (..., 478, 2): (...), in the mesh's unit."""
    return _distance(mesh, INNER_UPPER_LIP, INNER_LOWER_LIP)


@overload
def width(mesh: Tensor) -> Tensor: ...
@overload
def width(mesh: NDArray[Any]) -> NDArray[Any]: ...
def width(mesh: NDArray[Any] | Tensor) -> NDArray[Any] | Tensor:
    """Return the distance of the mouth's corners of meshes (..., 478, 2): (...), in its unit."""
    return _distance(mesh, RIGHT_CORNER, LEFT_CORNER)


def _distance(mesh: NDArray[Any] | Tensor, first: int, second: int) -> NDArray[Any] | Tensor:
    if mesh.shape[-2:] != (MESH_POINTS, 2):
        raise ValueError(f"expected meshes (..., {MESH_POINTS}, 2), got {tuple(mesh.shape)}")
    apart = mesh[..., first, :] - mesh[..., second, :]
    if isinstance(apart, Tensor):
        return apart.square().sum(-1).sqrt()
    return np.asarray(np.sqrt(np.square(apart).sum(-1)))
