"""Between the event loop and a working thread: bounded, so that who is slow waits alone."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from talkingface.web.lanes import Cancelled
from talkingface.web.limits import Refused

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """A bounded queue with one end in the event loop and the other in a thread."""

    def __init__(self, room: int, patience: float) -> None:
        """room: items; patience: seconds that the thread waits for the other side."""
        self._loop = asyncio.get_running_loop()
        self._changed, self._moved = threading.Condition(), asyncio.Event()
        self._items: deque[Item] = deque()
        self._room, self._patience = room, patience
        self._closed = False

    def close(self) -> None:
        """Nobody wants the items any more: the thread's calls raise Cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def put(self, item: Item) -> None:
        """From the thread; waits for room. Raises Cancelled, Refused (408: nobody takes them)."""
        with self._changed:
            self._wait(lambda: len(self._items) < self._room, "your side takes no more data")
            self._items.append(item)
        self._loop.call_soon_threadsafe(self._moved.set)

    def get(self) -> Item:
        """In the thread; waits for an item. Raises Cancelled, Refused (408: none comes)."""
        with self._changed:
            self._wait(lambda: bool(self._items), "no more data came from your side")
            item = self._items.popleft()
        self._loop.call_soon_threadsafe(self._moved.set)
        return item

    def get_within(self, seconds: float) -> Item | None:
        """In the thread; wait so long for an item. Return None when none comes; raise Cancelled."""
        with self._changed:
            in_time = self._changed.wait_for(lambda: self._closed or bool(self._items), seconds)
            if self._closed:
                raise Cancelled
            if not in_time:
                return None
            item = self._items.popleft()
        self._loop.call_soon_threadsafe(self._moved.set)
        return item

    def _wait(self, ready: Callable[[], bool], trouble: str) -> None:
        in_time = self._changed.wait_for(lambda: self._closed or ready(), self._patience)
        if self._closed:
            raise Cancelled
        if not in_time:
            raise Refused(408, f"{trouble}, for {self._patience:g} s")

    async def send(self, item: Item) -> None:
        """From the event loop; waits for room."""
        while len(self._items) >= self._room and not self._closed:
            self._moved.clear()
            await self._moved.wait()
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    async def receive(self) -> Item:
        """In the event loop; waits for an item."""
        while not self._items:
            self._moved.clear()
            await self._moved.wait()
        with self._changed:
            item = self._items.popleft()
            self._changed.notify_all()
        return item
