"""Server of uvicorn that on SIGTERM first lets running work end, and takes no more."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from types import FrameType
from typing import Protocol

import uvicorn

_log = logging.getLogger("talkingface.web")


class Work(Protocol):
    """The work that a server has."""

    def drain(self) -> None:
        """Take no more from now on."""

    def unfinished(self) -> int:
        """Return how many pieces are not finished."""

    def jobs(self) -> int:
        """Return how many places for files are taken by jobs, whose requests have ended."""


class DrainingServer(uvicorn.Server):
    """On SIGTERM it ends when its work has ended, or after so many seconds.

    Until then it answers as before, so that clients can fetch what was made. A second signal, or
    another than SIGTERM, ends it at once.
    """

    def __init__(self, config: uvicorn.Config, work: Work | None, seconds: float) -> None:
        """work: None for a server that has none to wait for."""
        super().__init__(config)
        self._work, self._seconds = work, seconds
        self._deadline: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain on the first SIGTERM; end on all other signals."""
        if sig != signal.SIGTERM or self._work is None or self._deadline is not None:
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)  # uvicorn raises it again at the end
        self.drain()

    def drain(self) -> None:
        """Take no more work, and end when all has ended."""
        assert self._work is not None
        self._work.drain()
        self._deadline = time.monotonic() + self._seconds
        if left := self._work.unfinished():
            text = "stopping when %d videos are finished, at the latest in %g s"
            _log.warning(text, left, self._seconds)

    async def on_tick(self, counter: int) -> bool:
        """End when all is done. uvicorn calls it ten times a second."""
        if self._deadline is not None and self._work is not None:
            done = not self._work.unfinished()
            self.should_exit |= done or time.monotonic() >= self._deadline
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End all connections and the app.

        Those of WebSocket clients that are leaving end first: uvicorn would say goodbye to them,
        too, which is an error and ends all others at once.
        """
        for connection in list(self.server_state.connections):
            closing = connection.transport.is_closing()
            if closing and not getattr(connection, "close_sent", True):  # it is a WebSocket
                connection.transport.abort()
        await asyncio.sleep(0)  # now they are gone
        await super().shutdown(sockets)
