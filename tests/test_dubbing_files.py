"""Files of dubbing: times, rotation, colours, tracks and length survive; a stop loses little."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from talkingface import planes, stored_tracks, stored_video
from talkingface.cast import Cast, Voice
from talkingface.dubbing import dubbed_video, passes, source, timeline, work_folder
from talkingface.dubbing.dubbed_video import DubbedVideo
from talkingface.dubbing.timeline import FrameClock, Length
from talkingface.dubbing.track import TrackReport
from talkingface.errors import BadRequest, NoFaceFound, OutputError
from talkingface.motion import Motion
from talkingface.streaming import Speech

UNIT = Fraction(1, 90_000)
BOX = (16, 40, 24, 56)  # y0, y1, x0, x1 of the upright picture, which the stub's face paints


class FakeTracker:
    """In place of the face finder: counts frames, and remembers their times."""

    def __init__(self, options: Any = None) -> None:
        self.times: list[float] = []

    @property
    def count(self) -> int:
        return len(self.times)

    def add(self, time: float, picture: Any) -> None:
        self.times.append(time)

    def finish(self, predict_lips: Any = None) -> list[FakeTrack]:
        return [FakeTrack(self.times)]

    def save(self, path: Path) -> None:
        np.save(path.open("wb"), np.array(self.times))

    @classmethod
    def load(cls, path: Path, options: Any = None) -> FakeTracker:
        own = cls()
        own.times = np.load(path).tolist()
        return own


class FakeTrack(FakeTracker):
    def __init__(self, times: Sequence[float]) -> None:
        self.times = list(times)

    def report(self) -> TrackReport:
        return TrackReport(len(self.times), len(self.times), 0, 0, 0, 0, 0, 1)

    @classmethod
    def load(cls, path: Path, options: Any = None) -> FakeTrack:
        return cls(np.load(path).tolist())


class FakeFace:
    """In place of the renderer: a box whose grey tells the time of the sound."""

    drawn: ClassVar[list[tuple[int, float]]] = []

    def __init__(self, space: Any, track: Any, motion: Any) -> None:
        FakeFace.drawn = []

    def draw(self, index: int, time: float, picture: NDArray[np.uint8]) -> Any:
        FakeFace.drawn.append((index, time))
        if index % 7 == 6:
            return None
        y0, y1, x0, x1 = BOX
        out = picture.copy()
        out[y0:y1, x0:x1] = 40 + round(50 * time) % 160
        return out, BOX


def set_stubs(patch: pytest.MonkeyPatch) -> None:
    """Dub without faces."""
    patch.setattr(passes, "FaceTracker", FakeTracker)
    patch.setattr(passes, "FaceTrack", FakeTrack)
    patch.setattr(dubbed_video, "DubbedFace", FakeFace)


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    set_stubs(monkeypatch)


def picture(number: int, height: int, width: int) -> NDArray[np.uint8]:
    """Smooth colours with a mild, fixed texture; they change from frame to frame."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(number).normal(0, 3, (height, width, 1))
    wave = np.stack([x + 2 * number, 2 * y + number, 255 - x - y], -1) % 256
    smooth = 64 + np.abs(wave - 128)
    return np.asarray(np.clip(smooth + noise, 0, 255), np.uint8)


def make_video(
    path: Path,
    *,
    rate: Fraction | int = 25,
    starts: Sequence[int] | None = None,
    count: int = 30,
    pixels: str = "yuv420p",
    turn: int = 0,
    full: bool = False,
    matrix: int = 1,
    encoder: str = "libx264",
    size: tuple[int, int] = (64, 96),
) -> Path:
    """A video of `picture`; starts: ticks of 1 / 90000 s."""
    height, width = size
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(encoder, rate=rate, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        context = stream.codec_context
        context.color_range, context.colorspace = 2 if full else 1, matrix
        context.color_primaries = context.color_trc = matrix
        if starts is not None:
            context.time_base = UNIT
        if turn:
            stream.set_display_rotation(turn)
        for number in range(count if starts is None else len(starts)):
            frame = av.VideoFrame.from_ndarray(picture(number, height, width), "rgb24").reformat(
                format=pixels, dst_colorspace=matrix, dst_color_range=2 if full else 1
            )
            frame.pts = number if starts is None else starts[number]
            frame.time_base = 1 / Fraction(rate) if starts is None else UNIT
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def dubbed(
    video: Path, output: Path, seconds: float = 1.2, length: Length | None = None, **options: Any
) -> Any:
    """Dub a video by the stub with a tone of so many seconds, which is loud and soft in turn."""
    count = np.arange(round(16_000 * seconds))
    tone = (np.sin(count / 8) / (4 + 12 * (count // 1600 % 2))).astype(np.float32)
    cast, motion = Cast([None], [Voice(Speech(tone))]), Motion.still(np.zeros((1, 4), np.float32))
    space: Any = None
    made = DubbedVideo(video, cast, [motion], space, 0.0, length, "synthetic", lambda: None)
    return made.save(output, **options)


def frames_of(path: Path) -> tuple[stored_video.StoredVideo, list[stored_video.StoredFrame]]:
    found = stored_video.open_stored(path)
    return found, list(stored_video.read_stored(path, found.layout, planes=True))


def times_of(path: Path) -> list[Fraction]:
    found, frames = frames_of(path)
    first = frames[0].time or 0
    return [((frame.time or 0) - first) * found.time_base for frame in frames]


def psnr(one: NDArray[Any], other: NDArray[Any], top: int = 255) -> float:
    return float(10 * np.log10(top**2 / np.mean(np.square(np.subtract(one, other, dtype=float)))))


def fidelity(
    before: stored_video.StoredVideo,
    old: Sequence[stored_video.StoredFrame],
    new: Sequence[stored_video.StoredFrame],
) -> tuple[float, float]:
    """The mean PSNR of luma, and of all planes, at least 16 pixels from the painted box."""
    y0, y1, x0, x1 = BOX
    keep = np.ones(old[0].picture.shape[:2], bool)
    keep[max(0, y0 - 16) : y1 + 16, max(0, x0 - 16) : x1 + 16] = False
    keep = np.rot90(keep, -before.layout.turns)
    wide, high, bits = planes.LAYOUTS[before.layout.pixels]
    found = []
    for one, other in zip(old, new, strict=True):
        for number, (a, b) in enumerate(zip(one.planes, other.planes, strict=True)):
            kept = keep[::high, ::wide] if number else keep
            found.append(min(99.0, psnr(a[kept], b[kept], 2**bits - 1)))
    return float(np.mean(found[::3])), float(np.mean(found))


VARIABLE = (0, 3000, 6100, 9000, 15_000, 18_011, 21_000, 33_000, 36_000, 40_000)


@pytest.mark.parametrize(
    ("rate", "starts"),
    [
        (24, None),
        (25, None),
        (Fraction(30_000, 1001), None),
        (30, None),
        (50, None),
        (60, None),
        (25, VARIABLE),
    ],
)
def test_every_frame_keeps_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: Any, starts: Sequence[int] | None
) -> None:
    """At any rate, and with any stamps: exact to the tick; none is lost where parts join."""
    path = make_video(tmp_path / "a.mp4", rate=rate, starts=starts, count=45)
    monkeypatch.setattr(passes, "_PART", 0.5)
    dubbed(path, tmp_path / "b.mp4", length="video")
    assert times_of(tmp_path / "b.mp4") == times_of(path)
    with av.open(str(path)) as one, av.open(str(tmp_path / "b.mp4")) as other:
        assert other.duration == pytest.approx(one.duration, abs=1e6 / float(rate) / 2)


@pytest.mark.parametrize("turn", [0, 90, -90, 180])
def test_rotation_stays_in_the_file(tmp_path: Path, turn: int) -> None:
    """The stored picture lies as before, with its matrix; the face's side saw it upright."""
    path = make_video(tmp_path / "a.mp4", turn=turn, count=8, size=(96, 128))
    dubbed(path, tmp_path / "b.mp4", length="video")
    (before, old), (after, new) = frames_of(path), frames_of(tmp_path / "b.mp4")
    assert after.display == before.display
    assert (after.layout.height, after.layout.turns) == (96, before.layout.turns)
    for number in range(6):
        y0, y1, x0, x1 = BOX
        grey = 40 + round(50 * number / 25) % 160
        shown = new[number].picture[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2]
        assert np.abs(shown.astype(int) - grey).mean() < 4
    assert min(fidelity(before, old, new)) > 45


@pytest.mark.parametrize(
    ("pixels", "matrix", "full"),
    [
        ("yuv420p", 1, False),
        ("yuv420p", 5, False),
        ("yuv420p", 1, True),
        ("yuv422p", 1, False),
        ("yuv444p", 6, False),
        ("yuv420p10le", 9, False),
    ],
)
def test_colours_are_kept(tmp_path: Path, pixels: str, matrix: int, full: bool) -> None:
    """Tags and depth as before; what is outside the face keeps 45 dB of the planes themselves."""
    path = make_video(tmp_path / "a.mp4", pixels=pixels, matrix=matrix, full=full, count=10)
    dubbed(path, tmp_path / "b.mp4", length="video")
    (before, old), (after, new) = frames_of(path), frames_of(tmp_path / "b.mp4")
    assert dataclasses.replace(after, frames=0, time_base=UNIT) == dataclasses.replace(
        before, frames=0, time_base=UNIT
    )
    assert min(fidelity(before, old, new)) > 45


@pytest.mark.parametrize(
    ("encoder", "name", "codec"),
    [
        ("libx265", "b.mp4", "hevc"),
        ("libsvtav1", "b.mp4", "av1"),
        ("libvpx-vp9", "b.webm", "vp9"),
        ("mpeg4", "b.mp4", "h264"),
    ],
)
def test_codec_is_kept_where_it_can_be(tmp_path: Path, encoder: str, name: str, codec: str) -> None:
    """H.265, AV1 and VP9 stay so; others become H.264, with a note; 45 dB in each."""
    path = tmp_path / f"a{Path(name).suffix}"
    path = make_video(path, encoder=encoder, count=12, size=(128, 192))
    result = dubbed(path, tmp_path / name, 0.48)
    (before, old), (after, new) = frames_of(path), frames_of(tmp_path / name)
    assert after.codec == codec
    assert bool(result.notes) == (before.codec != codec)
    assert len(new) == 12
    assert min(fidelity(before, old, new)) > 45


@pytest.mark.parametrize(
    ("encoder", "pixels", "suffix", "written"),
    [
        ("libvpx-vp9", "yuv420p", ".webm", (95, 71)),
        ("libsvtav1", "yuv420p", ".mp4", (95, 71)),
        ("mjpeg", "yuvj420p", ".mov", (96, 72)),
        ("mjpeg", "yuvj422p", ".mov", (95, 72)),
        ("libx264", "yuv444p", ".mp4", (95, 71)),
    ],
)
def test_odd_sizes(
    tmp_path: Path, encoder: str, pixels: str, suffix: str, written: tuple[int, int]
) -> None:
    """They are kept where the codec can; else the last row and column come twice, with a note."""
    size, (high, wide) = (95, 71), planes.LAYOUTS[pixels.replace("j", "")][1::-1]
    path = make_video(tmp_path / f"a{suffix}", encoder=encoder, pixels=pixels, count=8, size=size)
    result = dubbed(path, tmp_path / f"b{suffix}", 0.32)
    (before, old), (after, new) = frames_of(path), frames_of(tmp_path / f"b{suffix}")
    assert (before.layout.height, before.layout.width) == size
    assert (after.layout.height, after.layout.width) == written
    assert any("its edge is repeated" in note for note in result.notes) == (size != written)
    for one, other in zip(old, new, strict=True):
        steps = [(1, 1), (high, wide), (high, wide)]
        for a, b, (down, right) in zip(one.planes, other.planes, steps, strict=True):
            (height, width), below = a.shape, BOX[1] // down + 4
            kept = b[:height, :width].astype(int)
            assert np.abs(kept[below:] - a[below:]).mean() < 3
            assert b.shape == (-(-written[0] // down), -(-written[1] // right))
            assert np.abs(b[height:, :width].astype(int) - kept[-1:]).max(initial=0) < 20
            assert np.abs(b[:height, width:].astype(int) - kept[:, -1:]).max(initial=0) < 20


@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_unchanged_frames_keep_their_planes(size: tuple[int, int]) -> None:
    """Only samples under changed pixels change, in any orientation and subsampling."""
    rng, (height, width) = np.random.default_rng(0), size
    for turns in range(4):
        for name, (wide, high, bits) in planes.LAYOUTS.items():
            layout = planes.Layout(height, width, name, bool(turns % 2), 1, turns)
            kind: Any = np.uint8 if bits == 8 else np.uint16
            shapes = [size, *[(-(-height // high), -(-width // wide))] * 2]
            unit = 2 ** (bits - 8)
            old: Any = [(rng.integers(60, 180, own) * unit).astype(kind) for own in shapes]
            shown = np.rot90(np.zeros((*size, 3), np.uint8), turns).copy()
            changed = shown.copy()
            changed[-12:, -20:] = 30
            bottom, right = shown.shape[:2]
            bounds = (bottom - 13, bottom, right - 22, right)
            new = planes.change_planes(old, layout, shown, changed, bounds)
            marked = np.rot90(changed.any(-1), -turns)
            assert ((new[0] != old[0]) == marked).all()
            # a grey difference: chroma stays
            assert all((a == b).all() for a, b in zip(new[1:], old[1:], strict=True))
            scale = (2**bits - 1) / 255 if turns % 2 else unit * 219 / 255
            difference = new[0].astype(int) - old[0]
            assert np.abs(difference[marked] - 30 * scale).max() <= 0.5


def test_change_of_colour_is_that_of_the_standard() -> None:
    """A changed block has the luma and chroma that ITU-R BT.709 gives for its colour."""
    layout = planes.Layout(16, 16, "yuv444p", False, 1, 0)
    before, after = np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)
    after[4:8, 4:8] = 200, 30, 90
    black: Any = [np.full((16, 16), level, np.uint8) for level in (16, 128, 128)]
    new = planes.change_planes(black, layout, before, after, (4, 8, 4, 8))
    r, g, b = 200 / 255, 30 / 255, 90 / 255
    luma = 0.2126 * r + 0.7152 * g + 0.0722 * b
    expected = (16 + 219 * luma, 128 + 224 * (b - luma) / 1.8556, 128 + 224 * (r - luma) / 1.5748)
    assert np.allclose([plane[5, 5] for plane in new], expected, atol=0.51)


def test_lengths_are_exact_to_a_frame() -> None:
    """Sources and starts of every mode, for a shorter and a longer sound, by hand."""
    starts, end = [0, 10, 20, 35], 45

    def shown(sound: int, length: Length | None) -> tuple[list[int], list[int], int]:
        found = timeline.timeline(starts, end, Fraction(sound), length)
        return list(found.sources), list(found.starts), found.end

    whole = ([0, 1, 2, 3], starts, 45)
    bounced = ([0, 1, 2, 3, 2, 1, 0], [0, 10, 20, 35, 45, 60, 70], 80)
    assert shown(73, "video") == shown(73, "sound") == shown(25, "video") == whole
    assert shown(73, "bounce") == shown(73, None) == bounced
    assert shown(73, "loop") == ([0, 1, 2, 3, 0, 1, 2], [0, 10, 20, 35, 45, 55, 65], 75)
    assert shown(73, "freeze")[0] == [0, 1, 2, 3, 3, 3, 3]
    assert shown(25, None) == shown(54, None) == whole
    for length in ("sound", "loop", "bounce", "freeze"):
        assert shown(25, length) == ([0, 1, 2], [0, 10, 20], 30)
        assert shown(20, length)[0] == [0, 1]
        assert shown(1, length)[0] == [0]
    assert timeline.timeline([0], 10, Fraction(35), "bounce").sources == [0, 0, 0, 0]
    with pytest.raises(BadRequest, match="bounce"):
        timeline.parse("twice")


def test_sound_is_in_step_after_an_hour() -> None:
    """A loop of 29.97 frames a second for an hour: no rounding adds up."""
    step = 1001  # ticks of 1 / 30000 s
    starts = [number * step for number in range(101)]
    found = timeline.timeline(starts, 101 * step, Fraction(3600 * 30_000), "loop")
    assert list(found.starts) == [number * step for number in range(len(found))]
    assert 0 <= found.end - 3600 * 30_000 < step
    assert [found.sources[k] for k in (100, 101, 100_000)] == [100, 0, 100_000 % 101]


def test_stamps_are_made_to_rise() -> None:
    """Missing stamps take the usual step, those that fall a tick."""
    clock = FrameClock(Fraction(10))
    assert [clock.add(stamp) for stamp in (5, None, None, 7, 100, 90)] == [0, 10, 20, 21, 95, 96]


def test_frames_are_read_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards, backwards in windows, and standing still."""
    path = make_video(tmp_path / "a.mp4", count=30)
    found, frames = frames_of(path)
    stamps = [frame.time for frame in frames]
    monkeypatch.setattr(source, "_WINDOW", 7 * 6 * 64 * 96)
    for order in ([*range(30), *range(28, 0, -1), 0, 1], [3, 4, 4, 4, 5], [9, 8, 20, 2, 2, 1]):
        got = list(source.read_order(path, found, stamps, order))
        assert [frame.time for frame in got] == [stamps[number] for number in order]
        assert all(
            (frame.planes[0] == frames[number].planes[0]).all()
            for frame, number in zip(got, order, strict=True)
        )


@pytest.mark.parametrize("length", ["loop", "bounce", "freeze"])
def test_a_longer_sound_extends_the_video(tmp_path: Path, length: Length) -> None:
    """The file is as long as its sound, to a frame; each frame is drawn at its own time."""
    path = make_video(tmp_path / "a.mp4", count=20)
    result = dubbed(path, tmp_path / "b.mp4", seconds=2.0, length=length)
    assert result.frames == 50
    assert len(times_of(tmp_path / "b.mp4")) == 50
    assert np.allclose([time for _, time in FakeFace.drawn], np.arange(50) / 25)
    with av.open(str(tmp_path / "b.mp4")) as file:
        assert file.duration == pytest.approx(2e6, abs=45_000)


def test_a_shorter_and_a_longer_sound(tmp_path: Path) -> None:
    """`video` keeps all frames, `sound` ends with the sound; a cut is said."""
    path = make_video(tmp_path / "a.mp4", count=25)
    assert dubbed(path, tmp_path / "b.mp4", 0.5).frames == 25
    assert dubbed(path, tmp_path / "c.mp4", 0.5, "sound").frames == 13
    cut = dubbed(path, tmp_path / "d.mp4", 1.5, "video")
    assert cut.frames == 25
    assert "0.50 s of the sound" in cut.notes[0]


@pytest.fixture
def with_tracks(tmp_path: Path) -> Path:
    """A video with two sounds, subtitles in German, chapters and a title."""
    path = make_video(tmp_path / "a.mp4", count=50)
    (tmp_path / "s.srt").write_text(
        "1\n00:00:00,200 --> 00:00:00,900\nGuten Tag\n\n"
        "2\n00:00:01,000 --> 00:00:01,800\nZwei <i>Zeilen</i>\nText\n",
        encoding="utf-8",
    )
    (tmp_path / "m.txt").write_text(
        ";FFMETADATA1\ntitle=A film\n"
        "[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=1000\ntitle=One\n"
        "[CHAPTER]\nTIMEBASE=1/1000\nSTART=1000\nEND=2000\ntitle=Two\n",
        encoding="utf-8",
    )
    out = tmp_path / "full.mp4"
    sine = ["-f", "lavfi", "-i", "sine=duration=2"]
    command: list[Any] = ["ffmpeg", "-v", "error", "-i", path, "-i", tmp_path / "s.srt"]
    command += ["-i", tmp_path / "m.txt", *sine, *sine, "-map", "0:v", "-map", "1", "-map", "3"]
    command += ["-map", "4", "-map_metadata", "2", "-map_chapters", "2", "-c:v", "copy"]
    command += ["-c:s", "mov_text", "-metadata:s:s:0", "language=deu", out]
    if subprocess.run(command, check=False).returncode != 0:
        pytest.skip("needs the ffmpeg command")
    return out


def test_subtitles_chapters_and_title_survive(tmp_path: Path, with_tracks: Path) -> None:
    result = dubbed(with_tracks, tmp_path / "b.mp4", 2.0)
    before, after = (stored_tracks.read_tracks(p) for p in (with_tracks, tmp_path / "b.mp4"))
    assert [(own.text, own.start, own.end) for own in before.texts[0]] == [
        ("Guten Tag", Fraction(1, 5), Fraction(9, 10)),
        ("Zwei Zeilen\nText", Fraction(1), Fraction(9, 5)),
    ]
    assert after.texts == before.texts
    assert after.languages == ["deu"]
    assert before.chapters == [(Fraction(0), Fraction(1), "One"), (Fraction(1), Fraction(2), "Two")]
    assert after.chapters == before.chapters
    assert after.metadata["title"] == "A film"
    assert after.sounds == 1
    assert result.notes == ["the 2 sound tracks of the video are left out"]


def test_pixels_that_are_no_squares(tmp_path: Path) -> None:
    """Their shape is kept: a video of 4:3 in 720 columns is not shown narrower."""
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream: Any = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 90, 72, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(16, 15)
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(picture(number, 72, 90), "rgb24")
            out.mux(stream.encode(frame.reformat(format="yuv420p")))
        out.mux(stream.encode(None))
    dubbed(tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert stored_video.open_stored(tmp_path / "b.mp4").aspect == Fraction(16, 15)


def test_the_file_says_that_it_is_synthetic(tmp_path: Path) -> None:
    dubbed(make_video(tmp_path / "a.mp4", count=5), tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as file:
        assert file.metadata["comment"] == "synthetic"


class Stop(BaseException):
    """Ends a command like a signal."""


def work_of(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.endswith(".parts")]


def test_a_stopped_dubbing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has the bytes of an undisturbed run; only what was not encoded is drawn again."""
    path = make_video(tmp_path / "a.mp4", count=60)
    monkeypatch.setattr(passes, "_PART", 0.8)
    dubbed(path, tmp_path / "whole.mp4", 2.4)

    def stop(done: int, total: int) -> None:
        if done == 60 + 47:  # in the third part
            raise Stop

    with pytest.raises(Stop):
        dubbed(path, tmp_path / "b.mp4", 2.4, progress=stop)
    assert not (tmp_path / "b.mp4").exists()
    assert len(work_of(tmp_path)) == 1
    result = dubbed(path, tmp_path / "b.mp4", 2.4)
    assert result.resumed == 40
    assert FakeFace.drawn[0][0] == 40
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert work_of(tmp_path) == []


def test_a_stopped_tracking_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "a.mp4", starts=VARIABLE)
    dubbed(path, tmp_path / "whole.mp4", 0.4)
    monkeypatch.setattr(passes, "_SAVED", 0.0)

    def stop(done: int, total: int) -> None:
        if done == 6:
            raise Stop

    with pytest.raises(Stop):
        dubbed(path, tmp_path / "b.mp4", 0.4, progress=stop)
    seen: list[int] = []
    dubbed(path, tmp_path / "b.mp4", 0.4, progress=lambda done, total: seen.append(done))
    assert seen[0] == 6
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_other_options_begin_anew(tmp_path: Path) -> None:
    """Work that was left under other options is removed."""
    path = make_video(tmp_path / "a.mp4", count=10)

    def stop(done: int, total: int) -> None:
        if done == 12:
            raise Stop

    for seconds in (1.2, 1.0):
        with pytest.raises(Stop):
            dubbed(path, tmp_path / "b.mp4", seconds, progress=stop)
        assert len(work_of(tmp_path)) == 1


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "a.mp4", count=10)

    def fail(self: Any, predict_lips: Any = None) -> None:
        raise NoFaceFound("a.mp4: no frame shows a face")

    monkeypatch.setattr(FakeTracker, "finish", fail)
    with pytest.raises(NoFaceFound):
        dubbed(path, tmp_path / "b.mp4")
    assert sorted(own.name for own in tmp_path.iterdir()) == ["a.mp4"]


def test_two_processes_do_not_write_one_output(tmp_path: Path) -> None:
    key = "0123456789abcdef"
    with work_folder.work_folder(tmp_path / "b.mp4", key):
        with pytest.raises(OutputError, match="another process"):
            with work_folder.work_folder(tmp_path / "b.mp4", key):
                pass
    assert list(tmp_path.iterdir()) == []


def test_names_that_cannot_be_written(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", count=3)
    with pytest.raises(OutputError, match=r"\.mp4, \.mov, \.webm"):
        dubbed(path, tmp_path / "b.avi")
    with pytest.raises(OutputError, match="given twice"):
        dubbed(path, path, overwrite=True)
