"""A talking video. Its frames are generated when they are read: by iterating or by saving."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from typing import TypeVar

import torch

from talkingface import video, video_writing
from talkingface.audio import FPS
from talkingface.errors import BadRequest
from talkingface.face_options import FaceOptions
from talkingface.frame_generator import FrameGenerator
from talkingface.frames import FramePainter, Maps, OutputFrame, PreparedFace, output_frames
from talkingface.media import check_names
from talkingface.motion import Motion
from talkingface.output_options import DEFAULT_OUTPUT
from talkingface.streaming import CHUNK, Speech, Stream
from talkingface.types import PathLike, Picture

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

    def _painter_of(self, options: FaceOptions) -> FramePainter:
        return FramePainter(self._face, self._generator.info.name, options)

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Picture]:
        return map(self._painter, self._frames())

    def _frames(self, whole: bool = False) -> Iterator[OutputFrame]:
        """whole: with the model's own pictures, even where frames take none of them."""
        if isinstance(self._source, Motion):
            parts = self._silent_parts(self._source, whole)
        else:
            parts = self._spoken_parts(self._source, whole)
        return chain.from_iterable(ahead(parts, threads=max(1, torch.get_num_threads() - 1)))

    def _spoken_parts(self, speech: Speech, whole: bool) -> Iterator[list[OutputFrame]]:
        stream = Stream(self._generator, self._painter, whole=whole)
        for part in speech.parts():
            yield list(stream.output(part))
        yield list(stream.flush())

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
    ) -> int:
        """Write an mp4 (H.264, AAC) with the sound; return the number of frames.

        The file's metadata says that it is synthetic. After an error no new file is left, and an
        earlier one is unchanged.

        path: the file to write.
        maps: a second mp4 to write in the same pass, with the model's maps of every frame.
        overwrite: True replaces existing files.
        progress: function to call with (frames done, frames in all) after every frame.

        Raises OutputError, BadRequest (the model makes no maps).
        """
        speech = None if isinstance(self._source, Motion) else self._source
        paths, painters = [path], [self._painter]
        if maps is not None:
            paths.append(maps)
            painters.append(self._painter_of(replace(self._face.options, show="maps")))
        check_names([speech.path if speech else None], paths)
        pictures = self._painted(painters, progress)
        return video_writing.write_together(
            paths,
            pictures,
            speech,
            options=[DEFAULT_OUTPUT] * len(paths),
            tag=self._tag,
            overwrite=overwrite,
        )

    def _painted(
        self, painters: list[FramePainter], progress: Progress | None
    ) -> Iterator[list[Picture]]:
        """Every frame as each painter draws it."""
        for done, frame in enumerate(self._frames(whole=len(painters) > 1), start=1):
            yield [paint(frame) for paint in painters]
            if progress is not None:
                progress(done, len(self))

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


def ahead(items: Iterator[Item], threads: int) -> Generator[Item, None, None]:
    """Yield the items, each computed in a thread of its own while the one before is in use.

    threads: that torch may use in there (a fresh thread would take them all).
    """
    with ThreadPoolExecutor(1, "ahead", torch.set_num_threads, (threads,)) as maker:
        coming = maker.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = maker.submit(next, items, None)
            yield item
