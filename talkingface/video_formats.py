"""Formats of written videos, chosen by the name of the output: container, codecs, sound, subtitles.

Encoders are FFmpeg's. PyAV is imported inside the functions (see `media`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from talkingface import provenance
from talkingface.errors import BadRequest, OutputError
from talkingface.output_options import OutputOptions
from talkingface.types import PathLike

PIPE = "-"  # the name of standard output
_NUMBER = re.compile(r"%0?\d*d")


@dataclass(frozen=True)
class Colours:
    """Colours of a video, as codes of ITU-T H.273. full: luma is 0 to 255, not 16 to 235."""

    primaries: int = 1
    transfer: int = 1
    matrix: int = 1
    full: bool = False


BT709 = Colours()


@dataclass(frozen=True)
class Coding:
    """Coding of a video's pictures.

    encoder, pixels: FFmpeg's names of the encoder and of its pixel format. options: of the encoder.
    colours: written into the file; RGB frames are converted to them. tag: four characters by which
    the container names the codec, where its usual ones do not do. odd: odd sides are written as
    they are, even where colours are halved.
    """

    encoder: str = "libx264"
    options: Mapping[str, str] = field(default_factory=dict)
    pixels: str = "yuv420p"
    colours: Colours = BT709
    tag: str | None = None
    odd: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width in the file: odd sides are made even where that is needed."""
        if self.odd:
            return height, width
        even_rows = "420" in self.pixels
        even_columns = even_rows or "422" in self.pixels
        return height + height % 2 * even_rows, width + width % 2 * even_columns


@dataclass(frozen=True)
class Container:
    """Container of a file. format: FFmpeg's name of its muxer. options: of the muxer."""

    format: str = "mp4"
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoFormat:
    """Format of an output.

    name: for texts. codecs: those that it can hold, the default first. alpha: the codec for
    pictures with transparent parts, None where it holds none. sound: encoder of its sound, None
    without sound. copied: codecs of sound that it can hold as they are. subtitles: encoder of a
    track, None without. fastest: frames per second, at most.
    """

    name: str
    container: Container
    codecs: tuple[str, ...]
    alpha: str | None = None
    sound: str | None = None
    copied: frozenset[str] = frozenset()
    subtitles: str | None = None
    fastest: int = 60


MP4 = Container("mp4", {"movflags": "+faststart"})
H264 = Coding(options={"crf": "18", "preset": "veryfast"})
_AAC_LIKE = frozenset(("aac", "mp3", "alac"))
_VP9 = {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1"}
_WEBP = {"quality": "90", "compression_level": "3"}
# The ways to code a codec's pictures, the best first: the first whose encoder is there is taken.
_CODINGS: dict[str, tuple[Coding, ...]] = {
    "h264": (H264,),
    "h265": (
        Coding(
            "libx265",
            {"crf": "20", "preset": "veryfast", "x265-params": "log-level=error"},
            tag="hvc1",
        ),
    ),
    "av1": (
        Coding("libsvtav1", {"crf": "24", "preset": "9"}),
        Coding("libaom-av1", {"crf": "24", "cpu-used": "8"}),
    ),
    "vp9": (Coding("libvpx-vp9", _VP9),),
    "vp9 with alpha": (Coding("libvpx-vp9", _VP9 | {"auto-alt-ref": "0"}, "yuva420p"),),
    "prores": (
        Coding(
            "prores_ks", {"profile": "4444", "vendor": "apl0", "alpha_bits": "16"}, "yuva444p10le"
        ),
    ),
    "gif": (Coding("gif", pixels="pal8"),),
    "webp": (Coding("libwebp_anim", _WEBP, "bgra"),),
    "png": (Coding("png", pixels="rgba"),),
    "y4m": (Coding("wrapped_avframe"),),
    "rgb24": (Coding("rawvideo", pixels="rgb24"),),
}
FORMATS = {
    ".mp4": VideoFormat("mp4", MP4, ("h264", "h265", "av1"), None, "aac", _AAC_LIKE, "mov_text"),
    ".mov": VideoFormat(
        "mov",
        Container("mov", {"movflags": "+faststart"}),
        ("h264", "h265", "prores"),
        "prores",
        "aac",
        _AAC_LIKE,
        "mov_text",
    ),
    ".webm": VideoFormat(
        "webm",
        Container("webm"),
        ("vp9", "av1"),
        "vp9 with alpha",
        "libopus",
        frozenset(("opus",)),
        "webvtt",
    ),
    ".gif": VideoFormat("gif", Container("gif"), ("gif",), "gif", fastest=50),
    ".webp": VideoFormat("webp", Container("webp", {"loop": "0"}), ("webp",), "webp"),
}
PNGS = VideoFormat("PNG files", Container("image2"), ("png",), "png")
PIPES = {
    "y4m": VideoFormat("y4m", Container("yuv4mpegpipe"), ("y4m",)),
    "rgb24": VideoFormat("raw RGB", Container("rawvideo"), ("rgb24",)),
}


def format_of(path: PathLike, options: OutputOptions) -> VideoFormat:
    """Return the format that an output's name asks for. Raises OutputError, BadRequest.

    The names: see FORMATS; numbered PNG files as frames/%05d.png or, as a folder, frames/; "-".
    """
    options.check()
    if str(path) == PIPE:
        return PIPES[options.pipe]
    if is_sequence(path):
        return PNGS
    found = FORMATS.get(Path(path).suffix.lower())
    if found is None:
        raise OutputError(
            f"{path}: give a name that ends in {', '.join(FORMATS)}, a folder for PNG files as "
            "frames/ or frames/%05d.png, or - for standard output"
        )
    return found


def is_sequence(path: PathLike) -> bool:
    """Return whether a name asks for numbered PNG files: frames/ or frames/%05d.png."""
    name = str(path)
    return name.endswith("/") or (name.lower().endswith(".png") and bool(_NUMBER.search(name)))


def coding_of(path: PathLike, options: OutputOptions, alpha: bool) -> Coding:
    """Return how the pictures of an output are coded. alpha: they have transparent parts.

    Raises OutputError, BadRequest (a codec that the format cannot hold, or that is not here).
    """
    kind = format_of(path, options)
    codec = options.codec or (kind.alpha if alpha and kind.alpha else kind.codecs[0])
    if codec != kind.alpha and codec not in kind.codecs:
        raise BadRequest(
            f"{path}: {kind.name} holds no {codec}: give --codec {' or '.join(kind.codecs)}"
        )
    if alpha and f"{codec} with alpha" == kind.alpha:
        codec = kind.alpha
    found = next((own for own in _CODINGS[codec] if has_encoder(own.encoder)), None)
    if found is None:
        there = [
            name for name in kind.codecs if any(has_encoder(c.encoder) for c in _CODINGS[name])
        ]
        raise BadRequest(
            f"{path}: this machine's FFmpeg has no encoder of {codec}: give --codec "
            f"{' or '.join(there)}, or another format"
        )
    return found


def _available(codec: str) -> Coding | None:
    return next((own for own in _CODINGS[codec] if has_encoder(own.encoder)), None)


def keeps_alpha(path: PathLike, options: OutputOptions) -> bool:
    """Return whether an output keeps transparent parts. Raises OutputError, BadRequest."""
    kind = format_of(path, options)
    if options.codec is None or kind.alpha is None:
        return kind.alpha is not None
    return kind.alpha.split(" ")[0] == options.codec


def check(path: PathLike, options: OutputOptions) -> None:
    """Check that an output of this name can have these options. Raises OutputError, BadRequest."""
    kind = format_of(path, options)
    coding_of(path, options, keeps_alpha(path, options))
    if options.rate > kind.fastest:
        raise BadRequest(
            f"{path}: {kind.name} shows at most {kind.fastest} frames per second, not "
            f"{float(options.rate):g}: give a smaller --fps"
        )
    if options.subtitles is not None and not options.burn_subtitles and kind.subtitles is None:
        raise BadRequest(
            f"{path}: {kind.name} has no subtitles: give --burn-subtitles, or mp4, mov or webm"
        )
    if options.audio_bitrate is not None and kind.sound is None:
        raise BadRequest(f"{path}: {kind.name} has no sound: leave --audio-bitrate out")
    if options.c2pa and kind.container.format not in provenance.TYPES:
        raise BadRequest(
            f"{path}: {kind.name} holds no C2PA manifest: give mp4, mov, gif, webp or PNG files"
        )


def notes(path: PathLike, options: OutputOptions, sound: bool, alpha: bool) -> list[str]:
    """Return what of a video an output leaves out. sound, alpha: what the video has."""
    kind, left = format_of(path, options), []
    if sound and kind.sound is None:
        left.append(f"{kind.name} has no sound: it is left out")
    if alpha and not keeps_alpha(path, options):
        left.append(
            f"{kind.name} has no transparent parts: they are filled; webm, mov, gif, webp and PNG "
            "files keep them"
        )
    return left


def has_encoder(encoder: str) -> bool:
    """Return whether this machine's FFmpeg has an encoder of that name."""
    from av.codec import Codec

    try:
        return bool(Codec(encoder, "w"))
    except ValueError:
        return False
