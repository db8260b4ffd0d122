"""CRAN's training step: Song et al. 2019, Sec. 3.3 and 4.2, Eq. 5."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface import video, weights
from talkingface.contract import Generated, Portrait
from talkingface.data.dataset import (
    Batch,
    Cache,
    RawBatch,
    speakers_of,
)
from talkingface.errors import BadRequest
from talkingface.faces.head_pose import RIGID
from talkingface.landmarks import EYES, ibug
from talkingface.losses import (
    LipReadingForm,
    gradient_loss,
    lip_reading_discriminator_loss,
    lip_reading_generator_loss,
    reconstruction_loss,
)
from talkingface.metrics.identity import Person
from talkingface.models.blocks import base_grid
from talkingface.models.cran import Cran, CranConfig
from talkingface.models.cran_base import Identity, Teacher
from talkingface.models.cran_published import PublishedCranConfig
from talkingface.models.lipreader import (
    LipReader,
    PublishedLipReader,
    SmallLipReader,
    cut_words,
)
from talkingface.training import head
from talkingface.training.generator import GeneratorRecipe, GeneratorTraining, Stage
from talkingface.training.head import HeadClip, HeadTraining, Hybrid
from talkingface.training.parallel import WHOLE_STEP, MicroBatch
from talkingface.training.reading import teachers_of, vocabulary_of


@dataclass(frozen=True)
class CranTraining(GeneratorTraining):
    """Settings of `talkingface train cran`.

    reading: how D_l is trained beside G.
    teacher_forcing: share of frames, at a stage's beginning and at its end, that get the real
    previous frame, for autoregressive schemes (Bengio et al. 2015, scheduled sampling).
    head: how the head's motion is fitted, where the model samples it.
    """

    model: CranConfig | PublishedCranConfig
    head: HeadTraining = field(default_factory=HeadTraining)
    teacher_forcing: tuple[float, float] = (0.5, 0.5)
    reading: LipReadingForm = "frozen"


class CranRecipe(GeneratorRecipe[CranTraining]):
    """The recipe of Song et al. 2019, Sec. 3.3 and 4.2: reconstruction, then discriminators."""

    def __init__(
        self,
        training: CranTraining,
        cache: Cache,
        splits: tuple[str, ...] = ("train",),
        device: torch.device | str = "cpu",
        reader: str | Path | None = None,
        init: str | Path | None = None,
        lips: str | Path = "lips",
    ) -> None:
        if reader is None and any("reading" in s.weights for s in training.stages):
            raise BadRequest(
                "this training has a lip-reading discriminator (Eq. 2), which must be trained "
                "first: `talkingface train lipreader`, then give its weights with --reader, "
                "or leave it out with --without reading"
            )
        self.reader_file = reader
        self.began_with = (
            frozenset() if init is None else teachers_of(weights.load_with_info(init)[1])
        )
        super().__init__(training, cache, splits, device, init, lips)

    def _own_discriminators(self) -> dict[str, nn.Module]:
        self.reader, self.reader_teachers = _reader(self.reader_file, self.cache.vocabulary)
        return {"reader": self.reader}

    @property
    def lips_at(self) -> tuple[str, str] | None:
        """See `GeneratorRecipe.lips_at`."""
        return ("readout", "readout") if isinstance(self.training.model, CranConfig) else None

    @property
    def samples_head(self) -> bool:
        """True if the model samples how the head moves."""
        model = self.training.model
        return isinstance(model, CranConfig) and model.scheme == "natural"

    def _facts(self) -> dict[str, Any]:
        """Return the lip readers that trained this model; evaluation refuses them as its judge."""
        reads = any("reading" in stage.weights for stage in self.training.stages)
        teachers = self.began_with | (self.reader_teachers if reads else frozenset())
        facts: dict[str, Any] = {"taught_by": sorted(teachers)}
        speakers = speakers_of(self.clips)
        if self.training.model.scheme == "natural" and len(speakers) == 1:
            facts["person"] = self._person(speakers[0]).facts
        return facts

    def _person(self, name: str) -> Person:
        """Return the face embedding of the one person that this model is trained on."""
        embedding, info = weights.load_with_info("identity", self.device)
        speaking = [c for c in self.clips if not c.silent]
        chosen = speaking[:: max(1, len(speaking) // 100)]
        rows = sorted(c.start + c.frames // 2 for c in chosen)
        return Person.of(name, embedding, np.array(self.cache.frames[rows]), info.sha256)

    # --- one step -------------------------------------------------------------------------------

    def step(
        self, raw: RawBatch, step: int, micro_batch: MicroBatch = WHOLE_STEP
    ) -> dict[str, float]:
        """See `GeneratorRecipe.step`."""
        stage, local = self.stage(step)
        self.progress = local / stage.steps  # share of the stage, for `teacher_forcing`
        return super().step(raw, step, micro_batch)

    def _set_statistics(self) -> None:
        super()._set_statistics()
        if self.samples_head:  # prosody of the pretrained head
            head_net: Any = weights.load("head")
            self.model.prosody.load_state_dict(head_net.prosody.state_dict())
            self.model.prosody.requires_grad_(False)
            self.model.head_output.requires_grad_(False)  # see `_finished`

    def _finished(self) -> nn.Module:
        """See `GeneratorRecipe._finished`; fits the head's motion to the trained features."""
        if not self.samples_head:
            return super()._finished()
        model: Cran = copy.deepcopy(self.ema).cpu()
        settings = self.training.head
        clips = head.read_clips(self.cache, self.clips, settings)
        pictures = np.stack([self.cache.frames[clip.start] for clip in clips])
        fit_head(model, clips, video.to_tensor(pictures), settings)
        return model

    def _batch(self, raw: RawBatch, stage: Stage) -> Batch:
        batch = super()._batch(raw, stage)
        return still_head(batch) if self.samples_head and stage.pictures else batch

    def _generate(
        self, batch: Batch, stage: Stage
    ) -> tuple[Generated | None, Tensor, dict[str, Tensor]]:
        if not stage.pictures:
            return None, batch.frames, self._blind_terms(batch)
        identity = self.model.encode(batch.portrait)
        given = {"meshes": batch.mesh} if isinstance(self.training.model, CranConfig) else {}
        made, _ = self.model.draw_region(
            identity, batch.speech, teacher=self._teacher(batch), **given
        )
        real, weight = self.model.mouth_region.crop(batch.frames), self._mouth(batch.landmarks)
        terms = {"pixels": reconstruction_loss(made.frames, real, weight)}
        if "gradient" in stage.weights:
            terms["gradient"] = gradient_loss(made.frames, real, weight)
        if "lips" in stage.weights and made.landmarks is not None:
            terms["lips"] = self._lip_loss(made.landmarks, batch)
        return made, real, terms

    def _blind_terms(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of the lips, without pictures."""
        landmarks, _ = self.model.predict_landmarks(self._faceless(batch.portrait), batch.speech)
        return {"lips": self._lip_loss(landmarks, batch)}

    def _adversarial_terms(self, batch: Batch, made: Generated, stage: Stage) -> dict[str, Tensor]:
        terms = super()._adversarial_terms(batch, made, stage)
        if "reading" in stage.weights:
            loss = lip_reading_generator_loss(self._read(made.frames, batch), batch.word)
            terms["reading"] = loss * self._word_weight(batch)
        return terms

    def _discriminators(
        self, batch: Batch, made: Generated, real: Tensor, stage: Stage
    ) -> dict[str, Tensor]:
        terms = super()._discriminators(batch, made, real, stage)
        if "reading" in stage.weights and self.training.reading != "frozen":
            self.reader.train()
            with self._precision():
                read = self._read(real, batch)
                misread = self._read(made.frames.detach(), batch)
                loss = lip_reading_discriminator_loss(
                    read, misread, batch.word, self.training.reading
                )
                loss = loss * self._word_weight(batch)
            self._update("reader", loss)
            terms["discriminator/reading"] = loss
        return terms

    # --- parts of a step ------------------------------------------------------------------------

    def _mouth(self, landmarks: Tensor) -> Tensor | None:
        """Return pixel weights; eyes that blink with a moving head have weight 0."""
        weight = super()._mouth(landmarks)
        if weight is not None and self.samples_head:
            for eye in EYES:
                weight = weight * (1 - self._near(landmarks[:, :, eye], 0.07))
        return weight

    def _faceless(self, portrait: Portrait) -> Identity:
        features = torch.zeros(len(portrait.landmarks), self.training.model.image_features)
        return Identity(portrait, (features.to(self.device), ()))

    def _teacher(self, batch: Batch) -> Teacher | None:
        """Return the real previous frames and which are used, for autoregressive schemes."""
        if not self.model.is_autoregressive:
            return None
        first, last = self.training.teacher_forcing
        share = first + (last - first) * self.progress
        used = tuple((torch.rand(batch.frames.shape[1]) < share).tolist())
        return Teacher(self._before(batch), used)

    def _before(self, batch: Batch) -> Tensor:
        """Return the real frame before each: (B, T, 3, S, S)."""
        return torch.cat([batch.before[:, None], batch.frames[:, :-1]], dim=1)

    def _read(self, frames: Tensor, batch: Batch) -> Tensor:
        """Return logits of the word on each sample's mouth; the box follows the real landmarks."""
        mouths, lengths = cut_words(
            self._into_crop(frames), batch.landmarks, batch.span, self.reader.config.mouth
        )
        logits: Tensor = self.reader(mouths, lengths)
        return logits

    def _into_crop(self, frames: Tensor) -> Tensor:
        top, bottom, left, right = self.training.model.mouth_region
        size = self.training.model.crop.size
        return F.pad(frames, (left, size - right, top, size - bottom))


def still_head(batch: Batch) -> Batch:
    """Return a batch whose heads are aligned with the portrait's, frame by frame.

    The alignment is a least-squares similarity of points that neither speech nor brows nor lids
    move (Umeyama 1991). Small turns out of the picture's plane remain. The frame before the first
    is aligned as the first.
    """
    assert batch.portrait.mesh is not None
    own, seen = batch.portrait.mesh[:, None, RIGID], batch.mesh[:, :, RIGID]
    here, there = own.mean(2, keepdim=True), seen.mean(2, keepdim=True)
    o, s = (torch.view_as_complex(part.contiguous()) for part in (own - here, seen - there))
    turn = (o.conj() * s).sum(-1, keepdim=True) / o.abs().square().sum(-1, keepdim=True)
    back = torch.view_as_complex((batch.mesh - there).contiguous()) / turn
    mesh = torch.view_as_real(back) + here
    size = batch.frames.shape[-1]
    pixels = base_grid(size, size).to(mesh).flatten(0, 1) / 2 + 0.5
    out = torch.view_as_complex((pixels - here).contiguous()) * turn
    places = (torch.view_as_real(out) + there).unflatten(2, (size, size)) * 2 - 1
    return replace(
        batch,
        frames=_sampled(batch.frames, places),
        before=_sampled(batch.before[:, None], places[:, :1])[:, 0],
        mesh=mesh,
        landmarks=ibug(mesh),
    )


def _sampled(frames: Tensor, places: Tensor) -> Tensor:
    """Sample frames (B, T, 3, S, S) at places (B, T, S, S, 2) in [-1, 1]."""
    flat, where = frames.flatten(0, 1), places.flatten(0, 1)
    read = F.grid_sample(flat, where, "bicubic", "border", align_corners=False)  # blurs less
    out: Tensor = read.clamp(-1, 1).unflatten(0, frames.shape[:2])
    return out


def fit_head(
    model: Cran, clips: Sequence[HeadClip], pictures: Tensor, training: HeadTraining
) -> None:
    """Fit the mixture of head motion to a trained model's hybrid features, which stay unchanged.

    pictures: (N, 3, S, S), one of each clip.
    """
    output = model.head_output.requires_grad_(True)
    moves = [clip.moves for clip in clips]
    output.motion.set_statistics(moves, [clip.weight for clip in clips])
    frames = min(map(len, moves))
    windows = torch.stack([clip.windows[:frames] for clip in clips])
    features = torch.cat(
        [
            hybrid_of(model, picture[None], part[None].float()).features
            for picture, part in zip(pictures, windows, strict=True)
        ]
    )
    head.fit_mixture(output.motion, (), lambda rows: features[rows], clips, training)
    spoken, silent = head.spoken_windows(clips, training)
    speaking = hybrid_of(model, pictures[:1].expand(len(spoken), -1, -1, -1), spoken)
    head.set_amplitudes(output, speaking, hybrid_of(model, pictures[:1], silent), training)
    output.requires_grad_(False)


@torch.no_grad()
def hybrid_of(model: Cran, pictures: Tensor, windows: Tensor) -> Hybrid:
    """Return the input of head motion from pictures (B, 3, S, S) and windows (B, T, hops, ...)."""
    prosody, _ = head.prosody_of(model.prosody, windows)
    return Hybrid(model.undrawn_hybrid(pictures, windows), prosody)


def _reader(
    path: str | Path | None, vocabulary: tuple[str, ...]
) -> tuple[LipReader, frozenset[str]]:
    """Load a lip reader; return it and the sha256 of it and of the readers that trained it.

    path: a name or a file; None gives an untrained reader that no loss uses. vocabulary: the words
    it must know. Raises BadRequest.
    """
    if path is None:
        return SmallLipReader().requires_grad_(True), frozenset()
    reader, info = weights.load_with_info(path)
    if not isinstance(reader, SmallLipReader | PublishedLipReader):
        raise BadRequest(f"{path} holds a {type(reader).__name__}, not a lip reader")
    if vocabulary_of(info) != vocabulary:
        raise BadRequest(
            f"{path} reads {len(vocabulary_of(info))} words, the shards have {len(vocabulary)} "
            "others: train a reader on them with `talkingface train lipreader`"
        )
    return reader.requires_grad_(True), teachers_of(info) | {info.sha256}
