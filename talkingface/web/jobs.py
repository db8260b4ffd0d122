"""Jobs: videos generated in the background. The client polls, fetches or cancels them."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

from talkingface.web.errors import RETRY_AFTER, ApiError
from talkingface.web.schemas import JobState
from talkingface.web.service import GeneratedFile, Service
from talkingface.web.worker_pool import Slot, result

_SWEEP = 0.5  # seconds between two removals
_FETCH = 5.0  # seconds that a server that is stopping keeps a finished file for its client


@dataclass
class Job:
    """One background job.

    stack: closes its slot and its folder. lease: seconds without a request after which the job is
    cancelled. seen: time of the last request. ended: when the work ended. Both are
    `time.monotonic`. fetched: whether its file was sent.
    """

    name: str
    slot: Slot
    stack: AsyncExitStack
    lease: float | None
    seen: float = field(default_factory=time.monotonic)
    ended: float | None = None
    fetched: bool = False

    @property
    def finished(self) -> bool:
        """Return whether its work has ended."""
        return self.slot.future is not None and self.slot.future.done()

    def describe(self) -> JobState:
        """Return the state."""
        slot, future = self.slot, self.slot.future
        described = partial(JobState, id=self.name, frames=slot.done, of=slot.total)
        if future is None or slot.waiting:
            return described(state="waiting", ahead=slot.ahead)
        if not future.done():
            return described(state="working", seconds_left=slot.seconds_left)
        try:
            made: GeneratedFile = result(future)
        except ApiError as error:
            return described(state="failed", error=error.text, status=error.status)
        state = described(state="done", of=made.frames, video=f"/v1/jobs/{self.name}/video")
        if made.note:
            state.note = made.note
        return state


class Jobs:
    """All current jobs: waiting, working, or finished and not yet expired."""

    def __init__(self, service: Service) -> None:
        self._service, self._limits = service, service.limits
        self._jobs: dict[str, Job] = {}

    def check_capacity(self) -> None:
        """Raise ApiError (429) when the server keeps too many files."""
        if self.is_full():
            raise ApiError(
                429,
                "the server keeps as many files as it may: fetch and delete yours, or try again "
                "later",
                6 * RETRY_AFTER,
            )

    def is_full(self) -> bool:
        """Return whether the server keeps too many files to begin another."""
        limits = self._limits
        return len(self._jobs) >= limits.kept + limits.jobs + limits.queue

    def working(self) -> int:
        """Return how many are not finished."""
        return sum(not job.finished for job in self._jobs.values())

    def add(self, slot: Slot, stack: AsyncExitStack, lease: float | None) -> Job:
        """Create a job. The job closes `stack` when it is removed."""
        name, worker = secrets.token_urlsafe(16), self._service.worker
        if worker is not None:
            name = f"{worker}-{name}"  # by which the dispatcher finds it
        job = Job(name, slot, stack, lease)
        self._jobs[job.name] = job
        return job

    def get(self, name: str) -> Job:
        """Return the job of that name and renew its lease. Raises ApiError (404)."""
        job = self._jobs.get(name)
        if job is None:
            raise ApiError(
                404,
                "there is no such job: it was deleted, nobody asked for it, or it is older than "
                f"{self._limits.keep_minutes:g} minutes",
            )
        job.seen = time.monotonic()
        return job

    def settled(self) -> int:
        """Return how many have ended and were fetched, or could have been for a while."""
        now = time.monotonic()
        return sum(
            job.finished and (job.fetched or (job.ended is not None and now - job.ended > _FETCH))
            for job in self._jobs.values()
        )

    async def wait(self, job: Job, seconds: float) -> None:
        """Wait until the job has ended, for at most `seconds`."""
        await job.slot.wait(seconds)
        job.seen = time.monotonic()

    async def remove(self, job: Job) -> None:
        """Cancel a job if it is unfinished and remove its files."""
        self._jobs.pop(job.name, None)
        await job.stack.aclose()

    async def sweep(self) -> None:
        """Remove expired and abandoned jobs and update the metrics, in an endless loop."""
        while True:
            await asyncio.sleep(_SWEEP)
            self._service.update_metrics()
            now = time.monotonic()
            for job in list(self._jobs.values()):
                if job.ended is None and job.finished:
                    job.ended = now
                forgotten = job.lease is not None and now - job.seen > job.lease
                old = job.ended is not None and now - job.ended > 60 * self._limits.keep_minutes
                if forgotten or old:
                    await self.remove(job)

    async def close(self) -> None:
        """Remove all jobs."""
        for job in list(self._jobs.values()):
            await self.remove(job)
