"""Files that are made while their client is away: it comes back to ask, to fetch, or to cancel."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from talkingface.web.lanes import RETRY_AFTER, Place
from talkingface.web.limits import Limits, Refused
from talkingface.web.service import Made, Service, end_of, outcome, result

_SWEEP = 0.5  # seconds


@dataclass
class Kept:
    """A job. stack: closes its place and its folder. lease: seconds for which nobody may ask.

    seen, ended: when somebody last asked, when its work ended (time.monotonic).
    """

    name: str
    place: Place
    stack: AsyncExitStack
    lease: float | None
    seen: float = field(default_factory=time.monotonic)
    ended: float | None = None

    def describe(self) -> dict[str, Any]:
        """As JSON tells it."""
        place, future = self.place, self.place.future
        about: dict[str, Any] = {"id": self.name, "frames": place.done, "of": place.total}
        if future is None or place.waiting:
            return about | {"state": "waiting", "ahead": place.ahead}
        if not future.done():
            return about | {"state": "working", "seconds_left": place.seconds_left}
        refused = outcome(future)
        if refused is not None:
            return about | {"state": "failed", "error": refused.text, "status": refused.status}
        made: Made = result(future)
        done = {"state": "done", "of": made.frames, "video": f"/v1/jobs/{self.name}/video"}
        return about | done | ({"note": made.note} if made.note else {})


class Jobs:
    """The jobs that are there: waiting, working, or finished and not yet old."""

    def __init__(self, service: Service) -> None:
        self._limits: Limits = service.limits
        self._jobs: dict[str, Kept] = {}

    def check_room(self) -> None:
        """Raises Refused (429) when too many finished files lie here unfetched."""
        if len(self._jobs) >= self._limits.kept + self._limits.jobs + self._limits.queue:
            raise Refused(
                429,
                f"the server keeps {len(self._jobs)} files already: fetch and delete yours, or try "
                "again later",
                6 * RETRY_AFTER,
            )

    def add(self, place: Place, stack: AsyncExitStack, lease: float | None) -> Kept:
        """A new job. From now on `stack` is closed here."""
        job = Kept(secrets.token_urlsafe(16), place, stack, lease)
        self._jobs[job.name] = job
        return job

    def get(self, name: str) -> Kept:
        """The job of that name, which somebody asked for now. Raises Refused (404)."""
        job = self._jobs.get(name)
        if job is None:
            raise Refused(
                404,
                "there is no such job: it was deleted, nobody asked for it, or it is older than "
                f"{self._limits.keep_minutes:g} minutes",
            )
        job.seen = time.monotonic()
        return job

    async def wait(self, job: Kept, seconds: float) -> None:
        """Until the job has ended, but no longer than this."""
        if job.place.future is not None:
            await asyncio.wait([end_of(job.place.future)], timeout=seconds)
        job.seen = time.monotonic()

    async def remove(self, job: Kept) -> None:
        """Cancel a job that is not finished, and remove all that there is of it."""
        self._jobs.pop(job.name, None)
        await job.stack.aclose()

    async def sweep(self) -> None:
        """For ever: remove what nobody asks for any more, and what is old."""
        while True:
            await asyncio.sleep(_SWEEP)
            now = time.monotonic()
            for job in list(self._jobs.values()):
                if job.ended is None and job.place.future is not None and job.place.future.done():
                    job.ended = now
                forgotten = job.lease is not None and now - job.seen > job.lease
                old = job.ended is not None and now - job.ended > 60 * self._limits.keep_minutes
                if forgotten or old:
                    await self.remove(job)

    async def close(self) -> None:
        """Remove them all."""
        for job in list(self._jobs.values()):
            await self.remove(job)
