"""Signals that end a command: Ctrl-C, SIGTERM and SIGHUP unwind it, and nothing is left behind."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from talkingface.signals import handled

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN = 2.0  # seconds in which a second signal does not disturb the first: terminals send two
_MOMENT = 2.0  # seconds that worker processes have to end


class Stopped(BaseException):
    """A signal that ends the command; no handler of errors catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number  # of the process's end, as shells have it


@contextmanager
def stopping() -> Iterator[None]:
    """Raise Stopped when a signal comes, with all worker processes ended; see `handled`."""
    last = -_AGAIN

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before >= _AGAIN:
            _end_workers()
            raise Stopped(number)

    with handled(SIGNALS, stop):
        yield


def _end_workers() -> None:
    """End the processes of pools: leaving a pool waits until they have done their work.

    They have a moment to remove their temporary files.
    """
    multiprocessing = sys.modules.get("multiprocessing")
    children = multiprocessing.active_children() if multiprocessing else []
    for child in children:
        child.terminate()
    until = time.monotonic() + _MOMENT
    for child in children:
        child.join(max(0.0, until - time.monotonic()))
        child.kill()
