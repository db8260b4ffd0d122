"""The robustness figure: disturbances that do what they say, curves with a known answer, files."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Cli
from helpers.corpus import write_cache
from helpers.players import Drawer, Player, clip_of, frames_of, read_pixel
from talkingface import weights
from talkingface.data.dataset import Cache
from talkingface.errors import BadRequest, OutputError
from talkingface.evaluation import (
    EvaluatedModel,
    Evaluator,
    VideoWithLandmarks,
    detection,
)
from talkingface.evaluation.files import read_lines
from talkingface.landmarks import IBUG
from talkingface.reproduce import robustness
from talkingface.reproduce.robustness import DRIVING, IDENTITY, NONE, ROTATION, SHEAR, YAW, Trial


@pytest.fixture
def evaluator(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    monkeypatch.setattr(detection, "detect", read_pixel)
    return Evaluator(cache)


def calm(cache: Cache, key: str = "s1_test0") -> VideoWithLandmarks:
    frames = frames_of(cache, clip_of(cache, key))
    return VideoWithLandmarks(frames, read_pixel(frames))


@pytest.mark.parametrize(("kind", "amount"), [(ROTATION, 20.0), (ROTATION, 5.0), (SHEAR, 0.3)])
def test_pictures_and_landmarks_are_turned_alike(
    evaluator: Evaluator, cache: Cache, kind: str, amount: float
) -> None:
    clip, film = clip_of(cache, "s1_test0"), calm(cache)
    points = cache.landmarks[clip.start : clip.start + clip.frames] * 128
    frames = np.zeros_like(film.frames)
    for frame, corners in zip(frames, points[:, [30, 48]].round().astype(int), strict=True):
        for number, (x, y) in enumerate(corners):  # a spot of its own colour on each
            frame[y - 2 : y + 3, x - 2 : x + 3, number] = 200
    shown = robustness.disturb(
        cache, clip, VideoWithLandmarks(frames, film.landmarks), kind, amount
    )
    rows, columns = np.mgrid[:128, :128]
    for number, point in enumerate((30, 48)):
        spots = shown.real.frames[..., number].astype(float)
        total = spots.sum((1, 2))
        found = np.stack([(spots * at).sum((1, 2)) / total for at in (columns, rows)], axis=1)
        assert np.abs(found - shown.true[:, point] * 128).max() < 0.8  # 0.5 is from rounding
    assert np.array_equal(shown.landmarks, shown.true[0])
    assert np.array_equal(shown.driving, shown.true)
    assert np.allclose(shown.mesh[IBUG], shown.landmarks, atol=1e-6)
    before, after = points[0], shown.true[0] * 128
    assert np.allclose(before.mean(0), after.mean(0), atol=1e-3)  # about the face's centre
    across, down = (before[[16, 8]] - before[[0, 27]]), (after[[16, 8]] - after[[0, 27]])
    if kind == ROTATION:
        turned = np.degrees(np.arctan2(down[:, 1], down[:, 0]) - np.arctan2(*across.T[::-1]))
        assert np.allclose(turned, amount, atol=1e-3)
    else:
        assert np.allclose(down[:, 0] - across[:, 0], amount * across[:, 1], atol=1e-3)
        assert np.allclose(down[:, 1], across[:, 1], atol=1e-3)


def test_noise_is_as_strong_as_said_and_new_in_every_frame(
    evaluator: Evaluator, cache: Cache
) -> None:
    clip, film = clip_of(cache, "s1_test0"), calm(cache)
    one, four = (robustness.disturb(cache, clip, film, DRIVING, sigma) for sigma in (1.0, 4.0))
    noise = (four.driving - four.true) * 128
    assert noise.std() == pytest.approx(4, rel=0.05) and abs(noise.mean()) < 0.2
    following = (noise[1:] * noise[:-1]).mean() / noise.var()
    assert abs(following) < 0.06
    assert np.allclose(noise, 4 * (one.driving - one.true) * 128, atol=1e-3)
    assert np.array_equal(four.landmarks, four.true[0])
    assert np.array_equal(four.real.frames, film.frames)
    again = robustness.disturb(cache, clip, film, DRIVING, 4.0)
    assert np.array_equal(again.driving, four.driving)
    other = clip_of(cache, "s1_test1")
    elsewhere = robustness.disturb(cache, other, calm(cache, other.key), DRIVING, 4.0)
    assert not np.allclose((elsewhere.driving - elsewhere.true) * 128, noise, atol=0.1)


def test_an_identitys_noise_leaves_the_driving_landmarks_alone(
    evaluator: Evaluator, cache: Cache
) -> None:
    shown = robustness.disturb(cache, clip_of(cache, "s1_test0"), calm(cache), IDENTITY, 2.0)
    assert ((shown.landmarks - shown.true[0]) * 128).std() == pytest.approx(2, rel=0.2)
    noise = shown.mesh - cache.mesh[clip_of(cache, "s1_test0").start]
    assert (noise * 128).std() == pytest.approx(2, rel=0.1)
    assert np.allclose(shown.mesh[IBUG], shown.landmarks, atol=1e-6)  # one noise for both
    assert np.array_equal(shown.driving, shown.true)


def fakes(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """`drawer` draws landmarks, `player` does not; both return a clip's frames for any sound."""
    frames = frames_of(cache, clip_of(cache, "s1_test0"))

    def open_fake(name: str, device: str = "cpu") -> EvaluatedModel:
        kinds: dict[str, Any] = {"drawer": Drawer, "player": Player}
        plain = name.removesuffix("@landmarks")
        if plain in kinds:
            return EvaluatedModel(name, "abc", kinds[plain](frames), plain != name)
        return EvaluatedModel(name, "", None if name == "real" else weights.load(name))  # type: ignore[arg-type]

    monkeypatch.setattr(robustness, "open_model", open_fake)


def test_a_model_that_draws_landmarks_is_measured_both_ways(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes(cache, monkeypatch)
    both = robustness._open_models(["drawer", "player"], "cpu")
    assert [(c.name, c.driven) for c in both] == [
        ("drawer", False),
        ("drawer@landmarks", True),
        ("player", False),
        ("still", False),
    ]
    named = robustness._open_models(["atvg-tiny", "cran-tiny"], "cpu")
    assert [c.name for c in named] == ["atvg-tiny", "atvg-tiny@landmarks", "cran-tiny", "still"]
    alone = robustness._open_models(["drawer@landmarks", "still"], "cpu")
    assert [c.name for c in alone] == ["drawer@landmarks", "still"]
    with pytest.raises(BadRequest, match="real is no model"):
        robustness._open_models(["real"], "cpu")


SHORT = ((NONE, 0.0), (DRIVING, 1.0), (DRIVING, 4.0), (IDENTITY, 2.0), (ROTATION, 20.0))


@pytest.fixture
def short(cache: Cache, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake models, an exact detector, few disturbances: what is left is the command itself."""
    monkeypatch.setattr(robustness, "DISTURBANCES", SHORT)
    fakes(cache, monkeypatch)


@pytest.mark.slow
def test_the_command_measures_writes_and_draws(
    cli: Cli, cache: Cache, short: None, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    options = ("--cache", cache.folder, "--models", "drawer,player", "--clips", 1)
    ran = cli("robustness", *options, "--out", tmp_path / "a")
    assert ran.code == 0 and ran.err == "", ran.err
    trials = read_lines(tmp_path / "a" / "robustness.jsonl", Trial)
    rows = [(t.model, t.kind, t.amount) for t in trials]
    models = ("drawer", "drawer@landmarks", "player", "still")
    assert rows == [
        *((model, NONE, 0.0) for model in models),
        *(("drawer@landmarks", DRIVING, sigma) for sigma in (1.0, 4.0)),
        *((model, IDENTITY, 2.0) for model in models[:3]),
        *((model, ROTATION, 20.0) for model in models),
    ]
    found = {row: t.metrics for row, t in zip(rows, trials, strict=True)}
    assert found["player", NONE, 0.0]["ssim"] == pytest.approx(1)
    assert found["player", NONE, 0.0]["psnr"] is None  # infinite
    distances = [found["drawer@landmarks", k, a]["lmd_pixels"] or 0.0 for k, a in SHORT[:3]]
    assert distances[0] < 0.02 and distances[0] < distances[1] < distances[2]
    # noise on the identity is nothing to who draws the driving landmarks alone
    assert found["drawer@landmarks", IDENTITY, 2.0] == found["drawer@landmarks", NONE, 0.0]
    assert (found["player", ROTATION, 20.0]["ssim"] or 1) < 0.9  # it plays an upright face
    assert (tmp_path / "a" / "robustness.md").read_text().rstrip() in ran.out
    png = (tmp_path / "a" / "robustness.png").read_bytes()
    assert png.startswith(b"\x89PNG") and len(png) > 10_000

    again = cli("robustness", *options, "--out", tmp_path / "a")
    assert again.code == 2 and "exists already" in again.err
    cli("robustness", *options, "--out", tmp_path / "b")
    for name in ("robustness.jsonl", "robustness.md", "robustness.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert len(list((tmp_path / "a").iterdir())) == 3  # nothing else is left behind


def test_without_matplotlib_the_measures_are_kept(
    cli: Cli, cache: Cache, short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(robustness, "DISTURBANCES", SHORT[:1])
    options = ("--cache", cache.folder, "--models", "still", "--clips", 1)
    ran = cli("robustness", *options, "--out", tmp_path)
    assert ran.code == 2 and "pip install 'talkingface[figures]'" in ran.err
    assert len(read_lines(tmp_path / "robustness.jsonl", Trial)) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"robustness.jsonl", "robustness.md"}


def trial(kind: str, amount: float, ssim: float | None, **other: Any) -> Trial:
    metrics = {name: 1.0 for name, _ in robustness.MEASURES} | {"ssim": ssim, "missed": 1.0}
    made = Trial("m", "", "c", "s1", "test", None, kind, amount, metrics)
    return replace(made, **other)


def test_curves_are_means_over_clips_that_begin_undisturbed() -> None:
    trials = [
        trial(NONE, 0.0, 0.9),
        trial(NONE, 0.0, 0.7, clip="d"),
        trial(ROTATION, 20.0, 0.4),
        trial(ROTATION, 5.0, 0.6),
        trial(ROTATION, 5.0, None, clip="d"),
        trial(ROTATION, 5.0, 0.1, model="n"),
    ]
    points = robustness.curve(trials, "m", ROTATION)
    assert [(p.amount, p.clips) for p in points] == [(0.0, 2), (5.0, 2), (20.0, 1)]
    assert [p.metrics["ssim"] for p in points] == pytest.approx([0.8, 0.6, 0.4])
    assert [p.metrics["missed"] for p in points] == [2, 2, 1]
    assert robustness.curve(trials, "m", SHEAR) == []
    table = robustness.tables(trials)
    assert "| m, 5.0 | 2 | 1.00 | 0.6000 |" in table and "## Shear" not in table


def test_real_poses_are_groups_of_undisturbed_clips() -> None:
    trials = [
        *(trial(NONE, 0.0, 0.9, yaw=yaw) for yaw in (1.0, 4.0)),
        trial(NONE, 0.0, 0.5, yaw=12.0),
        trial(NONE, 0.0, 0.1, yaw=None),
        trial(ROTATION, 5.0, 0.1, yaw=1.0),
    ]
    points = robustness.curve(trials, "m", YAW)
    assert [(p.amount, p.clips) for p in points] == [(2.5, 2), (12.0, 1)]
    assert [p.metrics["ssim"] for p in points] == pytest.approx([0.9, 0.5])


def test_clips_are_chosen_from_frontal_to_turned(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    write_cache(folder)
    rows = json.loads((folder / "clips.json").read_text())
    yaws = {"s1_test0": -9.0, "s1_test1": 1.0, "s1_test2": 4.0}
    for row in rows:
        row["info"] = {"yaw": yaws[row["key"]]} if row["key"] in yaws else {}
    (folder / "clips.json").write_text(json.dumps(rows))
    chosen = robustness.choose_clips(Cache(folder), ["test"], None)
    assert [c.key for c in chosen] == ["s1_test1", "s1_test2", "s1_test0"]
    assert [c.key for c in robustness.choose_clips(Cache(folder), ["test"], 2)] == [
        "s1_test1",
        "s1_test0",
    ]
    with pytest.raises(BadRequest, match="no clip of split 'tset'"):
        robustness.choose_clips(Cache(folder), ["tset"], 2)


def test_bad_requests_say_what_is_wrong(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="clips is 0"):
        robustness.evaluate_robustness(["still"], cache.folder, tmp_path, clips=0)
    (tmp_path / "robustness.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"robustness.png: exists already"):
        robustness.evaluate_robustness(["still"], cache.folder, tmp_path)
    assert math.isclose(sum(p.stat().st_size for p in tmp_path.iterdir()), 4)
