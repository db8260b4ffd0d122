"""Page on which raters vote, and its HTTP interface. Neither reveals the methods.

A random token identifies a rater. It is kept in a cookie, and in the address behind "#", where no
server log records it. The address of a video consists of rater, position and side, so that a rater
cannot recognise a video by its name.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import anyio
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware import Middleware
from starlette.responses import FileResponse

from talkingface.errors import BadRequest
from talkingface.study.store import Assignment, State, Study, StudyClosed, UnknownRater, VideoLabel
from talkingface.web import server
from talkingface.web.client_quota import Rate, client_key
from talkingface.web.errors import ApiError
from talkingface.web.origin_check import OriginCheckMiddleware

COOKIE = "rater"
MAX_BODY_BYTES = 4096  # of a request's body
READING = 15.0  # seconds to answer the three questions, for the estimate on the first screen
MOST_BEGUN = 60  # new raters from one address in an hour
_PATIENCE = 10.0  # seconds to send a request's body
_LONGEST_POSITION = 9  # digits
_MONTH = 30 * 24 * 3600
_GET = ["GET", "HEAD"]


async def _study(request: Request) -> Study:
    study: Study = request.app.state.study
    return study


async def _no_store(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"


StudyInUse = Annotated[Study, Depends(_study)]


def _position(position: str) -> int:
    if not (position.isascii() and position.isdigit()):
        raise HTTPException(404, "Not Found")
    return int(position[:_LONGEST_POSITION])  # no study has so many


Position = Annotated[int, Depends(_position)]
router = APIRouter(prefix="/api", dependencies=[Depends(_no_store)])


def application(folder: Path | str, names: Collection[str] = ()) -> FastAPI:
    """Return the app of one study. Raises BadRequest for a missing or damaged study.

    names: host names of the server, besides addresses and localhost.
    """
    study = Study(folder)
    missing = study.missing()
    if missing:
        raise BadRequest(
            f"{missing[0]}: is missing, of {len(missing)} videos; make the study again"
        )
    app = FastAPI(
        openapi_url=None,  # for its page alone
        middleware=[
            Middleware(server.SafeHeaders),
            Middleware(OriginCheckMiddleware, names=names),
        ],
        exception_handlers={
            StarletteHTTPException: _http_error,
            ApiError: _api_error,
            UnknownRater: server.error_handler(404),
            StudyClosed: server.error_handler(410),
            BadRequest: server.error_handler(409),
            sqlite3.Error: server.error_handler(
                503, "the answer could not be kept just now: try again"
            ),
            Exception: server.error_handler(
                500, "something went wrong here: try again, or tell who runs the study"
            ),
        },
    )
    app.add_route("/", _page)
    app.mount("/static", server.static_files())
    app.include_router(router)
    app.state.study = study
    app.state.begun = Rate(MOST_BEGUN, 3600)
    return app


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    return server.error_response(error.status_code, error.detail)


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return server.api_error_response(error)


# --- handlers -------------------------------------------------------------------------------------


async def _page(_: Request) -> Response:
    return FileResponse(server.STATIC / "study.html", headers={"Cache-Control": "no-cache"})


@router.api_route("/study", methods=_GET)
def _info(study: StudyInUse) -> dict[str, Any]:
    """Return the facts about the study for the first screen."""
    total, seconds = study.expected()
    minutes = max(1, round((seconds + READING * total) / 60))
    facts = {"open": study.needs_ratings(), "total": total, "minutes": minutes}
    return {**facts, "contact": study.design.contact}


@router.api_route("/return", methods=_GET)
def _returning_rater(request: Request, study: StudyInUse) -> dict[str, Any] | None:
    """Return the state of the rater in the cookie; null without one."""
    try:
        return _state_json(study.state(request.cookies.get(COOKIE, "")))
    except UnknownRater:
        return None


@router.post("/raters", status_code=201)
async def _begin(request: Request, response: Response, study: StudyInUse) -> dict[str, Any]:
    """Create a rater. The body is {"consent": true}."""
    if (await _body(request)).get("consent") is not True:
        raise HTTPException(400, 'expected {"consent": true}: nobody takes part without it')
    if not request.app.state.begun.take(client_key(request)):
        raise ApiError(
            429, "too many people began at your address just now: try again in an hour", 3600
        )
    state: State = await run_in_threadpool(study.begin)
    response.set_cookie(COOKIE, state.token, max_age=_MONTH, httponly=True, samesite="strict")
    return _state_json(state)


@router.api_route("/raters/{token}", methods=_GET)
def _state(token: str, study: StudyInUse) -> dict[str, Any]:
    return _state_json(study.state(token))


@router.api_route("/raters/{token}/tasks/{position}", methods=_GET)
def _task(token: str, position: Position, study: StudyInUse) -> dict[str, Any]:
    """Return the open task, or the last answered one with its answers."""
    return _assignment_json(token, study.assignment(token, position))


@router.put("/raters/{token}/tasks/{position}")
async def _answer(
    request: Request, token: str, position: Position, study: StudyInUse
) -> dict[str, Any]:
    """Store the answers to a task.

    The body is {"answers": {question: "a" or "b", …}, "seconds": how long it took}.
    """
    body = await _body(request)
    answers, seconds = body.get("answers"), body.get("seconds")
    if not isinstance(answers, dict) or not all(isinstance(s, str) for s in answers.values()):
        raise HTTPException(400, 'expected {"answers": {question: "a" or "b"}, "seconds": number}')
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise HTTPException(400, '"seconds" must be a number: how long the answer took')
    taken = float(max(-1, min(seconds, 1e9)))  # JSON's whole numbers may be too large for a float
    own = token, position, answers, taken
    return _state_json(await run_in_threadpool(study.answer, *own))


@router.api_route("/raters/{token}/tasks/{position}/{side}", methods=_GET)
def _video(token: str, position: Position, side: str, study: StudyInUse) -> Response:
    """Return the video of one side, "a" or "b", of a rater's task. Byte ranges are supported."""
    if side not in ("a", "b"):
        raise HTTPException(404, 'a pair has the sides "a" and "b"')
    path = study.video(token, position, cast(VideoLabel, side))
    if not path.is_file():
        raise HTTPException(500, "this video is missing: tell who runs the study")
    # The default tag (size and time) would be the same for the same video in another pair.
    tag = hashlib.sha256(f"{token}/{position}/{side}".encode()).hexdigest()[:16]
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, max-age=3600"}
    return FileResponse(path, media_type="video/mp4", headers=headers)


# --- parsing and JSON -----------------------------------------------------------------------------


async def _body(request: Request) -> Mapping[str, Any]:
    """Return the body as a JSON object. Raises HTTPException for anything else."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise HTTPException(415, "expected a body of type application/json")
    received = b""
    try:
        with anyio.fail_after(_PATIENCE):
            async for part in request.stream():
                received += part
                if len(received) > MAX_BODY_BYTES:
                    raise HTTPException(413, f"the body is longer than {MAX_BODY_BYTES} bytes")
    except TimeoutError:
        raise HTTPException(408, f"the body did not come within {_PATIENCE:g} s") from None
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


def _assignment_json(token: str, task: Assignment) -> dict[str, Any]:
    at = f"/api/raters/{token}/tasks/{task.position}"
    return {**asdict(task), "videos": {side: f"{at}/{side}" for side in ("a", "b")}}


def _state_json(state: State) -> dict[str, Any]:
    task = None if state.task is None else _assignment_json(state.token, state.task)
    return {**asdict(state), "task": task}
