"""One of several processes of `talkingface serve`, which gets its connections from the dispatcher.

A channel, a Unix socket of whole messages, joins the two. The dispatcher sends connections, each
with its kind, and DRAIN; it closes the channel to end this process. This process sends its state as
JSON: its places once, or an error; then what is taken, at every change and once a second.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from talkingface.errors import TalkingFaceError
from talkingface.web.draining import DrainingServer, Work

if TYPE_CHECKING:
    import uvicorn

DRAIN = b"drain"
FILE, LIVE, OTHER = "file", "live", "other"  # kinds of connections, by their request
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LARGEST_MESSAGE = 4096  # bytes
_LOOK = 0.02  # seconds between two looks at what has changed
_ALIVE = 1.0  # seconds between two messages, at most


@dataclass(frozen=True)
class WorkerOptions:
    """Options of every worker process.

    limits: values of `Limits` that are not the default, for all processes together. names, proxies:
    see `serve.app` and `server.make_server`. workers: number of processes.
    """

    models: Sequence[str]
    limits: dict[str, Any]
    temp: Path | None
    names: Sequence[str]
    proxies: Sequence[str]
    workers: int


def main(number: int, channel: socket.socket, options: WorkerOptions, metrics: Path) -> None:
    """Run worker process `number`, from 0, until the dispatcher ends it.

    metrics: folder in which all processes leave their metrics for each other.
    """
    # A terminal and systemd signal all processes: the dispatcher alone decides.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)  # read when metrics are imported
    from talkingface.web.limits import Limits
    from talkingface.web.serve import app
    from talkingface.web.server import run
    from talkingface.web.service import Service

    try:
        whole = Limits(**options.limits)
        own = whole.share(number, options.workers)
        service = Service(options.models, own, options.temp, whole, number)
    except TalkingFaceError as error:
        _send(channel, {"error": str(error)})
        return
    places = {LIVE: own.streams, FILE: own.jobs + own.queue}
    _send(channel, {"places": places, "idle": own.idle_seconds, "connections": whole.connections})
    run(
        app(service, options.names),
        (),
        own.idle_seconds,
        own.connections,
        options.proxies,
        own.drain_seconds,
        partial(WorkerServer, channel=channel),
    )


class WorkerServer(DrainingServer):
    """Server whose connections come by a channel instead of a listening socket."""

    def __init__(
        self, config: uvicorn.Config, work: Work | None, seconds: float, channel: socket.socket
    ) -> None:
        super().__init__(config, work, seconds)
        channel.setblocking(False)
        self._channel = channel
        self._open: list[tuple[asyncio.BaseTransport, str]] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._received, self._reported, self._when = 0, {"received": -1}, 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and take connections from now on."""
        await super().startup(sockets)
        asyncio.get_running_loop().add_reader(self._channel, self._receive)
        self._looking = asyncio.create_task(self._look())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, and end."""
        asyncio.get_running_loop().remove_reader(self._channel)
        self._looking.cancel()
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        await super().shutdown(sockets)

    def _receive(self) -> None:
        """Take a message of the dispatcher."""
        try:
            message, files, _, _ = socket.recv_fds(self._channel, _LARGEST_MESSAGE, 1)
        except BlockingIOError:
            return
        except OSError:
            message, files = b"", []
        if files:
            task = asyncio.create_task(self._connect(socket.socket(fileno=files[0]), message))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
        elif message == DRAIN:
            self.drain()
        else:  # closed
            asyncio.get_running_loop().remove_reader(self._channel)
            self.should_exit = True

    async def _connect(self, connection: socket.socket, kind: bytes) -> None:
        """Serve a connection. uvicorn does the same with those that it accepts itself."""
        connection.setblocking(False)
        protocol: Any = partial(
            cast("Any", self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        loop = asyncio.get_running_loop()
        with suppress(OSError):  # the client has gone
            transport, _ = await loop.connect_accepted_socket(protocol, connection)
            self._open.append((transport, kind.decode()))
        self._received += 1

    async def _look(self) -> None:
        """Report what has changed, in an endless loop."""
        while True:
            self._open = [own for own in self._open if not own[0].is_closing()]
            load = self._load()
            now = time.monotonic()
            if (load != self._reported or now - self._when >= _ALIVE) and _send(
                self._channel, load
            ):
                self._reported, self._when = load, now
            await asyncio.sleep(_LOOK)

    def _load(self) -> dict[str, int]:
        """Return the connections received so far, and the places taken by kind."""
        kinds = Counter(kind for _, kind in self._open)
        jobs = self._work.jobs() if self._work else 0
        return {"received": self._received, LIVE: kinds[LIVE], FILE: kinds[FILE] + jobs}


def _send(channel: socket.socket, message: dict[str, Any]) -> bool:
    """Send a message; return False if the dispatcher takes none now, or has ended."""
    with suppress(OSError):
        channel.send(json.dumps(message).encode())
        return True
    return False
