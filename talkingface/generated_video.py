"""A talking video. Its frames are generated when they are read: by iterating or by saving."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from talkingface import frame_rates, video, video_formats, video_writing
from talkingface.audio import FPS
from talkingface.errors import BadRequest
from talkingface.face_options import FaceOptions
from talkingface.frame_generator import FrameGenerator
from talkingface.frames import FramePainter, Maps, OutputFrame, PreparedFace, output_frames
from talkingface.media import check_names
from talkingface.motion import Motion
from talkingface.output_options import DEFAULT_OUTPUT, OutputKeywords, OutputOptions
from talkingface.streaming import CHUNK, Speech, Stream
from talkingface.types import PathLike, Picture

if TYPE_CHECKING:
    from typing_extensions import Unpack

Item = TypeVar("Item")
Progress = Callable[[int, int], None]  # called with (frames done, frames in all)


class Video:
    """A talking video. Its frames are generated when they are read.

    Iterating yields frames, (H, W, 3) uint8 RGB, at `fps` = 25 frames per second; it can be
    repeated. `len` is the number of frames, known before any is generated.
    """

    fps = FPS

    def __init__(
        self, face: PreparedFace, generator: FrameGenerator, source: Speech | Motion, tag: str
    ) -> None:
        """source: a motion where there is no sound. tag: metadata comment of the files."""
        self._face, self._generator, self._source, self._tag = face, generator, source, tag
        self._painter = self._painter_of(face.options)

    def _painter_of(self, options: FaceOptions, alpha: bool = False) -> FramePainter:
        return FramePainter(self._face, self._generator.info.name, options, alpha)

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Picture]:
        return map(self._painter, self._frames())

    def _frames(self, whole: bool = False) -> Iterator[OutputFrame]:
        """whole: with the model's own pictures, even where frames take none of them."""
        if isinstance(self._source, Motion):
            return _ahead(self._silent_parts(self._source, whole))
        stream = Stream(self._generator, self._painter, whole=whole)
        return spoken_frames(stream, self._source.parts())

    def _silent_parts(self, motion: Motion, whole: bool) -> Iterator[list[OutputFrame]]:
        if whole or self._face.options.show == "maps":
            raise BadRequest("maps of a model's own pictures need a sound, not a motion")
        for start in range(0, len(motion), CHUNK):
            part = motion[start : start + CHUNK]
            yield list(output_frames(self._generator.bend(part), part))

    @property
    def note(self) -> str | None:
        """Note on the face that was found and on the sound, or None."""
        heard = None if isinstance(self._source, Motion) else self._source.note
        return "; ".join(note for note in (self._face.note, heard) if note) or None

    def maps(self) -> Iterator[Maps]:
        """Generate again, and yield the model's maps of every frame (attention, new colour).

        Raises BadRequest if the video was made from a motion.
        """
        for frame in self._frames(whole=True):
            yield frame.maps()

    def save(
        self,
        path: PathLike,
        *,
        maps: PathLike | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
        output: OutputOptions = DEFAULT_OUTPUT,
        **keywords: Unpack[OutputKeywords],
    ) -> int:
        """Write a video with the sound; return the number of frames.

        The name decides the format: .mp4, .mov, .webm, .gif, .webp, numbered PNG files as frames/
        or frames/%05d.png, or "-", raw frames on standard output. Transparent parts of the picture
        stay transparent in webm, mov, gif, webp and PNG files. The metadata says that it is
        synthetic; raw frames have none. After an error no new file is left, and an earlier one is
        unchanged.

        path: the file to write.
        maps: a second mp4 to write in the same pass, with the model's maps of every frame.
        overwrite: True replaces existing files.
        progress: function to call with (frames done, frames in all) after every frame.
        output: frame rate, codec, sound and subtitles of the file.
        keywords: changes to them, by field: fps=50, codec="h265", subtitles="words.srt".

        Raises OutputError, BadRequest (options that the format cannot have; the model makes no
        maps), UnreadableMedia (the subtitles).
        """
        output = output.updated(**keywords)
        video_formats.check(path, output)
        speech = None if isinstance(self._source, Motion) else self._source
        alpha = video_formats.keeps_alpha(path, output)
        paths, painters = [path], [self._painter_of(self._face.options, alpha)]
        if maps is not None:
            paths.append(maps)
            painters.append(self._painter_of(replace(self._face.options, show="maps")))
        check_names([speech.path if speech else None, output.subtitles], paths)
        pictures = self._painted(painters, output.rate, progress)
        return video_writing.write_together(
            paths,
            pictures,
            speech,
            options=[output, output.of_second()][: len(paths)],
            tag=self._tag,
            overwrite=overwrite,
        )

    def _painted(
        self, painters: list[FramePainter], rate: Fraction, progress: Progress | None
    ) -> Iterator[list[Picture]]:
        """Every frame as each painter draws it."""
        count, frames = len(self), self._frames(whole=len(painters) > 1)
        if rate != FPS:
            count = frame_rates.frame_count(self._seconds, rate)
            frames = frame_rates.at_rate(frames, count, rate)
        for done, frame in enumerate(frames, start=1):
            yield [paint(frame) for paint in painters]
            if progress is not None:
                progress(done, count)

    @property
    def _seconds(self) -> Fraction:
        return (
            Fraction(len(self), FPS) if isinstance(self._source, Motion) else self._source.seconds
        )

    def output_notes(self, path: PathLike, output: OutputOptions = DEFAULT_OUTPUT) -> list[str]:
        """Return what of this video a file of that name and these options leaves out.

        Raises OutputError, BadRequest.
        """
        sound = not isinstance(self._source, Motion)
        notes = video_formats.notes(path, output, sound, self._face.alpha is not None)
        if output.rate != FPS and not self._generator.moves_mesh:
            notes.append(
                f"model {self._generator.info.name} draws whole faces, {FPS} a second: frames are "
                "shown twice or left out"
            )
        return notes

    def contact_sheet(self, *, seconds: float = 3.0, every: int = 3, columns: int = 13) -> Picture:
        """Draw frames of the bare face side by side, with their times; return (H, W, 3) uint8.

        seconds: length of the part that is shown, from the beginning.
        every: frames from one picture to the next.
        columns: pictures per row.
        """
        side = self._face.crop.shape[0]
        options = replace(self._face.options, show="face", mark=False, crop_size=side)
        frames = self._frames(whole=isinstance(self._source, Speech))
        pictures = map(self._painter_of(options), frames)
        return video.sheet_of_frames(pictures, seconds=seconds, every=every, columns=columns)


def spoken_frames(stream: Stream, sound: Iterable[Tensor]) -> Iterator[OutputFrame]:
    """Yield the frames of a new stream for a whole sound, parts (n,) at 16 kHz.

    They are generated in a thread, while those before are in use.
    """
    return _ahead(_spoken_parts(stream, sound))


def _spoken_parts(stream: Stream, sound: Iterable[Tensor]) -> Iterator[list[OutputFrame]]:
    for part in sound:
        yield list(stream.output(part))
    yield list(stream.flush())


def _ahead(parts: Iterator[list[OutputFrame]]) -> Iterator[OutputFrame]:
    return chain.from_iterable(ahead(parts, threads=max(1, torch.get_num_threads() - 1)))


def ahead(items: Iterator[Item], threads: int) -> Generator[Item, None, None]:
    """Yield the items, each computed in a thread of its own while the one before is in use.

    threads: that torch may use in there (a fresh thread would take them all).
    """
    with ThreadPoolExecutor(1, "ahead", torch.set_num_threads, (threads,)) as maker:
        coming = maker.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = maker.submit(next, items, None)
            yield item
