"""The page on which raters vote, and what it calls. Nothing here says which method is which.

A rater is known by a token of chance: in the address behind "#", which no server log sees, and in a
cookie. Videos have addresses by rater, position and side, so that none is seen again under its
name.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from talkingface.errors import BadRequest
from talkingface.study.store import Closed, Shown, Side, State, Study, UnknownRater
from talkingface.web import running

COOKIE = "rater"
MOST_BYTES = 4096  # of a request's body
READING = 15.0  # seconds that the three questions take, for the estimate on the first screen
_MONTH = 30 * 24 * 3600


def application(folder: Path | str) -> Starlette:
    """The page and its interface over one study. Raises BadRequest for no or a damaged study."""
    study = Study(folder)
    missing = study.missing()
    if missing:
        raise BadRequest(
            f"{missing[0]}: is missing, of {len(missing)} videos; make the study again"
        )
    app = Starlette(
        routes=[
            Route("/", _page),
            running.static_files(),
            Route("/api/study", _about),
            Route("/api/return", _return),
            Route("/api/raters", _begin, methods=["POST"]),
            Route("/api/raters/{token}", _state),
            Route("/api/raters/{token}/tasks/{position:int}", _task),
            Route("/api/raters/{token}/tasks/{position:int}", _answer, methods=["PUT"]),
            Route("/api/raters/{token}/tasks/{position:int}/{side}", _video),
        ],
        middleware=[Middleware(running.SafeHeaders)],
        exception_handlers={
            HTTPException: _refused,
            UnknownRater: _told(HTTPStatus.NOT_FOUND),
            Closed: _told(HTTPStatus.GONE),
            BadRequest: _told(HTTPStatus.CONFLICT),
            sqlite3.Error: _unkept,
            Exception: _broken,
        },
    )
    app.state.study = study
    return app


# --- what goes wrong ------------------------------------------------------------------------------


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return running.problem(error.status_code, error.detail)


def _told(status: HTTPStatus) -> Any:
    async def handler(_: Request, error: Exception) -> Response:
        return running.problem(status, str(error))

    return handler


async def _unkept(_: Request, __: Exception) -> Response:
    return running.problem(503, "the answer could not be kept just now: try again")


async def _broken(_: Request, __: Exception) -> Response:
    return running.problem(500, "something went wrong here: try again, or tell who runs the study")


# --- answers --------------------------------------------------------------------------------------


def _study(request: Request) -> Study:
    return cast(Study, request.app.state.study)


def _page(_: Request) -> Response:
    return FileResponse(running.STATIC / "study.html", headers={"Cache-Control": "no-cache"})


def _about(request: Request) -> Response:
    """What the first screen says before anybody is a rater."""
    study = _study(request)
    total, seconds = study.expected()
    minutes = max(1, round((seconds + READING * total) / 60))
    facts = {"open": study.is_open(), "total": total, "minutes": minutes}
    return _json({**facts, "contact": study.design.contact})


def _return(request: Request) -> Response:
    """Where a rater stands whose browser still has the cookie; null for anybody else."""
    try:
        return _standing(_study(request).state(request.cookies.get(COOKIE, "")))
    except UnknownRater:
        return _json(None)


async def _begin(request: Request) -> Response:
    """A new rater: {"consent": true}."""
    if (await _body(request)).get("consent") is not True:
        raise HTTPException(400, 'expected {"consent": true}: nobody takes part without it')
    state: State = await run_in_threadpool(_study(request).begin)
    answer = _standing(state, 201)
    answer.set_cookie(COOKIE, state.token, max_age=_MONTH, httponly=True, samesite="strict")
    return answer


def _state(request: Request) -> Response:
    return _standing(_study(request).state(_token(request)))


def _task(request: Request) -> Response:
    """The open task, or the last answered one with its answers, to change them."""
    token = _token(request)
    return _json(_shown(token, _study(request).shown(token, _position(request))))


async def _answer(request: Request) -> Response:
    """{"answers": {question: "a" or "b", …}, "seconds": how long it took}."""
    body = await _body(request)
    answers, seconds = body.get("answers"), body.get("seconds")
    if not isinstance(answers, dict) or not all(isinstance(s, str) for s in answers.values()):
        raise HTTPException(400, 'expected {"answers": {question: "a" or "b"}, "seconds": number}')
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise HTTPException(400, '"seconds" must be a number: how long the answer took')
    own = _token(request), _position(request), answers, float(seconds)
    return _standing(await run_in_threadpool(_study(request).answer, *own))


def _video(request: Request) -> Response:
    """One side, "a" or "b", of a rater's own task; in parts, if the browser asks for parts."""
    side, token, position = request.path_params["side"], _token(request), _position(request)
    if side not in ("a", "b"):
        raise HTTPException(404, 'a pair has the sides "a" and "b"')
    path = _study(request).video(token, position, cast(Side, side))
    if not path.is_file():
        raise HTTPException(500, "this video is missing: tell who runs the study")
    # The usual tag is made of size and time: the same for the same video in another pair.
    tag = hashlib.sha256(f"{token}/{position}/{side}".encode()).hexdigest()[:16]
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, max-age=3600"}
    return FileResponse(path, media_type="video/mp4", headers=headers)


# --- in and out -----------------------------------------------------------------------------------


def _token(request: Request) -> str:
    return str(request.path_params["token"])


def _position(request: Request) -> int:
    """SQLite's integers end where no study gets to."""
    return min(int(request.path_params["position"]), 2**31)


async def _body(request: Request) -> Mapping[str, Any]:
    """A small JSON object. Raises HTTPException for anything else."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise HTTPException(415, "expected a body of type application/json")
    received = b""
    async for part in request.stream():
        received += part
        if len(received) > MOST_BYTES:
            raise HTTPException(413, f"the body is longer than {MOST_BYTES} bytes")
    try:
        body = json.loads(received, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "the body is no JSON") from error
    if not isinstance(body, dict):
        raise HTTPException(400, "expected a JSON object")
    return body


def _no_constant(name: str) -> Any:
    """NaN and Infinity are no JSON, whatever Python thinks."""
    raise ValueError(name)


def _json(content: Any, status: int = 200) -> JSONResponse:
    return JSONResponse(content, status, headers={"Cache-Control": "no-store"})


def _shown(token: str, task: Shown) -> dict[str, Any]:
    at = f"/api/raters/{token}/tasks/{task.position}"
    return {**asdict(task), "videos": {side: f"{at}/{side}" for side in ("a", "b")}}


def _standing(state: State, status: int = 200) -> JSONResponse:
    task = None if state.task is None else _shown(state.token, state.task)
    return _json({**asdict(state), "task": task}, status)
