"""Subtitles from SRT files: read, written as a track, or drawn into frames.

Pillow is imported when needed.
"""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from talkingface.errors import UnreadableMedia
from talkingface.types import PathLike, Picture

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from PIL.ImageFont import FreeTypeFont, ImageFont

_LARGEST = 4_000_000  # bytes of a file
_TIME = r"(\d{1,3}):(\d{2}):(\d{2})[,.](\d{1,3})"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}.*")
_STYLE = re.compile(r"</?[a-zA-Z][^>]*>|\{\\[^}]*\}")  # HTML-like tags, ASS overrides
# Fonts with many scripts, by their usual file names; else Pillow's own, which is Latin.
_FONTS = ("NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial.ttf", "LiberationSans-Regular.ttf")
_LINES_PER_HEIGHT = 18  # lines of text that would fill a picture
_LINE_DISTANCE = 1.4  # of the letters' size
_WIDTH = 0.9  # of the picture, for a line
_TICK = Fraction(1, 1000)  # seconds
# Without a header in the format of ASS, FFmpeg opens no encoder of subtitles.
_ASS_HEADER = (
    b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize\n"
    b"Style: Default,Arial,16\n\n[Events]\nFormat: Layer, Start, End, Style, Text\n\n"
)


@dataclass(frozen=True)
class Subtitle:
    """A text, of several lines or one, shown from start to end, seconds."""

    start: Fraction
    end: Fraction
    text: str


def read_srt(path: PathLike) -> list[Subtitle]:
    """Read an SRT file, in order of time; tags are left out. Raises UnreadableMedia."""
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST:
            raise UnreadableMedia(f"{path}: is larger than {_LARGEST} bytes; expected subtitles")
        data = path.read_bytes()
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8"
        raise UnreadableMedia(f"{path}: cannot be read ({reason}); expected an SRT file") from error
    found = _parsed(text)
    if not found:
        raise UnreadableMedia(
            f"{path}: has no subtitles; expected an SRT file, as 00:00:01,000 --> 00:00:02,500 and "
            "the text below"
        )
    return sorted(found, key=lambda own: own.start)


def _parsed(text: str) -> list[Subtitle]:
    found = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        lines = block.strip("\n").split("\n")
        at = next((k for k, line in enumerate(lines[:2]) if _TIMES.fullmatch(line)), None)
        times = _TIMES.fullmatch(lines[at]) if at is not None else None
        if at is None or times is None:
            continue
        start, end = _seconds(times.groups()[:4]), _seconds(times.groups()[4:])
        shown = _STYLE.sub("", "\n".join(lines[at + 1 :])).strip()
        if shown and end > start:
            found.append(Subtitle(start, end, shown))
    return found


def _seconds(parts: Sequence[str]) -> Fraction:
    hours, minutes, seconds, fraction = parts
    whole = 3600 * int(hours) + 60 * int(minutes) + int(seconds)
    return whole + Fraction(int(fraction.ljust(3, "0")), 1000)


class SubtitleTrack:
    """Subtitles as a track of a file under construction."""

    def __init__(self, encoder: str, subtitles: Sequence[Subtitle]) -> None:
        """encoder: "mov_text" or "webvtt"."""
        self._encoder, self._left = encoder, deque(subtitles)
        self._stream: Any = None

    def add_to(self, container: OutputContainer) -> None:
        """Add the stream to a file, before its first packet."""
        stream: Any = container.add_stream(self._encoder)
        stream.codec_context.subtitle_header = _ASS_HEADER
        stream.codec_context.time_base = _TICK
        self._stream = stream

    def packets(self, until: Fraction, at_end: bool = False) -> Iterator[Packet[Any]]:
        """Yield the texts that end before a time, seconds.

        at_end: the video ends there; a text that is still shown ends with it.
        """
        while self._left and (self._left[0].end <= until or at_end):
            own = self._left.popleft()
            if own.start < until:
                yield self._packet(own, min(own.end, until))

    def _packet(self, own: Subtitle, end: Fraction) -> Packet[Any]:
        import av

        data = own.text.encode()
        if self._encoder == "mov_text":  # 3GPP TS 26.245, 5.17: the length comes first
            data = data[: 2**16 - 1]
            data = struct.pack(">H", len(data)) + data
        packet = av.Packet(data)
        packet.pts = packet.dts = round(own.start / _TICK)
        packet.duration, packet.time_base = round((end - own.start) / _TICK), _TICK
        packet.stream = self._stream
        return packet


class SubtitlePainter:
    """Draws subtitles at the bottom of frames: white with a dark outline, wrapped."""

    def __init__(self, subtitles: Sequence[Subtitle]) -> None:
        self._subtitles = subtitles

    def __call__(self, picture: Picture, time: Fraction) -> Picture:
        """Return a frame, (H, W, 3) or (H, W, 4) uint8, with the texts of its time, seconds."""
        shown = [own.text for own in self._subtitles if own.start <= time < own.end]
        if not shown:
            return picture
        ink, cover = _drawn("\n".join(shown), *picture.shape[:2])
        out = picture.astype(np.float32)
        out[..., :3] += (ink - out[..., :3]) * cover
        if picture.shape[2] == 4:
            out[..., 3:] = np.maximum(out[..., 3:], 255 * cover)
        return np.rint(out).astype(np.uint8)


@lru_cache(maxsize=4)
def _drawn(text: str, height: int, width: int) -> tuple[Any, Any]:
    """Return a text as (H, W, 1) levels in [0, 255], and its opacity (H, W, 1) in [0, 1]."""
    from PIL import Image, ImageDraw

    size = max(12, min(height, width) // _LINES_PER_HEIGHT)
    font = _font(size)
    lines = _wrapped(text, font, _WIDTH * width)
    edge = max(1, size // 10)
    planes = []
    for stroke in (0, edge):
        plane = Image.new("L", (width, height))
        draw = ImageDraw.Draw(plane)
        for above, line in enumerate(reversed(lines)):  # Pillow's distance of lines has the stroke
            place = width / 2, height - size * (0.8 + _LINE_DISTANCE * above)
            draw.text(place, line, 255, font, "md", stroke_width=stroke)
        planes.append(np.asarray(plane, np.float32)[..., None])
    return planes[0], planes[1] / 255


def _font(size: int) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def _wrapped(text: str, font: FreeTypeFont | ImageFont, width: float) -> list[str]:
    """Break lines that are too long between words, and words that are longer than a line."""
    lines = []
    for given in text.split("\n"):
        line = ""
        for word in given.split():
            longer = f"{line} {word}".strip()
            if font.getlength(longer) <= width:
                line = longer
                continue
            if line:
                lines.append(line)
            line = word
            while font.getlength(line) > width and len(line) > 1:
                fits = next(n for n in range(len(line) - 1, 0, -1) if _fits(line[:n], font, width))
                lines.append(line[:fits])
                line = line[fits:]
        lines.append(line)
    return lines


def _fits(text: str, font: FreeTypeFont | ImageFont, width: float) -> bool:
    return len(text) == 1 or font.getlength(text) <= width
