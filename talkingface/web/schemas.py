"""JSON of the HTTP interface, and its OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field

from talkingface.web.generate_options import DubOptions, FileOptions, JobOptions

FORM = "multipart/form-data"
_FILES: dict[str, dict[str, Any]] = {
    name: {"type": "string", "format": "binary", "description": description}
    for name, description in (
        ("image", "JPEG, PNG, WebP, AVIF or GIF"),
        ("audio", "a recording, or a video with sound"),
        ("video", "a video with a face"),
    )
}
# Forms and their files. uploads.py reads them while they come, so FastAPI does not know them.
FORMS: dict[str, tuple[type[BaseModel] | None, tuple[str, ...]]] = {
    "Video": (FileOptions, ("image", "audio")),
    "JobVideo": (JobOptions, ("image", "audio")),
    "Picture": (None, ("image",)),
    "Dub": (DubOptions, ("video", "audio")),
}


class Error(BaseModel):
    """Rejected request."""

    error: str = Field(description="one line: what to do")


class JobState(BaseModel):
    """State of a job. Fields that do not belong to its state are absent."""

    id: str
    frames: int = Field(ge=0)
    of: int = Field(ge=0, description="frames in all; 0 while nobody knows")
    state: Literal["waiting", "working", "done", "failed"]
    ahead: int | None = Field(default=None, description="how many wait before it")
    seconds_left: float | None = None
    error: str | None = None
    status: int | None = Field(
        default=None, description="the status that `generate` would have given"
    )
    video: str | None = Field(default=None, description="where the file is, once it is done")
    note: str | None = Field(default=None, description="how the face was found, where that matters")


class Face(BaseModel):
    """One face of a picture. box: x, y, width, height in pixels."""

    number: int = Field(ge=1)
    box: list[float] = Field(min_length=4, max_length=4)


class Faces(BaseModel):
    """Faces of a picture of so many pixels."""

    width: int
    height: int
    faces: list[Face]


class Model(BaseModel):
    """A model to choose."""

    name: str
    family: str
    good_at: str
    moves: bool = Field(description="whether it takes the fields from mouth on")
    parameters: int
    licence: str
    training_data: str
    metrics: dict[str, float]


class Models(BaseModel):
    """Models, the default first, and expressions."""

    models: list[Model]
    expressions: list[str]
    webrtc: bool = Field(description="whether live video can be sent by WebRTC")
    voice: str | None = Field(description="the voice that speaks a text; null where there is none")


class Load(BaseModel):
    """Requests of one kind."""

    working: int
    waiting: int


class Health(BaseModel):
    """State of the server."""

    status: Literal["ok"] = "ok"
    files: Load
    live: Load


class Ready(BaseModel):
    """The server takes new work."""

    status: Literal["ready"] = "ready"


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
    503: "the server cannot do it now, or the work took too long",
    507: "the server's disk is full",
}


def form(name: str) -> dict[str, Any]:
    """Return the OpenAPI description of a request with one of `FORMS`."""
    content = {FORM: {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    return {"requestBody": {"required": True, "content": content}}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of error responses."""
    found: dict[int | str, dict[str, Any]] = {
        status: {"model": Error, "description": _MEANING[status]} for status in statuses
    }
    if 429 in found:
        found[429]["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return found | {"default": {"model": Error, "description": "any other error"}}


def document(app: FastAPI, models: Sequence[str]) -> dict[str, Any]:
    """Return the OpenAPI document of `app`. models: the available ones, the default first."""
    described = app.openapi()
    schemas = described["components"]["schemas"]
    for name, (options, files) in FORMS.items():
        given = options.model_json_schema()["properties"] if options else {}
        properties = {file: _FILES[file] for file in files}
        properties |= {field: _as_text(schema) for field, schema in given.items()}
        if "model" in properties:
            properties["model"] |= {"enum": list(models), "default": models[0]}
        schemas[name] = {"type": "object", "properties": properties, **_required(files, properties)}
    for operations in described["paths"].values():
        for operation in operations.values():
            _describe_errors_as_json(operation["responses"])
    return described


def _required(files: Sequence[str], properties: dict[str, Any]) -> dict[str, Any]:
    """Return which fields a form must have: its files, or a text in place of the audio."""
    if "text" not in properties:
        return {"required": list(files)}
    others = [name for name in files if name != "audio"]
    return {"required": others, "oneOf": [{"required": ["audio"]}, {"required": ["text"]}]}


def _describe_errors_as_json(responses: dict[str, Any]) -> None:
    """Change the type of errors to JSON: FastAPI describes them as it does the video."""
    for status, answer in responses.items():
        if not status.startswith("2") and "content" in answer:
            answer["content"] = {"application/json": next(iter(answer["content"].values()))}


def _as_text(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an option with its default as a form has it."""
    default = schema.pop("default", None)
    if isinstance(default, bool):
        default = str(default).lower()
    return schema if default in (None, {}) else schema | {"default": default}
