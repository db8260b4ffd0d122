"""The two networks of the face finder: BlazeFace (detector) and attention mesh (478 points).

Shapes and weights are those of the models that MediaPipe publishes under Apache-2.0: Bazarevsky et
al. 2019, "BlazeFace" (arXiv 1907.05047), and Grishchenko et al. 2020, "Attention Mesh" (arXiv
2006.10962).
`tools/convert_face_models.py` makes the weight files beside this module.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from talkingface.contract import MESH_POINTS
from talkingface.landmarks import LEFT_CORNER, LEFT_EYE, RIGHT_CORNER, RIGHT_EYE

M = TypeVar("M", bound=nn.Module)

DETECTOR_SIZE = 128  # pixels: side of the detector's input
MESH_SIZE = 192  # pixels: side of the mesh's input

_REGIONS = ("lips", "left_eye", "right_eye")
_REGION_POINTS = (80, 71, 71)
_REGION_AXES = ((LEFT_CORNER, RIGHT_CORNER), LEFT_EYE, RIGHT_EYE)  # from left to right
_REGION_SIDE = 16  # cells: what a refining head sees of its region
_REGION_MARGIN = 1.5  # of the region's own box
_TAP_SCALE = 4.0  # input pixels per cell of the features that the heads look at
_EYE_RIM = 16  # the first points of an eye region are its rim
_BRANCH_REGION = (0, 1, 1, 2, 2)  # lips; an eye's skin and iris, left and right
_BRANCH_POINTS = (80, 71, 5, 71, 5)


class Block(nn.Module):
    """Depthwise 3x3, pointwise, skip, activation; `groups` independent copies side by side.

    (B, groups * inputs, H, W) -> (B, groups * outputs, H / stride, W / stride). The skip is pooled
    where the stride is 2 (H and W even) and padded with zeros where channels are added.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, groups: int = 1, leaky: bool = True
    ) -> None:
        super().__init__()
        self.groups, self.stride, self.grow = groups, stride, outputs - inputs
        wide, out = inputs * groups, outputs * groups
        self.depthwise = nn.Conv2d(wide, wide, 3, stride, padding=stride % 2, groups=wide)
        self.pointwise = nn.Conv2d(wide, out, 1, groups=groups)
        self.activation = nn.PReLU(out) if leaky else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        skip = x
        if self.stride == 2:  # the published models pad "same": nothing before, one cell after
            skip = functional.max_pool2d(x, 2)
            x = functional.pad(x, (0, 1, 0, 1))
        if self.grow:
            apart = skip.unflatten(1, (self.groups, -1))
            skip = functional.pad(apart, (0, 0, 0, 0, 0, self.grow)).flatten(1, 2)
        out: Tensor = self.activation(_pointwise(self.depthwise(x), self.pointwise) + skip)
        return out


class Narrow(nn.Module):
    """Pointwise with fewer channels after it, activation: (B, groups * inputs, H, W) -> outputs."""

    def __init__(self, inputs: int, outputs: int, groups: int = 1) -> None:
        super().__init__()
        self.pointwise = nn.Conv2d(inputs * groups, outputs * groups, 1, groups=groups)
        self.activation = nn.PReLU(outputs * groups)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        out: Tensor = self.activation(_pointwise(x, self.pointwise))
        return out


def _pointwise(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """layer(x); groups, which torch's convolution runs one by one, as one matrix product."""
    groups = layer.groups
    if groups == 1:
        out: Tensor = layer(x)
        return out
    assert layer.bias is not None
    weight = layer.weight.view(groups, -1, layer.weight.shape[1])
    bias = layer.bias.view(groups, -1, 1)
    apart = x.reshape(len(x), groups, -1, x.shape[2] * x.shape[3])
    return (weight @ apart + bias).reshape(len(x), -1, *x.shape[2:])


class Detector(nn.Module):
    """BlazeFace, short range: 896 anchors on 16x16 (two each) and 8x8 (six each) cells."""

    def __init__(self) -> None:
        super().__init__()
        widths = (24, 24, 28, 32, 36, 42, 48, 56, 64, 72, 80, 88)
        self.stem = nn.Conv2d(3, 24, 5, 2)
        self.fine = nn.Sequential(
            *(
                Block(a, b, stride=2 if b in (32, 48) else 1, leaky=False)
                for a, b in pairwise(widths)
            )
        )
        self.coarse = nn.Sequential(
            Block(88, 96, 2, leaky=False), *(Block(96, 96, leaky=False) for _ in range(4))
        )
        self.fine_score, self.coarse_score = nn.Conv2d(88, 2, 1), nn.Conv2d(96, 6, 1)
        self.fine_box, self.coarse_box = nn.Conv2d(88, 32, 1), nn.Conv2d(96, 96, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image: (B, 3, 128, 128) RGB in [-1, 1].

        Returns scores (B, 896), a logit per anchor, and boxes (B, 896, 16) in input pixels from the
        anchor's centre: box centre x, y, width, height, then x, y of the eyes (the picture's left
        first), nose tip, mouth and ears.
        """
        x = functional.relu(self.stem(functional.pad(image, (1, 2, 1, 2))))
        fine = self.fine(x)
        coarse = self.coarse(fine)
        scores = (self.fine_score(fine), self.coarse_score(coarse))
        boxes = (self.fine_box(fine), self.coarse_box(coarse))
        return (
            torch.cat([s.permute(0, 2, 3, 1).flatten(1) for s in scores], 1),
            torch.cat([b.permute(0, 2, 3, 1).reshape(len(b), -1, 16) for b in boxes], 1),
        )


def anchor_centres() -> Tensor:
    """(896, 2) input pixels (x, y): the detector's anchors, in the order of its output."""
    grids = []
    for side, per_cell in ((16, 2), (8, 6)):
        centre = (torch.arange(side) + 0.5) * (DETECTOR_SIZE / side)
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        grids.append(torch.stack([x, y], -1).reshape(-1, 2).repeat_interleave(per_cell, 0))
    return torch.cat(grids)


class Mesh(nn.Module):
    """The attention mesh: a trunk that sees the face, heads that look again at lips and eyes."""

    lips: Tensor
    left_eye: Tensor
    right_eye: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.PReLU(16))
        self.shallow = nn.Sequential(Block(16, 16), Block(16, 16), Block(16, 32, 2))
        deep: list[nn.Module] = [Block(32, 32), Block(32, 32)]
        for inputs, outputs in ((32, 64), (64, 128), (128, 128), (128, 128)):
            deep += [Block(inputs, outputs, 2), Block(outputs, outputs), Block(outputs, outputs)]
        deep += [Narrow(128, 32), Block(32, 32)]
        self.deep = nn.Sequential(*deep)
        self.points = nn.Conv2d(32, 468 * 3 + 1, 3)  # the last channel: is there a face?
        g = len(_REGIONS)
        self.look = nn.Sequential(
            *(Block(32, 32, groups=g) for _ in range(2)),
            Block(32, 64, 2, groups=g),
            *(Block(64, 64, groups=g) for _ in range(2)),
            Block(64, 128, 2, groups=g),
        )
        g = len(_BRANCH_REGION)
        self.refine = nn.Sequential(
            *(Block(128, 128, groups=g) for _ in range(2)),
            Block(128, 128, 2, groups=g),
            *(Block(128, 128, groups=g) for _ in range(2)),
            Narrow(128, 32, g),
            Block(32, 32, groups=g),
        )
        self.refined = nn.ModuleList(nn.Linear(32 * 2 * 2, 2 * n) for n in _BRANCH_POINTS)
        for name, count in zip(_REGIONS, _REGION_POINTS, strict=True):
            self.register_buffer(name, torch.zeros(count, dtype=torch.long))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image: (B, 3, 192, 192) RGB in [0, 1], an upright face in about two thirds of it.

        Returns points (B, 478, 3), x, y and depth (less is nearer) in input pixels, and presence
        (B,), the logit that this is a face.
        """
        shallow = self.shallow(self.stem(functional.pad(image, (0, 1, 0, 1))))
        coarse = self.points(self.deep(shallow)).flatten(1)
        points = coarse.new_zeros(len(image), MESH_POINTS, 3)
        points[:, :468] = coarse[:, :-1].unflatten(1, (468, 3))
        frames = self._region_frames(points[..., :2] / _TAP_SCALE)
        features = self.look(_sample_regions(shallow, frames)).unflatten(1, (len(_REGIONS), -1))
        features = self.refine(features[:, _BRANCH_REGION, :].flatten(1, 2))
        branches = features.unflatten(1, (len(_BRANCH_REGION), -1)).unbind(1)
        left, right = self.left_eye, self.right_eye
        places = (self.lips, left, slice(468, 473), right, slice(473, 478))
        for head, region, branch, place in zip(
            self.refined, _BRANCH_REGION, branches, places, strict=True
        ):
            seen = head(branch.flatten(1)).unflatten(1, (-1, 2))
            axes, shift = frames[:, region, :, :2], frames[:, region, None, :, 2] * _TAP_SCALE
            points[:, place, :2] = seen @ axes.mT + shift
        for eye, iris in ((left, places[2]), (right, places[4])):  # an iris is as deep as its eye
            points[:, iris, 2] = points[:, eye[:_EYE_RIM], 2].mean(1, keepdim=True)
        return points, coarse[:, -1]

    def _region_frames(self, points: Tensor) -> Tensor:
        """(B, 478, 2) cells -> (B, 3, 2, 3): a region's coordinates in [0, 16] to feature cells."""
        frames = []
        for name, (left, right) in zip(_REGIONS, _REGION_AXES, strict=True):
            across = functional.normalize(points[:, right] - points[:, left], dim=-1)
            down = torch.stack([-across[:, 1], across[:, 0]], -1)
            axes = torch.stack([across, down], -1)  # columns
            own = points[:, getattr(self, name)] @ axes
            low, high = own.amin(1), own.amax(1)
            scaled = axes * ((high - low) * (_REGION_MARGIN / _REGION_SIDE))[:, None]
            middle = (axes @ ((low + high) / 2)[..., None])[..., 0]
            shift = middle - scaled.sum(-1) * (_REGION_SIDE / 2)
            frames.append(torch.cat([scaled, shift[..., None]], -1))
        return torch.stack(frames, 1)


def _sample_regions(features: Tensor, frames: Tensor) -> Tensor:
    """(B, C, H, W) and (B, R, 2, 3) -> (B, R * C, 16, 16); zero where a cell is not inside."""
    side = features.shape[-1]
    centre = torch.arange(_REGION_SIDE, dtype=features.dtype, device=features.device) + 0.5
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    cells = torch.stack([x, y, torch.ones_like(x)], -1)
    where = torch.einsum("hwk,brjk->brhwj", cells, frames)
    inside = ((where >= 0.5) & (where <= side - 0.5)).all(-1)
    grid = (where * (2 / side) - 1).flatten(1, 2)
    seen: Tensor = functional.grid_sample(features, grid, align_corners=False)
    seen = seen.unflatten(2, (frames.shape[1], _REGION_SIDE)).transpose(1, 2)
    return (seen * inside[:, :, None]).flatten(1, 2).contiguous()


@cache
def detector() -> Detector:
    """The detector with its weights, float32, loaded once."""
    return _channels_last(_loaded(Detector(), "face_detector.safetensors"))


@cache
def mesh() -> Mesh:
    """The mesh with its weights, float32, loaded once."""
    network = _loaded(Mesh(), "face_mesh.safetensors")
    for part in (network.stem, network.shallow, network.deep):
        _channels_last(part)
    return network


def _channels_last(module: M) -> M:
    """Depthwise convolutions of large maps take half the time in this layout."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _loaded(network: M, name: str) -> M:
    network.load_state_dict(load_file(Path(__file__).with_name(name)))  # copies fp16 into fp32
    return network.eval().requires_grad_(False)
