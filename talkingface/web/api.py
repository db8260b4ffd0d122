"""HTTP interface, for programs and for the page."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import anyio
from fastapi import FastAPI, Query, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from talkingface import voice
from talkingface.controls import EXPRESSIONS
from talkingface.web import metrics, rtc, schemas, uploads
from talkingface.web.client_quota import client_key
from talkingface.web.errors import RETRY_AFTER, ApiError
from talkingface.web.generate_options import (
    LONGEST_WAIT,
    DubOptions,
    FileOptions,
    JobOptions,
    Options,
    parse_options,
)
from talkingface.web.jobs import Jobs
from talkingface.web.limits import Limits
from talkingface.web.schemas import errors, form
from talkingface.web.service import IMAGE, GeneratedFile, Service
from talkingface.web.temp_store import still_there
from talkingface.web.worker_pool import Work, WorkerPool, result

Result = TypeVar("Result")

_UPLOAD = errors(400, 403, 408, 413, 415, 422, 429, 500, 503, 507)
_VIDEO_ERRORS = errors(404, 409, 413, 415, 422, 500, 503, 507)
_MP4 = (
    "H.264 and AAC, 25 frames per second, unless format and fps say otherwise; its metadata says "
    "that it is synthetic"
)
_MIME = {
    ".mp4": "video/mp4",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".gif": "image/gif",
    ".webp": "image/webp",
}


class VideoResponse(FileResponse):
    """Response with a finished video. It closes `stack` when the video is sent or times out.

    Raises ApiError when the video is no longer there.
    """

    media_type = "video/mp4"  # unless the file is of another kind

    def __init__(
        self, made: GeneratedFile, timeout: float, stack: AsyncExitStack | None = None
    ) -> None:
        headers = {"Cache-Control": "no-store"}
        with still_there(made.path):
            made.path.stat()
        if made.note is not None:
            headers["Talkingface-Note"] = made.note
        suffix = made.path.suffix
        kind, name = _MIME[suffix], f"talking{suffix}"
        super().__init__(made.path, media_type=kind, filename=name, headers=headers)
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


class MetricsResponse(Response):
    """Response with metrics for Prometheus."""

    media_type = metrics.CONTENT_TYPE


class Api:
    """Request handlers. Each returns a response or raises ApiError."""

    def __init__(self, service: Service, jobs: Jobs) -> None:
        self._service, self._jobs = service, jobs
        self._limits = service.limits
        self._models = list(service.speakers)
        self._document: dict[str, Any] = {}

    def add_to(self, app: FastAPI) -> None:
        """Add all endpoints to `app`. Their docstrings are in the OpenAPI document."""
        video: Any = {
            "status_code": 200,
            "response_class": VideoResponse,
            "response_description": _MP4,
        }
        state: Any = {"response_model_exclude_unset": True}
        post, get = app.post, app.get
        post("/v1/generate", openapi_extra=form("Video"), responses=_UPLOAD, **video)(self.generate)
        post(
            "/v1/jobs", status_code=202, openapi_extra=form("JobVideo"), responses=_UPLOAD, **state
        )(self.create_job)
        post("/v1/dub", openapi_extra=form("Dub"), responses=_UPLOAD, **video)(self.dub)
        post(
            "/v1/dub/jobs", status_code=202, openapi_extra=form("Dub"), responses=_UPLOAD, **state
        )(self.create_dub_job)
        get("/v1/jobs/{id}", responses=errors(400, 404), **state)(self.job)
        get("/v1/jobs/{id}/video", responses=_VIDEO_ERRORS, **video)(self.job_video)
        app.delete("/v1/jobs/{id}", status_code=204, responses=errors(403, 404))(self.delete_job)
        post("/v1/faces", openapi_extra=form("Picture"), responses=_UPLOAD)(self.faces)
        get("/v1/models")(self.models)
        get("/v1/limits")(self.limits)
        get("/v1/health", responses=errors(503, 507))(self.health)
        get("/v1/ready", responses=errors(400, 503, 507))(self.ready)
        get("/metrics", response_class=MetricsResponse)(self.metrics)
        get("/openapi.json")(self.openapi)
        self._document = schemas.document(app, self._models)
        for route in app.routes:  # after the document, which need not say it
            if isinstance(route, APIRoute) and "GET" in (methods := route.methods or set()):
                methods.add("HEAD")

    async def generate(self, request: Request) -> Response:
        """Make a video of one picture and one recording, and wait for it.

        A client that disconnects cancels the work.
        """
        return await self._make(request, FileOptions)

    async def dub(self, request: Request) -> Response:
        """Make the person of a video speak a recording, and wait for it.

        A client that disconnects cancels the work.
        """
        return await self._make(request, DubOptions)

    async def create_job(self, request: Request, response: Response) -> schemas.JobState:
        """Begin a video. Location says where to ask for it."""
        return await self._begin(request, response, JobOptions)

    async def create_dub_job(self, request: Request, response: Response) -> schemas.JobState:
        """Begin to dub a video. Location says where to ask for it."""
        return await self._begin(request, response, DubOptions)

    async def _make(self, request: Request, kind: type[FileOptions | DubOptions]) -> Response:
        async with AsyncExitStack() as stack:
            folder, slot = await stack.enter_async_context(
                self._service.request(self._service.file_pool, client_key(request))
            )
            options = await self._receive_form(request, folder, kind)
            work = slot.start(partial(self._service.run, folder=folder, options=options))
            made = await _wait_for_result(request, work)
            return VideoResponse(made, self._limits.patience, stack.pop_all())

    async def _begin(
        self, request: Request, response: Response, kind: type[JobOptions | DubOptions]
    ) -> schemas.JobState:
        self._jobs.check_capacity()
        async with AsyncExitStack() as stack:
            folder, slot = await stack.enter_async_context(
                self._service.request(self._service.file_pool, client_key(request))
            )
            options = await self._receive_form(request, folder, kind)
            slot.start(partial(self._service.run, folder=folder, options=options))
            job = self._jobs.add(slot, stack.pop_all(), options.lease)
        response.headers["Location"] = f"/v1/jobs/{job.name}"
        return job.describe()

    async def job(
        self,
        id: str,
        response: Response,
        wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT)] = 0,
    ) -> schemas.JobState:
        """Return the state of a job when it has ended, or after `wait` seconds."""
        job = self._jobs.get(id)
        await self._jobs.wait(job, wait)
        response.headers["Cache-Control"] = "no-store"
        return job.describe()

    async def job_video(self, id: str) -> Response:
        """Return the video of a finished job, until the job is deleted or old."""
        job = self._jobs.get(id)
        if job.slot.future is None or not job.finished:
            raise ApiError(409, "this job is not finished: ask for it until its state is done")
        job.fetched = True
        return VideoResponse(result(job.slot.future), self._limits.patience)

    async def delete_job(self, id: str) -> None:
        """Cancel a job, or remove its files."""
        await self._jobs.remove(self._jobs.get(id))

    async def faces(self, request: Request) -> schemas.Faces:
        """Find the faces of a picture, the largest first, numbered as `face` counts them."""
        most = {IMAGE: uploads.sizes(self._limits)[IMAGE]}
        client = client_key(request)
        async with self._service.request(self._service.face_pool, client) as (folder, slot):
            received = await self._receive(request, folder, most)
            if received.fields:
                raise ApiError(400, f"{next(iter(received.fields))[:40]!r} is no option here")
            work = slot.start(partial(self._service.find_faces, folder=folder))
            return await _wait_for_result(request, work)

    async def models(self) -> schemas.Models:
        """Return the models to choose from, the default first, and the expressions."""
        return schemas.Models(
            models=self._service.models(),
            expressions=sorted(EXPRESSIONS),
            webrtc=rtc.available(),
            voice=voice.name(),
        )

    async def limits(self) -> Limits:
        """Return the limits of this server."""
        return self._service.whole_limits

    async def health(self, response: Response) -> schemas.Health:
        """Return how busy the server is. An error if it cannot write temporary files."""
        await run_in_threadpool(self._service.temp_store.check)
        response.headers["Cache-Control"] = "no-store"
        return schemas.Health(
            files=_load(self._service.file_pool), live=_load(self._service.live_pool)
        )

    async def ready(
        self, response: Response, place: Literal["any", "live", "file"] = "any"
    ) -> schemas.Ready:
        """Return whether new work can be taken: an error if not, also while the server is stopping.

        place: the kind of video for which a place must be free.
        """
        pools = self._service.pools
        if self._service.draining:
            raise ApiError(503, "the server is stopping", RETRY_AFTER)
        if not any(pools[kind].has_place() for kind in pools if place in ("any", kind)):
            raise ApiError(503, "no place is free", RETRY_AFTER)
        await run_in_threadpool(self._service.temp_store.check)
        response.headers["Cache-Control"] = "no-store"
        return schemas.Ready()

    async def metrics(self) -> Response:
        """Return counts and times for Prometheus, without anything about clients."""
        self._service.update_metrics()
        text = await run_in_threadpool(self._service.metrics.text)
        return MetricsResponse(text, headers={"Cache-Control": "no-store"})

    async def openapi(self) -> dict[str, Any]:
        """Return this document."""
        return self._document

    async def _receive_form(self, request: Request, folder: Path, kind: type[Options]) -> Options:
        """Read the form and return its options. The uploaded files are written to `folder`."""
        sizes = uploads.dub_sizes if kind is DubOptions else uploads.sizes
        received = await self._receive(request, folder, sizes(self._limits))
        options = parse_options(received.fields, self._models, kind)
        if received.fields.get("text") and voice.name() is None:
            raise ApiError(400, "this server has no voice for a text: send audio")
        return options

    async def _receive(self, request: Request, folder: Path, most: dict[str, int]) -> uploads.Form:
        return await uploads.receive(request, folder, most, self._limits, self._service.uploads)


def _load(pool: WorkerPool) -> schemas.Load:
    working, waiting = pool.counts()
    return schemas.Load(working=working, waiting=waiting)


async def _wait_for_result(request: Request, work: Work[Result]) -> Result:
    """Return the result of the work. Raises ApiError, and ClientDisconnect if the client leaves."""
    gone = asyncio.create_task(_wait_for_disconnect(request))
    try:
        ended: asyncio.Future[Any] = asyncio.wrap_future(work)
        await asyncio.wait({ended, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
    if not work.done():
        raise ClientDisconnect
    return result(work)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
