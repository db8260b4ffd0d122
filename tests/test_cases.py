"""Inputs as people have them: each kind of the list of cases, made here, with the right value.

| kind | test |
|---|---|
| 5.1, 7.1, odd layouts | `test_channels.py` |
| channels that cancel, a dead channel | `test_channels_that_cancel_or_are_dead_are_heard` |
| several audio tracks | `test_the_default_track_or_a_chosen_one_is_heard` |
| padding of AAC | `test_an_m4a_is_as_long_as_players_show` |
| arrays of another rate, integers, lists, channels | `test_samples_of_any_kind_are_one_sound` |
| bytes and file objects | `test_bytes_and_files_are_read_as_their_file` |
| nothing is heard | `test_silence_and_noise_are_noted` |
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from conftest import SENTENCE, Cli
from helpers import media as recordings
from talkingface import audio, media
from talkingface.errors import BadRequest, UnreadableMedia
from talkingface.sound_analysis import NOISE, SILENT
from talkingface.streaming import Speech

RATE = 16_000


@pytest.fixture(scope="module")
def sentence() -> np.ndarray:
    """A sentence of 2.98 s at 16 kHz."""
    return audio.load(SENTENCE).numpy()


def heard(sound: Any, **options: Any) -> np.ndarray:
    """What a model hears of any sound."""
    return torch.cat(list(Speech(sound, **options).parts())).numpy()


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    shorter = min(len(a), len(b))
    return float(np.corrcoef(a[:shorter], b[:shorter])[0, 1])


# ---- sound


@pytest.mark.parametrize(
    ("left", "right", "level"),
    [(1, -1, 1), (1, 0, 1), (0, -1, -1), (1, 1, 1), (1, 0.5, 0.75), (0.9, -1, 0.95)],
)
def test_channels_that_cancel_or_are_dead_are_heard(
    tmp_path: Path, sentence: np.ndarray, left: float, right: float, level: float
) -> None:
    both = np.stack([left * sentence, right * sentence]).astype(np.float32)
    path = recordings.write_sound(tmp_path / "a.wav", both, RATE, "pcm_f32le")
    for sound in (path, both, (both.T, RATE)):
        assert np.abs(heard(sound) - level * sentence).max() < 1e-6
    # what is written keeps its channels
    own = Speech(path).own()
    assert np.array_equal(np.concatenate(list(own.chunks), axis=1), both)


def write_tracks(path: Path, sounds: list[np.ndarray], default: int) -> Path:
    """Audio tracks at 16 kHz, of which one is marked as default (from 0)."""
    from av.stream import Disposition

    with av.open(str(path), "w") as container:
        streams = [container.add_stream("flac", rate=RATE, layout="mono") for _ in sounds]
        for number, stream in enumerate(streams):
            stream.disposition = Disposition.default if number == default else Disposition(0)
        for stream, sound in zip(streams, sounds, strict=True):
            frame = av.AudioFrame.from_ndarray(
                np.rint(sound * 32767).astype(np.int16)[None], "s16", "mono"
            )
            frame.sample_rate, frame.pts = RATE, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def test_the_default_track_or_a_chosen_one_is_heard(
    tmp_path: Path, sentence: np.ndarray, cli: Cli, portrait: Path
) -> None:
    path = write_tracks(tmp_path / "a.mkv", [0 * sentence, sentence, sentence / 2], default=1)
    assert np.abs(heard(path) - sentence).max() < 1e-4
    assert np.abs(heard(path, track=3) - sentence / 2).max() < 1e-4
    assert not heard(path, track=1).any()
    kept = np.concatenate(list(Speech(path, 3).own().chunks), axis=1)
    assert np.abs(kept[0] - sentence / 2).max() < 1e-4
    with pytest.raises(UnreadableMedia, match=r"a\.mkv: no audio track 4, there are 3 audio track"):
        heard(path, track=4)
    with pytest.raises(BadRequest, match="samples have no audio tracks"):
        heard(sentence, track=1)
    ran = cli(
        *("generate", portrait, path, "-o", tmp_path / "a.mp4", "--model", "cran-tiny"),
        *("--audio-track", 4),
    )
    assert ran.code == 2 and "no audio track 4" in ran.err and ran.err.count("\n") == 1


@pytest.mark.parametrize("suffix", [".m4a", ".mp4", ".mov"])
def test_an_m4a_is_as_long_as_players_show(tmp_path: Path, suffix: str) -> None:
    sound = recordings.clicks(48_000, [0.5, 2.5], 3.0)
    path = recordings.write_sound(tmp_path / f"a{suffix}", sound, 48_000, "aac")
    assert len(Speech(path)) == 75  # 3.008 s are decoded
    assert sum(chunk.shape[1] for chunk in media.open_sound(path).chunks) == 144_000
    assert list(media.sound_lengths(path))[-1] == pytest.approx(3.0, abs=1e-3)


def test_samples_of_any_kind_are_one_sound(sentence: np.ndarray) -> None:
    whole = np.rint(sentence * 32768).clip(-32768, 32767).astype(np.int16)
    for same in (
        sentence.tolist(),
        torch.from_numpy(sentence),
        sentence.astype(np.float64),
        (sentence, RATE),
        (RATE, sentence),
        np.stack([sentence, sentence]),
        np.stack([sentence, sentence], axis=1),
        whole,
        (whole.astype(np.int32) << 16, RATE),
    ):
        assert np.abs(heard(same) - sentence).max() < 2 / 32768
    high = media.Resampler(RATE, 48_000)
    fast = np.concatenate([high.push(sentence), high.finish()])
    for rate, samples in ((48_000, fast), (8_000, sentence[::2])):
        found = heard((samples, rate))
        assert len(Speech((samples, rate))) == len(Speech(sentence)) == 75
        assert correlation(found, sentence) > (0.999 if rate > RATE else 0.8)
        assert Speech((samples, rate)).own().rate == rate


@pytest.mark.parametrize(
    ("sound", "says"),
    [
        (np.zeros((3, 20, 20)), r"this is a ndarray of \(3, 20, 20\) float64"),
        (np.zeros(4000, np.int64), "int64"),
        (np.full(4000, 20_000.0), r"goes to 20000: give integers \(int16\)"),
        (3, "this is a int"),
        (None, "this is a NoneType"),
        ({"a": 1}, "this is a dict"),
        ((np.zeros(4000), 12), "a sound of 12 Hz"),
        (np.zeros((20, 20)), "too many channels"),
        (io.StringIO("text"), "open it as 'rb'"),
        (np.zeros(639), "at least 640 samples"),
    ],
)
def test_what_is_no_sound_is_one_line(sound: Any, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as caught:
        Speech(sound)
    assert "\n" not in str(caught.value) and "--" not in str(caught.value)


def test_bytes_and_files_are_read_as_their_file(sentence: np.ndarray) -> None:
    with SENTENCE.open("rb") as file:
        for sound in (SENTENCE.read_bytes(), io.BytesIO(SENTENCE.read_bytes()), file):
            assert np.array_equal(heard(sound), sentence)
    with pytest.raises(UnreadableMedia):
        Speech(b"no sound at all")


def noises() -> Iterator[tuple[np.ndarray, str | None]]:
    """Five seconds without a voice, and with one; the note that is due."""
    random, count = np.random.default_rng(0), 5 * RATE
    spectrum = np.fft.rfft(random.normal(size=count))
    falling = np.sqrt(np.maximum(1, np.arange(len(spectrum))))
    pink = np.fft.irfft(spectrum / falling, count)
    time = np.arange(count) / RATE
    hum = sum(np.sin(2 * np.pi * 50 * k * time) / k for k in range(1, 8))
    yield np.zeros(count), SILENT
    yield 3e-4 * random.normal(size=count), SILENT
    for noise in (random.normal(size=count), pink / pink.std(), hum + pink / pink.std()):
        for level in (0.003, 0.1):
            yield level * noise, NOISE
    voice = np.resize(audio.load(SENTENCE).numpy(), count)
    yield voice, None
    yield 0.01 * voice, None
    yield voice + voice.std() * pink / pink.std(), None  # 0 dB


def test_silence_and_noise_are_noted() -> None:
    for sound, note in noises():
        assert Speech(sound.astype(np.float32)).note == note
