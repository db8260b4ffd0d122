"""The real command `talkingface serve`, as a process of its own, and what it uses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

TESTS = Path(__file__).parents[1]
_FILES_OF_DECODER = 3  # open files of the server for each decoding process that it keeps
_END = 60.0  # seconds that it may take to end


@dataclass(frozen=True)
class Vitals:
    """Resources of a server: megabytes of memory, threads, open files, decoders, requests' folders.

    files: without those of the decoders.
    """

    memory: int
    threads: int
    files: int
    decoders: int
    folders: int


@dataclass(frozen=True)
class ServerProcess:
    """A running server. url: its address. temp: its folder for temporary files."""

    url: str
    temp: Path
    process: subprocess.Popen[str]
    errors: IO[str]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def log(self) -> str:
        """Return what it has written to standard error."""
        self.errors.seek(0)
        return self.errors.read()

    def processor_seconds(self) -> float:
        """Return the time of processors that it and the processes that it started have taken."""
        pids = [self.process.pid]
        for pid in pids:  # it grows
            pids += children(pid)
        return sum(map(_processor_ticks, pids)) / os.sysconf("SC_CLK_TCK")

    def vitals(self) -> Vitals:
        """Return what it uses now."""
        home = Path(f"/proc/{self.process.pid}")
        status = (home / "status").read_text()
        memory, threads = (
            int(re.findall(rf"{key}:\s+(\d+)", status)[0]) for key in ("VmRSS", "Threads")
        )
        decoders = len(children(self.process.pid))
        files = len(os.listdir(home / "fd")) - _FILES_OF_DECODER * decoders
        folders = sum(path.is_dir() for path in self.temp.glob("*/*"))
        return Vitals(memory // 1024, threads, files, decoders, folders)


def children(pid: int) -> list[int]:
    """Return the process ids of what a process has started and that still runs."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in path.read_text().split()]
    return found


def _processor_ticks(pid: int) -> int:
    """Return the time that a process and its ended children have taken; 0 if it has ended."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15]))
    return 0


@contextmanager
def server_process(
    temp: Path,
    *options: str,
    faulty: int | None = None,
    environment: Mapping[str, str] | None = None,
    source: Path = TESTS.parent,
) -> Iterator[ServerProcess]:
    """Run a server during the block, at any free port. options: of `talkingface serve`.

    faulty: its decoders fail at files that say so, and may take so many seconds. source: the
    checkout whose server it is.
    """
    start: Sequence[str] = ("-m", "talkingface", "serve")
    if faulty is not None:
        start = ("-m", "helpers.faulty_server", str(faulty))
    places = [str(source), str(source / "tests"), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(filter(None, places)), **(environment or {})}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, *start, "--port", "0", "--temp", str(temp.resolve()), *options],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | own,
            cwd=source,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            found = re.search(r"(http://\S+?)/ ", process.stdout.readline())
            served = ServerProcess(found[1] if found else "", temp, process, errors)
            assert found, served.log()
            yield served
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_END)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
