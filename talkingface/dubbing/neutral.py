"""A person's neutral face in three dimensions, and how it is seen in each frame.

A frame sees the face from far away: a point of the picture is an affine function of a point of the
face, p = A x + b with A (2, 3), fitted to points that speech does not move. Turned heads move their
lips as the face's own axes are turned.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from talkingface.faces.head_pose import RIGID
from talkingface.geometry import fit_similarity, transform
from talkingface.landmarks import (
    INNER_PAIRS,
    LEFT_EYE,
    RIGHT_EYE,
    STABLE_MESH,
    reference_depth,
    reference_mesh,
)
from talkingface.models.expression import ExpressionSpace
from talkingface.types import Array

_SEEN_FROM = np.r_[RIGID, STABLE_MESH]  # points that neither speech nor lids move
_EVEN = 12.0  # degrees: so far a face is taken to be seen from the front


@dataclass(frozen=True)
class NeutralFace:
    """One person's face at rest, seen from the front.

    points: (478, 3), x and y in the reference frame, depth in its unit (less is nearer).
    """

    points: Array

    @classmethod
    def of(cls, samples: Array, space: ExpressionSpace) -> NeutralFace:
        """Estimate it from meshes with depth (N, 478, 3), of many expressions and poses.

        The median of what each alone gives, of the half that is turned least.
        """
        front, turned = (np.array(part) for part in zip(*map(_frontal, samples), strict=True))
        front = front[turned <= max(_EVEN, float(np.median(turned)))]
        meshes = torch.from_numpy(front[..., :2]).float()
        neutral, _ = space.fit(meshes)
        flat, depth = np.median(neutral.double().numpy(), 0), np.median(front[..., 2], 0)
        depth[INNER_PAIRS] = depth[INNER_PAIRS].mean(1, keepdims=True)  # they touch
        return cls(np.column_stack([flat, depth]))

    def camera(self, mesh: Array) -> Array:
        """Return [A | b] (2, 4), from the face to the pixels of a mesh (478, 2) of it."""
        return np.asarray((self._pseudo_inverse @ mesh[_SEEN_FROM]).T)

    @cached_property
    def _pseudo_inverse(self) -> Array:
        points = self.points[_SEEN_FROM]
        return np.asarray(np.linalg.pinv(np.column_stack([points, np.ones(len(points))])))

    def frontal(self, mesh: Array, camera: Array) -> Array:
        """Return a mesh (478, 2) as seen from the front, with this face's depth: (478, 2)."""
        flat = mesh - self.points[:, 2:] * camera[:, 2] - camera[:, 3]
        return np.asarray(flat @ np.linalg.inv(camera[:, :2]).T)

    def seen(self, camera: Array) -> Array:
        """Return the neutral face as a camera sees it, (478, 2) picture pixels."""
        return np.asarray(self.points @ camera[:, :3].T + camera[:, 3])


def _frontal(mesh: Array) -> tuple[Array, float]:
    """Turn a mesh (478, 3) to the front, into the reference frame; and by how many degrees.

    By the rotation and size that fit it best to the mean face (Umeyama 1991).
    """
    mean = np.column_stack([reference_mesh(), reference_depth()])
    source, target = mesh[_SEEN_FROM], mean[_SEEN_FROM]
    source, target = source - source.mean(0), target - target.mean(0)
    left, _, right = np.linalg.svd(target.T @ source)
    sign = np.array([1, 1, np.sign(np.linalg.det(left @ right))])
    turn = (left * sign) @ right
    front = (mesh - mesh[_SEEN_FROM].mean(0)) @ turn.T
    to_face = fit_similarity(front[STABLE_MESH, :2], reference_mesh()[STABLE_MESH])
    depth = front[:, 2] * float(np.hypot(*to_face[:, 0]))
    depth -= depth[[*LEFT_EYE, *RIGHT_EYE]].mean()
    turned = float(np.degrees(np.arccos(np.clip(turn[2, 2], -1, 1))))
    return np.column_stack([transform(front[:, :2], to_face), depth]), turned
