"""Jobs: videos to generate or to dub, from files to files. One that fails stops no other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from talkingface import media, picture, video_writing
from talkingface.controls import DEFAULTS, Controls
from talkingface.dubbing import dubbed_video
from talkingface.dubbing.dubbed_video import DubbedVideo, DubResult
from talkingface.dubbing.timeline import Length, parse
from talkingface.dubbing.tracking import TrackOptions, chosen_face
from talkingface.errors import BadRequest, TalkingFaceError
from talkingface.face_options import DEFAULT_FACE, FaceKeywords, FaceOptions
from talkingface.frames import PreparedFace
from talkingface.generated_video import Progress, Video
from talkingface.output_options import DEFAULT_OUTPUT, OutputOptions
from talkingface.types import Box, FaceChoice, PathLike

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

    def absolute(self) -> Job:
        """Return the job with absolute paths, for a process with another current folder."""
        return replace(
            self,
            **_absolute(self, "image", "audio", "output", "motion", "sheet", "maps"),
            options=replace(self.options, **_absolute(self.options, "landmarks")),
            output_options=_absolute_output(self.output_options),
        )


@dataclass(frozen=True)
class DubJob:
    """One video to dub, from files to files.

    video: a video of people.
    audio: the recording, or one for each face.
    output: the video to write; its name decides the format (`DubbedVideo.save`).
    turns: a file, who speaks when in the one recording.
    faces: faces of the names in the turns.
    controls: how the mouth moves.
    length, face, box, time: as in `TalkingFace.dub`.
    mark: True writes a small label "synthetic" into every frame.
    overwrite: True replaces an existing file.
    audio_track: number of the audio track of `audio`, from 1, or None.
    output_options: signature of the output; other options have their defaults.
    """

    video: PathLike
    audio: PathLike | Mapping[FaceChoice, PathLike]
    output: PathLike
    turns: PathLike | None = None
    faces: Mapping[str, FaceChoice] | None = None
    controls: Controls = DEFAULTS
    length: Length | None = None
    face: int | None = None
    box: Box | None = None
    time: float = 0.0
    mark: bool = False
    overwrite: bool = False
    audio_track: int | None = None
    output_options: OutputOptions = DEFAULT_OUTPUT

    def check(self) -> None:
        """Check options, controls and the output before any work.

        Raises OutputError, BadRequest.
        """
        self.controls.check()
        TrackOptions((chosen_face(self.face, self.box),), self.time).check()
        parse(self.length)
        sounds = self.audio.values() if isinstance(self.audio, Mapping) else [self.audio]
        media.check_names([self.video, *sounds, self.turns], [self.output])
        dubbed_video.check_output(self.output, self.overwrite, self.output_options)

    def absolute(self) -> DubJob:
        """Return the job with absolute paths, for a process with another current folder."""
        paths = _absolute(self, "video", "audio", "output", "turns")
        if isinstance(self.audio, Mapping):
            paths["audio"] = {face: Path(own).absolute() for face, own in self.audio.items()}
        return replace(self, **paths, output_options=_absolute_output(self.output_options))


def _absolute_output(options: OutputOptions) -> OutputOptions:
    paths = _absolute(options, "subtitles", "sign_certificate", "sign_key")
    return replace(options, **paths)


def _absolute(given: Any, *names: str) -> dict[str, Any]:
    """Return those of these fields that are paths, as absolute ones."""
    values = {name: getattr(given, name) for name in names}
    paths = {name: value for name, value in values.items() if isinstance(value, (str, Path))}
    return {name: Path(value).absolute() for name, value in paths.items()}


@dataclass(frozen=True)
class JobResult:
    """Result of a job.

    job: the job itself.
    frames: number of frames written.
    seconds: time taken.
    error: the error, or None if the job succeeded.
    note: note on the face that was found, the sound and the output, or None.
    dubbed: what became of the frames of a video that was dubbed, or None.
    """

    job: Job | DubJob
    frames: int
    seconds: float
    error: TalkingFaceError | None = None
    note: str | None = None
    dubbed: DubResult | None = None


def plan(
    portraits: Sequence[PathLike],
    recordings: Sequence[PathLike],
    folder: PathLike,
    *,
    options: FaceOptions = DEFAULT_FACE,
    controls: Controls = DEFAULTS,
    overwrite: bool = False,
    audio_track: int | None = None,
    output_options: OutputOptions = DEFAULT_OUTPUT,
    **keywords: Unpack[FaceKeywords],
) -> list[Job]:
    """Return a job for every portrait with every recording: folder/<portrait>-<recording>.mp4.

    Files of one name are told apart by their folders (a-anna, b-anna), or else by their suffixes.

    keywords: changes to the options. The others: see `Job`. Raises BadRequest if two outputs have
    the same name.
    """
    options = options.updated(**keywords)
    return [
        Job(
            *files,
            options,
            controls,
            overwrite=overwrite,
            audio_track=audio_track,
            output_options=output_options,
        )
        for files in _combined(portraits, recordings, folder)
    ]


def plan_dubbing(
    videos: Sequence[PathLike], recordings: Sequence[PathLike], folder: PathLike, **fields: Any
) -> list[DubJob]:
    """Return a job for every video with every recording, named as by `plan`.

    fields: of each `DubJob`. Raises BadRequest if two outputs have the same name.
    """
    return [DubJob(*files, **fields) for files in _combined(videos, recordings, folder)]


def _combined(
    faces: Sequence[PathLike], recordings: Sequence[PathLike], folder: PathLike
) -> list[tuple[PathLike, PathLike, Path]]:
    """Return every face with every recording, and the output of both. Raises BadRequest."""
    found: dict[Path, tuple[PathLike, PathLike, Path]] = {}
    names, voices = distinct_names(faces), distinct_names(recordings)
    for face, name in zip(faces, names, strict=True):
        for sound, voice in zip(recordings, voices, strict=True):
            output = Path(folder) / f"{name}-{voice}.mp4"
            if output in found:
                raise BadRequest(f"{output} would be written twice: give each file once")
            found[output] = face, sound, output
    return list(found.values())


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

    def dub(
        self,
        video: PathLike,
        audio: PathLike | Mapping[FaceChoice, PathLike],
        *,
        turns: PathLike | None,
        faces: Mapping[str, FaceChoice] | None,
        controls: Controls | None,
        length: Length | None,
        face: int | None,
        box: Box | None,
        time: float,
        mark: bool,
        audio_track: int | None,
    ) -> DubbedVideo:
        """See `TalkingFace.dub`."""


class JobRunner:
    """Runs jobs, one after the other. Neighbours with the same face share its preparation."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self._prepared: tuple[tuple[str, str], PreparedFace] | None = None

    def run(self, job: Job | DubJob, progress: Progress | None = None) -> JobResult:
        """Generate or dub one video file.

        Raises the errors of `generate` and `Video.save`, or of `dub` and `DubbedVideo.save`.
        """
        start = time.monotonic()
        job.check()
        work = self._generate(job, progress) if isinstance(job, Job) else self._dub(job, progress)
        return replace(work, seconds=time.monotonic() - start)

    def _generate(self, job: Job, progress: Progress | None) -> JobResult:
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
        return JobResult(job, frames, 0.0, note=note)

    def _dub(self, job: DubJob, progress: Progress | None) -> JobResult:
        made = self._speaker.dub(
            job.video,
            job.audio,
            turns=job.turns,
            faces=job.faces,
            controls=job.controls,
            length=job.length,
            face=job.face,
            box=job.box,
            time=job.time,
            mark=job.mark,
            audio_track=job.audio_track,
        )
        result = made.save(
            job.output, overwrite=job.overwrite, progress=progress, output=job.output_options
        )
        return JobResult(job, result.frames, 0.0, dubbed=result)

    def attempt(self, job: Job | DubJob, progress: Progress | None = None) -> JobResult:
        """`run`, with a user's error as the result."""
        start = time.monotonic()
        try:
            return self.run(job, progress)
        except TalkingFaceError as error:
            return JobResult(job, 0, time.monotonic() - start, error)

    def _prepare(self, job: Job) -> PreparedFace:
        key, known = (str(job.image), repr(job.options)), self._prepared
        if known is None or known[0] != key:  # another thread may replace it meanwhile
            known = self._prepared = key, self._speaker.prepare(job.image, job.options)
        return known[1]
