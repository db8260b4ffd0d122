"""Decode pictures, recordings and videos in a process of their own, with limits.

A decoder that crashes, hangs or takes too much memory ends its own process. The caller gets one
DecodingFailed that names the file, and the next file gets a new process. The processes have no
network where the kernel lets them leave it, and end with this one.

`TALKINGFACE_DECODING=direct` in the environment decodes in this process instead: for programs that
may start no other.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import math
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talkingface.errors import DecodingFailed, UnreadableMedia

SWITCH = "TALKINGFACE_DECODING"
ADVICE = "convert it with another program"
SLOT = 128 << 20  # bytes of shared memory for one answer: a frame of 8K fits
SLOTS = 2  # one is filled while the other is read; pages that are not used cost nothing
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
_MODULE = "talkingface.decoding.worker"
_KEPT_ENVIRONMENT = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH")
_LONGEST_MESSAGE = 1 << 20  # bytes
_LARGE = 16 << 20  # bytes: so much is given back to the system after the file
_PATIENCE = 1.0  # seconds for a decoder that should stop
_MOST_TASKS = 100  # of one process, so that what a file did to it does not last
_DTYPES: dict[object, np.dtype[Any]] = {
    "uint8": np.dtype(np.uint8),
    "uint16": np.dtype(np.uint16),
    "float32": np.dtype(np.float32),
}


@dataclass(frozen=True)
class Limits:
    """Limits of one decoding process.

    memory: bytes beside its libraries. seconds: processor time for one answer (a picture, a frame,
    a block of sound); twice as long by the clock. idle: processes that are kept for the next file.
    """

    memory: int = 5 << 30
    seconds: int = 60
    idle: int = 2


@dataclass(frozen=True)
class Answer:
    """Part of a file's content: a value of JSON, and arrays that belong to the caller."""

    value: Any
    arrays: list[NDArray[Any]]


def is_contained() -> bool:
    """Return whether files are decoded in another process: where that can be, unless switched off.

    It needs Linux, a Python to start, and no limit of files (`ulimit -f`) below its shared memory.
    """
    if os.environ.get(SWITCH) == "direct" or sys.platform != "linux":
        return False
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    room = limit == resource.RLIM_INFINITY or limit >= SLOTS * SLOT
    return room and bool(sys.executable) and not hasattr(sys, "frozen")


def set_limits(limits: Limits) -> None:
    """Set the limits of all decoding processes of this process; those that wait are ended."""
    _pool.close()
    _pool.limits = limits


def start() -> None:
    """Start a process for the first file, without waiting for it."""
    if is_contained():
        with suppress(OSError):  # it will be an error of the first file
            _pool.start()


def count() -> int:
    """Return the number of decoding processes of this process, those that wait too."""
    return len(_workers)


def answer(task: str, path: Path, **options: Any) -> Answer:
    """Return the first answer of a task of `worker.TASKS`. Raises UnreadableMedia."""
    with closing(answers(task, path, **options)) as found:
        return next(found)


def answers(task: str, path: Path, **options: Any) -> Generator[Answer, None, None]:
    """Yield the answers of a task of `worker.TASKS`; a few are computed in advance.

    Raises UnreadableMedia, also between answers.
    """
    try:
        worker = _pool.take()
    except OSError as error:
        raise UnreadableMedia(
            f"{path}: no process can be started to decode it ({error.strerror}); end other programs"
        ) from error
    try:
        worker.ask(path, {"task": task, "options": options})
        while (found := worker.next()) is not None:
            yield found
    finally:
        _pool.give_back(worker)


class _Worker:
    """A decoding process. One task at a time; it is given up after a failure."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._path = limits, Path()
        self._busy, self._used, self._number, self._unread = False, 0, 0, b""
        self._tasks = 0
        memory = os.memfd_create("decoded", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._socket, theirs = socket.socketpair()
        life, self._life = os.pipe()  # closed by the end of this process, which ends the other
        try:
            os.ftruncate(memory, SLOTS * SLOT)
            # The process cannot shrink it under the reader, who would get a SIGBUS.
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, seals)
            self._memory = mmap.mmap(memory, SLOTS * SLOT)
            numbers = (theirs.fileno(), memory, limits.memory, limits.seconds)
            self.process = subprocess.Popen(
                [*_command(), *map(str, numbers)],
                stdin=life,
                stdout=subprocess.DEVNULL,
                pass_fds=numbers[:2],
                env={k: os.environ[k] for k in _KEPT_ENVIRONMENT if k in os.environ}
                | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
            )
        except OSError:
            os.close(self._life)
            self._socket.close()
            raise
        finally:
            theirs.close()
            os.close(memory)
            os.close(life)
        _workers.add(self)

    def is_ready(self) -> bool:
        """Return whether it lives, has no task, and may have another."""
        return not self._busy and self._tasks < _MOST_TASKS and self.process.poll() is None

    def ask(self, path: Path, request: dict[str, Any]) -> None:
        """Begin a task. Raises UnreadableMedia."""
        self._path, self._number, self._busy = path, 0, True
        self._tasks += 1
        folder = None if path.is_absolute() else os.getcwd()
        self._send({**request, "path": str(path), "folder": folder})

    def next(self) -> Answer | None:
        """Return the next answer, None after the last. Raises UnreadableMedia."""
        reply = self._receive(2 * self._limits.seconds)
        if "value" not in reply:
            self._busy = False
            if "error" in reply:
                raise UnreadableMedia(_one_line(reply["error"]))
            if "failure" in reply:
                self._tasks = _MOST_TASKS  # nobody knows what the file did to it
                raise self._error(_one_line(reply["failure"]))
            return None
        try:
            found = Answer(reply["value"], self._arrays(reply["arrays"]))
        except (KeyError, TypeError, ValueError) as error:
            self.end()
            raise self._error("its decoder sent nonsense") from error
        self._send({"copied": self._number})
        return found

    def _arrays(self, described: list[tuple[str, list[int]]]) -> list[NDArray[Any]]:
        """Copy the arrays of an answer, because the process could still change them."""
        sizes = [math.prod(shape) * _DTYPES[kind].itemsize for kind, shape in described]
        total, first = sum(sizes), self._number % SLOTS * SLOT
        if total > SLOT or min(sizes, default=0) < 0:
            raise ValueError(sizes)
        self._used = max(self._used, total)
        with memoryview(self._memory) as memory:
            copy = np.array(memory[first : first + total], np.uint8)
        self._number += 1
        out, begin = [], 0
        for (kind, shape), size in zip(described, sizes, strict=True):
            out.append(copy[begin : begin + size].view(_DTYPES[kind]).reshape(shape))
            begin += size
        return out

    def stop(self) -> None:
        """Stop the task, if there is one; end the process if it does not listen."""
        if self._used > _LARGE:
            self._memory.madvise(mmap.MADV_REMOVE)
            self._used = 0
        if not self._busy:
            return
        try:
            self._send({"stop": True})
            while "value" in self._receive(_PATIENCE):
                pass
            self._busy = False
        except UnreadableMedia:
            self.end()

    def end(self) -> None:
        """End the process. A second call does nothing."""
        self.process.kill()
        self.process.wait()
        self.forget()

    def forget(self) -> None:
        """Close this side of it."""
        self._busy = True
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        self._socket.close()
        _workers.discard(self)

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._socket.settimeout(2 * self._limits.seconds)
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise self._ended() from error

    def _receive(self, seconds: float) -> dict[str, Any]:
        """Return the next message. Raises UnreadableMedia when none comes in time."""
        until = time.monotonic() + seconds
        while b"\n" not in self._unread:
            try:
                self._socket.settimeout(max(0.001, until - time.monotonic()))
                more = self._socket.recv(1 << 16)
            except TimeoutError as error:
                self.end()
                raise self._error(_too_long(seconds)) from error
            except OSError as error:
                raise self._ended() from error
            self._unread += more
            if not more or len(self._unread) > _LONGEST_MESSAGE:
                raise self._ended()
        line, _, self._unread = self._unread.partition(b"\n")
        with suppress(ValueError):
            if isinstance(message := json.loads(line), dict):
                return message
        self.end()
        raise self._error("its decoder sent nonsense")

    def _ended(self) -> DecodingFailed:
        """Return the error of a process that has ended, or does not answer."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_PATIENCE)
        self.end()
        code = self.process.returncode
        if code == -signal.SIGXCPU:
            return self._error(_too_long(self._limits.seconds))
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return self._error(f"its decoder crashed ({name})")

    def _error(self, found: str) -> DecodingFailed:
        if found == "memory":
            found = f"its decoding needs more than {self._limits.memory / 1e9:.1f} GB of memory"
        return DecodingFailed(f"{self._path}: {found}; {ADVICE}")


def _command() -> list[str]:
    """The command of a decoding process, which imports from where this process does."""
    home = str(Path(__file__).parents[2])
    places = [place for place in sys.path if place]
    if home not in places:
        places.insert(0, home)
    utf8 = ["-X", "utf8=1"] if sys.flags.utf8_mode else []
    code = f"{_START}from {_MODULE} import main; main()"
    return [sys.executable, "-I", "-S", *utf8, "-c", code, json.dumps(places)]


def _too_long(seconds: float) -> str:
    return f"its decoding takes longer than {seconds:g} s"


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:2000]


class _Pool:
    """Decoding processes that wait for a task. Each task takes one, and gives it back."""

    def __init__(self) -> None:
        self.limits = Limits()
        # Reentrant: the garbage collector may close a forgotten file in a thread that holds it.
        self._lock = threading.RLock()
        self._idle: list[_Worker] = []

    def start(self) -> None:
        """Have one that waits."""
        with self._lock:
            if self._idle:
                return
        self.give_back(_Worker(self.limits))

    def take(self) -> _Worker:
        """Return one that waits, or a new one."""
        while True:
            with self._lock:
                if not self._idle:
                    break
                worker = self._idle.pop()
            if worker.is_ready():
                return worker
            worker.end()
        return _Worker(self.limits)

    def give_back(self, worker: _Worker) -> None:
        """Stop its task, and keep it if few wait."""
        worker.stop()
        with self._lock:
            if worker.is_ready() and len(self._idle) < self.limits.idle:
                self._idle.append(worker)
                return
        worker.end()

    def close(self) -> None:
        """End those that wait."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.end()


_workers: weakref.WeakSet[_Worker] = weakref.WeakSet()
_pool = _Pool()


def _after_fork() -> None:
    """Leave the processes to the parent of this one."""
    limits = _pool.limits
    for worker in list(_workers):
        worker.process.returncode = 0  # not its child
        worker.forget()
    _pool.__init__()  # type: ignore[misc]
    _pool.limits = limits


def _close() -> None:
    for worker in list(_workers):
        worker.end()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_close)
