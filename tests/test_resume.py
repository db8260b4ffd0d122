"""Resuming an evaluation measures again only what is missing or has changed."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.corpus import FRAMES, write_cache
from helpers.players import Player, clip_of, frames_of, read_pixel
from talkingface import evaluation, weights
from talkingface.contract import Generated, Portrait
from talkingface.data.dataset import Cache
from talkingface.errors import BadRequest, OutputError
from talkingface.evaluation import EvaluatedModel, Result, detection, jobs, measures
from talkingface.evaluation import run as runs
from talkingface.metrics.identity import similarity
from talkingface.models.measures.identity import FaceEmbedding, IdentityConfig
from talkingface.models.measures.sync import SyncConfig, SyncNet
from talkingface.workers import Workers

FILES = ("results.jsonl", "tables.md", "tables.tex")
TEST_CLIPS = 3  # of the split "test", which has one speaker: both identity pictures for each


class Counting(Player):
    """A generator that returns one clip's frames; it counts its videos, and may stop or fail."""

    def __init__(self, frames: np.ndarray, fault: Callable[[int], None] | None = None) -> None:
        super().__init__(frames)
        self.videos = 0
        self.fault = fault

    def encode(self, portrait: Portrait) -> Portrait:
        self.videos += 1
        if self.fault is not None:
            self.fault(self.videos)
        return portrait


class Bad(Counting):
    """A generator that fails on a certain picture."""

    def __init__(self, frames: np.ndarray, picture: np.ndarray) -> None:
        super().__init__(frames)
        self.picture = Player(picture[None]).frames[0]

    def encode(self, portrait: Portrait) -> Portrait:
        if torch.equal(portrait.image[0], self.picture):
            raise KeyError("a hole\nin a table")
        return super().encode(portrait)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cache")
    write_cache(made)
    return made


Models = dict[str, tuple[str, Any]]  # a row's name: its sha256, its generator
Run = Callable[..., list[Result]]


def change(made: np.ndarray, real: np.ndarray, mouth: Any) -> dict[str, float]:
    """Replace the pixels' measures by a number that is faster to compute."""
    return {"psnr": float(np.abs(made.astype(float) - real).mean())}


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Evaluate these models on the split "test" into a folder."""
    monkeypatch.setattr(detection, "detect", read_pixel)
    monkeypatch.setattr(measures, "pixel_measures", change)
    monkeypatch.setattr(measures, "picture_measures", change)

    def evaluate(models: Models, out: Path, cache: Path = folder, **options: Any) -> list[Result]:
        real_open = evaluation.open_model

        def open_model(name: str, device: str = "cpu") -> EvaluatedModel:
            return (
                EvaluatedModel(name, *models[name]) if name in models else real_open(name, device)
            )

        monkeypatch.setattr(runs, "open_model", open_model)
        return evaluation.evaluate(list(models), cache, out, splits=["test"], **options)

    return evaluate


def frames(folder: Path, key: str = "s1_test0") -> np.ndarray:
    cache = Cache(folder)
    return frames_of(cache, clip_of(cache, key))


def made(model: Counting, speed: int = 1) -> int:
    """Return the number of videos for the measures; the speed takes one more."""
    return model.videos - speed


def same_files(first: Path, second: Path) -> bool:
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in FILES)


def test_a_run_that_was_stopped_goes_on(folder: Path, run: Run, tmp_path: Path) -> None:
    def stop(videos: int) -> None:
        if videos == 5:
            raise KeyboardInterrupt

    stopped, out = Counting(frames(folder), stop), tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        run({"late": ("1", stopped)}, out)
    assert not (out / "results.jsonl").exists()
    measured = out / "measured.jsonl"
    whole = measured.read_bytes()
    measured.write_bytes(whole[: -len(whole.splitlines()[-1]) // 2])  # killed while it wrote
    on = Counting(frames(folder))
    results = run({"late": ("1", on)}, out)
    videos = 2 * TEST_CLIPS + 1  # of the first clip one by silence too
    kept = [json.loads(line) for line in whole.splitlines()[:-1] if line]
    mine = [row for row in kept if row["result"]["model"] == "late"]
    silent = sum("silence" in row["result"]["metrics"] for row in mine)
    assert len(mine) >= 2 and made(on) == videos - len(mine) - silent
    fresh = Counting(frames(folder))
    assert run({"late": ("1", fresh)}, tmp_path / "fresh") == results
    assert made(fresh) == videos and same_files(out, tmp_path / "fresh")


def test_the_same_call_measures_nothing_and_writes_the_same(
    folder: Path, run: Run, tmp_path: Path
) -> None:
    first, second = Counting(frames(folder)), Counting(frames(folder))
    run({"a": ("1", first)}, tmp_path / "a")
    before = [(tmp_path / "a" / name).read_bytes() for name in FILES]
    run({"a": ("1", second)}, tmp_path / "a")
    assert made(second) == 0
    assert [(tmp_path / "a" / name).read_bytes() for name in FILES] == before


def test_one_more_model_is_all_that_is_measured(folder: Path, run: Run, tmp_path: Path) -> None:
    old, other = frames(folder), frames(folder, "s1_test1")
    run({"old": ("1", Counting(old))}, tmp_path / "a")
    known, new = Counting(old), Counting(other)
    results = run({"new": ("2", new), "old": ("1", known)}, tmp_path / "a")
    assert made(known) == 0 and made(new) == 2 * TEST_CLIPS + 1
    run({"new": ("2", Counting(other)), "old": ("1", Counting(old))}, tmp_path / "b")
    assert same_files(tmp_path / "a", tmp_path / "b")
    assert list(dict.fromkeys(r.model for r in results)) == ["real", "still", "new", "old"]
    run({"new": ("2", Counting(other))}, tmp_path / "a")  # exactly this call's rows
    rows = (tmp_path / "a" / "results.jsonl").read_text().splitlines()
    assert {json.loads(row)["model"] for row in rows} == {"real", "still", "new"}


def test_other_weights_of_the_same_name_are_measured_again(
    folder: Path, run: Run, tmp_path: Path
) -> None:
    first = run({"a": ("1", Counting(frames(folder)))}, tmp_path)
    changed = Counting(frames(folder, "s1_test1"))
    second = run({"a": ("2", changed)}, tmp_path)
    assert made(changed) == 2 * TEST_CLIPS + 1
    assert {r.sha256 for r in second if r.model == "a"} == {"2"}
    assert [r.metrics for r in first] != [r.metrics for r in second]


def test_other_measures_and_other_pixels_are_measured_again(
    folder: Path, run: Run, tmp_path: Path
) -> None:
    run({"a": ("1", Counting(frames(folder)))}, tmp_path / "out")
    more = Counting(frames(folder))
    results = run({"a": ("1", more)}, tmp_path / "out", author_compat=True)
    assert made(more) == 2 * TEST_CLIPS + 1
    assert all("author_lmd" in r.metrics for r in results if r.identity == "first frame")
    write_cache(tmp_path / "cache", np.full((128, 128, 3), 90, np.uint8))  # the same names
    elsewhere = Counting(frames(folder))
    run({"a": ("1", elsewhere)}, tmp_path / "out", cache=tmp_path / "cache")
    assert made(elsewhere) == 2 * TEST_CLIPS + 1


def test_learned_metrics_are_measured(folder: Path, run: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    networks = {"who": FaceEmbedding(IdentityConfig(side=32)), "when": SyncNet(SyncConfig())}
    files = [tmp_path / f"{name}.safetensors" for name in networks]
    for path, network in zip(files, networks.values(), strict=True):
        weights.save(path, network, training_data="none", licence="MIT")
    run({"a": ("1", Counting(frames(folder)))}, tmp_path / "out", clips=1)
    more = Counting(frames(folder))
    results = run({"a": ("1", more)}, tmp_path / "out", clips=1, learned_metrics=files)
    assert made(more) == 3  # other measures than before
    row = next(r for r in results if (r.model, r.identity) == ("a", "first frame"))
    embedding, filmed = weights.load(files[0]), frames(folder)
    expected = similarity(embedding, filmed, filmed[0])
    assert row.metrics["identity"] == pytest.approx(expected, abs=1e-5)
    assert row.metrics["sync_confidence"] is not None
    head = (tmp_path / "out" / "tables.md").read_text()
    assert "| sync offset | sync confidence | sync distance | identity |" in head


def test_a_clip_that_fails_is_a_row_with_its_reason(folder: Path, run: Run, tmp_path: Path) -> None:
    bad = Bad(frames(folder), frames(folder, "s1_test1")[0])
    results = run({"bad": ("1", bad), "good": ("2", Counting(frames(folder)))}, tmp_path)
    rows = [r for r in results if r.model == "bad"]
    errors = {(r.clip, r.portrait): r.error for r in rows if r.error is not None}
    assert set(errors) == {("s1_test1", "s1_test1:0"), ("s1_test0", "s1_test1:0")}
    for error in errors.values():
        assert error is not None and error.startswith("KeyError: 'a hole\\nin a table'")
        assert "test_resume.py, line " in error
    assert all(r.metrics == {} for r in rows if r.error) and len(rows) == 2 * TEST_CLIPS
    assert not any(r.error for r in results if r.model != "bad")
    assert evaluation.read_results(tmp_path / "results.jsonl") == results
    summary = evaluation.summary([r for r in rows if r.identity == "first frame"])
    assert summary["failed"] == 1 and summary["clips"] == TEST_CLIPS - 1
    again = Counting(frames(folder))  # a failure is tried again
    results = run({"bad": ("1", again), "good": ("2", Counting(frames(folder)))}, tmp_path)
    assert made(again) == 2 and not any(r.error for r in results)


def test_what_cannot_work_is_said_before_the_work(folder: Path, run: Run, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"2 models are called 'still'.*still-2=FILE"):
        evaluation.evaluate(["x=still", "still", "still=still"], folder, tmp_path)
    other = Counting(frames(folder))
    other.config.crop = type(other.config.crop)(size=96)
    with pytest.raises(BadRequest, match="crops of 96 pixels, the cache has 128"):
        run({"small": ("1", other)}, tmp_path)
    with pytest.raises(BadRequest, match="no row is called 'best' to compare with; real, still, a"):
        run({"a": ("1", Counting(frames(folder)))}, tmp_path, reference="best")
    assert other.videos == 0 and not (tmp_path / "measured.jsonl").exists()


def test_two_runs_do_not_share_a_folder(folder: Path, run: Run, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another process is evaluating here"):
            run({"a": ("1", Counting(frames(folder)))}, tmp_path)


@pytest.mark.slow
def test_a_process_that_dies_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a process died.*what was measured is kept"):
        jobs.run(os._exit, [3, 3], Workers(2))


class Slow(Counting):
    """A generator that works 4 ms for a frame."""

    def __call__(self, identity: Any, speech: Tensor, state: Any = None) -> tuple[Generated, Any]:
        until = time.process_time() + 0.004 * speech.shape[1]
        while time.process_time() < until:
            pass
        return Generated(self.frames[None, : speech.shape[1]]), None


def test_speed_is_taken_apart_and_not_among_the_results(
    folder: Path, run: Run, tmp_path: Path
) -> None:
    bad = Bad(frames(folder), frames(folder)[0])
    run({"slow": ("1", Slow(frames(folder))), "bad": ("2", bad)}, tmp_path, clips=1)
    speeds = json.loads((tmp_path / "speed.json").read_text())
    assert speeds["threads"] == 1 and len(speeds["load"]) == 3 and speeds["cpus"] >= 1
    rows = {row["model"]: row for row in speeds["models"]}
    assert set(rows) == {"still", "slow", "bad"}
    failed = rows.pop("bad")
    assert failed["frames_per_second"] is None and "a hole" in failed["error"]
    assert 100 < rows["slow"]["frames_per_second"] <= 250
    for row in rows.values():
        assert row["real_time_factor"] == pytest.approx(25 / row["frames_per_second"])
    text = (tmp_path / "speed.md").read_text()
    assert "| slow | " in text and "| bad | - | - |" in text and "bad failed: KeyError" in text
    assert "frames_per_second" not in (tmp_path / "results.jsonl").read_text()
    assert FRAMES >= 25  # the second that is timed is there
