"""A folder of somebody's own pairs, through the command line: good ones, and every bad one."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import talkingface
from conftest import EXAMPLES, SENTENCE, Cli
from helpers.media import write_video
from talkingface import evaluation, video, video_writing
from talkingface.evaluation import Result, VideoWithLandmarks, pairs
from talkingface.types import Picture

LATE = 2  # frames
LENGTH = 40  # frames: the sound of the example in its first 1.6 s


@pytest.fixture(scope="module")
def speaking() -> list[Picture]:
    """A face that speaks, with room around it: LENGTH + LATE frames, (256, 256, 3)."""
    sound = talkingface.audio.load(SENTENCE)[: (LENGTH + LATE) * 640]
    made = talkingface.load("cran").generate(EXAMPLES / "portrait.jpg", sound, max_size=256)
    return list(made)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, speaking: list[Picture]) -> dict[str, Path]:
    """real; late, the same that comes LATE frames late; short; fast, at 50 frames per second."""
    folder = tmp_path_factory.mktemp("videos")
    clips = {
        "real": (speaking[LATE:], 25, "mp4"),
        "late": (speaking[:-LATE], 25, "mkv"),
        "short": (speaking[LATE:-8], 25, "mp4"),
        "fast": ([frame for frame in speaking[LATE:] for _ in range(2)], 50, "mkv"),
        "still": (speaking[:1], 25, "mp4"),
    }
    for name, (frames, rate, kind) in clips.items():
        timed = [(Fraction(n, rate), frame) for n, frame in enumerate(frames)]
        write_video(folder / f"{name}.{kind}", timed, "libx264")
    noise = np.random.default_rng(0).integers(0, 255, (12, 96, 96, 3), dtype=np.uint8)
    write_video(folder / "noise.mp4", [(Fraction(n, 25), f) for n, f in enumerate(noise)], "mpeg4")
    whole = (folder / "real.mp4").read_bytes()
    (folder / "torn.mp4").write_bytes(whole[: len(whole) // 2])
    return {path.stem: path for path in folder.iterdir()}


def lay(folder: Path, name: str, real: Path | None, generated: Path | None) -> None:
    """A pair in a folder of its own."""
    (folder / name).mkdir(parents=True)
    for side, path in (("real", real), ("generated", generated)):
        if path is not None:
            shutil.copy(path, folder / name / f"{side}{path.suffix}")


def rows_of(out: Path) -> dict[tuple[str, str], Result]:
    return {(r.clip, r.model): r for r in evaluation.read_results(out / "results.jsonl")}


@pytest.mark.slow
def test_pairs_are_measured(cli: Cli, videos: dict[str, Path], tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    lay(folder, "late", videos["real"], videos["late"])
    lay(folder, "notes", None, None)
    (folder / "late" / "real.align").write_text("0 100 sil\n")
    shutil.copy(videos["real"], folder / "short.real.mp4")
    shutil.copy(videos["short"], folder / "short.generated.mp4")
    shutil.copy(videos["fast"], folder / "fast.one.generated.mkv")
    shutil.copy(videos["real"], folder / "fast.one.real.mp4")
    ran = cli("evaluate", "--pairs", folder, "--out", out, "--jobs", 1)
    assert ran.code == 0 and ran.err == "", ran.err
    rows = rows_of(out)
    names = ["fast.one", "late", "short"]
    assert list(rows) == [(name, row) for row in ("generated", "real") for name in names]
    assert all(r.error is None and r.metrics["missed"] == 0 for r in rows.values())
    late = rows["late", "generated"].metrics
    assert late["lag"] == LATE and (late["correlation"] or 1) < 0.9
    assert rows["late", "real"].metrics["lag"] == 0
    assert late["jitter"] == pytest.approx(rows["late", "real"].metrics["jitter"], rel=0.3)
    for name in ("short", "fast.one"):  # what is the same in both is found to be
        metrics = rows[name, "generated"].metrics
        assert metrics["lag"] == 0 and (metrics["correlation"] or 0) > 0.97, name
        assert (metrics["lmd_pixels"] or 9) < 0.15 and (metrics["psnr"] or 99) > 33, name
    note = f"real has {LENGTH} frames, generated {LENGTH - 8}: compared over the shorter"
    assert rows["short", "generated"].note == note and len(rows["short", "real"].aperture) == 32
    assert rows["late", "generated"].note == ""
    text = (out / "tables.md").read_text()
    assert text.rstrip() in ran.out and note in text and "## pairs\n" in text
    assert {p.name for p in out.iterdir()} >= {"results.jsonl", "tables.tex", "measured.jsonl"}
    assert not (out / "speed.json").exists()


@pytest.mark.slow
def test_pairs_go_on_and_stay_the_same(
    cli: Cli, videos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    lay(folder, "a", videos["short"], videos["short"])
    options = ("evaluate", "--pairs", folder, "--out", out, "--jobs", 1)
    assert cli(*options).code == 0
    before = (out / "results.jsonl").read_bytes()
    again = cli(*options)
    assert again.code == 2 and "exists already" in again.err
    real_measure, looked = pairs.evaluate_pair, []

    def measure(pair: pairs.Pair, *rest: object) -> list[Result]:
        looked.append(pair.name)
        return real_measure(pair)

    monkeypatch.setattr(pairs, "evaluate_pair", measure)
    assert cli(*options, "--overwrite").code == 0
    assert looked == [] and (out / "results.jsonl").read_bytes() == before
    shutil.copy(videos["late"], folder / "a" / "generated.mkv")
    (folder / "a" / "generated.mp4").unlink()  # another video under the same name
    assert cli(*options, "--overwrite").code == 0
    assert looked == ["a"] and (out / "results.jsonl").read_bytes() != before


def test_one_pair_may_lie_in_the_folder_itself(videos: dict[str, Path], tmp_path: Path) -> None:
    for side in ("real", "generated"):
        shutil.copy(videos["short"], tmp_path / f"{side}.mp4")
    (pair,) = pairs.find(tmp_path)
    assert pair.name == tmp_path.name
    assert pair.files() == (tmp_path / "real.mp4", tmp_path / "generated.mp4")


class Loudness:
    """A learned metric: how loud the video itself is; silent videos have no number."""

    sha256 = "loud"

    def __call__(self, video: VideoWithLandmarks, picture: Picture, sound: Any) -> dict[str, float]:
        assert sound is None or len(sound) == 640 * len(video.frames)
        return {} if sound is None else {"loudness": float(np.abs(sound).max())}


def test_each_video_is_measured_with_its_own_sound(
    speaking: list[Picture], videos: dict[str, Path], tmp_path: Path
) -> None:
    sound = np.tile(np.array([0.2, -0.2], np.float32), 4 * 640)  # shorter than the video
    video_writing.write(tmp_path / "real.mp4", speaking[:12], 3 * sound)
    video_writing.write(tmp_path / "generated.mp4", speaking[:12], sound)
    made, real = pairs.evaluate_pair(pairs.find(tmp_path)[0], [Loudness()])
    assert made.metrics["loudness"] == pytest.approx(0.2, rel=0.3)
    assert real.metrics["loudness"] == pytest.approx(0.6, rel=0.3)
    silent = pairs.Pair("silent", (tmp_path / "real.mp4",), (videos["short"],))
    assert [set(r.metrics) & {"loudness"} for r in pairs.evaluate_pair(silent, [Loudness()])] == [
        set(),
        {"loudness"},
    ]


BAD = {
    "alone": ("short", None, "alone/real.mp4: there is no generated video beside it"),
    "faceless": ("noise", "short", "faceless/real.mp4: from 0 s, no face found in any of 12"),
    "torn": ("short", "torn", "torn/generated.mp4: cut short"),
    "instant": ("still", "short", "instant/real.mp4: 1 frame at 25 fps; 2 are needed"),
}


def test_a_bad_pair_is_a_row_with_its_reason(
    cli: Cli, videos: dict[str, Path], tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    lay(folder, "good", videos["short"], videos["short"])
    for name, (real, generated, _) in BAD.items():
        lay(folder, name, videos[real], None if generated is None else videos[generated])
    lay(folder, "twice", videos["short"], videos["short"])
    shutil.copy(videos["late"], folder / "twice" / "real.mkv")
    expected = {name: said for name, (_, _, said) in BAD.items()}
    expected["twice"] = "twice: more than one real video (real.mkv, real.mp4); keep one"
    ran = cli("evaluate", "--pairs", folder, "--out", out, "--jobs", 1)
    assert ran.code == 0, ran.err
    rows = rows_of(out)
    for name, said in expected.items():
        for row in ("generated", "real"):
            error = rows[name, row].error
            assert error is not None and said in error and "\n" not in error
    assert rows["good", "generated"].error is None
    assert f"12 results, {2 * len(expected)} of them failed" in ran.out
    assert "| good |" not in ran.out and "| alone | failed: " in ran.out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--pairs", "{empty}"), "{empty}: holds no pairs; expected NAME/real.mp4 and"),
        (("--pairs", "{empty}/none"), "{empty}/none: is no folder; give one of real and"),
        (("--pairs", "{empty}", "--models", "cran"), "give one of --models, --preset and --pairs"),
        (("--preset", "tiny", "--models", "cran"), "give one of --models, --preset and --pairs"),
        (("--models", "cran"), "--models and --preset need --cache"),
        (("--preset", "song-table1"), "--models and --preset need --cache"),
        (("--pairs", "{empty}", "--cache", "{empty}"), "--pairs has its own videos"),
        (("--cache", "{empty}"), "give one of --models, --preset and --pairs"),
        ((), "give one of --models, --preset and --pairs"),
        (("--preset", "table9", "--cache", "{empty}"), "no table is called 'table9'; known: song-"),
        (("--pairs", "{empty}", "--judge", "judge"), "say nothing about --pairs"),
    ],
)
def test_bad_requests_say_what_is_wrong(
    cli: Cli, tmp_path: Path, given: tuple[str, ...], said: str
) -> None:
    (tmp_path / "readme.txt").write_text("no video")
    words = [word.format(empty=tmp_path) for word in given]
    ran = cli("evaluate", *words, "--out", tmp_path / "out")
    assert ran.code == 2 and ran.err.startswith("error: ")
    assert said.format(empty=tmp_path) in ran.err and ran.err.count("\n") == 1


def test_when_every_pair_fails_so_does_the_command(
    cli: Cli, videos: dict[str, Path], tmp_path: Path
) -> None:
    lay(tmp_path / "in", "alone", None, videos["short"])
    ran = cli("evaluate", "--pairs", tmp_path / "in", "--out", tmp_path / "out", "--jobs", 1)
    assert ran.code == 2 and "there is no real video beside it" in ran.out
    assert video.probe(videos["short"]).has_audio is False  # silent videos are no obstacle
