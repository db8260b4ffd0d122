"""Forms with files, written to disk while they come, and refused as soon as they are too much."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from talkingface.web.limits import MEGA, Limits, Refused

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

Item = TypeVar("Item")

_LARGEST_FIELD = 1000  # bytes of a field that is no file
_LARGEST_HEAD = 4000  # bytes of all headers of one part
_MOST_PARTS = 20


@dataclass
class Form:
    """fields: name -> text; files: name -> where it lies."""

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)


def sizes(limits: Limits) -> dict[str, int]:
    """The files a client may send, and how many bytes each may have."""
    return {
        "image": round(limits.picture_mb * MEGA),
        "audio": round(limits.sound_mb * MEGA),
    }


async def receive(request: Request, folder: Path, most: Mapping[str, int], limits: Limits) -> Form:
    """Read a multipart/form-data body; its files go to `folder` under their fields' names.

    most: the files that are expected, and their limits in bytes. Raises Refused: 400, 408 (the
    client sends nothing), 413, 415; and ClientDisconnect.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise Refused(415, "send a form as multipart/form-data, with its files in it")
    whole = sum(most.values()) + _MOST_PARTS * (_LARGEST_FIELD + _LARGEST_HEAD)
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > whole:
        raise too_large("the request", whole)
    parts = _Parts(folder, most)
    with parts.closing():
        parser = MultipartParser(options[b"boundary"], parts.callbacks())
        async with aclosing(timed(request.stream(), limits)) as chunks:
            async for chunk in chunks:
                await run_in_threadpool(_feed, parser, chunk)
        if not parts.complete:
            raise Refused(400, "the form breaks off before its end")
    missing = [name for name in most if name not in parts.form.files]
    if missing:
        raise Refused(400, f"the form lacks {' and '.join(missing)}: send it as a file")
    return parts.form


async def timed(chunks: AsyncIterator[Item], limits: Limits) -> AsyncGenerator[Item, None]:
    """The same items. Raises Refused (408) when the client takes too long, for one or for all."""
    source, clock = chunks.__aiter__(), asyncio.get_running_loop().time
    end = clock() + 60 * limits.upload_minutes
    while True:
        left = end - clock()
        try:
            chunk = await asyncio.wait_for(anext(source, None), min(limits.patience, left))
        except asyncio.TimeoutError:
            late = left < limits.patience
            most = f"{limits.upload_minutes:g} minutes" if late else f"{limits.patience:g} s"
            raise Refused(408, f"nothing more came within {most}: send it again") from None
        if chunk is None:
            return
        yield chunk


def too_large(what: str, most: int) -> Refused:
    """The refusal of an upload."""
    return Refused(413, f"{what} is too large: at most {most / MEGA:g} MB are taken")


def _feed(parser: MultipartParser, chunk: bytes) -> None:
    try:
        parser.write(chunk)
    except MultipartParseError as error:
        raise Refused(400, f"the form cannot be read ({error})") from error


class _Parts:
    """What the parser calls: gathers the parts of a form."""

    def __init__(self, folder: Path, most: Mapping[str, int]) -> None:
        self.form, self.complete = Form(), False
        self._folder, self._most = folder, most
        self._head: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._key, self._value = b"", b""
        self._name, self._text, self._room, self._parts = "", b"", 0, 0
        self._file: BinaryIO | None = None

    def callbacks(self) -> MultipartCallbacks:
        """For MultipartParser."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._head_key,
            "on_header_value": self._head_value,
            "on_header_end": self._head_end,
            "on_headers_finished": self._open,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Close the file that is being written, whatever happens."""
        try:
            yield
        finally:
            if self._file is not None:
                self._file.close()

    def _begin(self) -> None:
        self._parts += 1
        self._head, self._head_bytes, self._key, self._value = [], 0, b"", b""
        if self._parts > _MOST_PARTS:
            raise Refused(400, f"the form has more than {_MOST_PARTS} parts")

    def _head_key(self, data: bytes, start: int, end: int) -> None:
        self._key += self._short(data, start, end)

    def _head_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._short(data, start, end)

    def _short(self, data: bytes, start: int, end: int) -> bytes:
        self._head_bytes += end - start
        if self._head_bytes > _LARGEST_HEAD:
            raise Refused(400, f"a part of the form has more than {_LARGEST_HEAD} bytes of headers")
        return data[start:end]

    def _head_end(self) -> None:
        self._head.append((self._key.lower(), self._value))
        self._key, self._value = b"", b""

    def _open(self) -> None:
        _, options = parse_options_header(dict(self._head).get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name in self.form.files or self._name in self.form.fields:
            raise Refused(400, f"the form has {self._name[:40]!r} twice")
        if b"filename" in options or self._name in self._most:
            if self._name not in self._most:
                known = ", ".join(self._most)
                raise Refused(400, f"{self._name[:40]!r} is no file of this form; known: {known}")
            self._room = self._most[self._name]
            self.form.files[self._name] = self._folder / self._name
            self._file = self.form.files[self._name].open("wb")
        else:
            self._room, self._text = _LARGEST_FIELD, b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._room -= end - start
        if self._room < 0:
            most = self._most.get(self._name, _LARGEST_FIELD)
            raise too_large(f"{self._name[:40]!r}", most)
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
