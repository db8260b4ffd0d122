"""Whatever is pulled, nothing is lost: files of a run after kills, power cuts and full disks."""

from __future__ import annotations

import json
import os
import pickle
import random
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from talkingface import media
from talkingface.data import shards
from talkingface.errors import BadShard, OutputError
from talkingface.training import loop
from talkingface.training.loop import CHECKPOINT, PREVIOUS
from talkingface.types import Picture
from test_prepare import random_clip


@dataclass
class Line:
    """A recipe of one straight line, which takes no time."""

    steps: int = 6
    modules: dict[str, nn.Module] = field(default_factory=dict)
    optimizers: dict[str, Optimizer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.modules["model"] = nn.Linear(40, 40)
        self.optimizers["model"] = torch.optim.Adam(self.modules["model"].parameters())

    def batch(self, step: int, index: Any = None) -> torch.Tensor:
        return torch.full((2, 40), float(step))

    def step(self, batch: torch.Tensor, step: int, micro_batch: Any = None) -> dict[str, float]:
        out: torch.Tensor = self.modules["model"](batch)
        loss = out.square().mean()
        self.optimizers["model"].zero_grad()
        loss.backward()
        self.optimizers["model"].step()
        return {"loss": loss.item()}

    def validate(self, step: int) -> dict[str, float]:
        return {"measure": float(step)}

    def sheet(self) -> Picture | None:
        return None

    def export(self, path: Path, step: int, measures: dict[str, float]) -> None:
        media.write_text(path, f"{step} {self.modules['model'].get_parameter('weight').sum()}")


EVERY = loop.LoopOptions(log_every=1, save_every=2, validate_every=100)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The files of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert loop.run(Line(), folder, EVERY) == 6
    return contents(folder)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run that was killed after step 5: checkpoints of steps 4 and 2."""
    loop.run(Line(), tmp_path, loop.LoopOptions(1, 2, 100, stop_after=5))
    return tmp_path


def go_on(folder: Path, whole: dict[str, Any]) -> list[str]:
    """Resume a run, check that its files are those of an undisturbed one, and return its notes."""
    notes: list[str] = []
    assert loop.run(Line(), folder, EVERY, note=notes.append) == 6
    assert contents(folder) == whole
    return notes


def contents(folder: Path) -> dict[str, Any]:
    """The files of a run; of checkpoints the numbers, since pickles of the same state differ."""
    found: dict[str, Any] = {n: (folder / n).read_bytes() for n in (loop.WEIGHTS, "log.jsonl")}
    for name in (CHECKPOINT, PREVIOUS):
        state = torch.load(folder / name, weights_only=True)
        model, moments = state["modules"]["model"], state["optimizers"]["model"]["state"][0]
        tensors = {**model, **moments}
        found[name] = state["step"], {key: value.tolist() for key, value in tensors.items()}
    return found


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


class Foreign:
    """Unpickling it would leave a trace."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.putenv, ("TALKINGFACE_UNPICKLED", "1")


def with_a_flipped_tensor(data: bytes) -> bytes:
    import io

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    return flip(data, largest.header_offset + 2000)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[: len(data) // 2],
    "NUL": lambda data: bytes(len(data)),
    "noise": lambda data: random.Random(0).randbytes(len(data)),
    "a flipped byte": with_a_flipped_tensor,
    "foreign pickle": lambda data: pickle.dumps(Foreign()),
    "old pickle": lambda data: pickle.dumps({"step": 3}, protocol=2),
    "JSON": lambda data: b'{"step": 3}',
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_goes_on_from_the_one_before(
    stopped: Path, whole: dict[str, Any], damage: str
) -> None:
    path = stopped / CHECKPOINT
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    notes = go_on(stopped, whole)
    assert len(notes) == 1 and "goes on from checkpoint.before.pt, step 2" in notes[0]
    assert "\n" not in notes[0] and "weights_only" not in notes[0] and "is damaged (" in notes[0]


@pytest.mark.parametrize("damage", DAMAGE)
def test_two_damaged_checkpoints_are_refused_in_our_words(stopped: Path, damage: str) -> None:
    for name in (CHECKPOINT, PREVIOUS):
        (stopped / name).write_bytes(DAMAGE[damage]((stopped / name).read_bytes()))
    with pytest.raises(BadShard, match=r"checkpoint.*is damaged \(.+\): copy it again") as refused:
        loop.run(Line(), stopped, EVERY)
    assert "weights_only" not in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "state",
    [
        {"step": 3},
        {"step": 3, "modules": [], "optimizers": []},
        {"step": 3, "modules": {"model": 1}, "optimizers": {"model": 2}},
        {"step": 3, "modules": {"model": {}}, "optimizers": {"model": {}}},
        {"step": "3"},
        [1, 2],
    ],
)
def test_a_checkpoint_of_something_else_is_refused(stopped: Path, state: Any) -> None:
    (stopped / PREVIOUS).unlink()
    torch.save(state, stopped / CHECKPOINT)
    with pytest.raises(BadShard, match=r"checkpoint\.pt (does not fit this recipe|is damaged) \("):
        loop.run(Line(), stopped, EVERY)


def test_every_flipped_bit_is_found_or_does_not_matter(stopped: Path) -> None:
    path, chance = stopped / CHECKPOINT, random.Random(1)
    data, expected = path.read_bytes(), torch.load(path, weights_only=True)
    (stopped / PREVIOUS).unlink()
    for _ in range(100):
        path.write_bytes(flip(data, chance.randrange(len(data))))
        recipe = Line()
        try:
            assert loop.load_checkpoint(recipe, path) == expected["step"]
        except BadShard:
            continue
        for name, value in recipe.modules["model"].state_dict().items():
            assert torch.equal(value, expected["modules"]["model"][name])


@pytest.mark.parametrize("end", [b'{"step": 5, "lo', b"\0" * 500, b"null\n", b"[5]\n", b"\xff\xfe"])
def test_a_torn_line_of_the_log_is_dropped(
    stopped: Path, whole: dict[str, Any], end: bytes
) -> None:
    with (stopped / "log.jsonl").open("ab") as file:
        file.write(end)
    assert go_on(stopped, whole) == []


def test_a_run_that_begins_again_forgets_the_checkpoint_before(stopped: Path) -> None:
    (stopped / CHECKPOINT).unlink()
    loop.run(Line(), stopped, loop.LoopOptions(1, 2, 100, stop_after=3))
    assert not (stopped / PREVIOUS).exists()


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Files of more than so many bytes cannot be written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)  # Python ignores SIGXFSZ: writes just fail
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_at_a_checkpoint_keeps_the_one_there(
    stopped: Path, whole: dict[str, Any]
) -> None:
    before = {path.name: path.read_bytes() for path in stopped.glob("*.pt")}
    with full_disk(10_000), pytest.raises(OutputError, match=r"checkpoint\.pt: .*disk is full"):
        loop.run(Line(), stopped, EVERY)
    assert {path.name: path.read_bytes() for path in stopped.glob("*.pt")} == before
    assert not list(stopped.glob(".*"))
    assert go_on(stopped, whole) == []


def test_a_full_disk_while_the_cache_is_built_is_a_sentence(tmp_path: Path) -> None:
    shards.write(tmp_path / "shard-00000.tar", [random_clip("s1_a")])
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "from pathlib import Path; from talkingface.data import shards\n"
        "from talkingface.errors import OutputError\n"
        f"try: shards.open_cache(Path({str(tmp_path)!r}))\n"
        "except OutputError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert "cache: cannot be written (" in run.stdout and "the disk is full" in run.stdout
    assert not list(tmp_path.glob(".cache.part")) and not (tmp_path / "cache").exists()


def test_a_fresh_cache_needs_no_lock(tmp_path: Path) -> None:
    shards.write(tmp_path / "shard-00000.tar", [random_clip("s1_a")])
    shards.open_cache(tmp_path)
    (tmp_path / ".cache.lock").unlink()
    (tmp_path / ".cache.lock").mkdir()  # as on a read-only disk, for an administrator too
    assert len(shards.open_cache(tmp_path).clips) == 1
    shards.write(tmp_path / "shard-00001.tar", [random_clip("s1_b")])
    with pytest.raises(OutputError, match=r"cache: cannot be written .* by --cache FOLDER"):
        shards.open_cache(tmp_path)
    assert len(shards.open_cache(tmp_path, tmp_path / "elsewhere" / "cache").clips) == 2


# files that are replaced


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    media.write_text(path, "old")
    ours = path.stat().st_mode & 0o777
    for mode in (0o600, 0o640, 0o444):
        path.chmod(mode)
        media.write_text(path, "new")
        assert path.read_text() == "new" and path.stat().st_mode & 0o777 == mode
    media.write_text(tmp_path / "b.txt", "new")
    assert (tmp_path / "b.txt").stat().st_mode & 0o777 == ours


def test_the_next_write_removes_what_dead_processes_left(tmp_path: Path) -> None:
    code = (
        "import os; from pathlib import Path; from talkingface import media\n"
        f"with media.replacing(Path({str(tmp_path / 'a.mp4')!r}), True) as part:\n"
        "    part.write_bytes(b'half'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -9
    (left,) = tmp_path.iterdir()
    with media.replacing(tmp_path / "a.mp4", True) as running:
        running.write_bytes(b"mine")
        assert not left.exists()
        media.write_text(tmp_path / "a.mp4", "another thread's")
        assert running.exists()
        foreign = tmp_path / running.name.replace(media._machine(), "00000000")
        foreign.touch()  # of another machine's process: it may be alive
        others = tmp_path / left.name.replace(".a.mp4.", ".a.mp4.b.")
        others.touch()  # of another output
        media.write_text(tmp_path / "a.mp4", "again")
        assert foreign.exists() and others.exists()


def test_a_folder_appears_whole_and_parts_of_killed_runs_go(tmp_path: Path) -> None:
    left = media.part_name(tmp_path / "a")
    dead = left.with_name(left.name.replace(f"-{os.getpid()}-", "-4194305-"))  # above Linux's most
    (dead / "inside").mkdir(parents=True)
    with media.making_folder(tmp_path / "a") as part:
        assert not dead.exists() and part.stat().st_mode & 0o777 == 0o700
        (part / "b.txt").write_text("b")
        assert not (tmp_path / "a").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b.txt"]
    with pytest.raises(RuntimeError), media.making_folder(tmp_path / "c") as part:
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_file_and_folder_are_on_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def note_rename(source: Path, target: Path) -> None:
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_rename)
    media.write_text(tmp_path / "a.json", json.dumps({}))
    assert done == ["file", "rename", "folder"]
