"""Videos as they are stored: planes of pixels, exact time stamps, rotation and colours.

Torch is not imported: a decoding process starts quickly. PyAV is imported inside the functions (see
`media`).
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from talkingface import decoding, media
from talkingface.errors import UnreadableMedia
from talkingface.planes import LAYOUTS, Layout, Plane
from talkingface.types import Picture
from talkingface.video_reading import required_stream

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_FULL_RANGE = 2  # of FFmpeg's AVColorRange
_UNKNOWN = 2  # code of ITU-T H.273
_BT709, _BT601 = 1, 6  # codes of matrices of ITU-T H.273
# FFmpeg's converter knows these matrices by these codes; others are read as the nearest.
_CONVERTERS = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_STILL = 10.0  # seconds that a frame may be shown before that is a hole in the video
_FPS = 25  # frames per second of a file that does not tell


@dataclass(frozen=True)
class StoredVideo:
    """Facts of a video file.

    layout: of the planes. pixels: the file's own pixel format, by FFmpeg's name. codec: of the
    video, likewise. display: the 9 numbers of its display matrix, [] where it has none. time_base:
    seconds of a tick. rate: frames per second, on average. range, primaries, transfer, matrix: its
    colours as FFmpeg numbers them, unchanged. aspect: width / height of a pixel. interlaced: fields
    instead of frames. frames: number of frames as the file tells, 0 where it does not.
    """

    layout: Layout
    pixels: str
    codec: str
    display: list[int]
    time_base: Fraction
    rate: Fraction
    range: int
    primaries: int
    transfer: int
    matrix: int
    aspect: Fraction
    interlaced: bool
    frames: int


@dataclass(frozen=True)
class StoredFrame:
    """A frame of a video.

    time: its stamp in ticks, as the file has it; None where it has none. length: ticks, 0 where
    unknown. picture: (H, W, 3) uint8 RGB, upright. planes: (h, w) each, luma first; [] unless
    wanted.
    """

    time: int | None
    length: int
    picture: Picture
    planes: list[Plane]


def open_stored(path: Path) -> StoredVideo:
    """Read the facts of a video and of its first frame. Raises UnreadableMedia."""
    if not decoding.is_contained():
        return probe(path)
    return _from_json(decoding.answer("stored_video", path).value)


def read_stored(
    path: Path, layout: Layout, *, planes: bool, first: int = 0, start: int | None = None
) -> Generator[StoredFrame, None, None]:
    """Yield the frames of a video from number `first` on.

    layout: as `open_stored` found it; frames that are stored in another way are converted to it.
    planes: whether they are wanted. start: the stamp of the first frame, to go there directly.
    Raises UnreadableMedia, also between frames.
    """
    if not decoding.is_contained():
        yield from decode_stored(path, layout, planes=planes, first=first, start=start)
        return
    options = {"layout": asdict(layout), "planes": planes, "first": first, "start": start}
    with closing(decoding.answers("stored_frames", path, **options)) as found:
        for own in found:
            time, length = own.value
            yield StoredFrame(time, length, own.arrays[0], own.arrays[1:])


def probe(path: Path) -> StoredVideo:
    """Read as `open_stored` does, in this process."""
    with media.opened(path) as container:
        stream = required_stream(path, container)
        first = next(media.decoded(path, container, stream), None)
        if first is None or stream.time_base is None:
            raise UnreadableMedia(f"{path}: a video without a single frame")
        return StoredVideo(
            layout=_layout(first),
            pixels=first.format.name,
            codec=stream.codec_context.codec.canonical_name,
            display=_display_matrix(first),
            time_base=stream.time_base,
            rate=Fraction(stream.average_rate or stream.guessed_rate or _FPS),
            range=_FULL_RANGE if _is_full(first) else int(first.color_range),
            primaries=int(first.color_primaries),
            transfer=int(first.color_trc),
            matrix=int(first.colorspace),
            aspect=Fraction(stream.sample_aspect_ratio or 1),
            interlaced=first.interlaced_frame,
            frames=_frame_count(container, stream),
        )


def _frame_count(container: InputContainer, stream: VideoStream) -> int:
    if stream.frames:
        return int(stream.frames)
    return round((container.duration or 0) / 1_000_000 * (stream.average_rate or _FPS))


def as_json(video: StoredVideo) -> dict[str, Any]:
    """Return the facts as values of JSON; `_from_json` reads them."""
    fractions = {name: str(getattr(video, name)) for name in ("time_base", "rate", "aspect")}
    return asdict(video) | fractions


def _from_json(facts: dict[str, Any]) -> StoredVideo:
    fractions = {name: Fraction(facts[name]) for name in ("time_base", "rate", "aspect")}
    return StoredVideo(**facts | fractions | {"layout": Layout(**facts["layout"])})


def _layout(frame: VideoFrame) -> Layout:
    name = frame.format.name.replace("yuvj", "yuv")
    if name not in LAYOUTS:
        deep = any(component.bits > 8 for component in frame.format.components)
        name = "yuv420p10le" if deep else "yuv420p"
    matrix = int(frame.colorspace)
    if matrix not in _CONVERTERS:  # not told: as players take it
        matrix = _BT709 if frame.height >= 720 else _BT601
    turns = round(frame.rotation / 90) % 4
    return Layout(frame.height, frame.width, name, _is_full(frame), matrix, turns)


def _is_full(frame: VideoFrame) -> bool:
    return frame.format.name.startswith("yuvj") or int(frame.color_range) == _FULL_RANGE


def _display_matrix(frame: VideoFrame) -> list[int]:
    """The 9 numbers of ISO 14496-12, 8.3.2, as FFmpeg orders them."""
    from av.sidedata.sidedata import Type

    side_data: Any = frame.side_data
    if Type.DISPLAYMATRIX not in side_data:
        return []
    numbers = np.frombuffer(side_data[Type.DISPLAYMATRIX], np.int32)
    return [int(number) for number in numbers[:9]]


def decode_stored(
    path: Path, layout: Layout, *, planes: bool, first: int = 0, start: int | None = None
) -> Iterator[StoredFrame]:
    """Read as `read_stored` does, in this process."""
    if first and start is not None:
        try:
            frames = _frames_from(path, start)
            head = next(frames, None)
        except UnreadableMedia:
            head = None
        if head is not None:
            yield from _converted(path, itertools.chain([head], frames), layout, planes)
            return
    yield from _converted(path, itertools.islice(_all_frames(path), first, None), layout, planes)


def _all_frames(path: Path) -> Iterator[VideoFrame]:
    with media.opened(path) as container:
        yield from media.decoded(path, container, required_stream(path, container))


def _frames_from(path: Path, start: int) -> Iterator[VideoFrame]:
    """The frames from a stamp on, without decoding all before; nothing where that is unsure."""
    with media.opened(path) as container:
        stream = required_stream(path, container)
        container.seek(start, stream=stream)
        frames = iter(media.decoded(path, container, stream))
        for number, frame in enumerate(frames):
            if frame.pts is None or frame.pts > start or (number == 0 and not frame.key_frame):
                return
            if frame.pts == start:
                yield frame
                yield from frames


def _converted(
    path: Path, frames: Iterator[VideoFrame], layout: Layout, planes: bool
) -> Iterator[StoredFrame]:
    holes, before = media.Holes(path, "pictures"), None
    for frame in frames:
        if frame.time is not None:
            if before is not None:
                holes.add(frame.time - before - _STILL)
            before = frame.time
        stored = _as_stored(frame, layout)
        own = [_plane(plane, layout) for plane in stored.planes] if planes else []
        yield StoredFrame(frame.pts, frame.duration or 0, _upright(stored, layout), own)


def _as_stored(frame: VideoFrame, layout: Layout) -> VideoFrame:
    """The frame itself, or its conversion to the layout."""
    if (frame.width, frame.height) == (layout.width, layout.height):
        if frame.format.name.replace("yuvj", "yuv") == layout.pixels:
            return frame
    from_rgb = frame.format.is_rgb
    return frame.reformat(
        layout.width,
        layout.height,
        layout.pixels,
        src_colorspace=None if from_rgb else _CONVERTERS[layout.matrix],
        dst_colorspace=_CONVERTERS[layout.matrix],
        src_color_range=_FULL_RANGE if from_rgb or _is_full(frame) else 1,
        dst_color_range=_FULL_RANGE if layout.full else 1,
    )


def _plane(plane: Any, layout: Layout) -> Plane:
    kind = np.uint8 if LAYOUTS[layout.pixels][2] == 8 else np.uint16
    whole = np.frombuffer(plane, kind).reshape(plane.height, -1)
    own: Plane = np.ascontiguousarray(whole[:, : plane.width])
    return own


def _upright(frame: VideoFrame, layout: Layout) -> Picture:
    """(H, W, 3) RGB, turned as the file's display matrix says."""
    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=_CONVERTERS[layout.matrix],
        dst_colorspace=_CONVERTERS[layout.matrix],
        src_color_range=_FULL_RANGE if layout.full else 1,
        dst_color_range=_FULL_RANGE,
    )
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), layout.turns), dtype=np.uint8)
