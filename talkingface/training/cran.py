"""CRAN's training step: Song et al. 2019, Sec. 3.3 and 4.2, Eq. 5."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from talkingface import weights
from talkingface.audio import HOPS_PER_FRAME
from talkingface.contract import Generated, Portrait
from talkingface.data.dataset import EDGE, Batch, Cache, ClipInfo, clip_speech
from talkingface.errors import BadRequest
from talkingface.losses import (
    LipReadingForm,
    gradient_loss,
    lip_reading_critic_loss,
    lip_reading_generator_loss,
    phone_loss,
    reconstruction_loss,
)
from talkingface.models.cran import CranConfig, Identity, Teacher
from talkingface.models.hearing import heard
from talkingface.models.lipreader import (
    LeanLipReader,
    LipReader,
    PublishedLipReader,
    cut_words,
)
from talkingface.training.generator import GeneratorRecipe, GeneratorTraining, Stage
from talkingface.training.reading import vocabulary_of

HEARING = ("hearing", "audio_encoder", "gru", "lip_head", "lip_neutral")


@dataclass(frozen=True)
class CranTraining(GeneratorTraining):
    """Everything that `talkingface train cran` needs beside the data."""

    model: CranConfig
    teacher_forcing: float = 0.5
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
        init: Path | None = None,
        seed: int = 0,
    ) -> None:
        if reader is None and any("reading" in s.weights for s in training.stages):
            raise BadRequest(
                "this training has a lip-reading critic (Eq. 2), which must be trained first: "
                "`talkingface train lipreader`, then give its weights with --reader, "
                "or leave it out with --without reading"
            )
        torch.manual_seed(seed)
        self.reader, self.taught_by = _reader(reader, cache.vocabulary)
        super().__init__(training, cache, splits, device, init, seed, {"reader": self.reader})

    def hears(self, parameter: str) -> bool:
        """The front end, the audio encoder, the GRU and the lip head."""
        return parameter.split(".")[0] in HEARING

    def _facts(self) -> dict[str, Any]:
        """Which reader has taught it: an evaluation refuses that one as its judge."""
        taught = any("reading" in stage.weights for stage in self.training.stages)
        return {"reader": self.taught_by} if taught else {}

    # --- one step -------------------------------------------------------------------------------

    def _generate(
        self, batch: Batch, stage: Stage
    ) -> tuple[Generated | None, Tensor, dict[str, Tensor]]:
        if "phones" in stage.weights:
            told = self.model.hearing.tell(batch.speech)
            return None, batch.frames, {"phones": phone_loss(told, self._taught(batch))}
        if not stage.pictures:
            landmarks, _ = self.model.speak(self._faceless(batch.portrait), batch.speech)
            return None, batch.frames, {"lips": self._lip_loss(landmarks, batch)}
        identity = self.model.encode(batch.portrait)
        guide, teacher = self._guide(identity, batch, stage), self._teacher(batch)
        made, _ = self.model.draw_window(identity, batch.speech, None, guide, teacher)
        real, weight = self.model.window.cut(batch.frames), self._mouth(batch.landmarks)
        terms = {"pixels": reconstruction_loss(made.frames, real, weight)}
        if "gradient" in stage.weights:
            terms["gradient"] = gradient_loss(made.frames, real, weight)
        if "lips" in stage.weights and made.landmarks is not None:
            terms["lips"] = self._lip_loss(made.landmarks, batch)
        return made, real, terms

    def _adversarial_terms(self, batch: Batch, made: Generated, stage: Stage) -> dict[str, Tensor]:
        terms = super()._adversarial_terms(batch, made, stage)
        if "reading" in stage.weights:
            terms["reading"] = lip_reading_generator_loss(
                self._read(made.frames, batch), batch.word
            )
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
            self._learn("reader", loss)
            terms["critic/reading"] = loss
        return terms

    # --- the parts of a step --------------------------------------------------------------------

    def _heard(self, clip: ClipInfo) -> Tensor:
        """As the front end begins; where it is taught phones, what its teacher hears."""
        spec, hearing = self.training.model.speech, self.training.model.hearing
        if hearing.taught != "no":
            return self.cache.phones(clip)[EDGE:-EDGE:HOPS_PER_FRAME]
        with torch.no_grad():
            windows: Tensor = self.model.hearing(clip_speech(self.cache, clip, spec)[None])
        return windows[0, :, windows.shape[2] // 2]

    def _taught(self, batch: Batch) -> Tensor:
        """The phones of the hops that `Hearing.tell` speaks of."""
        spec, hearing = self.training.model.speech, self.training.model.hearing
        cut = (spec.hops - heard(spec, hearing)[0]) // 2
        return batch.phones[:, cut : batch.phones.shape[1] - cut]

    def _faceless(self, portrait: Portrait) -> Identity:
        features = torch.zeros(len(portrait.landmarks), self.training.model.image_features)
        return Identity(portrait, features.to(self.device), ())

    def _guide(self, identity: Identity, batch: Batch, stage: Stage) -> Tensor | None:
        """Which lips the decoder is shown: the real ones for a share of samples, else its own."""
        if self.training.model.lips != "guide" or stage.real_guide <= 0:
            return None
        if self.training.model.looks_back:  # what they hear depends on what they drew
            return batch.landmarks if float(torch.rand(())) < stage.real_guide else None
        with torch.no_grad():
            own, _ = self.model.speak(identity, batch.speech)
        real = torch.rand(len(own), 1, 1, 1, device=self.device) < stage.real_guide
        jitter = 0.003 * torch.randn(len(own), 1, 68, 2, device=self.device)
        return torch.where(real, batch.landmarks + jitter, own)

    def _teacher(self, batch: Batch) -> Teacher | None:
        """The real frames before and their landmarks, for schemes that look back; else their own,
        as at test time."""
        if not self.training.model.looks_back:
            return None
        if float(torch.rand(())) >= self.training.teacher_forcing:
            return None
        return (
            torch.cat([batch.before[:, None], batch.frames[:, :-1]], dim=1),
            torch.cat([batch.place[:, None], batch.landmarks[:, :-1]], dim=1),
        )

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


def _reader(path: str | Path | None, vocabulary: tuple[str, ...]) -> tuple[LipReader, str]:
    """The trained lip reader of a name or a file and its sha256; without one, an untrained one that
    no loss asks. vocabulary: what it must know."""
    if path is None:
        return LeanLipReader().requires_grad_(True), ""
    reader, info = weights.load_with_info(path)
    if not isinstance(reader, LeanLipReader | PublishedLipReader):
        raise BadRequest(f"{path} holds a {type(reader).__name__}, not a lip reader")
    if vocabulary_of(info) != vocabulary:
        raise BadRequest(
            f"{path} reads {len(vocabulary_of(info))} words, the shards have {len(vocabulary)} "
            "others: train a reader on them with `talkingface train lipreader`"
        )
    return reader.requires_grad_(True), info.sha256
