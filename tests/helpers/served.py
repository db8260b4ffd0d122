"""A test server on loopback, on any free port, in a thread of this process."""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from talkingface.web.limits import Limits
from talkingface.web.serve import app
from talkingface.web.server import bind, make_server
from talkingface.web.service import Service


@dataclass(frozen=True)
class Served:
    """A running server. url: its address."""

    url: str
    service: Service

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def wait_until_idle(self, seconds: float = 3.0) -> None:
        """Wait until no slot or temporary file is left. Raises AssertionError after `seconds`."""
        pools = (self.service.file_pool, self.service.live_pool, self.service.face_pool)
        until(
            lambda: (
                not any(sum(pool.counts()) for pool in pools)
                and not self.service.temp_store.folders()
            ),
            seconds,
        )


def until(true: Callable[[], bool], seconds: float) -> float:
    """Wait until `true()`; return the time it took. Raises AssertionError after `seconds`."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "it did not come"
        time.sleep(0.01)
    return time.monotonic() - began


@contextmanager
def serving(
    limits: Limits,
    temp: Path,
    names: Sequence[str] = (),
    models: Sequence[str] = ("cran-tiny",),
    proxies: Sequence[str] = (),
) -> Iterator[Served]:
    """Run a server during the block. Check afterwards that its temporary files are gone."""
    service = Service(models, limits, temp)
    listening = bind("127.0.0.1", 0)
    server = make_server(
        app(service, names), limits.idle_seconds, limits.connections, proxies=proxies
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        until(lambda: server.started, 10)
        yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", service)
    finally:
        server.should_exit = True
        thread.join(20)
        if thread.is_alive():
            faulthandler.dump_traceback()  # of all threads, to standard error
        assert not thread.is_alive(), "the server does not stop"
        assert list(temp.iterdir()) == []


def samples(url: str) -> dict[tuple[str, ...], float]:
    """Return all metrics: (name, values of its labels) -> value."""
    text = httpx.get(f"{url}/metrics").text
    return {
        (own.name.removeprefix("talkingface_"), *(own.labels[key] for key in sorted(own.labels))): (
            own.value
        )
        for family in text_string_to_metric_families(text)
        for own in family.samples
    }


class Flashes:
    """Stream in place of a face: white frames where the sound is loud, else black."""

    latency, note = 0.1, None

    def __init__(self) -> None:
        self._sound = np.zeros(0, np.float32)

    def push(self, samples: Any) -> list[np.ndarray]:
        self._sound = np.concatenate([self._sound, np.asarray(samples)])
        return [self._frame() for _ in range((len(self._sound) - 1600) // 640)]

    def finish(self) -> list[np.ndarray]:
        return [self._frame() for _ in range(-(-len(self._sound) // 640))]

    def _frame(self) -> np.ndarray:
        now, self._sound = self._sound[:640], self._sound[640:]
        return np.full((48, 64, 3), 255 * (np.abs(now).max() > 0.3), np.uint8)
