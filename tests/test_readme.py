"""Every command and every line of Python of the README runs as pasted, in order, in one folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import wave
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from conftest import EXAMPLES, SENTENCE, Cli
from helpers import trees
from talkingface import picture, video
from talkingface.reproduce import trainings
from talkingface.training import presets

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
OUTPUTS = {"-o", "--output", "--out", "--out-dir", "--overlay", "--maps", "--sheet"}
SILENT = {"generate", "batch", "idle", "motion", "landmarks"}  # unless something is wrong


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that has what a clone has for the commands; a stub that opens no browser.

    Its examples are small and short, for here the commands are tested.
    """
    (tmp_path / "examples").mkdir()
    for path in EXAMPLES.glob("*.jpg"):
        put_small(tmp_path / "examples" / path.name, path)
    for path in EXAMPLES.glob("*.wav"):
        with (
            wave.open(str(SENTENCE)) as whole,
            wave.open(f"{tmp_path}/examples/{path.name}", "wb") as part,
        ):
            part.setparams(whole.getparams())
            part.writeframes(whole.readframes(whole.getframerate()))
    shutil.copytree(ROOT / "tests" / "fixtures", tmp_path / "tests" / "fixtures")
    stub = tmp_path / "stub" / "xdg-open"
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/opened\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tiny_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The presets that the commands name, of tiny networks and few steps; a small GRID has splits.

    A thousand clips have a main speaker by their number.
    """

    def tiny(table: dict[str, Any], name: str, of: str, **change: Any) -> None:
        monkeypatch.setitem(table, name, replace(table[of], **change))

    grid = import_module("talkingface.data.sources.grid")
    monkeypatch.setattr(grid, "MAIN_SPEAKER", len(trees.MAIN_SENTENCES))
    tiny(presets.READING, "trainer", "tiny", corpus_half="first")
    tiny(presets.READING, "judge", "tiny", corpus_half="second", seed=1)
    tiny(presets.CRAN, "cran", "cran-tiny", stages=presets.CRAN["cran-tiny"].stages[1:])
    tiny(presets.ATVG, "atvg", "atvg-tiny")
    for name in ("chung", "zhou", "chen"):
        tiny(presets.BASELINES, name, f"{name}-tiny")
    rows = tuple(
        replace(row, steps=re.sub(r"[1-9]\d+", "2", row.steps)) for row in trainings.SONG_TABLE1
    )
    assert isinstance(trainings.TABLES, dict)
    monkeypatch.setitem(trainings.TABLES, "song-table1", rows)


def bring(words: list[str]) -> None:
    """Make what the README says, or lets see, that the user brings for this command."""
    for before, word in pairwise(words):
        path = Path(word)
        if path.exists() or word.startswith("-"):
            continue
        if path.suffix == ".jpg":
            put_small(path, EXAMPLES / "portrait.jpg", twice="--face" in words)
        elif path.suffix in (".wav", ".m4a"):
            shutil.copy(SENTENCE, path)
        elif before == "--pairs":
            bring_videos(path, "{0}/real.mp4", "{0}/generated.mp4")
        elif "study" in words and "=" in word:
            bring_videos(Path(word.partition("=")[2]), "{0}.mp4")
        elif before == "grid":
            trees.grid_corpus(path)


def put_small(path: Path, of: Path, twice: bool = False) -> None:
    """Write a third of a picture, once or twice side by side."""
    small = picture.read(of)[::3, ::3]
    picture.write_png(path, np.ascontiguousarray(np.hstack([small] * (1 + twice))))


def bring_videos(folder: Path, *files: str) -> None:
    for name in (trees.ONE, trees.TWO):
        for file in files:
            trees.put(folder / file.format(name), name, count=12)


def serve(words: list[str]) -> None:
    """Run a server as its command is written, look at its first page, and interrupt it."""
    command = [sys.executable, "-m", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        said = server.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", said)
        assert address is not None, (words, said)
        page = httpx.get(address[0], timeout=30)
        assert page.status_code == 200 and "<title>" in page.text
        if "--open" in words:
            assert httpx.get(f"{address[0]}v1/health").json()["status"] == "ok"
            assert Path("opened").read_text().split() == [address[0]]
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 130


def run(line: str, cli: Cli) -> None:
    """Run one line; those of `make` and of the shell are only looked at."""
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
    elif words[0] == "export":
        assert re.fullmatch(r'export PATH="\$PWD/\.venv/bin:\$PATH" *(#.*)?', line), line
    elif "serve" in words[1:3]:
        serve(words)
    else:
        assert words[0] == "talkingface", line
        bring(words)
        ran = cli(*words[1:])
        assert ran.code == 0, (line, ran.err)
        assert words[1] not in SILENT or ran.err == "", (line, ran.err)
        assert all(Path(word).exists() for before, word in pairwise(words) if before in OUTPUTS)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_trainings")
def test_everything_runs_as_written(
    clone: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    for kind, text in BLOCKS:
        if kind == "python":
            capsys.readouterr()
            exec(compile(text, "README.md", "exec"), names)
            printed = [int(word) for word in capsys.readouterr().out.split() if word.isdigit()]
        else:
            assert kind == ""
            for line in text.replace("\\\n", " ").splitlines():
                run(line, cli)
    assert sum(printed) == 25  # the last Python is live: a second of sound
    written = re.findall(r'\.save\("(.+?)"\)', README)
    assert written and all(video.probe(clone / name).has_audio for name in written)
