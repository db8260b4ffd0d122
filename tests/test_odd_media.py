"""Recordings and videos that are well-formed and odd: their codecs, times and numbers."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
import pytest

from conftest import Cli
from helpers import matroska
from helpers import media as recordings
from talkingface import audio, decoding, media, video
from talkingface.errors import UnreadableMedia
from talkingface.web import limits
from talkingface.web.errors import ApiError


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, str, str]]]:
    """Collect FFmpeg's messages: (level, source, text). Files are read in this process."""
    monkeypatch.setenv(decoding.SWITCH, "direct")
    before = av.logging.get_level()
    av.logging.set_level(av.logging.DEBUG)
    with av.logging.Capture() as lines:
        yield lines
    av.logging.set_level(before)


# ---- codecs


@pytest.mark.parametrize(
    ("track", "decoder"),
    [
        (matroska.video_track(1, b"V_MPEGI/ISO/VVC"), "vvc"),
        (matroska.video_track(1, fourcc=b"Hap1"), "hap"),
        (matroska.video_track(1, fourcc=b"MAGY"), "magicyuv"),
        (matroska.video_track(1), "mjpeg"),
    ],
)
def test_no_odd_picture_of_a_recording_is_decoded(
    tmp_path: Path, said: list[tuple[int, str, str]], track: bytes, decoder: str
) -> None:
    junk = np.random.default_rng(0).bytes(400)
    path = tmp_path / "a.mkv"
    clusters = [matroska.cluster(0, [(1, junk)]), *matroska.second(2, 0)]
    path.write_bytes(matroska.file([track, matroska.sound_track(2)], clusters))
    assert len(audio.load(path)) == 16_000
    assert limits.check_sound(path, 1) == 25
    lines = [text for _, who, text in said if who == decoder]
    assert any(f"Codec ({decoder}) not on whitelist" in line for line in lines)
    if decoder != "vvc":  # its parser speaks, which cuts the file into packets
        assert all("not on whitelist" in line for line in lines)


def test_the_decoder_of_a_chosen_stream_is_one_of_the_list(
    tmp_path: Path, said: list[tuple[int, str, str]]
) -> None:
    junk = np.random.default_rng(0).bytes(400)
    clusters = [matroska.cluster(40 * k, [(1, junk)]) for k in range(9)]
    shown = tmp_path / "shown.mkv"
    shown.write_bytes(matroska.file([matroska.video_track(1, fourcc=b"Hap1")], clusters))
    for read in (video.probe, lambda path: list(video.read_frames(path))):
        with pytest.raises(UnreadableMedia, match=r"shown\.mkv: its video is coded as hap, which"):
            read(shown)
    path = tmp_path / "odd.mkv"
    track = matroska.sound_track(1, codec=b"A_WAVPACK4")
    path.write_bytes(matroska.file([track], clusters))
    for load in (audio.load, lambda path: list(media.open_sound(path).chunks)):
        with pytest.raises(UnreadableMedia, match=r"odd\.mkv: its sound is coded as wavpack"):
            load(path)
    with media.opened(path) as container, pytest.raises(UnreadableMedia, match="coded as wavpack"):
        next(media.decoded(path, container, container.streams.audio[0]))
    lines = [text for _, who, text in said if who in ("hap", "wavpack")]
    assert lines and all("not on whitelist" in line for line in lines)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mpeg1video", "mjpeg", "ffv1", "libvpx"])
def test_what_videos_are_made_of_is_read(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height = stream.width = 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for k in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), "rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert len(list(video.read_frames(path))) == 5


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.wav", "adpcm_ms"), ("a.wav", "pcm_alaw"), ("a.wav", "pcm_s24le"), ("a.m4a", "alac")],
)
def test_what_recordings_are_made_of_is_read(tmp_path: Path, name: str, codec: str) -> None:
    sound = recordings.clicks(16_000, [0.2], 0.5)
    path = recordings.write_sound(tmp_path / name, sound, 16_000, codec)
    assert recordings.onsets(audio.load(path).numpy(), 16_000, [0.2]) == pytest.approx(
        0.2, abs=0.002
    )


# ---- times


def write_times(path: Path, starts: list[float], with_video: bool, rate: int = 16_000) -> Path:
    """A second of sound from each of these times on; with_video: a picture at 0."""
    tracks, clusters = [matroska.sound_track(2, rate)], []
    if with_video:
        tracks.insert(0, matroska.video_track(1))
        clusters = [matroska.cluster(0, [(1, matroska.jpeg())])]
    for start in starts:
        clusters += matroska.second(2, start, rate=rate)
    path.write_bytes(matroska.file(tracks, clusters))
    return path


@pytest.mark.parametrize(
    ("starts", "with_video", "seconds"),
    [
        ([0], True, 1),
        ([30], True, 31),  # it starts late
        ([30], False, 1),  # without pictures that is unknown
        ([0, 60, 90.5], False, 91.5),  # it has holes
        ([20, 100], True, 101),
        ([0, 5, 0, 5], False, 12),  # what jumps back counts again, and its hole as well
    ],
)
def test_silence_comes_in_blocks_and_counts(
    tmp_path: Path, starts: list[float], with_video: bool, seconds: float
) -> None:
    path = write_times(tmp_path / "a.mkv", starts, with_video)
    chunks = [chunk.shape[1] for chunk in media.open_sound(path).chunks]
    assert sum(chunks) == pytest.approx(seconds * 16_000, abs=2)
    assert max(chunks) <= 16_000
    assert limits.check_sound(path, 2) == pytest.approx(seconds * 25, abs=1)
    with pytest.raises(ApiError, match="longer than"):
        limits.check_sound(path, (seconds - 2) / 60)


@pytest.mark.parametrize(
    ("starts", "with_video"),
    [
        ([601], True),
        ([20_000], True),
        ([10**12], True),
        ([0, 602.5], False),
        ([0, 10**7], False),
        ([0, 400, 0, 400], False),  # 1,198 s of holes, though no stamp is later than 401 s
        ([400, 700], True),
    ],
)
def test_a_long_silence_is_refused(tmp_path: Path, starts: list[float], with_video: bool) -> None:
    path = write_times(tmp_path / "a.mkv", starts, with_video)
    for read in (
        lambda: sum(chunk.shape[1] for chunk in media.open_sound(path).chunks),
        lambda: limits.check_sound(path, 10**9),
    ):
        with pytest.raises(
            UnreadableMedia, match=r"a\.mkv: its time stamps jump, so that .* sound"
        ):
            read()


def test_a_late_sound_needs_no_memory(tmp_path: Path) -> None:
    path = write_times(tmp_path / "a.mkv", [590], True)
    tracemalloc.start()
    found = sum(len(part) for part in audio.read(path))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == 591 * 16_000 and most < 4_000_000


@pytest.mark.parametrize(
    ("stamps", "count"),
    [
        ([0, 0.04, 9.0], 226),  # a frame may be shown for long
        ([0, 300.0, 640.0], None),  # of 640 s, 620 are holes
        ([0, 0.04, 700.0], None),
        ([0, 0.04, 1e9], None),
        ([0.0, *(320.0 * k for k in range(1, 9))], None),
    ],
)
def test_a_frame_is_not_repeated_for_years(
    tmp_path: Path, stamps: list[float], count: int | None
) -> None:
    path = tmp_path / "a.mkv"
    clusters = [matroska.cluster(round(1000 * t), [(1, matroska.jpeg())]) for t in stamps]
    path.write_bytes(matroska.file([matroska.video_track(1)], clusters))
    frames = video.read_frames(path)
    if count is not None:
        assert sum(1 for _ in frames) == pytest.approx(count, abs=150)  # the last one's length
        return
    with pytest.raises(UnreadableMedia, match=r"a\.mkv: its time stamps jump, .* pictures"):
        assert sum(1 for _ in itertools.islice(frames, 20_000)) < 20_000


# ---- numbers


def write_header(path: Path, rate: int) -> Path:
    """A WAV of 3,000 samples with this rate in its header."""
    head = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate % 2**32, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head
    body += b"data" + struct.pack("<I", 6000) + matroska.tone(3000)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


@pytest.mark.parametrize("rate", [1, 999, 800_000, 2**31 - 1])
def test_a_rate_that_nothing_is_recorded_at(tmp_path: Path, rate: int) -> None:
    path = write_header(tmp_path / "a.wav", rate)
    with pytest.raises(UnreadableMedia, match=rf"its sound has {rate} samples per second"):
        audio.load(path)


@pytest.mark.parametrize("rate", [8_000, 192_000, 768_000])
def test_a_rate_that_something_is_recorded_at(tmp_path: Path, rate: int) -> None:
    path = recordings.write_sound(tmp_path / "a.wav", np.zeros(rate // 4), rate, "pcm_s16le")
    assert len(audio.load(path)) == pytest.approx(4000, abs=2)


def test_a_sound_of_an_unknown_codec(tmp_path: Path, portrait: Path, cli: Cli) -> None:
    path = tmp_path / "a.mkv"
    track = matroska.sound_track(2, codec=b"A_NOBODYS")
    path.write_bytes(matroska.file([track], matroska.second(2, 0)))
    for read in (audio.load, media.open_sound):
        with pytest.raises(
            UnreadableMedia, match=r"a\.mkv: its sound is coded by an unknown codec"
        ):
            read(path)
    assert limits.check_sound(path, 1) >= 1
    ran = cli("generate", portrait, path, "-o", tmp_path / "a.mp4", "--model", "cran-tiny")
    assert ran.code == 2 and "by an unknown codec" in ran.err and ran.err.count("\n") == 1
