"""The server that is attacked, and what most attacks need: forms, raw connections, pauses."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from helpers.honest_clients import FILES, from_address

ATTACKER = "192.0.2.66"
TIMEOUT = 300.0  # seconds for an answer


@dataclass(frozen=True)
class Target:
    """A server. temp: its folder for temporary files. pause: seconds between two tries."""

    url: str
    temp: Path
    pause: float = 0.2

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def client(self, address: str = ATTACKER) -> httpx.Client:
        """Return a client of an address."""
        return httpx.Client(base_url=self.url, timeout=TIMEOUT, headers=from_address(address))

    def repeat(self, end: float, once: Callable[[int], str]) -> Counter[str]:
        """Count the outcomes of once(0), once(1), ... until a time, with pauses; at least one."""
        counts: Counter[str] = Counter()
        while not counts or time.monotonic() < end:
            try:
                counts[once(counts.total())] += 1
            except (httpx.RemoteProtocolError, httpx.NetworkError, ConnectionError):
                counts["closed"] += 1
            except (httpx.TimeoutException, TimeoutError):
                counts["no answer"] += 1
            time.sleep(self.pause)
        return counts

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        """Open a raw connection for the block."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT) as own:
            yield own


def head(
    length: int | None,
    path: str = "/v1/generate",
    boundary: str = "b",
    address: str = ATTACKER,
) -> bytes:
    """Return the head of a form. length: of its body; None for a body in chunks."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: {address}\r\n{size}\r\n"
        f"Content-Type: multipart/form-data; boundary={boundary}\r\n\r\n"
    ).encode()


def form(files: Mapping[str, bytes] | None = None, end: bytes = b"--b--\r\n") -> bytes:
    """Return a form with files; without any, a good one."""
    given = {name: content for name, (_, content) in FILES.items()} if files is None else files
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in given.items()
    ]
    return b"".join(parts) + end


def status_of(own: socket.socket) -> str:
    """Return the status of the answer that comes, "closed" when none does."""
    received = b""
    while b"\r\n" not in received:
        data = own.recv(4000)
        if not data:
            return "closed"
        received += data
    return received.split()[1].decode()
