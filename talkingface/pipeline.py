"""The Python API: a portrait and a recording in, a talking video out.

Pictures and paths come in, networks get tensors. All frames are generated in chunks, with the state
carried from one to the next: a long recording needs no more memory than a short one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from talkingface import faces, media, motion_file, picture, visemes, voice, weights
from talkingface.animation import (
    LOOP,
    Animator,
    MotionPlayer,
    Transition,
    loop,
    needs_head,
)
from talkingface.audio import FPS, SAMPLES_PER_FRAME, WindowStream
from talkingface.cast import Cast, Voice, cast_of
from talkingface.contract import Generator, moves_mesh
from talkingface.controls import DEFAULTS, SEEDS, Controls
from talkingface.conversation import Conversation, Member
from talkingface.dubbing.dubbed_video import DubbedVideo
from talkingface.dubbing.timeline import Length
from talkingface.dubbing.tracking import chosen_face
from talkingface.errors import BadRequest, UnreadableMedia
from talkingface.face_options import DEFAULT_FACE, FaceKeywords, FaceOptions
from talkingface.face_preparation import ImageInput, LoadedImage, device_of, prepare_face
from talkingface.faces import Aligned
from talkingface.frame_generator import FrameGenerator
from talkingface.frames import FramePainter, PreparedFace
from talkingface.generated_video import Progress, Video
from talkingface.geometry import CropSpec, resized, transform
from talkingface.group import prepare_group
from talkingface.jobs import DubJob, Job, JobResult, JobRunner
from talkingface.live_face import LiveFace
from talkingface.models.head_motion import HeadNet
from talkingface.motion import Motion
from talkingface.motion_file import Viseme
from talkingface.sound_input import AudioInput, Samples
from talkingface.streaming import CHUNK, Speech, Stream, check_samples
from talkingface.turns import Turn
from talkingface.types import Box, FaceChoice, Floats, PathLike, Picture
from talkingface.version import __version__
from talkingface.weights import WeightsInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from talkingface.face_options import Landmarks

LONGEST_IDLE = 3600.0  # seconds of a video of a face that waits


def load(name: PathLike, device: str = "cpu") -> TalkingFace:
    """Load a model.

    name: name of a pretrained model (`talkingface models` lists them), or path of a weights file.
    device: "cpu", "cuda", "cuda:N", or "auto" for a GPU if there is one.

    Raises UnknownModel, BadWeights, BadRequest (an unknown device, or weights of another kind).
    """
    import av  # noqa: F401 its modules import each other: two threads that are the first both fail

    model, info = weights.load_with_info(name, find_device(device))
    if not isinstance(model, Generator):
        raise BadRequest(f"{name}: weights of a {info.family}, which is no generator of faces")
    return TalkingFace(model, info)


def find_device(name: str) -> torch.device:
    """Return a device by name; "auto" is a GPU if there is one. Raises BadRequest."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadRequest(f"device {name!r} is unknown: give auto, cpu, cuda or cuda:N") from error
    if device.type == "meta":  # it has no memory
        raise BadRequest(f"device {name!r} computes nothing: give auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise BadRequest(
            f"device {name!r}: this machine has {count} CUDA devices: give auto or cpu"
        )
    return device


def align(
    image: ImageInput,
    *,
    face: int | None = None,
    box: Box | None = None,
    landmarks: Landmarks | None = None,
    spec: CropSpec | None = None,
) -> Aligned:
    """Find a face and cut its aligned crop out of the picture, as models see it.

    image: a path, bytes, a file object, an image of Pillow, or (H, W, 3) uint8 RGB or (H, W, 4)
    RGBA. Of an animation or a video the first frame is taken.
    face: number of the face, by size (`FaceOptions`).
    box: box of the face in pixels (`FaceOptions`).
    landmarks: the face's 68 points (`FaceOptions`).
    spec: geometry of the crop. The default is 128 pixels a side, eye centres 40 pixels apart.

    Raises UnreadableMedia, NoFaceFound, BadLandmarks, BadRequest.
    """
    loaded = LoadedImage.read(image)
    located = loaded.locate(FaceOptions(face, box, landmarks))
    return faces.align(loaded.pixels, located, spec or CropSpec())


def find_landmarks(
    image: PathLike,
    output: PathLike | None = None,
    *,
    overlay: PathLike | None = None,
    face: int | None = None,
    box: Box | None = None,
    landmarks: PathLike | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write the 68 points of a face, to look at and to correct; return notes for the user.

    At least one of output and overlay must be given.

    output: a JSON file, as `landmarks=` takes it, in pixels of the picture's file. A point outside
    the picture is moved to its edge.
    overlay: a PNG of the picture with the numbered points.
    face, box, landmarks: see `FaceOptions`.

    Raises OutputError, and the errors of `align`.
    """
    if output is None and overlay is None:
        raise BadRequest("nothing to write: give --output points.json, --overlay numbers.png")
    media.check_names([image, landmarks], [output, overlay])
    for path in (output, overlay):
        if path is not None:
            media.check_output(path, overwrite)
    loaded = LoadedImage.read(image)
    located = loaded.locate(FaceOptions(face, box, landmarks))
    scale = max(loaded.size) / max(loaded.pixels.shape[:2])
    exact = transform(located.landmarks, resized(scale))
    points = np.clip(exact, 0, loaded.size)
    if output is not None:
        about = {"picture": Path(image).name, "size": loaded.size}
        faces.write_landmarks(Path(output), points, about, overwrite)
    if overlay is not None:
        shown = faces.overlay(loaded.pixels, located.landmarks)
        picture.write_png(Path(overlay), shown, overwrite)
    moved = int((points != exact).any(1).sum())
    edge = f"{moved} of {len(points)} points lie outside the picture: they were put on its edge"
    notes = [located.note, edge if moved and output is not None else None]
    return [f"{image}: {note}" for note in notes if note is not None]


class TalkingFace:
    """A model that makes talking videos from pictures and recordings. Made by `load`."""

    def __init__(self, model: Generator, info: WeightsInfo) -> None:
        self.model = model
        self.info = info
        self._mesh_model = model if moves_mesh(model) else None
        self._device = device_of(model)

    @property
    def moves_mesh(self) -> bool:
        """True if the model takes `Controls` and motions: it moves a mesh of the face."""
        return self._mesh_model is not None

    @property
    def samples_head(self) -> bool:
        """True if the head's motion depends on the model's own pictures (`cran-natural`)."""
        return self.model.samples_head

    @property
    def tag(self) -> str:
        """Metadata comment of every written video."""
        return self._tag("one picture")

    def _tag(self, source: str) -> str:
        file = f", weights sha256 {self.info.sha256[:16]}" if self.info.sha256 else ""
        return (
            f"Synthetic video: generated from {source} and a sound by talkingface "
            f"{__version__}, model {self.info.name}{file}"
        )

    def generate(
        self,
        image: ImageInput,
        audio: AudioInput | Motion,
        *,
        controls: Controls | None = None,
        motion: PathLike | Motion | None = None,
        audio_track: int | None = None,
        options: FaceOptions = DEFAULT_FACE,
        **keywords: Unpack[FaceKeywords],
    ) -> Video:
        """Return a video of the face in `image` that speaks `audio`.

        Frames are generated when they are read. There are 25 per second of sound; the last,
        partial one counts.

        image: a path, bytes, a file object, an image of Pillow, or (H, W, 3) uint8 RGB or (H, W, 4)
        RGBA. Of an animation or a video the first frame is taken.
        audio: a recording or a video, as a path, bytes or a file object; or samples: (samples,
        rate in Hz), or samples alone, which are taken as 16 kHz. Samples are floats in [-1, 1],
        int16, int32 or uint8, (N,) or with several channels (N, C). A `Motion` or a motion file
        (.json, .npz) makes a silent video.
        controls: how the face moves. The default is `Controls()`.
        motion: a `Motion` or a motion file, drawn instead of the motion that the sound gives.
        audio_track: number of the file's audio track, from 1. The default is the track that the
        file marks so, else the first.
        options: which face speaks, and how it is shown.
        keywords: changes to the options, by field: face=2, show="face", mark=True.

        Raises UnreadableMedia, NoFaceFound, BadLandmarks, BadMotion, BadRequest.
        """
        face = self.prepare(image, options, **keywords)
        return self.animate(face, audio, controls=controls, motion=motion, audio_track=audio_track)

    def say(
        self,
        image: ImageInput,
        text: str,
        *,
        voice_command: str | None = None,
        controls: Controls | None = None,
        options: FaceOptions = DEFAULT_FACE,
        **keywords: Unpack[FaceKeywords],
    ) -> Video:
        """Return a video of the face that says a text, with a synthetic voice, offline.

        image: as in `generate`.
        text: English, 1 to 5,000 characters.
        voice_command: another voice, a program with its arguments, run without a shell. It reads
        the text on its standard input and writes a WAV to its standard output, or to the file
        whose name replaces {output}. The default is the voice of `talkingface[voice]`.
        controls: how the face moves. The default is `Controls()`.
        options: which face speaks, and how it is shown.
        keywords: changes to the options, by field.

        Raises BadRequest (no text or no voice), and the errors of `generate`.
        """
        sound = voice.speak(text, voice_command)
        return self.generate(image, sound, controls=controls, options=options, **keywords)

    def prepare(
        self,
        image: ImageInput,
        options: FaceOptions = DEFAULT_FACE,
        **keywords: Unpack[FaceKeywords],
    ) -> PreparedFace:
        """Prepare the face of a picture once, for several videos by `animate`.

        image: a picture, as in `generate`.
        options: which face speaks, and how it is shown.
        keywords: changes to the options, by field.

        Raises UnreadableMedia, NoFaceFound, BadLandmarks, BadRequest.
        """
        return prepare_face(image, options.updated(**keywords), self.model, self.info)

    def animate(
        self,
        face: PreparedFace,
        audio: AudioInput | Motion,
        *,
        controls: Controls | None = None,
        motion: PathLike | Motion | None = None,
        audio_track: int | None = None,
    ) -> Video:
        """Return a video of a prepared face; see `generate`.

        face: result of `prepare` of the same model.
        audio: as in `generate`.
        controls: as in `generate`.
        motion: as in `generate`.
        audio_track: as in `generate`.

        Raises UnreadableMedia, BadMotion, BadRequest.
        """
        source, given = _source(audio, motion, audio_track)
        return Video(face, self._generator(face, controls, given), source, self.tag)

    def converse(
        self,
        image: ImageInput,
        audio: Mapping[FaceChoice, AudioInput] | AudioInput,
        *,
        turns: PathLike | Sequence[Turn] | None = None,
        faces: Mapping[str, FaceChoice] | None = None,
        controls: Controls | None = None,
        audio_track: int | None = None,
        options: FaceOptions = DEFAULT_FACE,
        **keywords: Unpack[FaceKeywords],
    ) -> Conversation:
        """Return a video of several people in one picture, of whom each speaks and listens.

        Who does not speak waits: blinks, breathes and keeps the mouth at rest. Faces that are much
        smaller than those of the speakers do not move.

        image: as in `generate`.
        audio: one recording for each face that speaks: {1: "a.wav", 2: "b.wav"}; or one recording
        of all, with turns. A face is its number by size, 1 is the largest, or its box (x, y, width,
        height) in pixels.
        turns: who speaks when in the one recording: `Turn`s, or a file of JSON or RTTM.
        faces: faces of the names in the turns. The others are the largest of the other faces: who
        speaks first is the leftmost.
        controls: how the faces move; each has a seed of its own, counted from this one's.
        audio_track: of the one recording, as in `generate`.
        options: how the picture is shown.
        keywords: changes to the options, by field.

        Raises the errors of `generate`; UnreadableMedia (the turns), BadRequest (who speaks).
        """
        cast = cast_of(audio, turns, faces, audio_track)
        options = options.updated(**keywords)
        group = prepare_group(image, cast.chosen, options, self.model, self.info)
        controls = controls or DEFAULTS
        voices: list[Voice | None] = [*cast.voices, *[None] * len(group.listeners)]
        members = [
            Member(face, self._generator(face, _seeded(controls, number)), voice)
            for number, (face, voice) in enumerate(
                zip([*group.speakers, *group.listeners], voices, strict=True)
            )
        ]
        return Conversation(members, cast, options, group.note, self.tag)

    def motion(
        self,
        audio: AudioInput,
        controls: Controls | None = None,
        audio_track: int | None = None,
    ) -> Motion:
        """Compute the motion of any face that speaks `audio`, to save, edit or draw.

        audio: a recording, a video or samples, as in `generate`.
        controls: how the face moves. The default is `Controls()`.
        audio_track: as in `generate`.

        Raises UnreadableMedia, BadRequest (also for a model that moves no mesh, or whose head's
        motion depends on its pictures).
        """
        return self._spoken(Voice(Speech(audio, audio_track)), controls)

    def _spoken(self, voice: Voice, controls: Controls | None) -> Motion:
        return Motion.join([part for part, _ in self._animated(voice, controls)])

    def motion_and_visemes(
        self,
        audio: AudioInput,
        controls: Controls | None = None,
        audio_track: int | None = None,
    ) -> tuple[Motion, list[Viseme]]:
        """Compute the motion, and the visemes as (start, end, name), times in seconds.

        The list of visemes is empty if the model's lips are not the pretrained ones.

        audio: as in `motion`.
        controls: as in `motion`.
        audio_track: as in `generate`.

        Raises the errors of `motion`.
        """
        model = self._mesh_model
        readout = model.readout if model is not None and visemes.reads(model.readout) else None
        parts, scores = [], []
        for part, windows in self._animated(Voice(Speech(audio, audio_track)), controls):
            parts.append(part)
            if readout is not None:
                scores.append(visemes.scores(readout, windows))
        return Motion.join(parts), visemes.segments(np.concatenate(scores)) if scores else []

    def _animated(self, voice: Voice, controls: Controls | None) -> Iterator[tuple[Motion, Tensor]]:
        """Yield the motion of a voice in parts, each with the model's windows of speech."""
        animator, state = self._animator(controls), None
        if animator is None:
            raise BadRequest(f"model {self.info.name} moves no mesh: give cran or atvg")
        if self.samples_head:
            raise BadRequest(
                f"the head of model {self.info.name} moves as its pictures say, for no other face: "
                "give cran or atvg"
            )
        stream = WindowStream(animator.spec)
        for sound_part in chain(voice.parts(), [None]):
            speech = stream.finish() if sound_part is None else stream.push(sound_part)
            for chunk in speech.to(self._device).split(CHUNK) if len(speech) else ():
                part, state = animator(chunk, state)
                yield part, animator.model_windows(chunk)

    def dub(
        self,
        video: PathLike,
        audio: Mapping[FaceChoice, AudioInput] | AudioInput,
        *,
        turns: PathLike | Sequence[Turn] | None = None,
        faces: Mapping[str, FaceChoice] | None = None,
        controls: Controls | None = None,
        length: Length | None = None,
        face: int | None = None,
        box: Box | None = None,
        time: float = 0.0,
        mark: bool = False,
        audio_track: int | None = None,
    ) -> DubbedVideo:
        """Return the video with the lips of a person, or of several, moved by another sound.

        Head, eyes and all else stay the video's own, and so do frames without a usable face.

        video: a video file.
        audio: a recording, a video or samples, as in `generate`. Of several people one for each,
        or one recording of all with turns, as in `converse`: who does not speak keeps the lips
        closed, who is not given stays as in the video.
        turns, faces: as in `converse`.
        controls: mouth, smooth and expressions count. The default is `Controls()`.
        length: where the result ends and what it shows after the video's end: "video", "sound",
        "loop", "bounce" or "freeze" (`dubbing.timeline`). The default is "video", and "bounce"
        where the sound is longer.
        face, box: the one person who is dubbed, as number or box of a face. The default is the one
        who speaks in the video, else the largest.
        time: seconds from the video's beginning, where the faces are chosen.
        mark: True writes a small label "synthetic" into every frame.
        audio_track: as in `generate`.

        Raises UnreadableMedia, BadRequest (also for a model that moves no mesh).
        """
        alone = chosen_face(face, box)
        if isinstance(audio, Mapping) or turns is not None or faces is not None:
            if alone is not None:
                raise BadRequest("several people speak: give each one's face with its sound")
            cast = cast_of(audio, turns, faces, audio_track)
        else:
            cast = Cast([alone], [Voice(Speech(audio, audio_track))])
        still = replace(controls or DEFAULTS, still=True)
        motions = [self._spoken(voice, still) for voice in cast.voices]
        model = self._mesh_model
        assert model is not None  # else there is no motion
        return DubbedVideo(
            video,
            cast,
            motions,
            model.readout.space,
            time,
            length,
            self._tag("a video"),
            partial(self._predicted_lips, video),
            mark,
        )

    def _predicted_lips(self, video: PathLike) -> Floats | None:
        """Return how far lips are apart that speak a video's sound, (N,) interocular units.

        They are 25 per second; None for a video without a sound.
        """
        try:
            voice = Voice(Speech(video))
        except UnreadableMedia:
            return None
        spoken = torch.from_numpy(self._spoken(voice, Controls(still=True)).expression)
        assert self._mesh_model is not None
        gaps = self._mesh_model.readout.space.lip_gap(spoken.to(self._device))
        return np.asarray(gaps.cpu().numpy(), np.float32)

    def idle(
        self,
        image: ImageInput,
        seconds: float,
        *,
        repeats: bool = True,
        controls: Controls | None = None,
        options: FaceOptions = DEFAULT_FACE,
        **keywords: Unpack[FaceKeywords],
    ) -> Video:
        """Return a silent video of a waiting face: it breathes, blinks and sways.

        image: a picture, as in `generate`.
        seconds: length of the video, 1 to 3600.
        repeats: True joins the end to the beginning, for playing in a loop.
        controls: how the face moves. The default is `Controls()`.
        options: which face is taken, and how it is shown.
        keywords: changes to the options, by field.

        Raises UnreadableMedia, NoFaceFound, BadLandmarks, BadRequest.
        """
        if not 1 <= seconds <= LONGEST_IDLE:
            raise BadRequest(f"idle for {seconds:g} s: give 1 to {LONGEST_IDLE:g} seconds")
        face = self.prepare(image, options, **keywords)
        count = round(seconds * FPS)
        silence = np.zeros((count + repeats * LOOP) * SAMPLES_PER_FRAME, np.float32)
        motion = self.motion(silence, controls)
        return self.animate(face, loop(motion, count) if repeats else motion[:count])

    def open(
        self,
        image: ImageInput,
        *,
        controls: Controls | None = None,
        resume: PathLike | None = None,
        alpha: bool = False,
        options: FaceOptions = DEFAULT_FACE,
        **keywords: Unpack[FaceKeywords],
    ) -> Stream:
        """Open a live video, to which sound is pushed. Its frames are those of `generate`.

        image: a picture, as in `generate`.
        controls: how the face moves. The default is `Controls()`.
        resume: a file of `Stream.save`, to continue that stream.
        alpha: True keeps transparent parts of the picture: its frames are (H, W, 4) uint8 RGBA.
        options: which face speaks, and how it is shown.
        keywords: changes to the options, by field.

        Raises UnreadableMedia, NoFaceFound, BadLandmarks, BadRequest, BadWeights (the file).
        """
        face = self.prepare(image, options, **keywords)
        painter = FramePainter(face, self.info.name, alpha=alpha)
        stream = Stream(self._generator(face, controls), painter, face.note)
        if resume is not None:
            stream.restore(resume)
        return stream

    def live(
        self,
        image: ImageInput,
        *,
        rate: int = 24_000,
        channels: int = 1,
        controls: Controls | None = None,
        options: FaceOptions = DEFAULT_FACE,
        **keywords: Unpack[FaceKeywords],
    ) -> LiveFace:
        """Open a face for a conversation: sound of any format in, frames with their sound out.

        The frames of an utterance are those of `generate`. While no sound comes, the face waits.

        image: as in `generate`.
        rate: samples per second of the sound that comes out, a multiple of 25.
        channels: its channels, 1 or 2.
        controls: how the face moves. The default is `Controls()`.
        options: which face speaks, and how it is shown. A small max_size saves time.
        keywords: changes to the options, by field.

        Raises UnreadableMedia, NoFaceFound, BadLandmarks, BadRequest.
        """
        face = self.prepare(image, options, **keywords)
        painter, animator = FramePainter(face, self.info.name), self._animator(controls)
        transition = None if animator is None else Transition(animator)
        generator = FrameGenerator(self.model, self.info, face.identity, transition)
        stream = Stream(generator, painter, face.note)
        return LiveFace(stream, painter, transition, rate, channels)

    def stream(
        self, image: ImageInput, chunks: Iterable[Samples], **options: Any
    ) -> Iterator[list[Picture]]:
        """Yield lists of new frames, (H, W, 3) uint8 RGB, as chunks of sound arrive.

        A frame needs `Stream.latency` seconds of sound after its own end. When the chunks end,
        silence stands in for missing sound. A list has at most 10 frames.

        image: a picture, as in `generate`.
        chunks: (N,) floats in [-1, 1], mono at 16 kHz, of any lengths.
        options: keyword arguments of `open`.

        Raises the errors of `open`, at the call; BadRequest for a chunk that is no sound.
        """
        return _streamed(self.open(image, **options), chunks)

    def run(self, job: Job | DubJob, progress: Progress | None = None) -> JobResult:
        """Generate or dub one video file.

        job: files, options and controls.
        progress: function to call with (frames done, frames in all) after every frame.

        Raises the errors of `generate` and `Video.save`, or of `dub` and `DubbedVideo.save`.
        """
        return JobRunner(self).run(job, progress)

    def generate_many(
        self, jobs: Sequence[Job | DubJob], progress: Callable[[JobResult], None] | None = None
    ) -> list[JobResult]:
        """Generate or dub many video files; return one result per job, in their order.

        `batch.run_batch` does it in several processes, or on a cluster.

        An error is kept in the job's result, and the next job starts. Jobs of the same face that
        follow each other share its preparation.

        jobs: files, options and controls of each.
        progress: function to call with each result.
        """
        runner, results = JobRunner(self), []
        for job in jobs:
            results.append(runner.attempt(job))
            if progress is not None:
                progress(results[-1])
        return results

    def _generator(
        self, face: PreparedFace, controls: Controls | None, motion: Motion | None = None
    ) -> FrameGenerator:
        animator = self._animator(controls, motion)
        return FrameGenerator(self.model, self.info, face.identity, animator)

    def _animator(
        self, controls: Controls | None, motion: Motion | None = None
    ) -> Animator | MotionPlayer | None:
        """Return the source of motion; None for models that move no mesh. Raises BadRequest."""
        model = self._mesh_model
        if model is None:
            if motion is not None or replace(controls or DEFAULTS, still=False) != DEFAULTS:
                raise BadRequest(
                    f"model {self.info.name} draws whole crops and moves no mesh: it takes neither "
                    "controls nor a motion; give cran or atvg"
                )
            return None
        if motion is not None:
            if motion.expression.shape[1] != model.readout.space.components:
                raise BadRequest(
                    f"the motion has {motion.expression.shape[1]} coefficients of expression, the "
                    f"model {self.info.name} has {model.readout.space.components}"
                )
            return MotionPlayer(motion, model.config.speech)
        controls = controls or DEFAULTS
        loads_head = needs_head(controls) and not self.samples_head
        return Animator(model.readout, self._head_net if loads_head else None, controls)

    @cached_property
    def _head_net(self) -> HeadNet:
        """The pretrained model of heads, read once for all faces."""
        net: Any = weights.load("head", self._device)
        return cast(HeadNet, net)


def _source(
    audio: AudioInput | Motion, motion: PathLike | Motion | None, track: int | None
) -> tuple[Speech | Motion, Motion | None]:
    """Return the source that decides the video's length, and the motion given, or None."""
    if isinstance(audio, Motion) or motion_file.is_motion(audio):
        if motion is not None:
            raise BadRequest("two motions were given: give a sound and a motion, or one motion")
        if track is not None:
            raise BadRequest("a motion has no audio tracks: give audio_track with a recording")
        given = _as_motion(audio)
        return given, given
    return Speech(audio, track), None if motion is None else _as_motion(motion)


def _seeded(controls: Controls, number: int) -> Controls:
    """Return the controls with another seed for each face of a picture."""
    return replace(controls, seed=(controls.seed + number) % SEEDS)


def _as_motion(given: Any) -> Motion:
    return given if isinstance(given, Motion) else motion_file.read(Path(given))


def _streamed(stream: Stream, chunks: Iterable[Samples]) -> Iterator[list[Picture]]:
    """Yield the frames of `TalkingFace.stream`."""
    for chunk in chunks:
        for part in check_samples(chunk).split(CHUNK * SAMPLES_PER_FRAME):
            if frames := stream.push(part):
                yield frames
    if frames := stream.finish():
        yield frames


def stream(
    portrait: ImageInput,
    chunks: Iterable[Samples],
    *,
    model: PathLike = "cran",
    device: str = "cpu",
    **options: Any,
) -> Iterator[list[Picture]]:
    """Load a model and yield lists of new frames, as chunks of sound arrive.

    portrait: a picture, as in `TalkingFace.generate`.
    chunks: (N,) floats in [-1, 1], mono at 16 kHz, of any lengths.
    model: see `load`.
    device: see `load`.
    options: keyword arguments of `TalkingFace.open`.

    Raises the errors of `load` and `TalkingFace.stream`.
    """
    return load(model, device).stream(portrait, chunks, **options)
