from __future__ import annotations

import os
import resource
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from helpers import media as recordings
from talkingface import audio, video, video_writing
from talkingface.errors import OutputError, UnreadableMedia
from talkingface.media import Sound

TAG = "Synthetic video: talkingface 0.1, model cran (1a2b3c)"
HALF_FRAME = 0.02


def numbered(count: int, rate: Fraction) -> list[tuple[Fraction, np.ndarray]]:
    """Frames whose grey level is their number (below 80)."""
    return [(i / rate, np.full((32, 48, 3), 10 + 3 * i, np.uint8)) for i in range(count)]


def number(picture: np.ndarray) -> int:
    return round((float(picture.mean()) - 10) / 3)


def grey(count: int) -> list[np.ndarray]:
    return [np.full((32, 48, 3), 60, np.uint8)] * count


def noise(count: int, side: int = 96) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield rng.integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_conversion_is_exact_both_ways() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    levels[..., 1] = 255 - levels[..., 1]
    inside = video.to_tensor(levels)
    assert inside.shape == (1, 3, 16, 16) and inside.dtype == torch.float32
    assert inside.min() == -1.0 and inside.max() == 1.0
    assert inside[0, 1, 0, 3] == pytest.approx((255 - 3) / 127.5 - 1)
    assert np.array_equal(video.to_uint8(inside), levels)
    assert video.to_uint8(torch.tensor([-1.3, 0.0, 1.3]).reshape(3, 1, 1)).tolist() == [
        [[0, 128, 255]]
    ]


@pytest.mark.parametrize(
    "rate",
    [Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(50), Fraction(24), Fraction(15)],
)
def test_any_rate_is_read_as_25_by_time_stamps(tmp_path: Path, rate: Fraction) -> None:
    path = recordings.write_video(tmp_path / "a.mp4", numbered(70, rate), "libx264")
    shown = [number(picture) for picture in video.read_frames(path)]
    assert abs(len(shown) - 70 / rate * 25) <= 0.5
    for k, i in enumerate(shown):
        assert abs(i / rate - Fraction(k, 25)) <= 1 / rate / 2 or i == 69


def test_a_variable_rate_is_read_by_its_time_stamps(tmp_path: Path) -> None:
    steps = np.random.default_rng(0).choice([1, 2, 3, 7], size=60)
    times = [Fraction(int(t), 60) for t in np.cumsum(steps) - steps[0]]
    frames = [
        (t, picture) for t, (_, picture) in zip(times, numbered(60, Fraction(1)), strict=True)
    ]
    path = recordings.write_video(tmp_path / "a.mkv", frames, "libx264")
    shown = [number(picture) for picture in video.read_frames(path)]
    assert abs(len(shown) / 25 - float(times[-1])) <= 0.15
    for k, i in enumerate(shown[:-4]):
        best = min(abs(t - Fraction(k, 25)) for t in times)
        # mkv counts milliseconds
        assert abs(times[i] - Fraction(k, 25)) - best <= Fraction(1, 1000)


def test_an_mpeg_program_stream_without_a_frame_count(tmp_path: Path) -> None:
    path = tmp_path / "a.mpg"
    with av.open(str(path), "w", format="mpeg") as container:
        stream = container.add_stream("mpeg1video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for _, picture in numbered(75, Fraction(25)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0
    assert [number(p) for p in video.read_frames(path)] == pytest.approx(range(75), abs=1)


def test_the_display_matrix_is_honoured(tmp_path: Path) -> None:
    corner = np.full((32, 48, 3), 30, np.uint8)
    corner[:16, :24] = (250, 30, 30)
    path = recordings.write_video(
        tmp_path / "a.mp4", [(Fraction(i, 25), corner) for i in range(5)], "libx264"
    )
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # ISO 14496-12, 8.3.2: the matrix of a version 0 header
    one = 1 << 16
    assert struct.unpack(">9i", data[at : at + 36]) == (one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    # x' = 32 - y, y' = x: a quarter turn clockwise, as a telephone held upright writes it
    data[at : at + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 32 * one, 0, 1 << 30)
    path.write_bytes(bytes(data))
    upright = next(video.read_frames(path)).astype(int)
    assert upright.shape == (48, 32, 3)
    assert np.abs(upright - np.rot90(corner, -1)).mean() < 6
    info = video.probe(path)
    assert (info.width, info.height) == (32, 48)


def test_probe_and_tag(tmp_path: Path) -> None:
    path = tmp_path / "a b é.mp4"
    assert video_writing.write(path, grey(50), torch.zeros(50 * 640), tag=TAG) == 50
    info = video.probe(path)
    assert (info.fps, info.width, info.height, info.has_audio) == (25.0, 48, 32, True)
    assert info.seconds == pytest.approx(2.0, abs=0.001)
    assert info.tag == TAG
    with av.open(str(path)) as container:
        assert container.metadata["comment"] == TAG
    video_writing.write(tmp_path / "mute.mp4", grey(5), None)
    assert not video.probe(tmp_path / "mute.mp4").has_audio


def test_the_file_plays_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 150, 120), (30, 60, 90)]
    odd = [np.full((65, 67, 3), colour, np.uint8) for colour in colours]
    video_writing.write(path, odd, torch.zeros(5 * 640))
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")  # faststart
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (68, 66)
        assert stream.codec_context.colorspace == 1  # BT.709, as players assume
        assert container.streams.audio[0].codec_context.name == "aac"
    for colour, picture in zip(colours, video.read_frames(path), strict=True):
        assert np.abs(picture.astype(int) - colour).max() <= 4


@pytest.mark.parametrize(
    ("name", "codec", "rate", "channels"),
    [
        ("a.wav", "pcm_s16le", 44_100, 2),
        ("a.wav", "pcm_s16le", 16_000, 1),
        ("a.mp3", "libmp3lame", 44_100, 1),
        ("a.m4a", "aac", 48_000, 2),
        ("a.wav", "pcm_s16le", 37_000, 1),
    ],
)
def test_lips_and_sound_are_aligned(
    tmp_path: Path, name: str, codec: str, rate: int, channels: int
) -> None:
    flashes = [0, 10, 41, 72]
    times = [k / 25 for k in flashes]
    sound = recordings.clicks(rate, times, 2.99)
    source = recordings.write_sound(tmp_path / name, np.tile(sound, (channels, 1)), rate, codec)
    count = audio.frame_count(len(audio.load(source)))
    frames = [np.full((32, 48, 3), 255 * (k in flashes), np.uint8) for k in range(count)]
    path = tmp_path / "out.mp4"
    video_writing.write(path, frames, source)

    seen = [time for time, picture in recordings.decode_video(path) if picture.mean() > 128]
    assert seen == pytest.approx(times, abs=1e-6)
    decoded, own = recordings.decode_sound(path)
    assert own == (rate if rate != 37_000 else 48_000) and decoded.shape[0] == channels
    assert recordings.onsets(decoded[0], own, times) == pytest.approx(times, abs=0.003)
    assert abs(decoded.shape[1] / own - count / 25) <= 1 / 25
    # and read back by our own readers
    again = [k for k, picture in enumerate(video.read_frames(path)) if picture.mean() > 128]
    assert again == flashes
    back = audio.load(path).numpy()
    assert recordings.onsets(back, 16_000, times) == pytest.approx(times, abs=0.003)


def boxes(data: bytes) -> list[str]:
    """The names of an mp4's outermost boxes (ISO 14496-12, 4.2)."""
    names, at = [], 0
    while at < len(data):
        names.append(data[at + 4 : at + 8].decode())
        at += int.from_bytes(data[at : at + 4], "big")
    assert at == len(data), "a piece ends inside a box"
    return names


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 1), (16_000, 1), (44_100, 2), (None, 1)])
def test_an_mp4_in_pieces_plays_from_the_first_on(
    tmp_path: Path, rate: int | None, channels: int
) -> None:
    flashes, own = [0, 10, 41, 72], rate or 16_000
    times = [k / 25 for k in flashes]
    clicks = np.tile(recordings.clicks(own, times, 3.0), (channels, 1)).astype(np.float32)
    sound = Sound(own, channels, iter(np.array_split(clicks, 7, axis=1))) if rate else None
    frames = [np.full((33, 48, 3), 255 * (k in flashes), np.uint8) for k in range(75)]
    mp4 = video_writing.Fragments(frames[0], sound, tag=TAG)
    pieces = [*(mp4.add(frame) for frame in frames), mp4.finish()]

    first = next(k for k, piece in enumerate(pieces) if piece)
    assert first <= 8  # frames: what a watcher waits for
    assert boxes(pieces[first])[:2] == ["ftyp", "moov"] and TAG.encode() in pieces[first]
    for piece in pieces[first + 1 : -1]:
        assert set(boxes(piece)) <= {"moof", "mdat"} and len(boxes(piece)) in (0, 2, 4)
    at = pieces[first].index(b"avcC") + 5  # ISO 14496-15, 5.3.3.1: profile, constraints, level
    assert f"avc1.{pieces[first][at : at + 3].hex().upper()}" in mp4.mime
    assert ("mp4a.40.2" in mp4.mime) == (rate is not None)

    path = tmp_path / "a.mp4"
    path.write_bytes(b"".join(pieces))
    assert video.probe(path).tag == TAG
    shown = recordings.decode_video(path)
    assert [time for time, _ in shown] == pytest.approx([k / 25 for k in range(75)], abs=1e-6)
    seen = [time for time, picture in shown if picture.mean() > 128]
    assert seen == pytest.approx(times, abs=1e-6)
    if rate is not None:
        decoded, found = recordings.decode_sound(path)
        assert found == rate and decoded.shape[0] == channels
        assert recordings.onsets(decoded[0], rate, times) == pytest.approx(times, abs=0.003)
        assert decoded.shape[1] / rate == pytest.approx(3.0, abs=1024 / rate)


def test_pieces_that_nobody_wants_any_more() -> None:
    mp4 = video_writing.Fragments(np.zeros((32, 48, 3), np.uint8), None)
    mp4.add(np.zeros((32, 48, 3), np.uint8))
    mp4.close()


def test_samples_in_memory_are_written_too_and_cut_where_the_frames_end(tmp_path: Path) -> None:
    sound = recordings.clicks(16_000, [0.5, 1.0], 5.0)
    path = tmp_path / "a.mp4"
    video_writing.write(path, grey(50), torch.from_numpy(sound))
    decoded, rate = recordings.decode_sound(path)
    assert rate == 16_000
    assert recordings.onsets(decoded[0], rate, [0.5, 1.0]) == pytest.approx([0.5, 1.0], abs=0.003)
    assert decoded.shape[1] / rate == pytest.approx(2.0, abs=1024 / rate)  # AAC pads its last frame
    with av.open(str(path)) as container:
        times = [(stream.duration, stream.time_base) for stream in container.streams]
    lengths = [float(count * unit) for count, unit in times if count and unit]
    assert lengths == pytest.approx([2.0, 2.0], abs=0.001)  # which players leave out


def test_sound_that_starts_beside_the_first_frame_is_put_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "late.mkv"
    sound = recordings.clicks(16_000, [0.2], 1.0)
    for delay in (0.3, -0.12):
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            track = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
            shift = max(0.0, -delay)
            for k, picture in enumerate(grey(40)):
                frame = av.VideoFrame.from_ndarray(picture, "rgb24")
                frame.pts, frame.time_base = k * 40 + round(shift * 1000), Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            samples = (sound * 32767).astype(np.int16)[None]
            piece = av.AudioFrame.from_ndarray(samples, "s16", "mono")
            piece.sample_rate, piece.pts = 16_000, round((delay + shift) * 16_000)
            container.mux(track.encode(piece))
            container.mux(track.encode(None))
        decoded = audio.load(path).numpy()
        expected = [0.2 + delay]
        assert recordings.onsets(decoded, 16_000, expected) == pytest.approx(expected, abs=0.002)


def test_writing_streams_and_interleaves(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    sizes: list[int] = []

    def watched() -> Iterator[np.ndarray]:
        for picture in noise(150):
            sizes.extend(part.stat().st_size for part in tmp_path.glob(".*.part"))
            yield picture

    video_writing.write(path, watched(), torch.rand(150 * 640) - 0.5)
    assert sizes[-1] > 0.5 * path.stat().st_size  # it grew while the frames came
    with av.open(str(path)) as container:
        times = [
            (p.pos, p.stream.type, float(p.dts * p.time_base))
            for p in container.demux()
            if p.dts is not None
        ]
    at = {"video": 0.0, "audio": 0.0}
    for _, kind, time in sorted(times):
        at[kind] = time
        assert abs(at["video"] - at["audio"]) < 1.5


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("failure", [StoppedError, KeyboardInterrupt, UnreadableMedia])
def test_whatever_fails_leaves_nothing_and_keeps_the_earlier_file(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield from noise(30)
        raise failure

    path = tmp_path / "a.mp4"
    with pytest.raises(failure):
        video_writing.write(path, broken(), torch.zeros(30 * 640))
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"earlier")
    with pytest.raises(failure):
        video_writing.write(path, broken(), torch.zeros(30 * 640), overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"] and path.read_bytes() == b"earlier"


@pytest.mark.parametrize("limit", [1, 40_000, 300_000])
def test_a_disk_that_fills_up_half_way(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"earlier")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)  # Python ignores SIGXFSZ: writes just fail
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(
            OutputError, match=r"a\.mp4: cannot be written \(.*\); the disk is full"
        ):
            video_writing.write(path, noise(60), torch.zeros(60 * 640), overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"] and path.read_bytes() == b"earlier"


def test_outputs_are_refused_before_a_frame_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never() -> Iterator[np.ndarray]:
        raise AssertionError("asked for a frame")
        yield

    existing, folder = tmp_path / "a.mp4", tmp_path / "b.mp4"
    existing.write_bytes(b"earlier")
    folder.mkdir()
    cases = {
        existing: "exists already; give another name or --overwrite",
        folder: "is a folder",
        tmp_path / "none" / "a.mp4": "does not exist; create it first",
        tmp_path / "a.avi": "give a name that ends in .mp4, .mov, .webm, .gif, .webp, a folder",
    }
    for path, said in cases.items():
        with pytest.raises(OutputError, match=said):
            video_writing.write(path, never(), None)
        with pytest.raises(OutputError, match=said):
            video_writing.check_output(path)
    video_writing.check_output(existing, overwrite=True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="cannot be written to; choose another one"):
        video_writing.check_output(tmp_path / "c.mp4")
    assert existing.read_bytes() == b"earlier"


def test_a_damaged_sound_leaves_nothing(tmp_path: Path) -> None:
    text = tmp_path / "text.wav"
    text.write_text("hello, world " * 20)
    with pytest.raises(UnreadableMedia, match=r"text\.wav"):
        video_writing.write(tmp_path / "a.mp4", grey(10), text)
    assert [p.name for p in tmp_path.iterdir()] == ["text.wav"]


def test_no_frames_and_frames_of_two_sizes(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there are no frames"):
        video_writing.write(tmp_path / "a.mp4", [], None)
    with pytest.raises(ValueError, match="frame 1 is"):
        video_writing.write(tmp_path / "a.mp4", [*grey(1), np.zeros((8, 8, 3), np.uint8)], None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.95, 0.999])
def test_an_mp4_cut_short_is_an_error_not_a_short_video(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.mp4"
    video_writing.write(path, noise(50, 64), torch.rand(50 * 640) - 0.5)
    slow = recordings.write_video(tmp_path / "slow.mp4", numbered(50, Fraction(25)), "libx264")
    for whole in (path, slow):  # the index first, and the index last
        data = whole.read_bytes()
        whole.write_bytes(data[: int(share * len(data))])
        for read in (audio.load, lambda p: list(video.read_frames(p)), video.probe):
            with pytest.raises(UnreadableMedia, match=rf"{whole.name}: ") as caught:
                read(whole)
            assert "\n" not in str(caught.value)


def test_what_is_no_video(tmp_path: Path) -> None:
    sound = recordings.write_sound(tmp_path / "a.wav", np.zeros(16_000), 16_000, "pcm_s16le")
    for path, said in {sound: "has no video", tmp_path / "none.mp4": "no such file"}.items():
        with pytest.raises(UnreadableMedia, match=said):
            next(video.read_frames(path))
        with pytest.raises(UnreadableMedia, match=said):
            video.probe(path)


def test_contact_sheet_shows_every_picture_in_its_place() -> None:
    red, green, wide = (np.full(s, 0, np.uint8) for s in [(64, 64, 3), (64, 64, 3), (50, 200, 3)])
    red[..., 0], green[..., 1], wide[..., 2] = 255, 255, 255
    sheet = video.contact_sheet([[red, green, red], [wide]], ["real", "made"], side=40, gap=2)
    assert sheet.shape == (2 * (18 + 40 + 2), 2 + 3 * 42, 3) and sheet.dtype == np.uint8
    assert sheet[38, 22].tolist() == [255, 0, 0] and sheet[38, 64].tolist() == [0, 255, 0]
    below = sheet[60 + 18 :, :42]
    assert (below == [0, 0, 255]).all(-1).sum() == 10 * 40  # 200 x 50 keeps its shape
    assert (sheet[:18] < 100).any() and (sheet[60 : 60 + 18] < 100).any()  # the labels
    with pytest.raises(ValueError, match="1 rows, but 2 labels"):
        video.contact_sheet([[red]], ["a", "b"])
