"""Web server basics that all pages share: security headers, static files, sockets, running."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from talkingface.errors import BadRequest

if TYPE_CHECKING:
    import uvicorn

STATIC = Path(__file__).parent / "static"

MAX_MESSAGE = 1 << 20  # bytes of a WebSocket message, at most
_UNREAD_TIMEOUT = 60_000  # milliseconds that a client may leave what was sent to it unread
_SHUTDOWN_TIMEOUT = 3  # seconds that requests have to end when the server is stopped

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

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request (ASGI)."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def static_files() -> StaticFiles:
    """Return the app that serves the scripts, styles and pictures."""
    return StaticFiles(directory=STATIC)


def error_response(status: int, text: str) -> JSONResponse:
    """Return an error response: {"error": one line that says what to do}."""
    return JSONResponse({"error": text}, status_code=status)


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
        listening = socket.create_server((host, port), family=_family(host), backlog=128)
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


def make_server(app: Starlette) -> uvicorn.Server:
    """Return the server, not yet running."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws_max_size=MAX_MESSAGE,
        ws_per_message_deflate=False,  # video and sound do not shrink
        timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT,
    )
    return uvicorn.Server(config)


def run(app: Starlette, listening: Sequence[socket.socket]) -> None:
    """Serve on these sockets until interrupted."""
    make_server(app).run(sockets=list(listening))
