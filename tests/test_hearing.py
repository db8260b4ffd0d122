"""Learned front ends: a plain loop, what a frame hears, once per hop, phones that are taught."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli
from test_dataset import PLAIN, write_cache
from test_models import TINY, _portrait
from torch import Tensor

from talkingface import audio, losses, models, phones, weights
from talkingface.audio import SAMPLES_PER_FRAME, WINDOW, SpeechSpec, WindowStream, windows
from talkingface.data.augment import NO_AUGMENTATION, _revoiced, augment_speech
from talkingface.data.dataset import TEACHER, Cache, draw_batch
from talkingface.models.cran import Cran, CranConfig
from talkingface.models.hearing import (
    STEP,
    TAPS,
    FilterBank,
    Hearing,
    HearingConfig,
    heard,
    overlap,
    recording,
)
from talkingface.training import presets
from talkingface.training.cran import CranRecipe

RAW = SpeechSpec(kind="raw", coefficients=WINDOW)
LOG_MEL = TINY.speech
BOTH = SpeechSpec(kind="both", coefficients=26 + phones.FEATURES, mels=26)
TAUGHT = HearingConfig(filters=8, taught="fixed", widths=(8, 8))
EARS: dict[str, CranConfig] = {
    "raw": replace(TINY, speech=RAW, hearing=HearingConfig(filters=8)),
    "taught": replace(TINY, hearing=TAUGHT, audio="sequence"),
    "taught from raw": replace(TINY, speech=RAW, hearing=TAUGHT, audio="sequence"),
    "phones": replace(TINY, speech=TEACHER, audio="sequence"),
    "both": replace(TINY, speech=BOTH, mover="at"),
}


@pytest.fixture
def sound(speech: Path) -> Tensor:
    """1.2 s of a sentence: 30 frames."""
    return audio.load(speech)[8000 : 8000 + 30 * SAMPLES_PER_FRAME]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(write_cache(tmp_path, np.random.default_rng(0)))


def test_windows_of_raw_sound_are_its_samples_and_take_no_room(sound: Tensor) -> None:
    made = windows(sound, RAW)
    assert made.shape == (30, 35, 400)
    for frame, hop in [(5, 0), (9, 17), (12, 34)]:
        first = 640 * frame + 320 + 160 * (hop - 17) - 200
        assert torch.equal(made[frame, hop], sound[first : first + 400])
    assert made.untyped_storage().nbytes() < 4 * (len(sound) + 5 * RAW.samples)


def test_the_filter_bank_is_a_plain_loop(sound: Tensor) -> None:
    torch.manual_seed(0)
    bank = FilterBank(RAW, HearingConfig(filters=6, start="free"))
    hops = windows(sound, RAW)[10, 3:5]
    with torch.no_grad():
        bank.window.normal_()
        bank.floor.normal_(-8, 1)
        found = bank(hops).numpy()
        filters, logits, floor = (
            p.double().numpy() for p in (bank.filters, bank.window, bank.floor)
        )
    for hop, samples in enumerate(hops.double().numpy()):
        for band in range(6):
            total, weight = 0.0, 0.0
            for place in range((400 - TAPS) // STEP + 1):
                part = samples[place * STEP : place * STEP + TAPS]
                power = sum((part * filters[k, band]).sum() ** 2 for k in (0, 1))
                total += np.exp(logits[place, band]) * power
                weight += np.exp(logits[place, band])
            expected = np.log(total / weight + np.exp(floor[band]))
            assert found[hop, band] == pytest.approx(expected, abs=1e-3)


def test_it_begins_as_the_log_mel_spectrum(sound: Tensor) -> None:
    """In speech and in white noise, band by band; in silence it is the floor."""
    mel = SpeechSpec(kind="log_mel", coefficients=20, mels=20)
    bank = FilterBank(RAW, HearingConfig(filters=20)).requires_grad_(False)
    noise = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    own, other = (windows(noise, spec)[5:20, 17] for spec in (RAW, mel))
    # pooled over a hop of several tapers, a mean of logs lies a little higher
    assert (bank(own).mean(0) - other.mean(0)).abs().max() < 0.8
    own, other = bank(windows(sound, RAW)[:, 17]), windows(sound, mel)[:, 17]
    for band in range(20):
        together = np.corrcoef(own[:, band].numpy(), other[:, band].numpy())[0, 1]
        assert together > 0.9, band
    assert torch.allclose(bank(torch.zeros(1, 400)), torch.tensor(1e-4).log(), atol=1e-3)


@pytest.mark.parametrize("name", EARS)
def test_no_sound_beyond_its_support_moves_a_frame(name: str, sound: Tensor) -> None:
    torch.manual_seed(1)
    config = EARS[name]  # what is fixed hears too, but gives no gradient
    if config.hearing.taught == "fixed":
        config = replace(config, hearing=replace(config.hearing, taught="tuned"))
    model = Cran(config)
    spec, heard_sound = EARS[name].speech, sound.clone().requires_grad_()
    face = model.eval().encode(_portrait(1))
    landmarks, _ = model.speak(face, windows(heard_sound, spec)[None])
    frame = 12
    moved = landmarks[0, frame] * torch.randn(68, 2)
    (gradient,) = torch.autograd.grad(moved.sum(), heard_sound)
    last = int(gradient.nonzero().max())
    end = frame * SAMPLES_PER_FRAME + spec.first_sample + spec.samples
    assert end - 200 <= last < end
    assert spec.latency <= 0.2


@pytest.mark.parametrize("name", EARS)
def test_streamed_equals_whole(name: str, sound: Tensor) -> None:
    torch.manual_seed(2)
    model = Cran(EARS[name]).eval().requires_grad_(False)
    face, spec = model.encode(_portrait(1)), EARS[name].speech
    whole = model.speak(face, windows(sound, spec)[None])[0]
    stream, parts, state = WindowStream(spec), [], None
    chunks = [stream.push(part) for part in sound.split([700, 1, 6_000, 3_000, 9_499])]
    for part in [*chunks, stream.finish()]:
        if len(part):
            landmarks, state = model.speak(face, part[None], state)
            parts.append(landmarks)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["raw", "taught", "taught from raw"])
def test_each_hop_goes_through_once_and_as_in_its_own_window(name: str, sound: Tensor) -> None:
    torch.manual_seed(3)
    hearing = Hearing(EARS[name].speech, EARS[name].hearing).requires_grad_(False)
    speech, seen = windows(sound, EARS[name].speech)[None, :20], []
    next(hearing.children()).register_forward_hook(lambda _, given, __: seen.append(given[0]))
    together = hearing(speech)
    assert [tuple(x.shape[:2]) for x in seen] == [(1, 35 + 4 * 19)]
    assert together.shape[1:] == (20, *heard(EARS[name].speech, EARS[name].hearing))
    for frame in (0, 7, 19):
        alone = hearing(speech[:, frame : frame + 1])
        torch.testing.assert_close(together[:, frame : frame + 1], alone, atol=1e-4, rtol=0)
    mixed = speech[:, torch.randperm(20)]  # no recording: each window for itself
    assert overlap(speech) and not overlap(mixed)
    torch.testing.assert_close(hearing(mixed)[:, 3:4], hearing(mixed[:, 3:4]), atol=1e-4, rtol=0)


def test_a_recording_comes_back_from_its_windows(sound: Tensor) -> None:
    padded = torch.nn.functional.pad(sound, (-LOG_MEL.first_sample, 9999))
    hops = audio.hop_features(padded, LOG_MEL)[: 35 + 4 * 9]
    assert torch.equal(recording(windows(sound, LOG_MEL)[None, :10])[0], hops)


def test_what_is_fixed_learns_nothing_and_what_is_tuned_does(sound: Tensor) -> None:
    for taught in ("fixed", "tuned"):
        config = replace(EARS["taught from raw"], hearing=replace(TAUGHT, taught=taught))
        model = Cran(config)
        landmarks, _ = model.speak(model.encode(_portrait(1)), windows(sound, RAW)[None])
        landmarks.square().sum().backward()
        learned = [p.grad is not None for p in model.hearing.parameters()]
        assert all(learned) if taught == "tuned" else not any(learned)
        told = model.hearing.tell(windows(sound, RAW)[None])
        told.square().sum().backward()
        assert all(p.grad is not None for p in model.hearing.parameters())


def test_the_level_of_phones_told_is_that_of_phones_heard() -> None:
    """Same sums, same scale: probabilities come back from the features of both."""
    net = Hearing(LOG_MEL, TAUGHT)
    speech = windows(torch.randn(6400, generator=torch.Generator().manual_seed(1)), LOG_MEL)
    told = net(speech[None])
    assert told.shape == (1, 10, 27, phones.FEATURES)
    likely = phones.posteriors(told)
    torch.testing.assert_close(likely.sum(-1), torch.ones(1, 10, 27))
    assert losses.phone_loss(told, told) == 0
    other = torch.cat([told[..., 1:-1], told[..., :1], told[..., -1:]], dim=-1)
    p, q = (phones.posteriors(x).double().detach().numpy() for x in (other, told))
    expected = (p * np.log(p / q)).sum(-1).mean()
    assert float(losses.phone_loss(told, other)) == pytest.approx(expected, rel=1e-4)


def test_a_teacher_hears_the_clean_sound_of_the_same_hops(cache: Cache) -> None:
    config = replace(PLAIN, phones=True, silent=0.5, pictures=False)
    batch = draw_batch(cache, cache.clips, LOG_MEL, config, (0, 1))
    assert batch.phones.shape == (8, 35 + 4 * 9, phones.FEATURES)
    quiet = windows(torch.zeros(640), TEACHER)[0, 0]
    whole = {c.key: windows(cache.samples(c, 0, c.frames * 640), TEACHER) for c in cache.clips}
    for row in range(8):
        own = batch.phones[row, 17:-17:4]
        if batch.silent[row]:
            torch.testing.assert_close(own[3], quiet)
            continue
        first = round(float(batch.landmarks[row, 0, 0, 0]) * 100)
        found = [w[first : first + 10, 17] for w in whole.values() if len(w) > 1]
        # between hops by 1 sample of 160
        assert min(float((own - w).abs().max()) for w in found) < 0.2
    assert draw_batch(cache, cache.clips, LOG_MEL, PLAIN, (0, 1)).phones.shape == (8, 0)


def test_another_voice_of_raw_sound_has_other_formants_and_the_same_pitch() -> None:
    """A buzz at 125 Hz through a resonance at 1000 Hz, read at f * 0.8: 1250 Hz, still 125 Hz."""
    at = np.arange(16_000) / 16_000
    buzz = sum(
        np.cos(2 * np.pi * 125 * n * at) / (1 + ((125 * n - 1000) / 150) ** 2) for n in range(1, 60)
    )
    own = torch.from_numpy(0.05 * buzz).float()
    assert torch.allclose(_revoiced(own, 1.0, torch.zeros(257)), own, atol=1e-5)
    made = _revoiced(own, 0.8, torch.zeros(257))
    power = torch.fft.rfft(made[4000:12_000] * torch.hann_window(8000)).abs().square()
    hertz = torch.arange(len(power)) * 2.0
    assert float(hertz[power.argmax()]) == pytest.approx(1250, abs=130)
    near = (hertz / 125 - (hertz / 125).round()).abs() * 125 < 8
    assert power[near].sum() > 0.99 * power.sum()
    louder = _revoiced(own, 1.0, torch.full((257,), 6.0))
    assert torch.allclose(louder, own * 10**0.3, atol=1e-4)


def test_without_augmentation_raw_sound_is_left_alone(sound: Tensor) -> None:
    made = augment_speech(sound, RAW, np.random.default_rng(0), NO_AUGMENTATION)
    assert torch.allclose(made, audio.hop_features(sound, RAW), atol=1e-5)


def test_taught_phones_are_learned_and_then_kept(cache: Cache) -> None:
    """The first stage teaches, the second leaves what was taught as it is."""
    tiny = replace(presets.CRAN["cran-tiny"].stages[0], lr=1e-2, steps=6)
    told = replace(tiny, weights={"phones": 1.0}, steps=20)
    training = replace(
        presets.CRAN["cran-taught"], model=EARS["taught"], stages=(told, tiny), precision="float32"
    )
    recipe = CranRecipe(training, cache)
    found = [recipe.step(recipe.batch(0), step)["phones"] for step in range(20)]
    assert found[-1] < 0.5 * found[0]
    before = [p.clone() for p in recipe.model.hearing.parameters()]
    moving = recipe.model.gru.all_weights[0][0].clone()
    for step in range(20, 26):
        recipe.step(recipe.batch(step), step)
    for was, parameter in zip(before, recipe.model.hearing.parameters(), strict=True):
        assert torch.equal(was, parameter)
    assert not torch.equal(moving, recipe.model.gru.all_weights[0][0])


@pytest.mark.parametrize("name", ["cran-mfcc", "cran-raw", "cran-phones", "cran-taught"])
def test_presets_hear_what_they_are_called_after(name: str, tmp_path: Path) -> None:
    assert presets.CRAN[name].model == models.PRESETS[name]
    model: Any = models.build(models.PRESETS[name]).eval()
    weights.save(tmp_path / "a.safetensors", model, training_data="none", licence="MIT")
    assert weights.load(tmp_path / "a.safetensors").config == models.PRESETS[name]
    spec = model.config.speech
    with torch.no_grad():
        made, _ = model(model.encode(_portrait(1)), windows(torch.zeros(1280), spec)[None])
    assert made.frames.shape == (1, 2, 3, 128, 128)


def test_both_are_the_spectrum_and_the_phones_of_the_same_hops(sound: Tensor) -> None:
    whole = windows(sound, BOTH)
    assert torch.equal(whole[..., :26], windows(sound, LOG_MEL))
    torch.testing.assert_close(whole[..., 26:], windows(sound, TEACHER), atol=1e-5, rtol=0)
    assert BOTH.latency == TEACHER.latency > LOG_MEL.latency


def test_a_graft_has_the_lips_of_one_and_the_pictures_of_the_other(
    sound: Tensor, tmp_path: Path
) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
    from graft_lips import graft

    cran: Any = weights.load("cran")
    atvg: Any = weights.load("atvg")
    model, portrait = graft(cran, atvg), _portrait(1)
    with torch.no_grad():
        face = model.encode(portrait)
        made, _ = model(face, windows(sound, model.config.speech)[None, :6])
        lips, _ = atvg.speak(atvg.encode(portrait), windows(sound, TEACHER)[None, :6])
        heard_alone = windows(sound, cran.config.speech)[None, :6]
        drawn, _ = cran(cran.encode(portrait), heard_alone, guide=lips)
    torch.testing.assert_close(made.landmarks, lips, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.frames, drawn.frames, atol=1e-4, rtol=0)
    weights.save(tmp_path / "a.safetensors", model, training_data="none", licence="MIT")
    assert weights.load(tmp_path / "a.safetensors").config == model.config


def test_an_at_net_moves_lips_only_where_phones_are_heard() -> None:
    with pytest.raises(ValueError, match="where phones are heard"):
        replace(TINY, mover="at")
    with pytest.raises(ValueError, match="looks at no picture"):
        replace(TINY, mover="at", speech=BOTH, scheme="sequential")
    with pytest.raises(ValueError, match="all 26 mels"):
        replace(BOTH, coefficients=26)


def test_raw_sound_is_refused_where_nothing_hears_it() -> None:
    chung: Any = models.PRESETS["chung-tiny"]
    with pytest.raises(ValueError, match="learned front end: cran has one"):
        models.build(replace(chung, speech=RAW))
    with pytest.raises(ValueError, match="all 400 samples"):
        SpeechSpec(kind="raw", coefficients=26)


def test_a_video_is_made_and_lips_are_measured_by_what_hears_raw_sound(
    cli: Cli, tmp_path: Path, portrait: Path, speech: Path
) -> None:
    torch.manual_seed(4)
    path = tmp_path / "raw.safetensors"
    weights.save(path, Cran(EARS["raw"]), training_data="none", licence="MIT")
    made = cli("generate", portrait, speech, "-o", tmp_path / "a.mp4", "--model", path)
    assert made.code == 0, made.err
    assert (tmp_path / "a.mp4").stat().st_size > 10_000
