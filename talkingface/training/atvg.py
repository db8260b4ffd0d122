"""ATVGnet's training: AT-net on landmarks, VG-net on real landmarks, then VG-net behind AT-net."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from talkingface.contract import Generated, Portrait
from talkingface.data import landmark_space
from talkingface.data.dataset import Batch, Cache
from talkingface.errors import BadRequest
from talkingface.losses import (
    discriminator_loss,
    dynamic_pixel_loss,
    generator_loss,
    gradient_loss,
    landmark_regression_loss,
)
from talkingface.models.atvg import AtvgConfig
from talkingface.models.atvg_published import Identity, PublishedAtvgConfig
from talkingface.models.discriminators import (
    SMALL_REGRESSION_DISCRIMINATOR,
    RegressionDiscriminator,
    RegressionDiscriminatorConfig,
)
from talkingface.models.mouth_region import FLOW_UNIT
from talkingface.training.generator import GeneratorRecipe, GeneratorTraining, Stage, lip_gap


@dataclass(frozen=True)
class AtvgTraining(GeneratorTraining):
    """Settings of `talkingface train atvg`.

    beta: of the dynamic pixel-wise loss. mouth: factor on the height of the lips in the regression
    terms (the released code: 1e4). jitter: noise on real landmarks shown to VG-net, crop sides.
    """

    model: AtvgConfig | PublishedAtvgConfig
    beta: float = 0.5
    mouth: float = 10.0
    jitter: float = 0.003
    regression_discriminator: RegressionDiscriminatorConfig = SMALL_REGRESSION_DISCRIMINATOR


class AtvgRecipe(GeneratorRecipe[AtvgTraining]):
    """The recipe of Chen et al. 2019.

    A stage without pictures trains AT-net. In a stage with pictures, `real_guide` is the share of
    samples that VG-net generates from real landmarks (all: the paper's second stage).
    """

    def __init__(
        self,
        training: AtvgTraining,
        cache: Cache,
        splits: tuple[str, ...] = ("train",),
        device: torch.device | str = "cpu",
        basis: Path | None = None,
        init: str | Path | None = None,
        lips: str | Path = "lips",
    ) -> None:
        if basis is not None and isinstance(training.model, AtvgConfig):
            raise BadRequest(
                f"{basis}: this model moves by fitted lips (--lips) and has no landmark space; "
                "--basis is for the published AT-net, as in the preset atvg-paper"
            )
        self.basis = None if basis is None else (landmark_space.load(basis), str(basis))
        super().__init__(training, cache, splits, device, init, lips)

    def _own_discriminators(self) -> dict[str, nn.Module]:
        self.regression = RegressionDiscriminator(self.training.regression_discriminator)
        return {"regression_discriminator": self.regression}

    def _speech_module(self) -> nn.Module:
        at: nn.Module = self.model.at
        return at

    def _uses_speech(self, stage: Stage) -> bool:
        return self.lips_at is None and (not stage.pictures or stage.real_guide < 1)

    @property
    def lips_at(self) -> tuple[str, str] | None:
        """See `GeneratorRecipe.lips_at`."""
        return ("lips", "at") if isinstance(self.training.model, AtvgConfig) else None

    def _set_statistics(self) -> None:
        if self.lips_at is not None:  # fitted with their own
            return
        super()._set_statistics()
        space = self.model.at.space
        if self.basis is not None:
            landmark_space.install(self.basis[0], space, self.basis[1])
        else:
            components, balance = self.model.config.at.components, self.training.balance
            fitted, _ = landmark_space.fit(self.cache, self.clips, components, balance)
            landmark_space.install(fitted, space)

    # --- one step -------------------------------------------------------------------------------

    def _generate(
        self, batch: Batch, stage: Stage
    ) -> tuple[Generated | None, Tensor, dict[str, Tensor]]:
        if not stage.pictures:
            landmarks, _ = self.model.predict_landmarks(Identity(batch.portrait), batch.speech)
            return None, batch.frames, {"lips": self._lip_loss(landmarks, batch)}
        identity = self.model.encode(batch.portrait)
        shown, terms = self._landmarks(identity, batch, stage)
        made, _ = self.model.draw_region(identity, shown)
        real, weight = self.model.mouth_region.crop(batch.frames), self._mouth(batch.landmarks)
        terms["pixels"] = dynamic_pixel_loss(
            made.frames, real, made.mask, self.training.beta, weight
        )
        if "gradient" in stage.weights:
            terms["gradient"] = gradient_loss(made.frames, real, weight)
        return made, real, terms

    def _landmarks(
        self, identity: Identity, batch: Batch, stage: Stage
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return VG-net's input and the loss terms of AT-net.

        The input is real meshes; for the published VG-net, real landmarks with some noise or those
        of AT-net.
        """
        if self.lips_at is not None:
            return batch.mesh, {}
        jitter = torch.randn(len(batch.landmarks), 1, 68, 2, device=self.device)
        disturbed = batch.landmarks + self.training.jitter * jitter
        if stage.real_guide >= 1:
            return disturbed, {}
        own, _ = self.model.predict_landmarks(identity, batch.speech)
        terms = {"lips": self._lip_loss(own, batch)} if "lips" in stage.weights else {}
        real = torch.rand(len(own), 1, 1, 1, device=self.device) < stage.real_guide
        return torch.where(real, disturbed, own), terms

    def _adversarial_terms(self, batch: Batch, made: Generated, stage: Stage) -> dict[str, Tensor]:
        """Add the losses of the discriminator's score and of the landmarks that it estimates."""
        terms = super()._adversarial_terms(batch, made, stage)
        if "score" not in stage.weights and "regression" not in stage.weights:
            return terms
        estimated, score = self.regression(made.frames, batch.portrait.landmarks)
        if "score" in stage.weights:
            terms["score"] = generator_loss(score, self.training.form)
        if "regression" in stage.weights:
            terms["regression"] = self._regression(estimated, made.landmarks)
        return terms

    def _discriminators(
        self, batch: Batch, made: Generated, real: Tensor, stage: Stage
    ) -> dict[str, Tensor]:
        terms = super()._discriminators(batch, made, real, stage)
        if "score" not in stage.weights and "regression" not in stage.weights:
            return terms
        self.regression.train()
        example = batch.portrait.landmarks
        with self._precision():
            seen_real, real_score = self.regression(real, example)
            seen_fake, fake_score = self.regression(made.frames.detach(), example)
        own = {
            "discriminator/score": discriminator_loss(real_score, fake_score, self.training.form),
            "discriminator/regression_real": self._regression(seen_real, batch.landmarks),
            "discriminator/regression_fake": self._regression(seen_fake, made.landmarks),
        }
        self._update("regression_discriminator", torch.stack(list(own.values())).sum())
        return terms | own

    def _regression(self, estimated: Tensor, drawn: Tensor | None) -> Tensor:
        """Return the loss of landmarks estimated from frames against their true landmarks."""
        assert drawn is not None
        true = drawn.detach() / FLOW_UNIT
        return landmark_regression_loss(estimated / FLOW_UNIT, true, self.training.mouth)

    # --- validation -----------------------------------------------------------------------------

    def _renditions(
        self, portrait: Portrait, speech: Tensor, landmarks: Tensor
    ) -> dict[str, Generated]:
        identity = self.ema.encode(portrait)
        generated, _ = self.ema(identity, speech)
        drawn, _ = self.ema.draw(identity, landmarks)
        return {"": generated, "real_landmarks_": drawn}

    def export(self, path: Path, step: int, measures: dict[str, float]) -> None:
        """Write the averaged weights; set the published AT-net's gain to the real lips' opening."""
        if self.lips_at is None:
            gain = self._gain()
            self.ema.at.gain.fill_(gain)
            measures = {**measures, "gain": gain}
        super().export(path, step, measures)

    def _gain(self) -> float:
        """Return 1 / the amplitude ratio of all held-out apertures, between 0.8 and 1.25."""
        own: list[np.ndarray[Any, np.dtype[np.float64]]] = []
        true: list[np.ndarray[Any, np.dtype[np.float64]]] = []
        for _, _, landmarks, portrait, speech in self._held_out():  # AT-net alone: no pictures
            with torch.inference_mode():
                moved, _ = self.ema.predict_landmarks(Identity(portrait), speech)
            for curves, points in ((own, moved[0]), (true, landmarks)):
                gap = lip_gap(points)
                curves.append(gap - gap.mean())
        if not own:
            return 1.0
        spread = float(np.concatenate(own).std())
        return float(np.clip(np.concatenate(true).std() / max(spread, 1e-9), 0.8, 1.25))
