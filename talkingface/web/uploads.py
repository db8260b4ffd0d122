"""Upload of forms with files: written to disk while received, rejected as soon as too large."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import anyio
from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from talkingface.web.client_quota import ByteBudget
from talkingface.web.errors import ApiError
from talkingface.web.generate_options import LONGEST_TEXT
from talkingface.web.limits import MEGA, Limits

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_END: Any = object()
_LARGEST_FIELD = 1000  # bytes of a field that is no file
_LARGEST_TEXT = 4 * LONGEST_TEXT  # bytes of a text, as UTF-8
_INSTEAD = {"audio": "text"}  # a field in place of a file
_LARGEST_HEADERS = 4000  # bytes of all headers of one part
_MOST_PARTS = 20
_KILO = 1000

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # else anybody can fill the log


@dataclass
class Form:
    """A received form. fields: name -> text. files: name -> path."""

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)


def sizes(limits: Limits) -> dict[str, int]:
    """Return the file fields of a form and the most bytes of each."""
    return {
        "image": round(limits.picture_mb * MEGA),
        "audio": round(limits.sound_mb * MEGA),
    }


def dub_sizes(limits: Limits) -> dict[str, int]:
    """Return the same of a form to dub a video."""
    most = round(limits.sound_mb * MEGA)
    return {"video": most, "audio": most}


async def receive(
    request: Request, folder: Path, most: Mapping[str, int], limits: Limits, budget: ByteBudget
) -> Form:
    """Read a multipart/form-data body. Its files are written to `folder`, named as their fields.

    most: the expected files and their limits in bytes. budget: of all uploads.
    Raises ApiError: 400, 408 (the client sends nothing, or too slowly), 413, 415, 429; and
    ClientDisconnect.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise ApiError(415, "send a form as multipart/form-data, with its files in it")
    whole = sum(most.values()) + _MOST_PARTS * (_LARGEST_FIELD + _LARGEST_HEADERS)
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > whole:
        raise upload_too_large("the request", whole)
    parts, received = _FormReader(folder, most), 0
    with ExitStack() as stack:
        stack.callback(parts.close)
        spend = stack.enter_context(budget.upload())
        parser = _parser(options[b"boundary"], parts)
        async with aclosing(timed(request.stream(), limits)) as chunks:
            async for chunk in chunks:
                received += len(chunk)
                spend(len(chunk))
                if received > whole:  # counts what follows the form's end, too
                    raise upload_too_large("the request", whole)
                await run_in_threadpool(_feed, parser, chunk)
        if not parts.complete:
            raise ApiError(400, "the form breaks off before its end")
    _check_complete(parts.form, most)
    return parts.form


def _check_complete(form: Form, most: Mapping[str, int]) -> None:
    """Raise ApiError (400) when a file is missing, or is there and replaced by a text too."""
    missing = []
    for name in most:
        instead = _INSTEAD.get(name, "")
        if name in form.files and form.fields.get(instead):
            raise ApiError(400, f"the form has {name} and {instead}: give one of them")
        if name not in form.files and not form.fields.get(instead):
            missing.append(name)
    if missing:
        raise ApiError(400, f"the form lacks {' and '.join(missing)}: send it as a file")


async def timed(
    chunks: AsyncIterator[Any], limits: Limits, counted: bool = True
) -> AsyncGenerator[Any, None]:
    """Yield the items. Raises ApiError (408) when one of them, or all, take too long.

    counted: items are bytes that must come at `limits.upload_rate`.
    """
    source, clock = chunks.__aiter__(), asyncio.get_running_loop().time
    began, received = clock(), 0
    end = began + 60 * limits.upload_minutes
    while True:
        waits = [
            (limits.patience, f"nothing more came within {limits.patience:g} s"),
            (end - clock(), f"nothing more came within {limits.upload_minutes:g} minutes"),
        ]
        if counted:
            waits.append((began + _time_for(received, limits) - clock(), _too_slow(limits)))
        seconds, problem = min(waits)
        try:
            chunk = await asyncio.wait_for(anext(source, _END), seconds)
        except asyncio.TimeoutError:
            raise ApiError(408, f"{problem}: send it again") from None
        if chunk is _END:
            return
        received += len(chunk) if counted else 0
        yield chunk


@asynccontextmanager
async def time_for(size: int, limits: Limits) -> AsyncIterator[None]:
    """Receive `size` bytes in the block. Raises ApiError (408) when it takes too long."""
    try:
        with anyio.fail_after(_time_for(size, limits)):
            yield
    except TimeoutError:
        raise ApiError(408, f"{_too_slow(limits)}: send it again") from None


def _time_for(size: int, limits: Limits) -> float:
    return max(limits.upload_grace, size / (_KILO * limits.upload_rate))


def _too_slow(limits: Limits) -> str:
    return f"the upload is slower than {limits.upload_rate:g} kB/s"


def upload_too_large(what: str, most: int) -> ApiError:
    """Return the error for an upload that is too large."""
    return ApiError(413, f"{what} is too large: at most {most / MEGA:g} MB are taken")


def _parser(boundary: bytes, parts: _FormReader) -> MultipartParser:
    try:
        return MultipartParser(boundary, parts.callbacks())
    except FormParserError as error:
        raise ApiError(400, f"the form cannot be read ({error})") from error


def _feed(parser: MultipartParser, chunk: bytes) -> None:
    try:
        parser.write(chunk)
    except MultipartParseError as error:
        raise ApiError(400, f"the form cannot be read ({error})") from error


class _FormReader:
    """Callbacks of the multipart parser: collect the parts of a form."""

    def __init__(self, folder: Path, most: Mapping[str, int]) -> None:
        self.form, self.complete = Form(), False
        self._folder, self._most = folder, most
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._key, self._value = b"", b""
        self._name, self._text, self._bytes_left, self._parts = "", b"", 0, 0
        self._file: BinaryIO | None = None

    def callbacks(self) -> MultipartCallbacks:
        """Return the callbacks for MultipartParser."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._open,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def close(self) -> None:
        """Close the file that is being written."""
        if self._file is not None:
            self._file.close()

    def _begin(self) -> None:
        self._parts += 1
        self._headers, self._header_bytes, self._key, self._value = {}, 0, b"", b""
        if self._parts > _MOST_PARTS:
            raise ApiError(400, f"the form has more than {_MOST_PARTS} parts")

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._key += self._checked(data, start, end)

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._checked(data, start, end)

    def _checked(self, data: bytes, start: int, end: int) -> bytes:
        self._header_bytes += end - start
        if self._header_bytes > _LARGEST_HEADERS:
            raise ApiError(
                400, f"a part of the form has more than {_LARGEST_HEADERS} bytes of headers"
            )
        return data[start:end]

    def _header_end(self) -> None:
        self._headers[self._key.lower()] = self._value
        self._key, self._value = b"", b""

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name in self.form.files or self._name in self.form.fields:
            raise ApiError(400, f"the form has {self._name[:40]!r} twice")
        if b"filename" in options or self._name in self._most:
            if self._name not in self._most:
                known = ", ".join(self._most)
                raise ApiError(400, f"{self._name[:40]!r} is no file of this form; known: {known}")
            self._bytes_left = self._most[self._name]
            self.form.files[self._name] = self._folder / self._name
            self._file = self.form.files[self._name].open("wb")
        else:
            self._bytes_left = _LARGEST_TEXT if self._name == "text" else _LARGEST_FIELD
            self._text = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._bytes_left -= end - start
        if self._bytes_left < 0 and self._name == "text":
            raise ApiError(400, f"text is too long: give at most {LONGEST_TEXT} characters")
        if self._bytes_left < 0:
            most = self._most.get(self._name, _LARGEST_FIELD)
            raise upload_too_large(f"{self._name[:40]!r}", most)
        if self._file is not None:
            self._file.write(data[start:end])
        else:
            self._text += data[start:end]

    def _end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        else:
            self.form.fields[self._name] = self._text.decode("utf-8", "replace")

    def _finish(self) -> None:
        self.complete = True
