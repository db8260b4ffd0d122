"""Join the encoded parts of a dubbed video without a new encoding; add sound and subtitles."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talkingface import media
from talkingface.dubbing.timeline import Timeline
from talkingface.errors import OutputError
from talkingface.sound_writing import SoundTrack
from talkingface.stored_tracks import StoredTracks
from talkingface.subtitles import Subtitle, SubtitleTrack
from talkingface.video_formats import VideoFormat

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

_DELAY = {"h264": 2, "hevc": 2}  # frames by which decoding is ahead of showing, by codec


@dataclass(frozen=True)
class Joined:
    """Parts of a file.

    parts: encoded videos of `count` frames each, the last of fewer; their times begin at 0.
    timeline, unit: when all frames are shown; seconds of a tick. display: matrix, 9 numbers or [].
    codec_tag: by which the container names the codec, None for its usual one. tag: the comment.
    """

    parts: Sequence[Path]
    count: int
    timeline: Timeline
    unit: Fraction
    display: Sequence[int]
    codec_tag: str | None
    sound: SoundTrack | None
    tracks: StoredTracks
    tag: str


def join(path: Path, target: Path, kind: VideoFormat, joined: Joined) -> None:
    """Write a file. path: what errors name; target: what is written. Raises OutputError."""
    import av

    with media.writing(path, av.FFmpegError, OSError):
        options = dict(kind.container.options)
        with (
            av.open(
                str(target), "w", format=kind.container.format, container_options=options
            ) as out,
            av.open(str(joined.parts[0])) as first,
        ):
            video = _add_video(out, first.streams.video[0], joined)
            others = _add_others(out, kind, joined)
            out.metadata.update(_metadata(joined))
            out.set_chapters(_chapters(joined))
            for packet, now in _video_packets(joined, video):
                out.mux(packet)
                for track in others:
                    out.mux(list(track.packets(now)))
            for track in others:
                out.mux(list(_rest(track, joined.timeline.end * joined.unit)))


def _metadata(joined: Joined) -> Mapping[str, str]:
    return joined.tracks.metadata | {"comment": joined.tag}


def _chapters(joined: Joined) -> list[Any]:
    end = joined.timeline.end * joined.unit
    unit = Fraction(1, 1000)
    return [
        {
            "id": number,
            "start": round(start / unit),
            "end": round(min(stop, end) / unit),
            "time_base": unit,
            "metadata": {"title": title} if title else {},
        }
        for number, (start, stop, title) in enumerate(joined.tracks.chapters, start=1)
        if start < end
    ]


def _add_video(out: Any, template: Any, joined: Joined) -> VideoStream:
    stream: VideoStream = out.add_stream_from_template(template, opaque=True)
    stream.time_base = joined.unit
    if joined.codec_tag is not None:
        stream.codec_context.codec_tag = joined.codec_tag
    if joined.display:
        stream.set_display_matrix(joined.display)
    return stream


def _add_others(out: Any, kind: VideoFormat, joined: Joined) -> list[Any]:
    """Add the sound and the subtitles."""
    found: list[Any] = []
    if joined.sound is not None:
        joined.sound.add_to(out)
        found.append(joined.sound)
    for texts, language in zip(joined.tracks.texts, joined.tracks.languages, strict=True):
        if kind.subtitles is not None and texts:
            track = SubtitleTrack(
                kind.subtitles, [Subtitle(own.start, own.end, own.text) for own in texts]
            )
            before = len(out.streams)
            track.add_to(out)
            if language:
                out.streams[before].metadata["language"] = language
            found.append(track)
    return found


def _rest(track: Any, end: Fraction) -> Iterator[Packet[Any]]:
    if isinstance(track, SubtitleTrack):
        yield from track.packets(end, at_end=True)
    else:
        yield from track.packets(end)
        yield from track.finish()


def _video_packets(joined: Joined, stream: VideoStream) -> Iterator[tuple[Packet[Any], Fraction]]:
    """The packets of all parts with their times in the whole; seconds up to which they are."""
    import av

    starts, unit = joined.timeline.starts, joined.unit
    lengths, number, delay = list(joined.timeline.lengths()), 0, 0
    for part, path in enumerate(joined.parts):
        offset = starts[part * joined.count]
        with av.open(str(path)) as container:
            source = container.streams.video[0]
            delay = _DELAY.get(source.codec_context.codec.canonical_name, 0)
            for packet in container.demux(source):
                if packet.pts is None or packet.time_base is None:
                    continue
                shown = offset + round(packet.pts * packet.time_base / unit)
                late = number - delay
                decoded = starts[late] if late >= 0 else late * lengths[0]
                packet.time_base, packet.stream = unit, stream
                packet.pts, packet.dts = shown, decoded
                packet.duration = lengths[bisect.bisect_left(starts, shown)]
                yield packet, starts[number] * unit
                number += 1
    if number != len(starts):
        raise OutputError(f"{joined.parts[-1]}: {number} frames of {len(starts)} are there")
