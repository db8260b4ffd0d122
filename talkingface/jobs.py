"""Jobs: videos to generate from files to files. A job that fails does not stop the others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from talkingface import media, picture, video_writing
from talkingface.controls import DEFAULTS, Controls
from talkingface.errors import BadRequest, TalkingFaceError
from talkingface.face_options import DEFAULT_FACE, FaceKeywords, FaceOptions
from talkingface.frames import PreparedFace
from talkingface.generated_video import Progress, Video
from talkingface.output_options import DEFAULT_OUTPUT, OutputOptions
from talkingface.types import PathLike

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class Job:
    """One video to generate, from files to files.

    image: the picture.
    audio: the recording, or a motion file.
    output: the video to write; its name decides the format (`Video.save`).
    options: which face speaks, and how it is shown.
    controls: how the face moves.
    motion: a motion file, drawn instead of the motion that the sound gives.
    sheet: a PNG to write, with frames side by side (`Video.contact_sheet`).
    maps: a second mp4 to write, with the model's maps of every frame.
    overwrite: True replaces existing files.
    output_options: frame rate, codec, sound and subtitles of the output.
    audio_track: number of the audio track of `audio`, from 1, or None (`TalkingFace.generate`).
    """

    image: PathLike
    audio: PathLike
    output: PathLike
    options: FaceOptions = DEFAULT_FACE
    controls: Controls = DEFAULTS
    motion: PathLike | None = None
    sheet: PathLike | None = None
    maps: PathLike | None = None
    overwrite: bool = False
    audio_track: int | None = None
    output_options: OutputOptions = DEFAULT_OUTPUT

    def check(self) -> None:
        """Check options, controls and output files before any work.

        Raises OutputError, BadRequest.
        """
        self.options.check()
        self.controls.check()
        landmarks = self.options.landmarks
        given = landmarks if isinstance(landmarks, (str, Path)) else None
        media.check_names(
            [self.image, self.audio, self.motion, given, self.output_options.subtitles],
            [self.output, self.maps, self.sheet],
        )
        video_writing.check_output(self.output, self.overwrite, self.output_options)
        if self.maps is not None:
            video_writing.check_output(self.maps, self.overwrite)
        if self.sheet is not None:
            media.check_output(self.sheet, self.overwrite)


@dataclass(frozen=True)
class JobResult:
    """Result of a job.

    job: the job itself.
    frames: number of frames written.
    seconds: time taken.
    error: the error, or None if the job succeeded.
    note: note on the face that was found, the sound and the output, or None.
    """

    job: Job
    frames: int
    seconds: float
    error: TalkingFaceError | None = None
    note: str | None = None


def plan(
    portraits: Sequence[PathLike],
    recordings: Sequence[PathLike],
    folder: PathLike,
    *,
    options: FaceOptions = DEFAULT_FACE,
    controls: Controls = DEFAULTS,
    overwrite: bool = False,
    **keywords: Unpack[FaceKeywords],
) -> list[Job]:
    """Return a job for every portrait with every recording: folder/<portrait>-<recording>.mp4.

    Files of one name are told apart by their folders (a-anna, b-anna), or else by their suffixes.

    keywords: changes to the options. Raises BadRequest if two outputs have the same name.
    """
    options = options.updated(**keywords)
    jobs: dict[Path, Job] = {}
    faces, voices = distinct_names(portraits), distinct_names(recordings)
    for image, face in zip(portraits, faces, strict=True):
        for sound, voice in zip(recordings, voices, strict=True):
            output = Path(folder) / f"{face}-{voice}.mp4"
            if output in jobs:
                raise BadRequest(f"{output} would be written twice: give each file once")
            jobs[output] = Job(image, sound, output, options, controls, overwrite=overwrite)
    return list(jobs.values())


def distinct_names(files: Sequence[PathLike]) -> list[str]:
    """Return a name for each file: its stem, with as many folders before it as tell it apart.

    Files that only their suffixes tell apart get these: anna-jpg, anna-png.
    """
    paths = [Path(file).absolute() for file in files]
    stems = [path.stem for path in paths]
    names = []
    for path, stem in zip(paths, stems, strict=True):
        others = [own for own in paths if own.stem == stem and own != path]
        folders = path.parent.parts[1:]
        beside = [own for own in others if own.parent == path.parent]
        depth = 0
        while any(_tail(own, depth) == _tail(path, depth) for own in others if own not in beside):
            depth += 1
        kind = [path.suffix[1:]] if beside else []
        names.append("-".join([*folders[len(folders) - depth :], stem, *kind]))
    return names


def _tail(path: Path, depth: int) -> tuple[str, ...]:
    """Return the last folders of a path, so many."""
    parts = path.parent.parts[1:]
    return parts[max(0, len(parts) - depth) :] if depth else ()


class Speaker(Protocol):
    """The part of `pipeline.TalkingFace` that jobs need."""

    def prepare(self, image: PathLike, options: FaceOptions) -> PreparedFace:
        """See `TalkingFace.prepare`."""

    def animate(
        self,
        face: PreparedFace,
        audio: PathLike,
        *,
        controls: Controls | None,
        motion: PathLike | None,
        audio_track: int | None,
    ) -> Video:
        """See `TalkingFace.animate`."""


class JobRunner:
    """Runs jobs, one after the other. Neighbours with the same face share its preparation."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self._prepared: tuple[tuple[str, str], PreparedFace] | None = None

    def run(self, job: Job, progress: Progress | None = None) -> JobResult:
        """Generate one video file. Raises the errors of `generate` and `Video.save`."""
        start = time.monotonic()
        job.check()
        face = self._prepare(job)
        made = self._speaker.animate(
            face,
            job.audio,
            controls=job.controls,
            motion=job.motion,
            audio_track=job.audio_track,
        )
        frames = made.save(
            job.output,
            maps=job.maps,
            overwrite=job.overwrite,
            progress=progress,
            output=job.output_options,
        )
        if job.sheet is not None:
            picture.write_png(Path(job.sheet), made.contact_sheet(), overwrite=job.overwrite)
        notes = [made.note, *made.output_notes(job.output, job.output_options)]
        note = "; ".join(own for own in notes if own) or None
        return JobResult(job, frames, time.monotonic() - start, note=note)

    def attempt(self, job: Job, progress: Progress | None = None) -> JobResult:
        """`run`, with a user's error as the result."""
        start = time.monotonic()
        try:
            return self.run(job, progress)
        except TalkingFaceError as error:
            return JobResult(job, 0, time.monotonic() - start, error)

    def _prepare(self, job: Job) -> PreparedFace:
        key = (str(job.image), repr(job.options))
        if self._prepared is None or self._prepared[0] != key:
            self._prepared = key, self._speaker.prepare(job.image, job.options)
        return self._prepared[1]
