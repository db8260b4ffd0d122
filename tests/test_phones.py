"""Phones: the Gaussians against a plain loop, the running mean, what is heard in real speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from talkingface import audio, phones
from talkingface.audio import SAMPLE_RATE, SpeechSpec, WindowStream, hop_power, windows

SPEC = SpeechSpec(kind="phones", coefficients=phones.FEATURES)


def test_the_likelihood_is_that_of_three_streams_of_gaussian_mixtures() -> None:
    generator = torch.Generator().manual_seed(0)
    streams = tuple(
        torch.randn(4, phones.CEPSTRA, generator=generator) * s for s in (15.0, 6.0, 6.0)
    )
    stored = {name: t.double().numpy() for name, t in load_file(phones.FILE).items()}
    found = phones.log_likelihood(streams).double().numpy()
    for hop, phone in ((0, 2), (1, 20), (2, 30), (3, 41)):
        total = np.zeros(3)
        for stream, x in enumerate(streams):
            mean = stored["means"][phone, stream]
            deviation = np.maximum(stored["deviations"][phone, stream], 0.01)
            distance = ((x[hop].double().numpy() - mean) / deviation) ** 2
            log = -0.5 * (distance + np.log(2 * np.pi * deviation**2)).sum(1)
            weight = 1.0001 ** (-1024 * stored["weights"][phone, stream])  # (128, 3 states)
            total += np.logaddexp.reduce(log[:, None] + np.log(weight), axis=0)
        assert found[hop, phone] == pytest.approx(total.max(), rel=1e-4, abs=0.02)


def test_the_running_mean_is_that_of_the_loud_hops_before() -> None:
    generator = torch.Generator().manual_seed(1)
    cepstra = 50 + 20 * torch.randn(260, phones.CEPSTRA, generator=generator)
    found = phones.running_mean(cepstra)
    assert found.shape == (11, phones.CEPSTRA)
    for row in (0, 5, 10):
        past = cepstra[row : row + phones.MEMORY].double().numpy()
        loudest = max(40.0, past[:, 0].max())
        weight = np.clip((past[:, 0] - loudest + 30) / 15, 0, 1)
        total = (weight[:, None] * past).sum(0) + 30 * np.array(phones.PRIOR)
        assert np.allclose(found[row].numpy(), total / (weight.sum() + 30), atol=1e-3)


def test_digital_silence_before_speech_does_not_count(speech: Path) -> None:
    """A second of zeros put in front changes nothing of what is heard afterwards."""
    sound = audio.load(speech)
    plain = windows(sound, SPEC)
    late = windows(torch.cat([torch.zeros(SAMPLE_RATE), sound]), SPEC)[25:]
    torch.testing.assert_close(late[4:60], plain[4:60], atol=1e-4, rtol=0)


def test_streamed_equals_whole(speech: Path) -> None:
    sound = audio.load(speech)
    stream, parts, rng, at = WindowStream(SPEC), [], np.random.default_rng(3), 0
    while at < len(sound):
        step = int(rng.integers(1, 5000))
        parts.append(stream.push(sound[at : at + step]))
        at += step
    parts.append(stream.finish())
    torch.testing.assert_close(torch.cat(parts), windows(sound, SPEC), atol=1e-4, rtol=0)


def test_sibilants_are_heard_where_the_spectrum_is_high(speech: Path) -> None:
    """Spectral centroids, which the model never sees, of what it takes for sibilants and vowels."""
    sound = audio.load(speech)
    heard = windows(sound, SPEC)[:, SPEC.hops // 2, : len(phones.PHONES)]  # one hop per frame
    names = [phones.PHONES[int(i)] for i in heard.argmax(1)]
    middle = SAMPLE_RATE // 50  # the middle of a frame
    padded = torch.nn.functional.pad(sound, (201, 1000))
    power = torch.stack(
        [
            hop_power(padded[t * 640 + middle : t * 640 + middle + 401], SpeechSpec())[0]
            for t in range(len(names))
        ]
    )
    hertz = torch.linspace(0, SAMPLE_RATE / 2, power.shape[1])
    centroid = (power @ hertz) / power.sum(1)
    hissing = [float(c) for c, n in zip(centroid, names, strict=True) if n in ("S", "Z", "SH")]
    vowels = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split()
    open_ = [float(c) for c, n in zip(centroid, names, strict=True) if n in vowels]
    assert len(hissing) >= 3 and len(open_) >= 5
    assert np.median(hissing) > 2 * np.median(open_)


@pytest.mark.parametrize("gain", [0.3, 3.0])
def test_loudness_hardly_matters(speech: Path, gain: float) -> None:
    sound = audio.load(speech)
    plain, other = windows(sound, SPEC), windows(gain * sound, SPEC)
    speaking = plain[20:60, SPEC.hops // 2, -1] > -1
    best, again = (w[20:60, SPEC.hops // 2, : len(phones.PHONES)].argmax(1) for w in (plain, other))
    assert (best == again)[speaking].float().mean() > 0.75
