"""HTTP interface, for programs and for the page. `openapi.ENDPOINTS` lists its endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from talkingface.arkit import EXPRESSIONS
from talkingface.web import uploads
from talkingface.web.generate_options import GenerateOptions, parse_options
from talkingface.web.jobs import Jobs
from talkingface.web.limits import ApiError
from talkingface.web.openapi import ENDPOINTS, document
from talkingface.web.service import IMAGE, GeneratedFile, Service, completion, result
from talkingface.web.worker_pool import Work

Result = TypeVar("Result")

_LONGEST_WAIT = 30.0  # seconds that a request for a job's state may wait


class _VideoResponse(FileResponse):
    """Response with a finished video. It closes `stack` when the video is sent or times out."""

    def __init__(
        self, made: GeneratedFile, timeout: float, stack: AsyncExitStack | None = None
    ) -> None:
        headers = {"Cache-Control": "no-store"}
        if made.note is not None:
            headers["Talkingface-Note"] = made.note
        super().__init__(made.path, media_type="video/mp4", filename="talking.mp4", headers=headers)
        self._timeout, self._stack = timeout, stack or AsyncExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def send_in_time(message: Any) -> None:
            with anyio.fail_after(self._timeout):
                await send(message)

        async with self._stack:
            try:
                await super().__call__(scope, receive, send_in_time)
            except TimeoutError:
                return  # unfinished: the connection is closed


class Api:
    """Request handlers. Each returns a response or raises ApiError."""

    def __init__(self, service: Service, jobs: Jobs) -> None:
        self._service, self._jobs = service, jobs
        self._limits = service.limits
        self._models = list(service.speakers)

    def routes(self) -> list[Route]:
        """Return the Starlette routes of all endpoints."""
        handlers: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "generate": self.generate,
            "create_job": self.create_job,
            "job": self.job,
            "job_video": self.job_video,
            "delete_job": self.delete_job,
            "faces": self.faces,
            "models": self.models,
            "limits": self.limits,
            "health": self.health,
            "openapi": self.openapi,
        }
        return [
            Route(endpoint.path, handlers[endpoint.name], methods=[endpoint.method])
            for endpoint in ENDPOINTS
        ]

    async def generate(self, request: Request) -> Response:
        """Generate a video and return it. A client that disconnects cancels the work."""
        async with AsyncExitStack() as stack:
            folder, slot = await stack.enter_async_context(
                self._service.request(self._service.file_pool)
            )
            options, _ = await self._receive_form(request, folder)
            work = slot.start(partial(self._service.generate, folder=folder, options=options))
            made = await _wait_for_result(request, work)
            return _VideoResponse(made, self._limits.patience, stack.pop_all())

    async def create_job(self, request: Request) -> Response:
        """Start a job and return its name and state."""
        self._jobs.check_capacity()
        async with AsyncExitStack() as stack:
            folder, slot = await stack.enter_async_context(
                self._service.request(self._service.file_pool)
            )
            options, lease = await self._receive_form(request, folder, "lease")
            slot.start(partial(self._service.generate, folder=folder, options=options))
            job = self._jobs.add(slot, stack.pop_all(), _parse_lease(lease))
        where = {"Location": f"/v1/jobs/{job.name}"}
        return JSONResponse(job.describe(), status_code=202, headers=where)

    async def job(self, request: Request) -> Response:
        """Return the state of a job."""
        job = self._jobs.get(request.path_params["id"])
        seconds = _parse_seconds(request.query_params.get("wait", "0"), "wait", _LONGEST_WAIT)
        await self._jobs.wait(job, seconds)
        return JSONResponse(job.describe(), headers={"Cache-Control": "no-store"})

    async def job_video(self, request: Request) -> Response:
        """Return the finished video of a job."""
        job = self._jobs.get(request.path_params["id"])
        future = job.slot.future
        if future is None or not future.done():
            raise ApiError(409, "this job is not finished: ask for it until its state is done")
        return _VideoResponse(result(future), self._limits.patience)

    async def delete_job(self, request: Request) -> Response:
        """Cancel a job or remove its file."""
        await self._jobs.remove(self._jobs.get(request.path_params["id"]))
        return Response(status_code=204)

    async def faces(self, request: Request) -> Response:
        """Return the faces that a picture shows."""
        most = {IMAGE: uploads.sizes(self._limits)[IMAGE]}
        async with self._service.request(self._service.face_pool) as (folder, slot):
            form = await uploads.receive(request, folder, most, self._limits)
            if form.fields:
                raise ApiError(400, f"{next(iter(form.fields))[:40]!r} is no option here")
            work = slot.start(partial(self._service.find_faces, folder=folder))
            return JSONResponse(await _wait_for_result(request, work))

    async def models(self, request: Request) -> Response:
        """Return the models and the expressions."""
        expressions = sorted(EXPRESSIONS)
        return JSONResponse({"models": self._service.models(), "expressions": expressions})

    async def limits(self, request: Request) -> Response:
        """Return the server's limits."""
        return JSONResponse(asdict(self._limits))

    async def health(self, request: Request) -> Response:
        """Return how many requests are working and waiting."""
        pools = {"files": self._service.file_pool, "live": self._service.live_pool}
        counts = {name: pool.counts() for name, pool in pools.items()}
        busy = {name: {"working": a, "waiting": b} for name, (a, b) in counts.items()}
        return JSONResponse({"status": "ok", **busy}, headers={"Cache-Control": "no-store"})

    async def openapi(self, request: Request) -> Response:
        """Return the OpenAPI document."""
        return JSONResponse(document(ENDPOINTS, self._models))

    async def _receive_form(
        self, request: Request, folder: Path, *more: str
    ) -> tuple[GenerateOptions, str]:
        """Read the form. Return its options and the text of the fields named in `more`.

        The uploaded files are written to `folder`.
        """
        form = await uploads.receive(request, folder, uploads.sizes(self._limits), self._limits)
        extra = {name: form.fields.pop(name, "") for name in more}
        return parse_options(form.fields, self._models), "".join(extra.values())


async def _wait_for_result(request: Request, work: Work[Result]) -> Result:
    """Return the result of the work. Raises ApiError, and ClientDisconnect if the client leaves."""
    gone = asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait({completion(work), gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
    if not work.done():
        raise ClientDisconnect
    return result(work)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _parse_lease(text: str) -> float | None:
    return _parse_seconds(text, "lease", 3600.0) if text else None


def _parse_seconds(text: str, name: str, most: float) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= most:
        raise ApiError(400, f"{name} is {text[:40]!r}: give seconds, from 0 to {most:g}")
    return seconds
