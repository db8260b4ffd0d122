"""The app of `talkingface serve`: its page, its HTTP interface, its live socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route, WebSocketRoute

from talkingface.web.api import Api
from talkingface.web.guard import Guard
from talkingface.web.jobs import Jobs
from talkingface.web.lanes import Cancelled
from talkingface.web.limits import Refused
from talkingface.web.live import Live
from talkingface.web.running import STATIC, SafeHeaders, problem, static_files
from talkingface.web.service import UNFORESEEN, Service

PAGE = STATIC / "serve.html"


def app(service: Service, names: Collection[str] = ()) -> Starlette:
    """Everything, for one server; `service` is closed with it.

    names: host names by which it is reached, beside addresses and localhost.
    """
    jobs = Jobs(service)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(jobs.sweep())
        try:
            yield
        finally:
            sweeping.cancel()
            await jobs.close()
            service.close()

    return Starlette(
        routes=[
            Route("/", _page),
            *Api(service, jobs).routes(),
            WebSocketRoute("/v1/live", Live(service).serve),
            static_files(),
        ],
        middleware=[Middleware(SafeHeaders), Middleware(Guard, names=names)],
        exception_handlers={
            Refused: _refused,
            HTTPException: _no_such_thing,
            ClientDisconnect: _gone,
            Cancelled: _gone,
            Exception: _failed,
        },
        lifespan=lifespan,
    )


async def _page(_: Request) -> Response:
    return FileResponse(PAGE)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    answer = problem(error.status, error.text)
    if error.retry_after is not None:
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer


async def _no_such_thing(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = problem(error.status_code, f"{error.detail}: see /openapi.json")
    answer.headers.update(error.headers or {})
    return answer


async def _gone(_: Request, error: Exception) -> Response:
    return problem(499, "the client went before the end")  # nobody reads it


async def _failed(_: Request, error: Exception) -> Response:
    return problem(500, UNFORESEEN)  # Starlette raises it again: it is logged, with its trace
