"""A video of several people in one picture: each speaks at its turns, the others listen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from talkingface import frame_rates, picture, video_formats, video_writing
from talkingface.audio import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from talkingface.cast import Cast, Voice
from talkingface.face_options import FaceOptions
from talkingface.frame_generator import FrameGenerator
from talkingface.frames import FramePainter, OutputFrame, PreparedFace
from talkingface.generated_video import Progress, spoken_frames
from talkingface.media import check_names
from talkingface.output_options import DEFAULT_OUTPUT, OutputKeywords, OutputOptions
from talkingface.streaming import Stream
from talkingface.types import PathLike, Picture

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class Member:
    """A face of a conversation. voice: None for one that listens all the time."""

    face: PreparedFace
    generator: FrameGenerator
    voice: Voice | None


class Conversation:
    """A video of several faces in one picture. Its frames are generated when they are read.

    Iterating yields frames, (H, W, 3) uint8 RGB, at `fps` = 25 frames per second; it can be
    repeated. `len` is the number of frames. Made by `TalkingFace.converse`.
    """

    fps = FPS

    def __init__(
        self,
        members: Sequence[Member],
        cast: Cast,
        options: FaceOptions,
        note: str | None,
        tag: str,
    ) -> None:
        """note: on the faces. tag: metadata comment of the files."""
        self._members, self._options, self._tag = members, options, tag
        self._cast, self._count = cast, max(map(len, cast.speeches))
        self.note = "; ".join(own for own in (note, *cast.notes) if own) or None

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Picture]:
        return self._pictures(DEFAULT_OUTPUT)

    def save(
        self,
        path: PathLike,
        *,
        overwrite: bool = False,
        progress: Progress | None = None,
        output: OutputOptions = DEFAULT_OUTPUT,
        **keywords: Unpack[OutputKeywords],
    ) -> int:
        """Write the video with all sounds; return the number of frames. See `Video.save`.

        Several recordings are mixed, at equal level and without clipping.
        """
        output = output.updated(**keywords)
        video_formats.check(path, output)
        check_names([*(own.path for own in self._cast.speeches), output.subtitles], [path])
        video_writing.check_output(path, overwrite, output)
        return video_writing.write(
            path,
            self._pictures(output, video_formats.keeps_alpha(path, output), progress),
            self._cast.sound(),
            options=output,
            tag=self._tag,
            overwrite=overwrite,
        )

    def output_notes(self, path: PathLike, output: OutputOptions = DEFAULT_OUTPUT) -> list[str]:
        """Return what of this video a file of that name and these options leaves out.

        Raises OutputError, BadRequest.
        """
        alpha = self._members[0].face.alpha is not None
        return video_formats.notes(path, output, True, alpha)

    def _pictures(
        self, output: OutputOptions, alpha: bool = False, progress: Progress | None = None
    ) -> Iterator[Picture]:
        """Yield the frames at the rate of an output, (H, W, 3) or with alpha (H, W, 4) uint8."""
        rate, count = output.rate, len(self)
        if rate != FPS:
            count = frame_rates.frame_count(self._cast.seconds, rate)
        painters = [self._painter(member, alpha) for member in self._members]
        frames = [
            self._frames_of(member, painter, rate, count)
            for member, painter in zip(self._members, painters, strict=True)
        ]
        for done, every in enumerate(zip(*frames, strict=True), start=1):
            out = self._drawn(painters, every)
            yield picture.label(out) if self._options.mark else out
            if progress is not None:
                progress(done, count)

    def _drawn(self, painters: Sequence[FramePainter], every: Sequence[OutputFrame]) -> Picture:
        """Draw all faces, each within its bounds."""
        out: Picture | None = None
        for member, paint, frame in zip(self._members, painters, every, strict=True):
            drawn = paint(frame)
            if out is None or member.face.bounds is None:
                out = drawn
                continue
            y0, y1, x0, x1 = member.face.bounds
            out[y0:y1, x0:x1] = drawn[y0:y1, x0:x1]
        assert out is not None  # there is a member
        return out

    def _painter(self, member: Member, alpha: bool) -> FramePainter:
        options = replace(self._options, mark=False)
        return FramePainter(member.face, member.generator.info.name, options, alpha)

    def _frames_of(
        self, member: Member, painter: FramePainter, rate: Fraction, count: int
    ) -> Iterator[OutputFrame]:
        """Yield what is drawn of one face in each of `count` frames."""
        stream = Stream(member.generator, painter)
        sound = () if member.voice is None else member.voice.parts()
        frames = spoken_frames(stream, _filled(sound, len(self) * SAMPLES_PER_FRAME))
        return frames if rate == FPS else frame_rates.at_rate(frames, count, rate)


def _filled(parts: Iterable[Tensor], samples: int) -> Iterator[Tensor]:
    """Yield the parts of a sound, and silence up to so many samples."""
    for part in parts:
        samples -= len(part)
        yield part
    while samples > 0:
        yield torch.zeros(min(samples, SAMPLE_RATE))
        samples -= SAMPLE_RATE
