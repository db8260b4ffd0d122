"""CRAN's training step: Song et al. 2019, Sec. 3.3 and 4.2, Eq. 5."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from talkingface import weights
from talkingface.contract import Generated, Portrait
from talkingface.data.dataset import (
    Batch,
    Cache,
    Drawn,
    speakers_of,
)
from talkingface.errors import BadRequest
from talkingface.losses import (
    LipReadingForm,
    gradient_loss,
    lip_reading_critic_loss,
    lip_reading_generator_loss,
    reconstruction_loss,
)
from talkingface.metrics.identity import Person
from talkingface.models.cran import CranConfig, Identity, Teacher
from talkingface.models.head import measure, steady
from talkingface.models.lipreader import (
    LeanLipReader,
    LipReader,
    PublishedLipReader,
    cut_words,
)
from talkingface.training.generator import GeneratorRecipe, GeneratorTraining, Stage
from talkingface.training.parallel import WHOLE, Part
from talkingface.training.reading import teachers_of, vocabulary_of

STEADY = 1e-4  # least spread of a move: heads of a corpus may stand still
HEAD_NOISE = 0.1  # of a usual step, on the real moves: what is drawn later is not exact either


@dataclass(frozen=True)
class CranTraining(GeneratorTraining):
    """Everything that `talkingface train cran` needs beside the data.

    reading: how D_l learns while G does.
    teacher_forcing: share of frames, at a stage's beginning and at its end, that see the real frame
    before and not their own, for schemes that look back (Bengio et al. 2015, scheduled sampling).
    """

    model: CranConfig
    teacher_forcing: tuple[float, float] = (0.5, 0.5)
    reading: LipReadingForm = "frozen"


class CranRecipe(GeneratorRecipe[CranTraining]):
    """Song et al. 2019, Sec. 3.3 and 4.2: reconstruction first, then with the three critics."""

    def __init__(
        self,
        training: CranTraining,
        cache: Cache,
        splits: tuple[str, ...] = ("train",),
        device: torch.device | str = "cpu",
        reader: str | Path | None = None,
        init: str | Path | None = None,
        seed: int = 0,
        lips: str | Path = "lips",
    ) -> None:
        if reader is None and any("reading" in s.weights for s in training.stages):
            raise BadRequest(
                "this training has a lip-reading critic (Eq. 2), which must be trained first: "
                "`talkingface train lipreader`, then give its weights with --reader, "
                "or leave it out with --without reading"
            )
        torch.manual_seed(seed)
        self.reader, self.taught_by = _reader(reader, cache.vocabulary)
        self.began_with = (
            frozenset() if init is None else teachers_of(weights.load_with_info(init)[1])
        )
        super().__init__(training, cache, splits, device, init, seed, {"reader": self.reader}, lips)

    @property
    def lips_at(self) -> tuple[str, str] | None:
        """See `GeneratorRecipe.lips_at`."""
        return ("readout", "readout") if self.training.model.lips == "expression" else None

    def _facts(self) -> dict[str, Any]:
        """Which readers have taught it: an evaluation refuses those as its judge."""
        taught = any("reading" in stage.weights for stage in self.training.stages)
        teachers = self.began_with | (self.taught_by if taught else frozenset())
        facts: dict[str, Any] = {"taught_by": sorted(teachers)}
        speakers = speakers_of(self.clips)
        if self.training.model.scheme == "natural" and len(speakers) == 1:
            facts["person"] = self._person(speakers[0]).facts
        return facts

    def _person(self, name: str) -> Person:
        """The one whom this model learns."""
        embedding, info = weights.load_with_info("identity", self.device)
        speaking = [c for c in self.clips if not c.silent]
        chosen = speaking[:: max(1, len(speaking) // 100)]
        rows = sorted(c.start + c.frames // 2 for c in chosen)
        return Person.of(name, embedding, np.array(self.cache.frames[rows]), info.sha256)

    # --- one step -------------------------------------------------------------------------------

    def step(self, drawn: Drawn, step: int, part: Part = WHOLE) -> dict[str, float]:
        """See `GeneratorRecipe.step`."""
        stage, local = self.stage(step)
        self.progress = local / stage.steps  # of the stage: what `teacher_forcing` goes by
        return super().step(drawn, step, part)

    def _set_statistics(self) -> None:
        super()._set_statistics()
        if self.training.model.head == "drawn":
            self._set_head_statistics()

    def _set_head_statistics(self) -> None:
        """How far heads move, and from frame to frame, from pictures of their own clips."""
        steps, moves = [], []
        for clip in [c for c in self.clips if not c.silent]:
            points = self.cache.landmarks[clip.start : clip.start + clip.frames]
            found = torch.from_numpy(points[None].copy())
            for identity in (0, clip.frames // 2, clip.frames - 1):
                moved = steady(measure(found[:, identity], found))[0]
                moves.append(moved)
                steps.append(moved.diff(dim=0))
        motion = self.model.head_motion
        motion.step.copy_(torch.cat(steps).std(0).clamp(min=STEADY))
        motion.spread.copy_(torch.cat(moves).std(0).clamp(min=STEADY))
        motion.rest.copy_(torch.cat(moves).mean(0))

    def _generate(
        self, batch: Batch, stage: Stage
    ) -> tuple[Generated | None, Tensor, dict[str, Tensor]]:
        moves = self._moves(batch)
        if not stage.pictures:
            return None, batch.frames, self._blind_terms(batch, moves)
        identity = self.model.encode(batch.portrait)
        meshes = batch.mesh if self.training.model.output == "mesh" else None
        made, _ = self.model.draw_window(identity, batch.speech, None, meshes, self._teacher(batch))
        real, weight = self.model.window.cut(batch.frames), self._mouth(batch.landmarks)
        terms = {"pixels": reconstruction_loss(made.frames, real, weight)}
        if "gradient" in stage.weights:
            terms["gradient"] = gradient_loss(made.frames, real, weight)
        if "lips" in stage.weights and made.landmarks is not None:
            terms["lips"] = self._lip_loss(made.landmarks, batch)
        return made, real, terms | self._head_terms(identity, batch, moves, self._before(batch))

    def _blind_terms(self, batch: Batch, moves: Tensor | None) -> dict[str, Tensor]:
        """The lips, where they are learned here, and the head's moves, without pictures."""
        faceless, terms = self._faceless(batch.portrait), {}
        if self.training.model.lips == "auxiliary":
            landmarks, _ = self.model.speak(faceless, batch.speech)
            terms["lips"] = self._lip_loss(landmarks, batch)
        return terms | self._head_terms(faceless, batch, moves, None)

    def _adversarial_terms(self, batch: Batch, made: Generated, stage: Stage) -> dict[str, Tensor]:
        terms = super()._adversarial_terms(batch, made, stage)
        if "reading" in stage.weights:
            loss = lip_reading_generator_loss(self._read(made.frames, batch), batch.word)
            terms["reading"] = loss * self._worded(batch)
        return terms

    def _critics(
        self, batch: Batch, made: Generated, real: Tensor, stage: Stage
    ) -> dict[str, Tensor]:
        terms = super()._critics(batch, made, real, stage)
        if "reading" in stage.weights and self.training.reading != "frozen":
            self.reader.train()
            with self._precision():
                read = self._read(real, batch)
                misread = self._read(made.frames.detach(), batch)
                loss = lip_reading_critic_loss(read, misread, batch.word, self.training.reading)
                loss = loss * self._worded(batch)
            self._learn("reader", loss)
            terms["critic/reading"] = loss
        return terms

    # --- the parts of a step --------------------------------------------------------------------

    def _mouth(self, landmarks: Tensor) -> Tensor | None:
        """Where heads move, eyes blink: they count as the mouth does (Gaussian, 6 px at 128)."""
        weight = super()._mouth(landmarks)
        if weight is not None and self.training.model.head == "drawn":
            for eye in (landmarks[:, :, 36:42], landmarks[:, :, 42:48]):
                weight = weight + (self.training.mouth_weight - 1) * self._near(eye, 0.05)
        return weight

    def _faceless(self, portrait: Portrait) -> Identity:
        features = torch.zeros(len(portrait.landmarks), self.training.model.image_features)
        return Identity(portrait, features.to(self.device), ())

    def _teacher(self, batch: Batch) -> Teacher | None:
        """The real frames before, for schemes that look back, which see some of them."""
        if not self.training.model.looks_back:
            return None
        first, last = self.training.teacher_forcing
        share = first + (last - first) * self.progress
        used = tuple((torch.rand(batch.frames.shape[1]) < share).tolist())
        return Teacher(self._before(batch), used)

    def _before(self, batch: Batch) -> Tensor:
        """The real frame before each: (B, T, 3, S, S)."""
        return torch.cat([batch.before[:, None], batch.frames[:, :-1]], dim=1)

    def _moves(self, batch: Batch) -> Tensor | None:
        """How the real head moves, from the frame before the first: (B, 1 + T, MOVES)."""
        if self.training.model.head == "free":
            return None
        points = torch.cat([batch.place[:, None], batch.landmarks], dim=1)
        return steady(measure(batch.portrait.landmarks, points))

    def _head_terms(
        self, identity: Identity, batch: Batch, moves: Tensor | None, before: Tensor | None
    ) -> dict[str, Tensor]:
        """What the head's next moves cost; before: the real frames before, None in the dark."""
        if moves is None:
            return {}
        seen = None if before is None else self.model.window.cut(before)
        trembling = self.model.head_motion.step * HEAD_NOISE
        moves = moves + torch.randn_like(moves) * trembling
        return {"head": self.model.head_loss(identity, batch.speech, moves, seen)}

    def _read(self, frames: Tensor, batch: Batch) -> Tensor:
        """Logits of the word on each sample's mouth; the box follows the real landmarks."""
        mouths, lengths = cut_words(
            self._into_crop(frames), batch.landmarks, batch.span, self.reader.config.mouth
        )
        logits: Tensor = self.reader(mouths, lengths)
        return logits

    def _into_crop(self, frames: Tensor) -> Tensor:
        top, bottom, left, right = self.training.model.window
        size = self.training.model.crop.size
        return F.pad(frames, (left, size - right, top, size - bottom))


def _reader(
    path: str | Path | None, vocabulary: tuple[str, ...]
) -> tuple[LipReader, frozenset[str]]:
    """The trained lip reader of a name or a file, sha256 of it and of those that it learned from;
    without one, an untrained one that no loss asks. vocabulary: what it must know."""
    if path is None:
        return LeanLipReader().requires_grad_(True), frozenset()
    reader, info = weights.load_with_info(path)
    if not isinstance(reader, LeanLipReader | PublishedLipReader):
        raise BadRequest(f"{path} holds a {type(reader).__name__}, not a lip reader")
    if vocabulary_of(info) != vocabulary:
        raise BadRequest(
            f"{path} reads {len(vocabulary_of(info))} words, the shards have {len(vocabulary)} "
            "others: train a reader on them with `talkingface train lipreader`"
        )
    return reader.requires_grad_(True), teachers_of(info) | {info.sha256}
