"""A decoding process that fails at files whose names, or last bytes, say so."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from talkingface.decoding import worker


def crash(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def killed(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # as the system does where memory is short


def hang(_: Path) -> None:
    time.sleep(3600)


def spin(_: Path) -> None:
    while True:
        pass


def eat(_: Path) -> None:
    held = []
    while True:
        held.append(np.ones(1 << 24))


def fail(_: Path) -> None:
    raise LookupError("nobody\nforesaw this")


def write(path: Path) -> None:
    path.with_name("written").write_text("some text")


def connect(_: Path) -> None:
    assert [name for _, name in socket.if_nameindex()] == ["lo"], "there is a network"
    socket.create_connection(("127.0.0.1", 9))  # there is, but it is down


FAULTS: dict[str, Callable[[Path], None]] = {
    own.__name__: own for own in (crash, killed, hang, spin, eat, fail, write, connect)
}


def _faulty(task: Callable[..., worker.Found], path: Path, **options: Any) -> worker.Found:
    last = path.read_bytes()[-40:] if path.is_file() else b""
    for name, fault in FAULTS.items():
        if path.stem == name or last.endswith(b"\nfault: " + name.encode()):
            fault(path)
    yield from task(path, **options)


def main() -> None:
    for name, task in worker.TASKS.items():
        worker.TASKS[name] = partial(_faulty, task)
    worker.main()
