"""Page on which raters vote, and its HTTP interface. Neither reveals the methods.

A random token identifies a rater. It is kept in a cookie, and in the address behind "#", where no
server log records it. The address of a video consists of rater, position and side, so that a rater
cannot recognise a video by its name.
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
from talkingface.study.store import Assignment, State, Study, StudyClosed, UnknownRater, VideoLabel
from talkingface.web import server

COOKIE = "rater"
MAX_BODY_BYTES = 4096  # of a request's body
READING = 15.0  # seconds to answer the three questions, for the estimate on the first screen
_MONTH = 30 * 24 * 3600


def application(folder: Path | str) -> Starlette:
    """Return the app of one study. Raises BadRequest for a missing or damaged study."""
    study = Study(folder)
    missing = study.missing()
    if missing:
        raise BadRequest(
            f"{missing[0]}: is missing, of {len(missing)} videos; make the study again"
        )
    app = Starlette(
        routes=[
            Route("/", _page),
            server.static_files(),
            Route("/api/study", _info),
            Route("/api/return", _returning_rater),
            Route("/api/raters", _begin, methods=["POST"]),
            Route("/api/raters/{token}", _state),
            Route("/api/raters/{token}/tasks/{position:int}", _task),
            Route("/api/raters/{token}/tasks/{position:int}", _answer, methods=["PUT"]),
            Route("/api/raters/{token}/tasks/{position:int}/{side}", _video),
        ],
        middleware=[Middleware(server.SafeHeaders)],
        exception_handlers={
            HTTPException: _http_error,
            UnknownRater: _error_response(HTTPStatus.NOT_FOUND),
            StudyClosed: _error_response(HTTPStatus.GONE),
            BadRequest: _error_response(HTTPStatus.CONFLICT),
            sqlite3.Error: _database_error,
            Exception: _unexpected_error,
        },
    )
    app.state.study = study
    return app


# --- errors ---------------------------------------------------------------------------------------


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return server.error_response(error.status_code, error.detail)


def _error_response(status: HTTPStatus) -> Any:
    """Return an exception handler that answers with this status and the error's text."""

    async def handler(_: Request, error: Exception) -> Response:
        return server.error_response(status, str(error))

    return handler


async def _database_error(_: Request, __: Exception) -> Response:
    return server.error_response(503, "the answer could not be kept just now: try again")


async def _unexpected_error(_: Request, __: Exception) -> Response:
    return server.error_response(
        500, "something went wrong here: try again, or tell who runs the study"
    )


# --- handlers -------------------------------------------------------------------------------------


def _study(request: Request) -> Study:
    return cast(Study, request.app.state.study)


def _page(_: Request) -> Response:
    return FileResponse(server.STATIC / "study.html", headers={"Cache-Control": "no-cache"})


def _info(request: Request) -> Response:
    """Return the facts about the study for the first screen."""
    study = _study(request)
    total, seconds = study.expected()
    minutes = max(1, round((seconds + READING * total) / 60))
    facts = {"open": study.needs_ratings(), "total": total, "minutes": minutes}
    return _json({**facts, "contact": study.design.contact})


def _returning_rater(request: Request) -> Response:
    """Return the state of the rater in the cookie; null without one."""
    try:
        return _state_response(_study(request).state(request.cookies.get(COOKIE, "")))
    except UnknownRater:
        return _json(None)


async def _begin(request: Request) -> Response:
    """Create a rater. The body is {"consent": true}."""
    if (await _body(request)).get("consent") is not True:
        raise HTTPException(400, 'expected {"consent": true}: nobody takes part without it')
    state: State = await run_in_threadpool(_study(request).begin)
    answer = _state_response(state, 201)
    answer.set_cookie(COOKIE, state.token, max_age=_MONTH, httponly=True, samesite="strict")
    return answer


def _state(request: Request) -> Response:
    return _state_response(_study(request).state(_token(request)))


def _task(request: Request) -> Response:
    """Return the open task, or the last answered one with its answers."""
    token = _token(request)
    return _json(_assignment_json(token, _study(request).assignment(token, _position(request))))


async def _answer(request: Request) -> Response:
    """Store the answers to a task.

    The body is {"answers": {question: "a" or "b", …}, "seconds": how long it took}.
    """
    body = await _body(request)
    answers, seconds = body.get("answers"), body.get("seconds")
    if not isinstance(answers, dict) or not all(isinstance(s, str) for s in answers.values()):
        raise HTTPException(400, 'expected {"answers": {question: "a" or "b"}, "seconds": number}')
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise HTTPException(400, '"seconds" must be a number: how long the answer took')
    own = _token(request), _position(request), answers, float(seconds)
    return _state_response(await run_in_threadpool(_study(request).answer, *own))


def _video(request: Request) -> Response:
    """Return the video of one side, "a" or "b", of a rater's task. Byte ranges are supported."""
    side, token, position = request.path_params["side"], _token(request), _position(request)
    if side not in ("a", "b"):
        raise HTTPException(404, 'a pair has the sides "a" and "b"')
    path = _study(request).video(token, position, cast(VideoLabel, side))
    if not path.is_file():
        raise HTTPException(500, "this video is missing: tell who runs the study")
    # The default tag (size and time) would be the same for the same video in another pair.
    tag = hashlib.sha256(f"{token}/{position}/{side}".encode()).hexdigest()[:16]
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, max-age=3600"}
    return FileResponse(path, media_type="video/mp4", headers=headers)


# --- parsing and JSON -----------------------------------------------------------------------------


def _token(request: Request) -> str:
    return str(request.path_params["token"])


def _position(request: Request) -> int:
    """Return the position of a task, limited to SQLite's range of integers."""
    return min(int(request.path_params["position"]), 2**31)


async def _body(request: Request) -> Mapping[str, Any]:
    """Return the body as a JSON object. Raises HTTPException for anything else."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise HTTPException(415, "expected a body of type application/json")
    received = b""
    async for part in request.stream():
        received += part
        if len(received) > MAX_BODY_BYTES:
            raise HTTPException(413, f"the body is longer than {MAX_BODY_BYTES} bytes")
    try:
        body = json.loads(received, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "the body is no JSON") from error
    if not isinstance(body, dict):
        raise HTTPException(400, "expected a JSON object")
    return body


def _no_constant(name: str) -> Any:
    """Reject NaN and Infinity, which Python accepts but JSON does not have."""
    raise ValueError(name)


def _json(content: Any, status: int = 200) -> JSONResponse:
    return JSONResponse(content, status, headers={"Cache-Control": "no-store"})


def _assignment_json(token: str, task: Assignment) -> dict[str, Any]:
    at = f"/api/raters/{token}/tasks/{task.position}"
    return {**asdict(task), "videos": {side: f"{at}/{side}" for side in ("a", "b")}}


def _state_response(state: State, status: int = 200) -> JSONResponse:
    task = None if state.task is None else _assignment_json(state.token, state.task)
    return _json({**asdict(state), "task": task}, status)
