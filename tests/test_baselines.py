"""Chung et al. 2017 and Chen et al. 2018: several pictures of a face, deblurring, correlation."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import Cli
from helpers.corpus import draw_batch, write_cache
from talkingface import models, weights
from talkingface.audio import SpeechSpec
from talkingface.contract import Portrait
from talkingface.data.augment import NO_AUGMENTATION
from talkingface.data.dataset import Cache, SampleConfig
from talkingface.models.baselines.chen import (
    Chen,
    ChenConfig,
    Correlation,
    ThreeStreamDiscriminator,
    correlation,
)
from talkingface.models.baselines.chung import Chung, Deblurring
from talkingface.training import loop, presets
from talkingface.training.baselines import (
    ChenRecipe,
    ChenTraining,
    ChungRecipe,
    ChungTraining,
    correlation_loss,
)
from talkingface.training.generator import GeneratorRecipe

EVERY_STEP = loop.LoopOptions(log_every=1, save_every=3, validate_every=100)
SPEECH = SpeechSpec("log_mel", coefficients=8, hops=21, mels=8)
SHAPE = (16, 24)


def chung_training(steps: tuple[int, ...] = (2, 3)) -> ChungTraining:
    row = presets.shortened(presets.BASELINES["chung-tiny"], steps)
    assert isinstance(row, ChungTraining)
    return replace(row, precision="float32")


def chen_training(steps: tuple[int, ...] = (2, 3)) -> ChenTraining:
    row = presets.shortened(presets.BASELINES["chen-tiny"], steps)
    assert isinstance(row, ChenTraining)
    return replace(row, precision="float32")


def make(name: str, cache: Cache) -> GeneratorRecipe[ChungTraining] | GeneratorRecipe[ChenTraining]:
    if name == "chung":
        return ChungRecipe(chung_training(), cache)
    return ChenRecipe(chen_training(), cache)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def copies(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


# --- several pictures of one face -----------------------------------------------------------------


def test_further_pictures_are_of_the_same_clip_and_away_from_the_frames(cache: Cache) -> None:
    clips = [c for c in cache.split("train") if not c.silent]
    sample = SampleConfig(4, 3, silent=0.0, others=4, augment=NO_AUGMENTATION)
    batch = draw_batch(cache, clips, SPEECH, sample, (0, 1))
    assert batch.others.shape == (4, 4, 3, 128, 128) and batch.frames.shape[1] == 3
    for frames, others in zip(batch.frames, batch.others, strict=True):
        (first,) = find(cache, frames[0])
        clip = next(c for c in clips if c.start <= first < c.start + c.frames)
        for other in others:
            rows = find(cache, other)
            assert all(clip.start <= row < clip.start + clip.frames for row in rows)
            assert any(row < first - 6 or row > first + 2 + 6 for row in rows)
    distinct = {tuple(find(cache, other)) for others in batch.others for other in others}
    assert len(distinct) > 4
    alone = draw_batch(cache, clips, SPEECH, replace(sample, others=0), (0, 1))
    assert alone.others.shape == (4, 0, 3, 128, 128)
    assert torch.equal(alone.frames[0], batch.frames[0])


def find(cache: Cache, frame: Tensor) -> list[int]:
    """Return the rows of the cache with this picture."""
    wanted = ((frame.permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
    return [int(row) for row in np.flatnonzero((cache.frames == wanted).all((1, 2, 3)))]


def test_one_picture_is_as_good_as_itself_repeated() -> None:
    model = Chung(models.PRESETS["chung-tiny"]).eval()
    portrait = Portrait(noise(2, 3, 128, 128), noise(2, 68, 2))
    repeated = portrait.image.unsqueeze(1).expand(-1, 4, -1, -1, -1)
    alone, together = model.encode(portrait), model.encode(portrait, repeated)
    assert torch.equal(alone.features, together.features)
    others = model.encode(portrait, noise(2, 4, 3, 128, 128, seed=1))
    assert not torch.allclose(alone.features, others.features)
    assert len(alone.skips) == 2 and all(
        torch.equal(a, b) for a, b in zip(alone.skips, together.skips, strict=True)
    )


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_some_samples_see_one_picture_only(cache: Cache, share: float) -> None:
    recipe = ChungRecipe(replace(chung_training(), same_picture=share), cache)
    batch = recipe.batch(0).to("cpu")
    changed = replace(batch, others=-batch.others)
    losses = []
    for shown in (batch, changed):
        _, _, terms = recipe._generate(shown, recipe.training.stages[0])
        losses.append(float(terms["pixels"].detach()))
    assert (losses[0] == losses[1]) == (share == 1.0)


# --- deblurring -----------------------------------------------------------------------------------


def test_deblurring_begins_by_changing_nothing_and_adds_what_it_finds() -> None:
    module = Deblurring(channels=4, layers=3, shrink=2)
    pictures = 0.5 * torch.tanh(noise(2, 3, 3, 8, 12))
    assert torch.equal(module(pictures), pictures)
    last = module.layers[-1]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    found = torch.linspace(-0.3, 0.3, 12)
    with torch.no_grad():
        last.bias.copy_(found)
    added = module(pictures) - pictures
    for channel in range(3):
        for row in range(8):
            for column in range(12):
                index = channel * 4 + row % 2 * 2 + column % 2
                expected = found[index].expand(2, 3)
                torch.testing.assert_close(
                    added[:, :, channel, row, column], expected, atol=1e-6, rtol=0
                )
    with torch.no_grad():
        last.bias.fill_(5.0)
    assert torch.equal(module(pictures), torch.ones_like(pictures))


def test_each_stage_leaves_the_other_network_alone(cache: Cache) -> None:
    """The other network stays to the bit, the running statistics of its norms included."""
    row = chung_training((1, 3))
    row = replace(row, model=replace(row.model, audio_norm="batch"))
    recipe = ChungRecipe(row, cache)
    network, deblurring = copies(recipe.model.network), copies(recipe.model.deblurring)
    assert list(recipe.step(recipe.batch(0), 0)) == ["pixels"]
    assert same(deblurring, copies(recipe.model.deblurring))
    assert not same(network, copies(recipe.model.network))
    network = copies(recipe.model.network)
    for step in (1, 2, 3):
        assert list(recipe.step(recipe.batch(step), step)) == ["deblurring"]
    assert same(network, copies(recipe.model.network))
    assert not same(deblurring, copies(recipe.model.deblurring))


# --- sizes ----------------------------------------------------------------------------------------


def convolutions(widths: tuple[int, ...], kernels: tuple[int, ...]) -> int:
    """Return the number of weights and biases of convolutions in sequence."""
    pairs = zip(pairwise(widths), kernels, strict=True)
    return sum(a * b * kernel**2 + b for (a, b), kernel in pairs)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_sizes_of_chung() -> None:
    """VGG-M's widths over five stacked pictures, MFCC 12 x 35, ten layers of deblurring."""
    with torch.device("meta"):
        model = Chung(models.PRESETS["chung-paper"])
    network = model.network
    assert parameters(network.image_encoder.layers) == convolutions(
        (15, 96, 256, 512, 512, 512), (7, 5, 3, 3, 3)
    )
    assert parameters(network.image_encoder.projection) == 512 * 4 * 4 * 256 + 256
    sound = convolutions((1, 64, 128, 256, 256, 512), (3,) * 5) + 2 * (64 + 128 + 256 + 256 + 512)
    full = 512 * 9 * 3 * 256 + 256 + 256 * 256 + 256  # 35 x 12, halved twice
    assert parameters(network.audio_encoder) == sound + full
    assert parameters(model.deblurring) == convolutions((3, *[64] * 9, 3), (3,) * 10)
    assert (model.config.speech.hops, model.config.speech.coefficients) == (35, 12)


@pytest.mark.parametrize("name", ["chung", "chen"])
def test_lean_presets_cost_what_cran_costs(name: str) -> None:
    """At most 3 M parameters and 0.15 GMAC per frame with the identity cached."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model: Any = models.build(models.PRESETS[name]).eval()
        spec = model.config.speech
        portrait = Portrait(torch.zeros(1, 3, 128, 128), torch.zeros(1, 68, 2))
        with torch.no_grad():
            identity = model.encode(portrait)
            with FlopCounterMode(display=False) as counter:
                model(identity, torch.zeros(1, 4, spec.hops, spec.coefficients))
    assert 0.5e6 < parameters(model) <= 3e6
    assert 0.05e9 < counter.get_total_flops() / 2 / 4 <= 0.15e9


def test_chen_draws_the_lips_box_and_nothing_else() -> None:
    config: ChenConfig = models.PRESETS["chen-tiny"]
    model = Chen(config).eval()
    portrait = Portrait(noise(1, 3, 128, 128).clamp(-1, 1), noise(1, 68, 2))
    with torch.inference_mode():
        made, _ = model(model.encode(portrait), noise(1, 2, 35, 26))
    changed = (made.frames[0, 1] != portrait.image[0]).any(0)
    top, bottom, left, right = config.mouth_region
    assert changed[top:bottom, left:right].float().mean() > 0.95
    changed[top:bottom, left:right] = False
    assert not changed.any()


# --- sound and motion -----------------------------------------------------------------------------


def test_correlation_against_numpy_and_a_loop() -> None:
    first, second = noise(3, 7, 1), noise(3, 7, 1, seed=1)
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(first[..., 0], second[..., 0], strict=True)]
    np.testing.assert_allclose(correlation(first, second).numpy(), expected, atol=1e-6)
    first, second = noise(2, 5, 3), noise(2, 5, 3, seed=2)
    for sample in range(2):
        product = squares_a = squares_b = 0.0
        for channel in range(3):
            a, b = first[sample, :, channel].tolist(), second[sample, :, channel].tolist()
            middle_a, middle_b = sum(a) / 5, sum(b) / 5
            for x, y in zip(a, b, strict=True):
                product += (x - middle_a) * (y - middle_b)
                squares_a += (x - middle_a) ** 2
                squares_b += (y - middle_b) ** 2
        by_hand = product / math.sqrt(squares_a * squares_b)
        assert correlation(first, second)[sample].item() == pytest.approx(by_hand, abs=1e-6)


def test_an_embedding_that_never_changes_agrees_with_nothing() -> None:
    constant = torch.ones(2, 5, 4)
    assert correlation(constant, constant).abs().max() < 1e-3
    moving = noise(2, 5, 4)
    torch.testing.assert_close(correlation(moving, 3 * moving + 2), torch.ones(2))


def test_correlation_hears_changes_and_sees_motion_alone() -> None:
    torch.manual_seed(0)
    module = Correlation(SPEECH, SHAPE, 2)
    frames, speech = noise(2, 5, 3, *SHAPE), noise(2, 5, 21, 8)
    shifted = module(frames + noise(2, 1, 3, *SHAPE, seed=3), speech + noise(2, 1, 21, 8, seed=4))
    torch.testing.assert_close(shifted, module(frames, speech), atol=1e-4, rtol=0)
    assert (module(frames, speech.flip(1)) - module(frames, speech)).abs().min() > 1e-3


def test_correlation_is_learned_from_lips_that_follow_the_sound() -> None:
    """On unseen pairs, the correlation is high for matching ones only."""
    torch.manual_seed(0)
    module = Correlation(SPEECH, SHAPE, 2)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)

    def pairs(seed: int) -> tuple[Tensor, Tensor]:
        loudness = noise(8, 9, 1, 1, seed=seed)
        picture = noise(3, *SHAPE, seed=1000)
        return loudness.unsqueeze(-1) * picture, loudness.expand(-1, -1, 21, 8)

    nobody = torch.zeros(8, dtype=torch.bool)
    for step in range(30):
        optimizer.zero_grad()
        loss = correlation_loss(module(*pairs(step)), nobody)
        loss.backward()
        optimizer.step()
    frames, speech = pairs(2000)
    with torch.inference_mode():
        own, other = module(frames, speech).mean(), module(frames, speech.roll(1, dims=0)).mean()
    assert own > other + 0.2  # of six seeds the least was 0.67


def test_correlation_loss_leaves_out_who_is_silent() -> None:
    together = torch.tensor([0.5, -0.2, 0.9], requires_grad=True)
    silent = torch.tensor([False, True, False])
    loss = correlation_loss(together, silent)
    assert loss.item() == pytest.approx((0.5 + 0.1) / 2)
    (gradient,) = torch.autograd.grad(loss, together)
    assert gradient.tolist() == [-0.5, 0.0, -0.5]
    assert correlation_loss(together, torch.ones(3, dtype=torch.bool)).item() == 0


# --- three streams --------------------------------------------------------------------------------


def test_the_discriminator_judges_every_stream() -> None:
    torch.manual_seed(0)
    discriminator = ThreeStreamDiscriminator(SPEECH, SHAPE, 2)
    frames, speech = noise(2, 4, 3, *SHAPE), noise(2, 4, 21, 8)
    logits = discriminator(frames, speech)
    assert logits.shape == (2, 3)
    for stream in (discriminator.sound, discriminator.picture, discriminator.motion):
        gradients = torch.autograd.grad(logits.sum(), list(stream.parameters()), retain_graph=True)
        assert all(gradient.abs().max() > 0 for gradient in gradients)
    later = frames.clone()
    later[:, 3] = 0
    changed = (discriminator(later, speech) - logits).abs().amax(0)
    assert changed[:2].max() < 1e-6 and changed[2] > 1e-5


def test_real_lips_that_say_something_else_count_as_much_as_drawn_ones(cache: Cache) -> None:
    recipe = ChenRecipe(chen_training(), cache)
    speech = recipe.model.normalise(recipe.batch(0).speech)
    real, fake = noise(2, 4, 3, 64, 64), noise(2, 4, 3, 64, 64, seed=1)
    discriminator, bce = recipe.three_streams, nn.functional.binary_cross_entropy_with_logits

    def judged(frames: Tensor, sound: Tensor, true: float) -> float:
        logits = discriminator(frames, sound)
        return float(bce(logits, torch.full_like(logits, true)).detach())

    swapped = torch.stack([speech[1], speech[0]])
    wrong = judged(real, swapped, 0.0) + judged(fake, speech, 0.0)
    expected = judged(real, speech, 1.0) + 0.5 * wrong
    loss = recipe._three_stream_loss(real, fake, speech)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


# --- training -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chung", "chen"])
def test_killed_and_resumed_gives_the_same_bits(name: str, cache: Cache, tmp_path: Path) -> None:
    whole, killed, resumed = (make(name, cache) for _ in range(3))
    assert loop.run(whole, tmp_path / "whole", EVERY_STEP) == 5
    assert loop.run(killed, tmp_path / "killed", replace(EVERY_STEP, stop_after=4)) == 4
    assert loop.run(resumed, tmp_path / "killed", EVERY_STEP) == 5
    for module in whole.modules:
        assert same(copies(whole.modules[module]), copies(resumed.modules[module])), module
    texts = [(tmp_path / run / "log.jsonl").read_text() for run in ("whole", "killed")]
    assert texts[0] == texts[1]
    files = [(tmp_path / run / "weights.safetensors").read_bytes() for run in ("whole", "killed")]
    assert files[0] == files[1]
    assert weights.load_with_info(tmp_path / "whole" / "weights.safetensors")[1].family == name


def test_chung_learns(cache: Cache) -> None:
    """Losses fall on one repeated batch; then deblurring improves on the first network."""
    row = chung_training((40, 20))
    stages = tuple(replace(stage, lr=1e-2) for stage in row.stages)
    recipe = ChungRecipe(replace(row, stages=stages, silent=0.0), cache)
    batch = recipe.batch(0)
    losses = [next(iter(recipe.step(batch, step).values())) for step in range(60)]
    # Of six seeds the worst were 0.46 and 0.72.
    assert losses[39] < 0.9 * losses[0]
    assert losses[59] < 0.98 * losses[40]


def test_chen_learns(cache: Cache) -> None:
    row = chen_training((30,))
    stages = (replace(row.stages[0], lr=1e-2),)
    recipe = ChenRecipe(replace(row, stages=stages, silent=0.0), cache)
    batch = recipe.batch(0)
    terms = [recipe.step(batch, step) for step in range(30)]
    # Of six seeds the worst were 0.64 and 0.01.
    assert terms[-1]["pixels"] < 0.95 * terms[0]["pixels"]
    assert terms[-1]["discriminator/correlation"] < 0.8 * terms[0]["discriminator/correlation"]


def test_who_learns_from_which_loss(cache: Cache) -> None:
    """The generator's step changes no discriminator, and the reverse."""
    recipe = ChenRecipe(chen_training((0, 2)), cache)
    drawn, stage = recipe.batch(0), recipe.training.stages[0]
    recipe.step(drawn, 0)  # the last layers begin at nothing for nobody
    batch = drawn.to("cpu")
    before = {name: copies(module) for name, module in recipe.modules.items()}
    made, real, _ = recipe._generate(batch, stage)
    assert made is not None
    terms = recipe._discriminators(batch, made, real, stage)
    assert sorted(terms) == ["discriminator/adversary", "discriminator/correlation"]
    assert same(before["model"], copies(recipe.model))
    for discriminator in ("correlation", "three_streams"):
        assert not same(before[discriminator], copies(recipe.modules[discriminator])), discriminator


@pytest.mark.parametrize("left_out", ["correlation", "adversary"])
def test_losses_of_chen_can_be_left_out(cache: Cache, left_out: str) -> None:
    row = presets.choose(presets.BASELINES, "chen-tiny", "0,1", [left_out], [])
    assert isinstance(row, ChenTraining)
    recipe = ChenRecipe(row, cache)
    terms = recipe.step(recipe.batch(0), 0)
    assert not any(left_out in name for name in terms) and "pixels" in terms
    assert all(math.isfinite(value) for value in terms.values())


@pytest.mark.parametrize("name", ["chung", "chen"])
def test_the_command_trains_and_goes_on(name: str, cli: Cli, tmp_path: Path) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    write_cache(corpus)
    words = ("train", "baseline", corpus, "-o", run, "--preset", f"{name}-tiny", "--steps", "1,1")
    first = cli(*words, "--minutes", 0, "--device", "cpu")
    assert first.code == 0 and "1 of 2 steps" in first.out, first
    second = cli(*words, "--device", "cpu")
    assert second.code == 0 and "2 of 2 steps" in second.out, second
    assert weights.load_with_info(run / "weights.safetensors")[1].family == name
    wrong = cli("train", "baseline", corpus, "-o", run, "--preset", "chun")
    assert wrong.code == 2 and "no preset is called 'chun'" in wrong.err
