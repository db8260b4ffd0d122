"""Discriminators of Song et al. 2019 (Sec. 3.3) and of ATVGnet (Chen et al. 2019).

D_I judges frames and D_V sequences; ATVGnet's estimates the landmarks that frames show.

Song's answer with a map of logits, one per patch, for pictures of any height and width from 32 up:
the whole crop or only the window that speech moves. The paper names no sizes; `PUBLISHED_*` are
those of the authors' released code, `SMALL_*` are for few data: no batch or instance statistics, so
that no sample of a batch influences another even in training. Spectral norm is a switch: with it
Song's discriminators of teeth 10 px wide learned nothing in the steps that a CPU affords
(docs/log.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from talkingface.contract import LANDMARKS

SMALLEST = 32  # pixels: four strides of 2 leave a 2 x 2 map
SLOPE = 0.2  # of the leaky ReLU

Norm = Literal["none", "instance", "batch"]


@dataclass(frozen=True)
class FrameDiscriminatorConfig:
    """D_I: 3x3 convolutions of stride 2, then 1x1 to one logit per patch. Default: 0.098 M weights.

    channels: of each convolution; norm: after each of them; spectral: spectral norm of every layer.
    """

    channels: tuple[int, ...] = (16, 32, 64, 128)
    norm: Norm = "instance"
    spectral: bool = False


@dataclass(frozen=True)
class VideoDiscriminatorConfig:
    """D_V: 3-D convolutions of stride (1, 2, 2), no padding in time. Default: 1.119 M weights.

    channels: of each convolution but the last, which answers with one logit per patch;
    time_kernels: frames that each convolution sees, the last one's too.
    """

    channels: tuple[int, ...] = (64, 128, 256)
    time_kernels: tuple[int, ...] = (3, 3, 3, 3)
    norm: Norm = "batch"
    spectral: bool = False

    def __post_init__(self) -> None:
        if len(self.time_kernels) != len(self.channels) + 1:
            raise ValueError(
                f"{len(self.channels)} channels need {len(self.channels) + 1} time kernels, "
                f"not {len(self.time_kernels)}"
            )

    @property
    def frames(self) -> int:
        """Frames that one logit sees: the shortest clip that can be judged."""
        return 1 + sum(kernel - 1 for kernel in self.time_kernels)


@dataclass(frozen=True)
class RegressionDiscriminatorConfig:
    """ATVGnet's regression-based discriminator; the default is the released code's, 20.90 M weights
    (its file also holds a decoder of 0.59 M that is never called: 21.49 M in all).

    channels: of each 3x3 convolution of stride 2; norm: after each but the first; size: (H, W) of
    frames; features: of a frame; landmark_features: of the example landmarks, hidden then last;
    hidden, layers: of the LSTM; reach: the largest landmark displacement, in crop sides; slope: of
    the leaky ReLU; spectral: spectral norm of the convolutions.
    """

    size: tuple[int, int] = (128, 128)
    channels: tuple[int, ...] = (64, 128, 256, 512)
    features: int = 512
    landmark_features: tuple[int, int] = (256, 512)
    hidden: int = 256
    layers: int = 3
    norm: Literal["none", "batch"] = "batch"
    reach: float = 1.0
    slope: float = 0.0
    spectral: bool = False


PUBLISHED_FRAME_DISCRIMINATOR = FrameDiscriminatorConfig()
PUBLISHED_VIDEO_DISCRIMINATOR = VideoDiscriminatorConfig()
SMALL_FRAME_DISCRIMINATOR = FrameDiscriminatorConfig(channels=(24, 48, 96), norm="none")
SMALL_VIDEO_DISCRIMINATOR = VideoDiscriminatorConfig(
    channels=(24, 48, 96), time_kernels=(3, 3, 3, 1), norm="none"
)
PUBLISHED_REGRESSION_DISCRIMINATOR = RegressionDiscriminatorConfig()
# the window that the small generators draw: rows 56-128, columns 24-104 of the crop
SMALL_REGRESSION_DISCRIMINATOR = RegressionDiscriminatorConfig(
    size=(72, 80),
    channels=(24, 48, 96, 96),
    features=128,
    landmark_features=(64, 128),
    hidden=128,
    layers=1,
    norm="none",
    reach=0.1,
    slope=SLOPE,
)


class SpectralNorm(nn.Module):
    """Divides a weight by its largest singular value (Miyato et al. 2018), one power step per call.

    Our own, because the power iteration must stay in float32 under autocast, and because a
    discriminator in eval mode must not change.
    """

    left: Tensor

    def __init__(self, weight: Tensor, eps: float = 1e-12) -> None:
        super().__init__()
        self.eps = eps
        matrix = weight.detach().flatten(1).float()
        left = F.normalize(torch.randn(matrix.shape[0], device=weight.device), dim=0)
        for _ in range(15):  # so that the first step already sees a norm near 1
            left = self._step(matrix, left)[0]
        self.register_buffer("left", left)

    def _step(self, matrix: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        right = F.normalize(matrix.T @ left, dim=0, eps=self.eps)
        return F.normalize(matrix @ right, dim=0, eps=self.eps), right

    def forward(self, weight: Tensor) -> Tensor:
        """weight: (out, ...); the same shape, of largest singular value 1."""
        with torch.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1).float()
            with torch.no_grad():
                left, right = self._step(matrix, self.left)
                if self.training:
                    self.left.copy_(left)
            return weight / (left @ matrix @ right).clamp_min(self.eps).to(weight.dtype)


def _normalised(layer: nn.Conv2d | nn.Conv3d, spectral: bool) -> nn.Module:
    """The layer with initial weights N(0, 0.02) as the authors', or under spectral norm."""
    nn.init.normal_(layer.weight, 0.0, 0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    if spectral:
        # A logit of 1-Lipschitz layers starts near 0 whatever the scale of the weights.
        nn.init.orthogonal_(layer.weight)
        parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))
    return layer


def _norm(kind: Norm, dimensions: Literal[2, 3], channels: int) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    if kind == "instance":
        return nn.InstanceNorm2d(channels) if dimensions == 2 else nn.InstanceNorm3d(channels)
    batch = nn.BatchNorm2d(channels) if dimensions == 2 else nn.BatchNorm3d(channels)
    nn.init.normal_(batch.weight, 1.0, 0.02)
    return batch


def _check(frames: Tensor, shortest: int) -> None:
    if frames.ndim != 5 or frames.shape[2] != 3 or min(frames.shape[-2:]) < SMALLEST:
        raise ValueError(
            f"a discriminator takes (B, T, 3, H, W) with H, W >= {SMALLEST}, "
            f"not {tuple(frames.shape)}"
        )
    if frames.shape[1] < shortest:
        raise ValueError(
            f"this discriminator needs {shortest} frames or more, not {frames.shape[1]}"
        )


class FrameDiscriminator(nn.Module):
    """D_I of Eq. 3: is this frame real? Frames are judged one by one."""

    frames = 1  # that one logit sees

    def __init__(self, config: FrameDiscriminatorConfig = PUBLISHED_FRAME_DISCRIMINATOR) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        for inside, outside in pairwise((3, *config.channels)):
            convolution = nn.Conv2d(inside, outside, 3, stride=2, padding=1)
            layers += [
                _normalised(convolution, config.spectral),
                _norm(config.norm, 2, outside),
                nn.LeakyReLU(SLOPE),
            ]
        layers.append(_normalised(nn.Conv2d(config.channels[-1], 1, 1), config.spectral))
        self.layers = nn.Sequential(*layers)

    def forward(self, frames: Tensor) -> Tensor:
        """frames: (B, T, 3, H, W) in [-1, 1]; logits (B, T, h, w) float32, high where real."""
        _check(frames, self.frames)
        logits: Tensor = self.layers(frames.flatten(0, 1))
        return logits.float().reshape(*frames.shape[:2], *logits.shape[-2:])


class VideoDiscriminator(nn.Module):
    """D_V of Eq. 4: tells sequences that move as real ones do from generated ones."""

    def __init__(self, config: VideoDiscriminatorConfig = PUBLISHED_VIDEO_DISCRIMINATOR) -> None:
        super().__init__()
        self.config = config
        self.frames = config.frames
        layers: list[nn.Module] = []
        widths = (3, *config.channels, 1)
        for (inside, outside), kernel in zip(pairwise(widths), config.time_kernels, strict=True):
            convolution = nn.Conv3d(
                inside, outside, (kernel, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)
            )
            layers.append(_normalised(convolution, config.spectral))
            if outside != 1:
                layers += [_norm(config.norm, 3, outside), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers)

    def forward(self, frames: Tensor) -> Tensor:
        """frames: (B, T, 3, H, W) in [-1, 1]; logits (B, T - frames + 1, h, w) float32."""
        _check(frames, self.frames)
        logits: Tensor = self.layers(frames.transpose(1, 2))[:, 0]
        return logits.float()

    def valid(self, valid: Tensor) -> Tensor:
        """(B, T) bool, frames that are no padding -> (B, T - frames + 1), logits that see none."""
        return valid.unfold(1, self.frames, 1).all(-1)


class RegressionDiscriminator(nn.Module):
    """ATVGnet's discriminator: the landmarks that frames show, and whether the sequence is real.

    The recurrence is over time and forward: the landmarks of a frame depend on no later frame.
    """

    def __init__(
        self, config: RegressionDiscriminatorConfig = PUBLISHED_REGRESSION_DISCRIMINATOR
    ) -> None:
        super().__init__()
        self.config = config
        self.frame = self._frame_encoder(config)
        first, last = config.landmark_features
        self.example = nn.Sequential(
            nn.Linear(2 * LANDMARKS, first),
            nn.LeakyReLU(config.slope),
            nn.Linear(first, last),
            nn.LeakyReLU(config.slope),
        )
        self.memory = nn.LSTM(
            config.features + last, config.hidden, config.layers, batch_first=True
        )
        self.displacement = nn.Linear(config.hidden, 2 * LANDMARKS)
        self.decision = nn.Linear(config.hidden, 1)

    @staticmethod
    def _frame_encoder(config: RegressionDiscriminatorConfig) -> nn.Sequential:
        """(N, 3, H, W) -> (N, features)."""
        height, width = config.size
        layers: list[nn.Module] = []
        for index, (inside, outside) in enumerate(pairwise((3, *config.channels))):
            convolution = nn.Conv2d(inside, outside, 3, stride=2, padding=1)
            layers += [
                _normalised(convolution, config.spectral),
                _norm(config.norm if index else "none", 2, outside),
                nn.LeakyReLU(config.slope),
            ]
            height, width = -(-height // 2), -(-width // 2)
            if not config.spectral:  # N(0, 0.02) would fade from layer to layer without norms
                nn.init.kaiming_normal_(convolution.weight, config.slope)
        flat = config.channels[-1] * height * width
        layers += [nn.Flatten(), nn.Linear(flat, config.features), nn.LeakyReLU(config.slope)]
        return nn.Sequential(*layers)

    def train(self, mode: bool = True) -> RegressionDiscriminator:
        """Set the mode as of any module, but keep cuDNN's LSTM in training mode.

        It passes gradients on to a generator while the discriminator is held still; without dropout
        its two modes are the same.
        """
        super().train(mode)
        self.memory.train()
        return self

    def forward(self, frames: Tensor, example: Tensor) -> tuple[Tensor, Tensor]:
        """frames: (B, T, 3, H, W) in [-1, 1], H and W those of the config. example: (B, 68, 2) in
        [0, 1] of the crop, p_p, the identity's. Returns the landmarks (B, T, 68, 2) that the frames
        show, and one score (B,) for the whole sequence: a logit, high where real. Both float32.
        """
        size = self.config.size
        if (
            frames.ndim != 5
            or frames.shape[1] == 0
            or frames.shape[2:] != (3, *size)
            or example.shape != (len(frames), LANDMARKS, 2)
        ):
            raise ValueError(
                f"this discriminator takes frames (B, T, 3, {size[0]}, {size[1]}) and landmarks "
                f"(B, {LANDMARKS}, 2), not {tuple(frames.shape)} and {tuple(example.shape)}"
            )
        batch, time = frames.shape[:2]
        seen = self.frame(frames.flatten(0, 1)).reshape(batch, time, -1)
        known = self.example(example.flatten(1))[:, None].expand(-1, time, -1)
        memory, _ = self.memory(torch.cat([seen, known], dim=2))
        moved = self.displacement(memory).float().tanh().reshape(batch, time, LANDMARKS, 2)
        landmarks = example[:, None].float() + self.config.reach * moved
        return landmarks, self.decision(memory)[..., 0].float().mean(1)
