"""The discriminators: published sizes, shapes, independence, spectral norm, bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from talkingface.losses import landmark_regression_loss
from talkingface.models.discriminators import (
    PUBLISHED_FRAME_DISCRIMINATOR,
    PUBLISHED_REGRESSION_DISCRIMINATOR,
    PUBLISHED_VIDEO_DISCRIMINATOR,
    SMALL_FRAME_DISCRIMINATOR,
    SMALL_REGRESSION_DISCRIMINATOR,
    SMALL_VIDEO_DISCRIMINATOR,
    FrameDiscriminator,
    RegressionDiscriminator,
    RegressionDiscriminatorConfig,
    VideoDiscriminator,
    VideoDiscriminatorConfig,
)

Make = Callable[[], FrameDiscriminator | VideoDiscriminator]
DISCRIMINATORS = [
    pytest.param(lambda: FrameDiscriminator(PUBLISHED_FRAME_DISCRIMINATOR), id="frame-published"),
    pytest.param(lambda: FrameDiscriminator(SMALL_FRAME_DISCRIMINATOR), id="frame-small"),
    pytest.param(lambda: VideoDiscriminator(PUBLISHED_VIDEO_DISCRIMINATOR), id="video-published"),
    pytest.param(lambda: VideoDiscriminator(SMALL_VIDEO_DISCRIMINATOR), id="video-small"),
]


def clip(batch: int, time: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, time, 3, height, width, generator=generator) * 2 - 1


def weights(discriminator: nn.Module) -> int:
    return sum(p.numel() for p in discriminator.parameters())


def test_published_sizes() -> None:
    # counted by hand from the layers of the released code: 0.098 M and 1.119 M
    convolutions = [(3, 16), (16, 32), (32, 64), (64, 128)]
    assert weights(FrameDiscriminator()) == sum(9 * i * o + o for i, o in convolutions) + 129
    deep = [(3, 64), (64, 128), (128, 256), (256, 1)]
    norms = 2 * (64 + 128 + 256)
    assert (
        weights(VideoDiscriminator()) == sum(27 * i * o + o for i, o in deep) + norms == 1_119_361
    )


def test_published_maps_at_128() -> None:
    assert FrameDiscriminator()(clip(1, 2, 128, 128)).shape == (1, 2, 8, 8)
    assert VideoDiscriminator()(clip(1, 11, 128, 128)).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("make", DISCRIMINATORS)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (72, 80), (33, 47)])
def test_any_window(make: Make, height: int, width: int) -> None:
    discriminator = make()
    out = discriminator(clip(2, 9, height, width))
    assert out.shape[:2] == (2, 9 - discriminator.frames + 1)
    assert out.shape[2:] == tuple(
        -(
            -side
            // (16 if len(discriminator.config.channels) == 4 or discriminator.frames > 1 else 8)
        )
        for side in (height, width)
    )
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("make", DISCRIMINATORS)
def test_no_sample_influences_another_in_eval_mode(make: Make) -> None:
    discriminator = make().eval()
    both = clip(2, 9, 32, 40)
    other = torch.cat([both[:1], clip(1, 9, 32, 40, seed=1)])
    torch.testing.assert_close(discriminator(both)[:1], discriminator(other)[:1])
    assert not torch.allclose(discriminator(both)[1:], discriminator(other)[1:])


@pytest.mark.parametrize("make", DISCRIMINATORS)
def test_each_logit_sees_its_own_frames_only(make: Make) -> None:
    discriminator = make().eval()
    frames = clip(1, 12, 32, 32).requires_grad_()
    discriminator(frames)[:, 2].abs().sum().backward()
    assert frames.grad is not None
    seen = frames.grad.abs().sum((0, 2, 3, 4)) > 0
    assert seen.nonzero().flatten().tolist() == list(range(2, 2 + discriminator.frames))


def test_valid_logits_see_no_padding() -> None:
    discriminator = VideoDiscriminator(
        VideoDiscriminatorConfig(channels=(4, 4), time_kernels=(3, 2, 1), norm="none")
    )
    valid = torch.arange(9)[None] < torch.tensor([9, 6, 3])[:, None]
    naive = [
        [bool(row[t : t + discriminator.frames].all()) for t in range(9 - discriminator.frames + 1)]
        for row in valid
    ]
    assert discriminator.valid(valid).tolist() == naive
    frames = clip(3, 9, 32, 32)
    padded = torch.where(valid[..., None, None, None], frames, torch.zeros(()))
    keep = discriminator.valid(valid)
    torch.testing.assert_close(discriminator(frames)[keep], discriminator(padded)[keep])


@pytest.mark.parametrize("make", DISCRIMINATORS)
def test_bfloat16_autocast(make: Make) -> None:
    torch.manual_seed(0)
    discriminator = make().eval()
    frames = clip(1, 9, 48, 48)
    exact = discriminator(frames)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = discriminator(frames)
        discriminator.train()(frames).sum().backward()
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max() + 0.02
    assert all(
        p.grad is not None and torch.isfinite(p.grad).all() for p in discriminator.parameters()
    )


def test_spectral_norm_is_one_and_eval_does_not_change_it() -> None:
    torch.manual_seed(0)
    discriminator = VideoDiscriminator(replace(SMALL_VIDEO_DISCRIMINATOR, spectral=True))
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    frames = clip(1, 7, 32, 32)
    for _ in range(60):
        discriminator(frames)
    discriminator.eval()
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}
    discriminator(frames)
    for name, value in discriminator.state_dict().items():
        assert torch.equal(before[name], value), name
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Conv3d)]
    assert len(layers) == 4
    for layer in layers:
        largest = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]
        assert float(largest) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("make", DISCRIMINATORS)
def test_learns_to_tell_a_spot_from_noise(make: Make) -> None:
    torch.manual_seed(0)
    discriminator = make()
    optimizer = torch.optim.Adam(discriminator.parameters(), 2e-3, (0.5, 0.999))

    def pair(seed: int) -> tuple[Tensor, Tensor]:
        noise = clip(2, discriminator.frames, 64, 64, seed)
        spot = torch.zeros(64, 64)
        spot[20:30, 30:40] = 1.0  # sparse: instance norm hides mere contrast
        return 0.1 * noise + spot, noise

    for step in range(40):
        real, fake = (discriminator(frames) for frames in pair(step))
        loss = nn.functional.softplus(-real).mean() + nn.functional.softplus(fake).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real, fake = (discriminator(frames).mean() for frames in pair(99))
    assert real > fake + 0.1


def test_refuses_what_it_cannot_judge() -> None:
    with pytest.raises(ValueError, match="H, W >= 32"):
        FrameDiscriminator()(clip(1, 1, 31, 64))
    with pytest.raises(ValueError, match="needs 9 frames"):
        VideoDiscriminator()(clip(1, 8, 32, 32))
    with pytest.raises(ValueError, match="need 4 time kernels"):
        VideoDiscriminatorConfig(time_kernels=(3, 3))


# A small one of the small kind, for what does not depend on size.
SMALL = replace(
    SMALL_REGRESSION_DISCRIMINATOR,
    size=(32, 40),
    channels=(8, 16, 16, 16),
    features=32,
    landmark_features=(16, 16),
    hidden=32,
)


def examples(batch: int, seed: int = 0) -> Tensor:
    return torch.rand(batch, 68, 2, generator=torch.Generator().manual_seed(seed))


def test_published_regression_discriminator_has_the_released_codes_weights() -> None:
    # 21.49 M are in the released file, counted by running it; 0.59 M of them are a decoder
    # (1024-512-136) that its forward pass never calls
    unused = (1024 * 512 + 512) + (512 * 136 + 136)
    total = weights(RegressionDiscriminator()) + unused
    assert total == 21_492_369
    assert total / 1e6 == pytest.approx(21.49, abs=0.005)
    assert 0.5e6 < weights(RegressionDiscriminator(SMALL_REGRESSION_DISCRIMINATOR)) < 1.1e6


@pytest.mark.parametrize(
    "config", [PUBLISHED_REGRESSION_DISCRIMINATOR, SMALL_REGRESSION_DISCRIMINATOR, SMALL]
)
def test_regression_shapes_and_reach(config: RegressionDiscriminatorConfig) -> None:
    discriminator, example = RegressionDiscriminator(config), examples(2)
    landmarks, score = discriminator(clip(2, 3, *config.size), example)
    assert landmarks.shape == (2, 3, 68, 2) and score.shape == (2,)
    assert landmarks.dtype == score.dtype == torch.float32
    with torch.no_grad():  # however sure it is, a point moves no further than `reach`
        discriminator.displacement.bias.fill_(50.0)
    far, _ = discriminator(clip(2, 3, *config.size), example)
    torch.testing.assert_close(far, (example + config.reach)[:, None].expand_as(far))


def test_regression_discriminator_is_causal_and_scores_the_whole_sequence() -> None:
    discriminator = RegressionDiscriminator(SMALL)
    frames = clip(1, 6, *SMALL.size).requires_grad_()
    landmarks, score = discriminator(frames, examples(1))
    (to_frame_2,) = torch.autograd.grad(landmarks[:, 2].abs().sum(), frames, retain_graph=True)
    seen = to_frame_2.abs().sum((0, 2, 3, 4)) > 0
    assert seen.tolist() == [True, True, True, False, False, False]
    (to_score,) = torch.autograd.grad(score.sum(), frames)
    assert (to_score.abs().sum((0, 2, 3, 4)) > 0).all()
    shorter, _ = discriminator(frames[:, :4], examples(1))
    torch.testing.assert_close(shorter, landmarks[:, :4])


def test_score_is_the_mean_of_the_steps_decisions() -> None:
    discriminator = RegressionDiscriminator(SMALL)
    frames, example = clip(2, 5, *SMALL.size), examples(2)
    # step by step: t + 1 times the mean of t + 1 decisions, less what the steps before summed to
    sums = [discriminator(frames[:, : t + 1], example)[1] * (t + 1) for t in range(5)]
    last = sums[4] - sums[3]
    taken: list[Tensor] = []
    discriminator.decision.register_forward_hook(lambda *call: taken.append(call[2]))
    _, score = discriminator(frames, example)
    torch.testing.assert_close(last, taken[0][:, 4, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(score, taken[0][..., 0].mean(1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("spectral", [True, False])
def test_regression_leaks_nothing_across_the_batch(training: bool, spectral: bool) -> None:
    discriminator = RegressionDiscriminator(replace(SMALL, spectral=spectral)).train(training)
    frames, example = clip(3, 4, *SMALL.size).requires_grad_(), examples(3).requires_grad_()
    landmarks, score = discriminator(frames, example)
    (landmarks[1].sum() + score[1]).backward()
    for given in (frames, example):
        assert given.grad is not None
        assert (given.grad[[0, 2]] == 0).all() and (given.grad[1] != 0).any()


def test_published_regression_leaks_nothing_in_eval_mode() -> None:
    discriminator = RegressionDiscriminator(replace(SMALL, norm="batch")).eval()
    both, example = clip(2, 3, *SMALL.size), examples(2)
    other = torch.cat([both[:1], clip(1, 3, *SMALL.size, seed=1)])
    for alone, beside in zip(
        discriminator(both, example), discriminator(other, example), strict=True
    ):
        torch.testing.assert_close(alone[:1], beside[:1])
        assert not torch.equal(alone[1:], beside[1:])


def test_held_still_discriminator_passes_gradients_on() -> None:
    # cuDNN's recurrent nets refuse this in eval mode
    discriminator = RegressionDiscriminator(replace(SMALL, layers=3)).requires_grad_(False)
    frames = clip(1, 3, *SMALL.size).requires_grad_()
    trained, _ = discriminator(frames, examples(1))
    discriminator.eval()
    assert discriminator.memory.training and not discriminator.frame.training
    torch.testing.assert_close(
        discriminator(frames, examples(1))[0], trained
    )  # no dropout to switch off
    landmarks, score = discriminator(frames, examples(1))
    (landmarks.sum() + score.sum()).backward()
    assert frames.grad is not None and (frames.grad != 0).any()
    assert all(p.grad is None for p in discriminator.parameters())


def test_regression_discriminator_in_bfloat16() -> None:
    torch.manual_seed(0)
    discriminator = RegressionDiscriminator(SMALL)
    frames, example = clip(1, 4, *SMALL.size), examples(1)
    exact, sure = discriminator(frames, example)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, unsure = discriminator(frames, example)
        (rough.sum() + unsure.sum()).backward()
    assert rough.dtype == unsure.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.02 * SMALL.reach * 2
    assert (unsure - sure).abs().max() < 0.05
    assert all(
        p.grad is not None and torch.isfinite(p.grad).all() for p in discriminator.parameters()
    )


def bar(height: Tensor) -> Tensor:
    """(B, T) in [0, 1] of the picture -> frames with one bright soft-edged bar at that height."""
    rows = (torch.arange(SMALL.size[0]) + 0.5) / SMALL.size[0]
    light = torch.exp(-(((rows - height[..., None]) / 0.06) ** 2)) * 2 - 1
    return light[:, :, None, :, None].expand(-1, -1, 3, -1, SMALL.size[1])


def test_regression_discriminator_learns_where_a_bar_is() -> None:
    torch.manual_seed(0)
    discriminator = RegressionDiscriminator(replace(SMALL, reach=0.4))
    optimizer = torch.optim.Adam(discriminator.parameters(), 2e-3)
    example = torch.full((8, 68, 2), 0.5)

    def sample(seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        height = torch.rand(8, 6, generator=generator) * 0.6 + 0.2
        landmarks = torch.full((8, 6, 68, 2), 0.5)
        landmarks[..., 48:, 1] = height[..., None]
        return bar(height), landmarks

    for step in range(150):
        frames, target = sample(step)
        loss = landmark_regression_loss(discriminator(frames, example)[0], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    frames, target = sample(999)
    error = (discriminator(frames, example)[0] - target).detach().abs()
    guess = (target[..., 48:, 1] - 0.5).abs().mean()  # of one who says the middle: 0.15
    assert error[..., 48:, 1].mean() < 0.3 * guess
    assert error[..., :48, :].mean() < 0.03


def test_regression_discriminator_names_what_it_cannot_judge() -> None:
    discriminator = RegressionDiscriminator(SMALL)
    with pytest.raises(ValueError, match=r"frames \(B, T, 3, 32, 40\).*not \(1, 2, 3, 40, 32\)"):
        discriminator(clip(1, 2, 40, 32), examples(1))
    with pytest.raises(ValueError, match=r"landmarks \(B, 68, 2\), not .* and \(2, 68, 2\)"):
        discriminator(clip(1, 2, 32, 40), examples(2))
