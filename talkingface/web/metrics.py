"""Metrics of the server for Prometheus. They are counts and times, and name no client."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.values import ValueClass
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from torch import Tensor

from talkingface import decoding
from talkingface.audio import FPS, SAMPLE_RATE

if TYPE_CHECKING:
    from talkingface.web.worker_pool import WorkerPool

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATE = 0.2  # seconds after which a frame of a live video is late
_FIRST = (0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)  # seconds, limits of the histogram
_STATIC, _OTHER = "/static", "other"
_SHARED = ValueClass.__name__ == "MmapedValue"  # with files of several processes

Frame = TypeVar("Frame")


class Metrics:
    """All metrics. kind: `file` or `live`, of the video. For any thread.

    With the environment's PROMETHEUS_MULTIPROC_DIR, the metrics are the sums over all processes
    that share this folder.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        one_of, of_kind = ["kind", "state"], ["kind"]
        self._requests = Counter(
            "talkingface_requests", "Requests that ended", ["route", "status"], registry=registry
        )
        self._frames = Counter("talkingface_frames", "Frames generated", of_kind, registry=registry)
        self._late = Counter(
            "talkingface_late_frames",
            f"Frames of live videos that came more than {LATE} s late",
            registry=registry,
        )
        self._sound = Counter(
            "talkingface_sound_seconds", "Seconds of sound received", of_kind, registry=registry
        )
        self._first = Histogram(
            "talkingface_first_frame_seconds",
            "Time from the start of a live video's work to its first frame",
            buckets=_FIRST,
            registry=registry,
        )
        self._slots = _gauge("slots", "Places that are taken, by state", one_of, registry)
        self._places = _gauge("places", "Places in all, the queue's too", of_kind, registry)
        self._decoders = _gauge("decoders", "Processes that decode uploads", [], registry)
        self._draining = _gauge("draining", "Processes that take no more work", [], registry)
        for kind in ("file", "live"):
            self._frames.labels(kind), self._sound.labels(kind)

    def request(self, route: str, status: int) -> None:
        """Count a request that ended."""
        self._requests.labels(route, str(status)).inc()

    def first_frame(self, seconds: float) -> None:
        """Count the time to a live video's first frame."""
        self._first.observe(seconds)

    def late_frame(self) -> None:
        """Count a frame that came too late."""
        self._late.inc()

    def sound(self, parts: Iterable[Tensor], kind: str) -> Iterator[Tensor]:
        """Yield parts of a sound at 16 kHz and count their seconds."""
        for part in parts:
            self._sound.labels(kind).inc(len(part) / SAMPLE_RATE)
            yield part

    def frames(self, frames: Iterable[Frame], kind: str) -> Iterator[Frame]:
        """Yield frames and count them."""
        for frame in frames:
            self._frames.labels(kind).inc()
            yield frame

    def add_frames(self, count: int, kind: str) -> None:
        """Count so many frames."""
        self._frames.labels(kind).inc(count)

    def update(self, pools: Mapping[str, WorkerPool], draining: bool) -> None:
        """Set what is measured now and not counted. pools: by kind."""
        for kind, pool in pools.items():
            working, waiting = pool.counts()
            self._slots.labels(kind, "working").set(working)
            self._slots.labels(kind, "waiting").set(waiting)
            self._places.labels(kind).set(pool.capacity)
        self._decoders.set(decoding.count())
        self._draining.set(draining)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        if not _SHARED:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


def _gauge(name: str, what: str, labels: list[str], registry: CollectorRegistry) -> Gauge:
    return Gauge(
        f"talkingface_{name}", what, labels, registry=registry, multiprocess_mode="livesum"
    )


class Pace:
    """Clock of one live video that tells which frames are late."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def ahead(self, frames: int) -> float:
        """Seconds by which so many frames are ahead of a viewer who began with the first."""
        return frames / FPS - (time.monotonic() - self._began)

    def is_late(self, frames: int, arrived: float | None) -> bool:
        """Return whether the viewer waits for this frame, and not because the sound was late.

        arrived: when the sound came that the frame needed last; None for a recording.
        """
        waited = LATE + 1 if arrived is None else time.monotonic() - arrived
        return self.ahead(frames) < -LATE and waited > LATE


class CountRequests:
    """ASGI middleware that counts HTTP requests by the pattern of their route and by status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request (ASGI)."""
        status = 499  # the client went before there was an answer

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send_and_note)
        finally:
            self._metrics.request(_route(scope), status)


def _route(scope: Scope) -> str:
    """Return the pattern of a request's route, so that nothing of its address is kept."""
    pattern = getattr(scope.get("route"), "path", None)
    if pattern is not None:
        return str(pattern)
    path = scope["path"]
    if path.startswith(f"{_STATIC}/"):
        return _STATIC
    return "/" if path == "/" else _OTHER
