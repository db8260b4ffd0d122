"""Video files read in this process; `video` has them read in another.

Torch is not imported: a decoding process starts quickly.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

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


def probe(path: Path) -> VideoInfo:
    """Size, rate and length of a video. Raises UnreadableMedia."""
    with media.opened(path) as container:
        stream = _required_stream(path, container)
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


def _required_stream(path: Path, container: InputContainer) -> VideoStream:
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
        stream = _required_stream(path, container)
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
