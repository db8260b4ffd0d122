"""The part of the crop that speech moves: cut out, drawn, bent, and laid back into the crop."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface.contract import Generated
from talkingface.geometry import CropSpec
from talkingface.models.blocks import base_grid, border_ramp
from talkingface.models.head import FACIAL, FLOW_UNIT, LOWER_LIDS, UPPER_LIDS, Pose

# The points that speech moves: the lower jaw line (iBUG 4-12) and the lips (48-67).
SPEAKING = (*range(4, 13), *range(48, 68))
MAPS = 6  # pictures of `Window.lip_maps`; which of them are the identity's own, speech or not:
STILL_MAPS = (3, 5)
USUAL = 80  # pixels of width at which `_bumps` are as wide as they say


class Window(nn.Module):
    """Rows and columns (top, bottom, left, right) of the crop that a generator draws.

    ramp: (1, h, w), 1 inside and 0 at the border, where what is drawn fades into the identity; the
    crop's own lower edge has no ramp, nor has a window that is the whole crop.
    """

    ramp: Tensor
    grid: Tensor
    guide_x: Tensor
    guide_y: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(
        self, rows_columns: tuple[int, int, int, int], crop: CropSpec, eyes: bool = False
    ) -> None:
        """eyes: for heads that move: the maps show how open they are, the border is wider."""
        super().__init__()
        self.size, self.eyes = crop.size, eyes
        self.top, self.bottom, self.left, self.right = rows_columns
        self.shape = (self.bottom - self.top, self.right - self.left)
        whole = self.shape == (crop.size, crop.size)
        edge = 10 if eyes else 6  # a whole head goes further than lips: hair must not be folded
        ramp = torch.ones(1, *self.shape) if whole else border_ramp(*self.shape, edge)
        if self.bottom == crop.size and not whole:  # the window ends where the crop ends
            ramp = torch.cat([ramp[:, :-edge], ramp[:, -edge - 1 : -edge].expand(-1, edge, -1)], 1)
        self.register_buffer("ramp", ramp, persistent=False)
        self.register_buffer("grid", base_grid(*self.shape), persistent=False)
        half = base_grid(self.shape[0] // 2, self.shape[1] // 2)
        height, width = self.shape
        numbers = {
            "guide_x": half[0, :, 0],
            "guide_y": half[:, 0, 1],
            "scale": torch.tensor([2 * crop.size / width, 2 * crop.size / height]),
            "offset": torch.tensor([-2 * self.left / width - 1, -2 * self.top / height - 1]),
        }
        for name, values in numbers.items():
            self.register_buffer(name, values, persistent=False)

    def cut(self, image: Tensor) -> Tensor:
        """(..., S, S) -> (..., h, w)."""
        return image[..., self.top : self.bottom, self.left : self.right]

    def bend(self, picture: Tensor, flow: Tensor) -> Tensor:
        """The window's picture (N, 3, h, w) read at every pixel + flow (N, 2, h, w), crop sides."""
        grid = self.grid + flow.permute(0, 2, 3, 1) * self.scale
        return F.grid_sample(picture, grid, padding_mode="border", align_corners=False)

    def into_crop(self, window: Generated, picture: Tensor) -> Generated:
        """The window's pictures in a whole crop: around it the identity (B, 1, 3, S, S), and
        nothing in the maps."""
        if self.shape == (self.size, self.size):
            return window

        margins = (self.left, self.size - self.right, self.top, self.size - self.bottom)

        def alone(part: Tensor | None) -> Tensor | None:
            return None if part is None else F.pad(part, margins)

        return Generated(
            self._around(window.frames, picture),
            alone(window.mask),
            alone(window.colour),
            window.landmarks,
            alone(window.flow),
        )

    def _around(self, part: Tensor, picture: Tensor) -> Tensor:
        """(B, T, 3, h, w) laid into its (B, 1, 3, S, S)."""
        whole = picture.to(part.dtype).repeat(1, part.shape[1], 1, 1, 1)
        whole[..., self.top : self.bottom, self.left : self.right] = part
        return whole

    # --- landmarks as pictures ------------------------------------------------------------------

    def lip_maps(self, identity: Tensor, target: Tensor) -> Tensor:
        """Lip motion as a picture at half the window's size: (N, 68, 2) twice -> (N, 6, h/2, w/2).

        Channels: backward flow (x, y) in FLOW_UNITs; lips and opening, each of target and identity.
        """
        flow = self._flow(speaking(identity), speaking(target))
        there = self.mouth_maps(target)
        here = self.mouth_maps(identity)
        return torch.cat([flow, there[:, :1], here[:, :1], there[:, 1:], here[:, 1:]], dim=1)

    def moving_maps(self, identity: Tensor, target: Tensor, pose: Pose | None = None) -> Tensor:
        """`lip_maps` without the identity's own: (N, 4, h/2, w/2) (see STILL_MAPS).

        pose: of a head that moves: the flow is the whole head's then, lids and brows with it.
        """
        if pose is None:
            flow = self._flow(speaking(identity), speaking(target))
        else:
            points = list(FACIAL)
            there = target[:, points].float()
            flow = self._flow(identity[:, points], there, pose.backward(there))
            grid = self._crop_grid().expand(len(there), -1, -1)
            rigid = (pose.backward(grid) - grid) / FLOW_UNIT
            flow = flow + rigid.transpose(1, 2).unflatten(-1, flow.shape[-2:])
        return torch.cat([flow, self.mouth_maps(target)], dim=1)

    def _crop_grid(self) -> Tensor:
        """(1, h/2 * w/2, 2): (x, y) of the maps' pixels in [0, 1] of the crop."""
        x, y = torch.meshgrid(self.guide_x, self.guide_y, indexing="xy")
        grid = torch.stack([x, y], dim=-1).flatten(0, 1).unsqueeze(0)
        return (grid - self.offset) / self.scale

    def mouth_maps(self, points: Tensor) -> Tensor:
        """(N, 68, 2) -> (N, 2, h/2, w/2): the lips, and how open the mouth is where it opens (inner
        lips 61-63, 65-67), and eyes where they do."""
        place = self._place(points)
        upper, lower = place[:, 61:64], place[:, 65:68].flip(1)
        gap = (lower - upper)[..., 1:].clamp(min=0) / 0.1
        lips = self._bumps(place[:, 48:68], 0.06)
        opening = self._bumps((upper + lower) / 2, 0.1, gap)
        if self.eyes:
            upper, lower = place[:, list(UPPER_LIDS)], place[:, list(LOWER_LIDS)]
            gap = (lower - upper)[..., 1:].clamp(min=0) / 0.1
            opening = opening + self._bumps((upper + lower) / 2, 0.1, gap)
        return torch.cat([lips, opening], dim=1)

    def _flow(self, identity: Tensor, target: Tensor, origin: Tensor | None = None) -> Tensor:
        """(N, 2, h/2, w/2): where each pixel was before points (N, P, 2) moved, FLOW_UNITs.

        origin: the target points as they would be had the head not moved [target].
        """
        there = target.float()
        step = (identity.float() - (there if origin is None else origin)) / FLOW_UNIT
        weights = torch.cat([torch.ones_like(step[..., :1]), step], dim=-1)
        near = self._bumps(self._place(there), 0.11, weights)
        return near[:, 1:] / (near[:, :1] + 0.05)

    def _place(self, points: Tensor) -> Tensor:
        """[0, 1] of the crop -> [-1, 1] of the window."""
        return points.float() * self.scale + self.offset

    def _bumps(self, points: Tensor, width: float, weights: Tensor | None = None) -> Tensor:
        """Round Gaussians of `width` (half widths of a USUAL window) at (N, P, 2), added up.

        weights: (N, P, C) of every point, for C maps [1, for one]. Returns (N, C, h/2, w/2).
        """
        sharp = -0.5 / (width * USUAL / self.shape[1]) ** 2
        aspect = self.shape[1] / self.shape[0]
        dx = torch.exp((self.guide_x - points[..., :1]).square() * sharp)  # (N, P, W)
        dy = torch.exp((self.guide_y - points[..., 1:]).square() * (sharp / aspect**2))  # (N, P, H)
        if weights is None:
            one: Tensor = dy.transpose(1, 2).bmm(dx).unsqueeze(1)
            return one
        rows = dy.unsqueeze(1) * weights.transpose(1, 2).unsqueeze(-1)  # (N, C, P, H)
        several: Tensor = (
            rows.transpose(2, 3).flatten(1, 2).bmm(dx).unflatten(1, (-1, dy.shape[-1]))
        )
        return several


def speaking(points: Tensor) -> Tensor:
    """(..., 68, 2) -> (..., 29, 2): those of SPEAKING."""
    return torch.cat([points[..., 4:13, :], points[..., 48:68, :]], dim=-2)


def displaced(landmarks: Tensor, moved: Tensor) -> Tensor:
    """(B, 68, 2), and how its SPEAKING points move (B, T, 29, 2) -> (B, T, 68, 2)."""
    moved = moved.to(landmarks.dtype)
    chin, brows = moved.new_zeros(*moved.shape[:2], 4, 2), moved.new_zeros(*moved.shape[:2], 35, 2)
    step = torch.cat([chin, moved[:, :, :9], brows, moved[:, :, 9:]], dim=2)
    return landmarks.unsqueeze(1) + step
