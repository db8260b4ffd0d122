"""Batches: the same files from this process, from several and from a Dask cluster."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from conftest import Cli, Ran
from helpers import media as recordings
from talkingface import batch, jobs, video, video_writing, workers
from talkingface.errors import BadRequest, OutputError
from talkingface.face_options import FaceOptions
from talkingface.jobs import DubJob, Job
from talkingface.output_options import OutputOptions
from talkingface.workers import Workers

CLIP = Path(__file__).parent / "clips" / "s1_bbaf2n.mp4"
RATE = 16_000
FACES, SOUNDS = ("a.png", "b.png"), ("1.wav", "2.wav")
TINY = ("--model", "cran-tiny", "--crop")
DUB = ("--dub", "--model", "atvg-tiny")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, small: bytes) -> Path:
    """a.png and b.png, a face; 1.wav and 2.wav, a third of a second; bad.wav, too short; a.mp4."""
    folder = tmp_path_factory.mktemp("inputs")
    for name in FACES:
        (folder / name).write_bytes(small)
    noise = 0.1 * np.random.default_rng(1).standard_normal(RATE).astype(np.float32)
    for name, count in (("1.wav", 5_500), ("2.wav", 6_500), ("bad.wav", 5)):
        recordings.write_sound(folder / name, noise[:count], RATE, "pcm_s16le")
    video_writing.write(folder / "a.mp4", itertools.islice(video.read_frames(CLIP), 8), None)
    return folder


def command(
    inputs: Path, out: Path, *options: object, sounds: Sequence[str] = SOUNDS
) -> list[object]:
    """Return the command for both faces with these sounds."""
    speech = [word for name in sounds for word in ("--speech", inputs / name)]
    faces = [inputs / name for name in FACES]
    return ["batch", *faces, *speech, "--out-dir", out, *TINY, *options]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def on(scheduler: str) -> tuple[str, ...]:
    return "--engine", "dask", "--scheduler", scheduler


@pytest.fixture(scope="module")
def alone(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The videos of one process."""
    folder = tmp_path_factory.mktemp("alone")
    faces, sounds = ([inputs / name for name in names] for names in (FACES, SOUNDS))
    planned = jobs.plan(faces, sounds, folder, options=FaceOptions(show="face"))
    made = list(batch.run_batch(planned, "cran-tiny", workers=Workers(1)))
    assert [result.error for result in made] == [None] * 4
    return contents(folder)


def test_a_cluster_makes_the_same_files_and_goes_on(
    cli: Cli,
    inputs: Path,
    alone: dict[str, bytes],
    scheduler: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row that fails is named and stops no other; a second run makes what is not whole."""
    monkeypatch.chdir(tmp_path)
    options, sounds = (*on(scheduler), "--skip-existing"), (*SOUNDS, "bad.wav")
    ran = cli(*command(inputs, Path("out"), *options, sounds=sounds))
    assert ran.code == 2 and "4 of 6 videos written to out" in ran.out
    assert ran.err.count("\n") == 2 and ran.err.count("bad.wav") == 2
    assert contents(tmp_path / "out") == alone
    gone, cut, kept = (tmp_path / "out" / name for name in ("a-1.mp4", "b-1.mp4", "b-2.mp4"))
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-100])
    before = kept.stat().st_mtime_ns
    again = cli(*command(inputs, Path("out"), *options))
    assert again.code == 0 and "2 of 4 videos written to out, 2 were there" in again.out
    assert contents(tmp_path / "out") == alone and kept.stat().st_mtime_ns == before


def test_few_videos_need_no_other_process(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts of a video that are done are seen in the process that makes it alone."""
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    planned = jobs.plan([inputs / FACES[0]], [inputs / name for name in SOUNDS], tmp_path)
    seen: list[float] = []
    results = batch.run_batch(
        planned, "cran-tiny", progress=lambda done, count: seen.append(done / count)
    )
    assert [result.error for result in results] == [None, None]
    assert seen == sorted(seen) and seen[-1] == 1 and len(set(seen)) == 9 + 11


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "dask"])
def test_several_processes_make_the_same_files(
    cli: Cli, inputs: Path, alone: dict[str, bytes], tmp_path: Path, engine: str
) -> None:
    if engine == "dask":
        pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    ran = cli(*command(inputs, tmp_path, "--jobs", 2, "--engine", engine, "--json"))
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.code == 0 and {row["frames"] for row in rows} == {9, 11}
    assert contents(tmp_path) == alone


def dub(cli: Cli, inputs: Path, out: Path, *options: object) -> Ran:
    speech = ("--speech", inputs / "1.wav", "--speech", inputs / "bad.wav")
    return cli("batch", inputs / "a.mp4", *speech, "--out-dir", out, *DUB, *options)


def test_videos_are_dubbed_as_by_the_command_dub(
    cli: Cli, inputs: Path, scheduler: str, tmp_path: Path
) -> None:
    alone = cli(
        *("dub", inputs / "a.mp4", inputs / "1.wav", "-o", tmp_path / "a.mp4", "--json"),
        *("--model", "atvg-tiny", "--length", "sound", "--mark"),
    )
    ran = dub(cli, inputs, tmp_path / "out", *on(scheduler), "--length", "sound", "--mark")
    assert (alone.code, ran.code) == (0, 2) and "1 of 2 videos written" in ran.out
    assert "bad.wav" in ran.err
    assert contents(tmp_path / "out") == {"a-1.mp4": (tmp_path / "a.mp4").read_bytes()}
    row = json.loads(alone.out)
    assert row["sources"][0]["no_face"] == 0 and row["frames"] == 8 and row["took"] > 0
    there = dub(cli, inputs, tmp_path / "out", "--skip-existing", "--jobs", 1)
    assert "a-1.mp4: was there already" in there.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((*DUB, "--blinks", 3), "keeps its head, eyes and size"),
        ((*DUB, "--crop"), "keeps its head, eyes and size"),
        ((*DUB, "--length", "all"), "length is 'all'"),
        (("--length", "loop"), "give --dub too"),
        (("--engine", "spark"), "--engine is local or dask"),
        (("--scheduler", "tcp://127.0.0.1:1"), "--scheduler goes with dask"),
    ],
)
def test_options_that_say_nothing_are_refused(
    cli: Cli, inputs: Path, tmp_path: Path, options: tuple[object, ...], said: str
) -> None:
    files = (inputs / "a.mp4", "--speech", inputs / "1.wav", "--out-dir", tmp_path / "out")
    ran = cli("batch", *files, *options)
    assert ran.code == 2 and said in ran.err and not (tmp_path / "out").exists()


def test_paths_of_a_job_for_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = FaceOptions(landmarks="points.json")
    signed = OutputOptions(c2pa=True, sign_certificate="c.pem", sign_key="k.pem")
    job = Job("a.png", "a.wav", "a.mp4", options, motion="a.npz", output_options=signed).absolute()
    assert [job.image, job.audio] == [tmp_path / "a.png", tmp_path / "a.wav"]
    assert job.output == tmp_path / "a.mp4" and job.maps is None
    assert (job.options.landmarks, job.motion) == (tmp_path / "points.json", tmp_path / "a.npz")
    assert job.output_options.sign_key == tmp_path / "k.pem"
    dubbed = DubJob("a.png", {1: "a.wav"}, "a.mp4", turns="a.rttm").absolute()
    assert (dubbed.video, dubbed.output) == (tmp_path / "a.png", tmp_path / "a.mp4")
    assert (dubbed.audio, dubbed.turns) == ({1: tmp_path / "a.wav"}, tmp_path / "a.rttm")


def test_a_process_that_dies_costs_its_video_alone(inputs: Path) -> None:
    job = Job(inputs / "a.png", inputs / "1.wav", "lost.mp4")
    result = batch._crashed((0, job))
    assert isinstance(result.error, OutputError) and "lost.mp4: the process died" in str(
        result.error
    )


def test_a_worker_of_another_version_is_named() -> None:
    with pytest.raises(BadRequest, match="install the same version on all machines"):
        workers._do_elsewhere("0.0.0", str, "a")
