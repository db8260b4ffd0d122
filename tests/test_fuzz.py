"""Changed and odd files of every kind are read, or refused by one line that names them."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from helpers.kinds import Kind, all_kinds
from helpers.mutations import CONTAINERS, mutate
from talkingface.errors import DecodingFailed, UnreadableMedia

TOOL = Path(__file__).parents[1] / "tools" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module  # for the processes that it starts
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def kinds() -> list[Kind]:
    return all_kinds()


def test_changed_files_are_read_or_refused(
    fuzz: ModuleType, kinds: list[Kind], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = str(len(kinds))  # one of each
    assert fuzz.run(kinds, fuzz.parse(["--files", count, "--structured", count]), tmp_path)
    last = capsys.readouterr().out.splitlines()[-2]
    assert last.startswith(f"| all | {2 * len(kinds)} | {count} |")


@pytest.mark.slow
def test_many_changed_files_are_read_or_refused() -> None:
    command = [sys.executable, str(TOOL), "--files", "9999", "--structured", "9999"]
    ran = subprocess.run(
        [*command, "--seconds", "60", "--seed", "1"], capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]


# ---- the tool sees what is wrong


def leave_a_file(_: Path) -> None:
    tempfile.mkstemp()


def hang(_: Path) -> None:
    time.sleep(60)


def crash(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def raise_wrong(_: Path) -> None:
    raise LookupError("nobody foresaw this")


def name_no_file(_: Path) -> None:
    raise UnreadableMedia("a file is damaged")


def say_two_lines(path: Path) -> None:
    raise UnreadableMedia(f"{path}: is\ndamaged")


def refuse(path: Path) -> None:
    raise UnreadableMedia(f"{path}: is damaged")


def fail_to_decode(path: Path) -> None:
    raise DecodingFailed(f"{path}: its decoder crashed")


@pytest.mark.parametrize(
    ("reader", "found", "good"),
    [
        (leave_a_file, "left", False),
        (hang, "hang", False),
        (crash, "crash", False),
        (raise_wrong, "wrong", False),
        (name_no_file, "wrong", False),
        (say_two_lines, "wrong", False),
        (refuse, "refused", True),
        (fail_to_decode, "contained", True),
        (lambda path: path.read_bytes(), "read", True),
    ],
)
def test_the_tool_says_what_becomes_of_a_file(
    fuzz: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    reader: Callable[[Path], object],
    found: str,
    good: bool,
) -> None:
    def on_changed_files(path: Path) -> None:
        if path.read_bytes() != b"good":
            reader(path)

    kind = Kind("a.xyz", b"good", (on_changed_files,), lambda _, path: None)
    (tmp_path / "run").mkdir()
    options = fuzz.parse(["--files", "2", "--structured", "0", "--keep", str(tmp_path / "keep")])
    options.limit = 0.5 if found == "hang" else 20
    assert fuzz.run([kind], options, tmp_path / "run") == good
    row = capsys.readouterr().out.splitlines()[-2].split("|")
    column = 4 + fuzz.CLASSES.index(found)
    assert [int(own) for own in row[2:4]] == [2, 0] and int(row[column]) == 2
    assert len(list((tmp_path / "keep").rglob("a.xyz"))) == (
        0 if found in ("read", "refused") else 2
    )


@pytest.mark.parametrize("suffix", sorted(CONTAINERS))
def test_a_container_of_unchanged_parts_is_the_same_file(kinds: list[Kind], suffix: str) -> None:
    data = next(own.data for own in kinds if own.name == f"a{suffix}")
    container = CONTAINERS[suffix]
    parts = container.split(data)
    again = container.join(parts)
    if suffix in (".mkv", ".webm"):  # lengths are written in eight bytes
        assert container.join(container.split(again)) == again and len(again) < 2 * len(data)
    else:
        assert again == data


def test_a_seed_gives_the_same_files(kinds: list[Kind]) -> None:
    for kind in kinds:
        changed = {mutate(random.Random(5), kind.data, [kind.data]) for _ in range(2)}
        assert len(changed) == 1
