"""The shared recipe of the generators: a curriculum of stages, discriminators and one step.

A step runs the generator once and each discriminator on `fake.detach()`. The losses are one dict,
their weights another; the total is the dot product. A loss without a weight is left out.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from talkingface import landmarks as points
from talkingface import models, video, weights
from talkingface.contract import Generated, Portrait
from talkingface.data.augment import AugmentConfig
from talkingface.data.dataset import (
    Batch,
    Cache,
    ClipInfo,
    ClipPool,
    RawBatch,
    SampleConfig,
    clip_pool,
    clip_speech,
    sample_batch,
    speakers_of,
)
from talkingface.data.provenance import licence, people, titles
from talkingface.errors import BadRequest
from talkingface.losses import (
    AdversarialForm,
    discriminator_loss,
    generator_loss,
    landmark_loss,
    total_loss,
)
from talkingface.metrics.lips import amplitude_ratio, correlation
from talkingface.models.blocks import base_grid
from talkingface.models.discriminators import (
    SMALL_FRAME_DISCRIMINATOR,
    SMALL_VIDEO_DISCRIMINATOR,
    FrameDiscriminator,
    FrameDiscriminatorConfig,
    VideoDiscriminator,
    VideoDiscriminatorConfig,
)
from talkingface.models.lips import ExpressionNet
from talkingface.models.mouth_region import FLOW_UNIT, MOUTH_POINTS
from talkingface.training import parallel
from talkingface.training.loop import EMA, TrainingPrecision, autocast
from talkingface.training.parallel import WHOLE_STEP, BatchIndex, MicroBatch, OptimizerGroup
from talkingface.training.settings import require_positive
from talkingface.types import Picture


@dataclass(frozen=True)
class Stage:
    """One part of the curriculum. weights: loss name -> weight; other losses are not computed.

    lips (predicted landmarks), pixels, gradient, image (Song et al., Eq. 3), video (Eq. 4), reading
    (Eq. 2), score and regression (ATVGnet's discriminator). real_guide: share of samples generated
    from real landmarks, not from predicted ones. discriminator_rate: factor on the discriminators'
    learning rate (CRAN's code: 5).
    """

    steps: int  # 0: `epochs` passes over the clips instead
    weights: dict[str, float]
    lr: float = 2e-4
    epochs: int = 0
    batch: int = 8
    frames: int = 15
    real_guide: float = 0.0
    discriminator_rate: float = 1.0
    pictures: bool = True
    schedule: Literal["constant", "cosine"] = "constant"

    def __post_init__(self) -> None:
        require_positive(self, "batch", "frames")


@dataclass(frozen=True)
class GeneratorTraining:
    """Settings of `talkingface train` that all generators share."""

    model: Any
    stages: tuple[Stage, ...]
    betas: tuple[float, float] = (0.5, 0.999)
    decay: float = 0.0
    average: float = 0.999
    mouth_weight: float = 1.0  # how much more a pixel at the mouth counts than one far off
    balance: float = 0.5
    silent: float = 0.1
    reenacted: float = 0.0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    image_discriminator: FrameDiscriminatorConfig = SMALL_FRAME_DISCRIMINATOR
    video_discriminator: VideoDiscriminatorConfig = SMALL_VIDEO_DISCRIMINATOR
    form: AdversarialForm = "nonsaturating"
    precision: TrainingPrecision = "auto"
    seed: int = 0


T = TypeVar("T", bound=GeneratorTraining)


class GeneratorRecipe(ABC, Generic[T]):
    """The recipe of a generator, see `loop.Recipe`.

    A subclass defines how frames are generated and which discriminators it adds. partners: those of
    them that are trained with the generator, by the same loss.
    """

    partners: tuple[str, ...] = ()

    def __init__(
        self,
        training: T,
        cache: Cache,
        splits: tuple[str, ...] = ("train",),
        device: torch.device | str = "cpu",
        init: str | Path | None = None,
        lips: str | Path = "lips",
    ) -> None:
        """Build the networks and their optimisers.

        init: weights to begin with. lips: the read-out of a model that predicts expressions. Each
        is a name or a file. Raises BadRequest.
        """
        self.cache, self.device = cache, torch.device(device)
        self.splits, self.clips = splits, cache.split(*splits)
        self.training = _with_steps(training, sum(not c.silent for c in self.clips))
        self.steps = sum(stage.steps for stage in self.training.stages)
        self.held_out = [c for c in cache.split("val") if not c.silent][:12]
        self.micro_batch = WHOLE_STEP
        self._pools: dict[tuple[SampleConfig, BatchIndex], ClipPool] = {}
        self._build(init, self._fitted_lips(lips))
        self.average = EMA(self.model, self.ema, training.average)
        self._set_optimizers()

    def _build(self, init: str | Path | None, lips: ExpressionNet | None) -> None:
        """Build the generator, its average and the discriminators, and move them to the device."""
        training = self.training
        torch.manual_seed(training.seed)
        own = self._own_discriminators()
        torch.manual_seed(training.seed)
        self.model: Any = models.build(training.model)
        self._set_statistics()
        if init is not None:
            self._initialise_from(init)
        if lips is not None:
            assert self.lips_at is not None
            readout: nn.Module = getattr(self.model, self.lips_at[1])
            readout.load_state_dict(lips.state_dict())
            readout.requires_grad_(False)
        self.ema: Any = models.build(training.model)
        self.discriminators: dict[str, nn.Module] = {
            "image_discriminator": FrameDiscriminator(training.image_discriminator),
            "video_discriminator": VideoDiscriminator(training.video_discriminator),
            **own,
        }
        generators = {"model": self.model, "ema": self.ema}
        self.modules: dict[str, nn.Module] = {**generators, **self.discriminators}
        for module in self.modules.values():
            module.to(self.device)
        for module in (self.model, self.ema, self.discriminators["image_discriminator"]):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _set_optimizers(self) -> None:
        """Make an optimiser for each module, and groups of those that share a loss."""
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.AdamW(
                [parameter for parameter in module.parameters() if parameter.requires_grad],
                betas=self.training.betas,
                weight_decay=self.training.decay,
            )
            for name, module in self.modules.items()
            if name != "ema"
        }
        self.optimizer_groups = {
            name: self._optimizer_group(name, *(self.partners if name == "model" else ()))
            for name in self.optimizers
            if name not in self.partners
        }

    def compile(self) -> None:
        """Compile generator, D_I and D_V with torch.compile.

        The last bits of results differ, and the first step of each stage takes minutes.
        """
        for name in ("encode", "predict_landmarks", "draw_region"):
            if hasattr(self.model, name):
                setattr(self.model, name, torch.compile(getattr(self.model, name), dynamic=False))
        for name in ("image_discriminator", "video_discriminator"):
            self.discriminators[name].compile(dynamic=False)

    def __getstate__(self) -> dict[str, Any]:
        kept = ("cache", "splits", "training")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.clips, self._pools = self.cache.split(*self.splits), {}

    def _optimizer_group(self, *names: str) -> OptimizerGroup:
        modules, optimizers = [self.modules[n] for n in names], [self.optimizers[n] for n in names]
        return OptimizerGroup(modules, optimizers, partly="model" in names)  # by stage

    def _initialise_from(self, name: str | Path) -> None:
        """Load the weights to begin with. Raises BadRequest for those of another network."""
        given = weights.load(name)
        try:
            self.model.load_state_dict(given.state_dict())
        except RuntimeError as error:
            kind = type(given).__name__
            raise BadRequest(
                f"{name}: {kind} is no beginning for this training: the preset's network has "
                "other sizes; give weights of the same preset, and the same --set model.*"
            ) from error

    def _fitted_lips(self, name: str | Path) -> ExpressionNet | None:
        """Load the fitted lips, and set the model's sizes to theirs; None for models without.

        Raises BadRequest for weights of another kind.
        """
        if self.lips_at is None:
            return None
        given = weights.load(name)
        if not isinstance(given, ExpressionNet):
            raise BadRequest(
                f"{name}: no fitted lips: make them with `talkingface train lips`, then give the "
                "file with --lips"
            )
        try:
            model = replace(self.training.model, **{self.lips_at[0]: given.config})
        except ValueError as error:
            raise BadRequest(f"{name}: lips that do not fit this preset: {error}") from error
        self.training = replace(self.training, model=model)
        return given

    @property
    def lips_at(self) -> tuple[str, str] | None:
        """The config field and the module of the fitted lips; None for models without."""
        return None

    # --- methods of subclasses ------------------------------------------------------------------

    def _own_discriminators(self) -> dict[str, nn.Module]:
        """Return further discriminators, and the `partners`, by name; called once."""
        return {}

    def _speech_module(self) -> nn.Module:
        """Return the module with the buffers `speech_mean` and `speech_std`."""
        model: nn.Module = self.model
        return model

    def _uses_speech(self, stage: Stage) -> bool:
        """Return whether this stage uses speech."""
        return True

    def _facts(self) -> dict[str, Any]:
        """Return further entries of the weights' header."""
        return {}

    @abstractmethod
    def _generate(
        self, batch: Batch, stage: Stage
    ) -> tuple[Generated | None, Tensor, dict[str, Tensor]]:
        """Return generated frames (mouth region), real frames and the non-adversarial losses."""

    def _renditions(
        self, portrait: Portrait, speech: Tensor, landmarks: Tensor
    ) -> dict[str, Generated]:
        """Return the averaged model's outputs for a held-out clip; "" is from speech alone."""
        made, _ = self.ema(self.ema.encode(portrait), speech)
        return {"": made}

    # --- one step -------------------------------------------------------------------------------

    def _set_statistics(self) -> None:
        """Set mean and standard deviation of the training speech, which the weights contain."""
        hearing = self._speech_module()
        speaking = [c for c in self.clips if not c.silent]
        chosen = speaking[:: max(1, len(speaking) // 200)]
        spec = self.training.model.speech
        middle = spec.hops // 2
        hops = torch.cat([clip_speech(self.cache, clip, spec)[:, middle] for clip in chosen])
        hearing.get_buffer("speech_mean").copy_(hops.mean(0))
        hearing.get_buffer("speech_std").copy_(hops.std(0))

    def stage(self, step: int) -> tuple[Stage, int]:
        """Return the stage of this step, and the step's number within the stage."""
        for stage in self.training.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        raise IndexError(f"step beyond the last stage by {step}")

    def batch(self, step: int, index: BatchIndex | None = None) -> RawBatch:
        """See `loop.Recipe`; each index has its own share of the clips, where there are enough."""
        stage, _ = self.stage(step)
        config, index = self._samples(stage), index or parallel.batch_index()
        known = (config, index)
        if known not in self._pools:
            share = (index.number, index.of)
            self._pools[known] = clip_pool(self.cache, self.clips, config, share)
        spec, seed = self.training.model.speech, (self.training.seed, step, index.number)
        return sample_batch(self.cache, self._pools[known], spec, config, seed)

    def _samples(self, stage: Stage) -> SampleConfig:
        """Return how this stage's batches are sampled."""
        t = self.training
        return SampleConfig(
            batch=stage.batch,
            frames=stage.frames,
            balance=t.balance,
            silent=t.silent,
            pictures=stage.pictures,
            sound=self._uses_speech(stage),
            reenacted=t.reenacted if stage.pictures else 0.0,
            augment=t.augment,
        )

    def step(
        self, raw: RawBatch, step: int, micro_batch: MicroBatch = WHOLE_STEP
    ) -> dict[str, float]:
        """Train the generator on the weighted sum of losses, then each discriminator."""
        self.micro_batch = micro_batch
        stage, local = self.stage(step)
        batch = self._batch(raw, stage)
        for name, optimizer in self.optimizers.items():
            _set_rate(optimizer, stage, local, 1.0 if name == "model" else stage.discriminator_rate)
        self.model.train()
        with self._precision():
            made, real, terms = self._generate(batch, stage)
            if made is not None:
                with _frozen(*self.discriminators.values()):
                    terms |= self._adversarial_terms(batch, made, stage)
        if terms.keys() != stage.weights.keys():
            wrong = ", ".join(sorted(terms.keys() ^ stage.weights.keys()))
            raise BadRequest(f"the model and this stage's weights differ in losses: {wrong}")
        self._update("model", total_loss(terms, stage.weights))
        if micro_batch.last:
            self.average.update(step)
        if made is not None:
            terms |= self._discriminators(batch, made, real, stage)
        values = torch.stack([value.detach().float() for value in terms.values()])
        return dict(zip(terms, values.tolist(), strict=True))  # one synchronisation with the GPU

    def _batch(self, raw: RawBatch, stage: Stage) -> Batch:
        """Return the batch that this stage is trained on."""
        return raw.to(self.device)

    def _adversarial_terms(self, batch: Batch, made: Generated, stage: Stage) -> dict[str, Tensor]:
        return {
            name: generator_loss(
                self.discriminators[f"{name}_discriminator"](made.frames), self.training.form
            )
            for name in ("image", "video")
            if name in stage.weights
        }

    def _discriminators(
        self, batch: Batch, made: Generated, real: Tensor, stage: Stage
    ) -> dict[str, Tensor]:
        """Train every discriminator; its losses are named discriminator/..."""
        terms, fake = {}, made.frames.detach()
        for name in ("image", "video"):
            if name in stage.weights:
                discriminator = self.discriminators[f"{name}_discriminator"].train()
                with self._precision():
                    loss = discriminator_loss(
                        discriminator(real), discriminator(fake), self.training.form
                    )
                self._update(f"{name}_discriminator", loss)
                terms[f"discriminator/{name}"] = loss
        return terms

    def _update(self, name: str, loss: Tensor) -> None:
        self.optimizer_groups[name].step(loss, self.micro_batch)

    def _word_weight(self, batch: Batch) -> float:
        """Return the weight of a mean over this batch's words; batches have different numbers."""
        return self.micro_batch.share(batch, lambda raw: int((raw.word >= 0).sum()))

    # --- the parts of a step --------------------------------------------------------------------

    def _precision(self) -> torch.autocast:
        return autocast(self.training.precision, self.device)

    def _lip_loss(self, landmarks: Tensor, batch: Batch) -> Tensor:
        points = list(MOUTH_POINTS)
        scale = torch.ones(len(points), 1, device=self.device)
        scale[:9] = 0.5  # the jaw is found less exactly than the lips
        error = (landmarks - batch.landmarks)[:, :, points] / FLOW_UNIT * scale
        return landmark_loss(error, torch.zeros_like(error), velocity=2.0)

    def _mouth(self, landmarks: Tensor) -> Tensor | None:
        """Return pixel weights (B, T, 1, h, w): 1 far from the lips, `mouth_weight` at them.

        The transition is a Gaussian of 15 px at 128.
        """
        if self.training.mouth_weight <= 1:
            return None
        return 1 + (self.training.mouth_weight - 1) * self._near(landmarks[:, :, 48:], 0.12)

    def _near(self, points: Tensor, width: float) -> Tensor:
        """Return a Gaussian (B, T, 1, h, w) about the middle of points. width: crop sides."""
        size, cut = self.training.model.crop.size, self.model.mouth_region.crop
        grid = cut(base_grid(size, size).permute(2, 0, 1)[None]).to(self.device) / 2 + 0.5
        centre = points.mean(2)[..., None, None]
        distance = (grid[None] - centre).square().sum(2, keepdim=True)
        return torch.exp(-0.5 * distance / width**2)

    # --- validation -----------------------------------------------------------------------------

    def _held_out(self) -> Iterator[tuple[ClipInfo, Tensor, Tensor, Portrait, Tensor]]:
        """Yield clip, real frames and landmarks, portrait (first frame), speech (1, T, ...)."""
        for clip in self.held_out:
            rows = slice(clip.start, clip.start + clip.frames)
            real = video.to_tensor(np.array(self.cache.frames[rows]))
            landmarks = torch.from_numpy(self.cache.landmarks[rows].copy())
            mesh = torch.from_numpy(self.cache.mesh[clip.start : clip.start + 1].copy())
            portrait = Portrait(real[:1], landmarks[:1], mesh).to(self.device)
            speech = clip_speech(self.cache, clip, self.training.model.speech)[None].to(self.device)
            yield clip, real, landmarks, portrait, speech

    def _held_out_clips(
        self,
    ) -> Iterator[tuple[ClipInfo, Tensor, Tensor, dict[str, Generated]]]:
        for clip, real, landmarks, portrait, speech in self._held_out():
            with torch.inference_mode():
                made = self._renditions(portrait, speech, landmarks[None].to(self.device))
            yield clip, real, landmarks, made

    def validate(self, step: int) -> dict[str, float]:
        """Measure pixels and lips of held-out sentences; the identity is the first frame."""
        rows: dict[str, list[float]] = {}
        cut = self.ema.mouth_region.crop
        for _, real, landmarks, renditions in self._held_out_clips():
            still = float((cut(real[:1]) - cut(real)).abs().mean())
            rows.setdefault("still_l1", []).append(still)
            for name, made in renditions.items():
                error = float((cut(made.frames[0].cpu()) - cut(real)).abs().mean())
                rows.setdefault(f"{name}window_l1", []).append(error)
            if (moved := renditions[""].landmarks) is not None:
                own, true = lip_gap(moved[0].cpu()), lip_gap(landmarks)
                rows.setdefault("head_correlation", []).append(correlation(own, true))
                rows.setdefault("head_amplitude", []).append(amplitude_ratio(own, true))
        return {name: float(np.mean(values)) for name, values in rows.items()}

    def sheet(self) -> Picture | None:
        """Return every fourth frame of three held-out clips, real above generated."""
        rows, labels = [], []
        for clip, real, _, renditions in islice(self._held_out_clips(), 3):
            pictures = {"real": real}
            for name, made in renditions.items():
                pictures[f"{name}generated"] = made.frames[0].cpu()
            for label, frames in pictures.items():
                rows.append(list(video.to_uint8(frames[12:60:4])))
                labels.append(f"{clip.key} {label}")
        return video.contact_sheet(rows, labels) if rows else None

    def export(self, path: Path, step: int, measures: dict[str, float]) -> None:
        """Write the averaged weights, described in their header."""
        speakers = speakers_of(self.clips)
        silent = sum(c.silent for c in self.clips)
        many = f"{len(speakers)} speakers" if len(speakers) > 1 else "one speaker"
        clips = len(self.clips) - silent
        data = f"{titles(self.clips)}: {clips} clips of {many} ({people(speakers)})"
        if silent:
            data += f"; {silent} synthetic portraits (SFHQ, MIT) in silence"
        splits = sorted({c.split for c in self.clips})
        extra = {"steps": step, "splits": splits, **self._facts()}
        terms = licence(self.clips)
        weights.save(
            path, self._finished(), training_data=data, licence=terms, metrics=measures, extra=extra
        )

    def _finished(self) -> nn.Module:
        """Return the averaged model to write, with the parts that are fitted after training."""
        model: nn.Module = self.ema
        return model


def lip_gap(landmarks: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the inner lips' aperture (T,) of landmarks (T, 68, 2), in their unit."""
    return points.lip_gap(landmarks).double().cpu().numpy()


def _with_steps(training: T, clips: int) -> T:
    """Return the training with epochs of stages converted to steps of this corpus."""
    stages = tuple(
        replace(s, steps=-(-s.epochs * clips // s.batch)) if s.steps == 0 else s
        for s in training.stages
    )
    return replace(training, stages=stages)


def _set_rate(optimizer: torch.optim.Optimizer, stage: Stage, local: int, factor: float) -> None:
    """Set the learning rate: constant as in the papers, or 5 % warm-up and a cosine to 2 %."""
    rate = stage.lr * factor
    if stage.schedule == "cosine":
        part = (local + 1) / stage.steps
        rate *= min(1.0, part / 0.05) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part)))
    for group in optimizer.param_groups:
        group["lr"] = rate


@contextmanager
def _frozen(*discriminators: nn.Module) -> Iterator[None]:
    """Freeze discriminators: gradients pass through, but parameters and statistics stay."""
    for discriminator in discriminators:
        discriminator.requires_grad_(False).eval()
    yield
    for discriminator in discriminators:
        discriminator.requires_grad_(True)
