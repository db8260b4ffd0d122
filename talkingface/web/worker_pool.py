"""Worker threads: a bounded number of them with a bounded queue.

They are not anyio's: a job outlives the request that started it, and asyncio's own cancellation,
by which uvicorn stops requests, leaves the threads of anyio running with nobody to wait for them.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from talkingface.web.errors import RETRY_AFTER, ApiError, storage_error
from talkingface.workers import use_one_thread

Result = TypeVar("Result")

UNFORESEEN = "the server failed here; what happened is in its log"
_CAN_WAIT = 10  # by which the nice value of threads is raised whose work can wait
_log = logging.getLogger("talkingface.web")


class Cancelled(Exception):
    """Raised in a worker thread when its work was cancelled."""


@dataclass(frozen=True)
class Failure:
    """Error that ended a piece of work, as the client may see it."""

    error: Cancelled | ApiError


Work = Future[Result | Failure]  # it has no exception


def result(work: Work[Result]) -> Result:
    """Return the result of finished work. Raises ApiError, and Cancelled."""
    if work.cancelled():
        raise Cancelled
    given = work.result()
    if isinstance(given, Failure):
        raise given.error
    return given


class WorkerPool:
    """A thread pool with a bounded queue. Further work is rejected."""

    def __init__(
        self, name: str, workers: int, queue: int, minutes: float, can_wait: bool = False
    ) -> None:
        """Create the pool.

        name: its kind of work, for error texts. minutes: for one piece. can_wait: whether other
        work of the machine comes first.
        """
        self.name, self.minutes, self.capacity = name, minutes, workers + queue
        self.slots: set[Slot] = set()
        self.order = itertools.count()
        prepare = partial(_prepare_thread, can_wait)
        self.threads = ThreadPoolExecutor(workers, f"pool-{name}", initializer=prepare)

    @contextmanager
    def slot(self) -> Iterator[Slot]:
        """Create a slot, which counts from its start on; cancel its work at the end.

        Raises ApiError (429) when all slots are taken already.
        """
        self.check_capacity()
        slot = Slot(self)
        try:
            yield slot
        finally:
            slot.cancel()

    def check_capacity(self) -> None:
        """Raise ApiError (429) when all slots are taken."""
        if not self.has_place():
            raise ApiError(
                429,
                f"the server is busy: all places for {self.name} are taken; try again in a moment",
                RETRY_AFTER,
            )

    def has_place(self) -> bool:
        """Return whether a slot could start now."""
        return len(self.slots) < self.capacity

    def counts(self) -> tuple[int, int]:
        """Return the numbers of working and of waiting slots."""
        slots = list(self.slots)
        working = sum(slot.working for slot in slots)
        return working, len(slots) - working

    async def close(self) -> None:
        """Cancel all work and wait until it has ended."""
        for slot in list(self.slots):
            await slot.stop()
        self.threads.shutdown()


def _prepare_thread(can_wait: bool) -> None:
    """Limit torch and OpenCV to one thread, because busy workers block each other.

    can_wait: whether other threads get the processors first. It holds for the threads that this one
    starts, too. On Linux `nice` is of a thread, elsewhere of the process.
    """
    use_one_thread()
    if can_wait and sys.platform == "linux":
        os.nice(_CAN_WAIT)


def _run(work: Callable[[Slot], Result], slot: Slot) -> Result | Failure:
    """Return the result of the work, or its Failure without a traceback.

    A traceback would keep the open files and encoders alive until the next garbage collection.
    """
    try:
        slot.begin()
        return work(slot)
    except (Cancelled, ApiError) as error:
        error.__cause__ = error.__context__ = None
        return Failure(error.with_traceback(None))
    except Exception as error:  # noqa: BLE001 - whatever it is, the client gets one line
        if full := storage_error(error):
            return Failure(full)
        _log.exception("%s: failed", slot.pool.name)
        return Failure(ApiError(500, UNFORESEEN))
    finally:
        _release_memory()


def _release_memory() -> None:
    """Return freed memory to the system.

    glibc keeps the freed memory of each thread, so a busy server would grow without end. Does
    nothing without glibc.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


class Slot:
    """One piece of work. It takes a place of its pool from its start on: waiting, then working."""

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool
        self._stop = threading.Event()
        self.future: Work[Any] | None = None
        self.done, self.total, self._order = 0, 0, 0
        self._began, self._deadline = 0.0, math.inf

    def start(self, work: Callable[[Slot], Result]) -> Work[Result]:
        """Run `work` in a thread of the pool, with this slot as its argument.

        Raises ApiError (429) when all slots were taken meanwhile.
        """
        self.pool.check_capacity()
        self.pool.slots.add(self)
        self._order = next(self.pool.order)
        self.future = self.pool.threads.submit(_run, work, self)
        self.future.add_done_callback(lambda _: self.pool.slots.discard(self))
        return self.future

    @property
    def working(self) -> bool:
        """Return whether a thread is working on it."""
        return self.future is not None and self.future.running()

    @property
    def waiting(self) -> bool:
        """Return whether it is started but all threads are busy."""
        return self.future is not None and not self.future.running() and not self.future.done()

    @property
    def ahead(self) -> int:
        """Return how many slots wait before this one."""
        return sum(own.waiting and own._order < self._order for own in list(self.pool.slots))

    def cancel(self) -> None:
        """Cancel the work, without waiting for its end."""
        self._stop.set()
        if self.future is not None:
            self.future.cancel()

    async def stop(self) -> None:
        """Cancel the work and wait until it has ended."""
        self.cancel()
        await self.wait()

    async def wait(self, seconds: float | None = None) -> None:
        """Wait until the work has ended, for at most `seconds`."""
        if self.future is not None:
            await asyncio.wait([asyncio.wrap_future(self.future)], timeout=seconds)

    def begin(self) -> None:
        """Start the time limit of the work. For the worker thread."""
        self._deadline = time.monotonic() + 60 * self.pool.minutes

    def check(self) -> None:
        """Raise Cancelled if the work was cancelled, ApiError (503) if it takes too long.

        For the worker thread.
        """
        if self._stop.is_set():
            raise Cancelled
        if time.monotonic() > self._deadline:
            raise ApiError(
                503,
                f"the work took more than {self.pool.minutes:g} minutes, which is the most: send "
                "less at once",
            )

    def pause(self, seconds: float) -> None:
        """Wait; raise Cancelled as soon as the work is cancelled. For the worker thread."""
        if self._stop.wait(max(0.0, seconds)):
            raise Cancelled

    def report(self, done: int, total: int) -> None:
        """Record the progress in frames. For the worker thread. Raises Cancelled."""
        self.check()
        if self.done == 0:
            self._began = time.monotonic()
        self.done, self.total = done, total

    @property
    def seconds_left(self) -> float | None:
        """Estimate the seconds until the work ends; None while unknown."""
        if self.done < 2 or not self.total:
            return None
        each = (time.monotonic() - self._began) / (self.done - 1)
        return round(each * (self.total - self.done), 1)
