"""Identity: an embedding invariant to light and background, its cosines, its training."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

import talkingface
from conftest import EXAMPLES, Cli
from helpers.corpus import write_cache
from talkingface import video, weights
from talkingface.data.augment import NO_AUGMENTATION
from talkingface.data.dataset import Cache
from talkingface.errors import BadShard
from talkingface.landmarks import LIPS
from talkingface.metrics.identity import embed, likeness, similarity, verification
from talkingface.models.measures.identity import FaceEmbedding, IdentityConfig, face_mask
from talkingface.training import loop, presets
from talkingface.training.identity import (
    APART,
    IdentityRecipe,
    Person,
    ViewAugment,
    blend,
    changed,
    two_pictures,
    verified,
)
from talkingface.types import Frames

SIZE = 128
TINY = presets.IDENTITY["tiny"]
PLAIN = ViewAugment(NO_AUGMENTATION, blur=0, small=1, noise=0, quality=100, hidden=0)


@pytest.fixture(scope="module")
def network() -> FaceEmbedding:
    torch.manual_seed(0)
    return FaceEmbedding(IdentityConfig(side=32, channels=(8, 8), features=12)).eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 1.2 - 0.6


def rough(seed: int) -> Frames:
    coarse = np.random.default_rng(seed).uniform(40, 215, (16, 16, 3)).astype(np.float32)
    fine = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.rint(fine), 0, 255).astype(np.uint8)


def test_only_the_face_is_seen(network: FaceEmbedding) -> None:
    pictures = noise(1, 3, SIZE, SIZE).requires_grad_()
    network(pictures)[0, 0].backward()
    assert pictures.grad is not None
    seen = pictures.grad.abs().sum((0, 1)) > 0
    face, outside = seen[40:116, 30:98], torch.cat([seen[:, :10], seen[:, -10:]], dim=1)
    assert face.float().mean() > 0.99 and not outside.any()
    assert not seen[0, 0] and not seen[-1, -1]  # the corners: hair, clothes


def test_the_window_is_the_ellipse_it_says() -> None:
    window = face_mask(200)
    middle, across, down = (0.54 * 200, 0.5 * 200), 0.40 * 200, 0.50 * 200
    for row, column in [(108, 100), (60, 100), (108, 45), (20, 100), (108, 24), (190, 40)]:
        radius = math.hypot((column + 0.5 - middle[1]) / across, (row + 0.5 - middle[0]) / down)
        part = min(max((1 - radius) / 0.25, 0), 1)
        assert float(window[row, column]) == pytest.approx(part**2 * (3 - 2 * part), abs=1e-5)


def test_light_and_white_balance_change_nothing(network: FaceEmbedding) -> None:
    pictures = video.to_tensor(np.stack([rough(n) for n in range(3)])) * 0.6
    gain = torch.tensor([1.5, 0.7, 0.4])[:, None, None]
    lit = pictures * gain + torch.tensor([0.1, -0.2, 0.3])[:, None, None]
    torch.testing.assert_close(network(lit), network(pictures), atol=1e-4, rtol=1e-4)


def test_directions_of_length_one_without_neighbours(network: FaceEmbedding) -> None:
    pictures = noise(4, 3, SIZE, SIZE)
    out = network(pictures)
    torch.testing.assert_close(out.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(out[1:2], network(pictures[1:2]), atol=1e-5, rtol=1e-4)
    assert torch.isfinite(network(torch.zeros(1, 3, SIZE, SIZE))).all()


def test_any_size_is_brought_to_the_networks(network: FaceEmbedding) -> None:
    small = noise(2, 3, 32, 32)
    large = small.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    torch.testing.assert_close(network(large), network(small), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match=r"\(2, 1, 32, 32\)"):
        network(small[:, :1])


def angles(pictures: Tensor) -> Tensor:
    """A hand-made embedding: the first pixel's red level, in degrees."""
    degrees = (pictures[:, 0, 0, 0] + 1) * 127.5
    radians = degrees * math.pi / 180
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def clip_of(*degrees: int) -> Frames:
    frames = np.zeros((len(degrees), 8, 8, 3), np.uint8)
    frames[:, 0, 0, 0] = degrees
    return frames


def test_cosines_with_the_picture_in_closed_form() -> None:
    picture = clip_of(20)[0]
    frames = clip_of(20, 80, 110, 140, 200)
    wanted = [1.0, 0.5, 0.0, -0.5, -1.0]
    np.testing.assert_allclose(likeness(angles, frames, picture, every=1), wanted, atol=1e-6)
    np.testing.assert_allclose(likeness(angles, frames, picture, every=2), wanted[::2], atol=1e-6)
    assert similarity(angles, frames, picture, every=4) == pytest.approx(0, abs=1e-6)
    assert similarity(angles, frames[:4], picture, every=3) == pytest.approx(0.25, abs=1e-6)
    with pytest.raises(ValueError, match=r"\(0, 8, 8, 3\)"):
        embed(angles, frames[:0])


def test_long_clips_are_embedded_in_parts() -> None:
    degrees = [int(n) for n in np.random.default_rng(0).integers(0, 256, 150)]
    out = embed(angles, clip_of(*degrees))
    np.testing.assert_allclose(out[:, 0], np.cos(np.deg2rad(degrees)), atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_verification_equals_naive_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    same = np.round(rng.normal(1, 1, 40), 1)  # rounded: there are ties
    different = np.round(rng.normal(0, 1, 70), 1)
    wins = sum((s > d) + 0.5 * (s == d) for s in same for d in different)
    shares = []
    for threshold in sorted({*same.tolist(), *different.tolist(), math.inf}):
        refused = sum(s < threshold for s in same) / 40
        accepted = sum(d >= threshold for d in different) / 70
        shares.append((abs(refused - accepted), (refused + accepted) / 2))
    auc, eer = verification(same, different)
    assert auc == pytest.approx(wins / 40 / 70)
    closest = min(shares)[0]
    assert any(eer == pytest.approx(e) for gap, e in shares if gap == pytest.approx(closest))


def test_verification_in_closed_form() -> None:
    apart = np.array([0.9, 0.8]), np.array([0.1, 0.2, 0.3])
    assert verification(*apart) == (1.0, 0.0)
    assert verification(*apart[::-1]) == (0.0, 1.0)
    # one of four refused, one of four accepted
    assert verification(np.array([5, 6, 7, 2]), np.array([1, 0, 1, 5.5]))[1] == 0.25
    assert all(math.isnan(value) for value in verification(np.array([]), np.ones(3)))


def test_a_pair_is_of_two_clips_or_two_times_or_two_mouths(cache: Cache) -> None:
    rng = np.random.default_rng(0)
    clips = tuple(c for c in cache.split("train") if not c.silent)
    for _ in range(20):
        pair = two_pictures(cache, Person("s1", clips), rng)
        places = [int((cache.frames == picture).all((1, 2, 3)).argmax()) for picture in pair]
        owners = [c.key for p in places for c in clips if c.start <= p < c.start + c.frames]
        assert len(set(owners)) == 2
    alone = clips[2]
    for _ in range(20):
        pair = two_pictures(cache, Person("s1", (alone,)), rng)
        own = cache.frames[alone.start : alone.start + alone.frames]
        found = [np.flatnonzero((own == picture).all((1, 2, 3))) for picture in pair]
        assert min(abs(a - b) for a in found[0] for b in found[1]) >= APART or len(found[0]) > 1
    pictures = np.stack([rough(n) for n in range(3)])
    for _ in range(10):
        pair = two_pictures(cache, Person("p", pictures=pictures), rng)
        assert not np.array_equal(pair[0], pair[1])
    one = two_pictures(cache, Person("p", pictures=pictures[:1]), rng)
    assert np.array_equal(one[0], one[1])


def test_a_portrait_moves_its_mouth_and_nothing_else(cache: Cache) -> None:
    recipe = IdentityRecipe(replace(TINY, moved=5), cache)
    pictures = recipe.people[-1].pictures
    assert pictures is not None and len(pictures) == 6
    lips = cache.landmarks[0, LIPS] * SIZE
    top = int(lips[:, 1].min()) - 20
    moved = np.abs(pictures[1:].astype(int) - pictures[0])
    assert moved[:, :40].max() == 0 and moved[:, top:].max((1, 2, 3)).max() > 20
    assert [person.name for person in recipe.held_out] == ["s26", "s4"]


def test_changes_can_be_switched_off_and_repeat() -> None:
    picture = rough(1)
    np.testing.assert_array_equal(changed(picture, PLAIN, np.random.default_rng(0)), picture)
    every = replace(ViewAugment(), often=1.0)
    first, again = (changed(picture, every, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    for part in ("blur", "small", "noise", "quality", "hidden"):
        only = replace(PLAIN, often=1.0, **{part: getattr(ViewAugment(), part)})
        made = changed(picture, only, np.random.default_rng(2)).astype(int)
        assert np.abs(made - picture).max() > 1, part
    np.testing.assert_array_equal(picture, rough(1))  # none of it in place


def test_a_blend_is_the_weighted_mean() -> None:
    first, second = rough(1), rough(2)
    for part in (0.0, 0.25, 1.0):
        wanted = (1 - part) * first.astype(float) + part * second
        np.testing.assert_allclose(blend(first, second, part), wanted, atol=0.51)


def eight_people(recipe: IdentityRecipe) -> list[Person]:
    """Return random faces, each with some noise."""
    rng = np.random.default_rng(0)
    people = []
    for seed in range(8):
        grain = rng.normal(0, 15, (4, SIZE, SIZE, 3))
        seen = np.clip(np.rint(rough(seed) + grain), 0, 255).astype(np.uint8)
        people.append(Person(f"p{seed}", pictures=seen))
    return [*recipe.people[:1], *people]


def test_batches_repeat_and_hold_a_person_once(cache: Cache) -> None:
    training = replace(TINY, people=5, speaking=0.2, augment=PLAIN, blended=0, mirrored=0)
    recipe = IdentityRecipe(training, cache)
    recipe.people = eight_people(recipe)
    assert torch.equal(recipe.batch(3).first, recipe.batch(3).first)
    assert not torch.equal(recipe.batch(3).first, recipe.batch(4).first)
    counts = np.zeros(9, int)
    for step in range(60):
        chosen = recipe._chosen(np.random.default_rng(step))
        assert len(set(chosen)) == 5 and chosen[0] == 0
        counts[chosen] += 1
    assert counts[0] == 60 and counts[1:].min() >= 15  # 30 each, were it dealt out
    recipe.people = recipe.people[1:]
    assert len(set(recipe._chosen(np.random.default_rng(0)))) == 5


def test_learns_whose_face_it_is(cache: Cache) -> None:
    """The loss falls on one repeated batch; unseen people are separated better than by chance."""
    training = replace(TINY, steps=30, people=9, rate=0.01, blended=0.0)
    recipe = IdentityRecipe(training, cache)
    recipe.people = eight_people(recipe)
    batch = recipe.batch(0)
    losses = [recipe.step(batch, step)["loss"] for step in range(30)]
    assert losses[-1] < 0.5 * losses[0]  # of ten seeds at most 0.003
    others = [Person(str(n), pictures=np.stack([rough(n)] * 2)) for n in range(20, 32)]
    light = replace(ViewAugment(), faces=replace(NO_AUGMENTATION, light=1.0, colour=1.0))
    assert verified(recipe.network, cache, others, light)["auc"] > 0.6  # of ten seeds at least 0.78
    assert recipe.network.training


def state_of(recipe: IdentityRecipe) -> dict[str, Tensor]:
    """Return every number of the network and of its optimiser."""
    slots = recipe.optimizers["identity"].state_dict()["state"]
    moments = {f"{i}/{k}": torch.as_tensor(v) for i, row in slots.items() for k, v in row.items()}
    return {**recipe.network.state_dict(), **moments}


def test_killed_and_resumed_gives_the_same_bits(cache: Cache, tmp_path: Path) -> None:
    options = loop.LoopOptions(log_every=1, save_every=2, validate_every=3)
    whole, killed, resumed = (IdentityRecipe(TINY, cache) for _ in range(3))
    assert loop.run(whole, tmp_path / "whole", options) == 6
    assert loop.run(killed, tmp_path / "killed", replace(options, stop_after=5)) == 5
    assert loop.run(resumed, tmp_path / "killed", options) == 6
    first, second = state_of(whole), state_of(resumed)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    files = [(tmp_path / n / "weights.safetensors").read_bytes() for n in ("whole", "killed")]
    assert files[0] == files[1]
    rows = [json.loads(row) for row in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert {"valid/auc", "valid/eer"} <= set().union(*rows)


def test_the_file_says_what_it_learned_from(cache: Cache, tmp_path: Path) -> None:
    recipe = IdentityRecipe(TINY, cache)
    path = tmp_path / "weights.safetensors"
    recipe.export(path, 3, {"auc": 0.75})
    loaded, info = weights.load_with_info(path)
    assert loaded.config == TINY.model and info.family == "identity"
    wanted = r"6 clips of 1 speakers \(s1\); 1 synthetic portraits .*, 1 of them with moved mouths"
    assert re.search(wanted, info.training_data)
    assert info.metrics == {"auc": 0.75} and info.extra == {"steps": 3, "seed": 0}
    assert "CC BY 4.0" in info.licence
    pictures = noise(2, 3, SIZE, SIZE)
    torch.testing.assert_close(
        loaded(pictures), recipe.network.eval()(pictures), atol=0.02, rtol=0.02
    )


def test_one_person_alone_is_refused(cache: Cache, tmp_path: Path) -> None:
    alone = write_cache(tmp_path / "alone")
    alone.clips = [c for c in alone.clips if not c.silent]
    with pytest.raises(BadShard, match=r"1 people .* --portraits"):
        IdentityRecipe(TINY, alone)


def test_the_command_trains_and_goes_on(cli: Cli, tmp_path: Path) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    write_cache(corpus)
    first = cli("train", "identity", corpus, "-o", run, "--preset", "tiny", "--minutes", 0)
    assert first.code == 0 and "1 of 6 steps" in first.out, first
    second = cli("train", "identity", corpus, "-o", run, "--preset", "tiny")
    assert second.code == 0 and "6 of 6 steps" in second.out, second
    assert weights.load_with_info(run / "weights.safetensors")[1].family == "identity"
    wrong = cli("train", "identity", corpus, "-o", run, "--preset", "huge")
    assert wrong.code == 2 and "no preset is called 'huge'" in wrong.err


def test_the_shipped_weights_know_a_face_in_photographs(portrait: Path) -> None:
    network, info = weights.load_with_info("identity")
    assert info.path is not None and info.path.stat().st_size <= 1_500_000
    assert info.metrics["auc"] > 0.99 and info.metrics["eer"] < 0.03
    own, other = (
        np.asarray(talkingface.align(path).crop) for path in (portrait, EXAMPLES / "man.jpg")
    )
    for picture in (own, other):
        soft = cv2.GaussianBlur(picture, (0, 0), 2)
        yellow = np.rint(picture * np.array([1, 0.8, 0.6])).astype(np.uint8)
        assert likeness(network, np.stack([picture, soft, yellow]), picture, every=1).min() > 0.9
    steps = np.stack([blend(own, other, part) for part in (0, 0.25, 0.5, 0.75, 1)])
    for walk, picture in ((steps, own), (steps[::-1], other)):
        cosines = likeness(network, walk, picture, every=1)
        assert (np.diff(cosines) < 0).all() and cosines[0] > 0.99 and cosines[-1] < 0.7
