"""Table of the HTTP endpoints, and the OpenAPI document that is made from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from talkingface.arkit import EXPRESSIONS
from talkingface.controls import DEFAULTS, SEEDS, STRENGTH
from talkingface.version import __version__
from talkingface.web.generate_options import RANGES

Schema = dict[str, Any]

JSON = "application/json"
FORM = "multipart/form-data"


@dataclass(frozen=True)
class Endpoint:
    """One HTTP endpoint: a path and a method.

    name: of its handler. form: the schema of its form, "" for none. answers: status -> (meaning,
    media type or "" for none, schema). errors: statuses with an `Error`. query: name -> schema.
    """

    name: str
    method: str
    path: str
    summary: str
    answers: dict[int, tuple[str, str, Schema]]
    form: str = ""
    errors: tuple[int, ...] = ()
    query: dict[str, Schema] = field(default_factory=dict)


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_MP4: tuple[str, str, Schema] = (
    "the video: H.264 and AAC, 25 frames per second, its comment says that it is synthetic",
    "video/mp4",
    {"type": "string", "format": "binary"},
)
_UPLOAD = (400, 403, 408, 413, 415, 422, 429, 500)

ENDPOINTS = (
    Endpoint(
        "generate",
        "POST",
        "/v1/generate",
        "Make a video of one picture and one recording, and wait for it.",
        {200: _MP4},
        form="Video",
        errors=_UPLOAD,
    ),
    Endpoint(
        "create_job",
        "POST",
        "/v1/jobs",
        "Begin a video, and ask for it later.",
        {202: ("begun; Location says where to ask", JSON, _ref("Job"))},
        form="JobVideo",
        errors=_UPLOAD,
    ),
    Endpoint(
        "job",
        "GET",
        "/v1/jobs/{id}",
        "How far a job is.",
        {200: ("what is known of it", JSON, _ref("Job"))},
        errors=(400, 404),
        query={"wait": {"type": "number", "minimum": 0, "maximum": 30, "default": 0}},
    ),
    Endpoint(
        "job_video",
        "GET",
        "/v1/jobs/{id}/video",
        "The finished video of a job; may be fetched again until the job is deleted or old.",
        {200: _MP4},
        errors=(404, 409, 413, 415, 422, 500),
    ),
    Endpoint(
        "delete_job",
        "DELETE",
        "/v1/jobs/{id}",
        "Cancel a job, or remove its files.",
        {204: ("gone", "", {})},
        errors=(403, 404),
    ),
    Endpoint(
        "faces",
        "POST",
        "/v1/faces",
        "Which faces a picture shows, the largest first, numbered as `face` counts them.",
        {200: ("those that were found, perhaps none", JSON, _ref("Faces"))},
        form="Picture",
        errors=_UPLOAD,
    ),
    Endpoint(
        "models",
        "GET",
        "/v1/models",
        "The models to choose from, the default first.",
        {200: ("all of them", JSON, _ref("Models"))},
    ),
    Endpoint(
        "limits",
        "GET",
        "/v1/limits",
        "How much of everything this server takes.",
        {200: ("megabytes, minutes, seconds, counts and pixels", JSON, _ref("Limits"))},
    ),
    Endpoint(
        "health",
        "GET",
        "/v1/health",
        "Whether the server answers, and how busy it is.",
        {200: ("it does", JSON, _ref("Health"))},
    ),
    Endpoint(
        "openapi",
        "GET",
        "/openapi.json",
        "This document.",
        {200: ("OpenAPI 3.1", JSON, {"type": "object"})},
    ),
)

_FILE: Schema = {"type": "string", "format": "binary"}
_NUMBER: Schema = {"type": "number"}
_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}

_CONTROLS = {
    "mouth": ("strength of the lips' motion; closed lips stay closed", 1.2),
    "smooth": ("how much the mouth's motion is smoothed; above 0 a stream is 80 ms later", 0.5),
    "head": ("strength of the head's and the brows' motion", 0.5),
    "blinks": ("blinks a minute", 20),
}


def _object(required: Sequence[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": properties}


def _option_schemas(models: Sequence[str]) -> dict[str, Schema]:
    return {
        "image": _FILE | {"description": "JPEG, PNG, WebP, BMP or TIFF"},
        "audio": _FILE | {"description": "a recording, or a video with sound"},
        "model": {"type": "string", "enum": list(models), "default": models[0]},
        "show": {
            "type": "string",
            "enum": ["picture", "face", "maps"],
            "default": "picture",
            "description": "the whole picture; the bare face; attention, colour and face in a row",
        },
        "mark": {
            "type": "string",
            "enum": ["true", "false"],
            "default": "true",
            "description": 'a small visible "synthetic" in the picture',
        },
        "face": {"type": "integer", "minimum": 1, "description": "the N-th largest face"},
        "box": {
            "type": "string",
            "description": "where the face is, instead: x,y,width,height in pixels",
            "pattern": r"^[-0-9.]+(,[-0-9.]+){3}$",
        },
        **_control_schemas(),
    }


def _control_schemas() -> dict[str, Schema]:
    """Return the schemas of the `Controls` fields. Models without `moves` ignore them."""
    low, high = STRENGTH
    return {
        **{
            name: _control_schema(name, text, example)
            for name, (text, example) in _CONTROLS.items()
        },
        "still": {
            "type": "string",
            "enum": ["true", "false"],
            "default": str(DEFAULTS.still).lower(),
            "description": "only what speech moves: no head, brows, lids or gaze",
        },
        "seed": {
            "type": "integer",
            "minimum": 0,
            "maximum": SEEDS - 1,
            "default": DEFAULTS.seed,
            "description": "another performance of everything that speech leaves open",
            "examples": [7],
        },
        "express": {
            "type": "string",
            "default": "",
            "description": f"expressions to add, NAME=STRENGTH with commas between; a strength is "
            f"{low:g} to {high:g}, 1 where it is left out; a name is one of "
            + ", ".join(sorted(EXPRESSIONS)),
            "examples": ["smile=0.5,brows-up=1"],
        },
    }


def _control_schema(name: str, text: str, example: float) -> Schema:
    low, high = RANGES[name]
    return {
        "type": "number",
        "minimum": low,
        "maximum": high,
        "default": getattr(DEFAULTS, name),
        "description": text,
        "examples": [example],
    }


def _schemas(models: Sequence[str]) -> dict[str, Schema]:
    options = _option_schemas(models)
    lease = {
        "type": "number",
        "minimum": 0,
        "maximum": 3600,
        "description": "seconds: cancel the job when nobody asks for it for so long",
    }
    load = _object(["working", "waiting"], working=_COUNT, waiting=_COUNT)
    model = _object(
        ["name", "family", "good_at", "moves", "parameters", "licence", "training_data", "metrics"],
        name=_TEXT,
        family=_TEXT,
        good_at=_TEXT,
        moves={"type": "boolean", "description": "whether it takes the fields from mouth on"},
        parameters=_COUNT,
        licence=_TEXT,
        training_data=_TEXT,
        metrics={"type": "object", "additionalProperties": _NUMBER},
    )
    face = _object(
        ["number", "box"],
        number=_COUNT,
        box={"type": "array", "items": _NUMBER, "minItems": 4, "maxItems": 4},
    )
    job = _object(
        ["id", "state", "frames", "of"],
        id=_TEXT,
        state={"type": "string", "enum": ["waiting", "working", "done", "failed"]},
        frames=_COUNT,
        of=_COUNT | {"description": "frames in all; 0 while nobody knows"},
        ahead=_COUNT | {"description": "how many wait before it"},
        seconds_left={"type": ["number", "null"]},
        note=_TEXT | {"description": "how the face was found, where that matters"},
        error=_TEXT,
        status={"type": "integer", "description": "the status that `generate` would have given"},
        video=_TEXT | {"description": "where the file is, once it is done"},
    )
    return {
        "Video": _object(["image", "audio"], **options),
        "JobVideo": _object(["image", "audio"], **options, lease=lease),
        "Picture": _object(["image"], image=options["image"]),
        "Job": job,
        "Models": _object(
            ["models", "expressions"],
            models={"type": "array", "items": model},
            expressions={"type": "array", "items": _TEXT},
        ),
        "Faces": _object(
            ["width", "height", "faces"],
            width=_COUNT,
            height=_COUNT,
            faces={"type": "array", "items": face},
        ),
        "Limits": {"type": "object", "additionalProperties": _NUMBER},
        "Health": _object(["status", "files", "live"], status=_TEXT, files=load, live=load),
        "Error": _object(["error"], error=_TEXT | {"description": "one line: what to do"}),
    }


_MEANING = {
    400: "a form or an option that cannot be read",
    403: "sent by a page of another site",
    404: "there is no such job",
    408: "the client sent nothing for too long",
    409: "the job is not finished",
    413: "too large, too many pixels, or too long",
    415: "no picture or no recording that can be read",
    422: "no face was found, or not where it was said to be",
    429: "the server is busy: try again after Retry-After seconds",
    500: "the server failed",
}


def document(endpoints: Sequence[Endpoint], models: Sequence[str]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document. models: the available ones, the default first."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "talkingface",
            "version": __version__,
            "description": "One picture and one recording in, a video of that face speaking out. "
            "Live video comes by WebSocket from /v1/live: see docs/serving.md. Make a video only "
            "of people who agreed to it, or who do not exist.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {"schemas": _schemas(models)},
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in endpoint.query.items()
    ]
    if "{id}" in endpoint.path:
        parameters.append({"name": "id", "in": "path", "required": True, "schema": _TEXT})
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": {},
    }
    if endpoint.form:
        content = {FORM: {"schema": _ref(endpoint.form)}}
        operation["requestBody"] = {"required": True, "content": content}
    for status, (meaning, kind, schema) in endpoint.answers.items():
        answer: dict[str, Any] = {"description": meaning}
        operation["responses"][str(status)] = answer | (
            {"content": {kind: {"schema": schema}}} if kind else {}
        )
    for status in endpoint.errors:
        error: dict[str, Any] = {
            "description": _MEANING[status],
            "content": {JSON: {"schema": _ref("Error")}},
        }
        if status == 429:
            error["headers"] = {"Retry-After": {"schema": _COUNT}}
        operation["responses"][str(status)] = error
    return operation
