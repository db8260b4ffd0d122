"""Choose how a dubbed video is coded: as its source, where this machine has the encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from talkingface.errors import BadRequest, OutputError
from talkingface.planes import LAYOUTS
from talkingface.stored_video import StoredVideo
from talkingface.types import PathLike
from talkingface.video_formats import FORMATS, Coding, Colours, VideoFormat, has_encoder

# Codecs that a file of this name holds, by FFmpeg's names, the first for all others.
_HELD = {
    ".mp4": ("h264", "hevc", "av1", "vp9"),
    ".mov": ("h264", "hevc"),
    ".webm": ("vp9", "av1"),
}
# With these settings what is not changed stays above 45 dB of the decoded source (docs/log.md):
# quantisers are the same in all frames, and small differences are not rounded to nothing.
_CODINGS = {
    "h264": Coding(
        "libx264",
        {
            "preset": "veryfast",
            "qp": "16",
            "x264-params": "pbratio=1:deadzone-inter=6:deadzone-intra=6",
        },
    ),
    "hevc": Coding(
        "libx265",
        {"preset": "ultrafast", "x265-params": "log-level=error:qp=13:pbratio=1"},
        tag="hvc1",
    ),
    "av1": Coding("libsvtav1", {"preset": "10", "crf": "5"}, odd=True),
    "vp9": Coding(
        "libvpx-vp9",
        {"crf": "5", "b": "0", "deadline": "realtime", "cpu-used": "8", "row-mt": "1"},
        odd=True,
    ),
}


@dataclass(frozen=True)
class DubCoding:
    """Coding of a dubbed video.

    video: the source, with the layout of planes that the encoder takes. notes: what is not as in
    the source.
    """

    kind: VideoFormat
    coding: Coding
    video: StoredVideo
    notes: list[str]


def require_name(path: PathLike) -> None:
    """Raise OutputError unless a dubbed video can have this name."""
    if Path(path).suffix.lower() not in _HELD:
        raise OutputError(f"{path}: give a name that ends in {', '.join(_HELD)}")


def dub_coding(path: PathLike, video: StoredVideo) -> DubCoding:
    """Return how the dubbed `video` is written to `path`. Raises OutputError, BadRequest."""
    require_name(path)
    suffix = Path(path).suffix.lower()
    notes, held = [], [name for name in _HELD[suffix] if has_encoder(_CODINGS[name].encoder)]
    if not held:
        raise BadRequest(f"{path}: this machine's FFmpeg has no encoder for {suffix}")
    codec = video.codec if video.codec in held else held[0]
    if codec != video.codec:
        notes.append(f"the video is {video.codec}, {suffix[1:]} is written as {codec}")
    coding = _CODINGS[codec]
    layout = replace(video.layout, pixels=_pixels(coding.encoder, video.layout.pixels))
    if layout.pixels != video.pixels.replace("yuvj", "yuv"):
        notes.append(f"the pixels are {video.pixels}, they are written as {layout.pixels}")
    coding = replace(coding, pixels=layout.pixels)
    sides = layout.height, layout.width
    if (written := coding.size(*sides)) != sides:
        own, even = (f"{width}x{height}" for height, width in (sides, written))
        notes.append(f"the video is {own}, {codec} is written as {even}: its edge is repeated")
    if video.interlaced:
        notes.append("the video is interlaced; it is written as whole frames")
    colours = Colours(video.primaries, video.transfer, video.matrix, layout.full)
    coding = replace(coding, colours=colours)
    return DubCoding(FORMATS[suffix], coding, replace(video, layout=layout), notes)


def _pixels(encoder: str, pixels: str) -> str:
    """The pixel format itself, or the nearest one that an encoder takes."""
    from av.codec import Codec

    known = {own.name for own in Codec(encoder, "w").video_formats or ()}
    deep = LAYOUTS[pixels][2] > 8
    choices = [pixels, "yuv420p10le" if deep else "yuv420p", "yuv420p"]
    return next(name for name in choices if name in known)
