"""Worker threads: a bounded number of them with a bounded queue."""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from talkingface.web.limits import ApiError

Result = TypeVar("Result")

RETRY_AFTER = 10  # seconds
_log = logging.getLogger("talkingface.web")


class Cancelled(Exception):
    """Raised in a worker thread when its work was cancelled."""


@dataclass(frozen=True)
class Failure:
    """Expected error that ended a piece of work."""

    error: Cancelled | ApiError


Work = Future[Result | Failure]  # its exception, if it has one, is an unexpected error


class WorkerPool:
    """A thread pool with a bounded queue. Further work is rejected."""

    def __init__(self, name: str, workers: int, queue: int) -> None:
        """Create the pool. name: its kind of work, for error texts."""
        self.name, self._capacity = name, workers + queue
        self._lock = threading.Lock()
        self._slots: list[Slot] = []  # started ones first, in the order of their start
        self._threads = ThreadPoolExecutor(workers, f"pool-{name}", initializer=_use_one_thread)

    def reserve(self) -> Slot:
        """Reserve a slot. Raises ApiError (429) when all are taken."""
        with self._lock:
            if len(self._slots) >= self._capacity:
                raise ApiError(
                    429,
                    f"the server is busy: all {self._capacity} places for {self.name} are taken; "
                    "try again in a moment",
                    RETRY_AFTER,
                )
            slot = Slot(self)
            self._slots.append(slot)
            return slot

    def counts(self) -> tuple[int, int]:
        """Return the numbers of working and of waiting slots."""
        with self._lock:
            working = sum(slot.working for slot in self._slots)
            return working, len(self._slots) - working

    def ahead(self, slot: Slot) -> int:
        """Return how many slots wait before this one."""
        with self._lock:
            if slot not in self._slots:
                return 0
            before = self._slots[: self._slots.index(slot)]
            return sum(other.waiting for other in before)

    def close(self) -> None:
        """Cancel all work and wait until it has ended."""
        with self._lock:
            slots = list(self._slots)
        for slot in slots:
            slot.cancel()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _submit(self, slot: Slot, work: Callable[[], Any]) -> Future[Any]:
        with self._lock:
            if slot in self._slots:  # move it behind the slots that started before
                self._slots.remove(slot)
                started = sum(other.future is not None for other in self._slots)
                self._slots.insert(started, slot)
        return self._threads.submit(work)

    def _release(self, slot: Slot) -> None:
        with self._lock:
            if slot in self._slots:
                self._slots.remove(slot)


def _use_one_thread() -> None:
    """Limit torch and OpenCV to one thread, because busy workers block each other."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _run(work: Callable[[Slot], Result], slot: Slot) -> Result | Failure:
    """Return the result of the work, or its Failure without a traceback.

    A traceback would keep the open files and encoders alive until the next garbage collection.
    """
    try:
        return work(slot)
    except (Cancelled, ApiError) as error:
        error.__cause__ = error.__context__ = None
        return Failure(error.with_traceback(None))
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
    """One piece of work. It is reserved during the upload, then waiting, then working."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._stop = threading.Event()
        self.future: Work[Any] | None = None
        self.done, self.total = 0, 0
        self._began = 0.0

    def start(self, work: Callable[[Slot], Result]) -> Work[Result]:
        """Run `work` in a thread of the pool, with this slot as its argument."""
        future = self._pool._submit(self, lambda: _run(work, self))
        self.future = future
        future.add_done_callback(self._on_end)
        return future

    def _on_end(self, future: Work[Any]) -> None:
        self._pool._release(self)
        error = None if future.cancelled() else future.exception()
        if error is not None:
            _log.error("%s: failed", self._pool.name, exc_info=error)

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
        return self._pool.ahead(self)

    def cancel(self) -> None:
        """Cancel the work, without waiting for its end."""
        self._stop.set()
        if self.future is None:
            self._pool._release(self)
        else:
            self.future.cancel()

    def check(self) -> None:
        """Raise Cancelled if the work was cancelled. For the worker thread."""
        if self._stop.is_set():
            raise Cancelled

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

    def __enter__(self) -> Slot:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()
