"""Text subtitles, chapters and metadata of a video file, to be written into another.

They are read in the decoding process (`decoding`). PyAV is imported inside the functions (see
`media`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from talkingface import decoding, media

# Codecs of text subtitles, by FFmpeg's names of their decoders.
_TEXTS = ("subrip", "srt", "text", "mov_text", "webvtt", "ass", "ssa")
_ASS_FIELDS = 8  # before the text of an event
_STYLE = re.compile(r"</?[a-zA-Z][^>]*>|\{\\[^}]*\}")  # HTML-like tags, ASS overrides
_BATCH = 200  # texts that are sent together
_MOST = 100_000  # texts
# Metadata that describe the old file, not its content.
_OF_THE_FILE = re.compile(r"major_brand|minor_version|compatible_brands|encoder|comment", re.I)


@dataclass(frozen=True)
class StoredText:
    """A text of subtitles, shown from start to end, seconds from the video's first frame."""

    start: Fraction
    end: Fraction
    text: str


@dataclass(frozen=True)
class StoredTracks:
    """Tracks and facts of a file beside its pictures and its sound.

    texts: subtitles by track. languages: of these tracks, "" where unknown. chapters: (start, end,
    title), seconds. metadata: names and values. sounds: number of sound tracks. left: kinds of
    tracks that cannot be read.
    """

    texts: list[list[StoredText]] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    chapters: list[tuple[Fraction, Fraction, str]] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    sounds: int = 0
    left: list[str] = field(default_factory=list)


def read_tracks(path: Path) -> StoredTracks:
    """Read subtitles, chapters and metadata. Raises UnreadableMedia."""
    found = (
        ((own.value for own in decoding.answers("stored_tracks", path)))
        if decoding.is_contained()
        else decode_tracks(path)
    )
    head = next(found)
    texts: list[list[StoredText]] = [[] for _ in head["languages"]]
    for batch in found:
        for track, start, end, text in batch:
            texts[track].append(StoredText(Fraction(start), Fraction(end), text))
    chapters = [(Fraction(start), Fraction(end), title) for start, end, title in head["chapters"]]
    return StoredTracks(**head | {"texts": texts, "chapters": chapters})


def decode_tracks(path: Path) -> Iterator[Any]:
    """Yield the facts as values of JSON, then lists of (track, start, end, text)."""
    with media.opened(path) as container:
        zero = Fraction(str(media.origin(container) or 0))
        chapters: list[Any] = list(container.chapters())
        streams = [s for s in container.streams.subtitles if _codec(s) in _TEXTS]
        others = {s.type for s in container.streams if s.type in ("subtitle", "data", "attachment")}
        if len(streams) == len(container.streams.subtitles):
            others.discard("subtitle")
        if chapters:  # mp4 keeps their titles in a track of data
            others.discard("data")
        yield {
            "languages": [str(s.metadata.get("language", "")) for s in streams],
            "chapters": [
                [
                    str(max(Fraction(0), own["start"] * own["time_base"] - zero)),
                    str(max(Fraction(0), own["end"] * own["time_base"] - zero)),
                    str(own["metadata"].get("title", "")),
                ]
                for own in chapters
            ],
            "metadata": {
                name: value
                for name, value in container.metadata.items()
                if not _OF_THE_FILE.fullmatch(name)
            },
            "sounds": len(container.streams.audio),
            "left": sorted(others),
        }
        batch: list[Any] = []
        indices = {stream.index: track for track, stream in enumerate(streams)}
        for number, packet in enumerate(container.demux(*streams) if streams else ()):
            if packet.pts is None or packet.time_base is None or number >= _MOST:
                continue
            start = packet.pts * packet.time_base - zero
            end = start + (packet.duration or 0) * packet.time_base
            text = _text(_codec(packet.stream), bytes(packet))
            if text and end > max(start, Fraction(0)):
                batch.append([indices[packet.stream.index], str(max(start, 0)), str(end), text])
            if len(batch) == _BATCH:
                yield batch
                batch = []
        yield batch


def _codec(stream: Any) -> str:
    return "" if stream.codec_context is None else str(stream.codec_context.name)


def _text(codec: str, data: bytes) -> str:
    """The text of a packet without styles."""
    if codec == "mov_text":  # 3GPP TS 26.245, 5.17: the length comes first, styles last
        data = data[2 : 2 + int.from_bytes(data[:2], "big")]
    text = data.decode("utf-8", "replace")
    if codec in ("ass", "ssa"):
        text = ",".join(text.split(",")[_ASS_FIELDS:]).replace("\\N", "\n").replace("\\n", "\n")
    return _STYLE.sub("", text).replace("\r", "").strip("\n\0 ")
