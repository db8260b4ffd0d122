"""ASGI app of `talkingface serve`: the page, the HTTP interface and the live socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Match, Route

from talkingface.version import __version__
from talkingface.web.api import Api
from talkingface.web.errors import ApiError, storage_error
from talkingface.web.generate_options import error_text
from talkingface.web.jobs import Jobs
from talkingface.web.live import Live
from talkingface.web.metrics import CountRequests
from talkingface.web.origin_check import OriginCheckMiddleware
from talkingface.web.server import (
    STATIC,
    SafeHeaders,
    api_error_response,
    error_handler,
    error_response,
    static_files,
)
from talkingface.web.service import Service
from talkingface.web.worker_pool import UNFORESEEN, Cancelled

PAGE = STATIC / "serve.html"


_CLIENT_GONE = error_handler(499, "the client went before the end")
_ABOUT = (
    "One picture and one recording in, a video of that face speaking out. Live video comes by "
    "WebSocket from /v1/live: see docs/serving.md. Make a video only of people who agreed to it, "
    "or who do not exist."
)


def app(service: Service, names: Collection[str] = ()) -> FastAPI:
    """Return the app. It closes `service` when the server stops.

    names: host names of the server, besides addresses and localhost.
    """
    jobs = Jobs(service)

    served = FastAPI(
        title="talkingface",
        version=__version__,
        description=_ABOUT,
        license_info={"name": "MIT", "identifier": "MIT"},
        openapi_url=None,  # api.py has its own, with the forms
        generate_unique_id_function=lambda route: route.name,
        middleware=[
            Middleware(CountRequests, metrics=service.metrics),
            Middleware(SafeHeaders, one_request=service.worker is not None),
            Middleware(OriginCheckMiddleware, names=names),
        ],
        exception_handlers={
            ApiError: _api_error,
            OSError: _storage_error,
            RequestValidationError: _invalid_request,
            HTTPException: _http_error,
            ClientDisconnect: _CLIENT_GONE,
            Cancelled: _CLIENT_GONE,
            # Starlette raises it again, so it is logged with its traceback.
            Exception: error_handler(500, UNFORESEEN),
        },
        lifespan=_lifespan(service, jobs),
    )
    Api(service, jobs).add_to(served)
    served.add_route("/", _page)
    served.add_api_websocket_route("/v1/live", Live(service).serve)
    served.mount("/static", static_files())
    served.state.work = _Work(service, jobs)
    return served


class _Work:
    """Work of the app, for `draining.DrainingServer`."""

    def __init__(self, service: Service, jobs: Jobs) -> None:
        self._service, self._jobs = service, jobs

    def drain(self) -> None:
        """Refuse new work from now on."""
        self._service.draining = True

    def unfinished(self) -> int:
        """Return how many requests are not finished. Each has a folder; old files do not count."""
        return len(self._service.temp_store.folders()) - self._jobs.settled()

    def jobs(self) -> int:
        """Return how many places for files jobs take: all if no more files can be kept."""
        if self._jobs.is_full():
            return self._service.file_pool.capacity
        return self._jobs.working()


def _lifespan(
    service: Service, jobs: Jobs
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(jobs.sweep())
        try:
            yield
        finally:
            sweeping.cancel()
            await jobs.close()
            await service.close()

    return lifespan


async def _page(_: Request) -> Response:
    return FileResponse(PAGE)


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return api_error_response(error)


async def _storage_error(request: Request, error: Exception) -> Response:
    full = storage_error(error)
    if full is None:
        raise error
    return await _api_error(request, full)


async def _invalid_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(400, error_text(error.errors()))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = error_response(error.status_code, f"{error.detail}: see /openapi.json")
    answer.headers.update(error.headers or {})
    if error.status_code == 405:  # Starlette names the methods of one route alone
        answer.headers["Allow"] = ", ".join(sorted(_methods(request)))
    return answer


def _methods(request: Request) -> set[str]:
    """The methods of all routes of a request's path."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    found = (route for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    return {method for route in found for method in route.methods or ()}
