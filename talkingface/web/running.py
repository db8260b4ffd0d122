"""What every page of this package has in common: its headers, its static files, how it is run."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from talkingface.errors import BadRequest

if TYPE_CHECKING:
    import uvicorn

STATIC = Path(__file__).parent / "static"

MESSAGE = 1 << 20  # bytes of a WebSocket's message, at most
_UNREAD = 60_000  # milliseconds that a client may leave what was sent to it unread
_GRACE = 3  # seconds that requests have to end when the server is stopped

# Nothing is loaded from anywhere else, and nobody else may frame the page or call it.
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
    """Middleware: `HEADERS` on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, sending if scope["type"] == "http" else send)


def static_files() -> Mount:
    """The pages' scripts, styles and pictures, under /static."""
    return Mount("/static", StaticFiles(directory=STATIC), name="static")


def problem(status: int, text: str) -> JSONResponse:
    """An error as every interface here tells it: {"error": one line that says what to do}."""
    return JSONResponse({"error": text}, status_code=status)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, so that the address is known before anything is said (port 0: any free).

    Raises BadRequest when the address cannot be had.
    """
    try:
        listening = socket.create_server((host, port), family=_family(host), backlog=128)
    except OSError as error:
        raise BadRequest(
            f"{host}:{port} cannot be listened on ({error.strerror or error}): give another "
            "--port (0 finds a free one) or --host"
        ) from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # accepted sockets inherit it: who reads nothing goes
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD)
    return listening


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def server(app: Starlette) -> uvicorn.Server:
    """What answers, not yet running."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws_max_size=MESSAGE,
        ws_per_message_deflate=False,  # video and sound do not shrink
        timeout_graceful_shutdown=_GRACE,
    )
    return uvicorn.Server(config)


def run(app: Starlette, listening: Sequence[socket.socket]) -> None:
    """Answer on these sockets until interrupted."""
    server(app).run(sockets=list(listening))
