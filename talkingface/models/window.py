"""The part of the crop that networks draw: cut out, corrected, and laid back into the crop."""

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
SPEAKING = (*range(4, 13), *range(48, 68))
FLOW_UNIT = 0.05  # one unit of motion inside networks, in crop sides (6.4 px at 128)
EDGE = 6  # pixels over which what is drawn fades into the identity


class Window(nn.Module):
    """Rows and columns (top, bottom, left, right) of the crop that a generator draws.

    ramp: (1, h, w), 1 inside and 0 at the border, where what is drawn fades into the identity; the
    crop's own lower edge has no ramp, nor has a window that is the whole crop.
    """

    ramp: Tensor

    def __init__(self, rows_columns: tuple[int, int, int, int], crop: CropSpec) -> None:
        super().__init__()
        self.size = crop.size
        self.top, self.bottom, self.left, self.right = rows_columns
        self.shape = (self.bottom - self.top, self.right - self.left)
        whole = self.shape == (crop.size, crop.size)
        ramp = torch.ones(1, *self.shape) if whole else border_ramp(*self.shape, EDGE)
        if self.bottom == crop.size and not whole:  # the window ends where the crop ends
            ramp = torch.cat([ramp[:, :-EDGE], ramp[:, -EDGE - 1 : -EDGE].expand(-1, EDGE, -1)], 1)
        self.register_buffer("ramp", ramp, persistent=False)

    def cut(self, image: Tensor) -> Tensor:
        """(..., S, S) -> (..., h, w)."""
        return image[..., self.top : self.bottom, self.left : self.right]

    def into_crop(self, window: Generated, picture: Tensor) -> Generated:
        """The window's pictures in a whole crop: around it the identity (B, 1, 3, S, S), and
        nothing in the maps."""
        if self.shape == (self.size, self.size):
            return window
        margins = (self.left, self.size - self.right, self.top, self.size - self.bottom)

        def alone(part: Tensor | None) -> Tensor | None:
            return None if part is None else F.pad(part, margins)

        return replace(
            window,
            frames=self._around(window.frames, picture),
            mask=alone(window.mask),
            colour=alone(window.colour),
            change=alone(window.change),
        )

    def _around(self, part: Tensor, picture: Tensor) -> Tensor:
        """(B, T, 3, h, w) laid into its (B, 1, 3, S, S)."""
        whole = picture.to(part.dtype).repeat(1, part.shape[1], 1, 1, 1)
        whole[..., self.top : self.bottom, self.left : self.right] = part
        return whole


def correct(bent: Tensor, out: Tensor, ramp: Tensor, bound: float, meshes: Tensor) -> Generated:
    """The bent pictures I' (B, T, 3, h, w) with a bounded correction: alpha C + (1 - alpha) I'.

    out: (B, T, 4, h, w), a decoder's: colour and attention. C = I' + bound tanh(colour); alpha =
    sigmoid(attention), faded at the border by `ramp`. meshes: (B, T, 478, 2) that were drawn.
    ATVGnet's composition (Chen et al. 2019, Fig. 3), with the motion map bent by geometry.
    """
    alpha = torch.sigmoid(out[:, :, 3:]) * ramp
    change = alpha * bound * torch.tanh(out[:, :, :3])
    colour = (bent + bound * torch.tanh(out[:, :, :3])).clamp(-1, 1)
    frames = (bent + change).clamp(-1, 1)
    return Generated(frames, alpha, colour, ibug(meshes), meshes, change)


def displaced(landmarks: Tensor, moved: Tensor) -> Tensor:
    """(B, 68, 2), and how its SPEAKING points move (B, T, 29, 2) -> (B, T, 68, 2)."""
    moved = moved.to(landmarks.dtype)
    chin, brows = moved.new_zeros(*moved.shape[:2], 4, 2), moved.new_zeros(*moved.shape[:2], 35, 2)
    step = torch.cat([chin, moved[:, :, :9], brows, moved[:, :, 9:]], dim=2)
    return landmarks.unsqueeze(1) + step
