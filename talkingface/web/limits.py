"""What a stranger may ask of the server, and how a refusal reads."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from talkingface import media, picture
from talkingface.audio import FPS
from talkingface.errors import (
    BadLandmarks,
    BadRequest,
    NoFaceFound,
    TalkingFaceError,
    UnknownModel,
    UnreadableMedia,
)

MEGA = 1_000_000


@dataclass(frozen=True)
class Limits:
    """How much of everything; what exceeds one is refused with a 4xx that names it.

    picture_mb, sound_mb: megabytes of an upload; megapixels: of a picture, as its header tells
    before it is decoded; live_minutes, file_minutes: of sound. jobs: files made at once; queue:
    files waiting; streams: live videos at once; kept: finished files not yet fetched, each for
    keep_minutes. patience: seconds that a client may neither send nor read while it is its turn;
    upload_minutes: for everything it sends. live_size, file_size: pixels of a video's long side.
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
    live_size: int = 640
    file_size: int = 1280


class Refused(Exception):
    """A request that is not answered: an HTTP status and one line that says what to do.

    retry_after: seconds after which it may be tried again.
    """

    def __init__(self, status: int, text: str, retry_after: int | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.retry_after = status, text, retry_after


_STATUS: dict[type[TalkingFaceError], int] = {
    UnreadableMedia: 415,
    NoFaceFound: 422,
    BadLandmarks: 422,
    BadRequest: 400,
    UnknownModel: 400,
}


# What the command line says to its users, as it is said here; the longest first.
_WORDS = {
    "--face x,y,width,height or --landmarks points.json": "a box around it: x,y,width,height",
    "--face x,y,width,height": "a box around it: x,y,width,height",
}


def refusal(error: TalkingFaceError, names: dict[Path, str]) -> Refused | None:
    """The refusal of what the user can mend; None for what only the server's owner can.

    names: what the client calls each file, whose own path is nobody's business.
    """
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), None)
    if status is None:
        return None
    text = " ".join(str(error).split())
    for words, instead in [*_WORDS.items(), *((str(path), name) for path, name in names.items())]:
        text = text.replace(words, instead)
    return Refused(status, text)


def check_picture(path: Path, limits: Limits) -> int:
    """The pixels of a picture's longer side, as its header tells: before it is decoded.

    Raises Refused for no picture, or for more pixels than are allowed.
    """
    with path.open("rb") as file:
        size = picture.header_size(file.read())
    if size is None:
        raise Refused(415, f"the picture is not {picture.KINDS}: convert it to one of these")
    width, height = size
    if width * height > limits.megapixels * MEGA:
        raise Refused(
            413,
            f"the picture has {width}x{height} pixels, at most {limits.megapixels:g} megapixels "
            "are taken: shrink it first",
        )
    return max(size)


def check_sound(path: Path, minutes: float) -> int:
    """How many frames a sound will have, by its time stamps: it is not decoded for that.

    Silence before it and in its holes counts. Raises Refused when it lasts longer than so many
    minutes, UnreadableMedia.
    """
    end = 0.0
    with media.opened(path, sound_only=True) as container:
        if not container.streams.audio:
            return 1  # whoever reads the sound says what is wrong
        stream = container.streams.audio[0]
        if stream.time_base is None:
            return 1
        unit = stream.time_base
        start = None if stream.start_time is None else float(stream.start_time * unit)
        clock = media.SoundClock(path, media.origin(container), start)
        for packet in container.demux(stream):
            if packet.pts is not None:
                clock.add(float(packet.pts * unit), float((packet.duration or 0) * unit))
                end = max(end, clock.length)
            if end > 60 * minutes + 1:  # coders pad the last packet
                raise too_long(minutes)
    return max(1, math.ceil(end * FPS))


def too_long(minutes: float) -> Refused:
    """The refusal of a sound."""
    return Refused(413, f"the sound is longer than {minutes:g} minutes, which is the most: cut it")
