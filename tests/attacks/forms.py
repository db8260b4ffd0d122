"""Forms that never end, are none, or are left half-way."""

from __future__ import annotations

import random
import select
import socket
import time
from collections import Counter

from attacks.target import Target, form, head, status_of

_AFTER = 998_000_000  # bytes after the form's end
_CHUNK = 1 << 16


def after_the_end(target: Target, end: float) -> Counter[str]:
    """Send a good form in chunks, and then up to 998 MB after its end."""
    return target.repeat(end, lambda _: _go_on(target))


def _go_on(target: Target) -> str:
    chunk = b"%x\r\n%s\r\n" % (_CHUNK, bytes(_CHUNK))
    body = form()
    with target.connection() as own:
        own.sendall(head(None) + b"%x\r\n%s\r\n" % (len(body), body))
        for _ in range(_AFTER // _CHUNK):
            if select.select([own], [], [], 0)[0]:  # it has heard enough
                break
            own.sendall(chunk)
        else:
            return "taken"
        return status_of(own)


_FILE = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
_BROKEN = [
    b"nonsense",
    b"--b\r\n\r\n\r\n--b--",
    _FILE + b"12",
    b"--b\r\nContent-Disposition: " + b"x" * 9000 + b"\r\n\r\n",
    b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
    form({"image": b"1"}),
    form({"passwords": b"1"}),
    form({f"f{n}": b"" for n in range(30)}),
    form({"../../etc/passwd": b"1"}),
    form(end=b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + b"x" * 2000),
    form(end=b'--b\r\nContent-Disposition: form-data; name="colour"\r\n\r\nred\r\n--b--\r\n'),
    b"\0" * 100_000,
]


def broken(target: Target, end: float) -> Counter[str]:
    """Send forms that are none, or with parts that are not asked for."""
    boundaries = ("b", "b", "b" * 300, "", '"')

    def once(number: int) -> str:
        body = _BROKEN[number % len(_BROKEN)]
        path = ("/v1/generate", "/v1/jobs", "/v1/faces")[number % 3]
        with target.connection() as own:
            boundary = boundaries[number % len(boundaries)]
            own.sendall(head(len(body), path, boundary) + body)
            return status_of(own)

    return target.repeat(end, once)


def vanish(target: Target, end: float) -> Counter[str]:
    """Send part of a form, or all of it, and close before the answer, with or without a goodbye."""
    rng, body = random.Random(0), form()

    def once(number: int) -> str:
        sent = len(body) if number % 2 else rng.randrange(len(body))
        with target.connection() as own:
            own.sendall(head(len(body)) + body[:sent])
            time.sleep(rng.random())
            if number % 3 == 0:  # a reset
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
        return "left"

    return target.repeat(end, once)
