"""Formats, sound, subtitles and rates of written videos, read back by PyAV and Pillow."""

from __future__ import annotations

import io
import os
import sys
import types
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import av
import numpy as np
import pytest
import torch
from PIL import Image

from helpers import media as recordings
from talkingface import (
    face_preparation,
    frame_rates,
    jobs,
    subtitles,
    video_formats,
    video_writing,
)
from talkingface.contract import Generated
from talkingface.errors import BadRequest, OutputError, UnreadableMedia
from talkingface.face_options import FaceOptions
from talkingface.frames import OutputFrame
from talkingface.motion import Motion
from talkingface.output_options import OutputOptions
from talkingface.render.alpha import unmixed

SRT = """1
00:00:00,200 --> 00:00:00,600
<i>One</i>

2
00:00:01,000 --> 00:01:00,000
two
lines
"""


def disc(k: int, alpha: bool) -> np.ndarray:
    """A red disc that moves over a ramp; what is beyond a larger disc is transparent."""
    y, x = np.mgrid[:64, :96]
    out = np.stack([x * 2, y * 3, np.full_like(x, 128)], -1).astype(np.uint8)
    out[(x - 30 - k) ** 2 + (y - 32) ** 2 < 150] = (220, 40, 40)
    around = (255 * ((x - 48) ** 2 + (y - 32) ** 2 < 900)).astype(np.uint8)
    return np.dstack([out, around]) if alpha else out


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def shown(path: Path, decoder: str | None = None) -> list[tuple[float, np.ndarray]]:
    """(time, RGBA) of every frame, by Pillow for WebP and by FFmpeg for the others."""
    if path.suffix == ".webp":
        with Image.open(path) as image:
            found = []
            for k in range(image.n_frames):  # type: ignore[attr-defined]
                image.seek(k)
                found.append((k / 25, np.array(image.convert("RGBA"))))
            return found
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames: list[Any]
        if decoder is None:
            frames = list(container.decode(stream))
        else:
            context: Any = av.CodecContext.create(decoder, "r")
            frames = [f for p in container.demux(stream) if p.size for f in context.decode(p)]
            frames += context.decode(None)
        return [
            (float(f.pts * f.time_base), f.to_ndarray(format="rgba", src_colorspace=1))
            for f in frames
        ]


@pytest.mark.parametrize(
    ("name", "codec", "quality"),
    [
        ("a.mp4", None, 29),
        ("a.mp4", "h265", 29),
        ("a.mp4", "av1", 29),
        ("a.mov", None, 29),
        ("a.mov", "prores", 40),
        ("a.webm", None, 29),
        ("a.gif", None, 27),
        ("a.webp", None, 27),
    ],
)
def test_every_format_shows_its_frames_at_their_times(
    tmp_path: Path, name: str, codec: str | None, quality: float
) -> None:
    options = OutputOptions(codec=codec)  # type: ignore[arg-type]
    frames = [disc(k, False) for k in range(12)]
    path = tmp_path / name
    assert video_writing.write(path, frames, torch.zeros(12 * 640), options=options) == 12
    found = shown(path)
    assert [time for time, _ in found] == pytest.approx([k / 25 for k in range(12)], abs=1e-3)
    assert min(psnr(a[..., :3], b) for (_, a), b in zip(found, frames, strict=True)) > quality
    assert [own.name for own in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "decoder"),
    [("a.webm", "libvpx-vp9"), ("a.mov", None), ("a.gif", None), ("a.webp", None)],
)
def test_transparent_parts_stay_so(tmp_path: Path, name: str, decoder: str | None) -> None:
    frames = [disc(k, True) for k in range(6)]
    path = tmp_path / name
    video_writing.write(path, frames, None)
    for (_, found), given in zip(shown(path, decoder), frames, strict=True):
        assert np.abs(found[..., 3].astype(int) - given[..., 3]).mean() < 3
        opaque = given[..., 3] == 255
        assert psnr(found[opaque][:, :3], given[opaque][:, :3]) > 26


def test_png_files_are_exact_and_appear_together(tmp_path: Path) -> None:
    frames = [disc(k, True) for k in range(3)]
    video_writing.write(f"{tmp_path}/frames/", frames, None, tag="Synthetic")
    video_writing.write(tmp_path / "f%03d.png", frames, None)
    for name in ("frames/%05d.png", "f%03d.png"):
        for k, given in enumerate(frames, start=1):
            with Image.open(tmp_path / (name % k)) as image:
                assert np.array_equal(np.array(image), given)
    with Image.open(tmp_path / "frames" / "00001.png") as image:
        assert image.text["Comment"] == "Synthetic"  # type: ignore[attr-defined]
    with pytest.raises(OutputError, match=r"00001\.png: exists already"):
        video_writing.write(f"{tmp_path}/frames/", frames, None)

    def broken() -> Iterator[np.ndarray]:
        yield frames[0]
        raise StopAsyncIteration

    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(StopAsyncIteration):
        video_writing.write(tmp_path / "g%03d.png", broken(), None)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    video_writing.write(tmp_path / "f%03d.png", frames[:2], None, overwrite=True)
    assert len(list(tmp_path.glob("f*.png"))) == 2  # none is left of the longer one


@pytest.mark.parametrize(("kind", "start"), [("y4m", b"YUV4MPEG2 W96 H64 F24:1"), ("rgb24", b"")])
def test_raw_frames_on_standard_output(
    monkeypatch: pytest.MonkeyPatch, kind: str, start: bytes
) -> None:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(buffer=out, isatty=lambda: False))
    frames = [disc(k, False) for k in range(3)]
    options = OutputOptions(fps=24, pipe=kind)  # type: ignore[arg-type]
    video_writing.write("-", frames, None, options=options)
    data = out.getvalue()
    assert data.startswith(start)
    if kind == "rgb24":
        assert data == b"".join(frame.tobytes() for frame in frames)
    else:
        assert data.count(b"FRAME\n") == 3 and len(data) > 3 * 96 * 64 * 3 // 2


def test_a_reader_that_goes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        with pytest.raises(OutputError, match="-: the program that reads standard output closed"):
            video_writing.write("-", [disc(k, False) for k in range(30)], None)
        gone.write("what Python writes at its end goes nowhere")


@pytest.mark.parametrize("frames", [1, 3])
def test_gif_and_webp_say_in_their_metadata_what_they_are(tmp_path: Path, frames: int) -> None:
    tag = "Synthetic <face> & speech, " + "long " * 80
    given = [disc(5 * k, True) for k in range(frames)]
    for name in ("a.gif", "a.webp"):
        video_writing.write(tmp_path / name, given, None)
        plain = [picture for _, picture in shown(tmp_path / name)]
        video_writing.write(tmp_path / name, given, None, tag=tag, overwrite=True)
        assert np.array_equal(plain, [picture for _, picture in shown(tmp_path / name)])
    with Image.open(tmp_path / "a.gif") as image:
        assert image.info["comment"].decode() == tag
    with Image.open(tmp_path / "a.webp") as image:
        xmp = ElementTree.fromstring(image.info["xmp"])
        assert [own.text for own in xmp.iter() if own.tag.endswith("}li")] == [tag]
    size = int.from_bytes((tmp_path / "a.webp").read_bytes()[4:8], "little")
    assert size + 8 == (tmp_path / "a.webp").stat().st_size


def test_what_a_format_cannot_have() -> None:
    for name, options, said in (
        ("a.webm", OutputOptions(codec="h264"), "webm holds no h264: give --codec vp9 or av1"),
        ("a.gif", OutputOptions(fps=60), "gif shows at most 50 frames per second, not 60"),
        ("a.gif", OutputOptions(subtitles="a.srt"), "gif has no subtitles"),
        ("a.webp", OutputOptions(audio_bitrate=64_000), "webp has no sound"),
        ("a.mp4", OutputOptions(fps=7), "fps is 7: give 10 to 60"),
        ("a.mp4", OutputOptions(burn_subtitles=True), "give their SRT file too"),
        ("a.mp4", OutputOptions(audio_bitrate=5), "audio_bitrate is 5: give 6000 to 1000000"),
    ):
        with pytest.raises(BadRequest, match=said):
            video_formats.check(name, options)
    with pytest.raises(OutputError, match="give one number"):
        video_writing.check_output("a%02d-%d.png")


def test_a_codec_whose_encoder_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_formats, "has_encoder", lambda name: name == "libx264")
    with pytest.raises(BadRequest, match="has no encoder of h265: give --codec h264, or another"):
        video_formats.check("a.mp4", OutputOptions(codec="h265"))


@pytest.mark.parametrize(
    ("fps", "rate"),
    [("29.97", (30000, 1001)), (59.94, (60000, 1001)), (24, (24, 1)), (50.0, (50, 1))],
)
def test_rates_are_exact(fps: float | str, rate: tuple[int, int]) -> None:
    assert OutputOptions(fps=fps).rate == Fraction(*rate)


# --- sound ----------------------------------------------------------------------------------------


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(audio=0) if p.size]


@pytest.mark.parametrize(
    ("source", "codec", "rate", "name"),
    [
        ("a.m4a", "aac", 44_100, "out.mp4"),
        ("a.mp3", "libmp3lame", 44_100, "out.mov"),
        ("a.m4a", "alac", 44_100, "out.mp4"),
        ("a.opus", "libopus", 48_000, "out.webm"),
    ],
)
def test_sound_is_copied_bit_by_bit_and_in_its_place(
    tmp_path: Path, source: str, codec: str, rate: int, name: str
) -> None:
    times = [0.2, 1.0, 2.5]
    clicks = np.tile(recordings.clicks(rate, times, 3.0), (2, 1))
    given = recordings.write_sound(tmp_path / source, clicks, rate, codec)
    path = tmp_path / name
    video_writing.write(path, [disc(0, False)] * 75, given)
    own = packets(given)
    assert packets(path) == own[: len(packets(path))] and len(own) - len(packets(path)) <= 2
    decoded, found = recordings.decode_sound(path)
    assert found == rate and decoded.shape[0] == 2
    assert recordings.onsets(decoded[0], rate, times) == pytest.approx(times, abs=0.001)
    # cut where the frames end, within the last packet
    short = tmp_path / f"short-{name}"
    video_writing.write(short, [disc(0, False)] * 40, given)
    decoded, _ = recordings.decode_sound(short)
    assert 1.6 <= decoded.shape[1] / rate < 1.6 + 0.1
    # with a bit rate of its own it is encoded
    video_writing.write(
        path,
        [disc(0, False)] * 75,
        given,
        options=OutputOptions(audio_bitrate=48_000),
        overwrite=True,
    )
    assert packets(path) != own


def test_five_channels_and_a_subwoofer_keep_their_level_and_layout(tmp_path: Path) -> None:
    rate, tone = 48_000, np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000) * 0.3
    channels = np.zeros((6, rate))
    channels[2] = tone  # the centre
    source = tmp_path / "a.wav"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout="5.1")
        packed = (channels.T.reshape(1, -1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(packed, "s16", "5.1")
        frame.sample_rate = rate
        container.mux([*stream.encode(frame), *stream.encode(None)])
    for name in ("a.mp4", "a.webm"):
        video_writing.write(tmp_path / name, [disc(0, False)] * 25, source)
        with av.open(str(tmp_path / name)) as container:
            assert container.streams.audio[0].layout.name == "5.1"
        decoded, _ = recordings.decode_sound(tmp_path / name)
        middle = decoded[:, 12_000:36_000]
        loud = np.sqrt((middle**2).mean(1))
        assert loud[2] == pytest.approx(0.3 / np.sqrt(2), rel=0.05)  # the tone's own level
        assert np.delete(loud, 2).max() < 0.01


# --- subtitles ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
def test_subtitles_are_a_track_with_their_times(tmp_path: Path, name: str) -> None:
    file = tmp_path / "a.srt"
    file.write_text(SRT)
    path = tmp_path / name
    options = OutputOptions(subtitles=file)
    video_writing.write(path, [disc(0, False)] * 50, None, options=options)
    with av.open(str(path)) as container:
        packets: list[Any] = [p for p in container.demux(subtitles=0) if p.size > 2]
        found = [bytes(p) for p in packets]
        times = [float(t * p.time_base) for p in packets for t in (p.pts, p.duration)]
    assert times == pytest.approx([0.2, 0.4, 1.0, 1.0])  # the last ends with the video
    assert b"One" in found[0] and b"<i>" not in found[0] and b"two\nlines" in found[1]


def test_burnt_subtitles_are_at_the_bottom_and_only_in_their_time() -> None:
    painter = subtitles.SubtitlePainter(subtitles._parsed(SRT))
    grey = np.full((240, 320, 4), (90, 90, 90, 0), np.uint8)
    assert painter(grey, Fraction(0)) is grey and painter(grey, Fraction(6, 10)) is grey
    drawn = painter(grey, Fraction(3, 10))
    rows, columns = np.nonzero((drawn != grey).any(-1))
    assert rows.min() > 180 and abs((columns.min() + columns.max()) / 2 - 160) < 3
    assert drawn[..., :3].max() == 255 and drawn[..., :3].min() == 0  # white, with an outline
    assert drawn[rows, columns, 3].max() == 255
    ink, cover = subtitles._drawn("several\nlines of\ntext", 240, 320)
    rows = np.nonzero(ink.any((1, 2)))[0]
    assert (np.diff(rows) > 1).sum() == 2  # three lines, none over another
    assert (255 * cover >= ink - 1).all()  # each inside its outline
    long = subtitles.Subtitle(Fraction(0), Fraction(1), "word " * 30 + "x" * 200)
    drawn = subtitles.SubtitlePainter([long])(grey, Fraction(0))
    columns = np.nonzero((drawn != grey).any((0, 2)))[0]
    assert columns.min() > 2 and columns.max() < 317


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello", "has no subtitles"),
        (b"\xff\xff\x00", "it is no UTF-8"),
        (b"", "has no subtitles"),
    ],
)
def test_what_is_no_srt(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "a.srt"
    file.write_bytes(content)
    with pytest.raises(UnreadableMedia, match=said):
        subtitles.read_srt(file)


# --- frame rates ----------------------------------------------------------------------------------


def moved(values: np.ndarray) -> list[OutputFrame]:
    """Frames whose mesh, change and motion are these numbers (T,)."""
    tensor = torch.from_numpy(values.astype(np.float32))
    made = Generated(
        torch.zeros(1, len(values), 3, 2, 2),
        mesh=tensor[None, :, None, None].expand(1, -1, 4, 2),
        change=tensor[None, :, None, None, None].expand(1, -1, 3, 2, 2),
    )
    motion = Motion.still(np.repeat(values[:, None], 3, 1).astype(np.float32))
    return [
        OutputFrame(np.full((2, 2, 3), t, np.uint8), made, t, motion) for t in range(len(values))
    ]


def seen(frames: list[OutputFrame]) -> np.ndarray:
    return np.array([float(own.made.mesh[0, own.t, 0, 0]) for own in frames])  # type: ignore[index]


@pytest.mark.parametrize("rate", [Fraction(24), Fraction(30000, 1001), Fraction(50), Fraction(60)])
def test_frames_at_any_rate_show_the_middle_of_their_time(rate: Fraction) -> None:
    given = moved(np.arange(40.0))
    count = frame_rates.frame_count(Fraction(40, 25), rate)
    assert count == -(-40 * rate // 25)
    frames = list(frame_rates.at_rate(iter(given), count, rate))
    expected = np.clip((np.arange(count) + 0.5) * 25 / float(rate) - 0.5, 0, 39)
    assert len(frames) == count
    assert seen(frames)[4:-4] == pytest.approx(expected[4:-4], abs=1e-4)  # a ramp is kept
    assert np.abs(seen(frames) - expected).max() < 0.2  # also where it begins and ends
    for frame, place in zip(frames, expected, strict=True):
        assert frame.motion is not None and frame.made.change is not None
        assert frame.motion.expression[frame.t] == pytest.approx(seen([frame])[0], abs=1e-4)
        assert float(frame.made.change[0, frame.t].mean()) == pytest.approx(place, abs=1e-4)
        assert abs(int(frame.crop[0, 0, 0]) - place) <= 0.51


def test_25_frames_a_second_are_the_frames_themselves() -> None:
    given = moved(np.random.default_rng(0).normal(size=9))
    frames = list(frame_rates.at_rate(iter(given), 9, Fraction(25)))
    assert all(a is b for a, b in zip(frames, given, strict=True))


def test_interpolated_motion_stays_between_its_neighbours() -> None:
    values = np.random.default_rng(1).choice([0.0, 0.3, 1.0], size=50)
    frames = list(frame_rates.at_rate(iter(moved(values)), 120, Fraction(60)))
    place = np.clip((np.arange(120) + 0.5) * 25 / 60 - 0.5, 0, 49)
    below, above = values[np.floor(place).astype(int)], values[np.ceil(place).astype(int)]
    found = seen(frames)
    assert (found >= np.minimum(below, above) - 1e-6).all()
    assert (found <= np.maximum(below, above) + 1e-6).all()


@pytest.mark.parametrize("rate", [Fraction(24), Fraction(50), Fraction(60)])
def test_a_stream_of_unknown_length_ends_with_its_frames(rate: Fraction) -> None:
    given = moved(np.arange(10.0))
    frames = list(frame_rates.at_rate(iter(given), None, rate))
    assert len(frames) == frame_rates.frame_count(Fraction(10, 25), rate)


def test_one_frame_at_another_rate() -> None:
    frames = list(frame_rates.at_rate(iter(moved(np.array([0.5]))), 3, Fraction(60)))
    assert seen(frames).tolist() == [0.5] * 3


def test_colours_behind_an_edge_are_taken_out() -> None:
    alpha = np.array([[0, 64, 128, 255]], np.uint8)
    colour, behind = np.array([200, 100, 50.0]), (255, 255, 255)
    share = alpha[..., None] / 255
    mixed = np.rint(share * colour + (1 - share) * np.array(behind)).astype(np.uint8)
    out = unmixed(mixed, alpha, behind)
    assert np.array_equal(out[..., 3], alpha)
    assert np.abs(out[0, 1:, :3] - colour).max() <= 2.5  # rounding, divided by the share


def test_a_note_says_when_a_picture_is_shrunk() -> None:
    note = face_preparation.shrink_note
    assert note((3000, 2000), (1280, 853), FaceOptions()) == (
        "shrunk from 3000 x 2000 to 1280 x 853; max_size 0 (--max-size none) keeps its size"
    )
    assert note((1280, 853), (1280, 853), FaceOptions()) is None
    assert note((3000, 2000), (256, 170), FaceOptions(max_size=256)) is None  # it was asked for
    wide = np.zeros((40, 1500, 3), np.uint8)
    assert face_preparation.shrink(wide, np.eye(2, 3), 0)[0] is wide


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["anna.jpg", "ben.jpg"], ["anna", "ben"]),
        (["a/x.jpg", "b/x.jpg", "c.jpg"], ["a-x", "b-x", "c"]),
        (["p/a/x.jpg", "q/a/x.jpg"], ["p-a-x", "q-a-x"]),
        (["x.jpg", "x.png"], ["x-jpg", "x-png"]),
        (["x.jpg", "a/x.jpg", "a/x.png"], ["here-x", "a-x-jpg", "a-x-png"]),
    ],
)
def test_files_of_one_name_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], names: list[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert jobs.distinct_names(files) == names
    planned = jobs.plan(files, ["hello.wav"], "out")
    assert [Path(job.output).name for job in planned] == [f"{name}-hello.mp4" for name in names]
    with pytest.raises(BadRequest, match="would be written twice: give each file once"):
        jobs.plan([files[0], files[0]], ["hello.wav"], "out")
