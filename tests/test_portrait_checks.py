"""Checks of finished portraits: every measure against a closed form or a property."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import EXAMPLES, Cli
from helpers.predictors import write_speech
from talkingface import landmarks, picture
from talkingface.errors import BadRequest
from talkingface.evaluation import face_descriptor, portrait_checks, portrait_sheets
from talkingface.evaluation import portrait_measures as measures
from talkingface.evaluation.files import read_lines
from talkingface.evaluation.phone_checks import PhoneRules, Sentence, phone_frames
from talkingface.evaluation.portrait_sheets import Mouth, choose_frames, mouth_row
from talkingface.evaluation.portrait_tables import Closure, PortraitResult, markdown, read_result
from talkingface.evaluation.predicted_lips import Lips
from talkingface.landmarks import INNER_LIPS, reference_mesh

UNIT = 80.0  # pixels between the eye centres of the face below
SIDE = 400  # pixels of its picture


def face(gap: float = 0.2) -> NDArray[np.float64]:
    """A mesh in a picture of SIDE pixels whose inner lips are an ellipse, `gap` high."""
    mesh = reference_mesh() * UNIT + SIDE / 2 - [0, 40]
    centre = mesh[INNER_LIPS].mean(0)
    turn = np.pi - np.arange(20) / 20 * 2 * np.pi  # from the left corner over the upper lip
    around = np.stack([np.cos(turn) * 0.35, -np.sin(turn) * gap / 2], 1) * UNIT
    mesh[INNER_LIPS] = centre + around
    return mesh


def noise_picture(seed: int = 1, sigma: float = 12.0) -> NDArray[np.uint8]:
    grey = np.random.default_rng(seed).normal(128, sigma, (SIDE, SIDE, 1))
    return np.repeat(np.clip(np.rint(grey), 0, 255).astype(np.uint8), 3, axis=2)


# --- lips -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [0.0, 0.03, 0.2])
def test_the_gap_is_in_eye_distances_whatever_the_scale(gap: float) -> None:
    mesh = face(gap)
    assert measures.gap(mesh) == pytest.approx(gap, abs=1e-6)
    assert measures.gap(mesh * 3 + 7) == pytest.approx(gap, abs=1e-6)
    assert measures.gap(np.stack([mesh, mesh])).shape == (2,)


def test_closing_is_in_time_and_stays() -> None:
    gaps = np.full(25, 0.1)
    assert measures.closing(gaps) == (0.0, 0.0)
    gaps[9] = 0.03  # the frame from 0.36 to 0.40 s
    assert measures.closing(gaps) == (1.0, 0.0)
    late = np.full(25, 0.1)
    late[10:] = 0.03
    assert measures.closing(late) == (0.0, 1.0)
    late[15:18] = [math.nan, 0.04, 0.05]  # no face, and not below
    in_time, stays = measures.closing(late)
    assert in_time == 0.0 and stays == pytest.approx(12 / 15)
    assert math.isnan(measures.closing(gaps[:10])[1])


def test_closures_are_those_of_the_phone_checks() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        gaps = rng.uniform(0, 0.12, 30)
        start = rng.uniform(0, 1.2)
        phone = ("p", start, start + rng.uniform(0.03, 0.15))
        at, near = phone_frames(*phone[1:], 30)
        low, high = phone[1] - 0.02 - 1e-6, phone[2] + 0.02 + 1e-6
        naive = [k for k in range(30) if low <= (k + 0.5) / 25 <= high]
        assert near.tolist() == (naive or [at])
        passes = PhoneRules(Lips(gaps, gaps), [phone]).passes("closed", *phone[1:])
        assert (gaps[near].min() < 0.04) == passes
        assert at == min(29, int((phone[1] + phone[2]) / 2 * 25))


def test_closures_of_a_sentence() -> None:
    phones = (("", 0.0, 0.2), ("p", 0.2, 0.28), ("a", 0.28, 0.6), ("b", 0.6, 0.62))
    sentence = Sentence("one", Path("one.wav"), "en", "x", phones)
    gaps = np.full(20, 0.1)
    gaps[5:7] = [0.02, 0.05]  # frames whose middles, 0.22 and 0.26 s, lie in the p
    found, elsewhere = portrait_checks.find_closures(gaps, sentence, {"p": "closed", "b": "closed"})
    assert found == [Closure("one", "p", 0.2, 0.28, 0.05, 0.02)]  # the middle, 0.24 s, is in 6
    # with 20 ms beside; the short b is not checked and not elsewhere either
    assert np.flatnonzero(~elsewhere).tolist() == [4, 5, 6, 7, 14, 15]


# --- regions and colours --------------------------------------------------------------------------


def test_a_polygon_holds_the_pixel_centres_inside() -> None:
    box = np.array([(1.5, 2.5), (6.5, 2.5), (6.5, 4.5), (1.5, 4.5)])
    mask = measures.polygon_mask(box, 8, 9)
    assert list(zip(*np.nonzero(mask), strict=True)) == [
        (y, x) for y in (3, 4) for x in range(2, 7)
    ]
    circle = np.stack([f(np.linspace(0, 2 * np.pi, 200)) for f in (np.cos, np.sin)], 1) * 50 + 60
    assert measures.polygon_mask(circle, 120, 120).sum() == pytest.approx(np.pi * 2500, rel=0.01)
    assert not measures.polygon_mask(box + 100, 8, 9).any()


def test_regions_lie_where_they_should() -> None:
    mesh = face()
    masks = {
        name: getattr(measures, f"{name}_mask")(mesh, SIDE, SIDE)
        for name in ("opening", "mouth", "skin", "background", "forehead", "chin")
    }
    assert not (masks["opening"] & ~masks["mouth"]).any()
    assert not (masks["mouth"] & masks["skin"]).any()
    assert not (masks["background"] & (masks["mouth"] | masks["skin"] | masks["forehead"])).any()
    eyes = mesh[[33, 133, 362, 263], 1].mean()
    assert np.nonzero(masks["forehead"])[0].max() < eyes - 0.24 * UNIT
    x, y = mesh[152].round().astype(int)  # the chin
    assert masks["chin"][y + 30, x] and not masks["chin"][y + 34, x]  # 0.4 * 80 px below
    for mask in masks.values():
        assert mask.any()


def test_the_tint_is_that_of_the_opening() -> None:
    frame = noise_picture()
    cv2.fillPoly(frame, [face()[INNER_LIPS].round().astype(np.int32)], (10, 60, 20))
    cv2.polylines(frame, [face()[INNER_LIPS].round().astype(np.int32)], True, (10, 60, 20), 3)
    mean, share = measures.tint(frame, face())
    assert mean == pytest.approx(60 - 15) and share == 1.0
    assert np.isnan(measures.tint(frame, face(0.05))).all()  # not open
    assert np.isnan(measures.tint(frame, np.full((478, 2), np.nan))).all()
    half = frame.copy()
    half[:, : SIDE // 2] = (90, 60, 60)  # left of the middle of the mouth
    mean, share = measures.tint(half, face())
    assert share == pytest.approx(0.5, abs=0.03)
    assert mean == pytest.approx(share * 45 - (1 - share) * 15)
    assert measures.skin_tint(frame, face()) == 0  # grey noise
    frame[measures.skin_mask(face(), SIDE, SIDE)] = (200, 140, 120)
    assert measures.skin_tint(frame, face()) == pytest.approx(140 - 160)
    assert math.isnan(measures.skin_tint(frame, face() + 10 * SIDE))
    small = np.ascontiguousarray(frame[::16, ::16])
    assert np.isnan(measures.tint(small, face() / 16)).all()  # too few pixels


def test_grey_has_no_colour() -> None:
    frame = noise_picture()
    assert measures.colour_spread(frame) == 0
    frame[7, 9] = (100, 90, 93)
    assert measures.colour_spread(frame) == 10
    frame[8, 9] = (100, 95, 70)
    assert measures.colour_spread(frame) == 25
    grey = measures.grey_copy(frame)
    assert measures.colour_spread(grey) == 0 and grey.dtype == np.uint8
    assert grey[7, 9, 0] == round(0.299 * 100 + 0.587 * 90 + 0.114 * 93)


# --- sharpness ------------------------------------------------------------------------------------


def test_sharpness_of_noise_is_that_of_the_filter() -> None:
    """White noise of variance s2 through a filter has s2 times the sum of its squares."""
    found = measures.sharpness(noise_picture(), face())
    assert found.mouth == pytest.approx(20 * (144 + 1 / 12), rel=0.1)  # 4^2 + 4 * 1^2
    assert found.skin == pytest.approx(found.mouth, rel=0.1)


def test_a_blurred_mouth_loses_what_the_blur_takes() -> None:
    frame = noise_picture()
    blurred = cv2.blur(frame, (3, 3))
    region = measures.mouth_mask(face(), SIDE, SIDE, 0.5)
    soft = np.where(region[..., None], blurred, frame).astype(np.uint8)
    kernel = cv2.Laplacian(cv2.copyMakeBorder(np.full((3, 3), 1 / 9), 2, 2, 2, 2, 0), cv2.CV_64F)
    before, after = measures.sharpness(frame, face()), measures.sharpness(soft, face())
    assert after.skin == before.skin
    expected = (144 * float((kernel**2).sum()) + 20 / 12) / (20 * (144 + 1 / 12))
    assert after.mouth / before.mouth == pytest.approx(expected, rel=0.1)


def test_no_face_has_no_sharpness() -> None:
    found = measures.sharpness(noise_picture(), np.full((478, 2), np.nan))
    assert math.isnan(found.mouth) and math.isnan(found.skin)
    assert math.isnan(measures.quotient(1.0, 0.0)) and measures.quotient(1.0, 4.0) == 0.25


def test_resampled_to_its_own_size_it_is_itself() -> None:
    frame = noise_picture()
    assert measures.resampled(frame, SIDE) is frame
    assert measures.resampled(frame[:300], 100).shape == (75, 100, 3)
    assert measures.resampled(frame[:300], 800).shape == (600, 800, 3)


# --- still parts ----------------------------------------------------------------------------------


def test_a_shift_changes_a_ramp_by_as_many_levels() -> None:
    ramp = np.repeat(np.arange(SIDE)[None, :, None] // 2 * np.ones((SIDE, 1, 3)), 1, axis=0)
    shown = ramp.astype(np.uint8)
    still = measures.StillParts(shown, face())
    assert still.change(shown) == (0.0, 0.0, 0.0)
    moved = np.clip(ramp + 3, 0, 255).astype(np.uint8)  # as a shift by 6 pixels
    background, forehead, worst = still.change(moved)
    assert (background, forehead) == pytest.approx((3, 3)) and worst == pytest.approx(3, rel=1e-3)


def test_only_the_still_parts_count_and_a_tear_is_found() -> None:
    shown = noise_picture()
    still = measures.StillParts(shown, face())
    speaking = shown.copy()
    speaking[measures.mouth_mask(face(), SIDE, SIDE)] = 0
    assert still.change(speaking) == (0.0, 0.0, 0.0)
    chin = face()[152].round().astype(int)
    speaking[chin[1] : chin[1] + 20, chin[0] - 10 : chin[0] + 10] = 0
    assert still.change(speaking)[2] == 0.0
    torn = shown.copy()
    torn[10:40, 10:40] = np.clip(torn[10:40, 10:40].astype(int) + 50, 0, 255)
    background, forehead, worst = still.change(torn)
    assert background < 1.5 and forehead == 0.0
    assert worst == pytest.approx(50, rel=0.01)
    with pytest.raises(ValueError, match="a frame is"):
        still.change(shown[:-1])


# --- likeness -------------------------------------------------------------------------------------


def test_a_chip_lays_the_face_where_dlib_does() -> None:
    mesh = face()
    mesh[face_descriptor.CHIP_MESH] = face_descriptor.CHIP_POINTS * 100 + 60  # as dlib's mean face
    shown = np.full((SIDE, SIDE, 3), 255, np.uint8)
    for x, y in mesh[face_descriptor.CHIP_MESH]:
        cv2.circle(shown, (round(x), round(y)), 2, (0, 0, 0), -1)
    chip = face_descriptor.face_chip(shown, mesh)
    assert chip.shape == (150, 150, 3)
    for x, y in (face_descriptor.CHIP_POINTS + 0.25) * 100:
        assert chip[round(y), round(x)].max() < 60


def test_without_dlib_likeness_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadRequest, match=r"pip install 'talkingface\[likeness\]'"):
        face_descriptor.open_descriptor()


def test_dlib_knows_a_face_again() -> None:
    if any(importlib.util.find_spec(n) is None for n in ("dlib", "face_recognition_models")):
        pytest.skip("the extra for likeness is not installed")
    describe = face_descriptor.open_descriptor()
    subject = portrait_checks.Subject.read(EXAMPLES / "portrait.jpg")
    own = describe(subject.picture, subject.mesh)
    assert own.shape == (128,)
    dark = (subject.picture * 0.8).astype(np.uint8)
    assert np.linalg.norm(describe(dark, subject.mesh) - own) < 0.3


# --- sheets ---------------------------------------------------------------------------------------


def test_moments_are_the_openest_and_the_closures() -> None:
    gaps = [0.0] * 50
    gaps[10], gaps[12], gaps[30], gaps[40] = 0.3, 0.29, 0.2, math.nan
    closures = [
        Closure("s", symbol, at / 25, (at + 1) / 25, None, None)
        for symbol, at in (("p", 3), ("b", 20), ("m", 45))
    ]
    assert choose_frames(gaps, closures) == [(3, "p"), (10, "open"), (30, "open"), (45, "m")]
    assert choose_frames(gaps, []) == [(10, "open"), (30, "open")]
    assert choose_frames([math.nan] * 4, []) == []


def test_mouths_keep_their_size_unless_too_large() -> None:
    first, second = noise_picture(1)[:60, :150], noise_picture(2)[:50, :120]
    row = mouth_row([Mouth("p\u02b0", 0.1, first), Mouth("open", math.nan, second)], "title")
    top = 2 * portrait_sheets.LINE
    assert np.array_equal(row[top : top + 60, :150], first)
    assert np.array_equal(row[top : top + 50, 154 : 154 + 120], second)
    large = mouth_row([Mouth("a", 0.1, np.zeros((100, 640, 3), np.uint8))], "t")
    assert large.shape[1] == portrait_sheets.LARGEST + portrait_sheets.GAP


def test_the_mouth_is_cut_around_the_lips() -> None:
    shown = noise_picture()
    mouth = portrait_sheets.mouth_box(shown, face())
    wide = landmarks.width(face()) / UNIT
    assert mouth.shape[1] == pytest.approx((wide + 0.5) * UNIT, abs=3)
    assert portrait_sheets.mouth_box(shown, face() + 10 * SIDE).shape == (1, 1, 3)  # outside


# --- portraits ------------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two portraits, one without a face, and a sentence; small sizes so that it is quick."""
    faces, voices = tmp_path / "faces", tmp_path / "voices"
    faces.mkdir()
    voices.mkdir()
    shown = picture.read(EXAMPLES / "portrait.jpg")
    picture.write_png(faces / "anna.png", measures.resampled(shown, 256))
    picture.write_png(faces / "nobody.png", noise_picture()[:64, :64])
    write_speech(voices / "one.flac", 1.6, 3)
    phones = [["p", 0.2, 0.3], ["a", 0.3, 0.7], ["m", 0.7, 0.8]]
    entry = {"language": "en", "voice": "x", "phones": phones}
    text = {"classes": {"closed": ["p", "m"]}, "files": {"one.flac": entry}}
    (voices / "phones.json").write_text(json.dumps(text))
    for module in ("checks", "tables"):
        monkeypatch.setattr(f"talkingface.evaluation.portrait_{module}.SIZES", (256, 320))
    return tmp_path


def evaluate(work: Path, *models: str, **options: Any) -> list[PortraitResult]:
    folders = (work / "faces", work / "out")
    return portrait_checks.evaluate_portraits(models, *folders, voices=work / "voices", **options)


def test_a_still_picture_changes_nothing(work: Path) -> None:
    calls: list[tuple[int, int]] = []
    anna, nobody = evaluate(work, "still", progress=lambda *done: calls.append(done))
    assert calls == [(1, 2), (2, 2)]
    assert nobody.error is not None and "no face found" in nobody.error
    assert anna.error is None and anna.size == [256, 256]
    value = {name: number for name, number in anna.metrics.items() if number is not None}
    own = anna.picture_gap
    assert own is not None
    assert anna.silence == pytest.approx([own] * 25, abs=0.02)
    assert len(anna.speech["one.flac"]) == 40
    assert value["silence_shut"] == value["noise_shut"] == float(own < 0.04)
    assert value["background"] < 0.05 and value["forehead"] < 0.05 and value["worst_spot"] < 1
    assert value["missed"] == 0 and value["grey"] <= 1
    assert value["enlarged_256"] == 0 and value["enlarged_320"] == 1
    assert value["mouth_256"] == pytest.approx(1, abs=0.05)
    assert [closure.symbol for closure in anna.closures] == ["p", "m"]
    assert "likeness" not in value
    assert read_lines(work / "out" / "portraits.jsonl", read_result) == [anna, nobody]
    text = (work / "out" / "portraits.md").read_text()
    assert "| still, all | 1 |" in text and "## Failed" in text


def test_what_is_measured_is_used_again(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate(work, "cran-tiny", sheet=True)
    written = (work / "out" / "portraits.md").read_bytes()
    assert (work / "out" / "portraits-cran-tiny-1.png").is_file()
    measured: list[str] = []

    def count(evaluator: Any, subject: portrait_checks.Subject, sentences: Any) -> Any:
        measured.append(subject.name)
        return first[0], [Mouth("picture", 0.1, subject.picture)]

    monkeypatch.setattr(portrait_checks, "evaluate_portrait", count)
    options = {"sheet": True, "overwrite": True}
    assert evaluate(work, "cran-tiny", **options) == first and not measured
    assert (work / "out" / "portraits.md").read_bytes() == written
    next((work / "out" / "mouths").iterdir()).unlink()  # a row of the sheet is made again
    assert evaluate(work, "cran-tiny", **options) == first and measured == ["anna.png"]
    monkeypatch.setattr(portrait_checks, "code_hash", lambda: "another renderer")
    assert evaluate(work, "cran-tiny", **options) == first and measured == ["anna.png"] * 2


def test_a_sample_is_chosen_by_name(tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / f"{name}.jpg").touch()
    (tmp_path / "notes.txt").touch()
    three = portrait_checks.find_portraits(tmp_path, 3)
    assert len(portrait_checks.find_portraits(tmp_path)) == 8 and len(three) == 3
    assert set(three) < set(portrait_checks.find_portraits(tmp_path, 4))
    assert three == sorted(three)
    with pytest.raises(BadRequest, match="--sample 0"):
        portrait_checks.find_portraits(tmp_path, 0)
    with pytest.raises(BadRequest, match="holds no picture"):
        portrait_checks.find_portraits(EXAMPLES.parent / "docs")


def result(name: str, gap: float, closed: list[bool], share: float) -> PortraitResult:
    closures = [Closure("s", "p", 0, 0.1, 0.1, 0.0 if c else 0.1) for c in closed]
    metrics: dict[str, float | None] = {
        "silence_shut": 1.0,
        "silence_share": share,
        "green_share": 0.25,
    }
    return PortraitResult("m", "", name, [9, 9], gap, metrics, closures=closures)


def test_portraits_are_grouped_by_their_mouth() -> None:
    text = markdown(
        [
            result("a", 0.01, [True, True], 1.0),
            result("b", 0.05, [True, False, False], 0.5),
            result("c", 0.1, [False, False], 0.0),
        ]
    )
    rows = {line.split(" |")[0]: line for line in text.splitlines() if line.startswith("| m, ")}
    assert rows["| m, mouth open in the picture"]
    closing = [line for line in text.splitlines() if line.startswith("| m, mouth")][:2]
    assert "| 1 | 0.100 | 100.0 | 0.0 |" in closing[0]
    assert "| 2 | 0.030 | 100.0 [100.0, 100.0] | 75.0" in closing[1]
    assert "| - | - | 25.0 | - |" in text  # green pixels, in per cent
    assert "| 5 | 0.0 [0.0, 0.0] | 60.0 [" in closing[1]  # 3 of 5 closures, none in its middle


@pytest.mark.slow
def test_the_command_line_checks_portraits(work: Path, cli: Cli) -> None:
    options = ("--portraits", work / "faces", "--phones", work / "voices", "-o", work / "out")
    ran = cli("evaluate", *options, "--models", "one=still", "--sheet")
    assert ran.code == 0, ran.err
    assert "one, all" in ran.out and "2 results, 1 of them failed" in ran.out
    assert (work / "out" / "portraits-one-1.png").is_file()
    again = cli("evaluate", *options, "--models", "still")
    assert again.code == 2 and "portraits.jsonl" in again.err and "--overwrite" in again.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--portraits", "."], "--portraits needs --models"),
        (["--portraits", ".", "--models", "still", "--cache", "x"], "--cache says nothing about"),
        (["--portraits", "nowhere", "--models", "still"], "nowhere: does not exist"),
        (["--portraits", ".", "--models", "judge"], "no generator"),
        (["--portraits", ".", "--models", "still,still"], "2 models are called 'still'"),
        (["--sample", "3", "--models", "still"], "--portraits: add it"),
        (["--likeness"], "--portraits: add it"),
    ],
)
def test_what_cannot_be_checked_is_refused(
    work: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    monkeypatch.chdir(work / "faces")
    given = ["--phones", str(work / "voices")] if options[0] == "--portraits" else []
    ran = cli("evaluate", *options, *given, "-o", work / "out")
    assert ran.code == 2 and said in ran.err, ran.err
    assert not (work / "out").exists()


def test_without_sentences_it_says_what_to_give(
    work: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    ran = cli("evaluate", "--portraits", "faces", "--models", "still", "-o", "out")
    assert ran.code == 2 and "give --phones FOLDER" in ran.err
