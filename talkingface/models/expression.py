"""Expressions: motion of the lower face as coefficients with one meaning for all people.

An expression e is a displacement of the lower face from the same person's neutral face (at rest,
lips closed), in principal components. From one mesh, `ExpressionSpace.fit` tells apart the neutral
face and the expression that it shows. `data.expression_space` fits the space to a corpus.

Units: the reference frame has the eye centres at (-0.5, 0) and (0.5, 0), y down.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from talkingface.contract import MESH_POINTS
from talkingface.landmarks import (
    GAP_BOTTOM,
    GAP_TOP,
    INNER_PAIRS,
    LOWER_INNER,
    NOSE_BASE,
    STABLE_MESH,
    UPPER_INNER,
    reference_mesh,
)

COMPONENTS = 16
IDENTITIES = 40

# What `fit` counts with, chosen on held-out people (interocular units). That the lips of a neutral
# face touch is nearly certain; the other points are as the two statistics say, within the noise.
# Most portraits of the statistics are generated faces, which differ less than real ones.
_FACE_NOISE = 0.02
_GAP_NOISE = 0.01
_IDENTITY_SPREAD = 2.0

# How the lips are brought together, chosen by eye on portraits with open mouths: up to _FAR_GAP the
# lips move, beyond it the chin rises with them.
_UPPER_SHARE = 0.35
_NEAR = (0.22, 0.30)  # interocular: how far the motion of the upper and of the lower lip reaches
_FAR = (0.35, 0.80)
_FAR_GAP = 0.18
_SHUT_GAP = 0.02  # in the middle, below which all pairs are brought together

_FADE_ABOVE = 0.1  # interocular: how far above the base of the nose speech begins to move a face
_FADE_LENGTH = 0.35  # and how much further down it does fully


def fade(reference: Tensor) -> Tensor:
    """Return how much speech moves each point, in [0, 1]: (478, 2) -> (478,)."""
    y = reference[:, 1]
    return ((y - y[NOSE_BASE] + _FADE_ABOVE) / _FADE_LENGTH).clamp(0, 1)


def similarity(source: Tensor, target: Tensor) -> Tensor:
    """Least-squares similarity of (..., N, 2) to (N, 2) points: (..., 2, 3), [sR | t]."""
    s_mean, t_mean = source.mean(-2, keepdim=True), target.mean(-2, keepdim=True)
    s, t = source - s_mean, target - t_mean
    spread = s.square().sum((-1, -2))
    real = (s * t).sum((-1, -2)) / spread
    imaginary = (s[..., 0] * t[..., 1] - s[..., 1] * t[..., 0]).sum(-1) / spread
    turned = torch.stack([real, -imaginary, imaginary, real], -1).unflatten(-1, (2, 2))
    shift = t_mean - _turn(s_mean, turned)
    return torch.cat([turned, shift.transpose(-1, -2)], -1)


def transform(points: Tensor, matrix: Tensor) -> Tensor:
    """Apply similarities (..., 2, 3) to (..., N, 2) points."""
    return _turn(points, matrix[..., :2]) + matrix[..., 2].unsqueeze(-2)


def inverse(matrix: Tensor) -> Tensor:
    """Return the similarities that undo similarities (..., 2, 3)."""
    turned = matrix[..., :2]
    back = turned.transpose(-1, -2) / turned.square().sum((-1, -2), keepdim=True).mul(0.5)
    return torch.cat([back, -_turn(matrix[..., 2].unsqueeze(-2), back).transpose(-1, -2)], -1)


def _pair_steps(mesh: Tensor) -> Tensor:
    """From the upper to the lower point of each of INNER_PAIRS: (..., 478, 2) -> (..., 9, 2)."""
    upper, lower = torch.from_numpy(INNER_PAIRS).to(mesh.device).unbind(1)
    return mesh[..., lower, :] - mesh[..., upper, :]


def _displaced_pairs(displacement: Tensor) -> Tensor:
    """Return the displacements (N, 956) of the lower inner lip less the upper's: (N, 18)."""
    return _pair_steps(displacement.unflatten(1, (MESH_POINTS, 2))).flatten(1)


def _pair_gaps(mesh: Tensor) -> Tensor:
    """Return how far the lower point of each of INNER_PAIRS lies below the upper one: (..., 9)."""
    return _pair_steps(mesh)[..., 1]


def _closing(reference: Tensor, upper_reach: float, lower_reach: float) -> Tensor:
    """Return each point's motion down that closes gaps of 1 between INNER_PAIRS: (478, 9).

    The upper lip takes _UPPER_SHARE of it, the lower lip the rest; both fade like Gaussians.
    """
    points, pairs = reference.double().cpu().numpy(), INNER_PAIRS
    upper, lower = points[UPPER_INNER], points[LOWER_INNER]
    across = (upper[:, 0] + lower[:, 0]) / 2  # the corners, where nothing closes, and the pairs
    share = np.stack([
        np.interp(points[:, 0], across, one, left=0, right=0) for one in np.eye(11)[1:-1]
    ], 1)  # fmt: skip
    share[pairs[:, 0]] = share[pairs[:, 1]] = np.eye(len(pairs))  # one may lie beside the other
    above = np.interp(points[:, 0], across, upper[:, 1]) - points[:, 1]
    below = points[:, 1] - np.interp(points[:, 0], across, lower[:, 1])
    of_upper = above >= below
    of_upper[pairs[:, 0]], of_upper[pairs[:, 1]] = True, False
    above[pairs[:, 0]] = below[pairs[:, 1]] = 0
    down = _UPPER_SHARE * np.exp(-((above.clip(min=0) / upper_reach) ** 2))
    up = (1 - _UPPER_SHARE) * np.exp(-((below.clip(min=0) / lower_reach) ** 2))
    moving = fade(reference).gt(0).cpu().numpy()
    share *= (np.where(of_upper, down, -up) * moving)[:, None]
    return torch.from_numpy(share).to(reference)


def _turn(vectors: Tensor, turned: Tensor) -> Tensor:
    """Vectors (..., N, 2) by matrices (..., 2, 2); no product that autocast would round."""
    return (vectors.unsqueeze(-2) * turned.unsqueeze(-3)).sum(-1)


class ExpressionSpace(nn.Module):
    """The statistics of neutral faces and of how they move; nothing in it is trained.

    reference: (478, 2), the mean neutral face. points: (P,), the points that speech moves; basis:
    (K, P, 2), orthonormal, how they move; scale: (K,), root mean square along each. identity_basis:
    (A, 956), orthonormal, how neutral faces differ; identity_scale: (A,), standard deviations.
    solution: (956, K), made of the others: what `fit` multiplies a face's difference by.
    """

    reference: Tensor
    points: Tensor
    basis: Tensor
    scale: Tensor
    identity_basis: Tensor
    identity_scale: Tensor
    solution: Tensor
    closing_near: Tensor
    closing_far: Tensor

    def __init__(
        self, points: int, components: int = COMPONENTS, identities: int = IDENTITIES
    ) -> None:
        """points: how many speech moves. The buffers are random until they are loaded."""
        super().__init__()
        reference = torch.from_numpy(reference_mesh()).float()
        low = reference[:, 1].argsort(descending=True)[:points].sort().values  # lips among them
        directions = torch.linalg.qr(torch.randn(2 * points, components))[0].T
        device = directions.device  # "meta" where only shapes are wanted
        self.register_buffer("reference", reference.to(device))
        self.register_buffer("points", low.to(device))
        self.register_buffer("basis", directions.unflatten(1, (points, 2)).contiguous())
        self.register_buffer("scale", torch.ones(components))
        self.register_buffer("identity_basis", torch.zeros(identities, 2 * MESH_POINTS))
        self.register_buffer("identity_scale", torch.ones(identities))
        self.register_buffer("solution", self._solution(), persistent=False)
        for name, reach in (("closing_near", _NEAR), ("closing_far", _FAR)):
            self.register_buffer(name, _closing(reference, *reach).to(device), persistent=False)
        self.register_load_state_dict_post_hook(_solve_again)  # type: ignore[no-untyped-call]

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ExpressionSpace:
        """The space of these buffers, as `data.expression_space` fits and loads them."""
        components, points = tensors["basis"].shape[:2]
        space = cls(points, components, len(tensors["identity_scale"]))
        space.load_state_dict(dict(tensors))
        return space

    @property
    def components(self) -> int:
        """K, how many coefficients an expression has."""
        return len(self.scale)

    def align(self, mesh: Tensor) -> Tensor:
        """Return the similarity that brings a mesh (..., 478, 2) to the reference: (..., 2, 3)."""
        stable = torch.from_numpy(STABLE_MESH).to(mesh.device)
        return similarity(mesh.float()[..., stable, :], self.reference[stable])

    def coefficients(self, displacement: Tensor) -> Tensor:
        """Displacements (..., 478, 2) in the reference frame -> expressions (..., K).

        1 is one standard deviation.
        """
        moved = displacement[..., self.points, :].flatten(-2)
        out: Tensor = moved @ self.basis.flatten(1).T
        return out / self.scale

    def displacement(self, expression: Tensor) -> Tensor:
        """Expressions (..., K) -> displacements (..., 478, 2), zero where speech moves nothing."""
        moved = (expression * self.scale) @ self.basis.flatten(1)
        out = moved.new_zeros(*moved.shape[:-1], MESH_POINTS, 2)
        return out.index_copy(-2, self.points, moved.unflatten(-1, (-1, 2)))

    def measure(self, mesh: Tensor, neutral: Tensor) -> Tensor:
        """The expressions of meshes (..., 478, 2) of a person of this neutral face: (..., K).

        neutral: (..., 478, 2) in the reference frame.
        """
        moved = transform(mesh.float(), self.align(mesh)) - neutral
        return self.coefficients(moved * fade(self.reference)[:, None])

    def fit(self, mesh: Tensor) -> tuple[Tensor, Tensor]:
        """Split a mesh (B, 478, 2) into the neutral face and its expression.

        Returns the neutral face (B, 478, 2) in the reference frame, and the expression (B, K):
        aligned mesh = neutral + displacement(expression). Joint least squares of the coefficients
        of identity and expression, both with their statistics as priors; the inner lips of the
        neutral face are to lie as those of the reference do.
        """
        seen = transform(mesh.float(), self.align(mesh))
        with torch.autocast(mesh.device.type, enabled=False):
            expression = (seen - self.reference).flatten(1) @ self.solution
            return seen - self.displacement(expression), expression

    @torch.no_grad()
    def _solution(self) -> Tensor:
        """The least squares of `fit`, solved for every difference from the reference: (956, K)."""
        count = self.components
        moves = self.displacement(torch.eye(count, device=self.scale.device)).flatten(1)
        shapes = self.identity_basis * (_IDENTITY_SPREAD * self.identity_scale[:, None])
        points = torch.cat([moves, shapes]).double() / _FACE_NOISE
        gaps = _displaced_pairs(points) * (_FACE_NOISE / _GAP_NOISE)
        gaps[count:] = 0
        every = torch.eye(points.shape[1], device=points.device, dtype=points.dtype)
        known = points / _FACE_NOISE + gaps @ _displaced_pairs(every).T / _GAP_NOISE
        prior = torch.eye(len(points), device=points.device, dtype=points.dtype)
        normal = points @ points.T + gaps @ gaps.T + prior
        factor, _ = torch.linalg.cholesky_ex(normal)  # of numbers that are none: no error
        solved: Tensor = torch.cholesky_solve(known, factor)
        return solved[:count].T.to(self.scale.dtype).contiguous()

    def lip_gap(self, expression: Tensor) -> Tensor:
        """Return the gap of the inner lips of expressions (..., K): (...).

        Interocular units; affine in the expression, about 0 of the neutral face.
        """
        top, bottom = ((self.points == p).to(self.basis.dtype) for p in (GAP_TOP, GAP_BOTTOM))
        slope = (self.basis[..., 1] * (bottom - top)).sum(1) * self.scale
        rest = self.reference[GAP_BOTTOM, 1] - self.reference[GAP_TOP, 1]
        out: Tensor = expression @ slope + rest
        return out

    def neutral(self, mesh: Tensor, expression: Tensor) -> Tensor:
        """The neutral face of meshes (B, 478, 2) with expressions (B, K), where the mesh is."""
        aligned = self.align(mesh)
        rest = transform(mesh.float(), aligned) - self.displacement(expression)
        return transform(rest, inverse(aligned))

    def move(self, mesh: Tensor, own: Tensor, expression: Tensor) -> Tensor:
        """Give a mesh (B, 478, 2) of own expression (B, K) others (B, T, K): (B, T, 478, 2).

        The displacement is that of the expressions' difference. What is left between the gaps of
        the inner lips and those that the expression asks for is closed by moving the lips, so that
        an expression with closed lips closes every mouth.
        """
        aligned = self.align(mesh)
        seen = transform(mesh.float(), aligned)
        moved = seen.unsqueeze(1) + self.displacement(expression - own.unsqueeze(1))
        left = _pair_gaps(moved) - self._wanted(expression)
        far = left.clamp(min=_FAR_GAP) - _FAR_GAP
        moved[..., 1] += (left - far) @ self.closing_near.T + far @ self.closing_far.T
        return transform(moved, inverse(aligned).unsqueeze(1))

    def _wanted(self, expression: Tensor) -> Tensor:
        """Return the gap of each pair of inner lips with expressions (..., K): (..., 9)."""
        gaps = _pair_gaps(self.mesh(expression)).clamp(min=0)
        part = (self.lip_gap(expression) / _SHUT_GAP).clamp(0, 1).unsqueeze(-1)
        return gaps * part.square() * (3 - 2 * part)

    def mesh(self, expression: Tensor) -> Tensor:
        """The reference face with expressions (..., K): (..., 478, 2), to measure them by."""
        return self.reference + self.displacement(expression)


def _solve_again(space: ExpressionSpace, _: object) -> None:
    """After other buffers were loaded."""
    space.solution.copy_(space._solution())
    space.closing_near.copy_(_closing(space.reference, *_NEAR))
    space.closing_far.copy_(_closing(space.reference, *_FAR))
