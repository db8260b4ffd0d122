"""Pictures and sounds in, frames and files out: whole, streamed, pasted back, many at once."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import talkingface
from helpers.drawing import BOX, frog
from talkingface import (
    audio,
    decoding,
    faces,
    geometry,
    picture,
    pipeline,
    streaming,
    video,
    video_writing,
    weights,
)
from talkingface.errors import BadLandmarks, BadRequest, NoFaceFound, OutputError, UnreadableMedia
from talkingface.face_options import FaceKeywords, FaceOptions
from talkingface.face_preparation import open_mouth, shrink
from talkingface.frame_generator import FrameGenerator
from talkingface.frames import Maps
from talkingface.jobs import Job, JobResult, plan
from talkingface.landmarks import MEAN_FACE
from talkingface.models.lipreader import SmallLipReader
from talkingface.pipeline import TalkingFace


def test_loading_imports_what_threads_must_not_be_the_first_to_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PyAV's modules import each other: two threads that begin at the same time both fail."""
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError):
        pipeline.load("cran-tiny")


@pytest.fixture(scope="module")
def sound(speech: Path) -> np.ndarray:
    """1.4 s of the sentence: 35 frames, the last one partial."""
    return audio.load(speech)[8000 : 8000 + 34 * 640 + 100].numpy()


@pytest.fixture(scope="module")
def face(portrait: Path) -> np.ndarray:
    """384x384: small, to be quick."""
    return np.ascontiguousarray(picture.read(portrait)[::2, ::2])


def close(first: Any, second: Any) -> None:
    """Equal to float noise: one level of 255 where a rounding falls the other way."""
    a, b = (np.stack(list(frames)).astype(int) for frames in (first, second))
    assert a.shape == b.shape and np.abs(a - b).max() <= 1


def test_frames_come_as_often_as_asked(
    tiny: TalkingFace, face: np.ndarray, sound: np.ndarray
) -> None:
    made = tiny.generate(face, sound)
    first, second = list(made), list(made)
    assert len(made) == len(first) == 35 and made.fps == 25
    assert all(frame.shape == face.shape and frame.dtype == np.uint8 for frame in first)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("side", [64, 255, 256])
def test_the_bare_face_is_cut_out_of_the_picture(
    tiny: TalkingFace, face: np.ndarray, sound: np.ndarray, side: int
) -> None:
    """In the size that is asked for, made even; where nothing is drawn it is the picture's own."""
    frames = list(tiny.generate(face, sound, show="face", crop_size=side))
    side -= side % 2
    assert {frame.shape for frame in frames} == {(side, side, 3)}
    matrix = talkingface.align(face).matrix.copy()  # pixel (x, y) of 128 is (x + 0.5) s - 0.5
    matrix *= side / 128
    matrix[:, 2] += 0.5 * side / 128 - 0.5
    own = geometry.warp_crop(face, matrix, side)
    rows = slice(0, 50 * side // 128)  # the model decodes the lower face only
    assert all(np.array_equal(frame[rows], own[rows]) for frame in frames)
    assert not np.array_equal(frames[0], own)


def test_a_bare_face_of_no_size_is_refused(
    tiny: TalkingFace, face: np.ndarray, sound: np.ndarray
) -> None:
    for side in (0, 63, 2049):
        with pytest.raises(BadRequest, match=f"crop_size is {side}: give 64 to 2048 pixels"):
            tiny.generate(face, sound, show="face", crop_size=side)
        with pytest.raises(BadRequest, match="crop_size"):
            tiny.open(face, crop_size=side)


def test_a_still_face_gives_the_picture_back_pixel_for_pixel(
    face: np.ndarray, sound: np.ndarray
) -> None:
    frames = list(talkingface.load("still").generate(face, sound))
    assert len(frames) == 35 and all(np.array_equal(frame, face) for frame in frames)


def test_only_the_face_changes(tiny: TalkingFace, face: np.ndarray, sound: np.ndarray) -> None:
    aligned = talkingface.align(face)
    corners = np.array([[0.0, 0.0], [128, 0], [0, 128], [128, 128]]) - 0.5  # pixels' outer edges
    low, high = (
        f(geometry.transform(corners, geometry.invert(aligned.matrix)), axis=0)
        for f in (np.min, np.max)
    )
    outside = np.ones(face.shape[:2], bool)
    outside[int(low[1]) : int(high[1]) + 2, int(low[0]) : int(high[0]) + 2] = False
    frames = list(tiny.generate(face, sound))
    assert outside.any() and any(not np.array_equal(frame, face) for frame in frames)
    assert all(np.array_equal(frame[outside], face[outside]) for frame in frames)


@pytest.mark.parametrize("size", [1, 333, 640, 5000, 100_000])
def test_streamed_equals_whole(
    tiny: TalkingFace, face: np.ndarray, sound: np.ndarray, size: int
) -> None:
    chunks: list[Any] = [sound[start : start + size] for start in range(0, len(sound), size)]
    if size == 1:  # also: empty chunks, and tensors
        chunks = [sound[:0], sound[:1], torch.from_numpy(sound[1:2]), sound[2:], sound[:0]]
    streamed = chain.from_iterable(tiny.stream(face, chunks, show="face"))
    close(streamed, tiny.generate(face, sound, show="face"))


def test_a_frame_comes_as_soon_as_its_sound_is_there(tiny: TalkingFace, face: np.ndarray) -> None:
    given = 0

    def chunks() -> Any:
        nonlocal given
        for _ in range(40):
            given += 160
            yield np.zeros(160, np.float32)

    spec = tiny.model.config.speech
    frames = chain.from_iterable(tiny.stream(face, chunks(), show="face"))
    for number, _ in enumerate(frames, start=1):
        needed = number * 640 + spec.latency * 16_000
        if given < 6400:
            assert needed <= given < needed + 160


def test_the_length_of_a_chunk_changes_nothing(
    tiny: TalkingFace, face: np.ndarray, sound: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(tiny.generate(face, sound, show="face"))
    monkeypatch.setattr(streaming, "CHUNK", 3)
    close(tiny.generate(face, sound, show="face"), whole)


def test_a_long_sound_is_never_in_the_model_at_once(
    tiny: TalkingFace, face: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest, generate = 0, FrameGenerator.generate

    def spy(self: FrameGenerator, *arguments: Any) -> Any:
        nonlocal longest
        longest = max(longest, len(arguments[0]))  # the windows of speech
        return generate(self, *arguments)

    monkeypatch.setattr(FrameGenerator, "generate", spy)
    made = tiny.generate(face, np.zeros(20 * 16_000, np.float32), show="face")
    assert sum(1 for _ in made) == 500
    assert longest <= streaming.CHUNK + 1


def test_maps_are_what_the_model_made(
    tiny: TalkingFace, face: np.ndarray, sound: np.ndarray
) -> None:
    made = tiny.generate(face, sound)
    maps = list(made.maps())
    assert len(maps) == 35
    for one in maps:
        assert one.mask is not None and one.mask.shape == (128, 128)
        assert 0 <= one.mask.min() and one.mask.max() <= 1
        assert one.colour is not None and one.colour.dtype == np.uint8
        assert one.landmarks is not None and one.landmarks.shape == (68, 2)
    bare = tiny.generate(face, sound, show="face", crop_size=128)  # the crop's own pixels
    window = np.s_[62:118, 30:98]  # of what the model draws, at full strength
    for one, frame in zip(maps, bare, strict=True):
        assert one.crop.shape == frame.shape == (128, 128, 3)
        assert np.abs(one.crop[window].astype(int) - frame[window]).max() <= 1
    still = next(talkingface.load("still").generate(face, sound).maps())
    assert still.mask is None and still.colour is None and still.panels() is None


def test_the_panels_are_attention_colour_and_face(
    tiny: TalkingFace, face: np.ndarray, sound: np.ndarray
) -> None:
    one = next(tiny.generate(face, sound).maps())
    panels = one.panels()
    assert one.mask is not None and one.colour is not None
    assert panels is not None and panels.shape == (256, 768, 3) and panels.dtype == np.uint8
    attention, colour, crop = np.split(panels, 3, axis=1)
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        assert np.array_equal(colour[dy::2, dx::2], one.colour)
        assert np.array_equal(crop[dy::2, dx::2], one.crop)
        for channel in range(3):
            shown = attention[dy::2, dx::2, channel].astype(float)
            assert np.abs(shown - one.mask * 255).max() <= 0.5 + 1e-4
    lit = Maps(one.crop, np.ones((128, 128), np.float32), one.colour, None).panels()
    assert lit is not None and (lit[:, :256] == 255).all()  # white is new


def test_the_maps_are_saved_in_the_same_pass(
    tiny: TalkingFace,
    face: np.ndarray,
    sound: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = tiny.generate(face, sound)
    alone, path, maps = (tmp_path / f"{name}.mp4" for name in ("alone", "talking", "maps"))
    made.save(alone)
    generated, generate = [], FrameGenerator.generate

    def spy(self: FrameGenerator, *arguments: Any) -> Any:
        generated.append(len(arguments[0]))  # the windows of speech
        return generate(self, *arguments)

    monkeypatch.setattr(FrameGenerator, "generate", spy)
    calls: list[tuple[int, int]] = []
    assert made.save(path, maps=maps, progress=lambda *done: calls.append(done)) == 35
    assert sum(generated) == 35 and calls == [(done, 35) for done in range(1, 36)]
    assert path.read_bytes() == alone.read_bytes()
    info, shown = video.probe(maps), list(video.read_frames(maps))
    assert len(shown) == 35 and (info.width, info.height) == (768, 256)
    assert info.has_audio and info.tag == tiny.tag
    sounds = [audio.load(file) for file in (path, maps)]
    assert torch.equal(*sounds)
    monkeypatch.undo()
    for frame, one in zip(shown, made.maps(), strict=True):
        panels = one.panels()
        assert panels is not None
        far = np.abs(frame.astype(float) - panels).reshape(256, 3, 256, 3).mean((0, 2, 3))
        assert far.max() < 6, far  # H.264's loss; panels in another order differ by far more
    assert panels is not None
    swapped = np.abs(frame[:, :256].astype(float) - panels[:, 256:512]).mean()
    assert swapped > 30


def test_a_model_without_maps_says_so_and_writes_nothing(
    face: np.ndarray, sound: np.ndarray, tmp_path: Path
) -> None:
    made = talkingface.load("still").generate(face, sound)
    with pytest.raises(BadRequest, match=r"model still makes no maps.*as cran and atvg do"):
        made.save(tmp_path / "a.mp4", maps=tmp_path / "maps.mp4")
    assert list(tmp_path.iterdir()) == []


def test_maps_that_cannot_be_written_leave_no_video(
    tiny: TalkingFace, face: np.ndarray, sound: np.ndarray, tmp_path: Path
) -> None:
    taken = tmp_path / "maps.mp4"
    taken.write_bytes(b"mine")
    made = tiny.generate(face, sound)
    with pytest.raises(OutputError, match=r"maps\.mp4: exists already"):
        made.save(tmp_path / "a.mp4", maps=taken)

    with pytest.raises(OutputError, match="given twice"):
        made.save(tmp_path / "a.mp4", maps=tmp_path / "." / "a.mp4")

    def stop(done: int, total: int) -> None:
        if done == 20:
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        made.save(tmp_path / "a.mp4", maps=taken, overwrite=True, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["maps.mp4"]
    assert taken.read_bytes() == b"mine"


@pytest.fixture
def no_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks for a face fails."""

    def looked() -> None:
        raise AssertionError("somebody looked for a face")

    monkeypatch.setattr("talkingface.faces.detect.detector", looked)
    monkeypatch.setattr("talkingface.faces.detect.mesh", looked)


def test_the_networks_are_watched(face: np.ndarray, no_networks: None) -> None:
    for box in (None, BOX):
        with pytest.raises(AssertionError, match="somebody looked"):
            talkingface.align(face, box=box)


def test_given_landmarks_make_the_frames_that_found_ones_make(
    tiny: TalkingFace,
    face: np.ndarray,
    sound: np.ndarray,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    sound, portrait, points = sound[:6400], tmp_path / "face.png", tmp_path / "points.json"
    picture.write_png(portrait, face)
    assert pipeline.find_landmarks(portrait, points) == []
    shows: tuple[Any, ...] = ("face", "picture")
    found = [np.stack(list(tiny.generate(portrait, sound, show=show))) for show in shows]
    aligned = talkingface.align(portrait)
    request.getfixturevalue("no_networks")
    array = np.array(json.loads(points.read_text())["landmarks"])
    for given in (points, str(points), array):
        again = talkingface.align(portrait, landmarks=given)
        assert np.array_equal(again.crop, aligned.crop)
        assert np.array_equal(again.landmarks, aligned.landmarks)
    for show, frames in zip(shows, found, strict=True):
        made = tiny.generate(portrait, sound, landmarks=points, show=show)
        assert np.array_equal(np.stack(list(made)), frames)
    streamed = tiny.stream(portrait, [sound], landmarks=array, show="face")
    close(chain.from_iterable(streamed), found[0])
    moved = tiny.generate(portrait, sound, landmarks=array + np.array([40, 0]), show="face")
    assert not np.array_equal(next(iter(moved)), found[0][0])


def test_jobs_of_one_picture_with_other_landmarks_are_other_faces(
    tiny: TalkingFace, sound: np.ndarray, tmp_path: Path
) -> None:
    drawing, speech = tmp_path / "frog.png", tmp_path / "short.mp4"
    picture.write_png(drawing, frog())
    video_writing.write(speech, [frog()] * 5, sound)
    files = [tmp_path / "left.json", tmp_path / "right.json"]
    for file, shift in zip(files, (-30, 30), strict=True):
        points = faces.locate(frog(), box=BOX).landmarks + np.array([shift, 0])
        file.write_text(json.dumps(points.tolist()))
    jobs = [
        Job(drawing, speech, file.with_suffix(".mp4"), FaceOptions(landmarks=file, show="face"))
        for file in files
    ]
    jobs.append(Job(drawing, speech, tmp_path / "mean.mp4", FaceOptions(box=BOX, show="face")))
    results = tiny.generate_many(jobs)
    assert [result.error for result in results] == [None] * 3
    assert [result.note is not None for result in results] == [False, False, True]
    left, right, mean = (next(video.read_frames(job.output)).astype(int) for job in jobs)
    for a, b in ((left, right), (left, mean), (right, mean)):
        assert np.abs(a - b).mean() > 5


def test_a_drawing_speaks_in_its_box(tiny: TalkingFace, sound: np.ndarray) -> None:
    made = tiny.generate(frog(), sound, box=BOX)
    assert made.note is not None and "the mean face was laid into it" in made.note
    changed = np.any([frame != frog() for frame in made], axis=(0, 3))
    rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
    x, y, width, height = BOX
    assert changed.any() and abs(columns.mean() - (x + width / 2)) < 10
    assert rows.mean() > y + height / 2, "it is the lower face that moves"
    assert tiny.generate(frog(), sound, landmarks=MEAN_FACE * 70 + 160).note is None


def test_pixels_are_those_of_the_file_not_of_the_shrunk_picture(
    portrait: Path, tmp_path: Path
) -> None:
    small = picture.read(portrait)
    large = np.zeros((5000, 640, 3), np.uint8)
    large[:640] = cv2.resize(small, (640, 640), interpolation=cv2.INTER_AREA)
    path, points = tmp_path / "large.bmp", tmp_path / "points.json"
    cv2.imwrite(str(path), large[..., ::-1])
    assert picture.read(path).shape[0] == picture.MAX_SIDE
    own = faces.find_faces(large[:640])[0]
    assert pipeline.find_landmarks(path, points, box=own.box) == []
    written = json.loads(points.read_text())
    assert written["size"] == [640, 5000]
    assert np.abs(np.array(written["landmarks"]) - own.landmarks).max() < 10
    boxed, given = talkingface.align(path, box=own.box), talkingface.align(path, landmarks=points)
    assert np.abs(given.landmarks - boxed.landmarks).max() < 1e-5
    assert np.abs(given.crop.astype(int) - boxed.crop).max() <= 1
    assert given.matrix[0, 0] > talkingface.align(large[:640]).matrix[0, 0] * 1.15
    with pytest.raises(NoFaceFound, match="which is 640x5000 pixels"):
        talkingface.align(path, box=(0.0, 5001.0, 90.0, 90.0))
    with pytest.raises(BadLandmarks, match="which is 640x5000 pixels"):
        talkingface.align(path, landmarks=np.array(written["landmarks"]) * 2)
    # 4300 pixels further down, below row 4096: there in the file only
    low = talkingface.align(path, landmarks=np.array(written["landmarks"]) + np.array([0, 4300.0]))
    assert np.abs(low.landmarks - given.landmarks).max() < 1e-4
    shift = geometry.invert(low.matrix)[:, 2] - geometry.invert(given.matrix)[:, 2]
    assert np.abs(shift - [0, 4300 * 4096 / 5000]).max() < 1e-6


def test_a_face_that_is_cut_gives_landmarks_on_the_edge(portrait: Path, tmp_path: Path) -> None:
    cut, points = tmp_path / "cut.png", tmp_path / "points.json"
    whole = picture.read(portrait)
    x = round(talkingface.faces.find_faces(whole)[0].box[0])
    picture.write_png(cut, np.ascontiguousarray(whole[:, x + 40 :]))
    (note,) = pipeline.find_landmarks(cut, points)
    count = int(note.split(" of 68 points lie outside")[0].split()[-1])
    written = np.array(json.loads(points.read_text())["landmarks"])
    assert 0 < count == (written[:, 0] == 0).sum()
    assert (
        np.abs(
            talkingface.align(cut, landmarks=points).matrix - talkingface.align(cut).matrix
        ).max()
        < 1e-9
    ), "the jaw does not place the crop"


def test_saved_with_its_sound_and_a_tag(
    tiny: TalkingFace, portrait: Path, speech: Path, tmp_path: Path
) -> None:
    path, calls = tmp_path / "talking.mp4", []
    made = tiny.generate(portrait, speech, max_size=256)
    assert made.save(path, progress=lambda done, total: calls.append((done, total))) == 75
    assert calls == [(done, 75) for done in range(1, 76)]
    info = video.probe(path)
    assert (info.width, info.height, info.fps) == (256, 256, 25) and info.has_audio
    assert info.seconds == pytest.approx(3.0, abs=0.04)
    assert info.tag == tiny.tag
    assert info.tag is not None and info.tag.startswith("Synthetic video")
    assert talkingface.__version__ in info.tag and "cran-tiny" in info.tag
    written, given = audio.load(path), audio.load(speech)
    count = min(len(written), len(given)) - 640
    assert np.corrcoef(written[:count], given[:count])[0, 1] > 0.95


def test_an_earlier_file_stays_unless_told(
    tiny: TalkingFace, face: np.ndarray, sound: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "talking.mp4"
    path.write_bytes(b"mine")
    made = tiny.generate(face, sound, show="face")
    with pytest.raises(OutputError, match="exists"):
        made.save(path)
    assert path.read_bytes() == b"mine"
    made.save(path, overwrite=True)
    assert len(list(video.read_frames(path))) == 35


@pytest.mark.parametrize(("width", "height", "most"), [(3001, 1999, 1280), (700, 1001, 500)])
def test_a_large_picture_is_shrunk_and_its_crop_stays_in_place(
    width: int, height: int, most: int
) -> None:
    whole = np.zeros((height, width, 3), np.uint8)
    matrix = np.array([[0.2, -0.05, -30.0], [0.05, 0.2, -80.0]])
    small, combined = shrink(whole, matrix, most)
    rows, columns = small.shape[:2]
    assert max(rows, columns) == most and rows % 2 == 0 and columns % 2 == 0
    points = np.array([[0.0, 0.0], [width - 1, 0], [0, height - 1], [width / 2, height / 3]])
    shrunk = (points + 0.5) * [columns / width, rows / height] - 0.5  # pixel centres
    moved = geometry.transform(shrunk, combined) - geometry.transform(points, matrix)
    assert np.abs(moved).max() < 0.5 * 0.2 * width / columns  # half a small pixel, in the crop


def test_a_small_picture_keeps_its_pixels() -> None:
    whole = np.zeros((101, 77, 3), np.uint8)
    matrix = np.eye(2, 3)
    assert shrink(whole, matrix, 101)[0] is whole


def test_one_of_two_faces(tiny: TalkingFace, face: np.ndarray, sound: np.ndarray) -> None:
    two = np.full((384, 576, 3), 128, np.uint8)
    two[:, :384], two[100:292, 384:] = face, face[::2, ::2]
    largest, second = talkingface.align(two), talkingface.align(two, face=2)
    assert geometry.invert(largest.matrix)[0, 2] < 350 < geometry.invert(second.matrix)[0, 2]
    boxed = talkingface.align(two, box=(400.0, 125.0, 160.0, 160.0))
    assert np.abs(boxed.landmarks - second.landmarks).max() < 0.02
    frames = list(tiny.generate(two, sound, face=2))
    assert all(np.array_equal(frame[:, :350], two[:, :350]) for frame in frames)
    with pytest.raises(NoFaceFound):
        tiny.generate(two, sound, face=3)
    with pytest.raises(BadRequest, match="not both"):
        tiny.generate(two, sound, face=1, box=(0.0, 0.0, 9.0, 9.0))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.zeros(639, np.float32), "at least 640 samples"),
        (np.zeros((2, 3, 16_000), np.float32), "(2, 3, 16000)"),
        (np.zeros(16_000, np.complex64), "complex64"),
        (np.full(16_000, np.nan, np.float32), "NaN"),
    ],
)
def test_a_wrong_sound_is_refused(
    tiny: TalkingFace, face: np.ndarray, bad: np.ndarray, says: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        tiny.generate(face, bad)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((99, 99), np.uint8),
        np.zeros((99, 99, 5), np.uint8),
        np.zeros((99, 99, 3), np.float32),
        np.zeros((0, 99, 3), np.uint8),
    ],
)
def test_a_wrong_picture_is_refused(tiny: TalkingFace, bad: Any, sound: np.ndarray) -> None:
    with pytest.raises(BadRequest, match=r"an array, \(H, W, 3\) uint8 RGB or"):
        tiny.generate(bad, sound)


def test_options_are_an_object_or_keywords(tiny: TalkingFace, face: np.ndarray) -> None:
    options = FaceOptions(show="face", crop_size=128)
    for made in (
        tiny.open(face, options=options),
        tiny.open(face, show="face", crop_size=128),
        tiny.open(face, options=options, crop_size=128),
    ):
        assert made.push(np.zeros(6400, np.float32))[0].shape == (128, 128, 3)
    with pytest.raises(TypeError, match=r"'crop_siz' is no option of a face; known: face, box"):
        tiny.open(face, crop_siz=128)  # type: ignore[call-arg]
    assert [field.name for field in fields(FaceOptions)] == list(FaceKeywords.__annotations__)


def test_a_picture_is_read_once(
    tiny: TalkingFace, portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(decoding.SWITCH, "direct")  # where the spy is
    opened, original = [], Path.open

    def spy(self: Path, *arguments: Any) -> Any:
        opened.append(self)
        return original(self, *arguments)

    monkeypatch.setattr(Path, "open", spy)
    tiny.prepare(portrait)
    assert opened.count(portrait) == 1


def test_a_wrong_device_or_size_is_refused(
    tiny: TalkingFace, face: np.ndarray, sound: np.ndarray
) -> None:
    with pytest.raises(BadRequest, match="give auto, cpu, cuda"):
        talkingface.load("cran-tiny", device="toaster")
    with pytest.raises(BadRequest, match="CUDA devices"):
        talkingface.load("cran-tiny", device="cuda:99")
    with pytest.raises(BadRequest, match="at least 64"):
        tiny.generate(face, sound, max_size=63)
    assert talkingface.load("cran-tiny", device="auto").tag == tiny.tag


def test_weights_of_a_lip_reader_do_not_speak(tmp_path: Path) -> None:
    path = tmp_path / "reader.safetensors"
    weights.save(path, SmallLipReader(), training_data="none", licence="MIT")
    with pytest.raises(BadRequest, match="lipreader-small, which is no generator"):
        talkingface.load(path)


def test_a_failed_job_stops_no_other(
    tiny: TalkingFace,
    portrait: Path,
    speech: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked, locate = [], faces.locate

    def spy(*arguments: Any, **options: Any) -> faces.Located:
        looked.append(options["name"])
        return locate(*arguments, **options)

    monkeypatch.setattr(faces, "locate", spy)
    taken = tmp_path / "taken.mp4"
    taken.write_bytes(b"mine")
    bare = FaceOptions(show="face")
    jobs = [
        Job(portrait, speech, tmp_path / "a.mp4", bare),
        Job(portrait, speech, taken, bare),
        Job(portrait, tmp_path / "none.wav", tmp_path / "b.mp4", bare),
        Job(tmp_path / "none.jpg", speech, tmp_path / "c.mp4", bare),
        Job(portrait, speech, tmp_path / "d.mp4", bare, sheet=tmp_path / "d.png"),
    ]
    seen: list[JobResult] = []
    results = tiny.generate_many(jobs, seen.append)
    assert results == seen and [result.job for result in results] == jobs
    kinds = [type(result.error) for result in results]
    assert kinds == [type(None), OutputError, UnreadableMedia, UnreadableMedia, type(None)]
    assert [result.frames for result in results] == [75, 0, 0, 0, 75]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.mp4", "d.mp4", "d.png", "taken.mp4"] and taken.read_bytes() == b"mine"
    assert looked == [str(portrait)], "one face is looked for once"


def test_every_portrait_with_every_recording() -> None:
    jobs = plan(["x/anna.jpg", "ben.png"], ["hello.wav", "bye.mp3"], "out", show="face")
    assert [Path(job.output) for job in jobs] == [
        Path("out/anna-hello.mp4"),
        Path("out/anna-bye.mp4"),
        Path("out/ben-hello.mp4"),
        Path("out/ben-bye.mp4"),
    ]
    assert all(job.options.show == "face" for job in jobs)
    with pytest.raises(BadRequest, match="written twice"):
        plan(["x/anna.jpg", "x/anna.jpg"], ["hello.wav"], "out")


def test_a_contact_sheet_has_a_place_for_every_frame(face: np.ndarray, sound: np.ndarray) -> None:
    made = talkingface.load("still").generate(face, sound)
    sheet = made.contact_sheet(seconds=1.0, every=5, columns=3)  # frames 0, 5 ... 20
    own = talkingface.align(face).crop
    found = [
        (y, x)
        for y in range(sheet.shape[0] - 127)
        for x in range(sheet.shape[1] - 127)
        if np.array_equal(sheet[y, x], own[0, 0])
        and np.array_equal(sheet[y : y + 128, x : x + 128], own)
    ]
    assert len(found) == 5 and len({y for y, _ in found}) == 2
    with pytest.raises(BadRequest):
        made.contact_sheet(every=0)


def test_a_mouth_torn_wide_open_is_said() -> None:
    from talkingface.landmarks import reference_mesh

    mesh = reference_mesh().astype(np.float32) * 40 + 64
    mesh[14, 1] = mesh[13, 1] + 0.4 * 40
    assert open_mouth(mesh) is None
    mesh[14, 1] = mesh[13, 1] + 0.5 * 40
    assert "closes in part only" in str(open_mouth(mesh))
