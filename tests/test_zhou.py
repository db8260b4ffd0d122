"""Zhou et al. 2019: one space for sound and mouths, and which modules a loss trains."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.corpus import draw_batch, write_cache
from talkingface import models, weights
from talkingface.contract import Portrait
from talkingface.data.dataset import Batch, Cache, SampleConfig, speakers_of
from talkingface.models.baselines.zhou import MouthEncoder, WordClassifier, Zhou
from talkingface.training import loop, presets
from talkingface.training.loop import LoopOptions
from talkingface.training.zhou import (
    Disentangled,
    ZhouRecipe,
    ZhouTraining,
    confusion_loss,
    contrastive_loss,
)

TINY = models.PRESETS["zhou-tiny"]
EVERY_STEP = LoopOptions(log_every=1, save_every=3, validate_every=100)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache of two speakers, for the speaker classifier."""
    cache = write_cache(tmp_path_factory.mktemp("cache"))
    cache.clips = [replace(c, split="train") if c.speaker == "s4" else c for c in cache.clips]
    return cache


def training() -> ZhouTraining:
    row = presets.shortened(presets.BASELINES["zhou-tiny"], (2, 3))
    assert isinstance(row, ZhouTraining)
    return replace(row, precision="float32")


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(shape, generator=generator), dim=-1)


# --- losses ---------------------------------------------------------------------------------------


def test_confusion_is_least_where_nothing_is_told() -> None:
    logits = torch.full((5, 7), 0.3, requires_grad=True)
    everyone = torch.ones(5, dtype=torch.bool)
    loss = confusion_loss(logits, everyone)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(7), abs=1e-6)
    assert logits.grad is not None and logits.grad.abs().max() < 1e-7
    logits = torch.zeros(1, 2)
    logits[0, 0] = math.log(3)  # p = 3/4, 1/4
    expected = -(math.log(0.75) + math.log(0.25)) / 2
    assert confusion_loss(logits, torch.ones(1, dtype=torch.bool)).item() == pytest.approx(expected)


def test_confusion_leaves_out_whom_nobody_knows() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    known = torch.tensor([True, False, True, False])
    loss = confusion_loss(logits, known)
    assert torch.allclose(loss, confusion_loss(logits[known], known[known]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[~known].abs().max() == 0 and gradient[known].abs().min() > 0
    nobody = torch.zeros(4, dtype=torch.bool)
    assert confusion_loss(logits, nobody).item() == 0


@pytest.mark.parametrize("margin", [0.7, 1.5])
def test_contrastive_loss_is_that_of_a_loop(margin: float) -> None:
    audio, seen = unit(3, 5, 4), unit(3, 5, 4, seed=1)
    counted, apart = torch.tensor([True, False, True]), 2
    same, other = [], []
    for a in range(3):
        for b in range(3):
            if not (counted[a] and counted[b]):
                continue
            for t in range(5):
                for u in range(5):
                    distance = math.dist(audio[a, t].tolist(), seen[b, u].tolist())
                    if a == b and t == u:
                        same.append(distance**2)
                    elif a != b or abs(t - u) >= apart:
                        other.append(max(0.0, margin - distance) ** 2)
    expected = sum(same) / len(same) + sum(other) / len(other)
    loss = contrastive_loss(audio, seen, counted, margin, apart)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert contrastive_loss(audio, seen, counted, margin, apart).item() == loss.item()
    nothing = contrastive_loss(audio, seen, torch.zeros(3, dtype=torch.bool))
    assert nothing.item() == 0


def test_contrastive_loss_has_a_gradient_where_sound_and_mouth_agree() -> None:
    audio = unit(2, 3, 4).requires_grad_()
    contrastive_loss(audio, audio.detach().clone(), margin=2.5).backward()
    assert audio.grad is not None and audio.grad.isfinite().all()
    assert audio.grad.abs().max() > 0


# --- the networks ---------------------------------------------------------------------------------


def test_the_decoder_sees_one_map_of_the_face() -> None:
    """Check by gradients: of E_p, only the feature and one skip reach a frame."""
    torch.manual_seed(0)
    for skip in (0, 2):
        model = Zhou(replace(TINY, skip=skip)).eval()
        identity = model.encode(Portrait(torch.rand(1, 3, 128, 128), torch.rand(1, 68, 2)))
        assert identity.skip.shape[-2:] == (36 // 2**skip, 40 // 2**skip)
        made = model.draw_region(identity, unit(1, 2, TINY.speech_features))
        assert made.colour is not None
        found = torch.autograd.grad(made.colour.sum(), (identity.features, identity.skip))
        assert all(gradient.abs().max() > 0 for gradient in found)


def test_sound_and_mouths_are_in_one_space() -> None:
    torch.manual_seed(0)
    mouth = training().mouth
    seeing = MouthEncoder(mouth, (4, 4), TINY.speech_features).eval()
    seen = seeing(torch.rand(2, 3, mouth.channels, mouth.height, mouth.width))
    audio = Zhou(TINY).encode_speech(torch.randn(2, 3, TINY.speech.hops, TINY.speech.coefficients))
    assert seen.shape == audio.shape
    for features in (seen, audio):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(2, 3))
    # one mouth at a time: a frame's features are those of the frame alone
    mouths = torch.rand(1, 4, mouth.channels, mouth.height, mouth.width)
    torch.testing.assert_close(seeing(mouths)[:, 2:3], seeing(mouths[:, 2:3]))


def test_a_word_is_read_off_its_own_frames_in_their_order() -> None:
    torch.manual_seed(0)
    classifier = WordClassifier(4, 8, 6)
    content, spans = unit(2, 9, 4).requires_grad_(), torch.tensor([[2, 6], [0, 9]])
    logits = classifier(content, spans)
    (gradient,) = torch.autograd.grad(logits[0].square().sum(), content)
    reached = gradient[0].abs().amax(-1) > 0
    assert reached.tolist() == [2 <= t < 6 for t in range(9)]
    assert gradient[1].abs().max() == 0
    cut = classifier(content[:1, 2:6], torch.tensor([[0, 4]]))
    torch.testing.assert_close(cut, logits[:1])
    backwards = classifier(content[:1, 2:6].flip(1), torch.tensor([[0, 4]]))
    assert (backwards - cut).abs().max() > 1e-3


def test_lean_preset_is_lean() -> None:
    """At most 3 M parameters, and about CRAN's work per frame with the identity cached."""
    from torch.utils.flop_counter import FlopCounterMode

    model = Zhou(models.PRESETS["zhou"]).eval()
    assert sum(p.numel() for p in model.parameters()) <= 3e6
    spec = model.config.speech
    with torch.no_grad():
        identity = model.encode(Portrait(torch.zeros(1, 3, 128, 128), torch.zeros(1, 68, 2)))
        with FlopCounterMode(display=False) as counter:
            model(identity, torch.zeros(1, 4, spec.hops, spec.coefficients))
    assert counter.get_total_flops() / 2 / 4 <= 0.18e9


# --- batches --------------------------------------------------------------------------------------


def test_batches_say_who_speaks(cache: Cache) -> None:
    clips = cache.split("train")
    assert speakers_of(clips) == ("s1", "s4")
    config = SampleConfig(batch=24, frames=4, balance=0.0, silent=0.3, reenacted=0.0)
    batch = draw_batch(cache, clips, TINY.speech, config, (0, 1))
    assert {0, 1} <= set(batch.speaker.tolist())
    assert torch.equal(batch.speaker == -1, batch.silent)
    only = draw_batch(cache, cache.split("unseen"), TINY.speech, config, (0, 1))
    assert set(only.speaker.tolist()) == {0}  # only s26 is left there
    assert batch.speaker.dtype == torch.long


# --- who learns from what -------------------------------------------------------------------------


class Gradients:
    """Return the parts of a recipe that a loss reaches."""

    def __init__(self, recipe: ZhouRecipe, loss: Tensor) -> None:
        for module in recipe.modules.values():
            module.zero_grad(set_to_none=True)
        loss.backward(retain_graph=True)
        parts = {name: module for name, module in recipe.modules.items() if name != "ema"}
        parts |= dict(parts.pop("model").named_children())
        self.reached = {
            name
            for name, module in parts.items()
            if any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())
        }


FACE = {"image_encoder"}
HEARING, SEEING = {"speech_encoder"}, {"mouth_encoder"}
DECODER = {"decoder"}


@pytest.fixture
def drawn(cache: Cache) -> tuple[ZhouRecipe, Batch, Disentangled, dict[str, Tensor]]:
    recipe = ZhouRecipe(training(), cache)
    # everyone known, every word known
    batch = recipe.batch(3).to("cpu")
    batch = replace(
        batch,
        speaker=torch.tensor([0, 1]),
        word=torch.tensor([3, 7]),
        span=torch.tensor([[1, 6], [2, 8]]),
        silent=torch.zeros(2, dtype=torch.bool),
    )
    stage, _ = recipe.stage(3)
    assert "image" in stage.weights
    with torch.random.fork_rng():
        made, _, terms = recipe._generate(batch, stage)
    assert isinstance(made, Disentangled)
    return recipe, batch, made, terms


def test_who_learns_from_which_loss(
    drawn: tuple[ZhouRecipe, Batch, Disentangled, dict[str, Tensor]],
) -> None:
    recipe, _, _, terms = drawn
    reached = {name: Gradients(recipe, loss).reached for name, loss in terms.items()}
    assert reached["pixels"] == FACE | HEARING | DECODER
    assert reached["pixels_from_video"] == FACE | SEEING | DECODER
    assert reached["contrastive"] == HEARING | SEEING
    assert reached["word"] == HEARING | SEEING | {"word_classifier"}


def test_the_classifiers_are_confused_and_do_not_help(
    drawn: tuple[ZhouRecipe, Batch, Disentangled, dict[str, Tensor]],
) -> None:
    """Confusion trains encoders and never a classifier; a classifier's own loss the reverse."""
    recipe, batch, made, _ = drawn
    stage, _ = recipe.stage(3)
    with torch.random.fork_rng():
        terms = _adversarial(recipe, batch, made)
    assert Gradients(recipe, terms["confusion"]).reached == FACE | HEARING | SEEING
    before = {n: _numbers(m) for n, m in recipe.modules.items()}
    real = recipe.model.mouth_region.crop(batch.frames)
    named = set(recipe._discriminators(batch, made, real, stage))
    assert named == {
        "discriminator/image",
        "discriminator/video",
        "discriminator/speaker",
        "discriminator/face_word",
    }
    changed = {n for n, m in recipe.modules.items() if not torch.equal(before[n], _numbers(m))}
    classifiers = {"speaker_classifier", "face_word_classifier"}
    assert changed == {"image_discriminator", "video_discriminator"} | classifiers
    # only the speaker classifier's answer about what is said, only the word's about a face
    silent = replace(batch, word=torch.tensor([-1, -1]))
    said = _adversarial(recipe, silent, made)["confusion"]
    assert Gradients(recipe, said).reached == HEARING | SEEING
    unknown = replace(batch, speaker=torch.tensor([-1, -1]))
    face = _adversarial(recipe, unknown, made)["confusion"]
    assert Gradients(recipe, face).reached == FACE


def _adversarial(recipe: ZhouRecipe, batch: Batch, made: Disentangled) -> dict[str, Tensor]:
    from talkingface.training.generator import _frozen

    stage, _ = recipe.stage(3)
    with _frozen(*recipe.discriminators.values()):
        return recipe._adversarial_terms(batch, made, stage)


def _numbers(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def test_partners_learn_with_the_generator_at_its_rate(cache: Cache) -> None:
    recipe = ZhouRecipe(
        replace(training(), stages=(replace(training().stages[1], discriminator_rate=5.0),)), cache
    )
    before = {name: _numbers(module) for name, module in recipe.modules.items()}
    recipe.step(recipe.batch(0), 0)
    for name in ("model", "mouth_encoder", "word_classifier", "speaker_classifier"):
        assert not torch.equal(before[name], _numbers(recipe.modules[name])), name
    rates = {name: o.param_groups[0]["lr"] for name, o in recipe.optimizers.items()}
    assert rates["mouth_encoder"] == rates["word_classifier"] == rates["model"]
    assert rates["speaker_classifier"] == 5 * rates["model"]


# --- training -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_bits(cache: Cache, tmp_path: Path) -> None:
    whole, killed, resumed = (ZhouRecipe(training(), cache) for _ in range(3))
    assert loop.run(whole, tmp_path / "whole", EVERY_STEP) == 5
    assert loop.run(killed, tmp_path / "killed", replace(EVERY_STEP, stop_after=4)) == 4
    assert loop.run(resumed, tmp_path / "killed", EVERY_STEP) == 5
    for name, module in whole.modules.items():
        assert torch.equal(_numbers(module), _numbers(resumed.modules[name])), name
    for run in ("whole", "killed"):
        assert (tmp_path / run / "log.jsonl").exists()
    logs = [(tmp_path / run / "log.jsonl").read_text() for run in ("whole", "killed")]
    assert logs[0] == logs[1]
    files = [(tmp_path / run / "weights.safetensors").read_bytes() for run in ("whole", "killed")]
    assert files[0] == files[1]
    exported, info = weights.load_with_info(tmp_path / "whole" / "weights.safetensors")
    assert info.family == "zhou" and isinstance(exported, Zhou)


def test_it_learns(cache: Cache) -> None:
    """All losses fall on one repeated batch: frames from sound and mouths, words, speakers."""
    stage = replace(training().stages[0], steps=20, lr=1e-2)
    recipe = ZhouRecipe(replace(training(), stages=(stage,), silent=0.0), cache)
    batch = recipe.batch(0)
    terms = [recipe.step(batch, step) for step in range(20)]
    for name in ("pixels", "pixels_from_video", "contrastive", "word", "discriminator/speaker"):
        assert terms[-1][name] < 0.9 * terms[0][name], name  # of six seeds at most 0.36


@pytest.mark.parametrize(
    "left_out", ["pixels_from_video", "contrastive", "word", "confusion", "image", "video"]
)
def test_every_loss_can_be_left_out(cache: Cache, left_out: str) -> None:
    row = presets.choose(presets.BASELINES, "zhou-tiny", "1,1", [left_out], [])
    assert isinstance(row, ZhouTraining)
    recipe = ZhouRecipe(row, cache)
    terms = recipe.step(recipe.batch(1), 1)
    assert left_out not in terms and "pixels" in terms
    assert all(math.isfinite(value) for value in terms.values())


def test_a_stage_without_pixels_draws_nothing(cache: Cache) -> None:
    """Only the shared space is trained: face encoder and decoder do not change."""
    stage = replace(training().stages[0], weights={"contrastive": 1.0, "word": 0.3})
    recipe = ZhouRecipe(replace(training(), stages=(stage,)), cache)
    parts = dict(recipe.model.named_children())
    before = {name: _numbers(part) for name, part in parts.items() if list(part.parameters())}
    terms = recipe.step(recipe.batch(0), 0)
    assert set(terms) == {"contrastive", "word"}
    changed = {n for n, old in before.items() if not torch.equal(old, _numbers(parts[n]))}
    assert changed == HEARING


def test_published_sizes() -> None:
    """256 + 256 features, 12 x 20 MFCC, the decoder from 4 x 4 x 512, on the meta device."""
    with torch.device("meta"):
        model = Zhou(models.PRESETS["zhou-paper"])
    spec = model.config.speech
    assert (spec.kind, spec.coefficients, spec.hops) == ("mfcc", 12, 20)
    assert model.decoder.initial_map.in_features == 256 + 256
    assert model.decoder.initial_map.out_features == 512 * 4 * 4
    assert len(model.decoder.ups) == 5
