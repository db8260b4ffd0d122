"""Ctrl-C, SIGTERM and SIGHUP end every command, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from helpers.corpus import write_cache
from talkingface import picture, video_writing

COMMAND = (sys.executable, "-m", "talkingface.cli")
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
TINY = ("--model", "cran-tiny")


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of two minutes."""
    import wave

    path = tmp_path_factory.mktemp("long") / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", "not compressed"))
        file.writeframes(bytes(2 * 16_000 * 120))
    return path


@contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [*COMMAND, *map(str, arguments)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as ran:
        try:
            yield ran
        finally:
            ran.kill()


def wait_for(folder: Path, pattern: str, ran: subprocess.Popen[str]) -> None:
    for _ in range(600):
        if any(folder.glob(pattern)):
            return
        assert ran.poll() is None, ran.communicate()
        time.sleep(0.05)
    raise AssertionError(f"no {pattern} after 30 s")


def processes_of(session: int) -> list[int]:
    """The processes of a session that are alive."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def end(ran: subprocess.Popen[str], number: int, group: bool = False) -> str:
    """Send a signal; return what the command says on standard error; no process may be left."""
    (os.killpg if group else os.kill)(ran.pid, number)
    _, error = ran.communicate(timeout=20)
    assert ran.returncode == CODES[signal.Signals(number)], error
    for _ in range(40):
        if not processes_of(ran.pid):
            return error
        time.sleep(0.05)
    raise AssertionError(f"left: {processes_of(ran.pid)}")


@pytest.mark.parametrize("number", CODES)
def test_generate_leaves_nothing(portrait: Path, long: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "a.mp4"
    with running("generate", portrait, long, "-o", out, "--crop", *TINY) as ran:
        wait_for(tmp_path, ".a.mp4.*.part", ran)
        assert end(ran, number) == "stopped\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_batch_says_how_it_goes_on(
    portrait: Path, speech: Path, long: Path, tmp_path: Path, jobs: int
) -> None:
    sounds = ("--speech", long, "--speech", speech)
    call = ("batch", portrait, *sounds, "--out-dir", tmp_path, "--crop", *TINY)
    with running(*call, "--jobs", jobs) as ran:
        wait_for(tmp_path, ".portrait-long.mp4.*.part", ran)
        said = end(ran, signal.SIGINT, group=True)
    assert said == "stopped: the same command with --skip-existing goes on\n"
    assert not list(tmp_path.glob("*-long.mp4")) and not list(tmp_path.glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["idle", "motion"])
def test_other_commands_leave_nothing(
    portrait: Path, long: Path, tmp_path: Path, command: str
) -> None:
    out = tmp_path / ("a.mp4" if command == "idle" else "a.json")
    what = (portrait, "--seconds", 600) if command == "idle" else (long,)
    with running(command, *what, "-o", out, "--model", "atvg-tiny") as ran:
        time.sleep(4)
        assert end(ran, signal.SIGTERM) == "stopped\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_prepare_leaves_no_process_and_no_part(
    portrait: Path, speech: Path, tmp_path: Path, jobs: int
) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    shown = np.ascontiguousarray(picture.read(portrait)[::2, ::2])
    video_writing.write(videos / "0.mp4", [shown] * 70, speech)
    for number in range(1, 12):
        (videos / f"{number}.mp4").write_bytes((videos / "0.mp4").read_bytes())
    with running("prepare", "videos", videos, "-o", out, "--jobs", jobs) as ran:
        wait_for(out, ".shard-*.part", ran)
        time.sleep(1.5)
        said = end(ran, signal.SIGINT, group=True)
    assert said == "stopped: the same command goes on\n"
    assert not list(out.glob(".*.part"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_training_goes_on(tmp_path: Path, number: int) -> None:
    write_cache(tmp_path / "cache")
    run = tmp_path / "run"
    call = ("train", "sync", tmp_path / "cache", "-o", run, "--preset", "sync-tiny")
    with running(*call, "--save-every", 1, "--set", "steps=100000") as ran:
        wait_for(run, "checkpoint.pt", ran)
        said = end(ran, number)
    assert "the same command goes on" in said and said.count("\n") == 1
    assert not list(run.glob(".*.part"))


@pytest.mark.parametrize("number", CODES)
def test_serve_leaves_no_temporary_file(tmp_path: Path, number: int) -> None:
    with running("serve", "--port", 0, "--temp", tmp_path, "--model", "cran-tiny") as ran:
        assert ran.stdout is not None and "serves http" in ran.stdout.readline()
        time.sleep(1)
        assert end(ran, number) == "stopped\n"
    assert list(tmp_path.iterdir()) == []


def test_an_ignored_signal_is_ignored(portrait: Path, long: Path, tmp_path: Path) -> None:
    call = [*COMMAND, "generate", portrait, long, "-o", tmp_path / "a.mp4", "--crop", *TINY]
    with subprocess.Popen(
        ["nohup", *map(str, call)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as ran:
        wait_for(tmp_path, ".a.mp4.*.part", ran)
        ran.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert ran.poll() is None
        ran.terminate()
        assert ran.wait(20) == 143


def test_the_cursor_of_the_terminal_comes_back(portrait: Path, long: Path, tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    call = [*COMMAND, "generate", portrait, long, "-o", tmp_path / "a.mp4", "--crop", *TINY]
    with subprocess.Popen(list(map(str, call)), stdout=theirs, stderr=theirs) as ran:
        os.close(theirs)
        wait_for(tmp_path, ".a.mp4.*.part", ran)  # type: ignore[arg-type]
        ran.terminate()
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65_536)
            except OSError:  # the terminal is closed
                break
        assert ran.wait(20) == 143
    os.close(ours)
    assert b"\x1b[?25l" in shown  # hidden while the bar moves
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l") and b"stopped" in shown
