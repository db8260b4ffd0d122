"""Limits of the server for its clients, and the errors that it returns."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from talkingface import media, picture, stored_video
from talkingface.audio import FPS
from talkingface.errors import (
    BadLandmarks,
    BadRequest,
    DecodingFailed,
    NoFaceFound,
    TalkingFaceError,
    UnknownModel,
    UnreadableMedia,
)
from talkingface.web.errors import ApiError

MEGA = 1_000_000
_PACKETS_PER_SECOND = 400  # more than codecs use: most have 50 or 94


@dataclass(frozen=True)
class Limits:
    """Limits of the server. A request over a limit gets a 4xx error that names the limit.

    picture_mb, sound_mb: megabytes of an upload. megapixels: size of a picture according to its
    header. live_minutes, file_minutes: length of the sound. jobs: files generated at once. queue:
    files that may wait. streams: live videos at once. kept: finished files that are not yet
    fetched, each kept for keep_minutes. patience: timeout in seconds for a client that should send
    or read. upload_minutes: time for a whole upload. upload_rate: least kB per second of an upload,
    counted after upload_grace seconds. uploads_mb: all uploads that are not complete. per_client:
    requests with an upload at once from one address, kept files included. work_minutes: time for
    the work of one request. idle_seconds: time of a connection without a request. connections:
    connections at once. drain_seconds: time that work has to end after SIGTERM. live_size,
    file_size: pixels of a video's longer side. The field names are part of the HTTP interface
    (/v1/limits). Raises BadRequest for a number that is no limit.
    """

    picture_mb: float = 25
    sound_mb: float = 200
    megapixels: float = 64
    live_minutes: float = 10
    file_minutes: float = 60
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)
    queue: int = 8
    streams: int = field(default_factory=lambda: os.cpu_count() or 1)
    kept: int = 32
    keep_minutes: float = 10
    patience: float = 30
    upload_minutes: float = 10
    upload_rate: float = 10
    upload_grace: float = 10
    uploads_mb: float = 4000
    per_client: int = 8
    work_minutes: float = 120
    idle_seconds: float = 10
    connections: int = 1000
    drain_seconds: float = 30
    live_size: int = 640
    file_size: int = 1280

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if not 0 <= value < math.inf:
                raise BadRequest(
                    f"--{limit.name.replace('_', '-')} {value:g}: give a finite number from 0"
                )

    def share(self, number: int, workers: int) -> Limits:
        """Return the limits of one of several processes: its share of what is counted for all.

        number: of the process, from 0. Requests of one address are counted by each process. Raises
        BadRequest when a process would have no place.
        """
        for name, least in (("jobs", self.jobs), ("streams", self.streams)):
            if least < workers:
                raise BadRequest(
                    f"--{name} {least}: with --workers {workers} give at least {workers}, one each"
                )
        counted = ("jobs", "queue", "streams", "kept", "connections")
        parts = {own: getattr(self, own) // workers for own in counted}
        more = {own: number < getattr(self, own) % workers for own in counted}
        own = {name: part + more[name] for name, part in parts.items()}
        return replace(self, uploads_mb=self.uploads_mb / workers, **own)


_STATUS: dict[type[TalkingFaceError], int] = {
    UnreadableMedia: 415,
    NoFaceFound: 422,
    BadLandmarks: 422,
    BadRequest: 400,
    UnknownModel: 400,
}


# Advice of the command line and its replacement for clients; the longest first.
_REWORDED = {
    "--face x,y,width,height or --landmarks points.json": "a box around it: x,y,width,height",
    "--face x,y,width,height": "a box around it: x,y,width,height",
}


@contextmanager
def api_errors(names: Mapping[Path, str]) -> Iterator[None]:
    """Raise errors that the client can correct as ApiError.

    names: the client's name for each file, which replaces the path in the text.
    """
    try:
        yield
    except TalkingFaceError as error:
        status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), None)
        if status is None:
            raise
        text = " ".join(str(error).split())
        for words, instead in (*_REWORDED.items(), *names.items()):
            text = text.replace(str(words), instead)
        raise ApiError(status, text) from error


def check_picture(path: Path, limits: Limits) -> int:
    """Return the pixels of a picture's longer side from its header, without decoding.

    Raises ApiError for a file that is no picture, a TIFF or BMP, or for too many pixels; and
    DecodingFailed.
    """
    try:
        width, height = picture.open_size(path, picture.WEB_FORMATS)
    except DecodingFailed:  # says more than that it is no picture
        raise
    except UnreadableMedia as error:
        text = f"the picture is not {picture.WEB_KINDS}: convert it to one of these"
        raise ApiError(415, text) from error
    if width * height > limits.megapixels * MEGA:
        raise ApiError(
            413,
            f"the picture has {width}x{height} pixels, at most {limits.megapixels:g} megapixels "
            "are taken: shrink it first",
        )
    return max(width, height)


def check_video(path: Path, limits: Limits) -> None:
    """Raise ApiError for a video of too many pixels or frames; and UnreadableMedia."""
    found = stored_video.open_stored(path)
    width, height = found.layout.width, found.layout.height
    if width * height > limits.megapixels * MEGA:
        raise ApiError(
            413,
            f"the video has {width}x{height} pixels, at most {limits.megapixels:g} megapixels are "
            "taken: shrink it first",
        )
    if found.frames > 60 * limits.file_minutes * found.rate + 1:
        raise ApiError(
            413,
            f"the video is longer than {limits.file_minutes:g} minutes, which is the most: cut it",
        )


def check_sound(path: Path, minutes: float, check: Callable[[], None] = lambda: None) -> int:
    """Return the number of video frames of a sound from its time stamps, without decoding.

    check: called often meanwhile; what it raises ends the work. Raises ApiError when the sound is
    longer than `minutes`, or has more packets than so long a one needs; and UnreadableMedia.
    """
    end = 0.0
    with closing(media.sound_lengths(path)) as lengths:
        for number, end in enumerate(lengths):
            check()
            too_many = number * media.PACKETS > 60 * minutes * _PACKETS_PER_SECOND + 10_000
            if end > 60 * minutes + 1 or too_many:  # encoders pad the last packet
                raise sound_too_long(minutes)
    return max(1, math.ceil(end * FPS))


def sound_too_long(minutes: float) -> ApiError:
    """Return the error for a sound that is too long."""
    return ApiError(413, f"the sound is longer than {minutes:g} minutes, which is the most: cut it")
