"""Recordings of many channels: read at full level, never clipped, and no process dies of them."""

from __future__ import annotations

import subprocess
import sys
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from helpers import media as recordings
from talkingface import audio, media, video_writing
from talkingface.downmix import Downmix, weights

RATE = 48_000
SURROUND = ("FL", "FR", "FC", "LFE", "BL", "BR")
TONE = 0.25 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)


def write_wav(path: Path, sound: np.ndarray) -> Path:
    """(channels, n) in [-1, 1] as plain 16-bit PCM, without the places of its channels."""
    with wave.open(str(path), "wb") as file:
        file.setparams((sound.shape[0], 2, RATE, 0, "NONE", ""))
        file.writeframes(np.rint(sound.T * 32767).astype("<i2").tobytes())
    return path


def write_layout(path: Path, sound: np.ndarray, layout: str, codec: str) -> Path:
    """(channels, n) in [-1, 1] with the places of its channels."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=RATE, layout=layout)
        packed = np.ascontiguousarray(sound.T.reshape(1, -1), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(packed, "flt", layout)
        frame.sample_rate, frame.pts = RATE, 0
        size = stream.codec_context.frame_size or None
        resampler = av.AudioResampler(stream.format.name, layout, RATE, frame_size=size)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


def read(path: Path, channels: int | None = None) -> np.ndarray:
    return np.concatenate(list(media.open_sound(path, channels=channels).chunks), axis=1)


def level(sound: np.ndarray) -> float:
    """dB against TONE; -inf is -200."""
    inner = sound[..., RATE // 4 : RATE * 3 // 4]
    power = np.square(inner).mean() / np.square(TONE[RATE // 4 : RATE * 3 // 4]).mean()
    return float(10 * np.log10(power + 1e-20))


def only(channels: Sequence[int], count: int) -> np.ndarray:
    """TONE in some of so many channels."""
    sound = np.zeros((count, RATE))
    sound[list(channels)] = TONE
    return sound


READ = """
import sys
from pathlib import Path
import numpy as np
from talkingface import media
for name in sys.argv[1:]:
    for channels in (1, 2):
        sound = media.open_sound(Path(name), channels=channels)
        inner = np.concatenate(list(sound.chunks), axis=1)[:, 12000:36000]
        print(np.sqrt(2 * np.square(inner).mean()), flush=True)
"""


def test_many_channels_kill_no_process(tmp_path: Path) -> None:
    counts = [7, 8, 9, 16, 64]
    paths = [write_wav(tmp_path / f"{n}.wav", only(range(n), n)) for n in counts]
    planar = write_layout(tmp_path / "8.m4a", only(range(8), 8), "7.1", "aac")
    command = [sys.executable, "-c", READ, *map(str, [*paths, planar])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loud = np.array(done.stdout.split(), float).reshape(-1, 2)
    # 7.1 is the sum of its channels, limited; of unknown places the mean
    summed = [0.25 * weights(["NONE"] * 8, channels).sum(1).max() for channels in (1, 2)]
    full = np.minimum(1.0, summed)
    for row, count in zip(loud, [*counts, 8], strict=True):
        assert row == pytest.approx(full if count == 8 else [0.25] * 2, rel=0.05), count


# dB of a tone in one channel of 5.1: ITU-R BS.775-3, Table 2
MONO = {"FL": -3.01, "FR": -3.01, "FC": 0.0, "LFE": -200, "BL": -6.02, "BR": -6.02}
LEFT = {"FL": 0.0, "FR": -200, "FC": -3.01, "LFE": -200, "BL": -3.01, "BR": -200}


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("named", [True, False])
def test_each_channel_of_5_1_has_its_level(tmp_path: Path, place: int, named: bool) -> None:
    path, name = tmp_path / "a.wav", SURROUND[place]
    sound = only([place], 6)
    if named:
        write_layout(path, sound, "5.1", "pcm_s16le")
    else:
        write_wav(path, sound)
    mono, stereo = read(path, channels=1), read(path, channels=2)
    assert (mono.shape, stereo.shape) == ((1, RATE), (2, RATE))
    assert level(mono) == pytest.approx(MONO[name], abs=0.01)
    assert level(stereo[0]) == pytest.approx(LEFT[name], abs=0.01)
    other = {"L": "R", "R": "L"}.get(name[-1], name[-1]) if name != "LFE" else "E"
    assert level(stereo[1]) == pytest.approx(LEFT[name[:-1] + other], abs=0.01)
    decoded = audio.load(path).numpy()
    power = 20 * np.log10(np.abs(decoded[4000:12000]).max() / 0.25 + 1e-10)
    assert power == pytest.approx(MONO[name], abs=0.05)


@pytest.mark.parametrize(
    ("layout", "kept"),
    [("5.1", "5.1"), ("5.1(side)", "5.1"), ("3.0", "3.0"), ("7.1", "stereo"), ("quad", "stereo")],
)
def test_a_video_keeps_layout_and_level(tmp_path: Path, layout: str, kept: str) -> None:
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    place = names.index("FC") if "FC" in names else 0
    sound = only([place], len(names))
    path = write_layout(tmp_path / "a.wav", sound, layout, "pcm_s16le")
    opened = media.open_sound(path)
    assert (opened.layout, opened.rate) == (kept, RATE)
    video_writing.write(tmp_path / "a.mp4", [np.zeros((32, 32, 3), np.uint8)] * 25, path)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.audio[0].layout.name == kept
    again = read(tmp_path / "a.mp4")
    expected = weights(names, 2) @ sound if kept == "stereo" else sound
    for found, wanted in zip(again, expected, strict=True):
        if wanted.any():  # AAC
            assert level(found) == pytest.approx(level(wanted), abs=0.1)
        else:
            assert level(found) < -50


def test_one_and_two_channels_stay_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sound = rng.uniform(-1, 1, (2, RATE)).astype(np.float32)
    stereo = recordings.write_sound(tmp_path / "2.wav", sound, RATE, "pcm_f32le")
    assert np.array_equal(read(stereo), sound)
    mean = (sound[0] + sound[1]) / np.float32(2)
    assert np.array_equal(read(stereo, channels=1)[0], mean)
    mono = recordings.write_sound(tmp_path / "1.wav", 3 * sound[0], RATE, "pcm_f32le")
    assert np.array_equal(read(mono)[0], 3 * sound[0])  # also beyond full scale
    assert np.array_equal(read(mono, channels=2), 3 * sound[:1])  # at most two


def test_all_channels_at_full_level_do_not_clip(tmp_path: Path) -> None:
    at = np.arange(RATE) / RATE
    quiet, loud = 0.2 * np.sin(2 * np.pi * 300 * at), np.sin(2 * np.pi * 300 * at)
    sound = np.tile(np.where((at > 0.4) & (at < 0.6), loud, quiet), (6, 1))
    path = write_layout(tmp_path / "a.wav", sound, "5.1", "pcm_s16le")
    mixed = read(path, channels=1)[0]
    assert np.abs(mixed).max() <= 1.0
    total = weights(SURROUND, 1).sum()
    plain = total * np.rint(quiet * 32767) / 32768
    away = (at < 0.34) | (at > 0.66)
    assert np.abs(mixed - plain)[away].max() < 2e-4  # full level but near the loud part
    inside = (at > 0.46) & (at < 0.54)
    assert np.abs(mixed[inside] - loud[inside]).max() < 0.01  # turned down, its shape kept


def test_the_limiter_gives_the_same_in_any_chunking() -> None:
    rng = np.random.default_rng(1)
    sound = rng.normal(0, 0.3, (6, 30_000)).astype(np.float32)
    whole = Downmix(SURROUND, 2, 16_000)
    expected = np.concatenate([whole.push(sound), whole.finish()], axis=1)
    assert expected.shape == (2, 30_000) and np.abs(expected).max() <= 1.0
    pieces = Downmix(SURROUND, 2, 16_000)
    cuts = np.sort(rng.integers(0, 30_000, 25))
    out = [pieces.push(part) for part in np.split(sound, cuts, axis=1)]
    found = np.concatenate([*out, pieces.finish()], axis=1)
    assert np.abs(found - expected).max() < 1e-6
    plain = weights(SURROUND, 2) @ sound
    assert np.abs(plain).max() > 1.0  # there was something to limit
    assert (np.abs(expected) <= np.abs(plain) + 1e-6).all()  # gain is never above 1


def test_places_that_nobody_knows_are_averaged() -> None:
    assert weights(["NONE"] * 9, 1).tolist() == [[pytest.approx(1 / 9)] * 9]
    assert weights(["AMBI0", "AMBI1", "AMBI2", "AMBI3"], 2).tolist() == [[0.25] * 4] * 2
    assert weights(["FL", "FR", "FC", "BC"], 1)[0] == pytest.approx(
        [0.7071, 0.7071, 1, 0.7071], 1e-4
    )
    for layout in ("2.1", "4.0", "5.0", "5.1", "6.1", "7.1", "7.1.4", "22.2"):
        names = [channel.name for channel in av.AudioLayout(layout).channels]
        both = weights(names, 2)
        assert {round(float(w), 3) for w in both.flat} <= {0.0, 0.5, 0.707, 1.0}, layout
        assert both[0].sum() == pytest.approx(both[1].sum()), layout
        assert all(both[:, names.index(name)].max() == 0 for name in names if "LFE" in name)
