"""Twice the pixels of what a generator drew: a small network that adds what enlarging leaves out.

Song et al. 2019 (Sec. 5) leave higher resolution to the future. What is bent from the user's own
picture has its detail already (`geometry.Paster`); only new colour comes at the crop's size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface.geometry import Finer, Picture
from talkingface.models.blocks import conv


@dataclass(frozen=True)
class DetailConfig:
    """25 thousand weights, 25 kMAC per pixel of the crop: 0.14 GMAC for CRAN's whole window."""

    family: str = "detail"
    width: int = 24
    layers: int = 4


class Detail(nn.Module):
    """Convolutions at the crop's own size, four answers a pixel (Shi et al. 2016)."""

    def __init__(self, config: DetailConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DetailConfig()
        self.layers = nn.Sequential(
            conv(3, config.width), *(conv(config.width, config.width) for _ in range(config.layers))
        )
        self.answer = nn.Conv2d(config.width, 12, 3, padding=1)
        nn.init.zeros_(self.answer.weight)
        nn.init.zeros_(self.answer.bias)  # type: ignore[arg-type]  # begin as the enlarged picture

    def forward(self, picture: Tensor) -> Tensor:
        """(N, 3, h, w) in [-1, 1] -> (N, 3, 2h, 2w), to be added to `enlarged`."""
        finer: Tensor = F.pixel_shuffle(self.answer(self.layers(picture)), 2)
        return finer

    def finer(self, picture: Tensor) -> Tensor:
        """(N, 3, h, w) in [-1, 1] -> (N, 3, 2h, 2w)."""
        finer: Tensor = enlarged(picture) + self(picture)
        return finer


def finer_of(network: Detail) -> Finer:
    """What a network adds, for pictures outside networks (see `geometry.Paster`)."""
    device = next(network.parameters()).device

    @torch.inference_mode()
    def finer(part: Picture) -> NDArray[np.float32]:
        small = torch.from_numpy(part).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1
        added: NDArray[np.float32] = (127.5 * network(small)[0]).permute(1, 2, 0).cpu().numpy()
        return added

    return finer


def enlarged(picture: Tensor) -> Tensor:
    """(N, 3, h, w) -> (N, 3, 2h, 2w), bicubic."""
    return F.interpolate(picture, scale_factor=2, mode="bicubic", align_corners=False)


def blurred(picture: Tensor, sigma: Tensor) -> Tensor:
    """(N, C, h, w), each with a Gaussian of its own sigma (N,) in pixels; edges are repeated."""
    reach = torch.arange(-4.0, 5.0, device=picture.device)
    kernel = torch.exp(-0.5 * (reach / sigma.clamp(min=1e-2)[:, None]).square())
    kernel = kernel / kernel.sum(1, keepdim=True)
    batch, channels = picture.shape[:2]
    out = F.pad(picture, (4, 4, 4, 4), mode="replicate").flatten(0, 1)[None]
    rows = kernel.repeat_interleave(channels, 0)
    for shape in ((-1, 1, 9, 1), (-1, 1, 1, 9)):
        out = F.conv2d(out, rows.view(*shape), groups=batch * channels)
    soft: Tensor = out[0].unflatten(0, (batch, channels))
    return soft
