"""Check of Host and Origin: rejects pages of other sites and rebound host names."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from talkingface.web.server import error_response

_SAFE = {"GET", "HEAD", "OPTIONS"}


class OriginCheckMiddleware:
    """ASGI middleware: answers 421 for an unknown Host and 403 for requests of other sites' pages.

    A Host is known when it is an IP address, "localhost" or one of `names`. So a name that was
    rebound to this address is rejected. POST, DELETE and WebSocket requests may have no Origin.
    If they have one, it must be the same Host or one of `names`.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] = ()) -> None:
        """Wrap `app`. names: further host names of this server, for instance behind a proxy."""
        self._app = app
        self._names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on or reject it (ASGI)."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        violation = self._violation(scope)
        if violation is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await error_response(*violation)(scope, receive, send)
        else:
            await receive()  # the handshake; closing before it is accepted answers 403
            await send({"type": "websocket.close", "code": 1008, "reason": violation[1]})

    def _violation(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_own_host(_host_name(host)):
            return 421, (
                f"this server is not known as {host[:80]!r}: use its address, or start it with "
                "--allow-host NAME"
            )
        if scope["type"] == "http" and scope["method"] in _SAFE:
            return None
        origin = headers.get("origin")
        if origin is None:
            other = headers.get("sec-fetch-site") == "cross-site"
        else:
            site = _netloc(origin).lower()
            other = site != host.lower() and _host_name(site) not in self._names - {"localhost"}
        if not other:
            return None
        return 403, (
            f"a page of another site ({(origin or 'unknown')[:80]}) may not use this server: open "
            "its own page, or start it with --allow-host NAME"
        )

    def _is_own_host(self, name: str) -> bool:
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


def _netloc(origin: str) -> str:
    """Return host and port of an Origin, "" for one that cannot be read."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _host_name(host: str) -> str:
    """Return a Host without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
