"""The critics: published sizes, shapes, independence, spectral norm, bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from talkingface.models.discriminators import (
    LEAN_FRAME_CRITIC,
    LEAN_VIDEO_CRITIC,
    PUBLISHED_FRAME_CRITIC,
    PUBLISHED_VIDEO_CRITIC,
    FrameCritic,
    VideoCritic,
    VideoCriticConfig,
)

Make = Callable[[], FrameCritic | VideoCritic]
CRITICS = [
    pytest.param(lambda: FrameCritic(PUBLISHED_FRAME_CRITIC), id="frame-published"),
    pytest.param(lambda: FrameCritic(LEAN_FRAME_CRITIC), id="frame-lean"),
    pytest.param(lambda: VideoCritic(PUBLISHED_VIDEO_CRITIC), id="video-published"),
    pytest.param(lambda: VideoCritic(LEAN_VIDEO_CRITIC), id="video-lean"),
]


def clip(batch: int, time: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, time, 3, height, width, generator=generator) * 2 - 1


def weights(critic: nn.Module) -> int:
    return sum(p.numel() for p in critic.parameters())


def test_published_sizes() -> None:
    # counted by hand from the layers of the released code: 0.098 M and 1.119 M
    convolutions = [(3, 16), (16, 32), (32, 64), (64, 128)]
    assert weights(FrameCritic()) == sum(9 * i * o + o for i, o in convolutions) + 129
    deep = [(3, 64), (64, 128), (128, 256), (256, 1)]
    norms = 2 * (64 + 128 + 256)
    assert weights(VideoCritic()) == sum(27 * i * o + o for i, o in deep) + norms == 1_119_361


def test_published_maps_at_128() -> None:
    assert FrameCritic()(clip(1, 2, 128, 128)).shape == (1, 2, 8, 8)
    assert VideoCritic()(clip(1, 11, 128, 128)).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("make", CRITICS)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (72, 80), (33, 47)])
def test_any_window(make: Make, height: int, width: int) -> None:
    critic = make()
    out = critic(clip(2, 9, height, width))
    assert out.shape[:2] == (2, 9 - critic.frames + 1)
    assert out.shape[2:] == tuple(
        -(-side // (16 if len(critic.config.channels) == 4 or critic.frames > 1 else 8))
        for side in (height, width)
    )
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("make", CRITICS)
def test_no_sample_influences_another_in_eval_mode(make: Make) -> None:
    critic = make().eval()
    both = clip(2, 9, 32, 40)
    other = torch.cat([both[:1], clip(1, 9, 32, 40, seed=1)])
    torch.testing.assert_close(critic(both)[:1], critic(other)[:1])
    assert not torch.allclose(critic(both)[1:], critic(other)[1:])


@pytest.mark.parametrize("make", CRITICS)
def test_each_logit_sees_its_own_frames_only(make: Make) -> None:
    critic = make().eval()
    frames = clip(1, 12, 32, 32).requires_grad_()
    critic(frames)[:, 2].abs().sum().backward()
    assert frames.grad is not None
    seen = frames.grad.abs().sum((0, 2, 3, 4)) > 0
    assert seen.nonzero().flatten().tolist() == list(range(2, 2 + critic.frames))


def test_valid_logits_see_no_padding() -> None:
    critic = VideoCritic(VideoCriticConfig(channels=(4, 4), time_kernels=(3, 2, 1), norm="none"))
    valid = torch.arange(9)[None] < torch.tensor([9, 6, 3])[:, None]
    naive = [
        [bool(row[t : t + critic.frames].all()) for t in range(9 - critic.frames + 1)]
        for row in valid
    ]
    assert critic.valid(valid).tolist() == naive
    frames = clip(3, 9, 32, 32)
    padded = torch.where(valid[..., None, None, None], frames, torch.zeros(()))
    keep = critic.valid(valid)
    torch.testing.assert_close(critic(frames)[keep], critic(padded)[keep])


@pytest.mark.parametrize("make", CRITICS)
def test_bfloat16_autocast(make: Make) -> None:
    torch.manual_seed(0)
    critic = make().eval()
    frames = clip(1, 9, 48, 48)
    exact = critic(frames)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = critic(frames)
        critic.train()(frames).sum().backward()
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max() + 0.02
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in critic.parameters())


def test_spectral_norm_is_one_and_eval_does_not_change_it() -> None:
    torch.manual_seed(0)
    critic = VideoCritic(replace(LEAN_VIDEO_CRITIC, spectral=True))
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    frames = clip(1, 7, 32, 32)
    for _ in range(60):
        critic(frames)
    critic.eval()
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    critic(frames)
    for name, value in critic.state_dict().items():
        assert torch.equal(before[name], value), name
    layers = [m for m in critic.modules() if isinstance(m, nn.Conv3d)]
    assert len(layers) == 4
    for layer in layers:
        largest = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]
        assert float(largest) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("make", CRITICS)
def test_learns_to_tell_a_spot_from_noise(make: Make) -> None:
    torch.manual_seed(0)
    critic = make()
    optimizer = torch.optim.Adam(critic.parameters(), 2e-3, (0.5, 0.999))

    def pair(seed: int) -> tuple[Tensor, Tensor]:
        noise = clip(2, critic.frames, 64, 64, seed)
        spot = torch.zeros(64, 64)
        spot[20:30, 30:40] = 1.0  # sparse: instance norm hides mere contrast
        return 0.1 * noise + spot, noise

    for step in range(40):
        real, fake = (critic(frames) for frames in pair(step))
        loss = nn.functional.softplus(-real).mean() + nn.functional.softplus(fake).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real, fake = (critic(frames).mean() for frames in pair(99))
    assert real > fake + 0.1


def test_refuses_what_it_cannot_judge() -> None:
    with pytest.raises(ValueError, match="H, W >= 32"):
        FrameCritic()(clip(1, 1, 31, 64))
    with pytest.raises(ValueError, match="needs 9 frames"):
        VideoCritic()(clip(1, 8, 32, 32))
    with pytest.raises(ValueError, match="need 4 time kernels"):
        VideoCriticConfig(time_kernels=(3, 3))
