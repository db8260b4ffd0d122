"""Synchrony: contrastive loss, windows of picture and sound, their offsets, training."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import talkingface
from conftest import Cli
from helpers.corpus import write_cache
from talkingface import audio, video, weights
from talkingface.audio import SAMPLES_PER_FRAME, windows
from talkingface.data.augment import NO_AUGMENTATION
from talkingface.data.dataset import Cache
from talkingface.errors import BadShard
from talkingface.geometry import CropSpec
from talkingface.losses import info_nce
from talkingface.metrics import sync as metric
from talkingface.models.lipreader import MouthSpec, mouth_crops
from talkingface.models.measures.sync import SyncConfig, SyncNet, mouth_windows, smooth
from talkingface.training import loop, presets
from talkingface.training.sync import (
    SyncBatch,
    SyncRecipe,
    SyncTraining,
    accuracy,
    cut_windows,
    schedule,
    window_places,
)
from talkingface.types import Array

TINY = presets.SYNC["sync-tiny"]
AROUND = 2


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def points(*shape: int, seed: int = 0) -> Array:
    """Return random embeddings of length 1."""
    values = np.random.default_rng(seed).standard_normal(shape)
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True))


# --- the loss -------------------------------------------------------------------------------------


def test_info_nce_is_a_naive_loop() -> None:
    first, second, temperature = noise(5, 7), noise(5, 7, seed=1), 0.3
    ignored = torch.zeros(5, 5, dtype=torch.bool)
    ignored[0, 3] = ignored[4, 1] = ignored[2, 2] = True  # a pair itself always counts
    expected = 0.0
    for own, other, off in ((first, second, ignored), (second, first, ignored.T)):
        for i in range(5):
            cosines = [float(own[i] @ x / own[i].norm() / x.norm()) for x in other]
            counted = [c for j, c in enumerate(cosines) if j == i or not off[i, j]]
            everyone = sum(math.exp(c / temperature) for c in counted)
            expected -= (cosines[i] / temperature - math.log(everyone)) / 10
    assert float(info_nce(first, second, temperature, ignored)) == pytest.approx(expected, rel=1e-5)


def test_info_nce_in_closed_form() -> None:
    apart = torch.eye(6) * 3  # lengths do not count
    expected = math.log(1 + 5 * math.exp(-1 / 0.2))
    assert float(info_nce(apart, apart, 0.2)) == pytest.approx(expected, rel=1e-5)
    alike = torch.ones(6, 4)
    assert float(info_nce(alike, alike)) == pytest.approx(math.log(6), rel=1e-5)
    nobody = torch.ones(6, 6, dtype=torch.bool)
    assert float(info_nce(alike, alike, ignored=nobody)) == pytest.approx(0.0, abs=1e-6)
    assert float(info_nce(torch.zeros(0, 4), torch.zeros(0, 4))) == 0.0


def test_info_nce_teaches_both_sides_and_the_temperature() -> None:
    first, second = noise(4, 3).requires_grad_(), noise(4, 3, seed=1).requires_grad_()
    temperature = torch.tensor(0.5, requires_grad=True)
    ignored = torch.eye(4, dtype=torch.bool).roll(1, 0)
    info_nce(first, second, temperature, ignored).backward()
    for given in (first, second, temperature):
        assert given.grad is not None and bool(torch.isfinite(given.grad).all())
        assert float(given.grad.abs().sum()) > 0


def test_info_nce_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match="two sides"):
        info_nce(noise(4, 3), noise(5, 3))
    with pytest.raises(ValueError, match="ignored"):
        info_nce(noise(4, 3), noise(4, 3), ignored=torch.zeros(4, dtype=torch.bool))


# --- offsets from embeddings ----------------------------------------------------------------------


@pytest.mark.parametrize("late", [-8, -1, 0, 3, 15])
def test_a_known_shift_is_found(late: int) -> None:
    said = points(80, 16)
    spoken = said[20:60]  # the sound of a clip of 40 frames
    shown = said[20 - late + AROUND : 60 - late - AROUND]  # what was said `late` frames before
    found = metric.summarise(metric.offset_curve(shown, spoken, AROUND))
    assert found.offset == late
    assert found.curve[metric.REACH + late] == pytest.approx(0, abs=1e-12)
    assert found.distance == found.curve[metric.REACH]
    assert found.confidence == pytest.approx(float(np.median(found.curve)))


def test_the_curve_is_a_naive_loop() -> None:
    shown, spoken = points(21, 8), points(25, 8, seed=1)
    curve = metric.offset_curve(shown, spoken, AROUND, reach=6)
    for place, late in enumerate(range(-6, 7)):
        pairs = [(i, i + AROUND - late) for i in range(21) if 0 <= i + AROUND - late < 25]
        expected = np.mean([1 - shown[i] @ spoken[t] for i, t in pairs])
        assert curve[place] == pytest.approx(expected)


def test_a_picture_that_stands_still_has_no_confidence() -> None:
    spoken = points(75, 128)
    still = np.repeat(points(1, 128, seed=1), 71, 0)
    moving = spoken[2:73]
    curves = [metric.offset_curve(shown, spoken, AROUND) for shown in (still, moving)]
    confidence = [metric.summarise(curve).confidence for curve in curves]
    assert confidence[0] < 0.05 < 0.9 < confidence[1]


def test_short_clips_are_shifted_less_and_none_is_measured_as_nothing() -> None:
    spoken = points(11, 8)
    assert metric.summarise(metric.offset_curve(spoken[2:9], spoken, AROUND)).offset == 0
    assert len(metric.offset_curve(spoken[2:9], spoken, AROUND)) == 2 * 3 + 1
    nothing = metric.summarise(metric.offset_curve(np.zeros((0, 8)), spoken, AROUND))
    assert math.isnan(nothing.offset) and math.isnan(nothing.confidence) and nothing.curve == ()
    assert math.isnan(metric.retrieval(np.zeros((0, 8)), spoken, AROUND))


def test_retrieval_counts_by_hand() -> None:
    spoken = np.eye(12)
    shown = spoken[2:10].copy()
    assert metric.retrieval(shown, spoken, AROUND) == 1.0
    shown[3] = spoken[11]  # far from its own
    assert metric.retrieval(shown, spoken, AROUND) == 7 / 8
    shown[3] = spoken[5] + 1.1 * spoken[6]  # a neighbour, too near to compete
    assert metric.retrieval(shown, spoken, AROUND) == 1.0
    assert metric.retrieval(shown, spoken, AROUND, apart=1) == 7 / 8
    assert metric.retrieval(np.ones((8, 12)), spoken, AROUND) == 0.0  # ties


# --- mouths and sound -----------------------------------------------------------------------------


def test_steady_is_a_running_mean() -> None:
    track = noise(2, 9, 68, 2)
    out = smooth(track, 5)
    for t in range(9):
        expected = track[:, max(0, t - 2) : t + 3].mean(1)
        torch.testing.assert_close(out[:, t], expected)
    torch.testing.assert_close(smooth(track[:, :1]), track[:, :1])


def test_windows_are_five_mouths_in_a_row() -> None:
    frames, landmarks = noise(9, 3, 64, 64).clamp(-1, 1), 0.5 + 0.1 * noise(9, 68, 2, seed=1)
    config = SyncConfig()
    mouths = mouth_crops(frames[None], landmarks[None], config.mouth)[0]
    out = mouth_windows(frames, landmarks, config)
    assert out.shape == (5, 5, 1, 36, 48)
    for i in range(5):
        torch.testing.assert_close(out[i], mouths[i : i + 5])
    assert len(mouth_windows(frames[:4], landmarks[:4], config)) == 0


def test_training_cuts_what_the_measure_cuts(cache: Cache) -> None:
    """Without augmentation, pixels away from the edges and sound are unchanged."""
    clip = cache.clips[1]
    training = replace(TINY, model=SyncConfig(), augment=NO_AUGMENTATION)
    places = [4, 9, 10, 21]
    mouths, speech = cut_windows(cache, clip, places, training, np.random.default_rng(0))
    rows = slice(clip.start, clip.start + clip.frames)
    landmarks = torch.from_numpy(cache.landmarks[rows].copy())
    seen = mouth_windows(
        video.to_tensor(cache.frames[rows].copy()), smooth(landmarks[None])[0], training.model
    )
    torch.testing.assert_close(mouths, seen[[p - AROUND for p in places]], atol=1e-4, rtol=0)
    samples = cache.samples(clip, 0, clip.frames * SAMPLES_PER_FRAME)
    spoken = windows(samples, training.model.speech, clip.frames)
    torch.testing.assert_close(speech, spoken[places], atol=1e-4, rtol=1e-4)


def test_places_of_windows_are_apart_and_where_it_speaks(cache: Cache) -> None:
    clip = replace(cache.clips[0], frames=75, words=(("bin", 1.0, 1.2), ("two", 1.6, 2.0)))
    training = replace(TINY, windows=12)
    for seed in range(20):
        places = window_places(clip, training, np.random.default_rng(seed))
        assert len(places) == 12 and min(np.diff(places)) >= training.apart
        assert places[0] >= 25 - 8 and places[-1] < 50 + 8
    silent_ends = replace(clip, words=())
    drawn = [window_places(silent_ends, training, np.random.default_rng(s)) for s in range(40)]
    assert {p for places in drawn for p in places} == set(range(2, 73))


def test_windows_too_near_are_no_negatives() -> None:
    nothing = torch.zeros(4, 1)
    batch = SyncBatch(nothing, nothing, torch.tensor([7, 7, 7, 3]), torch.tensor([4, 5, 6, 4]))
    expected = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]).bool()
    assert torch.equal(batch.too_near(2), expected)


def test_lost_faces_are_bridged(cache: Cache) -> None:
    torch.manual_seed(0)
    net = SyncNet(TINY.model).eval()
    frames = np.array(cache.frames[:30])
    landmarks = np.repeat(cache.landmarks[:1] * 128.0, 30, 0)
    landmarks += np.linspace(0, 4, 30)[:, None, None]  # a face that drifts evenly
    whole = metric.embed_video(net, frames, landmarks)
    holes = landmarks.copy()
    holes[[4, 5, 17]] = np.nan
    np.testing.assert_allclose(metric.embed_video(net, frames, holes), whole, atol=1e-5)
    assert not np.allclose(metric.embed_video(net, frames, landmarks + 9), whole, atol=1e-3)
    lost = metric.evaluate_sync(net, frames, np.full_like(landmarks, np.nan), torch.zeros(19200))
    assert math.isnan(lost.offset) and math.isnan(lost.confidence)
    with pytest.raises(ValueError, match="30 frames"):
        metric.embed_video(net, frames, landmarks[:-1])


def test_the_net_refuses_other_windows() -> None:
    net = SyncNet(TINY.model)
    with pytest.raises(ValueError, match=r"expected mouths \(N, \*\(5, 1, 12, 16\)\)"):
        net.encode_video(noise(2, 4, 1, 12, 16))
    with pytest.raises(ValueError, match=r"expected speech \(N, \*\(21, 8\)\)"):
        net.encode_audio(noise(2, 21, 9))


# --- training -------------------------------------------------------------------------------------


def test_killed_and_resumed_gives_the_same_bits(cache: Cache, tmp_path: Path) -> None:
    every = loop.LoopOptions(log_every=1, save_every=2, validate_every=100)
    whole = SyncRecipe(TINY, cache)
    assert loop.run(whole, tmp_path / "whole", every) == 6
    loop.run(SyncRecipe(TINY, cache), tmp_path / "killed", replace(every, stop_after=5))
    resumed = SyncRecipe(TINY, cache)
    assert loop.run(resumed, tmp_path / "killed", every) == 6
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    logs = [(tmp_path / run / "log.jsonl").read_text() for run in ("whole", "killed")]
    files = [(tmp_path / run / "weights.safetensors").read_bytes() for run in ("whole", "killed")]
    assert logs[0] == logs[1] and files[0] == files[1]


@pytest.mark.slow
def test_it_learns_which_sound_belongs_to_which_lips(cache: Cache) -> None:
    """In the synthetic corpus the mouth opens with loudness, so shifts are measurable."""
    training = SyncTraining(
        SyncConfig(
            mouth=MouthSpec(height=12, width=16), speech=TINY.model.speech, widths=(8, 16), size=16
        ),
        corpus_half="both",
        steps=100,
        clips=3,
        windows=12,
        rate=5e-3,
        augment=NO_AUGMENTATION,
        precision="float32",
    )
    recipe = SyncRecipe(training, cache)
    losses = []
    for step in range(training.steps):
        torch.manual_seed(step)
        losses.append(recipe.step(recipe.batch(step), step)["loss"])
    chance = math.log(training.clips * training.windows)
    assert np.mean(losses[-10:]) < 0.8 * chance  # of six seeds at most 0.41
    recipe.network.eval()
    slow = cache.clips[:2]  # their mouths repeat after more frames than are searched
    for clip in slow:
        rows = slice(clip.start, clip.start + clip.frames)
        frames, landmarks = np.array(cache.frames[rows]), cache.landmarks[rows] * 128
        for late in (-3, 0, 3):
            early = late * SAMPLES_PER_FRAME  # the sound is cut there: the picture is late
            samples = cache.samples(clip, early, clip.frames * SAMPLES_PER_FRAME)
            found = metric.evaluate_sync(recipe.network, frames, landmarks, samples)
            assert abs(found.offset - late) <= 1, (clip.key, late, found)
    known = accuracy(recipe.network, cache, slow)
    assert known["in_sync"] == 1.0 and known["confidence"] > 0.2


def test_it_learns_from_one_half_of_speaking_clips(cache: Cache) -> None:
    halves = [
        {c.key for c in SyncRecipe(replace(TINY, corpus_half=half), cache).clips}
        for half in ("first", "second", "both")
    ]
    assert halves[0] | halves[1] == halves[2] == {f"s1_train{n}" for n in range(6)}
    assert not halves[0] & halves[1] and halves[0] and halves[1]
    with pytest.raises(BadShard, match="prepare more speech"):
        SyncRecipe(replace(TINY, model=replace(TINY.model, frames=61)), cache)


def test_the_rate_rises_and_falls() -> None:
    training = replace(TINY, steps=100, warm_up=0.2)
    rates = np.array([schedule(training, step) for step in range(100)])
    assert rates.argmax() == 20 and rates[20] == pytest.approx(1.0)
    assert (np.diff(rates[:20]) > 0).all() and (np.diff(rates[20:]) < 0).all()
    assert 0 < rates[0] < 0.1 and 0 < rates[-1] < 0.01


def test_the_command_line_trains_and_says_what_on(cli: Cli, cache: Cache, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    write_cache(folder)
    ran = cli("train", "sync", folder, "-o", tmp_path / "run", "--preset", "sync-tiny")
    assert ran.code == 0, ran.err
    assert "6 of 6 steps" in ran.out
    net, info = weights.load_with_info(tmp_path / "run" / "weights.safetensors")
    assert isinstance(net, SyncNet) and net.config == TINY.model
    assert info.extra["half"] == "second" and info.extra["speakers"] == ["s1"]
    assert "GRID: " in info.training_data and "the second half" in info.training_data
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert set(info.metrics) == {"in_sync", "confidence", "found"}
    assert last["valid/found"] == info.metrics["found"]
    wrong = cli("train", "sync", folder, "-o", tmp_path / "other", "--preset", "cran")
    assert wrong.code == 2 and "sync-tiny" in wrong.err


def test_the_shipped_weights_hear_when_a_generated_video_is_late(
    portrait: Path, speech: Path
) -> None:
    """Lips of cran for a mean face move with the sound, not with a shifted one."""
    net = weights.load("sync")
    assert isinstance(net, SyncNet)
    samples = audio.load(speech)
    frames = np.stack(
        list(talkingface.load("cran").generate(portrait, speech, show="face", crop_size=128))
    )
    landmarks = np.repeat(CropSpec().template()[None], len(frames), 0)
    sights = metric.embed_video(net, frames, landmarks)
    confidence = []
    for late in (-6, 0, 5):
        early = torch.cat([torch.zeros(6 * SAMPLES_PER_FRAME), samples])
        sound = early[(6 + late) * SAMPLES_PER_FRAME :]
        sounds = metric.embed_sound(net, sound, len(frames))
        found = metric.summarise(metric.offset_curve(sights, sounds, net.config.around))
        assert abs(found.offset - late) <= 1
        confidence.append(found.confidence)
    still = np.repeat(frames[:1], len(frames), 0)
    nothing = metric.evaluate_sync(net, still, landmarks, samples)
    assert nothing.confidence < min(confidence) / 3
    assert weights.SHIPPED.joinpath("sync.safetensors").stat().st_size < 1_500_000
