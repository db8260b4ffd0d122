"""Evaluate one model on one clip: from the clip's sound and one picture, against the real clip.

Both videos are measured alike: landmarks are detected again on the generated and on the real crops.
Pixels are compared only if the picture is the clip's own first frame. Lips are also compared if it
is a frame of another recording. `NAME@landmarks` is a row of its own: the model draws the clip's
real landmarks and gets no sound. `NAME@lips` draws nothing: the landmarks that the model predicts
are compared with those in the cache, in a hundredth of the time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talkingface import video, weights
from talkingface.audio import SAMPLES_PER_FRAME, windows
from talkingface.contract import Generated, Generator, LandmarkDriven, LandmarkPredictor, Portrait
from talkingface.data.dataset import Cache, ClipInfo, clip_speech
from talkingface.errors import BadRequest
from talkingface.evaluation import detection, measures
from talkingface.evaluation.files import number, numbers
from talkingface.evaluation.measures import LearnedMetric, VideoWithLandmarks
from talkingface.evaluation.results import REAL, Identity, Result, named_row
from talkingface.metrics.lips import amplitude_ratio, aperture, mouth_box
from talkingface.models.lipreader import GRID_WORDS, LipReader
from talkingface.training.reading import teachers_of, word_logits, words_of
from talkingface.types import Array, Floats, Frames

FROM_LANDMARKS = "@landmarks"  # end of a row's name: the model draws the clip's landmarks
LIPS_ALONE = "@lips"  # end of a row's name: the model only predicts landmarks
CHUNK = 100  # frames per call of a model


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to evaluate: a generator, or None for the real video.

    driven: the generator is `LandmarkDriven`; it gets the clip's own landmarks and no sound.
    lips: it is a `LandmarkPredictor`, and draws nothing.
    teachers: sha256 of the lip readers it was trained with; none of them may be its judge.
    """

    name: str
    sha256: str
    generator: Generator | None
    driven: bool = False
    teachers: frozenset[str] = frozenset()
    lips: bool = False


@dataclass(frozen=True)
class GeneratedClip:
    """Output of a model for a whole clip.

    frames, colour: (T, S, S, 3). mask: (T, S, S) in [0, 1]. landmarks: (T, 68, 2) in pixels, as the
    model predicts them. All but the frames are None if the model has none.
    """

    frames: Frames
    mask: Floats | None
    colour: Frames | None
    landmarks: Array | None


class Evaluator:
    """Evaluate models on the clips of a cache.

    judge: the evaluation lip reader. It was not used in the training of any evaluated model.
    vocabulary: the judge's words, in their order. detections: folder for the landmarks detected on
    real videos. learned_metrics: further networks that measure. author_compat: also measure as
    ATVGnet's released script does.
    """

    def __init__(
        self,
        cache: Cache,
        judge: LipReader | None = None,
        judge_sha256: str = "",
        detections: Path | None = None,
        device: torch.device | str = "cpu",
        learned_metrics: Sequence[LearnedMetric] = (),
        author_compat: bool = False,
        vocabulary: Sequence[str] = GRID_WORDS,
    ) -> None:
        self.known = {word: index for index, word in enumerate(vocabulary)}
        self.cache, self.judge, self.judge_sha256 = cache, judge, judge_sha256
        self.learned_metrics, self.author_compat = tuple(learned_metrics), author_compat
        self.detections, self.device = detections, torch.device(device)
        self.size = int(cache.frames.shape[1])
        self._last: tuple[str, VideoWithLandmarks] | None = None

    def real(self, clip: ClipInfo) -> VideoWithLandmarks:
        """Return the real clip; its landmarks are cached in the folder of detections."""
        frames = np.array(self.cache.frames[clip.start : clip.start + clip.frames])
        return VideoWithLandmarks(
            frames, detection.detect_cached(self.detections, clip.key, frames)
        )

    def check(self, generator: Generator) -> None:
        """Raise BadRequest for a model whose crops are not of the cache's size."""
        side = generator.config.crop.size
        if side != self.size:
            raise BadRequest(
                f"the model makes crops of {side} pixels, the cache has {self.size}: prepare the "
                "corpus for this model"
            )

    def portrait(self, clip: ClipInfo, identity: Identity) -> ClipInfo | None:
        """Return the clip whose first frame is the identity picture; None if there is none.

        "another recording" is the speaker's next clip of the same split, in the order of names. It
        is None for an unknown speaker and for a speaker with one clip.
        """
        if identity == "first frame":
            return clip
        if not clip.speaker:
            return None
        same = [c for c in self.cache.split(clip.split) if c.speaker == clip.speaker]
        order = sorted(same, key=lambda c: c.key)
        following = order[(order.index(clip) + 1) % len(order)]
        return None if following == clip else following

    def generate(
        self,
        generator: Generator,
        picture: ClipInfo,
        clip: ClipInfo,
        silent: bool = False,
        driven: bool = False,
    ) -> GeneratedClip:
        """Generate a video of the first frame of `picture` with the sound of `clip`, or silence.

        driven: draw landmarks and use no sound. They are those of the first frame of `picture`,
        plus the displacements of the clip's landmarks from their first frame.
        """
        sequence = self.sequence(generator, picture, clip, silent, driven)
        return self.generate_from(
            generator, portrait_of(self.cache, picture.start), sequence, driven
        )

    def sequence(
        self,
        generator: Generator,
        picture: ClipInfo,
        clip: ClipInfo,
        silent: bool = False,
        driven: bool = False,
    ) -> Tensor:
        """Return a model's input for a clip, see `generate_from`; arguments as for `generate`."""
        known, spec = self.cache.landmarks, generator.config.speech
        if driven:
            own = known[clip.start : clip.start + clip.frames]
            return torch.from_numpy(known[picture.start] + (own - own[0]))
        if silent:
            return windows(torch.zeros(clip.frames * SAMPLES_PER_FRAME), spec, clip.frames)
        return clip_speech(self.cache, clip, spec)

    def generate_from(
        self,
        generator: Generator,
        portrait: Portrait,
        sequence: Tensor,
        driven: bool = False,
    ) -> GeneratedClip:
        """Generate a whole clip from one portrait, a batch of one.

        sequence: windows of speech (T, hops, coefficients), or with `driven` landmarks (T, 68, 2)
        in [0, 1] to draw. Raises BadRequest if the model makes crops of another size, or draws no
        landmarks.
        """
        self.check(generator)
        if driven and not isinstance(generator, LandmarkDriven):
            raise BadRequest("this model draws no landmarks it is given")
        step = step_of(generator, driven)
        parts, state = [], None
        with torch.inference_mode():
            face = generator.encode(portrait.to(self.device))
            for part in sequence[None].to(self.device).split(CHUNK, dim=1):
                generated, state = step(face, part, state)
                parts.append(_to_arrays(generated, self.size))
        return GeneratedClip(
            np.concatenate([part.frames for part in parts]),
            _joined([part.mask for part in parts]),
            _joined([part.colour for part in parts]),
            _joined([part.landmarks for part in parts]),
        )

    def predict_landmarks(
        self, generator: LandmarkPredictor, picture: ClipInfo, clip: ClipInfo
    ) -> Array:
        """Predict landmarks of `picture`'s first frame for the sound of `clip`, without drawing.

        Returns (T, 68, 2) in pixels.
        """
        model: Any = generator
        self.check(model)
        portrait = portrait_of(self.cache, picture.start)
        with torch.inference_mode():
            face = model.encode(portrait.to(self.device))
            speech = self.sequence(model, picture, clip)[None].to(self.device)
            landmarks: Tensor = model.predict_landmarks(face, speech)[0]
        return np.asarray(landmarks[0].double().cpu().numpy() * self.size)

    def evaluate(
        self, model: EvaluatedModel, clip: ClipInfo, identity: Identity, silence: bool = False
    ) -> Result | None:
        """Evaluate one model on one clip. Returns None if there is no such identity picture."""
        picture = self.portrait(clip, identity)
        if picture is None:
            return None
        empty = self._empty(model, clip, identity, picture)
        if model.lips:
            assert isinstance(model.generator, LandmarkPredictor)
            lips = self.predict_landmarks(model.generator, picture, clip)
            rows = slice(clip.start, clip.start + clip.frames)
            true = self.cache.landmarks[rows].astype(np.float64) * self.size
            return _filled(empty, measures.lip_measures(lips, true, self.size), lips, true)
        real, generator, driven = self._real(clip), model.generator, model.driven
        generated, made = None, real
        if generator is not None:
            generated = self.generate(generator, picture, clip, driven=driven)
            made = VideoWithLandmarks(generated.frames, detection.detect(generated.frames))
        metrics = measures.lip_measures(made.landmarks, real.landmarks, self.size)
        if generated is not None and generated.landmarks is not None and not driven:
            metrics |= measures.head_measures(generated.landmarks, real.landmarks)
        if identity == "first frame":
            metrics |= self._pixels(made, real, clip, generated)
        if silence and generator is not None and not driven:
            quiet = detection.detect(self.generate(generator, picture, clip, silent=True).frames)
            metrics["silence"] = amplitude_ratio(aperture(quiet), aperture(made.landmarks))
        metrics |= self._learned_measures(made, picture, clip)
        words, ranks = self._read(made, clip)
        filled = _filled(empty, metrics, made.landmarks, real.landmarks)
        return replace(filled, words=words, ranks=ranks)

    def failed(
        self, model: EvaluatedModel, clip: ClipInfo, identity: Identity, reason: str
    ) -> Result:
        """Return the row of a clip on which the evaluation of a model failed."""
        picture = self.portrait(clip, identity) or clip
        return replace(self._empty(model, clip, identity, picture), error=reason)

    def _empty(
        self, model: EvaluatedModel, clip: ClipInfo, identity: Identity, picture: ClipInfo
    ) -> Result:
        return Result(
            model=model.name,
            sha256=model.sha256,
            clip=clip.key,
            speaker=clip.speaker,
            split=clip.split,
            identity=identity,
            portrait=f"{picture.key}:0",
            judge=self.judge_sha256,
            vocabulary=len(self.known),
        )

    def facts(
        self, model: EvaluatedModel, clip: ClipInfo, identity: Identity, silence: bool
    ) -> dict[str, Any]:
        """Return everything that decides the numbers of `evaluate` with these arguments.

        They are the key of a result cache, so their names never change.
        """
        picture = self.portrait(clip, identity)
        return {
            "model": [
                model.name,
                model.sha256,
                model.driven,
                *["lips"] * model.lips,
            ],
            "clip": [clip.key, clip.speaker, clip.split, clip.words, self._digest(clip)],
            "picture": None if picture is None else [picture.key, self._digest(picture)],
            "identity": identity,
            "silence": silence,
            "judge": self.judge_sha256,
            "experts": [metric.sha256 for metric in self.learned_metrics],
            "author_compat": self.author_compat,
            "device": self.device.type,
        }

    def _digest(self, clip: ClipInfo) -> str:
        """Return a hash of a clip's content. Clips of one name may differ between caches."""
        frames = slice(clip.start, clip.start + clip.frames)
        samples = slice(frames.start * SAMPLES_PER_FRAME, frames.stop * SAMPLES_PER_FRAME)
        cache = self.cache
        points = (cache.landmarks[frames], cache.mesh[frames])
        parts = (cache.frames[frames], *points, cache.sound[samples])
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()

    def _learned_measures(
        self, made: VideoWithLandmarks, picture: ClipInfo, clip: ClipInfo
    ) -> dict[str, float]:
        """Return the numbers of all learned metrics for a video."""
        if not self.learned_metrics:
            return {}
        sound = self.cache.samples(clip, 0, clip.frames * SAMPLES_PER_FRAME).numpy()
        own = np.array(self.cache.frames[picture.start])
        return measures.learned_measures(self.learned_metrics, made, own, sound)

    def _pixels(
        self,
        made: VideoWithLandmarks,
        real: VideoWithLandmarks,
        clip: ClipInfo,
        generated: GeneratedClip | None,
    ) -> dict[str, float]:
        """Compare pixels. Frame 0 is the identity picture and is left out."""
        known = self.cache.landmarks[clip.start : clip.start + clip.frames]
        mouth = mouth_box(known * self.size, self.size)
        mask = None if generated is None or generated.mask is None else generated.mask[1:]
        moving, own = (VideoWithLandmarks(f.frames[1:], f.landmarks[1:]) for f in (made, real))
        return {
            **measures.picture_measures(moving.frames, own.frames, mouth),
            **measures.pixel_measures(moving.frames, own.frames, mouth),
            "upper_change": measures.upper_change(moving.frames, real.frames[0], mask),
            **(measures.author_measures(moving, own) if self.author_compat else {}),
        }

    def _real(self, clip: ClipInfo) -> VideoWithLandmarks:
        """Return the real clip. The last one is kept: models are evaluated clip by clip."""
        if self._last is None or self._last[0] != clip.key:
            self._last = clip.key, self.real(clip)
        return self._last[1]

    def _read(self, made: VideoWithLandmarks, clip: ClipInfo) -> tuple[list[int], list[int]]:
        """Return the clip's words, and the rank that the judge gives each.

        Without any landmarks every word has the last rank.
        """
        words = words_of(clip, self.known)
        if self.judge is None or not words:
            return [], []
        indices = [word.index for word in words]
        landmarks = detection.filled(made.landmarks)
        if landmarks is None:
            return indices, [len(self.known)] * len(indices)
        place = torch.from_numpy(landmarks / self.size).float().to(self.device)
        frames = video.to_tensor(made.frames).to(self.device)
        logits = word_logits(self.judge, frames, place, words).cpu().numpy()
        own = logits[np.arange(len(indices)), indices]
        return indices, [int(n) for n in (logits >= own[:, None]).sum(1)]


def _filled(empty: Result, metrics: dict[str, float], made: Array, real: Array) -> Result:
    """Return the result with its measures, and the apertures of both videos."""
    return replace(
        empty,
        metrics=numbers(metrics),
        aperture=[number(value) for value in aperture(made)],
        real_aperture=[number(value) for value in aperture(real)],
    )


def step_of(generator: Generator, driven: bool) -> Callable[..., tuple[Generated, Any]]:
    """Return the function to call per chunk: the model, or the one that draws landmarks."""
    return generator.draw if isinstance(generator, LandmarkDriven) and driven else generator


def portrait_of(cache: Cache, row: int) -> Portrait:
    """Return one frame of a cache with its landmarks and its mesh, as a batch of one."""
    points, mesh = (torch.tensor(known[row])[None] for known in (cache.landmarks, cache.mesh))
    return Portrait(video.to_tensor(np.array(cache.frames[row]))[None], points, mesh)


def _to_arrays(generated: Generated, size: int) -> GeneratedClip:
    """Convert the first sample of a batch to arrays; landmarks are in pixels."""
    mask, colour, landmarks = generated.mask, generated.colour, generated.landmarks
    return GeneratedClip(
        video.to_uint8(generated.frames[0]),
        None if mask is None else mask[0, :, 0].float().cpu().numpy(),
        None if colour is None else video.to_uint8(colour[0]),
        None if landmarks is None else landmarks[0].double().cpu().numpy() * size,
    )


def _joined(parts: list[NDArray[Any] | None]) -> NDArray[Any] | None:
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if present else None


def open_model(name: str, device: str = "cpu") -> EvaluatedModel:
    """Open a model by name or weights file, or the real video, REAL.

    A name that ends with FROM_LANDMARKS is driven by landmarks. One that ends with LIPS_ALONE draws
    nothing. "ROW=name" calls its row ROW. Raises BadRequest for a model that makes no video, draws
    no landmarks it is given or predicts none; UnknownModel, BadWeights.
    """
    if name == REAL:
        return EvaluatedModel(REAL, "", None)
    label, source = named_row(name)
    driven, lips = source.endswith(FROM_LANDMARKS), source.endswith(LIPS_ALONE)
    source = source.removesuffix(FROM_LANDMARKS).removesuffix(LIPS_ALONE)
    model, info = weights.load_with_info(source, device)
    if not isinstance(model, Generator):
        raise BadRequest(f"{name} is a {info.family}, which makes no video: give a generator")
    if driven and not isinstance(model, LandmarkDriven):
        raise BadRequest(
            f"{name}: a {info.family} draws no landmarks it is given; leave {FROM_LANDMARKS} away, "
            "or give a model that does, as atvg"
        )
    if lips and not (isinstance(model, LandmarkPredictor) and model.predicts_landmarks):
        raise BadRequest(
            f"{name}: a {info.family} of this kind predicts no landmarks before it draws; leave "
            f"{LIPS_ALONE} away"
        )
    ending = FROM_LANDMARKS * driven + LIPS_ALONE * lips
    row, teachers = (label or info.name) + ending, teachers_of(info)
    return EvaluatedModel(row, info.sha256, model, driven, teachers, lips)
