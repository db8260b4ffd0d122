"""Small building blocks that the networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, norm: str = "none"
) -> nn.Sequential:
    """Convolution with 'same' padding, norm ("none", "batch" or "group") and LeakyReLU 0.2."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)]
    if norm == "batch":
        layers.append(nn.BatchNorm2d(outputs))
    elif norm == "group":
        layers.append(nn.GroupNorm(8, outputs))
    elif norm != "none":
        raise ValueError(f"norm must be none, batch or group, not {norm!r}")
    return nn.Sequential(*layers, nn.LeakyReLU(0.2, inplace=True))


class Up(nn.Module):
    """Twice the size: transposed convolution (the paper), or nearest neighbour and convolution.

    The second leaves no checkerboard and is faster on small maps on a CPU.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, transposed: bool) -> None:
        super().__init__()
        self.transposed = transposed
        self.conv: nn.Module = (
            nn.ConvTranspose2d(inputs, outputs, kernel, 2, kernel // 2, output_padding=1)
            if transposed
            else nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, 2H, 2W)."""
        if not self.transposed:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        out: Tensor = F.leaky_relu(self.conv(x), 0.2, inplace=True)
        return out


def base_grid(height: int, width: int) -> Tensor:
    """(height, width, 2): (x, y) of every pixel's middle in [-1, 1], as grid_sample reads it."""
    y = (torch.arange(height) + 0.5) / height * 2 - 1
    x = (torch.arange(width) + 0.5) / width * 2 - 1
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def border_ramp(height: int, width: int, edge: int) -> Tensor:
    """(1, height, width): 0 at the border, rising smoothly to 1 over `edge` pixels."""

    def ramp(length: int) -> Tensor:
        t = ((torch.arange(length) + 0.5) / edge).clamp(max=1)
        t = torch.minimum(t, t.flip(0))
        return t * t * (3 - 2 * t)

    return (ramp(height)[:, None] * ramp(width)[None])[None]


def repeat_frames(x: Tensor, frames: int) -> Tensor:
    """(B, ...) -> (B * frames, ...), each sample repeated for its frames."""
    return x.unsqueeze(1).expand(-1, frames, *x.shape[1:]).flatten(0, 1)
