"""Who may ask at all: pages of other sites may not, nor names that lead here by a trick."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from talkingface.web.running import problem

_SAFE = {"GET", "HEAD", "OPTIONS"}


class Guard:
    """Middleware: 421 for a Host that is not ours, 403 for what another site's page sends.

    A Host is ours when it is an address (a name that was rebound to us is none), "localhost", or
    among `names`. What changes something or costs work (POST, DELETE, WebSocket) must, if it has an
    Origin at all, come from a page of that same Host, or of one of `names`.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] = ()) -> None:
        """names: host names by which this server is reached, behind a proxy for instance."""
        self._app = app
        self._names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        trouble = self._trouble(scope)
        if trouble is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await problem(*trouble)(scope, receive, send)
        else:
            await receive()  # the handshake; closing before it is accepted answers 403
            await send({"type": "websocket.close", "code": 1008, "reason": trouble[1]})

    def _trouble(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._ours(_name(host)):
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
            place = urlsplit(origin).netloc.lower()
            other = place != host.lower() and _name(place) not in self._names - {"localhost"}
        if not other:
            return None
        return 403, (
            f"a page of another site ({(origin or 'unknown')[:80]}) may not use this server: open "
            "its own page, or start it with --allow-host NAME"
        )

    def _ours(self, name: str) -> bool:
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


def _name(host: str) -> str:
    """A Host without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
