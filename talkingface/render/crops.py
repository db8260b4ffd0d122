"""Draw the faces of a batch of portraits in their crops, as networks see and correct them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talkingface.render.face import FaceRenderer
from talkingface.render.mouth import MouthInterior
from talkingface.render.warp import MeshWarp


class CropRenderer:
    """Draws faces in their crops (S, S), one per sample; no gradient passes through."""

    def __init__(self, image: Tensor, mesh: Tensor, neutral: Tensor, moving: Tensor) -> None:
        """image: (B, 3, S, S) in [-1, 1]. mesh and neutral: (B, 478, 2) in [0, 1] of the crop, the
        face as it is and at rest. moving: (P,), the points that may move."""
        self.size, self.device = image.shape[-1], image.device
        pictures = ((image.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255)
        shown = pictures.byte().permute(0, 2, 3, 1).contiguous().numpy()
        points = moving.cpu().numpy()
        self._faces = [
            FaceRenderer(picture, MeshWarp(own, points), MouthInterior(picture, own, rest))
            for picture, own, rest in zip(
                shown, self._pixels(mesh), self._pixels(neutral), strict=True
            )
        ]

    def __call__(self, meshes: Tensor) -> Tensor:
        """Meshes (B, T, 478, 2) in [0, 1] of the crop -> pictures (B, T, 3, S, S) in [-1, 1]."""
        drawn = [
            np.stack([face.draw(mesh) for mesh in clip])
            for face, clip in zip(self._faces, self._pixels(meshes), strict=True)
        ]
        frames = torch.from_numpy(np.stack(drawn)).to(self.device)
        return frames.permute(0, 1, 4, 2, 3).float() / 127.5 - 1

    def _pixels(self, points: Tensor) -> NDArray[np.float64]:
        return points.detach().double().cpu().numpy() * self.size
