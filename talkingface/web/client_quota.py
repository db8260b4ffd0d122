"""Quotas: simultaneous requests and events of a client, bytes of all uploads."""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.requests import HTTPConnection

from talkingface.web.errors import RETRY_AFTER, ApiError


class Quota:
    """Bounded number of simultaneous holders per key. For the event loop."""

    def __init__(self, most: int, error: str) -> None:
        """Create a quota of `most` holders per key. error: text of its ApiError."""
        self._most, self._error = most, error
        self._held: Counter[str] = Counter()

    @contextmanager
    def hold(self, key: str | None) -> Iterator[None]:
        """Count one more holder during the block; none for None. Raises ApiError (429)."""
        if key is None:
            yield
            return
        if self._held[key] >= self._most:
            raise ApiError(429, self._error, RETRY_AFTER)
        self._held[key] += 1
        try:
            yield
        finally:
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]


class ByteBudget:
    """Bounded number of bytes of all uploads that are not complete. For the event loop."""

    def __init__(self, most: int) -> None:
        """Create a budget of `most` bytes."""
        self.spent, self._most = 0, most

    @contextmanager
    def upload(self) -> Iterator[Callable[[int], None]]:
        """Yield a function to call with each number of received bytes; free them at the end.

        The function raises ApiError (429).
        """
        own = 0

        def spend(count: int) -> None:
            nonlocal own
            if self.spent + count > self._most:
                text = "the server receives too many files just now: try again in a moment"
                raise ApiError(429, text, RETRY_AFTER)
            own += count
            self.spent += count

        try:
            yield spend
        finally:
            self.spent -= own


class Rate:
    """Bounded number of events per key in a period. For the event loop."""

    def __init__(
        self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Allow `most` events per key in `seconds`."""
        self._most, self._seconds, self._clock = most, seconds, clock
        self._counts: Counter[str] = Counter()
        self._end = clock() + seconds

    def take(self, key: str | None) -> bool:
        """Count one more event; return False when there were too many. None has no bound."""
        if self._clock() >= self._end:
            self._counts.clear()
            self._end = self._clock() + self._seconds
        if key is None:
            return True
        self._counts[key] += 1
        return self._counts[key] <= self._most


def client_key(connection: HTTPConnection) -> str | None:
    """Return the client's address, of IPv6 the network (/64); None for this machine itself.

    Programs of this machine are not limited, and a proxy on it of which the server does not know
    speaks for many clients.
    """
    try:
        address = ipaddress.ip_address(connection.client.host if connection.client else "")
    except ValueError:
        return None if connection.client is None else connection.client.host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return None if address.is_loopback else str(ipaddress.ip_network((address, 64), False))
        address = address.ipv4_mapped
    return None if address.is_loopback else str(address)
