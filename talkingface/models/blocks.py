"""Small building blocks that the networks share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface.audio import SpeechSpec

Cell = Callable[[Tensor, Any], tuple[Tensor, Any]]  # see `over_frames`


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


def hop_encoder(hops: int, coefficients: int, features: int, width: int = 96) -> nn.Sequential:
    """(N, 1, hops, coefficients) -> (N, features): convolutions over hops alone, of coefficients
    that are no neighbours of each other (tokens)."""
    left = (hops + 3) // 4
    return nn.Sequential(
        Transposed(),
        nn.Conv1d(coefficients, width, 1),
        nn.Conv1d(width, width, 5, 2, 2),
        nn.GroupNorm(8, width),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv1d(width, width, 3, 2, 1),
        nn.GroupNorm(8, width),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Flatten(),
        nn.Linear(width * left, features),
    )


class Transposed(nn.Module):
    """(N, 1, hops, coefficients) -> (N, coefficients, hops)."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x[:, 0].transpose(1, 2)


class Upsample(nn.Module):
    """Twice the size: transposed convolution (the paper), or nearest neighbour and convolution.

    Then LeakyReLU 0.2. The second leaves no checkerboard. Of the pixels under a 3x3 kernel only 2x2
    differ once they were doubled; which of its weights fall on the same one depends on the corner
    of the pixel it is at. So it is four kernels of 2x2, one a corner: 4 products of 9 are left, and
    no large picture is read.
    """

    corners: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, transposed: bool) -> None:
        super().__init__()
        self.transposed, self.reach = transposed, kernel // 2
        self.conv: nn.ConvTranspose2d | nn.Conv2d = (
            nn.ConvTranspose2d(inputs, outputs, kernel, 2, kernel // 2, output_padding=1)
            if transposed
            else nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2)
        )
        self.register_buffer("corners", _corners(kernel), persistent=False)
        self._cached: tuple[tuple[int, int], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, 2H, 2W)."""
        if self.transposed:
            made: Tensor = self.conv(x)
            return F.leaky_relu(made, 0.2, inplace=True)
        assert self.conv.bias is not None
        kernel, bias = self._kernel(), self.conv.bias.repeat_interleave(4)
        made = F.conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2)
        made = F.pixel_shuffle(F.leaky_relu(made, 0.2, inplace=True), 2)
        return made[..., 1:-1, 1:-1] if self.reach % 2 else made

    def _kernel(self) -> Tensor:
        """The four kernels; cached while the weights stay what they are."""
        weight = self.conv.weight
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or weight.is_inference():
            return self._corner_kernels(weight)
        seen = (weight.data_ptr(), weight._version)
        cached = self._cached  # once: other threads may speak with this model too
        if cached is None or cached[0] != seen:
            kernel = self._corner_kernels(weight).contiguous(memory_format=torch.channels_last)
            cached = self._cached = (seen, kernel)
        return cached[1]

    def _corner_kernels(self, weight: Tensor) -> Tensor:
        at = self.corners
        return torch.einsum("oiyx,pay,qbx->opqiab", weight, at, at).flatten(0, 2)


def _corners(kernel: int) -> Tensor:
    """(2, pixels, kernel): which weights fall on which pixel, at the first and the second of its
    doubles. Around an odd reach the second of one pixel comes before the first of the next."""
    reach, pixels = kernel // 2, (kernel + 1) // 2
    at = torch.zeros(2, pixels, kernel)
    for corner in range(2):
        double = corner ^ (reach % 2)
        for weight in range(kernel):
            pixel = (double + weight - reach) // 2 + pixels // 2 - (double if reach % 2 else 0)
            at[corner, pixel, weight] = 1
    return at


class ImageEncoder(nn.Module):
    """Convolutions of stride 2, and a linear layer: a picture to a feature vector and U-Net skips.

    shape: (h, w) of the pictures, which divide by 2 per level. kernels: of each level.
    """

    def __init__(
        self,
        inputs: int,
        channels: tuple[int, ...],
        kernels: tuple[int, ...],
        features: int,
        shape: tuple[int, int],
    ) -> None:
        super().__init__()
        pairs = zip(pairwise((inputs, *channels)), kernels, strict=True)
        self.layers = nn.ModuleList(conv(a, b, kernel, 2) for (a, b), kernel in pairs)
        scale = 2 ** len(channels)
        self.map_shape = (shape[0] // scale, shape[1] // scale)
        self.projection = nn.Linear(channels[-1] * math.prod(self.map_shape), features)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(N, inputs, h, w) -> (N, features), and the map of each level, the largest first."""
        maps, x = [], image
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return self.projection(x.flatten(1)), tuple(maps)


class Decoder(nn.Module):
    """A feature vector to a picture: a first map, then upsampling blocks, each beside a skip.

    shape: (h, w) of the first map. skips: channels of the map beside each block's input, the
    smallest map first, 0 for none. outputs: channels of the picture.
    """

    def __init__(
        self,
        features: int,
        shape: tuple[int, int],
        initial_channels: int,
        channels: tuple[int, ...],
        skips: tuple[int, ...],
        last_channels: int,
        outputs: int,
        kernel: int = 3,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self.initial_shape = shape
        self.initial_map = nn.Linear(features, initial_channels * math.prod(shape))
        sizes = zip(pairwise((initial_channels, *channels)), skips, strict=True)
        self.ups = nn.ModuleList(
            Upsample(a + skip, b, kernel, transposed) for (a, b), skip in sizes
        )
        self.to_features = conv(channels[-1], last_channels, kernel)
        self.to_rgb = nn.Conv2d(last_channels, outputs, kernel, 1, kernel // 2)

    def forward(self, features: Tensor, skips: Sequence[Tensor | None]) -> Tensor:
        """(N, features) and N skips per block, smallest first -> (N, outputs, H, W) float32."""
        x = F.leaky_relu(self.initial_map(features), 0.2).unflatten(1, (-1, *self.initial_shape))
        x = channels_last(x)
        for up, skip in zip(self.ups, skips, strict=True):
            x = up(x if skip is None else torch.cat([x, skip.to(x.dtype)], dim=1))
        out: Tensor = self.to_rgb(self.to_features(x)).float().contiguous()
        return out


class ConvGru(nn.Module):
    """A GRU whose matrices are 3x3 convolutions: it recurs over time, pixel by pixel."""

    def __init__(self, inputs: int, hidden: int, dilation: int = 1) -> None:
        super().__init__()
        self.hidden = hidden
        self.from_input = nn.Conv2d(inputs, 3 * hidden, 3, 1, dilation, dilation)
        self.from_state = nn.Conv2d(hidden, 3 * hidden, 3, 1, dilation, dilation)

    def forward(
        self, x: Tensor, state: Tensor | None = None, forget: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """x: (B, T, inputs, H, W); state: (B, hidden, H, W) or None -> (B, T, hidden, H, W), state.

        forget: every frame begins anew, and the state is None: no recurrence.
        """
        projected = self.from_input(
            x.flatten(0, 1)
        ).contiguous()  # convolutions of few pixels want this
        if forget:
            return self._cell(
                projected, projected.new_zeros(len(projected), self.hidden, *x.shape[-2:])
            ).unflatten(0, x.shape[:2]), None
        if state is None:
            state = projected.new_zeros(len(x), self.hidden, *x.shape[-2:])
        return over_frames(self._next, projected.unflatten(0, x.shape[:2]), state)

    def _next(self, projected: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        after = self._cell(projected, state)
        return after, after

    def _cell(self, projected: Tensor, state: Tensor) -> Tensor:
        cached: Tensor = self.from_state(state)
        gates, new = projected.split([2 * self.hidden, self.hidden], dim=1)
        old_gates, old_new = cached.split([2 * self.hidden, self.hidden], dim=1)
        reset, update = torch.sigmoid(gates + old_gates).chunk(2, dim=1)
        new = torch.tanh(new + reset * old_new)
        return new + update * (state - new)


class Lstm(nn.LSTM):
    """`nn.LSTM`, batch first, that is quick for one frame at a time too.

    Whole clips go through a kernel that packs its weights at every call; that costs a live stream
    more than everything else in here.
    """

    def forward(  # type: ignore[override]
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, T, inputs), and state (2 of layers, B, hidden) -> (B, T, hidden), state."""
        if self.training or x.shape[1] != 1 or state is None:
            return super().forward(x, state)
        last = []
        for weights, *before in zip(self.all_weights, *state, strict=True):
            x, after = over_frames(_lstm_cell(weights), x, tuple(before))
            last.append(after)
        hidden, cell = (torch.stack(part) for part in zip(*last, strict=True))
        return x, (hidden, cell)


def _lstm_cell(weights: Sequence[Tensor]) -> Cell:
    def cell(x: Tensor, before: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden, inner = torch.lstm_cell(x, before, *weights)
        return hidden, (hidden, inner)

    return cell


def over_frames(cell: Cell, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Apply `cell` to (B, T, ...), frame after frame; returns (B, T, ...), and the last state.

    cell: a frame (B, ...) and the state before it -> its output (B, ...) and the state after it.
    """
    out = []
    for now in x.unbind(1):
        made, state = cell(now, state)
        out.append(made)
    return torch.stack(out, dim=1), state


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


def channels_last(x: Tensor) -> Tensor:
    """(N, C, H, W), each pixel's channels side by side: what convolutions on a CPU read fastest."""
    return x.contiguous(memory_format=torch.channels_last)
