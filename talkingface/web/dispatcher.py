"""Several processes of `talkingface serve` behind one port.

This process accepts the connections, reads the first line of each without taking it, and hands the
connection itself to a worker process (`worker_process`): the one that has the job asked for, or
else one with a free place. So nothing is forwarded, and each worker is a whole server of its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import re
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from talkingface.errors import BadRequest
from talkingface.signals import handled
from talkingface.web.server import idle_time, most_connections
from talkingface.web.temp_store import TempStore
from talkingface.web.worker_process import DRAIN, FILE, LIVE, OTHER, SIGNALS, WorkerOptions, main

_LARGEST_MESSAGE = 4096  # bytes
_LONGEST_LINE = 8192  # bytes of a request's first line that are looked at
_PARTIAL = 0.05  # seconds until the rest of a first line is looked for
_LOOK = 1.0  # seconds between two looks for workers that hang
_HANGS = 60  # looks without a word after which a worker is killed
_RESTART = 1.0  # seconds from a worker's death to its new start
_END = 10.0  # seconds that a worker may take to end when the dispatcher fails

_JOB = re.compile(rb"[A-Z]+ /v1/jobs/(\d{1,6})-")
_LIVE = re.compile(rb"GET /v1/live[? ]")
_FILE = re.compile(rb"POST /v1/(generate|jobs|dub|dub/jobs)[? ]")
_READY = re.compile(rb"[A-Z]+ /v1/ready(\?place=(live|file)| )")
_spawn = multiprocessing.get_context("spawn")
_log = logging.getLogger("talkingface.web")


def run(
    listening: socket.socket, options: WorkerOptions, started: Callable[[], None] = lambda: None
) -> None:
    """Serve with several processes until interrupted. started: called when all of them serve.

    Raises BadRequest, also for an error that a worker has at its start.
    """
    if sys.platform != "linux":  # others have no sockets of whole messages
        raise BadRequest(f"--workers {options.workers}: more than one needs Linux; leave it out")
    files = TempStore(options.temp)
    metrics = files.root / "metrics"
    metrics.mkdir()
    dispatcher = Dispatcher(listening, options, metrics)
    try:
        with handled(SIGNALS, dispatcher.handle_signal):
            asyncio.run(dispatcher.serve(started))
    finally:
        files.close()
    for number in dispatcher.signals[-1:]:
        signal.raise_signal(number)


class Worker:
    """A worker process as the dispatcher knows it."""

    def __init__(self, number: int, options: WorkerOptions, metrics: Path) -> None:
        """Start process `number`. metrics: see `Dispatcher`."""
        self.number, self.silent = number, 0  # looks since it said something
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.setblocking(False)
        given = number, theirs, options, metrics
        self.process = _spawn.Process(target=main, args=given, daemon=True)
        self.process.start()
        theirs.close()
        self.error: str | None = None
        self.limits: dict[str, Any] = {}  # "places" by kind, "idle" seconds, "connections"
        self.load: dict[str, int] = {}  # as it said last
        self._sent: deque[str] = deque()  # kinds of connections of which `load` does not know

    @property
    def ready(self) -> bool:
        """Return whether it serves."""
        return bool(self.load)

    def taken(self, kind: str) -> int:
        """Return how many places of a kind are taken."""
        return self.load[kind] + self._sent.count(kind)

    def has_place(self, kind: str) -> bool:
        """Return whether a place of a kind is free."""
        return self.taken(kind) < int(self.limits["places"][kind])

    def give(self, connection: socket.socket, kind: str) -> bool:
        """Hand a connection over; return False if it takes none."""
        try:
            socket.send_fds(self.channel, [kind.encode()], [connection.fileno()])
        except OSError:
            return False
        self._sent.append(kind)
        return True

    def listen(self) -> bool:
        """Take a message; return False if there is none, because it ends."""
        try:
            message = self.channel.recv(_LARGEST_MESSAGE)
        except OSError:
            message = b""
        if not message:
            self.load = {}
            return False
        self.silent, said = 0, json.loads(message)
        if "error" in said:
            self.error = said["error"]
        elif "places" in said:
            self.limits = said
        else:
            for _ in range(said["received"] - self.load.get("received", 0)):
                self._sent.popleft()
            self.load = said
        return True

    def end(self) -> None:
        """Tell it to end at once."""
        with suppress(OSError):
            self.channel.shutdown(socket.SHUT_RDWR)

    def drain(self) -> None:
        """Tell it to end when its work is done."""
        with suppress(OSError):
            self.channel.send(DRAIN)


class Dispatcher:
    """Accepts connections and hands them to worker processes, which it starts and ends."""

    def __init__(self, listening: socket.socket, options: WorkerOptions, metrics: Path) -> None:
        """metrics: folder in which the workers leave their metrics for each other."""
        listening.setblocking(False)
        self.signals: list[int] = []
        self._listening, self._options, self._metrics = listening, options, metrics
        self._loop: asyncio.AbstractEventLoop | None = None
        self._workers: list[Worker] = []
        self._waiting: set[asyncio.Task[None]] = set()  # for the first line of a connection
        self._turn, self._started, self._stopping = 0, False, False
        self._failure: str | None = None
        self._limits: dict[str, Any] = {}  # of the first worker
        self._done = asyncio.Event()

    async def serve(self, started: Callable[[], None]) -> None:
        """Serve until all workers have ended after a signal; see `run`."""
        self._loop = asyncio.get_running_loop()
        if self.signals:
            return
        tasks = []
        try:
            await self._start_all()
            if not self._stopping:
                self._started, self._limits = True, self._workers[0].limits
                started()
                tasks = [asyncio.create_task(self._accept()), asyncio.create_task(self._look())]
            await self._done.wait()
        finally:
            for task in tasks:
                task.cancel()
            for worker in self._workers:
                worker.end()
            for worker in self._workers:
                worker.process.join(_END)
                worker.process.kill()

    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """Let work end on the first SIGTERM; end at once on all other signals."""
        self.signals.append(number)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._stopping = True
        for worker in self._workers:
            if self.signals == [signal.SIGTERM]:
                worker.drain()
            else:
                worker.end()
        if not self._workers:
            self._done.set()

    async def _start_all(self) -> None:
        """Start one worker, then the others: what is wrong with the options is said once.

        Raises BadRequest.
        """
        for numbers in ((0,), range(1, self._options.workers)):
            for number in numbers:
                self._start(number)
            while not (self._stopping or self._failure or all(own.ready for own in self._workers)):
                await asyncio.sleep(_PARTIAL)
            if self._failure is not None:
                raise BadRequest(self._failure)

    def _start(self, number: int) -> None:
        if self._stopping:
            return
        assert self._loop is not None
        worker = Worker(number, self._options, self._metrics)
        self._workers.append(worker)
        self._loop.add_reader(worker.channel, self._hear, worker)
        self._loop.add_reader(worker.process.sentinel, self._ended, worker)

    def _hear(self, worker: Worker) -> None:
        if not worker.listen():
            assert self._loop is not None
            self._loop.remove_reader(worker.channel)

    def _ended(self, worker: Worker) -> None:
        """Start a worker that has ended again, unless the server is stopping."""
        assert self._loop is not None
        while worker.listen():
            pass
        self._loop.remove_reader(worker.process.sentinel)
        self._loop.remove_reader(worker.channel)
        worker.channel.close()
        worker.process.join()
        self._workers.remove(worker)
        mark_process_dead(worker.process.pid, str(self._metrics))  # type: ignore[no-untyped-call]
        cause = worker.error or _cause(worker.process.exitcode)
        if self._stopping:
            if not self._workers:
                self._done.set()
        elif self._started:
            _log.error("worker process %d ended (%s): it is started again", worker.number, cause)
            self._loop.call_later(_RESTART, self._start, worker.number)
        else:
            self._failure = worker.error or f"a worker process ended at its start ({cause})"

    async def _look(self) -> None:
        """Kill workers that hang, in an endless loop."""
        while True:
            await asyncio.sleep(_LOOK)
            for worker in self._workers:
                worker.silent += worker.ready
                if worker.silent > _HANGS:
                    _log.error("worker process %d hangs: it is killed", worker.number)
                    worker.process.kill()

    async def _accept(self) -> None:
        """Accept connections, in an endless loop."""
        assert self._loop is not None
        idle, most = self._limits["idle"], self._limits["connections"]
        most = min(most, most_connections())
        while True:
            try:
                connection, _ = await self._loop.sock_accept(self._listening)
            except OSError as error:
                _log.error("no connection can be accepted: %s", error)
                await asyncio.sleep(_LOOK)
                continue
            if len(self._waiting) >= most:
                connection.close()
                continue
            seconds = idle_time(len(self._waiting), idle, most)
            task = asyncio.create_task(self._hand_over(connection, seconds))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def _hand_over(self, connection: socket.socket, seconds: float) -> None:
        """Hand a connection to a worker when its request begins, within so many seconds."""
        with connection, suppress(OSError, asyncio.TimeoutError):
            line = await asyncio.wait_for(first_line(connection), seconds)
            kind, wanted, number = read_request(line)
            self._turn += 1
            for worker in order(self._workers, wanted, number, self._turn):
                if worker.give(connection, kind):
                    return


def order(
    workers: Iterable[Worker], wanted: Collection[str], number: int | None, turn: int
) -> list[Worker]:
    """Return the workers that serve, in the order in which they should get a request.

    wanted: the kinds of places of which one should be free. number: of the worker that has the job.
    turn: of equals that with the least work is the first, or else they take turns.
    """
    ready = [worker for worker in workers if worker.ready]
    first = turn % max(1, len(ready))

    def key(worker: Worker) -> tuple[bool, bool, int]:
        free = any(worker.has_place(kind) for kind in wanted)
        return worker.number != number, not free, worker.taken(LIVE) + worker.taken(FILE)

    return sorted(ready[first:] + ready[:first], key=key)


def read_request(line: bytes) -> tuple[str, Sequence[str], int | None]:
    """Read the first line of an HTTP request.

    Returns (its kind, the kinds of places of which one should be free, the worker of its job).
    """
    if found := _JOB.match(line):
        return OTHER, (), int(found[1])
    if _LIVE.match(line):
        return LIVE, (LIVE,), None
    if _FILE.match(line):
        return FILE, (FILE,), None
    if found := _READY.match(line):
        return OTHER, (found[2].decode(),) if found[2] else (LIVE, FILE), None
    return OTHER, (), None


async def first_line(connection: socket.socket) -> bytes:
    """Return the first line of a request, which stays to be read. Raises OSError."""
    while True:
        await _readable(connection)
        seen = connection.recv(_LONGEST_LINE, socket.MSG_PEEK)
        if not seen:
            raise ConnectionAbortedError
        if b"\n" in seen or len(seen) == _LONGEST_LINE:
            return seen.partition(b"\n")[0]
        await asyncio.sleep(_PARTIAL)  # it is readable all the time


async def _readable(connection: socket.socket) -> None:
    """Wait until something can be read, or the client has gone."""
    loop, there = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(connection, there.set)
    try:
        await there.wait()
    finally:
        loop.remove_reader(connection)


def _cause(code: int | None) -> str:
    """Return in words how a process ended."""
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
