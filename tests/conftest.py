"""Fixtures of several test files: the example files, the tiny random model, the command line."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import talkingface
from helpers.corpus import write_cache
from talkingface import picture
from talkingface.cli import main
from talkingface.data.dataset import Cache

EXAMPLES = Path(__file__).parents[1] / "examples"
SENTENCE = Path(__file__).parent / "fixtures" / "sentence.wav"

# What a shell starts in the background ignores Ctrl-C, and so would the commands that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # small tensors: more threads only wait for each other


@dataclass(frozen=True)
class Ran:
    """Result of a command line: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Cli = Callable[..., Ran]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the real command line in this process: cli("generate", "a.jpg", ...)."""

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def scheduler() -> Iterator[str]:
    """The address of a Dask scheduler, with a worker that is a thread of this process."""
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    options: dict[str, Any] = {"n_workers": 1, "threads_per_worker": 1, "processes": False}
    options |= {"protocol": "tcp", "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(**options) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="session")
def portrait() -> Path:
    """A face of nobody, 768x768."""
    return EXAMPLES / "portrait.jpg"


@pytest.fixture(scope="session")
def speech() -> Path:
    """A sentence of 2.98 s: 75 frames."""
    return SENTENCE


@pytest.fixture(scope="session")
def tiny() -> talkingface.TalkingFace:
    """The tiny random model of every command line test."""
    return talkingface.load("cran-tiny")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, portrait: Path) -> bytes:
    """The portrait as a PNG file of 256x256."""
    path = tmp_path_factory.mktemp("small") / "small.png"
    picture.write_png(path, np.ascontiguousarray(picture.read(portrait)[::3, ::3]))
    return path.read_bytes()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """The made-up corpus of `helpers.corpus`: s1 in all splits, a still portrait, s4 and s26."""
    return write_cache(tmp_path_factory.mktemp("cache"))
