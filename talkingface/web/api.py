"""The HTTP interface, for programs and for the page: one table, from which its document is made."""

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
from talkingface.web.choices import Choices, parse
from talkingface.web.jobs import Jobs
from talkingface.web.lanes import Work
from talkingface.web.limits import Refused
from talkingface.web.openapi import ENDPOINTS, document
from talkingface.web.service import IMAGE, Made, Service, end_of, result

Result = TypeVar("Result")

_LONGEST_WAIT = 30.0  # seconds that a question about a job may be held


class _Sent(FileResponse):
    """A finished file; its folder goes when it was sent, or when the client does not take it."""

    def __init__(self, made: Made, patience: float, stack: AsyncExitStack | None = None) -> None:
        headers = {"Cache-Control": "no-store"}
        if made.note is not None:
            headers["Talkingface-Note"] = made.note
        super().__init__(made.path, media_type="video/mp4", filename="talking.mp4", headers=headers)
        self._patience, self._stack = patience, stack or AsyncExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def sending(message: Any) -> None:
            with anyio.fail_after(self._patience):
                await send(message)

        async with self._stack:
            try:
                await super().__call__(scope, receive, sending)
            except TimeoutError:
                return  # unfinished: the connection is closed


class Api:
    """The handlers; each takes a request and gives an answer, or raises Refused."""

    def __init__(self, service: Service, jobs: Jobs) -> None:
        self._service, self._jobs = service, jobs
        self._limits = service.limits
        self._models = list(service.speakers)

    def routes(self) -> list[Route]:
        """For Starlette."""
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
        """The finished file as the answer. A client that goes cancels it."""
        async with AsyncExitStack() as stack:
            folder, place = await stack.enter_async_context(
                self._service.request(self._service.files)
            )
            choices, _ = await self._received(request, folder)
            work = place.start(partial(self._service.make, folder=folder, choices=choices))
            made = await _finished(request, work)
            return _Sent(made, self._limits.patience, stack.pop_all())

    async def create_job(self, request: Request) -> Response:
        """Begin a file, and say by which name it is asked for."""
        self._jobs.check_room()
        async with AsyncExitStack() as stack:
            folder, place = await stack.enter_async_context(
                self._service.request(self._service.files)
            )
            choices, lease = await self._received(request, folder, "lease")
            place.start(partial(self._service.make, folder=folder, choices=choices))
            job = self._jobs.add(place, stack.pop_all(), _lease(lease))
        where = {"Location": f"/v1/jobs/{job.name}"}
        return JSONResponse(job.describe(), status_code=202, headers=where)

    async def job(self, request: Request) -> Response:
        """How far a job is."""
        job = self._jobs.get(request.path_params["id"])
        seconds = _seconds(request.query_params.get("wait", "0"), "wait", _LONGEST_WAIT)
        await self._jobs.wait(job, seconds)
        return JSONResponse(job.describe(), headers={"Cache-Control": "no-store"})

    async def job_video(self, request: Request) -> Response:
        """The finished file of a job."""
        job = self._jobs.get(request.path_params["id"])
        future = job.place.future
        if future is None or not future.done():
            raise Refused(409, "this job is not finished: ask for it until its state is done")
        return _Sent(result(future), self._limits.patience)

    async def delete_job(self, request: Request) -> Response:
        """Cancel a job, or forget its file."""
        await self._jobs.remove(self._jobs.get(request.path_params["id"]))
        return Response(status_code=204)

    async def faces(self, request: Request) -> Response:
        """Which faces a picture shows."""
        most = {IMAGE: uploads.sizes(self._limits)[IMAGE]}
        async with self._service.request(self._service.looks) as (folder, place):
            form = await uploads.receive(request, folder, most, self._limits)
            if form.fields:
                raise Refused(400, f"{next(iter(form.fields))[:40]!r} is no option here")
            work = place.start(partial(self._service.look, folder=folder))
            return JSONResponse(await _finished(request, work))

    async def models(self, request: Request) -> Response:
        """What can be chosen."""
        expressions = sorted(EXPRESSIONS)
        return JSONResponse({"models": self._service.models(), "expressions": expressions})

    async def limits(self, request: Request) -> Response:
        """How much of everything is taken."""
        return JSONResponse(asdict(self._limits))

    async def health(self, request: Request) -> Response:
        """How busy the server is."""
        lanes = {"files": self._service.files, "live": self._service.live}
        counts = {name: lane.counts() for name, lane in lanes.items()}
        about = {name: {"working": a, "waiting": b} for name, (a, b) in counts.items()}
        return JSONResponse({"status": "ok", **about}, headers={"Cache-Control": "no-store"})

    async def openapi(self, request: Request) -> Response:
        """What this interface is."""
        return JSONResponse(document(ENDPOINTS, self._models))

    async def _received(self, request: Request, folder: Path, *more: str) -> tuple[Choices, str]:
        """What was chosen, and the value of one more field; the files are in `folder`."""
        form = await uploads.receive(request, folder, uploads.sizes(self._limits), self._limits)
        extra = {name: form.fields.pop(name, "") for name in more}
        return parse(form.fields, self._models), "".join(extra.values())


async def _finished(request: Request, work: Work[Result]) -> Result:
    """What the work gives. Raises Refused, and ClientDisconnect when the client goes before."""
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({end_of(work), gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
    if not work.done():
        raise ClientDisconnect
    return result(work)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _lease(text: str) -> float | None:
    return _seconds(text, "lease", 3600.0) if text else None


def _seconds(text: str, name: str, most: float) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= most:
        raise Refused(400, f"{name} is {text[:40]!r}: give seconds, from 0 to {most:g}")
    return seconds
