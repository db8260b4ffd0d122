"""Inputs as people have them: each kind of the list of cases, made here, with the right value.

| kind | test |
|---|---|
| colour profiles, Display P3, EXIF, 16 bits, CMYK, grey | `test_picture.py` |
| black-and-white, sepia, dim and coloured light | `test_mouth.py` |
| EXIF with alpha in every kind | `test_alpha_lies_upright_on_a_colour_and_is_kept` |
| GIF, AVIF, animated WebP and PNG, HEIC, a video, wrong suffix | `test_any_file_is_a_picture` |
| HEIC without its package | `test_heic_without_its_package` |
| images of Pillow, bytes, file objects, RGBA arrays | `test_pictures_of_any_type_are_one` |
| turned faces, upside down | `test_a_face_is_found_at_any_angle` |
| meshes that are no face | `test_a_mesh_that_does_not_fit_is_refused` |
| something before the mouth | `test_something_before_the_mouth_is_noted` |
| several people | `test_of_several_faces_a_note_names_the_one_that_speaks` |
| a box outside the picture | `test_a_box_outside_the_picture_is_refused` |
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
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import talkingface
from conftest import EXAMPLES, SENTENCE, Cli
from helpers import media as recordings
from talkingface import audio, decoding, media, picture
from talkingface.errors import BadRequest, NoFaceFound, UnreadableMedia
from talkingface.face_preparation import LoadedImage
from talkingface.faces import align, covered_mouth, find_faces, locate
from talkingface.faces.covered import NOTE
from talkingface.geometry import CropSpec, transform
from talkingface.sound_analysis import NOISE, SILENT
from talkingface.streaming import Speech

RATE = 16_000


@pytest.fixture(scope="module")
def sentence() -> np.ndarray:
    """A sentence of 2.98 s at 16 kHz."""
    return audio.load(SENTENCE).numpy()


def heard(sound: Any, **options: Any) -> np.ndarray:
    """Return the samples that a model hears of any sound."""
    return torch.cat(list(Speech(sound, **options).parts())).numpy()


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    shorter = min(len(a), len(b))
    return float(np.corrcoef(a[:shorter], b[:shorter])[0, 1])


# ---- pictures


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """A face of nobody, 256x256."""
    return np.ascontiguousarray(picture.read(EXAMPLES / "portrait.jpg")[::3, ::3])


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    """Write a picture in the kind that the suffix names; "video.jpg" and the like by `kind`."""
    Image.fromarray(pixels).save(path, **options)
    return path


ANIMATION = "an animation: its first frame is taken"
VIDEO = "a video: its first frame is taken"


@pytest.mark.parametrize(
    ("name", "kind", "frames", "note", "error"),
    [
        ("a.gif", "GIF", 3, ANIMATION, 8),
        ("a.gif", "GIF", 1, None, 8),
        ("a.webp", "WEBP", 3, ANIMATION, 4),
        ("a.png", "PNG", 3, ANIMATION, 0),
        ("a.avif", "AVIF", 3, ANIMATION, 4),
        ("a.avif", "AVIF", 1, None, 4),
        ("a.heic", "HEIF", 1, None, 4),
        ("avif.jpg", "AVIF", 1, None, 4),
        ("heic.jpg", "HEIF", 1, None, 4),
        ("jpeg.png", "JPEG", 1, None, 4),
        ("webp.mp4", "WEBP", 1, None, 4),
        ("a.mp4", "video", 5, VIDEO, 4),
        ("video.jpg", "video", 5, VIDEO, 4),
    ],
)
def test_any_file_is_a_picture(
    tmp_path: Path, pixels: np.ndarray, name: str, kind: str, frames: int, note: str, error: int
) -> None:
    path = tmp_path / name
    if kind == "video":
        shown = [(Fraction(k, 25), pixels if k == 0 else 255 - pixels) for k in range(frames)]
        recordings.write_video(tmp_path / "written.mp4", shown, "libx264").rename(path)
    else:
        if kind == "HEIF":
            pytest.importorskip("pillow_heif").register_heif_opener()
        more = [Image.fromarray(255 - pixels)] * (frames - 1)
        options: dict[str, Any] = {"save_all": True, "append_images": more} if more else {}
        save(path, pixels, format=kind, **options)
    found = picture.load(path)
    assert (found.note, found.alpha) == (note, None)
    assert np.abs(found.pixels.astype(int) - pixels).mean() <= error


def test_heic_without_its_package(tmp_path: Path, pixels: np.ndarray) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    path = save(tmp_path / "a.jpg", pixels, format="HEIF")
    code = "import sys; sys.modules['pillow_heif'] = None; from talkingface import picture; "
    code += f"picture.load({str(path)!r})"
    environment = {**os.environ, decoding.SWITCH: "direct"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    said = done.stderr.decode().strip().splitlines()[-1]
    assert said.endswith(
        "a.jpg: a HEIC picture, for which pillow-heif is missing: pip install 'talkingface[heic]', "
        "or convert it to JPEG"
    )
    with pytest.raises(UnreadableMedia, match="a HEIC picture; convert it to JPEG"):
        picture.open_size(path, picture.WEB_FORMATS)  # of a server's client


@pytest.mark.parametrize("kind", ["png", "webp", "avif", "tiff"])
def test_alpha_lies_upright_on_a_colour_and_is_kept(
    tmp_path: Path, pixels: np.ndarray, kind: str
) -> None:
    alpha = np.tile(np.linspace(0, 255, 256).round(), (128, 1)).astype(np.uint8)
    upright = np.dstack([pixels[:128], alpha])
    exif = Image.Exif()
    exif[274] = 6  # shown turned clockwise
    path = tmp_path / f"a.{kind}"
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(
        path, exif=exif, **({"lossless": True} if kind == "webp" else {"quality": 95})
    )
    found = picture.load(path, "#0040ff")
    near = 0.51 if kind in ("png", "webp", "tiff") else 20
    assert found.size == (256, 128)
    assert found.alpha is not None and np.abs(found.alpha.astype(int) - alpha).max() <= near
    share = alpha[..., None] / 255
    expected = pixels[:128] * share + np.array([0, 64, 255]) * (1 - share)
    assert np.abs(found.pixels - expected).max() <= 0.51 if near < 1 else 40
    with pytest.raises(BadRequest, match="'nocolour' is no colour: give a name"):
        picture.load(path, "nocolour")


def test_pictures_of_any_type_are_one(tmp_path: Path, pixels: np.ndarray) -> None:
    path = save(tmp_path / "a.png", pixels)
    clear = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    with path.open("rb") as file:
        for same in (
            *(path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), file),
            *(Image.open(path), Image.fromarray(pixels), clear, Image.fromarray(clear), pixels),
        ):
            loaded = LoadedImage.read(same)
            assert np.array_equal(loaded.pixels, pixels) and loaded.alpha is None
    clear[:, :100, 3] = 0
    face = talkingface.load("cran-tiny").prepare(clear, background="black", max_size=128)
    assert face.alpha is not None and face.alpha.shape == face.picture.shape[:2] == (128, 128)
    assert not face.alpha[:, :49].any() and (face.alpha[:, 51:] == 255).all()
    assert not face.picture[:, :49].any()


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((9, 9)), r"this array is \(9, 9\) float64"),
        (np.zeros((64, 64, 3)), r"this array is \(64, 64, 3\) float64"),
        (3, "this is a int"),
        (None, "this is a NoneType"),
        (io.StringIO("text"), "open it as 'rb'"),
    ],
)
def test_what_is_no_picture_is_one_line(image: Any, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as caught:
        LoadedImage.read(image)
    assert "\n" not in str(caught.value) and "--" not in str(caught.value)


# ---- faces


def turned(pixels: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """The picture turned clockwise on a grey ground, and the matrix of its points."""
    side, middle = 400, pixels.shape[0] / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), -degrees, 1)
    matrix[:, 2] += side / 2 - middle
    grey = (127, 127, 127)
    out = cv2.warpAffine(pixels, matrix, (side, side), borderValue=grey)
    return np.asarray(out, np.uint8), np.asarray(matrix)


@pytest.mark.parametrize("degrees", [45, 120, 180, 270])
def test_a_face_is_found_at_any_angle(pixels: np.ndarray, degrees: float) -> None:
    upright = find_faces(turned(pixels, 0)[0])[0].mesh[:, :2] - (400 - 256) / 2
    shown, matrix = turned(pixels, degrees)
    expected = transform(upright, matrix)
    located = locate(shown)
    assert located.mesh is not None
    off = np.linalg.norm(located.mesh[:, :2] - expected, axis=1).mean()
    assert off < 0.05 * np.linalg.norm(upright[33] - upright[263])
    x, y = expected.min(0)
    wide, high = np.ptp(expected, axis=0)
    assert locate(shown, box=(x, y, wide, high)).origin == "detector"


def test_a_mesh_that_does_not_fit_is_refused(pixels: np.ndarray) -> None:
    face = find_faces(pixels)[0]
    x, y, wide, high = (round(value) for value in face.box)
    broken = pixels.copy()
    inside = pixels[y : y + high, x : x + wide]
    broken[y : y + high, x : x + wide] = np.roll(inside, (high // 2, wide // 3), (0, 1))
    with pytest.raises(NoFaceFound, match=r"me\.png: no face found in 256x256 pixels"):
        locate(broken, name="me.png")


def test_of_several_faces_a_note_names_the_one_that_speaks(pixels: np.ndarray) -> None:
    small = cv2.resize(pixels, (180, 180), interpolation=cv2.INTER_AREA)
    both = np.full((256, 456, 3), 127, np.uint8)
    both[:180, :180], both[:, 200:] = small, pixels
    located = locate(both)
    assert located.note is not None
    found = re.fullmatch(
        r"2 faces were found: the largest one speaks, at (\d+),(\d+),(\d+),(\d+); "
        r"--face N \(face=N\) takes the N-th largest",
        located.note,
    )
    assert found is not None
    x, y, wide, high = map(int, found.groups())
    inside = (located.landmarks > [x - 2, y - 2]) & (located.landmarks < [x + wide, y + high + 2])
    assert x > 200 and inside.all()
    assert locate(both, number=2).note is None and locate(both, number=2).landmarks.max() < 180
    assert locate(pixels).note is None


@pytest.mark.parametrize(
    ("box", "says"),
    [
        (
            (0, 0, 9999, 99),
            "0,0,9999,99 is for the most part outside the picture, which is 256x256",
        ),
        ((200, 200, 100, 100), "200,200,100,100 is for the most part outside the picture"),
        ((256, 0, 64, 64), "256,0,64,64 is outside the picture, which is 256x256 pixels"),
    ],
)
def test_a_box_outside_the_picture_is_refused(
    pixels: np.ndarray, box: tuple[float, float, float, float], says: str
) -> None:
    with pytest.raises(NoFaceFound, match=says):
        locate(pixels, box=box)


def test_something_before_the_mouth_is_noted(pixels: np.ndarray) -> None:
    mesh = find_faces(pixels)[0].mesh[:, :2]
    unit = np.linalg.norm(mesh[33] - mesh[263])
    x, y = np.rint(mesh[13]).astype(int)
    skin = [int(value) for value in pixels[tuple(np.rint(mesh[50, ::-1]).astype(int))]]
    ball, mask, hand = pixels.copy(), pixels.copy(), pixels.copy()
    cv2.circle(ball, (x, y), round(0.4 * unit), (40, 40, 40), -1, cv2.LINE_AA)
    outline = mesh[[234, 58, 172, 150, 152, 379, 397, 288, 454, 195]]
    cv2.fillPoly(mask, [np.rint(outline).astype(np.int32)], (225, 235, 240), cv2.LINE_AA)
    size = (round(0.8 * unit), round(0.45 * unit))
    cv2.ellipse(hand, (x, y), size, 10, 0, 360, skin, -1, cv2.LINE_AA)
    for picture_, note in ((pixels, None), (ball, NOTE), (mask, NOTE), (hand, NOTE)):
        face = find_faces(picture_)[0]
        for shown in (picture_, (picture_ * 0.4).astype(np.uint8)):  # in dim light, too
            aligned = align(shown, face, CropSpec())
            assert covered_mouth(aligned.crop, aligned.mesh) == note


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
    for command in (
        ("generate", portrait, path, "-o", tmp_path / "a.mp4"),
        ("batch", portrait, "--speech", path, "--out-dir", tmp_path),
    ):
        ran = cli(*command, "--model", "cran-tiny", "--audio-track", 4)
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
    fast = np.concatenate([high.push(sentence[None]), high.finish()], axis=1)[0]
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
