"""A video of several people in one picture: each speaks at its turns, the others listen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from talkingface import frame_rates, picture, turns, video_formats, video_writing
from talkingface.audio import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from talkingface.errors import BadRequest
from talkingface.face_options import FaceOptions
from talkingface.frame_generator import FrameGenerator
from talkingface.frames import FramePainter, OutputFrame, PreparedFace
from talkingface.generated_video import Progress, spoken_frames
from talkingface.group import FaceChoice
from talkingface.media import check_names
from talkingface.mixed_sound import MixedSound
from talkingface.output_options import DEFAULT_OUTPUT, OutputKeywords, OutputOptions
from talkingface.sound_input import AudioInput
from talkingface.streaming import Speech, Stream
from talkingface.turns import Turn
from talkingface.types import PathLike, Picture

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class Voice:
    """The sound that one face speaks. spoken: when, seconds; None for all of it."""

    speech: Speech
    spoken: list[tuple[float, float]] | None = None

    def parts(self) -> Iterator[Tensor]:
        """Yield (n,) samples at 16 kHz, silent where the face listens."""
        if self.spoken is None:
            return self.speech.parts()
        return turns.within(self.speech.parts(), self.spoken)


@dataclass(frozen=True)
class Cast:
    """Speakers of a conversation: the face and the voice of each, and the sound of the video.

    chosen: the faces, None for those that are chosen by their places (`prepare_group`).
    """

    chosen: list[FaceChoice | None]
    voices: list[Voice]

    @property
    def speeches(self) -> list[Speech]:
        """The recordings, each once."""
        return list({id(voice.speech): voice.speech for voice in self.voices}.values())


def cast_of(
    audio: Mapping[FaceChoice, AudioInput] | AudioInput,
    turned: PathLike | Sequence[Turn] | None,
    named: Mapping[str, FaceChoice] | None,
    track: int | None,
) -> Cast:
    """Return the speakers of `TalkingFace.converse`. Raises UnreadableMedia, BadRequest."""
    if isinstance(audio, Mapping):
        if turned is not None or named is not None or track is not None:
            raise BadRequest("turns, names and an audio track belong to one recording of all")
        if not audio:
            raise BadRequest("nobody speaks: give a recording for each face, as {1: 'a.wav'}")
        return Cast(list(audio), [Voice(Speech(sound)) for sound in audio.values()])
    if turned is None:
        raise BadRequest("one recording of several people needs their turns; or give one for each")
    given = turns.read_turns(turned) if isinstance(turned, str | Path) else turned
    return _cast_of_turns(Speech(audio, track), given, named or {})


def _cast_of_turns(speech: Speech, turned: Sequence[Turn], named: Mapping[str, FaceChoice]) -> Cast:
    """Return the speakers of one recording. Raises BadRequest."""
    speakers = turns.names(turned)
    if unknown := [name for name in named if name not in speakers]:
        known = ", ".join(map(str, speakers[:8]))
        raise BadRequest(f"speaker {unknown[0]!r} has no turn; those who have: {known}")
    chosen = [own if isinstance(own, int) else named.get(own) for own in speakers]
    return Cast(chosen, [Voice(speech, turns.spans(turned, own)) for own in speakers])


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
        self._speeches = cast.speeches
        self._count = max(map(len, self._speeches))
        self._seconds = max(speech.seconds for speech in self._speeches)
        notes = [note, *(speech.note for speech in self._speeches)]
        self.note = "; ".join(own for own in notes if own) or None

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
        check_names([*(own.path for own in self._speeches), output.subtitles], [path])
        video_writing.check_output(path, overwrite, output)
        alone = len(self._speeches) == 1
        return video_writing.write(
            path,
            self._pictures(output, video_formats.keeps_alpha(path, output), progress),
            self._speeches[0] if alone else MixedSound(self._speeches),
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
            count = frame_rates.frame_count(self._seconds, rate)
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
