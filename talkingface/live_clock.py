"""Live face in asyncio: 25 frames per second of real time, made in a thread of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from talkingface.audio import FPS
from talkingface.errors import BadRequest
from talkingface.live_face import LiveFace, LiveFrame, LiveStatistics
from talkingface.live_sound import Sound

Result = TypeVar("Result")

LEAD = 2  # frames that come before their time, so that the next stage never runs out
ROOM = 10.0  # seconds of sound that wait before `push` does
LATE = 0.5  # seconds: a clock that is so far behind starts anew
SKIPPED = 4  # frames in a row that keep the picture before, at most, where drawing takes too long


class LiveClock:
    """Paces a `LiveFace`: `async for frame in clock` gives its frames in real time."""

    def __init__(self, face: LiveFace, *, real_time: bool = True) -> None:
        """real_time: False gives frames as fast as they can be made; the reader sets the pace."""
        self.face = face
        self._real_time = real_time
        threads = max(1, torch.get_num_threads() - 1)
        self._worker = ThreadPoolExecutor(1, "live", torch.set_num_threads, (threads,))
        self._interruptions, self._skipped, self._closed = 0, 0, False
        self._room = asyncio.Event()

    async def push(self, samples: Sound, rate: int | None = None) -> bool:
        """Push sound as `LiveFace.push` does; wait while more than 10 s of sound wait.

        Returns False if the sound was dropped, by an interruption in the meantime or by `close`.
        Raises BadRequest.
        """
        begun = self._interruptions
        while self.face.waiting > ROOM and begun == self._interruptions and not self._closed:
            self._room.clear()
            await self._room.wait()
        if begun != self._interruptions or self._closed:
            return False
        await self._call(lambda: self.face.push(samples, rate))
        return True

    async def end_of_utterance(self) -> bool:
        """End the present utterance. Returns False if there is none that frames are to come of."""
        await self._call(self.face.end_of_utterance)
        return self.face.speaking

    async def interrupt(self) -> None:
        """Drop all sound that waits, and pushes that wait. See `LiveFace.interrupt`."""
        self._interruptions += 1
        self._room.set()
        await self._call(self.face.interrupt)

    def statistics(self) -> LiveStatistics:
        """Return the statistics of the face so far."""
        return self.face.statistics()

    async def __aiter__(self) -> AsyncIterator[LiveFrame]:
        """Yield frames until `close`. A late frame keeps the picture before; its sound is whole."""
        loop = asyncio.get_running_loop()
        due = loop.time() - LEAD / FPS
        while not self._closed:
            late = loop.time() - due
            if late > LATE:
                due, late = loop.time(), 0.0
            frame = await self._call(self._reader(late))
            self._room.set()
            if self._real_time and (left := due - loop.time()) > 0:
                await asyncio.sleep(left)
            due += 1 / FPS
            yield frame

    def _reader(self, late: float) -> Callable[[], LiveFrame]:
        """Return the call that makes the next frame."""
        behind = self._real_time and late > (LEAD + 1) / FPS
        self._skipped = self._skipped + 1 if behind and self._skipped < SKIPPED else 0
        draw = self._skipped == 0

        def read() -> LiveFrame:
            frame = self.face.read(draw=draw)
            assert frame is not None
            return frame

        return read

    async def close(self) -> None:
        """Stop. Pushes that wait return."""
        self._closed = True
        self._room.set()
        await asyncio.get_running_loop().run_in_executor(None, self._worker.shutdown)

    async def _call(self, work: Callable[[], Result]) -> Result:
        """Run in the face's own thread. Raises BadRequest after `close`."""
        if self._closed:
            raise BadRequest("this live face is closed: open another one")
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)
