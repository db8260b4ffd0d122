"""The contract of generators: each is the same function. Shapes, ranges and units are here.

    identity         = model.encode(portrait)                   # once per face
    generated, state = model(identity, speech, state=None)      # as often as you like

Streaming is not a feature but a consequence: call again with the state you got.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn

LANDMARKS = 68  # iBUG order: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, lips 48-67
MESH_POINTS = 478  # MediaPipe's mesh: 468 of the surface, 5 of each iris


@dataclass(frozen=True)
class Portrait:
    """Aligned face crops.

    image: (B, 3, S, S) float, RGB in [-1, 1].
    landmarks: (B, 68, 2) float, (x, y) in [0, 1] of the crop, iBUG order.
    mesh: (B, 478, 2) float, alike; None where only landmarks are known.
    """

    image: Tensor
    landmarks: Tensor
    mesh: Tensor | None = None

    def to(self, device: torch.device | str) -> Portrait:
        """Return the portrait on another device."""
        mesh = None if self.mesh is None else self.mesh.to(device)
        return Portrait(self.image.to(device), self.landmarks.to(device), mesh)


@dataclass(frozen=True)
class Generated:
    """Output of a generator for T windows of speech.

    frames: (B, T, 3, S, S) in [-1, 1].
    mask: (B, T, 1, S, S) in [0, 1], how much of each pixel is new colour.
    colour: (B, T, 3, S, S) in [-1, 1], the new colour (or motion) map.
    landmarks: (B, T, 68, 2) in [0, 1] of the crop, as the model predicts them.
    mesh: (B, T, 478, 2), alike, along which the picture was warped.
    change: (B, T, 3, S, S), the correction of the warped picture, in units of `frames`.
    moves: (B, T, 8), HEAD and BROWS of `motion.Motion`, where the model itself decides how the head
    moves; it is not moved in the frames.
    All but the frames are None where a model has none.
    """

    frames: Tensor
    mask: Tensor | None = None
    colour: Tensor | None = None
    landmarks: Tensor | None = None
    mesh: Tensor | None = None
    change: Tensor | None = None
    moves: Tensor | None = None


State = Any  # opaque: None, a tensor or a tuple of tensors, batch first


@runtime_checkable
class Generator(Protocol):
    """Every entry of the model registry; also a torch.nn.Module.

    No sample of a batch influences another, no frame depends on speech beyond its own window, and
    a clip fed in any chunking gives the same frames (to float noise).
    """

    config: Any
    is_autoregressive: bool  # a frame sees the picture before it
    samples_head: bool  # the model itself decides how the head moves

    @property
    def moving(self) -> Tensor | None:
        """(P,), the points of the mesh that the model moves; None for one that moves no mesh."""

    def encode(self, portrait: Portrait) -> Any:
        """Encode all of a face that does not depend on speech."""

    def __call__(
        self, identity: Any, speech: Tensor, state: State = None
    ) -> tuple[Generated, State]:
        """speech: (B, T, hops, coefficients), one window of features per 25 fps video frame."""


class GeneratorModule(nn.Module):
    """Base of the generators here: `Generator`'s attributes of one that can do nothing more."""

    is_autoregressive: bool = False
    samples_head: bool = False
    predicts_landmarks: bool = False  # see `LandmarkPredictor`

    @property
    def moving(self) -> Tensor | None:
        """See `Generator`."""
        return None


@runtime_checkable
class LandmarkDriven(Protocol):
    """A generator that also draws landmarks it is given, real ones for instance (ATVGnet's VG-net).

    Its states are those of `Generator`, and of this call only.
    """

    def draw(
        self, identity: Any, landmarks: Tensor, state: State = None
    ) -> tuple[Generated, State]:
        """landmarks: (B, T, 68, 2) in [0, 1] of the crop, one set per video frame."""


@runtime_checkable
class LandmarkPredictor(Protocol):
    """A generator that predicts where the lips go before it draws anything.

    predicts_landmarks: whether it does so as it is configured.
    Its states are those of this call only.
    """

    predicts_landmarks: bool

    def predict_landmarks(
        self, identity: Any, speech: Tensor, state: State = None
    ) -> tuple[Tensor, State]:
        """Only the landmarks (B, T, 68, 2) in [0, 1] of the crop, of `Generator`'s arguments."""


@runtime_checkable
class MeshGenerator(Generator, Protocol):
    """A generator that warps the picture along a mesh which expressions move.

    Its identities have `mouth`, a models.lips.Mouth.
    """

    @property
    def readout(self) -> Any:
        """models.lips.ExpressionNet, speech to expressions (B, T, K)."""

    @property
    def moving(self) -> Tensor:
        """(P,): the points of the mesh that it moves."""

    def __call__(
        self, identity: Any, speech: Tensor, state: State = None, meshes: Tensor | None = None
    ) -> tuple[Generated, State]:
        """meshes: (B, T, 478, 2) to draw instead of the predicted ones."""

    def meshes(self, identity: Any, expression: Tensor) -> Tensor:
        """(B, T, 478, 2) in [0, 1] of the crop with expressions (B, T, K); nothing is drawn."""


def moves_mesh(model: object) -> TypeGuard[MeshGenerator]:
    """Return whether a model is a `MeshGenerator` as it is configured."""
    return getattr(model, "moving", None) is not None


def predicts_expressions(model: Any) -> bool:
    """Return whether a model is an `ExpressionPredictor` as it is configured: it has a space.

    `isinstance` is no test of that, as it asks no property since Python 3.12.
    """
    return hasattr(model, "space")


@runtime_checkable
class ExpressionPredictor(Protocol):
    """A generator that predicts absolute expressions from speech alone, before any face is drawn.

    space: models.expression.ExpressionSpace. Its `mesh(e)` returns (..., 478, 2) in interocular
    units: the mean neutral face with expression e.
    Its states are those of this call only.
    """

    space: Any

    def predict_expression(self, speech: Tensor, state: State = None) -> tuple[Tensor, State]:
        """(B, T, hops, coefficients) -> absolute expressions (B, T, K); no face is needed."""
