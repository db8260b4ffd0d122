"""The published baselines' training steps: Chung et al. 2017 and Chen et al. 2018."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from talkingface.contract import Generated, Portrait
from talkingface.data.dataset import Batch, SampleConfig
from talkingface.losses import discriminator_loss, generator_loss, reconstruction_loss
from talkingface.models.baselines.chen import ChenConfig, Correlation, ThreeStreamDiscriminator
from talkingface.models.baselines.chung import ChungConfig
from talkingface.training.generator import GeneratorRecipe, GeneratorTraining, Stage


@dataclass(frozen=True)
class ChungTraining(GeneratorTraining):
    """Settings of training Chung et al. 2017.

    same_picture: share of samples whose identity input is one picture repeated, as in use with one
    portrait; the others get several pictures of the same clip.
    """

    model: ChungConfig
    same_picture: float = 0.5


class ChungRecipe(GeneratorRecipe[ChungTraining]):
    """The recipe of Chung et al. 2017, with L1 alone.

    A stage with the loss "pixels" trains the encoder-decoder. One with "deblurring" trains the
    second network on the output of the frozen first one.
    """

    def _speech_module(self) -> nn.Module:
        network: nn.Module = self.model.network
        return network

    def _samples(self, stage: Stage) -> SampleConfig:
        return replace(super()._samples(stage), others=self.training.model.identities - 1)

    def _renditions(
        self, portrait: Portrait, speech: Tensor, landmarks: Tensor
    ) -> dict[str, Generated]:
        """Return the output, and the output before deblurring."""
        identity = self.ema.encode(portrait)
        blurred = self.ema.draw_blurred(identity, speech)
        drawn = {"": self.ema.deblurring(blurred), "blurred_": blurred}
        region, image = self.ema.mouth_region, portrait.image
        return {
            name: region.composite(region.fade(colour, image), image)
            for name, colour in drawn.items()
        }

    def _generate(
        self, batch: Batch, stage: Stage
    ) -> tuple[Generated | None, Tensor, dict[str, Tensor]]:
        real, weight = self.model.mouth_region.crop(batch.frames), self._mouth(batch.landmarks)
        if "deblurring" in stage.weights:
            self.model.network.eval()
            with torch.no_grad():
                blurred = self.model.draw_blurred(self._identity(batch), batch.speech)
            colour, name = self.model.deblurring(blurred), "deblurring"
        else:
            colour, name = self.model.draw_blurred(self._identity(batch), batch.speech), "pixels"
        made = self.model.mouth_region.fade(colour, batch.portrait.image)
        return made, real, {name: reconstruction_loss(made.frames, real, weight)}

    def _identity(self, batch: Batch) -> object:
        """Encode one picture, repeated, or several, chosen at random for each sample (E_I)."""
        one = batch.portrait.image.unsqueeze(1).expand_as(batch.others)
        same = torch.rand(len(one), 1, 1, 1, 1, device=self.device) < self.training.same_picture
        identity: object = self.model.encode(batch.portrait, torch.where(same, one, batch.others))
        return identity


@dataclass(frozen=True)
class ChenTraining(GeneratorTraining):
    """Settings of training Chen et al. 2018.

    discriminator_width: first channels of every stream of the discriminator and the correlation.
    """

    model: ChenConfig
    discriminator_width: int = 16


class ChenRecipe(GeneratorRecipe[ChenTraining]):
    """The recipe of Chen et al. 2018.

    Losses: L1 ("pixels"), the correlation of the change of sound with the lips' motion
    ("correlation"), and a discriminator of sound, pictures and motion ("adversary").
    """

    def _own_discriminators(self) -> dict[str, nn.Module]:
        t = self.training
        top, bottom, left, right = t.model.mouth_region
        sizes = (t.model.speech, (bottom - top, right - left), t.discriminator_width)
        self.together, self.three_streams = Correlation(*sizes), ThreeStreamDiscriminator(*sizes)
        return {"correlation": self.together, "three_streams": self.three_streams}

    def _generate(
        self, batch: Batch, stage: Stage
    ) -> tuple[Generated | None, Tensor, dict[str, Tensor]]:
        made = self.model.draw_region(self.model.encode(batch.portrait), batch.speech)
        real, weight = self.model.mouth_region.crop(batch.frames), self._mouth(batch.landmarks)
        return made, real, {"pixels": reconstruction_loss(made.frames, real, weight)}

    def _adversarial_terms(self, batch: Batch, made: Generated, stage: Stage) -> dict[str, Tensor]:
        terms = super()._adversarial_terms(batch, made, stage)
        speech = self.model.normalise(batch.speech)
        if "correlation" in stage.weights:
            terms["correlation"] = correlation_loss(
                self.together(made.frames, speech), batch.silent
            )
        if "adversary" in stage.weights:
            logits = self.three_streams(made.frames, speech)
            terms["adversary"] = generator_loss(logits, self.training.form)
        return terms

    def _discriminators(
        self, batch: Batch, made: Generated, real: Tensor, stage: Stage
    ) -> dict[str, Tensor]:
        terms = super()._discriminators(batch, made, real, stage)
        speech = self.model.normalise(batch.speech)
        if "correlation" in stage.weights:
            self.together.train()
            with self._precision():
                loss = correlation_loss(self.together(real, speech), batch.silent)
            self._update("correlation", loss)
            terms["discriminator/correlation"] = loss
        if "adversary" in stage.weights:
            self.three_streams.train()
            with self._precision():
                loss = self._three_stream_loss(real, made.frames.detach(), speech)
            self._update("three_streams", loss)
            terms["discriminator/adversary"] = loss
        return terms

    def _three_stream_loss(self, real: Tensor, fake: Tensor, speech: Tensor) -> Tensor:
        """Return the loss of real samples against generated ones and against wrong speech."""
        judged, form = self.three_streams(real, speech), self.training.form
        mismatched = self.three_streams(real, speech.roll(1, dims=0))
        drawn = self.three_streams(fake, speech)
        return (
            discriminator_loss(judged, mismatched, form) + discriminator_loss(judged, drawn, form)
        ) / 2


def correlation_loss(together: Tensor, silent: Tensor) -> Tensor:
    """Return the mean of 1 - correlation over samples with speech (Chen et al. 2018, L_corr).

    together: (B,) from `models.baselines.chen.Correlation`; silent: (B,) bool; 0 where all are
    silent.
    """
    speaking = (~silent).float()
    return ((1 - together) * speaking).sum() / speaking.sum().clamp(min=1)
