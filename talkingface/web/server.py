"""Web server basics that all pages share: security headers, static files, sockets, running."""

from __future__ import annotations

import logging
import resource
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from talkingface.errors import BadRequest
from talkingface.signals import handled
from talkingface.web.draining import DrainingServer, Work
from talkingface.web.errors import ApiError

if TYPE_CHECKING:
    import uvicorn

STATIC = Path(__file__).parent / "static"

MAX_MESSAGE = 1 << 20  # bytes of a WebSocket message, at most
_UNREAD_TIMEOUT = 60_000  # milliseconds that a client may leave what was sent to it unread
_SHUTDOWN_TIMEOUT = 3  # seconds that requests have to end when the server is stopped
_BACKLOG = 128  # connections that wait to be accepted
_SPARE_FILES = 100  # open files beside those of connections
IDLE_SECONDS, CONNECTIONS = 10.0, 1000  # see Limits

# Pages load nothing from other sites. Other sites may neither frame nor call them.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Permissions-Policy": "camera=(self), microphone=(self), geolocation=()",
}


class SafeHeaders:
    """ASGI middleware that adds `HEADERS` to every response."""

    def __init__(self, app: ASGIApp, one_request: bool = False) -> None:
        """Wrap `app`. one_request: each connection ends after its first response."""
        self._app = app
        self._headers = HEADERS | ({"Connection": "close"} if one_request else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request (ASGI)."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def static_files() -> StaticFiles:
    """Return the app that serves the scripts, styles and pictures."""
    return StaticFiles(directory=STATIC)


def error_response(status: int, text: str) -> JSONResponse:
    """Return an error response: {"error": one line that says what to do}."""
    return JSONResponse({"error": text}, status_code=status)


def api_error_response(error: ApiError) -> JSONResponse:
    """Return the response of an ApiError."""
    answer = error_response(error.status, error.text)
    if error.retry_after is not None:
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer


def error_handler(status: int, text: str = "") -> Callable[[Request, Exception], Any]:
    """Return an exception handler that answers with `text`, or else with the error's own text."""

    async def handle(_: Request, error: Exception) -> JSONResponse:
        return error_response(status, text or str(error))

    return handle


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket, so that its address is known before the server runs.

    Port 0 takes any free one. Raises BadRequest when the address is not available.
    """
    try:
        listening = socket.create_server((host, port), family=_family(host), backlog=_BACKLOG)
    except OSError as error:
        raise BadRequest(
            f"{host}:{port} cannot be listened on ({error.strerror or error}): give another "
            "--port (0 finds a free one) or --host"
        ) from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # accepted sockets inherit it; drops stalled clients
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_TIMEOUT)
    return listening


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def make_server(
    app: Starlette,
    idle_seconds: float = IDLE_SECONDS,
    connections: int = CONNECTIONS,
    proxies: Collection[str] = (),
    drain_seconds: float = 0.0,
    kind: Callable[[uvicorn.Config, Work | None, float], DrainingServer] = DrainingServer,
) -> DrainingServer:
    """Return the server, not yet running.

    idle_seconds: time of a connection without a request. connections: most at once. proxies:
    addresses or networks whose header X-Forwarded-For names the client. drain_seconds: time that
    the work of `app.state.work` has to end after SIGTERM. kind: of server.
    """
    import uvicorn

    logging.getLogger("asyncio").addFilter(_accept_errors)
    logging.getLogger("uvicorn.error").addFilter(_is_of_server)
    config = uvicorn.Config(
        app,
        log_level="error",  # anybody can cause warnings
        limit_concurrency=connections,
        backlog=_BACKLOG,
        timeout_notify=0,  # every second
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        access_log=False,
        server_header=False,
        ws_max_size=MAX_MESSAGE,
        ws_per_message_deflate=False,  # video and sound do not shrink
        ws_ping_timeout=None,  # the answer may wait behind sound; see TCP_USER_TIMEOUT
        timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT,
    )
    server = kind(config, getattr(app.state, "work", None), drain_seconds)
    sweep = ConnectionSweep(server.server_state.connections, idle_seconds, connections)
    config.callback_notify = sweep.run
    return server


def run(
    app: Starlette,
    listening: Sequence[socket.socket],
    idle_seconds: float = IDLE_SECONDS,
    connections: int = CONNECTIONS,
    proxies: Collection[str] = (),
    drain_seconds: float = 0.0,
    kind: Callable[[uvicorn.Config, Work | None, float], DrainingServer] = DrainingServer,
) -> None:
    """Serve on these sockets until interrupted; see `make_server`."""
    most = min(connections, most_connections())
    server = make_server(app, idle_seconds, most, proxies, drain_seconds, kind)
    with _ended_by_hangup(server):
        server.run(sockets=list(listening))


@contextmanager
def _ended_by_hangup(server: uvicorn.Server) -> Iterator[None]:
    """End the server on SIGHUP as on SIGTERM, which uvicorn knows: requests end, files go.

    Then the signal comes again, for the handler before. An ignored one (`nohup`) stays so.
    """
    got: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        got.append(number)
        server.should_exit = True

    with handled((signal.SIGHUP,), end):
        yield
    for number in got[:1]:
        signal.raise_signal(number)


def most_connections() -> int:
    """Raise the limit of open files as far as allowed; return how many connections it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS
    return max(soft // 2, soft - _SPARE_FILES)


def idle_time(count: int, seconds: float, most: int) -> float:
    """Return the seconds that a connection may wait: 1 s while there are more than half of `most`.

    count: connections that there are. seconds: while there are less.
    """
    return seconds if count < most / 2 else min(1.0, seconds)


class ConnectionSweep:
    """Closing of connections that send no whole request: uvicorn has no limit before the first."""

    def __init__(self, connections: Collection[Any], seconds: float, most: int) -> None:
        """connections: of uvicorn's server. seconds: time for a request; 1 s while many wait."""
        self._connections, self._seconds, self._most = connections, seconds, most
        self._idle: WeakKeyDictionary[Any, float] = WeakKeyDictionary()  # -> since when

    async def run(self) -> None:
        """Close what was idle for too long. Called every second."""
        now, open_ = time.monotonic(), list(self._connections)
        seconds = idle_time(len(open_), self._seconds, self._most)
        for connection in open_:
            if not _is_idle(connection):
                self._idle.pop(connection, None)
            elif now - self._idle.setdefault(connection, now) >= seconds:
                connection.transport.close()


def _is_idle(connection: Any) -> bool:
    """Return whether no request of a connection is being answered."""
    if hasattr(connection, "cycle"):
        return connection.cycle is None or bool(connection.cycle.response_complete)
    return not getattr(connection, "handshake_initiated", True)  # a WebSocket


class _AcceptErrors(logging.Filter):
    """Filter of asyncio's errors when no file can be opened: one line a minute, not thousands."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.getMessage().startswith("socket.accept() out of system resource"):
            return True
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + 60
        record.msg = "no more connections can be accepted: too many files are open"
        record.args, record.exc_info = None, None
        return True


_accept_errors = _AcceptErrors()


def _is_of_server(record: logging.LogRecord) -> bool:
    """Return False for the error of an answer to a request that broke HTTP's rules in its body.

    uvicorn has already answered 400 by itself.
    """
    import h11

    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, h11.LocalProtocolError)
