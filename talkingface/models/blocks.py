"""Small building blocks that the networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface.audio import SpeechSpec


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


def audio_encoder(
    speech: SpeechSpec,
    channels: tuple[int, ...],
    strides: tuple[int, ...],
    norm: str,
    features: int,
    layers: int = 1,
) -> nn.Sequential:
    """(N, 1, hops, coefficients) -> (N, features): convolutions, then `layers` full layers."""
    parts: list[nn.Module] = []
    height, width, inputs = speech.hops, speech.coefficients, 1
    for outputs, stride in zip(channels, strides, strict=True):
        parts.append(conv(inputs, outputs, 3, stride, norm))
        height, width, inputs = -(-height // stride), -(-width // stride), outputs
    parts += [nn.Flatten(), nn.Linear(inputs * height * width, features)]
    for _ in range(layers - 1):
        parts += [nn.ReLU(inplace=True), nn.Linear(features, features)]
    return nn.Sequential(*parts)


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


class ConvGru(nn.Module):
    """A GRU whose matrices are 3x3 convolutions: it recurs over time, pixel by pixel."""

    def __init__(self, inputs: int, hidden: int, dilation: int = 1) -> None:
        super().__init__()
        self.hidden = hidden
        self.heard = nn.Conv2d(inputs, 3 * hidden, 3, 1, dilation, dilation)
        self.kept = nn.Conv2d(hidden, 3 * hidden, 3, 1, dilation, dilation)

    def forward(
        self, x: Tensor, state: Tensor | None = None, forget: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """x: (B, T, inputs, H, W); state: (B, hidden, H, W) or None -> (B, T, hidden, H, W), state.

        forget: every frame begins anew, and the state is None: no recurrence.
        """
        heard = self.heard(x.flatten(0, 1))
        if forget:
            return self._cell(
                heard, heard.new_zeros(len(heard), self.hidden, *x.shape[-2:])
            ).unflatten(0, x.shape[:2]), None
        if state is None:
            state = heard.new_zeros(len(x), self.hidden, *x.shape[-2:])
        out = []
        for step in heard.unflatten(0, x.shape[:2]).unbind(1):
            state = self._cell(step, state)
            out.append(state)
        return torch.stack(out, dim=1), state

    def _cell(self, heard: Tensor, state: Tensor) -> Tensor:
        reset, update, new = heard.chunk(3, dim=1)
        old_reset, old_update, old_new = self.kept(state).chunk(3, dim=1)
        update = torch.sigmoid(update + old_update)
        new = torch.tanh(new + torch.sigmoid(reset + old_reset) * old_new)
        out: Tensor = update * state + (1 - update) * new
        return out


class Residual(nn.Module):
    """x + two 3x3 convolutions of it (He et al. 2016), with batch norm and dropout if wished."""

    def __init__(self, channels: int, norm: str = "none", dropout: float = 0.0) -> None:
        super().__init__()
        inner: list[nn.Module] = [conv(channels, channels, 3, 1, norm)]
        if dropout > 0:
            inner.append(nn.Dropout(dropout))
        inner.append(nn.Conv2d(channels, channels, 3, 1, 1))
        if norm == "batch":
            inner.append(nn.BatchNorm2d(channels))
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same."""
        out: Tensor = x + self.inner(x)
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
