"""A portrait and a recording in, a talking video out: pictures and paths outside, tensors inside.

Everything is generated in chunks with the state carried on: a long recording needs no more memory
than a short one, and `generate` and `stream` are the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from talkingface import faces, media, motion_file, picture, visemes, weights
from talkingface.animation import LOOP, Animator, MotionPlayer, Mover, loop, needs_head
from talkingface.audio import FPS, SAMPLES_PER_FRAME, WindowStream
from talkingface.contract import Generator, moves_mesh
from talkingface.controls import DEFAULTS, Controls
from talkingface.errors import BadRequest
from talkingface.face_options import DEFAULT_FACE, FaceKeywords, FaceOptions
from talkingface.face_preparation import LoadedImage, device_of, prepare_face
from talkingface.faces import Aligned
from talkingface.frame_generator import FrameGenerator
from talkingface.frames import FramePainter, PreparedFace
from talkingface.generated_video import Progress, Video
from talkingface.geometry import CropSpec, resized, transform
from talkingface.jobs import Job, JobResult, JobRunner
from talkingface.models.head_motion import HeadNet
from talkingface.motion import Motion
from talkingface.motion_file import Viseme
from talkingface.streaming import CHUNK, Samples, Speech, Stream, check_samples
from talkingface.types import Box, PathLike, Picture
from talkingface.version import __version__
from talkingface.weights import WeightsInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from talkingface.face_options import Landmarks

LONGEST_IDLE = 3600.0  # seconds of a video of a face that waits


def load(name: PathLike, device: str = "cpu") -> TalkingFace:
    """A generator by its name (see `weights.listing`) or the path of its weights file.

    device: see `find_device`. Raises UnknownModel, BadWeights, BadRequest (the device, or weights
    of another kind).
    """
    model, info = weights.load_with_info(name, find_device(device))
    if not isinstance(model, Generator):
        raise BadRequest(f"{name}: weights of a {info.family}, which is no generator of faces")
    return TalkingFace(model, info)


def find_device(name: str) -> torch.device:
    """That device; "auto" is the first accelerator if there is one. Raises BadRequest."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadRequest(f"device {name!r} is unknown: give auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise BadRequest(
            f"device {name!r}: this machine has {count} CUDA devices: give auto or cpu"
        )
    return device


def align(
    image: PathLike | Picture,
    *,
    face: int | None = None,
    box: Box | None = None,
    landmarks: Landmarks | None = None,
    spec: CropSpec | None = None,
) -> Aligned:
    """The aligned face of a picture, as generators see it.

    image: a file, or (H, W, 3) uint8 RGB. face, box, landmarks: see `FaceOptions`. spec: the crop's
    geometry. Raises UnreadableMedia, NoFaceFound, BadLandmarks, BadRequest.
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
    """Write where a face's 68 points are, for a user to look at and to correct; returns notes.

    output: the JSON file that `landmarks=` takes, in pixels of the picture's file; a point outside
    the picture (a face that is cut) goes to its edge. overlay: a PNG of the picture with the
    numbered points. At least one of the two. face, box, landmarks: see `FaceOptions`.
    Raises what `align` raises, and OutputError.
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
    """A generator that takes pictures and recordings. Make one with `talkingface.load`."""

    def __init__(self, model: Generator, info: WeightsInfo) -> None:
        self.model = model
        self.info = info
        self._mesh_model = model if moves_mesh(model) else None
        self._device = device_of(model)

    @property
    def moves_mesh(self) -> bool:
        """True if the model moves a mesh, and so takes `Controls` and motions."""
        return self._mesh_model is not None

    @property
    def samples_head(self) -> bool:
        """True if the model itself moves the head, from its pictures (cran-natural)."""
        return self.model.samples_head

    @property
    def tag(self) -> str:
        """Metadata comment of every written video."""
        file = f", weights sha256 {self.info.sha256[:16]}" if self.info.sha256 else ""
        return (
            f"Synthetic video: generated from one picture and a sound by talkingface "
            f"{__version__}, model {self.info.name}{file}"
        )

    def generate(
        self,
        image: PathLike | Picture,
        audio: PathLike | Samples | Motion,
        *,
        controls: Controls | None = None,
        motion: PathLike | Motion | None = None,
        options: FaceOptions = DEFAULT_FACE,
        **keywords: Unpack[FaceKeywords],
    ) -> Video:
        """The face of `image` speaking `audio`, as a video whose frames are made when asked for.

        image: a file, or (H, W, 3) uint8 RGB.
        audio: a recording or video file, or (N,) floats in [-1, 1] at 16 kHz; or a motion in place
        of sound, a `Motion` or its file (.json, .npz).
        controls: how the face moves beside what is said. motion: to draw instead of what the model
        makes of the sound; see `motion_file`.
        options, keywords: which face speaks and how it is shown, as `FaceOptions`, and changes to
        it: face=2, box=(x, y, width, height), landmarks="points.json", max_size=1280,
        crop_size=256, show="picture", "face" or "maps", mark=True.
        The video has as many frames as the sound lasts at 25 fps, the last, partial one counted.
        Raises UnreadableMedia, NoFaceFound, BadLandmarks, BadMotion, BadRequest.
        """
        face = self.prepare(image, options, **keywords)
        return self.animate(face, audio, controls=controls, motion=motion)

    def prepare(
        self,
        image: PathLike | Picture,
        options: FaceOptions = DEFAULT_FACE,
        **keywords: Unpack[FaceKeywords],
    ) -> PreparedFace:
        """Prepare the face of a picture, for several videos of it; the rest as in `generate`."""
        return prepare_face(image, options.updated(**keywords), self.model, self.info)

    def animate(
        self,
        face: PreparedFace,
        audio: PathLike | Samples | Motion,
        *,
        controls: Controls | None = None,
        motion: PathLike | Motion | None = None,
    ) -> Video:
        """`generate` with a face that is prepared by this model."""
        source, given = _source(audio, motion)
        return Video(face, self._generator(face, controls, given), source, self.tag)

    def motion(self, audio: PathLike | Samples, controls: Controls | None = None) -> Motion:
        """Compute the motion of any face that speaks `audio`, to save, to edit or to draw.

        audio, controls: as in `generate`. Raises UnreadableMedia, BadRequest (also: a model that
        moves no mesh, or whose head depends on the picture).
        """
        return Motion.join([part for part, _ in self._animated(audio, controls)])

    def motion_and_visemes(
        self, audio: PathLike | Samples, controls: Controls | None = None
    ) -> tuple[Motion, list[Viseme]]:
        """Compute the motion, and the visemes (start, end, name), in seconds; none from lips
        that are not the pretrained ones."""
        model = self._mesh_model
        readout = model.readout if model is not None and visemes.reads(model.readout) else None
        parts, scores = [], []
        for part, windows in self._animated(audio, controls):
            parts.append(part)
            if readout is not None:
                scores.append(visemes.scores(readout, windows))
        return Motion.join(parts), visemes.segments(np.concatenate(scores)) if scores else []

    def _animated(
        self, audio: PathLike | Samples, controls: Controls | None
    ) -> Iterator[tuple[Motion, Tensor]]:
        """The motion of a sound, part by part, and the model's windows that it came from."""
        sound, animator, state = Speech(audio), self._animator(controls), None
        if animator is None:
            raise BadRequest(f"model {self.info.name} moves no mesh: give cran or atvg")
        if self.samples_head:
            raise BadRequest(
                f"the head of model {self.info.name} moves as its pictures say, for no other face: "
                "give cran or atvg"
            )
        stream = WindowStream(animator.spec)
        for sound_part in chain(sound.parts(), [None]):
            speech = stream.finish() if sound_part is None else stream.push(sound_part)
            for chunk in speech.to(self._device).split(CHUNK) if len(speech) else ():
                part, state = animator(chunk, state)
                yield part, animator.model_windows(chunk)

    def idle(
        self,
        image: PathLike | Picture,
        seconds: float,
        *,
        repeats: bool = True,
        controls: Controls | None = None,
        options: FaceOptions = DEFAULT_FACE,
        **keywords: Unpack[FaceKeywords],
    ) -> Video:
        """A face that says nothing and goes on living: it breathes, blinks and sways.

        repeats: the end joins the beginning, to be played again and again. The rest as in
        `generate`. Raises BadRequest, and what `generate` raises.
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
        image: PathLike | Picture,
        *,
        controls: Controls | None = None,
        resume: PathLike | None = None,
        options: FaceOptions = DEFAULT_FACE,
        **keywords: Unpack[FaceKeywords],
    ) -> Stream:
        """Live: a face to which sound is pushed as it comes; its frames are those of `generate`.

        resume: a file of `Stream.save`, to go on where that stream was; the rest as in `generate`.
        Raises UnreadableMedia, NoFaceFound, BadLandmarks, BadRequest, BadWeights (the file).
        """
        face = self.prepare(image, options, **keywords)
        painter = FramePainter(face, self.info.name)
        stream = Stream(self._generator(face, controls), painter, face.note)
        if resume is not None:
            stream.restore(resume)
        return stream

    def stream(
        self, image: PathLike | Picture, chunks: Iterable[Samples], **options: Any
    ) -> Iterator[list[Picture]]:
        """Chunks of sound ((N,) floats at 16 kHz, any lengths) in, lists of new frames out.

        A frame comes with the chunk that completes it, `Stream.latency` after its own end; when
        the chunks end, silence stands in for what is missing. A long chunk's frames come in lists
        of at most `streaming.CHUNK`. options: as in `open`, which says what is raised (at once).
        """
        return _streamed(self.open(image, **options), chunks)

    def run(self, job: Job, progress: Progress | None = None) -> JobResult:
        """Make one video file; raises what `generate` and `Video.save` raise, writing nothing."""
        return JobRunner(self).run(job, progress)

    def generate_many(
        self, jobs: Sequence[Job], progress: Callable[[JobResult], None] | None = None
    ) -> list[JobResult]:
        """One result per job, in order; a job that fails says so in its result and stops no other.

        Neighbouring jobs with the same face share its detection and encoding. progress: called with
        each result as it comes.
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

    def _animator(self, controls: Controls | None, motion: Motion | None = None) -> Mover | None:
        """Return what moves the face; None for models that move no mesh. Raises BadRequest."""
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
    audio: PathLike | Samples | Motion, motion: PathLike | Motion | None
) -> tuple[Speech | Motion, Motion | None]:
    """Return what the video is as long as, and the motion that was given, if any."""
    if isinstance(audio, Motion) or motion_file.is_motion(audio):
        if motion is not None:
            raise BadRequest("two motions were given: give a sound and a motion, or one motion")
        given = _as_motion(audio)
        return given, given
    return Speech(audio), None if motion is None else _as_motion(motion)


def _as_motion(given: PathLike | Motion) -> Motion:
    return given if isinstance(given, Motion) else motion_file.read(Path(given))


def _streamed(stream: Stream, chunks: Iterable[Samples]) -> Iterator[list[Picture]]:
    """The part of `TalkingFace.stream` that runs when the first frames are asked for."""
    for chunk in chunks:
        for part in check_samples(chunk).split(CHUNK * SAMPLES_PER_FRAME):
            if frames := stream.push(part):
                yield frames
    if frames := stream.finish():
        yield frames


def stream(
    portrait: PathLike | Picture,
    chunks: Iterable[Samples],
    *,
    model: PathLike = "cran",
    device: str = "cpu",
    **options: Any,
) -> Iterator[list[Picture]]:
    """A face that speaks live: chunks of sound in, frames out; see `TalkingFace.stream`."""
    return load(model, device).stream(portrait, chunks, **options)
