"""One model on one clip: it hears the clip's sound, sees one picture, is compared with the clip.

Both videos are measured alike: landmarks are detected again on the generated and on the real crops.
Pixels are compared where the picture is the clip's own first frame; lips also where it is one of
another recording. `NAME@landmarks` is a row of its own: a model that draws landmarks it is given
gets the clip's real ones in place of what it hears. `NAME@lips` draws nothing: the landmarks that a
model predicts are compared with the cache's as they are, in a hundredth of the time.
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
from talkingface.contract import Generated, Generator, LandmarkDriven, Portrait, Speaking
from talkingface.data.dataset import Cache, ClipInfo, clip_speech
from talkingface.errors import BadRequest
from talkingface.evaluation import detection, measures
from talkingface.evaluation.detection import Array, Frames
from talkingface.evaluation.measures import Expert, Filmed, Floats
from talkingface.evaluation.results import REAL, Identity, Result, named_row, number
from talkingface.metrics.lips import amplitude_ratio, aperture, mouth_box
from talkingface.models.lipreader import GRID_WORDS, LipReader
from talkingface.training.reading import teachers_of, word_logits, words_of

FROM_LANDMARKS = "@landmarks"  # ends the name of a row whose model is shown the clip's landmarks
LIPS_ALONE = "@lips"  # ends the name of a row whose model only says where the lips go
CHUNK = 100  # frames per call of a model


@dataclass(frozen=True)
class Candidate:
    """What is evaluated: a generator, or the real video itself (None).

    driven: the generator is `LandmarkDriven`, sees the clip's own landmarks and hears nothing.
    lips: it is `Speaking`, and draws nothing.
    taught_by: sha256 of the lip readers it learned from, which cannot be its judge.
    """

    name: str
    sha256: str
    generator: Generator | None
    driven: bool = False
    taught_by: frozenset[str] = frozenset()
    lips: bool = False


@dataclass(frozen=True)
class Played:
    """What a model made of a whole clip.

    frames, colour: (T, S, S, 3). mask: (T, S, S) in [0, 1]. landmarks: (T, 68, 2) in pixels, as the
    model predicts them. All but the frames are None where a model has none.
    """

    frames: Frames
    mask: Floats | None
    colour: Frames | None
    landmarks: Array | None


class Bench:
    """Where candidates are measured: the clips, the judge, and what is known of the real videos.

    vocabulary: the words that the judge tells apart, in their order. detections: folder for the
    landmarks found on real videos. experts: further networks that measure. author_compat: also
    measure as ATVGnet's released script does.
    """

    def __init__(
        self,
        cache: Cache,
        judge: LipReader | None = None,
        judge_sha256: str = "",
        detections: Path | None = None,
        device: torch.device | str = "cpu",
        experts: Sequence[Expert] = (),
        author_compat: bool = False,
        vocabulary: Sequence[str] = GRID_WORDS,
    ) -> None:
        self.known = {word: index for index, word in enumerate(vocabulary)}
        self.cache, self.judge, self.judge_sha256 = cache, judge, judge_sha256
        self.experts, self.author_compat = tuple(experts), author_compat
        self.detections, self.device = detections, torch.device(device)
        self.size = int(cache.frames.shape[1])
        self._last: tuple[str, Filmed] | None = None

    def real(self, clip: ClipInfo) -> Filmed:
        """The clip itself; its landmarks are kept in the folder of detections."""
        frames = np.array(self.cache.frames[clip.start : clip.start + clip.frames])
        return Filmed(frames, detection.kept(self.detections, clip.key, frames))

    def check(self, generator: Generator) -> None:
        """Raises BadRequest for a model whose crops are not of the cache's size."""
        side = generator.config.crop.size
        if side != self.size:
            raise BadRequest(
                f"the model makes crops of {side} pixels, the cache has {self.size}: prepare the "
                "corpus for this model"
            )

    def portrait(self, clip: ClipInfo, identity: Identity) -> ClipInfo | None:
        """The clip whose first frame is the identity picture; None where a speaker has no other.

        "another recording" is the speaker's next clip of the same split, in the order of names;
        None where nobody knows who speaks.
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
    ) -> Played:
        """The first frame of `picture` speaking the sound of `clip`, or silence.

        driven: drawing the clip's landmarks instead, as they move the face of its first frame: to
        another recording's face (or to the same) their displacements are carried.
        """
        sequence = self.sequence(generator, picture, clip, silent, driven)
        return self.play(generator, portrait_of(self.cache, picture.start), sequence, driven)

    def sequence(
        self,
        generator: Generator,
        picture: ClipInfo,
        clip: ClipInfo,
        silent: bool = False,
        driven: bool = False,
    ) -> Tensor:
        """What a model is given of a clip, see `play`; the arguments are those of `generate`."""
        known, spec = self.cache.landmarks, generator.config.speech
        if driven:
            own = known[clip.start : clip.start + clip.frames]
            return torch.from_numpy(known[picture.start] + (own - own[0]))
        if silent:
            return windows(torch.zeros(clip.frames * SAMPLES_PER_FRAME), spec, clip.frames)
        return clip_speech(self.cache, clip, spec)

    def play(
        self,
        generator: Generator,
        portrait: Portrait,
        sequence: Tensor,
        driven: bool = False,
    ) -> Played:
        """One portrait, a batch of one, through a whole clip.

        sequence: windows of speech (T, hops, coefficients), or with `driven` landmarks (T, 68, 2)
        in [0, 1] to draw. Raises BadRequest when the model makes crops of another size, or cannot.
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
                parts.append(_played(generated, self.size))
        return Played(
            np.concatenate([part.frames for part in parts]),
            _joined([part.mask for part in parts]),
            _joined([part.colour for part in parts]),
            _joined([part.landmarks for part in parts]),
        )

    def spoken(self, generator: Speaking, picture: ClipInfo, clip: ClipInfo) -> Array:
        """Where the lips of `picture`'s first frame go with the sound of `clip`: (T, 68, 2) in
        pixels, nothing is drawn."""
        model: Any = generator
        self.check(model)
        portrait = portrait_of(self.cache, picture.start)
        with torch.inference_mode():
            face = model.encode(portrait.to(self.device))
            speech = self.sequence(model, picture, clip)[None].to(self.device)
            landmarks: Tensor = model.speak(face, speech)[0]
        return np.asarray(landmarks[0].double().cpu().numpy() * self.size)

    def measure(
        self, candidate: Candidate, clip: ClipInfo, identity: Identity, silence: bool = False
    ) -> Result | None:
        """One candidate on one clip; None where there is no such identity picture."""
        picture = self.portrait(clip, identity)
        if picture is None:
            return None
        empty = self._empty(candidate, clip, identity, picture)
        if candidate.lips:
            assert isinstance(candidate.generator, Speaking)
            lips = self.spoken(candidate.generator, picture, clip)
            rows = slice(clip.start, clip.start + clip.frames)
            true = self.cache.landmarks[rows].astype(np.float64) * self.size
            return _filled(empty, measures.lip_measures(lips, true, self.size), lips, true)
        real, generator, driven = self._real(clip), candidate.generator, candidate.driven
        played, made = None, real
        if generator is not None:
            played = self.generate(generator, picture, clip, driven=driven)
            made = Filmed(played.frames, detection.detect(played.frames))
        metrics = measures.lip_measures(made.landmarks, real.landmarks, self.size)
        if played is not None and played.landmarks is not None and not driven:
            metrics |= measures.head_measures(played.landmarks, real.landmarks)
        if identity == "first frame":
            metrics |= self._pixels(made, real, clip, played)
        if silence and generator is not None and not driven:
            quiet = detection.detect(self.generate(generator, picture, clip, silent=True).frames)
            metrics["silence"] = amplitude_ratio(aperture(quiet), aperture(made.landmarks))
        metrics |= self._asked(made, picture, clip)
        words, ranks = self._read(made, clip)
        filled = _filled(empty, metrics, made.landmarks, real.landmarks)
        return replace(filled, words=words, ranks=ranks)

    def failed(
        self, candidate: Candidate, clip: ClipInfo, identity: Identity, reason: str
    ) -> Result:
        """The row of a clip on which a candidate could not be measured."""
        picture = self.portrait(clip, identity) or clip
        return replace(self._empty(candidate, clip, identity, picture), error=reason)

    def _empty(
        self, candidate: Candidate, clip: ClipInfo, identity: Identity, picture: ClipInfo
    ) -> Result:
        return Result(
            model=candidate.name,
            sha256=candidate.sha256,
            clip=clip.key,
            speaker=clip.speaker,
            split=clip.split,
            identity=identity,
            portrait=f"{picture.key}:0",
            metrics={},
            aperture=[],
            real_aperture=[],
            words=[],
            ranks=[],
            judge=self.judge_sha256,
            vocabulary=len(self.known),
        )

    def facts(
        self, candidate: Candidate, clip: ClipInfo, identity: Identity, silence: bool
    ) -> dict[str, Any]:
        """Everything that decides the numbers of `measure` with these arguments."""
        picture = self.portrait(clip, identity)
        return {
            "model": [
                candidate.name,
                candidate.sha256,
                candidate.driven,
                *["lips"] * candidate.lips,
            ],
            "clip": [clip.key, clip.speaker, clip.split, clip.words, self._digest(clip)],
            "picture": None if picture is None else [picture.key, self._digest(picture)],
            "identity": identity,
            "silence": silence,
            "judge": self.judge_sha256,
            "experts": [expert.sha256 for expert in self.experts],
            "author_compat": self.author_compat,
            "device": self.device.type,
        }

    def _digest(self, clip: ClipInfo) -> str:
        """What tells this clip's content from another cache's of the same name."""
        frames = slice(clip.start, clip.start + clip.frames)
        samples = slice(frames.start * SAMPLES_PER_FRAME, frames.stop * SAMPLES_PER_FRAME)
        cache = self.cache
        points = (cache.landmarks[frames], cache.mesh[frames])
        parts = (cache.frames[frames], *points, cache.sound[samples])
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()

    def _asked(self, made: Filmed, picture: ClipInfo, clip: ClipInfo) -> dict[str, float]:
        """What the experts say of a video: here is the place of every further trained measure."""
        if not self.experts:
            return {}
        sound = self.cache.samples(clip, 0, clip.frames * SAMPLES_PER_FRAME).numpy()
        own = np.array(self.cache.frames[picture.start])
        return measures.asked(self.experts, made, own, sound)

    def _pixels(
        self, made: Filmed, real: Filmed, clip: ClipInfo, played: Played | None
    ) -> dict[str, float]:
        """What is compared pixel by pixel. Frame 0 is the identity picture and counts nowhere."""
        known = self.cache.landmarks[clip.start : clip.start + clip.frames]
        mouth = mouth_box(known * self.size, self.size)
        mask = None if played is None or played.mask is None else played.mask[1:]
        moving, own = (Filmed(f.frames[1:], f.landmarks[1:]) for f in (made, real))
        return {
            **measures.picture_measures(moving.frames, own.frames, mouth),
            **measures.pixel_measures(moving.frames, own.frames, mouth),
            "upper_change": measures.upper_change(moving.frames, real.frames[0], mask),
            **(measures.author_measures(moving, own) if self.author_compat else {}),
        }

    def _real(self, clip: ClipInfo) -> Filmed:
        """Candidates come one after the other on the same clip: it is looked at once."""
        if self._last is None or self._last[0] != clip.key:
            self._last = clip.key, self.real(clip)
        return self._last[1]

    def _read(self, filmed: Filmed, clip: ClipInfo) -> tuple[list[int], list[int]]:
        """The clip's words, and the judge's place for each; a face never found is read last."""
        words = words_of(clip, self.known)
        if self.judge is None or not words:
            return [], []
        indices = [word.index for word in words]
        landmarks = detection.filled(filmed.landmarks)
        if landmarks is None:
            return indices, [len(self.known)] * len(indices)
        place = torch.from_numpy(landmarks / self.size).float().to(self.device)
        frames = video.to_tensor(filmed.frames).to(self.device)
        logits = word_logits(self.judge, frames, place, words).cpu().numpy()
        own = logits[np.arange(len(indices)), indices]
        return indices, [int(n) for n in (logits >= own[:, None]).sum(1)]


def _filled(empty: Result, metrics: dict[str, float], made: Array, real: Array) -> Result:
    """The result with its measures, and the apertures of both videos' landmarks."""
    return replace(
        empty,
        metrics={name: number(value) for name, value in metrics.items()},
        aperture=[number(value) for value in aperture(made)],
        real_aperture=[number(value) for value in aperture(real)],
    )


def step_of(generator: Generator, driven: bool) -> Callable[..., tuple[Generated, Any]]:
    """What is called again and again: the model itself, or what draws landmarks it is given."""
    return generator.draw if isinstance(generator, LandmarkDriven) and driven else generator


def portrait_of(cache: Cache, row: int) -> Portrait:
    """One frame of a cache with its landmarks and its mesh, as a batch of one."""
    points, mesh = (torch.tensor(known[row])[None] for known in (cache.landmarks, cache.mesh))
    return Portrait(video.to_tensor(np.array(cache.frames[row]))[None], points, mesh)


def _played(generated: Generated, size: int) -> Played:
    """The first sample of a batch, as pictures and pixels."""
    mask, colour, landmarks = generated.mask, generated.colour, generated.landmarks
    return Played(
        video.to_uint8(generated.frames[0]),
        None if mask is None else mask[0, :, 0].float().cpu().numpy(),
        None if colour is None else video.to_uint8(colour[0]),
        None if landmarks is None else landmarks[0].double().cpu().numpy() * size,
    )


def _joined(parts: list[NDArray[Any] | None]) -> NDArray[Any] | None:
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if present else None


def open_candidate(name: str, device: str = "cpu") -> Candidate:
    """A model by name or weights file, or REAL; with FROM_LANDMARKS at the end, driven by them;
    with LIPS_ALONE, drawing nothing.

    "ROW=name" calls its row ROW. Raises BadRequest for a model that makes no video, draws no
    landmarks it is given or predicts none; UnknownModel, BadWeights.
    """
    if name == REAL:
        return Candidate(REAL, "", None)
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
    if lips and not _speaks(model):
        raise BadRequest(
            f"{name}: a {info.family} of this kind predicts no landmarks before it draws; leave "
            f"{LIPS_ALONE} away"
        )
    ending = FROM_LANDMARKS * driven + LIPS_ALONE * lips
    taught_by = teachers_of(info)
    return Candidate((label or info.name) + ending, info.sha256, model, driven, taught_by, lips)


def _speaks(model: Generator) -> bool:
    """Whether it knows where the lips go without a picture of its own."""
    config = model.config
    silent = getattr(config, "lips", "") == "off" or getattr(config, "looks_back", False)
    return isinstance(model, Speaking) and not silent
