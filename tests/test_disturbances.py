"""Noise, rooms, a telephone and music: spectra and levels that are as said, timing that stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.predictors import syllables
from talkingface.data import disturbances
from talkingface.data.disturbances import Source

RATE = 16_000
SOURCES: list[Source] = [
    disturbances.white_noise,
    disturbances.pink_noise,
    disturbances.room_noise,
    disturbances.music,
]


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def speech(seconds: float = 3.0) -> Tensor:
    return torch.from_numpy(syllables(seconds, 5)).float()


def power(sound: Tensor, low: float, high: float) -> float:
    """Mean power per Hz between two frequencies."""
    spectrum = np.abs(np.fft.rfft(sound.double().numpy())) ** 2
    hertz = np.fft.rfftfreq(len(sound), 1 / RATE)
    return float(spectrum[(hertz >= low) & (hertz < high)].mean())


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("samples", [1, 640, 50_001])
def test_sources_are_as_long_as_asked_of_level_one_and_seeded(source: Source, samples: int) -> None:
    sound = source(samples, rng())
    assert sound.shape == (samples,) and sound.dtype == torch.float32
    assert bool(torch.isfinite(sound).all())
    if samples > 1:
        assert disturbances.level(sound) == pytest.approx(1, abs=1e-3)
        assert not torch.equal(source(samples, rng(2)), sound)
    assert torch.equal(source(samples, rng()), sound)


def test_white_is_flat_and_pink_falls_by_3_decibels_an_octave() -> None:
    white, pink = (make(1 << 18, rng()) for make in SOURCES[:2])
    for low in (100.0, 400.0, 900.0, 2000.0):
        assert power(white, 2 * low, 4 * low) / power(white, low, 2 * low) == pytest.approx(1, 0.15)
        assert power(pink, 2 * low, 4 * low) / power(pink, low, 2 * low) == pytest.approx(0.5, 0.15)


def test_a_room_hums_and_music_has_a_beat() -> None:
    room = disturbances.room_noise(1 << 17, rng())
    assert power(room, 49.8, 50.2) > 100 * power(room, 60, 90)
    song = disturbances.music(10 * RATE, rng())
    loudness = song.unfold(0, 320, 320).square().mean(1)
    assert float(loudness.std() / loudness.mean()) > 0.4
    assert power(song, 50, 1000) > 20 * power(song, 4000, 8000)


@pytest.mark.parametrize("decibels", [10.0, 0.0, 30.0])
@pytest.mark.parametrize("source", SOURCES)
def test_noise_is_as_far_below_the_speech_as_said(source: Source, decibels: float) -> None:
    clean = speech() / 10
    noisy = disturbances.add_noise(clean, rng(), source, decibels)
    ratio = disturbances.level(clean) / disturbances.level(noisy - clean)
    assert 20 * np.log10(ratio) == pytest.approx(decibels, abs=0.01)
    assert noisy.shape == clean.shape


def test_a_mix_that_would_clip_is_turned_down_as_a_whole() -> None:
    tone = torch.sin(torch.arange(1600) / 5)
    mixed = disturbances.mix(tone, -tone.flip(0), 0.0)
    assert float(mixed.abs().max()) <= 1
    expected = tone - tone.flip(0)
    assert torch.allclose(mixed / mixed.norm(), expected / expected.norm(), atol=1e-5)
    assert torch.equal(disturbances.mix(torch.zeros(640), tone[:640], 10.0), torch.zeros(640))
    with pytest.raises(ValueError, match="two sounds"):
        disturbances.mix(tone, tone[:-1], 0.0)


@pytest.mark.parametrize(("hertz", "passes"), [(100, 0), (1000, 1), (3300, 1), (5000, 0)])
def test_a_telephone_passes_its_band_alone(hertz: float, passes: bool) -> None:
    tone = 0.3 * torch.sin(2 * np.pi * hertz * torch.arange(RATE).double() / RATE).float()
    changed = disturbances.telephone(tone)
    assert changed.shape == tone.shape and changed.dtype == torch.float32
    middle = slice(2000, -2000)
    if passes:
        error = disturbances.level((changed - tone)[middle]) / disturbances.level(tone)
        assert 0.001 < error < 0.04  # 8 bits; and no delay
    else:
        assert disturbances.level(changed[middle]) < 0.01 * disturbances.level(tone)


def test_a_telephone_keeps_silence_and_any_length() -> None:
    assert float(disturbances.telephone(torch.zeros(641)).abs().max()) < 1e-3
    assert len(disturbances.telephone(torch.ones(1))) == 1


def test_a_room_response_is_the_direct_sound_and_a_tail_that_decays() -> None:
    response = disturbances.room_response(rng(), decay=0.5, direct=-3.0).double()
    first = round(disturbances.FIRST_REFLECTION * RATE)
    assert float(response[0]) == 1 and not response[1:first].any()
    tail = response[first:].square()
    assert 10 * np.log10(float(tail.sum())) == pytest.approx(3.0, abs=1e-3)
    early, late = tail[:1600].mean(), tail[-1600:].mean()
    assert 10 * np.log10(float(early / late)) == pytest.approx(60 * 0.8, abs=1.5)


def test_reverberation_is_convolution_at_the_same_level() -> None:
    sound, response = torch.randn(300) / 10, torch.randn(50)
    changed = disturbances.reverberate(sound, response)
    naive = np.convolve(sound.double(), response.double())[:300]
    naive *= disturbances.level(sound) / np.sqrt((naive**2).mean())
    assert np.allclose(changed, naive, atol=1e-6)
    assert torch.equal(disturbances.reverberate(sound * 0, response), sound * 0)


def test_a_far_microphone_keeps_level_and_timing() -> None:
    clean = speech()
    far = disturbances.far_microphone(clean, rng())
    assert disturbances.level(far) == pytest.approx(disturbances.level(clean), rel=1e-3)
    size = 1 << 17
    product = np.fft.rfft(far.numpy(), size) * np.conj(np.fft.rfft(clean.numpy(), size))
    assert int(np.fft.irfft(product).argmax()) == 0
    assert torch.equal(disturbances.far_microphone(clean, rng()), far)


def test_a_level_is_in_decibels_of_full_scale() -> None:
    quiet = disturbances.at_level(disturbances.white_noise(8000, rng()), -40)
    assert disturbances.level(quiet) == pytest.approx(0.01, rel=1e-3)
