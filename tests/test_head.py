"""How a head moves: moves measured and laid back, and its mixture."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]
from torch import Tensor

from talkingface.geometry import CropSpec, fit_similarity, transform
from talkingface.models import head
from talkingface.models.head import MOVES, HeadMotion, measure, place, pose_of, steady

SPEC = CropSpec()


def _faces(batch: int) -> Tensor:
    torch.manual_seed(5)
    mean = torch.from_numpy(SPEC.template() / SPEC.size).float()
    return mean + 0.004 * torch.randn(batch, 68, 2)


def _moves(identity: Tensor) -> Tensor:
    torch.manual_seed(6)
    moves = torch.randn(len(identity), MOVES) * torch.tensor([0.5, 0.5, 0.1, 0.05, 0.02, 0.004])
    moves[:, head.LIDS] = head.openness(identity) * (0.4 + torch.rand(len(identity)))
    return moves


def test_what_is_laid_is_measured() -> None:
    identity = _faces(6)
    moves = _moves(identity)
    moved = place(identity, identity, moves)
    found = measure(identity, moved.unsqueeze(1))[:, 0]
    torch.testing.assert_close(found, moves, atol=2e-5, rtol=1e-4)


def test_the_similarity_is_the_least_squares_one() -> None:
    identity, other = _faces(2)
    found = measure(identity[None], other[None, None])[0, 0].double()
    rigid = list(head.RIGID)
    matrix = fit_similarity(identity[rigid].double().numpy(), other[rigid].double().numpy())
    assert float(found[2]) == pytest.approx(math.atan2(matrix[1, 0], matrix[0, 0]), abs=1e-5)
    size = math.log(math.hypot(matrix[0, 0], matrix[1, 0]))
    assert float(found[3]) == pytest.approx(size, abs=1e-5)


def test_a_pose_is_a_similarity_about_the_middle_of_what_is_bone() -> None:
    identity = _faces(3)
    moves = _moves(identity)
    pose = pose_of(identity, moves)
    points = torch.rand(3, 50, 2)
    middle = identity[:, list(head.RIGID)].mean(1)
    scale, turn = torch.exp(moves[:, 3]), moves[:, 2]
    around = torch.view_as_complex((points - middle[:, None]).contiguous())
    spun = torch.view_as_real(around * torch.polar(scale, turn)[:, None])
    expected = spun + (middle + moves[:, :2] * head.FLOW_UNIT)[:, None]
    torch.testing.assert_close(pose.forward(points), expected, atol=1e-5, rtol=0)


def test_an_eye_closes_and_nothing_else_moves() -> None:
    identity = _faces(1)
    moves = measure(identity, identity.unsqueeze(1))[:, 0]
    torch.testing.assert_close(place(identity, identity, moves), identity, atol=1e-5, rtol=0)
    moves[:, head.LIDS] = 0
    shut = place(identity, identity, moves)
    assert float(head.openness(shut)) < 1e-4
    lids = [*head.UPPER_LIDS, *head.LOWER_LIDS]
    others = [p for p in range(68) if p not in lids]
    torch.testing.assert_close(shut[:, others], identity[:, others], atol=1e-5, rtol=0)


def test_a_pose_is_a_similarity_of_all_points() -> None:
    """A head that only turns and goes aside takes every point along."""
    identity = _faces(1)
    moves = measure(identity, identity.unsqueeze(1))[:, 0]
    moves[:, :4] += torch.tensor([0.4, -0.3, 0.08, 0.03])
    target = place(identity, identity, moves)[0].double().numpy()
    own = identity[0].double().numpy()
    matrix = fit_similarity(own, target)
    np.testing.assert_allclose(transform(own, matrix), target, atol=2e-6)
    turn = np.exp(0.03 + 0.08j)  # a logarithm of the scale, and an angle
    np.testing.assert_allclose(matrix[:, 0], [turn.real, turn.imag], atol=1e-5)


def test_loss_is_the_mixture_s_log_likelihood() -> None:
    torch.manual_seed(7)
    motion = HeadMotion(4, mixtures=3)
    motion.step.copy_(torch.rand(MOVES) + 0.5)
    hybrid, last, after = torch.randn(2, 5, 4), torch.randn(2, 5, 2, MOVES), torch.randn(2, 5, 6)
    with torch.no_grad():
        ours = float(motion.loss(hybrid, last, after))
        logits, mean, log_std = (part.double().numpy() for part in motion.mixture(hybrid, last))
    change = ((after - last[..., 0, :]) / motion.step).double().numpy()
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    total = 0.0
    for b in range(2):
        for t in range(5):
            parts = [
                weights[b, t, k]
                * stats.multivariate_normal.pdf(
                    change[b, t], mean[b, t, k], np.diag(np.exp(2 * log_std[b, t, k]))
                )
                for k in range(3)
            ]
            total -= math.log(sum(parts))
    assert ours == pytest.approx(total / 10 / MOVES, rel=1e-5)


def test_draws_follow_the_mixture() -> None:
    """Over the clock, what is drawn has the mean and the deviation that the mixture says."""
    motion = HeadMotion(4, mixtures=2)
    with torch.no_grad():
        for layer in motion.inner:
            if isinstance(layer, torch.nn.Linear):
                layer.weight.zero_()
        bias = motion.inner[-1].bias
        assert isinstance(bias, Tensor)
        bias.zero_()
        bias[:2] = torch.log(torch.tensor([0.25, 0.75]))
        bias[2 : 2 + MOVES] = -2.0  # the first Gaussian's mean; the second's is 1
        bias[2 + 2 * MOVES : 2 + 3 * MOVES] = 1.0
        bias[2 + MOVES : 2 + 2 * MOVES] = math.log(0.5)
        bias[2 + 3 * MOVES :] = math.log(0.5)
        clock = torch.arange(4000)
        drawn = motion.next(torch.zeros(4000, 4), torch.zeros(4000, 2, MOVES), clock)
    mean = 0.25 * -2 + 0.75
    spread = math.sqrt(0.25 + 0.25 * (-2 - mean) ** 2 + 0.75 * (1 - mean) ** 2)
    np.testing.assert_allclose(drawn.mean(0), mean, atol=4 * spread / math.sqrt(4000))
    np.testing.assert_allclose(drawn.std(0), spread, rtol=0.06)


def test_a_head_comes_back() -> None:
    """Whatever the network says, a head stays within reach of the picture."""
    motion = HeadMotion(4)
    with torch.no_grad():
        bias = motion.inner[-1].bias
        assert isinstance(bias, Tensor)
        bias[motion.mixtures :] = 2.0  # every Gaussian pushes the same way
        last = torch.zeros(1, 2, MOVES)
        for clock in range(60):
            move = motion.next(torch.zeros(1, 4), last, torch.tensor([clock]))
            last = torch.stack([move, last[:, 0]], dim=1)
    assert float(last.abs().max()) <= head.WIDEST + 1e-5


def test_steady_keeps_a_glide_and_a_blink() -> None:
    glide = torch.arange(20.0)[None, :, None].expand(1, 20, MOVES).clone()
    glide[0, 10, head.LIDS] = -5.0
    kept = steady(glide)
    torch.testing.assert_close(kept[:, 2:-2], glide[:, 2:-2])
