"""Requests that are odd, or too many."""

from __future__ import annotations

import threading
import time
from collections import Counter

from attacks.target import Target, form, head, status_of
from helpers.honest_clients import FILES

_FLOOD = 100  # requests at once


def nothing(target: Target, end: float) -> Counter[str]:
    """Wait: what honest clients get without an attack."""
    time.sleep(max(0.0, end - time.monotonic()))
    return Counter()


_GET = "GET {} HTTP/1.1\r\nHost: localhost\r\n{}\r\n"
_POST = "POST /v1/generate HTTP/1.1\r\nHost: {}\r\nContent-Length: 4\r\n{}\r\n1234"
_ODD = [
    _GET.format("/static/../serve.py", ""),
    _GET.format("/static/%2e%2e/%2e%2e/etc/passwd", ""),
    _GET.format("/v1/jobs/" + "9" * 5000, ""),
    _GET.format("/v1/jobs/x?wait=nan", ""),
    _GET.format("/v1/jobs/%00", ""),
    _GET.format("/" + "x" * 100_000, ""),
    _GET.format("/v1/health", "X: " + "y" * 100_000 + "\r\n").replace("GET", "PUT"),
    _POST.format("evil.example", ""),
    _POST.format("localhost", "Origin: http://evil.example\r\n"),
    _POST.format("localhost", "Origin: http://[\r\n"),
    _POST.format("localhost", "Origin: null\r\n"),
    _POST.format("localhost", "Content-Length: 5\r\n"),
    _POST.format("localhost", "Transfer-Encoding: chunked\r\n"),
    "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "\0\1\2\r\n\r\n",
    "GET / HTTP/9.9\r\n\r\n",
]


def odd(target: Target, end: float) -> Counter[str]:
    """Send requests that break HTTP's rules, or go where nothing is."""

    def once(number: int) -> str:
        with target.connection() as own:
            own.sendall(_ODD[number % len(_ODD)].encode("latin-1"))
            return status_of(own)

    return target.repeat(end, once)


def flood(target: Target, end: float) -> Counter[str]:
    """Send a hundred whole requests at once, again and again, from one address."""
    counts: Counter[str] = Counter()
    body = head(len(form())) + form()

    def one() -> None:
        try:
            with target.connection() as own:
                own.sendall(body)
                counts[status_of(own)] += 1
        except (ConnectionError, TimeoutError) as error:
            counts["closed" if isinstance(error, ConnectionError) else "no answer"] += 1

    while not counts or time.monotonic() < end:
        threads = [threading.Thread(target=one) for _ in range(_FLOOD)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(10 * target.pause)
    return counts


def forget(target: Target, end: float) -> Counter[str]:
    """Start jobs; forget every second one, and cancel the others while they work."""

    def once(number: int) -> str:
        with target.client() as client:
            answer = client.post("/v1/jobs", files=FILES, data={"lease": "1"})
            if number % 2 and answer.status_code == 202:
                time.sleep(0.1 * (number % 20))
                client.delete(answer.headers["location"])
            return str(answer.status_code)

    return target.repeat(end, once)
