"""Bounded queue between the event loop and a worker thread. A slow side blocks only its peer.

Not anyio's memory streams: their errors reach the thread in reference cycles, which keep the frames
of a cancelled video, and its files, until the next garbage collection.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from talkingface.web.errors import ApiError
from talkingface.web.worker_pool import Cancelled

Item = TypeVar("Item")


class BoundedQueue(Generic[Item]):
    """A bounded queue with one end in the event loop and the other in a thread."""

    def __init__(self, size: int, timeout: float) -> None:
        """Create a queue. size: most items. timeout: seconds that the thread waits."""
        self._loop = asyncio.get_running_loop()
        self._changed, self._moved = threading.Condition(), asyncio.Event()
        self._items: deque[tuple[float, Item]] = deque()  # with the times when they were added
        self.arrived = time.monotonic()  # when the item that the thread took last was added
        self._size, self._timeout = size, timeout
        self._closed = False

    def close(self) -> None:
        """Close the queue. From now on the thread's calls raise Cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def put(self, item: Item) -> None:
        """Add an item, from the thread. Raises Cancelled, ApiError (408: full for too long)."""
        with self._changed:
            self._wait(lambda: len(self._items) < self._size, "your side takes no more data")
            self._items.append((time.monotonic(), item))
        self._loop.call_soon_threadsafe(self._moved.set)

    def get(self) -> Item:
        """Wait for an item, in the thread. Raises Cancelled, ApiError (408: empty for too long)."""
        with self._changed:
            self._wait(lambda: bool(self._items), "no more data came from your side")
            self.arrived, item = self._items.popleft()
        self._loop.call_soon_threadsafe(self._moved.set)
        return item

    def get_waiting(self) -> list[Item]:
        """Return the items that are there already, from the thread, without waiting."""
        with self._changed:
            waiting = [item for _, item in self._items]
            if self._items:
                self.arrived, _ = self._items[-1]
            self._items.clear()
        self._loop.call_soon_threadsafe(self._moved.set)
        return waiting

    def get_within(self, seconds: float) -> Item | None:
        """Wait for an item, in the thread; None after `seconds` without one. Raises Cancelled."""
        with self._changed:
            in_time = self._changed.wait_for(lambda: self._closed or bool(self._items), seconds)
            if self._closed:
                raise Cancelled
            if not in_time:
                self.arrived = time.monotonic()
                return None
            self.arrived, item = self._items.popleft()
        self._loop.call_soon_threadsafe(self._moved.set)
        return item

    def _wait(self, ready: Callable[[], bool], problem: str) -> None:
        in_time = self._changed.wait_for(lambda: self._closed or ready(), self._timeout)
        if self._closed:
            raise Cancelled
        if not in_time:
            raise ApiError(408, f"{problem}, for {self._timeout:g} s")

    async def send(self, item: Item) -> None:
        """Add an item, from the event loop; wait while the queue is full."""
        while len(self._items) >= self._size and not self._closed:
            self._moved.clear()
            await self._moved.wait()
        with self._changed:
            self._items.append((time.monotonic(), item))
            self._changed.notify_all()

    async def receive(self) -> Item:
        """Wait for an item, in the event loop."""
        while not self._items:
            self._moved.clear()
            await self._moved.wait()
        with self._changed:
            _, item = self._items.popleft()
            self._changed.notify_all()
        return item
