"""The real command line, with the tiny random model: what it writes, and every way it says no."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.core import TyperGroup
from typer.main import get_command

import talkingface
from conftest import Cli, Ran
from helpers.drawing import BOX, frog
from talkingface import picture, video, video_writing, weights
from talkingface.cli import parse_face
from talkingface.cli.app import SECTIONS, app
from talkingface.cli.options import Reporter
from talkingface.errors import BadRequest
from talkingface.landmarks import MEAN_FACE

TINY = ("--model", "cran-tiny", "--device", "cpu")
ALONE = (*TINY, "--jobs", 1)


def write_wav(path: Path, samples: int) -> Path:
    """Write a sound that is not silent: a square wave of 8 kHz at 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(b"\0\x20\0\xe0" * (samples // 2) + b"\0\x20" * (samples % 2))
    return path


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file under a folder and what is in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assert_refused(ran: Ran, *says: str) -> None:
    """Exit code 2, nothing on standard output, one line of error that says all this."""
    assert ran.code == 2 and ran.out == ""
    assert ran.err.startswith("error: ") and ran.err.count("\n") == 1, ran.err
    for text in says:
        assert text in ran.err


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Folder of a command's output; the test fails when a refused command leaves a trace there."""
    where = tmp_path / "out"
    where.mkdir()
    (where / "earlier.mp4").write_bytes(b"mine")
    yield where
    assert snapshot(where) == {"earlier.mp4": b"mine"}


def test_a_video_and_its_sheet(cli: Cli, portrait: Path, speech: Path, tmp_path: Path) -> None:
    out, png = tmp_path / "talking.mp4", tmp_path / "sheet.png"
    ran = cli("generate", portrait, speech, "-o", out, "--sheet", png, "--max-size", 256, *TINY)
    assert ran.code == 0 and ran.err == ""
    assert re.match(rf"{out}: 3\.00 s, 75 frames, in [\d.]+ s\n{png}: contact sheet\n", ran.out)
    assert len(list(video.read_frames(out))) == 75
    tag = video.probe(out).tag
    assert tag is not None and talkingface.__version__ in tag and "Synthetic" in tag
    assert picture.read(png).shape[1] > 13 * 128
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sheet.png", "talking.mp4"]


def test_crop_and_overwrite(cli: Cli, portrait: Path, short: Path, tmp_path: Path) -> None:
    out = tmp_path / "face.mp4"
    out.write_bytes(b"old")
    for size, side in ((None, 256), (64, 64), (129, 128), (512, 512)):
        asked = () if size is None else ("--crop-size", size)
        ran = cli("generate", portrait, short, "-o", out, "--crop", *asked, "--overwrite", *TINY)
        assert ran.code == 0, ran.err
        info = video.probe(out)
        assert (info.width, info.height) == (side, side)


def test_a_crop_of_no_size_is_refused(
    cli: Cli, portrait: Path, short: Path, tmp_path: Path
) -> None:
    out = tmp_path / "face.mp4"
    for size in (63, 2049):
        ran = cli("generate", portrait, short, "-o", out, "--crop", "--crop-size", size, *TINY)
        assert ran.code == 2 and "crop" in ran.err and not out.exists()


def test_weights_by_path(cli: Cli, portrait: Path, speech: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "mine.safetensors", tmp_path / "face.mp4"
    weights.save(path, weights.load("cran-tiny"), training_data="none", licence="MIT")
    ran = cli("generate", portrait, speech, "-o", out, "--crop", "--model", path)
    assert ran.code == 0
    assert f"model mine, weights sha256 {weights.load_with_info(path)[1].sha256[:16]}" in str(
        video.probe(out).tag
    )


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """A third of a second of silence: 9 frames."""
    return write_wav(tmp_path / "short.wav", 5500)


@pytest.fixture
def drawing(tmp_path: Path) -> Path:
    """A face that the finder does not know, 320x300 pixels."""
    path = tmp_path / "frog.png"
    picture.write_png(path, frog())
    return path


def test_landmarks_found_and_given_back_make_the_same_video(
    cli: Cli, portrait: Path, short: Path, tmp_path: Path
) -> None:
    points, shown = tmp_path / "points.json", tmp_path / "points.png"
    ran = cli("landmarks", portrait, "-o", points, "--overlay", shown)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{points}: 68 points\n{shown}: the picture with its points\n"
    whole = picture.read(portrait)
    scale = picture.read(shown).shape[0] / whole.shape[0]
    assert scale == 2 and json.loads(points.read_text())["size"] == [768, 768]
    found, given = tmp_path / "found.mp4", tmp_path / "given.mp4"
    for out, options in ((found, ()), (given, ("--landmarks", points))):
        ran = cli("generate", portrait, short, "-o", out, "--max-size", 256, *options, *TINY)
        assert (ran.code, ran.err) == (0, "")
    frames = [np.stack(list(video.read_frames(path))) for path in (found, given)]
    assert frames[0].shape == (9, 256, 256, 3) and np.array_equal(frames[0], frames[1])
    again = tmp_path / "again.png"  # to look at a file that was corrected
    ran = cli("landmarks", portrait, "--landmarks", points, "--overlay", again)
    assert ran.code == 0 and again.read_bytes() == shown.read_bytes()


@pytest.mark.parametrize("model", ["cran-tiny", "atvg-tiny", "still"])
def test_a_drawing_in_a_box(
    cli: Cli, drawing: Path, short: Path, tmp_path: Path, model: str
) -> None:
    out, box = tmp_path / "talking.mp4", ",".join(map(str, BOX))
    options: tuple[object, ...] = ("--crop", "--model", model, "--device", "cpu", "--face", box)
    ran = cli("generate", drawing, short, "-o", out, *options)
    assert ran.code == 0 and out.is_file()
    said = f"{drawing}: the box shows no face that the finder knows: the mean face was laid into it"
    assert ran.err == f"note: {said}\n"
    points = tmp_path / "points.json"
    ran = cli("landmarks", drawing, "--face", box, "-o", points)
    assert ran.code == 0 and ran.err == f"note: {said}\n"
    given = tmp_path / "given.mp4"
    options = ("--crop", "--model", model, "--device", "cpu", "--landmarks", points)
    assert cli("generate", drawing, short, "-o", given, *options).code == 0
    frames = [np.stack(list(video.read_frames(path))) for path in (out, given)]
    assert len(frames[0]) == 9 and np.array_equal(frames[0], frames[1])


@pytest.mark.parametrize("model", ["cran-tiny", "atvg-tiny"])
def test_maps_beside_the_video(
    cli: Cli, portrait: Path, short: Path, tmp_path: Path, model: str
) -> None:
    out, maps = tmp_path / "talking.mp4", tmp_path / "maps.mp4"
    crop = ("--crop", "--crop-size", 128)  # as many pixels as the panel's face has
    options = ("--maps", maps, *crop, "--model", model, "--device", "cpu")
    ran = cli("generate", portrait, short, "-o", out, *options)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith(f"{maps}: attention, colour and face\n")
    info = video.probe(maps)
    assert (info.width, info.height, info.fps) == (768, 256, 25) and info.has_audio
    assert info.tag == video.probe(out).tag
    shown, faces = (np.stack(list(video.read_frames(path))) for path in (maps, out))
    assert len(shown) == len(faces) == 9
    crops = shown[:, ::2, 512::2].astype(float)
    assert np.abs(crops - faces).mean() < 5
    assert {path.name for path in tmp_path.iterdir()} == {maps.name, short.name, out.name}


def test_a_batch_that_was_stopped_goes_on(
    cli: Cli, portrait: Path, short: Path, tmp_path: Path
) -> None:
    sounds = [tmp_path / f"{name}.wav" for name in "abc"]
    for sound in sounds:
        sound.write_bytes(short.read_bytes())
    given = [word for sound in sounds for word in ("--speech", sound)]
    out = tmp_path / "out"
    call = ("batch", portrait, *given, "--out-dir", out, "--crop", "--skip-existing", *ALONE)
    first = cli(*call)
    assert (first.code, first.out.splitlines()[-1]) == (0, f"3 of 3 videos written to {out}")
    made = {path.name: path.read_bytes() for path in out.iterdir()}
    gone, cut, kept = (out / f"portrait-{name}.mp4" for name in "abc")
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-100])
    before = kept.stat().st_mtime_ns
    again = cli(*call)
    assert again.code == 0 and f"{kept}: was there already" in again.out
    assert again.out.splitlines()[-1] == f"2 of 3 videos written to {out}, 1 were there"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == made
    assert kept.stat().st_mtime_ns == before
    done = cli(*call, "--json")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 0 and [row["existing"] for row in rows] == [True] * 3
    both = cli(*call, "--overwrite")
    assert both.code == 2 and "--skip-existing and --overwrite contradict" in both.err


def test_batch_goes_on_after_a_failure(
    cli: Cli, portrait: Path, speech: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "videos"
    bad = write_wav(tmp_path / "short.wav", 5)
    sounds = ("--speech", bad, "--speech", speech)
    ran = cli("batch", portrait, *sounds, "--out-dir", out, "--crop", *ALONE)
    assert ran.code == 2
    assert [path.name for path in out.iterdir()] == ["portrait-sentence.mp4"]
    assert ran.err.startswith("error: ") and "short.wav" in ran.err and ran.err.count("\n") == 1
    assert f"1 of 2 videos written to {out}" in ran.out


def test_results_as_json(
    cli: Cli, portrait: Path, short: Path, drawing: Path, tmp_path: Path
) -> None:
    """One object a line, notes within; the lines of text and the notes are gone."""
    out, png, box = tmp_path / "a.mp4", tmp_path / "a.png", ",".join(map(str, BOX))
    ran = cli("generate", drawing, short, "-o", out, "--sheet", png, "--face", box, "--json", *TINY)
    talking, sheet = map(json.loads, ran.out.splitlines())
    assert (ran.code, ran.err) == (0, "") and sheet == {"output": str(png)}
    assert talking.pop("took") > 0 and "mean face was laid into it" in talking.pop("note")
    made_from = {"image": str(drawing), "audio": str(short), "fps": 25.0}
    assert talking == {"output": str(out), "frames": 9, "seconds": 0.36, **made_from}
    bad = write_wav(tmp_path / "bad.wav", 5)
    sounds = ("--speech", bad, "--speech", short, "--out-dir", tmp_path, "--max-size", 256)
    ran = cli("batch", portrait, *sounds, "--json", *ALONE)
    failed, made = map(json.loads, ran.out.splitlines())
    assert ran.code == 2 and made["frames"] == 9 and "note" not in made
    assert set(failed) == {"output", "error"} and ran.err == f"error: {failed['error']}\n"
    shown = [json.loads(cli("sheet", out, "-o", tmp_path / "b.png", "--json").out)]
    shown += [json.loads(cli("landmarks", portrait, "-o", tmp_path / "b.json", "--json").out)]
    assert shown[0]["width"] > 128 and shown[1] == {"output": str(tmp_path / "b.json")}


def test_quiet_says_nothing_but_errors(
    cli: Cli, portrait: Path, short: Path, drawing: Path, tmp_path: Path
) -> None:
    box, motion = ",".join(map(str, BOX)), tmp_path / "a.npz"
    out = [tmp_path / name for name in ("a.mp4", "b.mp4", "a.png", "a.json")]
    mesh = ("--model", "atvg-tiny", "--device", "cpu")
    for command in (
        ("generate", drawing, short, "-o", out[0], "--face", box, *TINY),
        ("idle", portrait, "-o", out[1], "--seconds", 1, "--max-size", 256, *mesh),
        ("batch", portrait, "--speech", short, "--out-dir", tmp_path, "--max-size", 256, *TINY),
        ("motion", short, "-o", motion, *mesh),
        ("sheet", out[0], "-o", out[2]),
        ("landmarks", drawing, "-o", out[3], "--face", box),
    ):
        assert cli(*command, "-q") == Ran(0, "", ""), command
        again = cli(*command, "--quiet")
        assert again.code == 2 and again.out == "" and "exists already" in again.err
    assert all(path.exists() for path in (*out, motion))


def test_a_bar_shows_percent_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    with Reporter().progress("videos") as update:
        update(1.5, 4)
    shown = capsys.readouterr()
    assert shown.out == "" and "videos" in shown.err and "1/4" in shown.err
    assert "38%" in shown.err and re.search(r"(\d|-):(\d\d|--)", shown.err)
    with Reporter(quiet=True).progress("videos") as update:
        update(1, 2)
    assert capsys.readouterr().err == ""


def test_sheet_of_a_video(cli: Cli, portrait: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "clip.mp4", tmp_path / "sheet.png"
    video_writing.write(path, [np.full((64, 64, 3), 8 * t, np.uint8) for t in range(25)], None)
    ran = cli("sheet", path, "-o", out, "--every", 5, "--columns", 3)
    assert ran.code == 0 and picture.read(out).shape[1] > 3 * 128
    assert_refused(cli("sheet", path, "-o", out), "exists already")
    assert_refused(cli("sheet", path, "-o", out, "--overwrite", "--every", 0), "above 0")


def test_models_and_version(cli: Cli) -> None:
    listed = cli("models", "--all")
    assert listed.code == 0
    for info in weights.listing():
        assert f"{info.name}: family {info.family}" in listed.out
        assert info.training_data in listed.out and info.sha256 in listed.out
    speaking = [line.split(":")[0] for line in cli("models").out.splitlines() if line[0] != " "]
    assert speaking == ["atvg", "cran", "cran-natural"]
    facts = json.loads(cli("models", "--json").out)
    assert [model["name"] for model in facts] == speaking and facts[0]["sha256"] in listed.out
    assert cli("version").out == f"talkingface {talkingface.__version__}\n"


# --- inputs that are wrong -----------------------------------------------------------------------

Bad = Callable[[Path], Path]


def missing(folder: Path) -> Path:
    return folder / "none.wav"


def text_named_wav(folder: Path) -> Path:
    path = folder / "text.wav"
    path.write_text("This is no sound at all.\n" * 40)
    return path


def truncated_mp4(folder: Path) -> Path:
    path = folder / "cut.mp4"
    noise = np.random.default_rng(0)
    frames = noise.integers(0, 255, (50, 64, 64, 3), dtype=np.uint8)
    video_writing.write(path, list(frames), noise.uniform(-0.5, 0.5, 32_000).astype(np.float32))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def video_without_sound(folder: Path) -> Path:
    path = folder / "mute.mp4"
    video_writing.write(path, [np.zeros((64, 64, 3), np.uint8)] * 10, None)
    return path


def zero_bytes(folder: Path) -> Path:
    path = folder / "zero.wav"
    path.touch()
    return path


def no_samples(folder: Path) -> Path:
    return write_wav(folder / "none.wav", 0)


def five_samples(folder: Path) -> Path:
    return write_wav(folder / "five.wav", 5)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (missing, "no such file"),
        (text_named_wav, "unknown kind"),
        (truncated_mp4, "cut short"),
        (video_without_sound, "a video without sound"),
        (zero_bytes, "is empty (0 bytes)"),
        (no_samples, "sound"),
        (five_samples, "5 samples"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_wrong_sound(
    cli: Cli, portrait: Path, tmp_path: Path, folder: Path, bad: Bad, says: str
) -> None:
    path = bad(tmp_path)
    ran = cli("generate", portrait, path, "-o", folder / "talking.mp4", *TINY)
    assert_refused(ran, str(path), says)


def text_named_jpg(folder: Path) -> Path:
    path = folder / "text.jpg"
    path.write_text("This is no picture at all.\n" * 40)
    return path


def cut_jpg(folder: Path) -> Path:
    path = folder / "cut.jpg"
    whole = (Path(__file__).parents[1] / "examples" / "portrait.jpg").read_bytes()
    path.write_bytes(whole[:300])
    return path


def no_face(folder: Path) -> Path:
    path = folder / "hills.png"
    x = np.linspace(0, 12, 320)
    hills = np.uint8(100 + 60 * np.sin(x)[None, :, None] * np.cos(x)[:, None, None])
    cv2.imwrite(str(path), np.repeat(hills, 3, axis=2))
    return path


def one_pixel(folder: Path) -> Path:
    path = folder / "dot.png"
    cv2.imwrite(str(path), np.zeros((1, 1, 3), np.uint8))
    return path


def huge(folder: Path) -> Path:
    path = folder / "huge.png"
    cv2.imwrite(str(path), np.zeros((12_000, 12_000), np.uint8))
    return path


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (missing, "no such file"),
        (zero_bytes, "is empty (0 bytes)"),
        (text_named_jpg, "picture"),
        (cut_jpg, "picture"),
        (no_face, "no face found in 320x320 pixels"),
        (one_pixel, "1x1 pixels"),
        (huge, "no face found"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_wrong_picture(
    cli: Cli, speech: Path, tmp_path: Path, folder: Path, bad: Bad, says: str
) -> None:
    path = bad(tmp_path)
    ran = cli("generate", path, speech, "-o", folder / "talking.mp4", *TINY)
    assert_refused(ran, str(path), says)


@pytest.mark.parametrize(
    "choice", ["9", "0", "5000,5000,20,20", "1,2,0,0", "9,9,15,99", "left", "1,2,3", "1.5"]
)
def test_a_wrong_face(cli: Cli, portrait: Path, speech: Path, folder: Path, choice: str) -> None:
    out = folder / "talking.mp4"
    assert_refused(cli("generate", portrait, speech, "-o", out, "--face", choice, *TINY), "face")


def points(folder: Path, values: object) -> Path:
    path = folder / "points.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


FACE = (MEAN_FACE * 100 + 150).round(2).tolist()  # in 768x768
FAR = [[x, y + 1000] if index < 7 else [x, y] for index, (x, y) in enumerate(FACE)]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("", "no JSON"),
        ("68 points, honestly", "no JSON"),
        ("[" * 100_000, "no JSON"),
        (" " * 1_000_001, "1000001 bytes are too many"),
        ({"points": FACE}, 'an object without "landmarks"'),
        ({"landmarks": 68}, "no list of points"),
        ("null", "no list of points"),
        ([], "0 points found, 68 expected"),
        (FACE[:67], "67 points found, 68 expected"),
        ({"landmarks": [*FACE, [1, 2]]}, "69 points found, 68 expected"),
        ([*FACE[:9], [1, 2, 3], *FACE[10:]], "point 9 is [1, 2, 3]; expected [x, y]"),
        ([*FACE[:67], ["1", "2"]], "point 67 is ['1', '2']"),
        ([*FACE[:67], [True, 2]], "point 67 is [True, 2]"),
        ([*FACE[:67], None], "point 67 is None"),
        ([[float("nan"), 2], *FACE[1:]], "1 of 68 points are NaN or infinite"),
        ([[2, float("inf")], [10**400, 1], *FACE[2:]], "2 of 68 points are NaN or infinite"),
        (FAR, "7 of 68 points lie outside the picture, which is 768x768 pixels"),
        ([[50, 50]] * 68, "all points lie within 0x0 pixels"),
        ([[x / 768, y / 768] for x, y in FACE], "give pixels of the picture"),
        ([[i, i] for i in range(68)], "on one line"),
        ([[y, x] for x, y in FACE], "not [y, x]"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_wrong_landmarks(
    cli: Cli, portrait: Path, speech: Path, tmp_path: Path, folder: Path, values: object, says: str
) -> None:
    path, out = points(tmp_path, values), folder / "talking.mp4"
    ran = cli("generate", portrait, speech, "-o", out, "--landmarks", path, *TINY)
    assert_refused(ran, f"{path}: ", says)


def test_landmarks_that_cannot_be_read(
    cli: Cli, portrait: Path, speech: Path, tmp_path: Path, folder: Path
) -> None:
    def ask(path: Path, *options: object) -> Ran:
        out = folder / "talking.mp4"
        return cli("generate", portrait, speech, "-o", out, "--landmarks", path, *TINY, *options)

    none = tmp_path / "none.json"
    assert_refused(ask(none), f"{none}: no such file; expected a JSON list of 68 [x, y] pairs")
    assert_refused(ask(tmp_path), f"{tmp_path}: is no file")
    assert_refused(ask(portrait), "portrait.jpg: no JSON")
    good = points(tmp_path, FACE)
    for choice in ("1", "10,10,300,300"):
        assert_refused(ask(good, "--face", choice), "--landmarks points.json, not both")
    before = good.read_bytes()
    mine = good.rename(tmp_path / "points.mp4")
    ran = cli("generate", portrait, speech, "-o", mine, "--landmarks", mine, "--overwrite", *TINY)
    assert_refused(ran, "given twice")
    assert mine.read_bytes() == before


def test_landmarks_that_must_not_be_written(
    cli: Cli, portrait: Path, drawing: Path, folder: Path
) -> None:
    earlier, out = folder / "earlier.mp4", folder / "points.json"
    assert_refused(cli("landmarks", portrait), "--output", "--overlay")
    assert_refused(cli("landmarks", portrait, "-o", earlier), "exists already")
    assert_refused(cli("landmarks", portrait, "-o", out, "--overlay", earlier), "exists already")
    assert_refused(cli("landmarks", portrait, "-o", out, "--overlay", out), "given twice")
    assert_refused(cli("landmarks", portrait, "-o", folder / "no" / "a.json"), "does not exist")
    assert_refused(cli("landmarks", "no.jpg", "-o", out), "no.jpg: no such file")
    assert_refused(cli("landmarks", portrait, "-o", out, "--face", 3), "no face number 3")
    before = drawing.read_bytes()
    link = drawing.with_name("link.png")
    link.symlink_to(drawing)
    for name in (drawing, link, drawing.parent / "new" / ".." / drawing.name):
        for option in ("-o", "--overlay"):
            ran = cli("landmarks", drawing, option, name, "--overwrite")
            assert_refused(ran, "given twice")
    assert drawing.read_bytes() == before and link.is_symlink()


def test_landmarks_replace_a_file_when_told(cli: Cli, portrait: Path, tmp_path: Path) -> None:
    out = points(tmp_path, "old")
    assert_refused(cli("landmarks", portrait, "-o", out), "exists already")
    assert out.read_text() == "old"
    assert cli("landmarks", portrait, "-o", out, "--overwrite").code == 0
    assert len(json.loads(out.read_text())["landmarks"]) == 68


def test_wrong_maps(cli: Cli, portrait: Path, speech: Path, folder: Path) -> None:
    def ask(maps: Path, *options: object) -> Ran:
        return cli("generate", portrait, speech, "-o", folder / "a.mp4", "--maps", maps, *options)

    still = ask(folder / "maps.mp4", "--model", "still")
    assert_refused(still, "model still makes no maps of attention and colour", "as cran and atvg")
    assert_refused(ask(folder / "maps.avi", *TINY), "maps.avi", "mp4")
    assert_refused(ask(folder / "earlier.mp4", *TINY), "exists already")
    assert_refused(ask(folder / "a.mp4", *TINY), "given twice")


def test_a_wrong_model(
    cli: Cli, portrait: Path, speech: Path, tmp_path: Path, folder: Path
) -> None:
    def ask(model: object) -> Ran:
        return cli("generate", portrait, speech, "-o", folder / "a.mp4", "--model", model)

    assert_refused(ask("cran-tinny"), "did you mean 'cran-tiny'?", "known:")
    damaged = tmp_path / "damaged.safetensors"
    assert_refused(ask(damaged), str(damaged), "No such file")
    weights.save(damaged, weights.load("cran-tiny"), training_data="none", licence="MIT")
    damaged.write_bytes(damaged.read_bytes()[:5000])
    assert_refused(ask(damaged), str(damaged), "not a whole safetensors file (5000 bytes")


def test_a_wrong_option(cli: Cli, portrait: Path, speech: Path, folder: Path) -> None:
    def ask(*options: object) -> Ran:
        return cli("generate", portrait, speech, "-o", folder / "a.mp4", *TINY, *options)

    assert_refused(ask("--max-size", 3), "at least 64")
    assert_refused(ask("--device", "toaster"), "'toaster'", "give auto")


# --- outputs that cannot be ----------------------------------------------------------------------


def test_an_output_that_must_not_be_written(
    cli: Cli, portrait: Path, speech: Path, tmp_path: Path, folder: Path
) -> None:
    def ask(output: object, *options: object) -> Ran:
        return cli("generate", portrait, speech, "-o", output, *TINY, *options)

    earlier = folder / "earlier.mp4"
    assert_refused(ask(earlier), str(earlier), "--overwrite")
    assert_refused(ask(folder / "a.mp4", "--sheet", earlier), str(earlier), "exists already")
    assert_refused(ask(folder), str(folder))
    assert_refused(ask(folder / "talking.avi"), "mp4")
    assert_refused(ask(folder / "none" / "a.mp4"), "does not exist")
    assert_refused(ask("/proc/a.mp4"), "/proc/a.mp4")
    both = folder / "a.mp4"
    assert_refused(ask(both, "--sheet", both), "given twice")
    mine = tmp_path / "speech.mp4"
    mine.write_bytes(speech.read_bytes())
    ran = cli("generate", portrait, mine, "-o", mine, "--overwrite", *TINY)
    assert_refused(ran, "given twice")
    assert mine.read_bytes() == speech.read_bytes()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_a_folder_that_is_not_ours(cli: Cli, portrait: Path, speech: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    ran = cli("generate", portrait, speech, "-o", closed / "a.mp4", *TINY)
    assert_refused(ran, "cannot be written to")


def test_the_output_is_looked_at_before_the_long_work(
    cli: Cli, portrait: Path, folder: Path
) -> None:
    ran = cli("generate", "no.jpg", "no.wav", "-o", folder / "earlier.mp4", "--model", "no")
    assert_refused(ran, "earlier.mp4")
    ran = cli("generate", "no.jpg", "no.wav", "-o", folder / "a.mp4", "--model", "no")
    assert_refused(ran, "no model is called 'no'")
    ran = cli("generate", "no.jpg", "no.wav", "-o", folder / "a.mp4", *TINY)
    assert_refused(ran, "no.jpg")
    ran = cli("generate", portrait, "no.wav", "-o", folder / "a.mp4", *TINY)
    assert_refused(ran, "no.wav")


def limited(folder: Path, portrait: Path, speech: Path, *options: str) -> Ran:
    """In a process that may write no file beyond 40 kB: what a full disk looks like, half-way."""
    out = str(folder / "earlier.mp4")
    command = [sys.executable, "-m", "talkingface.cli", "generate", str(portrait), str(speech)]
    done = subprocess.run(
        [*command, "-o", out, *TINY, "--overwrite", *options],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def test_a_full_disk_half_way(portrait: Path, speech: Path, folder: Path) -> None:
    assert_refused(limited(folder, portrait, speech), "earlier.mp4", "the disk is full")


# --- the rest ------------------------------------------------------------------------------------


def test_help_lists_commands_by_use(cli: Cli) -> None:
    short, long = cli("-h"), cli("--help")
    assert short.code == 0 and short.out == long.out
    assert short.out.count("...") == 1, "a description is too long"
    for heading, names in SECTIONS.items():
        section = short.out.split(f"\n{heading}:\n")[1].split("\n\n")[0]
        assert [line.split()[0] for line in section.splitlines()] == list(names)
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    shown = {name for name, command in group.commands.items() if not command.hidden}
    assert shown == set(chain(*SECTIONS.values())), "talkingface/cli/app.py has a section for each"
    for words in (("generate",), ("train", "cran"), ("study", "table")):
        assert cli(*words, "-h").out == cli(*words, "--help").out


def test_completion_of_shells(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    """The shell's script asks for completions by an environment variable."""
    assert "--install-completion" in cli("-h").out
    monkeypatch.setenv("_TALKINGFACE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "talkingface gen")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert cli().out.split() == ["generate"]


def test_the_version_is_said_twice(cli: Cli) -> None:
    assert cli("--version").out == cli("version").out == f"talkingface {talkingface.__version__}\n"


def test_a_usage_error_is_exit_2_too(cli: Cli) -> None:
    ran = cli("generate", "a.jpg", "b.wav")
    assert ran.code == 2 and "--output" in ran.err


def test_face_choices() -> None:
    assert parse_face(None) == (None, None)
    assert parse_face("2") == (2, None)
    assert parse_face("10,20.5,64,64") == (None, (10.0, 20.5, 64.0, 64.0))
    for text in ("", "two", "1,2", "1.5", "nan", "inf", "1,2,3,nan"):
        with pytest.raises(BadRequest):
            parse_face(text)
