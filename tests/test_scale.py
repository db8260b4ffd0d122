"""Many workers: when some die, no clip is lost and none comes twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from conftest import Cli
from helpers import doomed, trees
from talkingface.data import extraction, report, shards
from talkingface.data import prepare as preparation
from talkingface.data.extraction import ClipExtraction, ExtractedClip
from talkingface.data.prepare import prepare
from talkingface.data.sources import Recording
from talkingface.errors import BadRequest, OutputError
from talkingface.workers import THIS_PROCESS, Workers

ROOT = Path(__file__).parents[1]
PER_SHARD = 2

# Six recordings to three shards; killed and begun again by the tests.
RUN = f"""
import sys
from collections.abc import Iterator
from pathlib import Path
from talkingface.data import prepare
from talkingface.workers import Workers
prepare.CLIPS_PER_SHARD = {PER_SHARD}
def progress(done, total):
    print(done, flush=True)
prepare.prepare(Path(sys.argv[1]), Path(sys.argv[2]), corpus="videos",
                workers=Workers(int(sys.argv[3]), sys.argv[4]), progress=progress)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos, a mute one and a damaged one."""
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate((trees.ONE, trees.TWO, trees.ONE, trees.TWO)):
        trees.put(folder / f"v{number}.mp4", name, trees.FIRST + number, 26)
    trees.put(folder / "mute.mp4", trees.ONE, mute=True)
    (folder / "torn.mp4").write_bytes((folder / "v0.mp4").read_bytes()[:4000])
    return folder


@pytest.fixture(scope="module")
def undisturbed(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The shards of one process in one run."""
    out = tmp_path_factory.mktemp("whole") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "CLIPS_PER_SHARD", PER_SHARD)
        prepare(tree, out, corpus="videos", workers=THIS_PROCESS)
    return contents(out)


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder but locks."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name[0] != "."}


def start(tree: Path, out: Path, jobs: int, engine: str = "local") -> subprocess.Popen[str]:
    """Start the run as a process of its own, the leader of its group."""
    command = [sys.executable, "-c", RUN, str(tree), str(out), str(jobs), engine]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, start_new_session=True
    )


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def fail(*_: object, **__: object) -> None:
    raise AssertionError("nothing is left to do")


# shares


@pytest.mark.slow
def test_the_shares_of_a_job_array_are_the_whole(
    tree: Path, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "CLIPS_PER_SHARD", PER_SHARD)
    out = tmp_path / "shards"
    seen = []
    for part in ((2, 2), (1, 2)):
        summary = prepare(tree, out, corpus="videos", workers=THIS_PROCESS, part=part)
        seen.append((sorted(p.name for p in out.glob("*.tar")), summary.missing))
    assert seen == [
        (["shard-00001.tar"], 2),
        (["shard-00000.tar", "shard-00001.tar", "shard-00002.tar"], 0),
    ]
    assert contents(out) == undisturbed
    monkeypatch.setattr(preparation, "clips_of", fail)  # nothing is left to do, for any share
    assert prepare(tree, out, corpus="videos", workers=THIS_PROCESS, part=(3, 7)).missing == 0
    assert contents(out) == undisturbed


def test_more_shares_than_shards_is_no_error(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "clips_of", fail)
    summary = prepare(tree, tmp_path / "out", corpus="videos", workers=THIS_PROCESS, part=(2, 9))
    assert (summary.outcomes, summary.missing) == ((), 1)


@pytest.mark.parametrize("shard", ["0/3", "4/3", "3", "a/b", "1/0", "-1/2"])
def test_a_share_that_is_none_is_refused(cli: Cli, tree: Path, tmp_path: Path, shard: str) -> None:
    ran = cli("prepare", "videos", tree, "-o", tmp_path / "out", "--shard", shard)
    assert ran.code == 2 and "--shard" in ran.err and not (tmp_path / "out").exists()


def test_engine_and_scheduler_go_together(cli: Cli, tree: Path, tmp_path: Path) -> None:
    for options in (("--engine", "spark"), ("--scheduler", "tcp://127.0.0.1:1")):
        ran = cli("prepare", "videos", tree, "-o", tmp_path / "out", *options)
        assert ran.code == 2 and "--engine is local or dask" in ran.err


def test_without_dask_the_extra_is_named(
    cli: Cli, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    ran = cli("prepare", "videos", tree, "-o", tmp_path / "out", "--engine", "dask")
    assert ran.code == 2 and "pip install 'talkingface[cluster]'" in ran.err


# files that were mended


def test_only_a_file_that_could_not_be_read_and_changed_is_tried_again(
    tree: Path, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "CLIPS_PER_SHARD", PER_SHARD)
    own, out = tmp_path / "mended" / tree.name, tmp_path / "out"  # it names the speaker
    own.mkdir(parents=True)
    for path in tree.iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    out.mkdir()
    for name, data in undisturbed.items():
        text = data.replace(str(tree).encode(), str(own).encode())
        (out / name).write_bytes(data if name.endswith(".tar") or name == "plan.json" else text)
    plan = (out / "plan.json").read_bytes()
    rows = {o.key: o for o in report.read_all(out)}
    assert rows["torn"].result == "unreadable" and rows["torn"].size == 4000
    assert "torn.mp4" in rows["torn"].detail
    tried: list[str] = []

    def spy(recording: Recording, options: ClipExtraction) -> list[ExtractedClip]:
        tried.append(recording.key)
        return real(recording, options)

    real = extraction.clips_of
    monkeypatch.setattr(preparation, "clips_of", spy)
    (own / "plan.name").mkdir()  # no video: changes nothing
    prepare(own, out, corpus="videos", workers=THIS_PROCESS)
    assert tried == []
    (own / "torn.mp4").write_bytes((own / "v1.mp4").read_bytes())
    summary = prepare(own, out, corpus="videos", workers=THIS_PROCESS)
    assert tried == ["mute", "torn"]  # the shard of it
    assert {o.key: o.result for o in summary.outcomes}["torn"] == "kept"
    assert "torn" not in (out / "dropped.jsonl").read_text()
    assert (out / "plan.json").read_bytes() == plan


def test_a_shard_that_somebody_else_wrote_meanwhile_stays(tmp_path: Path) -> None:
    def results() -> list[list[ExtractedClip]]:
        report.write(tmp_path / "shard-00000.json", [])  # the other was quicker
        for part in tmp_path.glob(".*.part"):
            part.unlink()
        return []

    def late() -> Iterator[list[ExtractedClip]]:
        yield from results()

    preparation.write_shard(tmp_path, 0, late())
    assert report.read(tmp_path / "shard-00000.json") == ()
    with pytest.raises(OutputError):
        preparation.write_shard(tmp_path / "missing", 0, iter([]))


# workers that die


@pytest.mark.slow
def test_a_recording_that_kills_its_process_is_reported_alone(tmp_path: Path) -> None:
    names = ("a", "b", "poison", "c", "d", "victim", "e")
    recordings = [Recording(n, "s", tmp_path / f"{n}.mp4", "train") for n in names]
    work = partial(extraction.clips_of, options=ClipExtraction(label=doomed.dies))
    made = Workers(2).run(work, recordings, preparation._crashed, in_order=True)
    results = [result[0].outcome for _, result in made]
    assert [outcome.key for outcome in results] == list(names)
    assert [o.result for o in results if o.key != "poison"] == ["unreadable"] * 6
    assert results[2].result == "crashed" and results[2].source.endswith("poison.mp4")


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_nothing_but_time(
    tree: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "shards"
    run = start(tree, out, jobs=2)
    assert run.stdout is not None
    rng, killed = random.Random(1), 0
    for line in run.stdout:  # after a recording is done, one of the workers dies
        if killed < 2 and int(line) in (1, 3):
            time.sleep(rng.uniform(0, 0.3))
            alive = [pid for pid in children(run.pid) if "resource_tracker" not in command(pid)]
            os.kill(rng.choice(alive), signal.SIGKILL)
            killed += 1
    assert run.wait(timeout=300) == 0 and killed == 2
    assert contents(out) == undisturbed


def command(pid: int) -> str:
    """Return the command line of a process; "" when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_time_goes_on(
    tree: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out, rng = tmp_path / "shards", random.Random(2)
    for place in (0, 3):  # recordings done when it is killed, and a while
        run = start(tree, out, jobs=1)
        assert run.stdout is not None
        for line in run.stdout:
            if int(line) >= place:
                time.sleep(rng.uniform(0, 0.4))
                os.killpg(run.pid, signal.SIGKILL)
                break
        assert run.wait(timeout=300) == -signal.SIGKILL
        for path in out.glob("shard-*.tar"):  # what bears its name is whole
            assert list(shards.read(path)) is not None
    run = start(tree, out, jobs=1)
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0 and int(said.split()[0]) >= 2  # a shard had been finished before
    assert contents(out) == undisturbed
    assert not list(out.glob(".*.part"))


@pytest.mark.slow
def test_a_cluster_gives_the_same_bytes_though_a_worker_dies(
    tree: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    out = tmp_path / "shards"
    run = start(tree, out, jobs=2, engine="dask")
    assert run.stdout is not None
    killed: list[int] = []
    for line in run.stdout:
        if not killed and int(line) > 0:
            busy = [pid for pid in children(run.pid) if "spawn_main" in command(pid)]
            os.kill(busy[0], signal.SIGKILL)
            killed.append(busy[0])
    assert run.wait(timeout=300) == 0 and killed
    assert contents(out) == undisturbed


def test_a_scheduler_that_does_not_answer_is_named(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

    def refuse(*_: object, **__: object) -> None:
        raise OSError("timed out")

    monkeypatch.setattr(distributed, "Client", refuse)
    with pytest.raises(OutputError, match="no Dask scheduler answers"):
        prepare(
            *(tree, tmp_path / "out"),
            corpus="videos",
            workers=Workers(1, "dask", "tcp://127.0.0.1:1"),
        )


def test_the_plan_does_not_change_with_who_does_the_work(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="expected i/N"):
        prepare(tree, tmp_path, corpus="videos", part=(3, 2))
