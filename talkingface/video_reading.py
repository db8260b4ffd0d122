"""Video files read in this process; `video` has them read in another.

Torch is not imported: a decoding process starts quickly.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from talkingface import media
from talkingface.errors import UnreadableMedia
from talkingface.types import Picture

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_FPS = 25  # frames per second of a file that does not tell
_STILL = 10.0  # seconds that a frame may be shown before that is a hole in the video
_PART = 100  # frames that are decoded for one answer of `inspect`
# NAL units of type 6 are "supplemental enhancement information", in which x264 notes its settings.
_WITHOUT_NOTES = "filter_units=remove_types=6"
_MARGIN = 64  # bytes of room beside an index


@dataclass(frozen=True)
class VideoInfo:
    """Facts of a video file.

    fps: frames per second, on average; width, height: pixels as shown (after its rotation);
    seconds: length; has_audio: a sound track is there; tag: its comment, where `write` puts `tag`.
    """

    fps: float
    width: int
    height: int
    seconds: float
    has_audio: bool
    tag: str | None


@dataclass(frozen=True)
class Codecs:
    """Codecs of a video: FFmpeg's names of its decoders and of its pixel format."""

    video: str
    sound: str
    pixels: str


def probe(path: Path) -> VideoInfo:
    """Size, rate and length of a video. Raises UnreadableMedia."""
    with media.opened(path) as container:
        stream = required_stream(path, container)
        first = next(media.decoded(path, container, stream), None)
        if first is None:
            raise UnreadableMedia(f"{path}: a video without a single frame")
        height, width = _upright(first).shape[:2]
        length = (container.duration or 0) / 1e6
        if stream.duration and stream.time_base:
            length = float(stream.duration * stream.time_base)
        return VideoInfo(
            fps=float(stream.average_rate or _FPS),
            width=width,
            height=height,
            seconds=length,
            has_audio=bool(container.streams.audio),
            tag=container.metadata.get("comment"),
        )


def first_frame(path: Path) -> Picture:
    """The first frame of a video, (H, W, 3) uint8 RGB. Raises UnreadableMedia."""
    with media.opened(path) as container:
        stream = required_stream(path, container)
        frame = next(media.decoded(path, container, stream), None)
        if frame is None:
            raise UnreadableMedia(f"{path}: a video without a single frame")
        return _upright(frame)


def required_stream(path: Path, container: InputContainer) -> VideoStream:
    """Return the video stream of a file. Raises UnreadableMedia."""
    stream = media.video_stream(container)
    if stream is None:
        raise UnreadableMedia(f"{path}: has no video; {media.FILE_KINDS}")
    media.require_codec(path, stream)
    stream.thread_type = "AUTO"
    return stream


def _upright(frame: VideoFrame) -> Picture:
    """(H, W, 3) RGB, turned as the file's display matrix says."""
    turns = round(frame.rotation / 90) % 4
    picture = np.rot90(frame.to_ndarray(format="rgb24"), turns)
    return np.ascontiguousarray(picture, dtype=np.uint8)


def read_frames(path: Path, fps: int) -> Iterator[Picture]:
    """Read as `video.read_frames` does."""
    holes = media.Holes(path, "pictures")
    with media.opened(path) as container:
        stream = required_stream(path, container)
        step = 1 / (stream.average_rate or Fraction(_FPS))
        shown, given, start = None, 0, None
        now = Fraction(0)
        for frame in media.decoded(path, container, stream):
            start, before, now = _times(frame, start, now, step)
            holes.add(float(now - before) - _STILL)
            if shown is not None:
                picture = None
                while Fraction(given, fps) < (before + now) / 2:
                    picture = _upright(shown) if picture is None else picture
                    yield picture
                    given += 1
            shown = frame
        if shown is None:
            raise UnreadableMedia(f"{path}: a video without a single frame")
        holes.add(float(step) - _STILL)
        missing = max(given == 0, round((now + step) * fps) - given)
        yield from itertools.repeat(_upright(shown), missing)


def _times(
    frame: VideoFrame, start: Fraction | None, last: Fraction, step: Fraction
) -> tuple[Fraction, Fraction, Fraction]:
    """(the clip's start, the time of the frame before, this frame's time), seconds."""
    if frame.pts is not None and frame.time_base is not None:
        stamp = frame.pts * frame.time_base
        if start is None:
            return stamp, Fraction(0), Fraction(0)
        return start, last, max(last, stamp - start)
    return (start, last, last + step) if start is not None else (Fraction(0), last, last)


def is_whole(path: Path) -> bool:
    """Return whether a video tells its length and is as long as its boxes. UnreadableMedia."""
    with media.opened(path) as container:
        return media.video_stream(container) is not None and bool(container.duration)


def inspect(path: Path) -> Iterator[Codecs]:
    """Decode all pictures of a video with sound, to find damage; yield its codecs meanwhile.

    Raises UnreadableMedia, also at the end.
    """
    with media.opened(path) as container:
        stream = required_stream(path, container)
        if not container.streams.audio:
            raise UnreadableMedia(f"{path}: has no sound; mux the recording into it")
        sound = container.streams.audio[0]
        media.require_codec(path, sound)
        pixels = str(stream.codec_context.pix_fmt)
        found = Codecs(stream.codec_context.name, sound.codec_context.name, pixels)
        for number, _ in enumerate(media.decoded(path, container, stream)):
            if number % _PART == 0:
                yield found
        yield found


def stripped(path: Path) -> bytes:
    """Return the first video and sound stream as an mp4 that holds nothing else.

    Metadata, chapters, subtitles, attachments and the encoder's notes inside H.264 are dropped.
    Pictures and sound are not encoded again. Its index comes first, so that it plays while it is
    loaded. Raises UnreadableMedia.
    """
    index_last = _copied(path, {})
    index = len(index_last) - _place_of_index(index_last)
    return _copied(path, {"moov_size": str(index + _MARGIN)})


def _place_of_index(mp4: bytes) -> int:
    """The offset of the `moov` box, which is the last one (ISO 14496-12, 4.2)."""
    at = 0
    while mp4[at + 4 : at + 8] != b"moov":
        size = int.from_bytes(mp4[at : at + 4], "big")
        at += size if size != 1 else int.from_bytes(mp4[at + 8 : at + 16], "big")
    return at


def _copied(path: Path, options: dict[str, str]) -> bytes:
    """An mp4 of the packets of the first video and sound stream. options: of FFmpeg's muxer."""
    import av

    out = io.BytesIO()
    with media.opened(path) as container:
        picture = required_stream(path, container)
        streams: list[Any] = [picture, *container.streams.audio[:1]]
        bitexact = {"fflags": "+bitexact"}  # no muxer's name
        with av.open(out, "w", format="mp4", container_options=bitexact | options) as written:
            copies = {own.index: written.add_stream_from_template(own) for own in streams}
            notes = av.BitStreamFilterContext(_WITHOUT_NOTES, picture)
            for packet in container.demux(streams):
                index = packet.stream.index
                if packet.dts is None and packet.size == 0:  # end of a stream
                    continue
                for one in notes.filter(packet) if index == picture.index else [packet]:
                    one.stream = copies[index]
                    written.mux(one)
    return out.getvalue()
