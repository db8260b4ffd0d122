"""Face embedding: a unit vector per face, independent of mouth and light.

Trained by ourselves on few people (`training/identity.py`), so its cosines have units of their own:
they are neither CSIM nor ArcFace's, and compare only with cosines of the same weights file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface.models.blocks import Residual, conv

# Middle and half-axes of the face in the aligned crop, of its side (`CropSpec`): the clothes and
# what is behind are outside, brows and chin are in.
MIDDLE, HALF_AXES = (0.5, 0.54), (0.40, 0.50)
EDGE = 0.25  # of the half-axes, inwards, over which the mask fades in
LEAST_CONTRAST = 0.05  # standard deviation, of [-1, 1], below which a picture is not amplified


@dataclass(frozen=True)
class IdentityConfig:
    """0.64 M weights, 28 MMAC a picture.

    side: pixels that the network looks at; channels: of its levels, each of half the side before.
    """

    family: str = "identity"
    side: int = 64
    channels: tuple[int, ...] = (24, 48, 80, 96)
    features: int = 128


def face_mask(side: int) -> Tensor:
    """(side, side) in [0, 1]: 1 on the face of an aligned crop, 0 around it."""
    line = (torch.arange(side) + 0.5) / side
    x, y = ((line - m) / a for m, a in zip(MIDDLE, HALF_AXES, strict=True))
    radius = (x[None, :].square() + y[:, None].square()).sqrt()
    part = ((1 - radius) / EDGE).clamp(0, 1)
    return part * part * (3 - 2 * part)


class FaceEmbedding(nn.Module):
    """A residual network over the face's mask, each picture's own light and contrast divided out.

    Mean and spread are taken per channel, so that exposure, contrast and white balance are gone
    before the first weight.
    """

    mask: Tensor

    def __init__(self, config: IdentityConfig = IdentityConfig()) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mask", face_mask(config.side), persistent=False)
        layers: list[nn.Module] = []
        inputs, side = 3, config.side
        for level, outputs in enumerate(config.channels):
            layers.append(conv(inputs, outputs, 3, 2, "batch"))
            if level > 0:  # at half the side a block would cost as much as all others together
                layers.append(Residual(outputs, "batch"))
            inputs, side = outputs, -(-side // 2)
        self.body = nn.Sequential(*layers)
        self.direction = nn.Linear(inputs * side * side, config.features)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S) aligned crops in [-1, 1], any S -> (B, features) of length 1, float32."""
        if pictures.ndim != 4 or pictures.shape[1] != 3:
            raise ValueError(f"expected pictures (B, 3, S, S), got {tuple(pictures.shape)}")
        body = self.body(self._plain(pictures.float()))
        return F.normalize(self.direction(body.flatten(1)).float(), dim=1)

    def _plain(self, pictures: Tensor) -> Tensor:
        """The face alone, (B, 3, side, side): mean 0 and spread 1 per channel within the mask."""
        side = self.config.side
        if pictures.shape[-2:] != (side, side):
            pictures = F.interpolate(pictures, (side, side), mode="area")
        weight = self.mask / self.mask.sum()
        mean = (pictures * weight).sum((2, 3), keepdim=True)
        off = pictures - mean
        spread = (off.square() * weight).sum((2, 3), keepdim=True).sqrt()
        return off / spread.clamp(min=LEAST_CONTRAST) * self.mask
