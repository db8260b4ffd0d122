"""The mouth region: the part of the crop that networks draw, and its compositing."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface.contract import Generated
from talkingface.geometry import CropSpec
from talkingface.landmarks import ibug
from talkingface.models.blocks import border_ramp

# The points that speech moves: the lower jaw line (iBUG 4-12) and the lips (48-67).
MOUTH_POINTS = (*range(4, 13), *range(48, 68))
FLOW_UNIT = 0.05  # one unit of motion inside networks, in crop sides (6.4 px at 128)
EDGE = 6  # pixels over which the drawn region fades into the identity


class MouthRegion(nn.Module):
    """Rows and columns (top, bottom, left, right) of the crop that a generator draws.

    shape: (h, w) in pixels, which must divide by `divisor`.
    ramp: (1, h, w), 1 inside and 0 at the border, where the region fades into the identity; the
    crop's own lower edge has no ramp, nor has a region that is the whole crop.
    """

    ramp: Tensor

    def __init__(
        self, rows_columns: tuple[int, int, int, int], crop: CropSpec, divisor: int = 1
    ) -> None:
        super().__init__()
        self.size = crop.size
        self.top, self.bottom, self.left, self.right = rows_columns
        self.shape = (self.bottom - self.top, self.right - self.left)
        if self.shape[0] % divisor or self.shape[1] % divisor:
            raise ValueError(f"the mouth region {rows_columns} must divide by {divisor}")
        whole = self.shape == (crop.size, crop.size)
        ramp = torch.ones(1, *self.shape) if whole else border_ramp(*self.shape, EDGE)
        if self.bottom == crop.size and not whole:  # the region ends where the crop ends
            ramp = torch.cat([ramp[:, :-EDGE], ramp[:, -EDGE - 1 : -EDGE].expand(-1, EDGE, -1)], 1)
        self.register_buffer("ramp", ramp, persistent=False)

    def crop(self, image: Tensor) -> Tensor:
        """(..., S, S) -> (..., h, w)."""
        return image[..., self.top : self.bottom, self.left : self.right]

    def fade(self, colour: Tensor, image: Tensor) -> Generated:
        """Fade the border of a drawn region (B, T, 3, h, w) into the picture (B, 3, S, S)."""
        own = self.crop(image).unsqueeze(1)
        return Generated(colour * self.ramp + own * (1 - self.ramp), colour=colour)

    def composite(self, region: Generated, image: Tensor) -> Generated:
        """Put a drawn region into the whole picture (B, 3, S, S); maps are 0 around it."""
        if self.shape == (self.size, self.size):
            return region
        margins = (self.left, self.size - self.right, self.top, self.size - self.bottom)

        def padded(part: Tensor | None) -> Tensor | None:
            return None if part is None else F.pad(part, margins)

        frames = image.unsqueeze(1).to(region.frames.dtype)
        frames = frames.repeat(1, region.frames.shape[1], 1, 1, 1)
        self.crop(frames).copy_(region.frames)
        return replace(
            region,
            frames=frames,
            mask=padded(region.mask),
            colour=padded(region.colour),
            change=padded(region.change),
        )


def correct(warped: Tensor, out: Tensor, ramp: Tensor, bound: float, meshes: Tensor) -> Generated:
    """Apply a bounded correction to warped pictures I' (B, T, 3, h, w): alpha C + (1 - alpha) I'.

    out: (B, T, 4, h, w), a decoder's: colour and attention. C = I' + bound tanh(colour); alpha =
    sigmoid(attention), faded at the border by `ramp`. meshes: (B, T, 478, 2) that were drawn.
    ATVGnet's composition (Chen et al. 2019, Fig. 3), with the motion map warped by geometry.
    """
    alpha = torch.sigmoid(out[:, :, 3:]) * ramp
    change = alpha * bound * torch.tanh(out[:, :, :3])
    colour = (warped + bound * torch.tanh(out[:, :, :3])).clamp(-1, 1)
    frames = (warped + change).clamp(-1, 1)
    return Generated(frames, alpha, colour, ibug(meshes), meshes, change)


def add_displacement(landmarks: Tensor, moved: Tensor) -> Tensor:
    """(B, 68, 2), and displacements of its MOUTH_POINTS (B, T, 29, 2) -> (B, T, 68, 2)."""
    moved = moved.to(landmarks.dtype)
    chin, brows = moved.new_zeros(*moved.shape[:2], 4, 2), moved.new_zeros(*moved.shape[:2], 35, 2)
    step = torch.cat([chin, moved[:, :, :9], brows, moved[:, :, 9:]], dim=2)
    return landmarks.unsqueeze(1) + step
