"""Predicted lips on free speech, at phones, without speech: every number against a naive one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import Cli
from helpers.media import write_sound
from helpers.predictors import Loudness, info, mesh_of, syllables, write_speech
from talkingface import audio, landmarks, picture, video, video_writing, weights
from talkingface.contract import ExpressionPredictor, Generator
from talkingface.errors import BadRequest, OutputError, UnreadableMedia
from talkingface.evaluation import free_speech, intervals, noise_checks, phone_checks
from talkingface.evaluation.files import find_sounds, read_lines
from talkingface.evaluation.free_speech import FreeSpeechResult, best_lag, compare
from talkingface.evaluation.phone_checks import PhoneRules, check_phones
from talkingface.evaluation.predicted_lips import (
    Lips,
    Predictor,
    lips_of,
    open_predictors,
)
from talkingface.faces import Tracker
from talkingface.metrics.lips import EQUAL

VOICES = Path(__file__).parent / "fixtures" / "voices"
Edit = Callable[[Path], object]


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make "loud" and "loud2" models that predict lips; other names are the registry's."""
    real = weights.load_with_info

    def load(name: str | Path, device: Any = "cpu") -> Any:
        return (Loudness(), info(str(name))) if str(name).startswith("loud") else real(name, device)

    monkeypatch.setattr(weights, "load_with_info", load)


@pytest.fixture
def predictor() -> Predictor:
    return Predictor("loud", Loudness(), info("loud"), torch.device("cpu"))


def wave(frames: int = 200, seed: int = 3) -> Lips:
    rng = np.random.default_rng(seed)
    aperture = np.abs(np.convolve(rng.normal(0, 0.06, frames + 4), np.ones(5) / 5, "valid") * 2)
    return Lips(aperture, 0.9 + np.convolve(rng.normal(0, 0.05, frames + 4), np.ones(5), "valid"))


def delayed(lips: Lips, frames: int) -> Lips:
    return Lips(np.roll(lips.aperture, frames), np.roll(lips.width, frames))


# --- landmarks ------------------------------------------------------------------------------------


def test_aperture_and_width_are_distances_of_two_points() -> None:
    mesh = np.random.default_rng(0).normal(size=(3, 2, 478, 2))
    for measure, first, second in ((landmarks.aperture, 13, 14), (landmarks.width, 61, 291)):
        naive = np.hypot(*np.moveaxis(mesh[..., first, :] - mesh[..., second, :], -1, 0))
        assert np.allclose(measure(mesh), naive)
        tensor = measure(torch.from_numpy(mesh))
        assert isinstance(tensor, torch.Tensor) and np.allclose(tensor, naive)
        with pytest.raises(ValueError, match=r"\(68, 2\)"):
            measure(np.zeros((68, 2)))
    lips = lips_of(mesh_of([0.1, 0.0], [0.9, 0.7]).astype(np.float16))
    assert np.allclose(lips.aperture, [0.1, 0], atol=1e-3)
    assert np.allclose(lips.width, [0.9, 0.7], atol=1e-3)


# --- models ---------------------------------------------------------------------------------------


def test_a_predictor_needs_no_face(predictor: Predictor) -> None:
    assert isinstance(Loudness(), ExpressionPredictor) and isinstance(Loudness(), Generator)
    assert not isinstance(weights.load("still"), ExpressionPredictor)
    sound = torch.from_numpy(syllables(1.0, 1)).float()
    speech = audio.windows(sound, Loudness().config.speech)[None]
    expected = Loudness().predict_expression(speech)[0][0].numpy()
    lips = predictor.predict(sound)
    assert np.allclose(lips.aperture, expected[:, 0], atol=1e-6)
    assert np.allclose(lips.width, expected[:, 1], atol=1e-6)


def test_a_mesh_of_another_shape_is_refused(predictor: Predictor) -> None:
    class Wrong:
        def mesh(self, expression: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(expression), 68, 2)

    predictor.model.space = Wrong()  # type: ignore[assignment]
    with pytest.raises(BadRequest, match=r"\(1, 68, 2\), expected \(1, 478, 2\)"):
        predictor.predict(torch.zeros(640))


@pytest.mark.usefixtures("models")
def test_models_that_predict_no_lips_are_refused() -> None:
    assert [one.name for one in open_predictors(["loud", "two=loud2"])] == ["loud", "two"]
    with pytest.raises(BadRequest, match="still: a still predicts no expressions"):
        open_predictors(["loud", "still"])
    with pytest.raises(BadRequest, match="2 models are called 'loud'"):
        open_predictors(["loud", "loud"])


def test_without_names_every_model_that_predicts_lips_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = [info("still", Path("a")), info("loud", Path("b")), info("loud-tiny")]
    monkeypatch.setattr(weights, "listing", lambda: entries)
    real = weights.load_with_info
    monkeypatch.setattr(
        weights,
        "load_with_info",
        lambda name, device: (
            (Loudness(), info(name)) if name.startswith("loud") else real(name, device)
        ),
    )
    assert [one.name for one in open_predictors(None)] == ["loud"]
    monkeypatch.setattr(weights, "listing", lambda: entries[:1])
    with pytest.raises(BadRequest, match="none of still predicts expressions"):
        open_predictors(None)


# --- free speech ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lag", [0, 2, -2, 3])
def test_a_delayed_curve_correlates_at_its_lag(lag: int) -> None:
    real = wave()
    found = compare(delayed(real, lag), real)
    assert found["lag"] == lag and found["width_lag"] == lag
    assert found["best_correlation"] == pytest.approx(1)
    assert found["width_best_correlation"] == pytest.approx(1)
    assert found["closed_found_best"] == pytest.approx(1)
    late = np.roll(real.aperture, lag)
    assert found["correlation"] == pytest.approx(np.corrcoef(late, real.aperture)[0, 1])
    assert found["amplitude"] == pytest.approx(1)
    closed = real.aperture < 0.04
    assert found["closed_real"] == pytest.approx(closed.mean())
    assert found["closed_found"] == pytest.approx((late[closed] < 0.04).mean())


def test_a_lag_beyond_reach_is_not_looked_for_and_the_best_may_be_negative() -> None:
    curve = np.sin(np.arange(100) / 4)
    lag, best = best_lag(-curve, curve)
    naive = {
        k: np.corrcoef(-curve[max(0, k) : 100 + min(0, k)], curve[max(0, -k) : 100 - max(0, k)])[
            0, 1
        ]
        for k in range(-3, 4)
    }
    assert best == pytest.approx(max(naive.values())) and best < 0
    assert abs(lag) == 3
    lag, best = best_lag(np.ones(100), curve)
    assert math.isnan(lag) and math.isnan(best)
    lag, best = best_lag(curve, curve)
    assert lag == 0.0 and best == pytest.approx(1)
    period = np.tile([0.0, 1.0], 50)
    assert best_lag(np.roll(period, 1), period)[0] == -1  # of +1 and -1 the early one
    assert EQUAL < 1e-6


def test_known_closures_are_counted() -> None:
    real = Lips(np.array([0.0, 0.03, 0.1, 0.2, 0.01, math.nan, 0.3, 0.4]), np.ones(8))
    predicted = Lips(np.array([0.0, 0.05, 0.0, 0.1, 0.039, 0.0, 0.1, 0.1]), np.arange(8.0))
    found = compare(predicted, real)
    assert found["closed_found"] == pytest.approx(2 / 3)
    assert found["closed_real"] == pytest.approx(3 / 7)
    assert found["closed_predicted"] == pytest.approx(3 / 7)
    assert math.isnan(found["width_correlation"]) and math.isnan(found["width_lag"])
    known = np.isfinite(real.aperture)
    assert found["amplitude"] == pytest.approx(
        predicted.aperture[known].std() / real.aperture[known].std()
    )
    open_ = compare(predicted, Lips(real.aperture + 1, real.width))
    assert math.isnan(open_["closed_found"]) and open_["closed_real"] == 0


def write_recording(folder: Path, name: str, seed: int, seconds: float = 1.6) -> None:
    """Write a sound and the mesh that `Loudness` predicts, two frames earlier."""
    path = write_speech(folder / f"{name}.flac", seconds, seed)
    loud = Predictor("loud", Loudness(), info("loud"), torch.device("cpu"))
    real = delayed(loud.predict(audio.load(path)), -2)
    np.savez(folder / f"{name}.npz", mesh=mesh_of(real.aperture, real.width).astype(np.float16))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "speeches"
    path.mkdir()
    for seed, name in enumerate(("a", "b", "c")):
        write_recording(path, name, seed)
    (path / "README.md").write_text("what this is\n")
    return path


@pytest.mark.usefixtures("models")
def test_free_speech_by_the_command_line(cli: Cli, folder: Path, tmp_path: Path) -> None:
    arguments = ("evaluate", "--free-speech", folder, "--models", "loud,two=loud2", "-o")
    ran = cli(*arguments, tmp_path / "out")
    assert ran.code == 0, ran.err
    results = read_lines(tmp_path / "out" / "free-speech.jsonl", FreeSpeechResult)
    assert [(r.model, r.recording) for r in results] == [
        (model, name) for model in ("loud", "two") for name in "abc"
    ]
    first = results[0].metrics
    assert first["lag"] == 2 and first["best_correlation"] == pytest.approx(1, abs=1e-3)
    assert results[0].frames == 40 and results[0].video_aperture == []
    text = (tmp_path / "out" / "free-speech.md").read_text()
    assert text in ran.out and "| loud, a |" in text
    values = [r.metrics["correlation"] or math.nan for r in results[:3]]
    low, high = intervals.interval(intervals.ratio(np.array(values)))
    assert f"| {np.mean(values):.3f} [{low:.3f}, {high:.3f}] |" in text
    again = cli(*arguments, tmp_path / "again")
    assert again.code == 0
    for name in ("free-speech.jsonl", "free-speech.md"):
        made = (tmp_path / "again" / name).read_bytes()
        assert made == (tmp_path / "out" / name).read_bytes()
    refused = cli(*arguments, tmp_path / "out")
    assert refused.code == 2 and "exists already" in refused.err
    assert cli(*arguments, tmp_path / "out", "--overwrite").code == 0


def test_a_star_says_that_a_model_differs_from_the_first() -> None:
    def result(model: str, name: str, value: float) -> free_speech.FreeSpeechResult:
        return free_speech.FreeSpeechResult(
            model, "", name, 1, {"correlation": value}, [], [], [], []
        )

    rows = [result("one", str(n), 0.5 + n / 100) for n in range(6)]
    rows += [result("two", str(n), 0.6 + n / 100) for n in range(6)]
    rows += [result("same", str(n), 0.5 + n / 100) for n in range(6)]
    text = free_speech.markdown(rows)
    assert "| two | 6 | 0.625* [" in text and "| same | 6 | 0.525 [" in text
    assert "differs from one" in text


def rename(name: str) -> Edit:
    return lambda folder: (folder / "a.flac").rename(folder / name)


def save(**arrays: Any) -> Edit:
    return lambda folder: np.savez(folder / "a.npz", **arrays)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (rename("z.flac"), "a.npz: needs exactly one recording a.flac"),
        (lambda folder: (folder / "a.wav").write_bytes(b""), "found a.flac, a.wav"),
        (save(points=np.zeros(3)), "a.npz: holds points; expected `mesh`"),
        (save(mesh=np.zeros((5, 68, 2))), r"its `mesh` is \(5, 68, 2\); expected \(T, 478, 2\)"),
        (save(mesh=100 * mesh_of(np.ones(40), np.ones(40))), "eye centres of its `mesh` are 100 a"),
        (save(mesh=np.full((40, 478, 2), np.nan)), "eye centres of its `mesh` are nan apart"),
        (save(mesh=mesh_of(np.ones(90), np.ones(90))), "lasts 40 frames at 25 fps, a.npz has 90"),
        (lambda folder: (folder / "a.npz").write_bytes(b"PK"), "a.npz: no readable .npz file"),
        (save(mesh=np.array([{}])), "a.npz: no readable .npz file"),
    ],
)
@pytest.mark.usefixtures("models")
def test_what_is_wrong_with_a_folder_is_said(
    edit: Edit, said: str, folder: Path, tmp_path: Path
) -> None:
    edit(folder)
    with pytest.raises((BadRequest, UnreadableMedia), match=said):
        free_speech.evaluate_free_speech(["loud"], folder, tmp_path / "out")
    assert not (tmp_path / "out" / "free-speech.jsonl").exists()


def test_folders_that_are_none_or_empty(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"holds no \.npz file"):
        free_speech.find_recordings(tmp_path)
    with pytest.raises(BadRequest, match=r"does not exist; expected a folder with NAME\.flac"):
        free_speech.find_recordings(tmp_path / "none")
    with pytest.raises(BadRequest, match=r"holds no recording; expected files \.aac"):
        find_sounds(tmp_path)
    with pytest.raises(BadRequest, match=r"phones\.json: does not exist"):
        phone_checks.read_sentences(tmp_path)


# --- finished videos ------------------------------------------------------------------------------


def test_the_aperture_of_a_video_is_that_of_its_face(portrait: Path, tmp_path: Path) -> None:
    pixels = np.ascontiguousarray(picture.read(portrait)[::2, ::2])
    path = tmp_path / "still.mp4"
    video_writing.write(path, [pixels, pixels, 0 * pixels], None)
    found = free_speech.video_aperture(path)
    tracker = Tracker()
    tracker.update(pixels)
    face = tracker.update(pixels)
    assert face is not None
    eyes = np.linalg.norm(face.landmarks[36:42].mean(0) - face.landmarks[42:48].mean(0))
    expected = np.linalg.norm(face.mesh[13, :2] - face.mesh[14, :2]) / eyes
    assert np.allclose(found[:2], expected, atol=0.02) and math.isnan(found[2])


def test_a_video_is_measured_against_predicted_and_real() -> None:
    predicted, real = wave(seed=1).aperture, wave(seed=2).aperture
    found = free_speech.compare_video(predicted / 2, predicted, real)
    assert found["video_predicted_correlation"] == pytest.approx(1)
    assert found["video_predicted_amplitude"] == pytest.approx(0.5)
    assert found["video_predicted_closed_found"] == 1
    assert found["video_correlation"] == pytest.approx(np.corrcoef(predicted, real)[0, 1])
    assert found["video_missed"] == 0
    gaps = np.where(np.arange(200) < 50, math.nan, predicted)
    assert free_speech.compare_video(gaps, predicted, real)["video_missed"] == 0.25


@pytest.mark.usefixtures("models")
def test_finished_videos_by_the_command_line(cli: Cli, tmp_path: Path, small: bytes) -> None:
    folder = tmp_path / "speeches"
    folder.mkdir()
    write_recording(folder, "a", 1, seconds=0.8)
    (tmp_path / "face.png").write_bytes(small)
    arguments = ("evaluate", "--free-speech", folder, "--models", "loud", "-o", tmp_path / "out")
    ran = cli(*arguments, "--video", tmp_path / "face.png")
    assert ran.code == 0, ran.err
    assert video.probe(tmp_path / "out" / "videos" / "loud-a.mp4").width == 256
    (result,) = read_lines(tmp_path / "out" / "free-speech.jsonl", FreeSpeechResult)
    assert len(result.video_aperture) == 20 and result.metrics["video_missed"] == 0
    assert "## In the finished video" in ran.out
    (tmp_path / "out" / "free-speech.jsonl").unlink()
    (tmp_path / "out" / "free-speech.md").unlink()
    with pytest.raises(OutputError, match=r"loud-a\.mp4: exists already"):
        free_speech.evaluate_free_speech(
            ["loud"], folder, tmp_path / "out", portrait=tmp_path / "face.png"
        )


# --- phones ---------------------------------------------------------------------------------------

PHONES = [("", 0.0, 0.4), ("p", 0.4, 0.48), ("a", 0.48, 0.8), ("u", 0.8, 1.0), ("", 1.0, 1.2)]
KINDS = {"p": "closed", "u": "rounded", "y": "rounded_front", "a": "open", "a\u026a": "open"}


def curves(frames: int = 30, aperture: float = 0.05, width: float = 0.9) -> Lips:
    return Lips(np.full(frames, aperture), np.full(frames, width))


def passed(lips: Lips, phones: list[tuple[str, float, float]] = PHONES) -> dict[str, bool]:
    return {check.symbol: check.passed for check in check_phones(lips, phones, KINDS)[0]}


def test_lips_that_do_what_phones_ask_for_pass() -> None:
    lips = curves()
    assert passed(lips) == {"p": False, "a": False, "u": False}
    lips.aperture[10] = 0.039  # 0.40-0.44 s
    lips.aperture[16] = 0.061  # 0.64 s is the middle of a
    lips.width[22] = 0.89  # 0.90 s is the middle of u
    assert passed(lips) == {"p": True, "a": True, "u": True}


@pytest.mark.parametrize(
    ("frame", "expected"), [(8, False), (9, True), (10, True), (11, True), (12, True), (13, False)]
)
def test_a_closed_phone_has_20_ms_to_either_side(frame: int, expected: bool) -> None:
    lips = curves()
    lips.aperture[frame] = 0.0
    assert passed(lips)["p"] is expected  # middles within 0.38 ... 0.50 s: frames 9 to 12


def test_an_open_phone_is_open_and_opener_than_the_sentence() -> None:
    lips = curves(aperture=0.07)
    assert not passed(lips)["a"]
    lips.aperture[16] = 0.071
    assert passed(lips)["a"]
    lips.aperture[:10], lips.aperture[25:] = 1.0, 1.0  # silence does not count
    assert passed(lips)["a"]


def test_the_first_half_of_a_diphthong_is_open() -> None:
    phones = [("t", 0.0, 0.4), ("a\u026a", 0.4, 0.8), ("t", 0.8, 1.2)]
    lips = curves()
    lips.aperture[15] = 0.2  # 0.6 s, the middle of the whole
    assert not passed(lips, phones)["a\u026a"]
    lips.aperture[12] = 0.2  # 0.5 s, the middle of the first half
    assert passed(lips, phones)["a\u026a"]


def test_short_phones_are_left_out_and_counted() -> None:
    phones = [("p", 0.0, 0.025), ("a", 0.025, 0.055), ("p", 0.055, 0.085), ("u", 0.085, 0.1)]
    checks, too_short = check_phones(curves(3), phones, KINDS)
    assert [(check.symbol, check.start) for check in checks] == [("a", 0.025), ("p", 0.055)]
    assert too_short == {"closed": 1, "rounded": 1, "rounded_front": 0, "open": 0}
    late = PhoneRules(curves(2, aperture=0.0), phones)
    assert late.passes("closed", 5.0, 5.1)  # behind the sound: its last frame


def test_chance_is_how_often_random_moments_pass() -> None:
    phones = [
        ("", 0.0, 2.0),
        ("t", 2.0, 10.0),
        *(("u", 10 + n / 10, 10.1 + n / 10) for n in range(100)),
    ]
    rng = np.random.default_rng(0)
    lips = Lips(np.zeros(500), np.where(rng.random(500) < 0.3, 0.8, 0.9))
    checks, _ = check_phones(lips, phones, KINDS, "name")
    rate = sum(check.chance for check in checks) / (len(checks) * phone_checks.CONTROL_DRAWS)
    assert rate == pytest.approx(np.mean(lips.width[50:] < 0.9), abs=0.04)
    assert check_phones(lips, phones, KINDS, "name")[0] == checks
    assert check_phones(lips, phones, KINDS, "other")[0] != checks
    times = phone_checks.random_times(phones, 20_000, rng)
    assert times.min() >= 2.0 and times.max() <= 20.0
    assert np.histogram(times, 18, (2, 20))[0] == pytest.approx(20_000 / 18, rel=0.12)


def test_shares_are_pooled_over_phones() -> None:
    def result(language: str, outcomes: list[bool]) -> phone_checks.PhoneResult:
        checks = [phone_checks.PhoneCheck("p", "closed", 0, 1, ok, 5) for ok in outcomes]
        return phone_checks.PhoneResult("m", "", "r", language, "v", checks, {"closed": 1})

    results = [result("hi", [True, False]), result("en", [True] * 4), result("en", [])]
    row = phone_checks.shares(results)
    assert row["closed"].value == pytest.approx(5 / 6)
    assert row["closed_chance"].value == pytest.approx(0.25) and row["closed_phones"].value == 6
    assert math.isnan(row["open"].value)
    text = phone_checks.markdown(results)
    assert "| m | 50.0 % (hi) |" in text and "| m, en | 100.0" in text
    assert "Left out as shorter than 30 ms: 3 closed." in text
    assert "open (a)" in text and "| open %" not in text


def test_the_voices_of_the_fixture_are_read(predictor: Predictor) -> None:
    sentences, kinds = phone_checks.read_sentences(VOICES)
    assert len(sentences) == 26 and len({one.language for one in sentences}) == 10
    assert kinds["m"] == "closed" and kinds["u"] == "rounded"
    symbols = [symbol for one in sentences for symbol, _, _ in one.phones]
    assert all(half in symbols for half in phone_checks.FIRST_HALF)
    result = phone_checks._evaluate(predictor, sentences[0], kinds)
    assert len(result.checks) > 5 and result.voice == sentences[0].voice


def write_voices(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    write_sound(folder / "a.flac", syllables(1.2, 1), 16_000, "flac")
    entry = {"language": "en", "voice": "v", "phones": PHONES, **changes.pop("entry", {})}
    content = {"classes": {"closed": ["p"], "open": ["a"]}, "files": {"a.flac": entry}, **changes}
    (folder / "phones.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": {"lips": ["p"]}}, "its classes are lips; expected some of closed, rounded"),
        ({"classes": {"closed": ["p"], "open": ["p"]}}, "'p' is closed and open; keep one"),
        ({"files": {}}, 'its "files" name no recording'),
        ({"files": {"b.flac": {}}}, "b.flac: does not exist, phones.json names it"),
        ({"entry": {"phones": [["p", 0]]}}, 'a.flac needs "language", "voice" and "phones"'),
        ({"entry": {"phones": [["p", 0.2, 0.1]]}}, "'p' from 0.2 to 0.1 s"),
        ({"entry": {"phones": [["a", 0, 1], ["p", 0.5, 1]]}}, "behind one that ends at 1.0 s"),
        ({"entry": {"phones": [["", 0, 1]]}}, "a.flac has no phone but silence"),
        ({"entry": {"phones": [["p", 0, 9]]}}, "lasts 1.20 s, its phones until 9.00 s"),
    ],
)
@pytest.mark.usefixtures("models")
def test_what_is_wrong_with_phones_is_said(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = write_voices(tmp_path / "voices", **changes)
    with pytest.raises(UnreadableMedia, match=said):
        phone_checks.evaluate_phones(["loud"], folder, tmp_path / "out")


@pytest.mark.usefixtures("models")
def test_json_has_the_results_without_their_curves(cli: Cli, folder: Path, tmp_path: Path) -> None:
    ran = cli(
        "evaluate", "--free-speech", folder, "--models", "loud", "-o", tmp_path / "out", "--json"
    )
    assert ran.code == 0, ran.err
    (report,) = json.loads(ran.out)
    assert [Path(path).name for path in report["files"]] == ["free-speech.jsonl", "free-speech.md"]
    assert report["failed"] == 0 and [row["recording"] for row in report["results"]] == [*"abc"]
    assert report["results"][0]["metrics"]["lag"] == 2 and "aperture" not in report["results"][0]
    words = ("evaluate", "--free-speech", folder, "--models", "loud", "-o", tmp_path / "quiet")
    quiet = cli(*words, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


@pytest.mark.usefixtures("models")
def test_phones_and_noise_by_the_command_line(cli: Cli, tmp_path: Path) -> None:
    folder = write_voices(tmp_path / "voices")
    arguments = ("evaluate", "--phones", folder, "--noise", folder, "--models", "loud", "-o")
    ran = cli(*arguments, tmp_path / "out")
    assert ran.code == 0, ran.err
    (result,) = read_lines(tmp_path / "out" / "phones.jsonl", phone_checks.read_result)
    assert [check.symbol for check in result.checks] == ["p", "a"]
    assert "# Lips and phones" in ran.out and "# Lips without speech" in ran.out
    rows = read_lines(tmp_path / "out" / "noise.jsonl", noise_checks.NoiseResult)
    assert len(rows) == 1 + len(noise_checks.SOURCES) + len(noise_checks.DISTURBANCES)
    assert cli(*arguments, tmp_path / "again").code == 0
    for name in ("phones.jsonl", "phones.md", "noise.jsonl", "noise.md"):
        made = (tmp_path / "again" / name).read_bytes()
        assert made == (tmp_path / "out" / name).read_bytes()


# --- noise ----------------------------------------------------------------------------------------


def test_no_speech_and_disturbed_speech_are_measured(predictor: Predictor) -> None:
    speech = torch.from_numpy(syllables(1.6, 2)).float()
    rows = {row.sound: row for row in noise_checks.evaluate_sound(predictor, "a", speech)}
    clean = predictor.predict(speech).aperture
    assert rows["clean speech"].deviation == pytest.approx(clean.std(), abs=1e-6)
    silence = rows["digital silence"]
    assert (silence.mean, silence.deviation, silence.closed) == (0, 0, 1)
    assert silence.correlation is None
    quiet, loud = (rows[f"white noise, {level} dBFS"] for level in (-50, -20))
    assert (quiet.mean or 0) < (loud.mean or 0)
    noisy = noise_checks.DISTURBANCES["pink noise, 10 dB below"][0](
        speech, noise_checks._rng("a", "pink noise, 10 dB below")
    )
    expected = np.corrcoef(predictor.predict(noisy).aperture, clean)[0, 1]
    assert rows["pink noise, 10 dB below"].correlation == pytest.approx(expected, abs=1e-6)


def test_the_noise_table_has_shares_and_targets() -> None:
    def result(kind: str, sound: str, *numbers: float) -> noise_checks.NoiseResult:
        return noise_checks.NoiseResult("m", "", "a", kind, sound, *numbers)

    text = noise_checks.markdown(
        [
            result("no speech", "digital silence", 0.01, 0.001, 0.02, 1.0),
            result("no speech", "digital silence", 0.03, 0.002, 0.04, 0.5),
            result("disturbed speech", "telephone", 0.1, 0.1, 0.1, 0.0, 0.95, 1.1),
            result("disturbed speech", "far microphone", 0.1, 0.1, 0.1, 0.0, 0.7, 1.2),
        ]
    )
    assert "| m, digital silence | 5.0 [5.0, 5.0] | 8 | 0.020 [0.010, 0.030] | 75.0 [" in text
    assert "| m, telephone | 0.950 | 0.90 | 1.10 | 0.100 | 0.0 |" in text
    assert "| m, far microphone | 0.700 | - | 1.20 |" in text


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--free-speech", "x", "--cache", "y"], "--cache says nothing about --free-speech"),
        (["--phones", "x", "--noise", "z", "--jobs", "2"], "--jobs says nothing about --phones, "),
        (["--noise", "x", "--author-compat"], "--author-compat says nothing about --noise"),
        (["--noise", "x", "--video", "y"], "--video says which portrait speaks the recordings of"),
        (["--models", "cran", "--video", "y"], "--video says which portrait"),
        (["--noise", "none"], "none: does not exist; expected a folder with recordings"),
        ([], "--free-speech, --phones, --noise: what is to be measured?"),
    ],
)
def test_options_that_contradict_each_other(
    cli: Cli, options: list[str], said: str, tmp_path: Path
) -> None:
    ran = cli("evaluate", *options, "-o", tmp_path / "out")
    assert ran.code == 2 and said in ran.err
    assert ran.err.count("\n") == 1


def test_a_model_that_predicts_no_lips_is_refused_in_one_line(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    ran = cli("evaluate", "--free-speech", folder, "--models", "still", "-o", tmp_path / "out")
    assert ran.code == 2 and ran.err.count("\n") == 1
    assert "still: a still predicts no expressions from speech alone" in ran.err
    assert not (tmp_path / "out").exists()
