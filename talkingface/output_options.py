"""Options of written videos: frame rate, codec, sound, subtitles."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

from talkingface.errors import BadRequest

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from talkingface.types import PathLike

Codec = Literal["h264", "h265", "av1", "vp9", "prores"]
PipeFormat = Literal["y4m", "rgb24"]

FPS = (10, 60)  # frames per second
BITRATE = (6_000, 1_000_000)  # bits per second of a sound
# What is called 29.97 is 30000 / 1001, and so on.
_NTSC = {"23.976": 24, "23.98": 24, "29.97": 30, "59.94": 60}


class OutputKeywords(TypedDict, total=False):
    """The fields of `OutputOptions` as keyword arguments."""

    fps: float | str | Fraction
    codec: Codec | None
    audio_bitrate: int | None
    subtitles: PathLike | None
    burn_subtitles: bool
    pipe: PipeFormat
    c2pa: bool
    sign_certificate: PathLike | None
    sign_key: PathLike | None


@dataclass(frozen=True)
class OutputOptions:
    """Options of a written video; its format follows from the name of the file.

    fps: frames per second, 10 to 60; 29.97 stands for 30000 / 1001.
    codec: coding of the pictures, one that the format can hold: "h264", "h265" or "av1" in mp4,
    these and "prores" in mov, "vp9" or "av1" in webm. None is the format's first; "prores" in mov
    if the picture has transparent parts.
    audio_bitrate: bits per second of the sound, 6000 to 1000000; it is encoded then. None copies
    the sound bit by bit where the format can hold its codec, and else encodes it with 96000 per
    channel.
    subtitles: an SRT file, for a track of its own.
    burn_subtitles: True draws the subtitles into the frames instead.
    pipe: "y4m" or "rgb24", the format of frames on standard output, for the name "-".
    c2pa: True adds a signed manifest of C2PA that says how the file was made: mp4, mov, gif, webp
    and PNG files.
    sign_certificate, sign_key: to sign with, PEM files; without them a certificate is made for this
    process alone, which says that nobody vouches for it.
    """

    fps: float | str | Fraction = 25
    codec: Codec | None = None
    audio_bitrate: int | None = None
    subtitles: PathLike | None = None
    burn_subtitles: bool = False
    pipe: PipeFormat = "y4m"
    c2pa: bool = False
    sign_certificate: PathLike | None = None
    sign_key: PathLike | None = None

    def updated(self, **keywords: Unpack[OutputKeywords]) -> OutputOptions:
        """Return a copy with changed fields. Raises TypeError for an unknown name."""
        known = [field.name for field in fields(OutputOptions)]
        for name in keywords:
            if name not in known:
                raise TypeError(f"{name!r} is no option of an output; known: {', '.join(known)}")
        return replace(self, **keywords)

    @property
    def rate(self) -> Fraction:
        """Return the exact frames per second. Raises BadRequest."""
        try:
            text = f"{self.fps:g}" if isinstance(self.fps, float) else str(self.fps)
            rate = Fraction(_NTSC[text] * 1000, 1001) if text in _NTSC else Fraction(text)
        except (ValueError, ZeroDivisionError):
            rate = Fraction(0)
        if not FPS[0] <= rate <= FPS[1] or rate.denominator > 1001:
            raise BadRequest(
                f"fps is {self.fps}: give {FPS[0]} to {FPS[1]} frames per second, as 25, 29.97, 60"
            )
        return rate

    def check(self) -> None:
        """Check all ranges. Raises BadRequest."""
        self.rate  # noqa: B018 raises
        if self.codec is not None and self.codec not in get_args(Codec):
            raise BadRequest(f"codec is {self.codec!r}: give {', '.join(get_args(Codec))}")
        if self.pipe not in get_args(PipeFormat):
            raise BadRequest(f"format is {self.pipe!r}: give {' or '.join(get_args(PipeFormat))}")
        bits = self.audio_bitrate
        if bits is not None and not BITRATE[0] <= bits <= BITRATE[1]:
            raise BadRequest(
                f"audio_bitrate is {bits}: give {BITRATE[0]} to {BITRATE[1]} bits per second"
            )
        if self.burn_subtitles and self.subtitles is None:
            raise BadRequest("burn_subtitles draws subtitles: give their SRT file too")
        if (self.sign_certificate is None) != (self.sign_key is None):
            raise BadRequest("sign_certificate and sign_key belong together: give both")
        if self.sign_key is not None and not self.c2pa:
            raise BadRequest("sign_certificate signs a manifest: give c2pa too")

    def of_second(self) -> OutputOptions:
        """Return the options of a second file of other pictures: the same rate, no subtitles."""
        return replace(self.signature, fps=self.fps)

    @property
    def signature(self) -> OutputOptions:
        """Return the options that sign, and the defaults of all others."""
        return OutputOptions(
            c2pa=self.c2pa, sign_certificate=self.sign_certificate, sign_key=self.sign_key
        )


DEFAULT_OUTPUT = OutputOptions()
