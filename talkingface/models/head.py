"""How a head moves while it speaks: pose, eyelids and brows of Song et al. 2019, Sec. 5.

The paper leaves all of it to the previous frame in the loop. What a head does next is not one thing
but many: an average of them stands still. So a head here draws its next move from a mixture of
Gaussians (Bishop 1994; Graves 2013) that the hybrid feature and the last two moves decide.

A move is six numbers, always relative to the identity picture: x and y (FLOW_UNIT), roll (radians),
logarithm of the scale, how open the eyes are (height by width; absolute) and how far the brows are
from the eyes (crop sides).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FLOW_UNIT = 0.05  # one unit of motion inside networks, in crop sides (6.4 px at 128)
MOVES = 6
LIDS, BROWS = 4, 5  # of a move
RIGID = (27, 28, 29, 30, 33, 36, 39, 42, 45)  # nose and corners of the eyes: bone, not speech
CORNERS = ((36, 39), (42, 45))
UPPER_LIDS, LOWER_LIDS = (37, 38, 43, 44), (41, 40, 47, 46)
BROW_POINTS = tuple(range(17, 27))
NOISE_FRAMES = 4999  # the same noise comes back after 200 s, to other words
WIDEST = 4.0  # standard deviations that a head goes from the picture


class Mixture(NamedTuple):
    """logits (..., K); mean and log_std (..., K, MOVES) of the next move less the last one."""

    logits: Tensor
    mean: Tensor
    log_std: Tensor


class HeadMotion(nn.Module):
    """Where the head goes next.

    Buffers `step` and `spread` (MOVES,): standard deviations of a move from frame to frame, and of
    moves, in the training data; `rest` (MOVES,): their mean.
    """

    step: Tensor
    spread: Tensor
    rest: Tensor
    noise: Tensor

    def __init__(self, hidden: int, mixtures: int = 5, width: int = 64) -> None:
        super().__init__()
        self.mixtures = mixtures
        self.inner = nn.Sequential(
            nn.Linear(hidden + 2 * MOVES, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, mixtures * (1 + 2 * MOVES)),
        )
        for name in ("step", "spread"):
            self.register_buffer(name, torch.ones(MOVES))
        self.register_buffer("rest", torch.zeros(MOVES))
        drawn = torch.Generator().manual_seed(1)
        noise = torch.randn(NOISE_FRAMES, MOVES + 1, generator=drawn)
        noise[:, 0] = torch.rand(NOISE_FRAMES, generator=drawn)
        self.register_buffer("noise", noise, persistent=False)

    def mixture(self, hybrid: Tensor, last: Tensor) -> Mixture:
        """hybrid (..., hidden) and the last two moves (..., 2, MOVES), the newest first."""
        newest = (last[..., 0, :] - self.rest) / self.spread
        velocity = (last[..., 0, :] - last[..., 1, :]) / self.step
        raw = self.inner(torch.cat([hybrid, newest, velocity.clamp(-8, 8)], dim=-1)).float()
        logits, rest = raw.split([self.mixtures, 2 * MOVES * self.mixtures], dim=-1)
        mean, log_std = rest.unflatten(-1, (self.mixtures, 2 * MOVES)).chunk(2, dim=-1)
        return Mixture(logits, mean, log_std.clamp(-4, 2))

    def loss(self, hybrid: Tensor, last: Tensor, after: Tensor) -> Tensor:
        """Mean negative log likelihood of the moves `after` (..., MOVES), nats per number."""
        logits, mean, log_std = self.mixture(hybrid, last)
        change = ((after - last[..., 0, :]) / self.step).unsqueeze(-2)
        each = 0.5 * ((change - mean) * torch.exp(-log_std)).square() + log_std
        each = each.sum(-1) + 0.5 * MOVES * math.log(2 * math.pi)
        likelihood = torch.logsumexp(F.log_softmax(logits, -1) - each, dim=-1)
        return -likelihood.mean() / MOVES

    def next(self, hybrid: Tensor, last: Tensor, clock: Tensor) -> Tensor:
        """A move (B, MOVES) drawn after the last two (B, 2, MOVES).

        clock: (B,) frames since the beginning: what is drawn depends on it, so that a stream cut
        anywhere is the same stream.
        """
        logits, mean, log_std = self.mixture(hybrid, last)
        noise = self.noise[clock % NOISE_FRAMES]
        share = F.softmax(logits, -1).cumsum(-1)
        chosen = (noise[:, :1] > share).sum(-1).clamp(max=self.mixtures - 1)
        rows = torch.arange(len(chosen), device=chosen.device)
        change = mean[rows, chosen] + torch.exp(log_std[rows, chosen]) * noise[:, 1:]
        moved = last[:, 0] + change * self.step
        reach = WIDEST * self.spread
        return torch.maximum(torch.minimum(moved, self.rest + reach), self.rest - reach)


def measure(identity: Tensor, points: Tensor) -> Tensor:
    """Moves (B, T, MOVES) of landmarks (B, T, 68, 2) from the identity's (B, 68, 2).

    The similarity is the least-squares one of RIGID (Umeyama 1991).
    """
    own = identity.unsqueeze(1)
    a, b, shift = _similarity(own, points)
    brows = _brows(points) / torch.hypot(a, b) - _brows(own)
    return torch.stack(
        [
            shift[..., 0] / FLOW_UNIT,
            shift[..., 1] / FLOW_UNIT,
            torch.atan2(b, a),
            0.5 * torch.log(a * a + b * b),
            openness(points),
            brows,
        ],
        dim=-1,
    )


def steady(moves: Tensor) -> Tensor:
    """Moves (B, T, MOVES) without the trembling of their measurement: pose and brows smoothed over
    five frames (binomial), lids as they are, for a blink is short."""
    kernel = moves.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    padded = F.pad(moves.transpose(1, 2), (2, 2), mode="replicate")
    smooth = (padded.unfold(-1, 5, 1) * kernel).sum(-1).transpose(1, 2)
    return torch.cat([smooth[..., :LIDS], moves[..., LIDS:BROWS], smooth[..., BROWS:]], dim=-1)


def _similarity(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled cosine and sine of the turn (...), and how far the middle of RIGID moves (..., 2)."""
    rigid = list(RIGID)
    s, t = source[..., rigid, :], target[..., rigid, :]
    here, there = s.mean(-2), t.mean(-2)
    s, t = s - here.unsqueeze(-2), t - there.unsqueeze(-2)
    size = s.square().sum((-1, -2))
    a = (s * t).sum((-1, -2)) / size
    b = (s[..., 0] * t[..., 1] - s[..., 1] * t[..., 0]).sum(-1) / size
    return a, b, there - here


def _matrix(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([torch.stack([a, -b], -1), torch.stack([b, a], -1)], -2)


def openness(points: Tensor) -> Tensor:
    """(..., 68, 2) -> (...): height of the open eyes by their width, both eyes' mean.

    Soukupova and Cech 2016: the eye aspect ratio; about 0.3 open, under 0.15 in a blink.
    """
    gaps = (points[..., list(UPPER_LIDS), :] - points[..., list(LOWER_LIDS), :]).norm(dim=-1)
    widths = [(points[..., i, :] - points[..., j, :]).norm(dim=-1) for i, j in CORNERS]
    ratio: Tensor = gaps.mean(-1) / ((widths[0] + widths[1]) / 2).clamp(min=1e-6)
    return ratio


def _brows(points: Tensor) -> Tensor:
    """(..., 68, 2) -> (...): how far the brows are from the corners of the eyes, crop sides."""
    brows = points[..., list(BROW_POINTS), :].mean(-2)
    eyes = points[..., [i for pair in CORNERS for i in pair], :].mean(-2)
    distance: Tensor = (brows - eyes).norm(dim=-1)
    return distance


class Pose(NamedTuple):
    """Moves as what pixels need: matrix (N, 2, 2), shift and middle (N, 2), crop sides."""

    matrix: Tensor
    shift: Tensor
    middle: Tensor

    def forward(self, points: Tensor) -> Tensor:
        """Points (N, P, 2) of the identity's head, moved."""
        middle, shift = self.middle.unsqueeze(1), self.shift.unsqueeze(1)
        return (points - middle) @ self.matrix.transpose(1, 2) + middle + shift


def pose_of(identity: Tensor, moves: Tensor) -> Pose:
    """identity (N, 68, 2), moves (N, MOVES)."""
    scale = torch.exp(moves[:, 3])
    a, b = scale * torch.cos(moves[:, 2]), scale * torch.sin(moves[:, 2])
    middle = identity[:, list(RIGID)].mean(1)
    return Pose(_matrix(a, b), moves[:, :2] * FLOW_UNIT, middle)


def place(points: Tensor, identity: Tensor, moves: Tensor) -> Tensor:
    """The landmarks of a still head (N, 68, 2) as they are after moves (N, MOVES).

    The upper lids come down to the lower ones, brows move along the face's own vertical.
    """
    wanted = moves[:, LIDS] / openness(identity).clamp(min=0.05)
    upper, lower = list(UPPER_LIDS), list(LOWER_LIDS)
    low = points[:, lower]
    high = low + (points[:, upper] - low) * wanted[:, None, None]
    nose = points[:, 30] - points[:, 27]
    up = -nose / nose.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    raised = points[:, list(BROW_POINTS)] + (up * moves[:, BROWS, None]).unsqueeze(1)
    still = points.clone()
    still[:, upper] = high
    still[:, list(BROW_POINTS)] = raised
    return pose_of(identity, moves).forward(still)
