"""The part of the crop that speech moves: cut out, drawn, bent, and laid back into the crop."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface.contract import Generated
from talkingface.geometry import CropSpec
from talkingface.models.blocks import base_grid, border_ramp

# The points that speech moves: the lower jaw line (iBUG 4-12) and the lips (48-67).
SPEAKING = (*range(4, 13), *range(48, 68))
FLOW_UNIT = 0.05  # one unit of motion inside networks, in crop sides (6.4 px at 128)


class Window(nn.Module):
    """Rows and columns (top, bottom, left, right) of the crop that a generator draws.

    ramp: (1, h, w), 1 inside and 0 at the border, where what is drawn fades into the identity; the
    crop's own lower edge has no ramp, nor has a window that is the whole crop.
    """

    ramp: Tensor
    grid: Tensor
    guide_grid: Tensor

    def __init__(self, rows_columns: tuple[int, int, int, int], crop: CropSpec) -> None:
        super().__init__()
        self.size = crop.size
        self.top, self.bottom, self.left, self.right = rows_columns
        self.shape = (self.bottom - self.top, self.right - self.left)
        whole = self.shape == (crop.size, crop.size)
        ramp = torch.ones(1, *self.shape) if whole else border_ramp(*self.shape, edge=6)
        if self.bottom == crop.size and not whole:  # the window ends where the crop ends
            ramp = torch.cat([ramp[:, :-6], ramp[:, -7:-6].expand(-1, 6, -1)], dim=1)
        self.register_buffer("ramp", ramp, persistent=False)
        self.register_buffer("grid", base_grid(*self.shape), persistent=False)
        half = base_grid(self.shape[0] // 2, self.shape[1] // 2)
        self.register_buffer("guide_grid", half, persistent=False)

    def cut(self, image: Tensor) -> Tensor:
        """(..., S, S) -> (..., h, w)."""
        return image[..., self.top : self.bottom, self.left : self.right]

    def bend(self, picture: Tensor, flow: Tensor) -> Tensor:
        """The window's picture (N, 3, h, w) read at every pixel + flow (N, 2, h, w), crop sides."""
        scale = torch.tensor(
            [self.size / self.shape[1], self.size / self.shape[0]], device=flow.device
        )
        grid = self.grid + flow.permute(0, 2, 3, 1) * (2 * scale)
        return F.grid_sample(picture, grid, padding_mode="border", align_corners=False)

    def into_crop(self, window: Generated, picture: Tensor) -> Generated:
        """The window's pictures in a whole crop: around it the identity (B, 1, 3, S, S), and
        nothing in the maps."""
        if self.shape == (self.size, self.size):
            return window

        def place(part: Tensor, around: Tensor) -> Tensor:
            whole = around.expand(*part.shape[:3], self.size, self.size).to(part.dtype).clone()
            whole[..., self.top : self.bottom, self.left : self.right] = part
            return whole

        nothing = picture.new_zeros(1, 1, 1, 1, 1)
        return Generated(
            place(window.frames, picture),
            None if window.mask is None else place(window.mask, nothing),
            None if window.colour is None else place(window.colour, nothing),
            window.landmarks,
            None if window.flow is None else place(window.flow, nothing),
        )

    # --- landmarks as pictures ------------------------------------------------------------------

    def lip_maps(self, identity: Tensor, target: Tensor) -> Tensor:
        """Lip motion as a picture at half the window's size: (N, 68, 2) twice -> (N, 6, h/2, w/2).

        Channels: backward flow (x, y) in FLOW_UNITs; lips and opening, each of target and identity.
        """
        here, there = self._place(identity), self._place(target)
        aspect = self.shape[1] / self.shape[0]
        points = list(SPEAKING)
        near = _bumps(self.guide_grid, there[:, points], 0.11, aspect)
        step = (identity[:, points] - target[:, points]).float() / FLOW_UNIT
        flow = torch.einsum("nphw,npc->nchw", near, step) / (near.sum(1, keepdim=True) + 0.05)
        lips = [
            _bumps(self.guide_grid, p[:, 48:68], 0.06, aspect).sum(1, keepdim=True)
            for p in (there, here)
        ]
        opening = [self._opening(p, aspect) for p in (there, here)]
        return torch.cat([flow, *lips, *opening], dim=1)

    def _place(self, points: Tensor) -> Tensor:
        """[0, 1] of the crop -> [-1, 1] of the window."""
        scale = torch.tensor([self.shape[1], self.shape[0]], device=points.device)
        offset = torch.tensor([self.left, self.top], device=points.device)
        return (points.float() * self.size - offset) / scale * 2 - 1

    def _opening(self, points: Tensor, aspect: float) -> Tensor:
        """(N, 1, h/2, w/2): how open the mouth is, where it opens (inner lips 61-63, 65-67)."""
        upper, lower = points[:, [61, 62, 63]], points[:, [67, 66, 65]]
        gap = (lower - upper)[..., 1:].clamp(min=0) / 0.1
        spots = _bumps(self.guide_grid, (upper + lower) / 2, 0.1, aspect)
        return (spots * gap.unsqueeze(-1)).sum(1, keepdim=True)


def _bumps(grid: Tensor, points: Tensor, width: float, aspect: float) -> Tensor:
    """(N, P, H, W): a round Gaussian of `width` (half window widths) at each of (N, P, 2)."""
    dx = grid[0, :, 0][None, None] - points[..., :1]  # (N, P, W)
    dy = (grid[:, 0, 1][None, None] - points[..., 1:]) / aspect  # (N, P, H)
    scale = -0.5 / width**2
    return torch.exp(dy.square() * scale).unsqueeze(-1) * torch.exp(dx.square() * scale).unsqueeze(
        -2
    )
