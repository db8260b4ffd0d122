"""Who works at once and who waits: a bounded number of threads, a bounded queue before them."""

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

from talkingface.web.limits import Refused

Result = TypeVar("Result")

RETRY_AFTER = 10  # seconds
_log = logging.getLogger("talkingface.web")


class Cancelled(Exception):
    """The work is not wanted any more."""


@dataclass(frozen=True)
class Ended:
    """Why a piece of work gave nothing."""

    error: Cancelled | Refused


Work = Future[Result | Ended]  # its exception, if there is one, is what nobody foresaw


class Lane:
    """So many pieces of work at once, so many waiting; who comes then is refused."""

    def __init__(self, name: str, workers: int, queue: int) -> None:
        """name: what is worked on, for refusals."""
        self.name, self._room = name, workers + queue
        self._lock = threading.Lock()
        self._places: list[Place] = []  # in the order of their start, the unstarted last
        self._pool = ThreadPoolExecutor(workers, f"lane-{name}", initializer=_one_thread)

    def place(self) -> Place:
        """A place among those that work or wait. Raises Refused (429) when all are taken."""
        with self._lock:
            if len(self._places) >= self._room:
                raise Refused(
                    429,
                    f"the server is busy: all {self._room} places for {self.name} are taken; try "
                    "again in a moment",
                    RETRY_AFTER,
                )
            place = Place(self)
            self._places.append(place)
            return place

    def counts(self) -> tuple[int, int]:
        """(working, waiting)."""
        with self._lock:
            working = sum(place.working for place in self._places)
            return working, len(self._places) - working

    def ahead(self, place: Place) -> int:
        """How many wait before this one."""
        with self._lock:
            if place not in self._places:
                return 0
            before = self._places[: self._places.index(place)]
            return sum(other.waiting for other in before)

    def close(self) -> None:
        """Cancel everything and wait until it has ended."""
        with self._lock:
            places = list(self._places)
        for place in places:
            place.leave()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, place: Place, work: Callable[[], Any]) -> Future[Any]:
        with self._lock:
            if place in self._places:  # it starts now: behind those that started before
                self._places.remove(place)
                started = sum(other.future is not None for other in self._places)
                self._places.insert(started, place)
        return self._pool.submit(work)

    def _free(self, place: Place) -> None:
        with self._lock:
            if place in self._places:
                self._places.remove(place)


def _one_thread() -> None:
    """Two threads of torch beside any other busy one wait for each other most of the time."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _ended_well_or_not(work: Callable[[Place], Result], place: Place) -> Result | Ended:
    """What the work gives, or why it ended, stripped of where that was raised.

    A trace would keep everything that the work had open (files, encoders) until Python happens to
    look for cycles.
    """
    try:
        return work(place)
    except (Cancelled, Refused) as error:
        error.__cause__ = error.__context__ = None
        return Ended(error.with_traceback(None))
    finally:
        _give_memory_back()


def _give_memory_back() -> None:
    """What threads have freed, glibc keeps for each of them: a busy server would only ever grow.

    Elsewhere than under glibc nothing happens.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


class Place:
    """One piece of work: first reserved (while an upload comes), then waiting, then working."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._stop = threading.Event()
        self.future: Work[Any] | None = None
        self.done, self.total = 0, 0
        self._began = 0.0

    def start(self, work: Callable[[Place], Result]) -> Work[Result]:
        """Have `work` done in a thread of the lane; it is given this place."""
        future = self._lane._submit(self, lambda: _ended_well_or_not(work, self))
        self.future = future
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: Work[Any]) -> None:
        self._lane._free(self)
        error = None if future.cancelled() else future.exception()
        if error is not None:
            _log.error("%s: failed", self._lane.name, exc_info=error)

    @property
    def working(self) -> bool:
        """A thread is at it."""
        return self.future is not None and self.future.running()

    @property
    def waiting(self) -> bool:
        """Started, but every thread is busy with others."""
        return self.future is not None and not self.future.running() and not self.future.done()

    @property
    def ahead(self) -> int:
        """How many wait before it."""
        return self._lane.ahead(self)

    def leave(self) -> None:
        """The work is not wanted any more; that it has ended is not waited for."""
        self._stop.set()
        if self.future is None:
            self._lane._free(self)
        else:
            self.future.cancel()

    def check(self) -> None:
        """For the working thread: raises Cancelled once the work is not wanted any more."""
        if self._stop.is_set():
            raise Cancelled

    def pause(self, seconds: float) -> None:
        """For the working thread: wait; raises Cancelled, also while waiting."""
        if self._stop.wait(max(0.0, seconds)):
            raise Cancelled

    def report(self, done: int, total: int) -> None:
        """For the working thread: how far it is, in frames; raises Cancelled."""
        self.check()
        if self.done == 0:
            self._began = time.monotonic()
        self.done, self.total = done, total

    @property
    def seconds_left(self) -> float | None:
        """Until its work ends, as it went so far; None while nobody can tell."""
        if self.done < 2 or not self.total:
            return None
        each = (time.monotonic() - self._began) / (self.done - 1)
        return round(each * (self.total - self.done), 1)

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()
