"""A portrait and a recording in, a talking video out: pictures and paths outside, tensors inside.

Everything is generated in chunks with the state carried on: a long recording needs no more memory
than a short one, and `generate` and `stream` are the same code.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from talkingface import (
    arkit,
    audio,
    faces,
    media,
    motion_file,
    picture,
    video,
    visemes,
    weights,
)
from talkingface.animation import LOOP, Animator, MotionPlayer, loop, needs_head
from talkingface.audio import FPS, SAMPLES_PER_FRAME, WindowStream
from talkingface.contract import Generated, Generator, Portrait, State
from talkingface.controls import DEFAULTS, Controls
from talkingface.errors import BadRequest, OutputError, TalkingFaceError
from talkingface.faces import Aligned, Located
from talkingface.geometry import CropSpec, compose, resized, transform
from talkingface.landmarks import aperture, eye_distance
from talkingface.metrics.identity import SAME_PERSON, Person
from talkingface.models.head_motion import HeadNet
from talkingface.motion import Motion
from talkingface.motion_file import Viseme
from talkingface.streaming import (
    CHUNK,
    Maps,
    OutputFrame,
    Picture,
    PreparedFace,
    Samples,
    Show,
    Stream,
    ahead,
    check_samples,
    output_frames,
)
from talkingface.version import __version__
from talkingface.weights import WeightsInfo

Box = tuple[float, float, float, float]  # x, y, width, height in picture pixels
Progress = Callable[[int, int], None]  # called with (frames done, frames in all)
PathLike = str | Path
Landmarks = PathLike | NDArray[Any]  # a file (see `faces.given`), or (68, 2) picture pixels

SMALLEST_MAX_SIZE = 64  # pixels
LARGEST_CROP = 2048
WIDE_OPEN = 0.45  # of the distance of the eyes: lips this far apart in a picture do not meet


@dataclass(frozen=True)
class Job:
    """One video to make: files in, files out. The options are those of `TalkingFace.generate`."""

    image: PathLike
    audio: PathLike
    output: PathLike
    sheet: PathLike | None = None
    show: Show = "picture"
    mark: bool = False
    face: int | None = None
    box: Box | None = None
    max_size: int = 1280
    crop_size: int = 256
    overwrite: bool = False
    landmarks: PathLike | None = None
    maps: PathLike | None = None
    controls: Controls = DEFAULTS
    motion: PathLike | None = None

    def check(self) -> None:
        """Before any work: raises OutputError when an output must not or cannot be written, and
        BadRequest for controls that cannot be."""
        self.controls.check(sorted(arkit.EXPRESSIONS))
        inputs = [self.image, self.audio, self.landmarks, self.motion]
        _check_names(inputs, [self.output, self.maps, self.sheet])
        for path in [self.output] if self.maps is None else [self.output, self.maps]:
            video.check_output(path, self.overwrite)
        if self.sheet is not None:
            media.check_output(self.sheet, self.overwrite)


def _check_names(inputs: Sequence[PathLike | None], outputs: Sequence[PathLike | None]) -> None:
    """Raises OutputError when an output has the name of an input or of another output."""
    taken = {os.path.realpath(path) for path in inputs if path is not None}
    for path in outputs:
        if path is None:
            continue
        if os.path.realpath(path) in taken:
            raise OutputError(f"{path}: is given twice; an output needs a name of its own")
        taken.add(os.path.realpath(path))


@dataclass(frozen=True)
class JobResult:
    """Result of a job.

    frames: written; seconds: it took; error: None when it succeeded; note: see `Video.note`.
    """

    job: Job
    frames: int
    seconds: float
    error: TalkingFaceError | None = None
    note: str | None = None


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

    image: a file, or (H, W, 3) uint8 RGB. face: the N-th largest (from 1) instead of the largest;
    box: (x, y, width, height) of the face in pixels, where the mean face is laid if no other is
    seen; landmarks: its 68 points, a JSON file (see `faces.given`) or (68, 2) pixels; at most one
    of the three. spec: the crop's geometry.
    Raises UnreadableMedia, NoFaceFound, BadLandmarks, BadRequest.
    """
    seen = _read_picture(image)
    return faces.align(seen.pixels, seen.locate(face, box, landmarks), spec or CropSpec())


@dataclass(frozen=True)
class _LoadedImage:
    """A picture. size: (width, height) of its file, which `picture.read` shrinks when large."""

    pixels: Picture
    name: str
    size: tuple[int, int]

    def locate(
        self, face: int | None, box: Box | None, landmarks: Landmarks | None = None
    ) -> Located:
        return faces.locate(
            self.pixels,
            number=face,
            box=box,
            landmarks=landmarks,
            name=self.name,
            size=self.size,
        )


def _read_picture(image: PathLike | Picture) -> _LoadedImage:
    if isinstance(image, (str, Path)):
        pixels, size = picture.read_with_size(image)
        return _LoadedImage(pixels, str(image), size)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise BadRequest(
            f"a picture must be (H, W, 3) uint8 RGB, this array is {image.shape} {image.dtype}"
        )
    return _LoadedImage(image, "picture", (image.shape[1], image.shape[0]))


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
    numbered points. At least one of the two. face, box and landmarks: as in `align`.
    Raises what `align` raises, and OutputError.
    """
    if output is None and overlay is None:
        raise BadRequest("nothing to write: give --output points.json, --overlay numbers.png")
    _check_names([image, landmarks], [output, overlay])
    for path in (output, overlay):
        if path is not None:
            media.check_output(path, overwrite)
    seen = _read_picture(image)
    located = seen.locate(face, box, landmarks)
    scale = max(seen.size) / max(seen.pixels.shape[:2])
    exact = transform(located.landmarks, resized(scale))
    points = np.clip(exact, 0, seen.size)
    if output is not None:
        about = {"picture": Path(image).name, "size": seen.size}
        faces.write_landmarks(Path(output), points, about, overwrite)
    if overlay is not None:
        shown = faces.overlay(seen.pixels, located.landmarks)
        picture.write_png(Path(overlay), shown, overwrite)
    moved = int((points != exact).any(1).sum())
    edge = f"{moved} of {len(points)} points lie outside the picture: they were put on its edge"
    notes = [located.note, edge if moved and output is not None else None]
    return [f"{image}: {note}" for note in notes if note is not None]


class _Speech:
    """Speech of a video, read as often as needed; a file is never held whole.

    Raises UnreadableMedia (the file, read to its end), BadRequest (an array that is no sound).
    """

    def __init__(self, sound: PathLike | Samples) -> None:
        """sound: a file, or (N,) floats at 16 kHz."""
        self.source = Path(sound) if isinstance(sound, (str, Path)) else check_samples(sound)
        length = sum(len(part) for part in self.parts())
        if length < SAMPLES_PER_FRAME:
            raise BadRequest(
                f"a sound needs at least {SAMPLES_PER_FRAME} samples (one video frame, 40 ms at "
                f"16 kHz), this array has {length}"
            )
        self.frames = audio.frame_count(length)

    def parts(self) -> Iterator[Tensor]:
        """(n,) float32 samples at 16 kHz, a second at a time."""
        if isinstance(self.source, Path):
            return audio.read(self.source)
        return iter(self.source.split(audio.SAMPLE_RATE))


class TalkingFace:
    """A generator that takes pictures and recordings. Make one with `talkingface.load`."""

    def __init__(self, model: nn.Module, info: WeightsInfo) -> None:
        self.model = model
        self.info = info
        self._config: Any = model.config
        self._device = next((p.device for p in model.parameters()), torch.device("cpu"))

    @property
    def moves_mesh(self) -> bool:
        """True if the model moves a mesh, and so takes `Controls` and motions."""
        return getattr(self.model, "moving", None) is not None

    @property
    def samples_head(self) -> bool:
        """True if the model itself moves the head, from its pictures (cran-natural)."""
        return getattr(self._config, "head_motion", "none") == "sampled"

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
        show: Show = "picture",
        mark: bool = False,
        face: int | None = None,
        box: Box | None = None,
        landmarks: Landmarks | None = None,
        max_size: int = 1280,
        crop_size: int = 256,
    ) -> Video:
        """The face of `image` speaking `audio`, as a video whose frames are made when asked for.

        image: a file, or (H, W, 3) uint8 RGB.
        audio: a recording or video file, or (N,) floats in [-1, 1] at 16 kHz; or a motion in place
        of sound, a `Motion` or its file (.json, .npz).
        controls: how the face moves beside what is said. motion: to draw instead of what the model
        makes of the sound; see `motion_file`.
        show: the whole "picture", the bare aligned "face", or "maps" (`Maps.panels`).
        mark: a small label in every frame says that it is synthetic.
        face: the N-th largest face (from 1); box: (x, y, width, height) of the face in the picture,
        be it a drawing; landmarks: its 68 points, a file or (68, 2); see `align`.
        max_size: a larger picture is shrunk to this many pixels on its long side.
        crop_size: pixels of the bare face's side.
        The video has as many frames as the sound lasts at 25 fps, the last, partial one counted.
        Raises UnreadableMedia, NoFaceFound, BadLandmarks, BadMotion, BadRequest.
        """
        prepared = self._prepare_face(image, face, box, landmarks, max_size)
        sound, moved = _source(audio, motion)
        animator = self._animator(controls, moved)
        return Video(self, prepared, sound, animator, show, mark, crop_size)

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
        that are not the shipped ones."""
        model: Any = self.model
        known = self.moves_mesh and visemes.reads(model.readout)
        parts, scores = [], []
        for part, windows in self._animated(audio, controls):
            parts.append(part)
            if known:
                scores.append(visemes.scores(model.readout, windows))
        found = visemes.segments(np.concatenate(scores)) if known else []
        return Motion.join(parts), found

    def _animated(
        self, audio: PathLike | Samples, controls: Controls | None
    ) -> Iterator[tuple[Motion, Tensor]]:
        """The motion of a sound, part by part, and the model's windows that it came from."""
        sound, animator, state = _Speech(audio), self._animator(controls), None
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
        **options: Any,
    ) -> Video:
        """A face that says nothing and goes on living: it breathes, blinks and sways.

        repeats: the end joins the beginning, to be played again and again. options: as in
        `generate`. Raises BadRequest, and what `generate` raises.
        """
        longest = 3600.0
        if not 1 <= seconds <= longest:
            raise BadRequest(f"idle for {seconds:g} s: give 1 to {longest:g} seconds")
        count = round(seconds * FPS)
        silence = np.zeros((count + repeats * LOOP) * SAMPLES_PER_FRAME, np.float32)
        motion = self.motion(silence, controls)
        motion = loop(motion, count) if repeats else motion[:count]
        return self.generate(image, motion, **options)

    def open(
        self,
        image: PathLike | Picture,
        *,
        controls: Controls | None = None,
        show: Show = "picture",
        mark: bool = False,
        face: int | None = None,
        box: Box | None = None,
        landmarks: Landmarks | None = None,
        max_size: int = 1280,
        crop_size: int = 256,
        resume: PathLike | None = None,
    ) -> Stream:
        """Live: a face to which sound is pushed as it comes; its frames are those of `generate`.

        resume: a file of `Stream.save`, to go on where that stream was; the rest as in `generate`.
        Raises UnreadableMedia, NoFaceFound, BadLandmarks, BadRequest, BadWeights (the file).
        """
        prepared = self._prepare_face(image, face, box, landmarks, max_size)
        stream = self._stream(prepared, self._animator(controls), show, mark, crop_size)
        if resume is not None:
            stream.restore(resume, self._device)
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
        return self._run(job, self._prepare_job, progress)

    def generate_many(
        self, jobs: Sequence[Job], progress: Callable[[JobResult], None] | None = None
    ) -> list[JobResult]:
        """One result per job, in order; a job that fails says so in its result and stops no other.

        Neighbouring jobs with the same face share its detection and encoding. progress: called with
        each result as it comes.
        """
        known: dict[tuple[Any, ...], PreparedFace] = {}

        def prepared(job: Job) -> PreparedFace:
            where = (job.face, job.box, None if job.landmarks is None else str(job.landmarks))
            key = (str(job.image), *where, job.max_size)
            if key not in known:
                face = self._prepare_job(job)
                known.clear()
                known[key] = face
            return known[key]

        results = []
        for job in jobs:
            start = time.monotonic()
            try:
                result = self._run(job, prepared, None)
            except TalkingFaceError as error:
                result = JobResult(job, 0, time.monotonic() - start, error)
            results.append(result)
            if progress is not None:
                progress(result)
        return results

    def _run(
        self, job: Job, prepare: Callable[[Job], PreparedFace], progress: Progress | None
    ) -> JobResult:
        start = time.monotonic()
        job.check()
        prepared = prepare(job)
        sound, moved = _source(job.audio, job.motion)
        animator = self._animator(job.controls, moved)
        made = Video(self, prepared, sound, animator, job.show, job.mark, job.crop_size)
        frames = made.save(job.output, maps=job.maps, overwrite=job.overwrite, progress=progress)
        if job.sheet is not None:
            picture.write_png(Path(job.sheet), made.contact_sheet(), overwrite=job.overwrite)
        return JobResult(job, frames, time.monotonic() - start, note=made.note)

    def _prepare_job(self, job: Job) -> PreparedFace:
        return self._prepare_face(job.image, job.face, job.box, job.landmarks, job.max_size)

    def _animator(
        self, controls: Controls | None, motion: Motion | None = None
    ) -> Animator | MotionPlayer | None:
        """Return what moves the face; None for models that move no mesh. Raises BadRequest."""
        if not self.moves_mesh:
            if motion is not None or replace(controls or DEFAULTS, still=False) != DEFAULTS:
                raise BadRequest(
                    f"model {self.info.name} draws whole crops and moves no mesh: it takes neither "
                    "controls nor a motion; give cran or atvg"
                )
            return None
        model: Any = self.model
        if motion is not None:
            if motion.expression.shape[1] != model.readout.space.components:
                raise BadRequest(
                    f"the motion has {motion.expression.shape[1]} coefficients of expression, the "
                    f"model {self.info.name} has {model.readout.space.components}"
                )
            return MotionPlayer(motion, self._config.speech)
        controls = controls or DEFAULTS
        loads_head = needs_head(controls) and not self.samples_head
        return Animator(model.readout, self._head_net if loads_head else None, controls)

    @cached_property
    def _head_net(self) -> HeadNet:
        """The shipped model of heads, read once for all faces."""
        net: Any = weights.load("head", self._device)
        return cast(HeadNet, net)

    def _prepare_face(
        self,
        image: PathLike | Picture,
        face: int | None,
        box: Box | None,
        landmarks: Landmarks | None,
        max_size: int,
    ) -> PreparedFace:
        """Prepare a face, once per picture. It is aligned at the picture's full size."""
        if max_size < SMALLEST_MAX_SIZE:
            raise BadRequest(f"max_size is {max_size}: give at least {SMALLEST_MAX_SIZE} pixels")
        seen = _read_picture(image)
        located = seen.locate(face, box, landmarks)
        aligned = faces.align(seen.pixels, located, self._config.crop)
        identity = self._encode(aligned)
        small, matrix = _shrink(seen.pixels, aligned.matrix, max_size)
        warnings = (located.note, self._identity_warning(aligned.crop), _torn_open(aligned.mesh))
        notes = [warning for warning in warnings if warning]
        mouth, moving = getattr(identity, "mouth", None), None
        if mouth is not None:
            model: Any = self.model
            moving = model.moving.cpu().numpy()
        return PreparedFace(
            identity=identity,
            picture=small,
            matrix=matrix,
            crop=aligned.crop,
            depth=aligned.depth,
            has_eyes=located.origin != "mean face",
            mouth=mouth,
            moving=moving,
            note="; ".join(notes) or None,
        )

    def _identity_warning(self, crop: Picture) -> str | None:
        """Return a warning if a model of one person gets another one's picture; else None."""
        if "person" not in self.info.extra:
            return None
        person = Person.read(self.info.extra["person"])
        embedding, info = weights.load_with_info("identity", self._device)
        if info.sha256 != person.sha256:
            return f"whether this is {person.name} cannot be told: made with another face embedding"
        likeness = person.likeness(embedding, crop)
        if likeness >= SAME_PERSON:
            return None
        return (
            f"this face seems not to be {person.name}'s (likeness {likeness:.2f}, "
            f"{SAME_PERSON:.2f} expected): its head will move as {person.name}'s does, whom "
            f"{self.info.name} has learned"
        )

    @torch.inference_mode()
    def _encode(self, aligned: Aligned) -> Any:
        landmarks = torch.from_numpy(np.asarray(aligned.landmarks, dtype=np.float32))
        mesh = torch.from_numpy(aligned.mesh)
        portrait = Portrait(video.to_tensor(aligned.crop)[None], landmarks[None], mesh[None])
        return self.model.encode(portrait.to(self._device))  # type: ignore[operator]

    @torch.inference_mode()
    def _generate(
        self,
        identity: Any,
        animator: Animator | MotionPlayer | None,
        alone: bool,
        speech: Tensor,
        state: State,
    ) -> tuple[Generated, Motion | None, State]:
        """Generate from windows (T, hops, coefficients), see `Stream`.

        alone: the motion alone, where a model's pictures are not looked at.
        """
        speech = speech.to(self._device)
        if animator is None:
            made, state = self.model(identity, speech[None], state)
            return made, None, state
        moved, own = (None, None) if state is None else state
        motion, moved = animator(speech, moved)
        if alone:
            return self._bent(identity, motion), motion, (moved, own)
        meshes = self._meshes(identity, motion)
        windows = animator.model_windows(speech)[None]
        own = self._first_state(identity, animator) if own is None else own
        made, own = self.model(identity, windows, own, meshes)
        if made.moves is not None and isinstance(animator, Animator):
            clock = int(moved[0]) - len(speech)
            motion = animator.with_moves(motion, made.moves[0].cpu().numpy(), clock)
        return made, motion, (moved, own)

    def _first_state(self, identity: Any, animator: Animator | MotionPlayer) -> State:
        """The state before the first frame: of its seed where the model moves the head."""
        if not self.samples_head:
            return None
        model: Any = self.model
        seed = animator.controls.seed if isinstance(animator, Animator) else 0
        return model.begin(identity, seed)

    def _meshes(self, identity: Any, motion: Motion) -> Tensor:
        model: Any = self.model
        expression = torch.from_numpy(motion.expression)[None].to(self._device)
        meshes: Tensor = model.meshes(identity, expression)
        return meshes

    @torch.inference_mode()
    def _bent(self, identity: Any, motion: Motion) -> Generated:
        """The motion alone, without pictures of the model's own."""
        mesh = self._meshes(identity, motion)
        return Generated(mesh.new_zeros(*mesh.shape[:2], 3, 0, 0), mesh=mesh)

    def _stream(
        self,
        prepared: PreparedFace,
        animator: Animator | MotionPlayer | None,
        show: Show,
        mark: bool,
        crop_size: int,
        whole: bool = False,
    ) -> Stream:
        """whole: with the model's own pictures, even where frames take none of them."""
        alone = not whole and not getattr(self._config, "looks_back", False)
        alone = alone and prepared.needs_motion_alone(show)
        return Stream(
            partial(self._generate, prepared.identity, animator, alone),
            WindowStream(self._config.speech if animator is None else animator.spec),
            prepared.drawing(show, mark, self.info.name, _checked_side(crop_size)),
            (self.info.name, self.info.sha256),
            prepared.note,
        )


def _source(
    audio: PathLike | Samples | Motion, motion: PathLike | Motion | None
) -> tuple[_Speech | None, Motion | None]:
    """The sound and the motion that were given, one of them at least."""
    if isinstance(audio, Motion) or motion_file.is_motion(audio):
        if motion is not None:
            raise BadRequest("two motions were given: give a sound and a motion, or one motion")
        return None, _as_motion(audio)
    return _Speech(audio), _as_motion(motion)


def _as_motion(given: PathLike | Motion | None) -> Motion | None:
    return motion_file.read(Path(given)) if isinstance(given, (str, Path)) else given


def _torn_open(mesh: NDArray[np.float32]) -> str | None:
    """Return a note for a picture with a mouth that no motion can close; else None."""
    gap = float(aperture(mesh) / eye_distance(mesh))
    if gap < WIDE_OPEN:
        return None
    return "the mouth is torn wide open and closes in part only: a calmer picture speaks better"


def _checked_side(side: int) -> int:
    """The bare face's side in pixels, even. Raises BadRequest."""
    if not SMALLEST_MAX_SIZE <= side <= LARGEST_CROP:
        raise BadRequest(f"crop_size is {side}: give {SMALLEST_MAX_SIZE} to {LARGEST_CROP} pixels")
    return side - side % 2


def _streamed(stream: Stream, chunks: Iterable[Samples]) -> Iterator[list[Picture]]:
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


def _shrink(
    whole: Picture, matrix: NDArray[np.float64], max_size: int
) -> tuple[Picture, NDArray[np.float64]]:
    """The picture with its long side at most `max_size`, both sides even, and its crop matrix.

    A picture that is small enough stays as it is (the mp4 pads an odd side by one pixel).
    """
    height, width = whole.shape[:2]
    scale = max_size / max(height, width)
    if scale >= 1:
        return whole, matrix
    size = tuple(max(2, 2 * round(side * scale / 2)) for side in (width, height))
    small = np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    # One similarity for both axes: rounding the sides moves it by under a pixel.
    scale = float(np.sqrt(size[0] * size[1] / (width * height)))
    return small, compose(resized(1 / scale), matrix)


class Video:
    """A talking video whose frames are made when they are asked for; iterate as often as you like.

    Frames are (H, W, 3) uint8 RGB; `fps` is 25; `len` is known before any frame is made.
    """

    fps = FPS

    def __init__(
        self,
        speaker: TalkingFace,
        prepared: PreparedFace,
        speech: _Speech | None,
        animator: Animator | MotionPlayer | None,
        show: Show,
        mark: bool,
        crop_size: int,
    ) -> None:
        """speech: None where the animator plays a motion without sound."""
        self._speaker, self._prepared, self._speech = speaker, prepared, speech
        self._animator, self._show, self._mark = animator, show, mark
        self._side = _checked_side(crop_size)
        self._draw = prepared.drawing(show, mark, speaker.info.name, self._side)

    def __len__(self) -> int:
        if self._speech is not None:
            return self._speech.frames
        assert isinstance(self._animator, MotionPlayer)
        return len(self._animator.motion)

    def __iter__(self) -> Iterator[Picture]:
        return map(self._draw, self._frames())

    def _frames(self, whole: bool = False) -> Iterator[OutputFrame]:
        """whole: with the model's own pictures, even where frames take none of them."""
        parts = self._parts(whole) if self._speech is not None else self._silent_parts(whole)
        return chain.from_iterable(ahead(parts, threads=max(1, torch.get_num_threads() - 1)))

    def _parts(self, whole: bool) -> Iterator[list[OutputFrame]]:
        assert self._speech is not None
        arguments = (self._prepared, self._animator, self._show, self._mark, self._side)
        stream = self._speaker._stream(*arguments, whole)
        for part in self._speech.parts():
            yield list(stream.output(part))
        yield list(stream.flush())

    def _silent_parts(self, whole: bool) -> Iterator[list[OutputFrame]]:
        assert isinstance(self._animator, MotionPlayer)
        if whole or self._show == "maps":
            raise BadRequest("maps of a model's own pictures need a sound, not a motion")
        motion = self._animator.motion
        for start in range(0, len(motion), CHUNK):
            part = motion[start : start + CHUNK]
            yield list(output_frames(self._speaker._bent(self._prepared.identity, part), part))

    @property
    def note(self) -> str | None:
        """Note on how the face was found; None when there is nothing to say."""
        return self._prepared.note

    def maps(self) -> Iterator[Maps]:
        """Yield what the model makes beside the colours, frame by frame (generates anew)."""
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
        """Write an mp4 with the sound and a tag that says it is synthetic; returns its frames.

        maps: a second mp4, made in the same pass: `Maps.panels` of every frame.
        On any failure nothing is left behind and an earlier file stays. Raises OutputError, and
        BadRequest when the model makes no maps.
        """
        sound = None if self._speech is None else self._speech.source
        paths = [path] if maps is None else [path, maps]
        _check_names([sound if isinstance(sound, Path) else None], paths)
        made = self._with_maps() if maps is not None else ([frame] for frame in self)
        shown = made if progress is None else self._reported(made, progress)
        return video.write_together(
            paths, shown, sound, fps=FPS, tag=self._speaker.tag, overwrite=overwrite
        )

    def _with_maps(self) -> Iterator[list[Picture]]:
        shown = self._prepared.drawing("maps", self._mark, self._speaker.info.name, self._side)
        for frame in self._frames(whole=True):
            yield [self._draw(frame), shown(frame)]

    def _reported(
        self, made: Iterable[list[Picture]], progress: Progress
    ) -> Iterator[list[Picture]]:
        total = len(self)
        for done, pictures in enumerate(made, start=1):
            yield pictures
            progress(done, total)

    def contact_sheet(self, *, seconds: float = 3.0, every: int = 3, columns: int = 13) -> Picture:
        """The bare face, one frame in `every` of the first seconds, in rows labelled with times."""
        side = self._prepared.crop.shape[0]
        draw = self._prepared.drawing("face", False, self._speaker.info.name, side)
        frames = map(draw, self._frames(whole=self._speech is not None))
        return contact_sheet(frames, seconds=seconds, every=every, columns=columns)


def contact_sheet(
    frames: Iterable[Picture],
    *,
    seconds: float = 3.0,
    every: int = 3,
    columns: int = 13,
    side: int = 128,
) -> Picture:
    """Every `every`-th frame ((H, W, 3) uint8, 25 fps) of the first seconds, side by side in rows.

    side: pixels of each picture. Raises BadRequest when there is nothing to show.
    """
    if min(every, columns, side) < 1 or seconds <= 0:
        raise BadRequest("a contact sheet needs seconds, every, columns and side above 0")
    count = max(1, round(seconds * FPS))
    shown = list(islice(frames, 0, count, every))
    rows = [shown[start : start + columns] for start in range(0, len(shown), columns)]
    labels = [
        f"{start * every / FPS:.2f} s, one frame in {every}"
        for start in range(0, len(shown), columns)
    ]
    return video.contact_sheet(rows, labels, side=side)


def plan(
    portraits: Sequence[PathLike], recordings: Sequence[PathLike], folder: PathLike, **options: Any
) -> list[Job]:
    """Every portrait with every recording, as `folder`/<portrait>-<recording>.mp4.

    options: as in `Job`. Raises BadRequest when two of them would have the same name.
    """
    jobs: dict[Path, Job] = {}
    for image in portraits:
        for sound in recordings:
            output = Path(folder) / f"{Path(image).stem}-{Path(sound).stem}.mp4"
            if output in jobs:
                raise BadRequest(f"{output} would be written twice: give files of different names")
            jobs[output] = Job(image, sound, output, **options)
    return list(jobs.values())


def make_folder(path: PathLike) -> None:
    """Make a folder, and those it is in, unless it is there. Raises OutputError."""
    with media.writing(Path(path), OSError):
        Path(path).mkdir(parents=True, exist_ok=True)
