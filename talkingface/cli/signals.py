"""Signals that end a command: Ctrl-C, SIGTERM and SIGHUP unwind it, and nothing is left behind."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN = 2.0  # seconds in which a second signal does not disturb the first: terminals send two


class Stopped(BaseException):
    """A signal that ends the command; no handler of errors catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number  # of the process's end, as shells have it


@contextmanager
def stopping() -> Iterator[None]:
    """Raise Stopped in the main thread when a signal comes, with all worker processes ended.

    Signals that are ignored (`nohup`) stay so. The handlers before come back at the end.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone receives signals
        yield
        return
    last = -_AGAIN

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before >= _AGAIN:
            _end_workers()
            raise Stopped(number)

    before = {
        number: signal.signal(number, stop)
        for number in SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_workers() -> None:
    """Kill the processes of pools: leaving a pool waits until they have done their work."""
    multiprocessing = sys.modules.get("multiprocessing")
    for child in multiprocessing.active_children() if multiprocessing else ():
        child.kill()
