"""Each paper's training step, on one screen: forward once, each critic on `fake.detach()`, one dict
of named losses, one dict of weights, total = their dot product (Eq. 5); a missing key ablates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface import video, weights
from talkingface.contract import INNER_BOTTOM, INNER_TOP, Generated, Portrait
from talkingface.data.augment import AugmentConfig
from talkingface.data.dataset import Batch, Cache, ClipInfo, SampleConfig, clip_speech, draw_batch
from talkingface.errors import BadRequest
from talkingface.losses import (
    AdversarialForm,
    LipReadingForm,
    critic_loss,
    generator_loss,
    gradient_loss,
    landmark_loss,
    lip_reading_critic_loss,
    lip_reading_generator_loss,
    reconstruction_loss,
    total_loss,
)
from talkingface.metrics.lips import amplitude_ratio, correlation
from talkingface.models.blocks import base_grid
from talkingface.models.cran import FLOW_UNIT, SPEAKING, Cran, CranConfig, Identity
from talkingface.models.discriminators import (
    LEAN_FRAME_CRITIC,
    LEAN_VIDEO_CRITIC,
    FrameCritic,
    FrameCriticConfig,
    VideoCritic,
    VideoCriticConfig,
)
from talkingface.models.lipreader import (
    LeanLipReader,
    LipReader,
    PublishedLipReader,
    cut_words,
)
from talkingface.training.loop import Average, average_gradients, clip_gradients, rank

HEARING = ("audio_encoder", "gru", "lip_head", "lip_neutral")
LOOKING_BACK = ("sequential", "natural")  # the schemes that see the frame before
LICENCE = "MIT; trained on GRID (Cooke et al. 2006, CC BY 4.0)"


@dataclass(frozen=True)
class Stage:
    """One part of the curriculum. weights: loss name -> its weight; a missing key is not trained.

    lips (predicted landmarks), pixels (Eq. 1), gradient, image (Eq. 3), video (Eq. 4),
    reading (Eq. 2). real_guide: share of samples whose decoder sees the real lips' motion.
    speech_rate: factor on the learning rate of what hears and moves the lips, once it has learned.
    critic_rate: factor on the critics' (the released code: 5).
    """

    steps: int  # 0: `epochs` passes over the clips instead
    weights: dict[str, float]
    lr: float = 2e-4
    epochs: int = 0
    batch: int = 8
    frames: int = 15
    real_guide: float = 0.0
    speech_rate: float = 1.0
    critic_rate: float = 1.0
    pictures: bool = True
    schedule: Literal["constant", "cosine"] = "constant"


@dataclass(frozen=True)
class CranTraining:
    """Everything that `talkingface train cran` needs beside the data."""

    model: CranConfig
    stages: tuple[Stage, ...]
    betas: tuple[float, float] = (0.5, 0.999)
    decay: float = 0.0
    average: float = 0.999
    mouth_weight: float = 1.0  # how much more a pixel at the mouth counts than one far off
    balance: float = 0.5
    silent: float = 0.1
    puppets: float = 0.0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    teacher_forcing: float = 0.5
    image_critic: FrameCriticConfig = LEAN_FRAME_CRITIC
    video_critic: VideoCriticConfig = LEAN_VIDEO_CRITIC
    form: AdversarialForm = "nonsaturating"
    reading: LipReadingForm = "frozen"
    precision: Literal["float32", "bfloat16"] = "bfloat16"


class CranRecipe:
    """Song et al. 2019, Sec. 3.3 and 4.2: reconstruction first, then with the three critics."""

    def __init__(
        self,
        training: CranTraining,
        cache: Cache,
        splits: tuple[str, ...] = ("train",),
        device: torch.device | str = "cpu",
        reader: Path | None = None,
        init: Path | None = None,
        seed: int = 0,
    ) -> None:
        self.training, self.cache, self.device, self.seed = (
            training,
            cache,
            torch.device(device),
            seed,
        )
        self.clips = cache.split(*splits)
        self.training = training = _counted(training, sum(not c.silent for c in self.clips))
        self.held_out = [c for c in cache.split("val") if not c.silent][:12]
        self.steps = sum(stage.steps for stage in training.stages)
        torch.manual_seed(seed)
        self.model = Cran(training.model)
        self._set_speech_statistics()
        if init is not None:
            self.model.load_state_dict(weights.load(init).state_dict())
        self.ema = Cran(training.model)
        self.image_critic = FrameCritic(training.image_critic)
        self.video_critic = VideoCritic(training.video_critic)
        self.reader = _reader(reader)
        if reader is None and any("reading" in s.weights for s in training.stages):
            raise BadRequest(
                "this training has a lip-reading critic (Eq. 2), which must be trained first: "
                "`talkingface train lipreader`, then give its weights with --reader, "
                "or leave it out with --without reading"
            )
        self.modules: dict[str, nn.Module] = {
            "model": self.model,
            "ema": self.ema,
            "image_critic": self.image_critic,
            "video_critic": self.video_critic,
            "reader": self.reader,
        }
        for module in self.modules.values():
            module.to(self.device)
        for module in (self.model, self.ema, self.image_critic):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = Average(self.model, self.ema, training.average)
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.AdamW(
                _groups(self.modules[name]), betas=training.betas, weight_decay=training.decay
            )
            for name in ("model", "image_critic", "video_critic", "reader")
        }

    def _set_speech_statistics(self) -> None:
        """Mean and standard deviation of the training speech, kept in the weights."""
        spec = self.training.model.speech
        speaking = [c for c in self.clips if not c.silent]
        chosen = speaking[:: max(1, len(speaking) // 200)]
        hops = torch.cat([clip_speech(self.cache, c, spec)[:, spec.hops // 2] for c in chosen])
        self.model.speech_mean.copy_(hops.mean(0))
        self.model.speech_std.copy_(hops.std(0))

    # --- one step -------------------------------------------------------------------------------

    def stage(self, step: int) -> tuple[Stage, int]:
        """The stage that this step belongs to, and its step within the stage."""
        for stage in self.training.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        raise IndexError(f"step beyond the last stage by {step}")

    def batch(self, step: int) -> Batch:
        """See `loop.Recipe`."""
        stage, _ = self.stage(step)
        t = self.training
        config = SampleConfig(
            batch=stage.batch,
            frames=stage.frames,
            balance=t.balance,
            silent=t.silent,
            pictures=stage.pictures,
            puppets=t.puppets if stage.pictures else 0.0,
            augment=t.augment,
        )
        return draw_batch(self.cache, self.clips, t.model.speech, config, (self.seed, step, rank()))

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """Eq. 5: L = L_rec + λ_I L_I + λ_V L_V + λ_l L_l, then each critic on the same frames."""
        stage, local = self.stage(step)
        batch = batch.to(self.device)
        for name, optimizer in self.optimizers.items():
            _set_rate(optimizer, stage, local, 1.0 if name == "model" else stage.critic_rate)
        self.model.train()
        with self._precision():
            made, real, terms = self._generate(batch, stage)
            with _held_still(self.image_critic, self.video_critic, self.reader):
                terms |= self._adversarial_terms(batch, made, stage)
        self._learn("model", total_loss(terms, stage.weights))
        self.average.update(step)
        if made is not None:
            terms |= self._critics(batch, made.detach(), real, stage)
        return {name: float(value.detach()) for name, value in terms.items()}

    def _generate(
        self, batch: Batch, stage: Stage
    ) -> tuple[Tensor | None, Tensor, dict[str, Tensor]]:
        """The frames (decoded window only), the real ones, and the terms that need no critic."""
        if not stage.pictures:
            landmarks = self.model.speak(self._faceless(batch.portrait), batch.speech)
            return None, batch.frames, {"lips": self._lip_loss(landmarks, batch)}
        identity = self.model.encode(batch.portrait)
        guide, teacher = self._guide(identity, batch, stage), self._teacher(batch)
        generated, _ = self.model.draw_window(identity, batch.speech, None, guide, teacher)
        made, real = generated.frames, self._cut(batch.frames)
        weight = self._mouth(batch.landmarks)
        terms = {"pixels": reconstruction_loss(made, real, weight)}
        if "gradient" in stage.weights:
            terms["gradient"] = gradient_loss(made, real, weight)
        if "lips" in stage.weights and generated.landmarks is not None:
            terms["lips"] = self._lip_loss(generated.landmarks, batch)
        return made, real, terms

    def _adversarial_terms(
        self, batch: Batch, made: Tensor | None, stage: Stage
    ) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if made is None:
            return terms
        if "image" in stage.weights:
            terms["image"] = generator_loss(self.image_critic(made), self.training.form)
        if "video" in stage.weights:
            terms["video"] = generator_loss(self.video_critic(made), self.training.form)
        if "reading" in stage.weights:
            terms["reading"] = lip_reading_generator_loss(self._read(made, batch), batch.word)
        return terms

    def _critics(self, batch: Batch, fake: Tensor, real: Tensor, stage: Stage) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        with self._precision():
            for name, critic in (("image", self.image_critic), ("video", self.video_critic)):
                if name in stage.weights:
                    critic.train()
                    loss = critic_loss(critic(real), critic(fake), self.training.form)
                    terms[f"critic/{name}"] = loss
            if "reading" in stage.weights and self.training.reading != "frozen":
                self.reader.train()
                terms["critic/reading"] = lip_reading_critic_loss(
                    self._read(real, batch),
                    self._read(fake, batch),
                    batch.word,
                    self.training.reading,
                )
        for name, loss in terms.items():
            self._learn(
                {"image": "image_critic", "video": "video_critic"}.get(name[7:], "reader"), loss
            )
        return terms

    def _learn(self, name: str, loss: Tensor) -> None:
        parameters = list(self.modules[name].parameters())
        self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(parameters)
        clip_gradients(parameters)
        self.optimizers[name].step()

    # --- the parts of a step --------------------------------------------------------------------

    def _precision(self) -> torch.autocast:
        on = self.training.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on)

    def _faceless(self, portrait: Portrait) -> Identity:
        features = torch.zeros(len(portrait.landmarks), self.training.model.image_features)
        return Identity(portrait, features.to(self.device), ())

    def _lip_loss(self, landmarks: Tensor, batch: Batch) -> Tensor:
        points = list(SPEAKING)
        scale = torch.ones(len(points), 1, device=self.device)
        scale[:9] = 0.5  # the jaw is found less exactly than the lips
        error = (landmarks - batch.landmarks)[:, :, points] / FLOW_UNIT * scale
        return landmark_loss(error, torch.zeros_like(error), velocity=2.0)

    def _guide(self, identity: Identity, batch: Batch, stage: Stage) -> Tensor | None:
        """Which lips the decoder is shown: the real ones for a share of samples, else its own."""
        if self.training.model.lips != "guide" or stage.real_guide <= 0:
            return None
        if self.training.model.scheme in LOOKING_BACK:  # what they hear depends on what they drew
            return batch.landmarks if float(torch.rand(())) < stage.real_guide else None
        with torch.no_grad():
            own = self.model.speak(identity, batch.speech)
        real = torch.rand(len(own), 1, 1, 1, device=self.device) < stage.real_guide
        jitter = 0.003 * torch.randn(len(own), 1, 68, 2, device=self.device)
        return torch.where(real, batch.landmarks + jitter, own)

    def _teacher(self, batch: Batch) -> Tensor | None:
        """The real frames before, for schemes that look back; else their own, as at test time."""
        if self.training.model.scheme not in LOOKING_BACK:
            return None
        if float(torch.rand(())) >= self.training.teacher_forcing:
            return None
        return torch.cat([batch.before[:, None], batch.frames[:, :-1]], dim=1)

    def _cut(self, frames: Tensor) -> Tensor:
        top, bottom, left, right = self.training.model.window
        return frames[..., top:bottom, left:right]

    def _mouth(self, landmarks: Tensor) -> Tensor | None:
        """(B, T, 1, h, w): 1 far from the lips, `mouth_weight` at them (Gaussian, 15 px at 128)."""
        if self.training.mouth_weight <= 1:
            return None
        size = self.training.model.crop.size
        grid = self._cut(base_grid(size, size).permute(2, 0, 1)[None]).to(self.device) / 2 + 0.5
        centre = landmarks[:, :, 48:].mean(2)[..., None, None]
        distance = (grid[None] - centre).square().sum(2, keepdim=True)
        return 1 + (self.training.mouth_weight - 1) * torch.exp(-0.5 * distance / 0.12**2)

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

    # --- looking at it --------------------------------------------------------------------------

    def _held_out_clips(self) -> Iterator[tuple[ClipInfo, Tensor, Tensor, Generated]]:
        for clip in self.held_out:
            rows = slice(clip.start, clip.start + clip.frames)
            real = video.to_tensor(np.array(self.cache.frames[rows]))
            landmarks = torch.from_numpy(self.cache.landmarks[rows].copy())
            portrait = Portrait(real[:1], landmarks[:1]).to(self.device)
            speech = clip_speech(self.cache, clip, self.training.model.speech)[None].to(self.device)
            with torch.inference_mode():
                made, _ = self.ema(self.ema.encode(portrait), speech)
            yield clip, real, landmarks, made

    def validate(self, step: int) -> dict[str, float]:
        """Held-out sentences, identity = first frame: pixels against still, and the lip head."""
        rows: dict[str, list[float]] = {"window_l1": [], "still_l1": []}
        for _, real, landmarks, made in self._held_out_clips():
            frames = made.frames[0].cpu()
            rows["window_l1"].append(float((self._cut(frames) - self._cut(real)).abs().mean()))
            rows["still_l1"].append(float((self._cut(real[:1]) - self._cut(real)).abs().mean()))
            if made.landmarks is not None:
                own, true = _gap(made.landmarks[0].cpu()), _gap(landmarks)
                rows.setdefault("head_correlation", []).append(correlation(own, true))
                rows.setdefault("head_amplitude", []).append(amplitude_ratio(own, true))
        return {name: float(np.mean(values)) for name, values in rows.items()}

    def sheet(self) -> video.Picture | None:
        """Every fourth frame of three held-out clips, real above generated."""
        rows, labels = [], []
        for clip, real, _, made in islice(self._held_out_clips(), 3):
            for frames, label in ((real, "real"), (made.frames[0].cpu(), "generated")):
                rows.append(list(video.to_uint8(frames[12:60:4])))
                labels.append(f"{clip.key} {label}")
        return video.contact_sheet(rows, labels) if rows else None

    def export(self, path: Path, step: int, measures: dict[str, float]) -> None:
        """The averaged weights, with what they are in the header."""
        speakers = sorted({c.speaker for c in self.clips if not c.silent})
        silent = sum(c.silent for c in self.clips)
        data = (
            f"GRID: {sum(not c.silent for c in self.clips)} clips of {len(speakers)} speakers "
            f"({' '.join(speakers)}); {silent} synthetic portraits (SFHQ, MIT) in silence"
        )
        extra = {"steps": step, "splits": sorted({c.split for c in self.clips})}
        weights.save(
            path, self.ema, training_data=data, licence=LICENCE, metrics=measures, extra=extra
        )


def _counted(training: CranTraining, clips: int) -> CranTraining:
    """Stages given in epochs, in steps of this corpus."""
    stages = tuple(
        replace(s, steps=-(-s.epochs * clips // s.batch)) if s.steps == 0 else s
        for s in training.stages
    )
    return replace(training, stages=stages)


def _reader(path: Path | None) -> LipReader:
    """The trained lip reader of a file; without one, an untrained one that no loss asks."""
    reader = LeanLipReader() if path is None else weights.load(path)
    if not isinstance(reader, LeanLipReader | PublishedLipReader):
        raise BadRequest(f"{path} holds a {type(reader).__name__}, not a lip reader")
    return reader.requires_grad_(True)


def _gap(landmarks: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return (landmarks[:, INNER_BOTTOM, 1] - landmarks[:, INNER_TOP, 1]).double().numpy()


def _set_rate(optimizer: torch.optim.Optimizer, stage: Stage, local: int, factor: float) -> None:
    """Constant as in the paper, or 5 % warm-up and a cosine down to 2 %."""
    rate = stage.lr * factor
    if stage.schedule == "cosine":
        part = (local + 1) / stage.steps
        rate *= min(1.0, part / 0.05) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part)))
    for group in optimizer.param_groups:
        group["lr"] = rate * (stage.speech_rate if group["hears"] else 1.0)


def _groups(module: nn.Module) -> list[dict[str, Any]]:
    """Parameters of what hears (audio encoder, GRU, lip head), and the others."""
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in module.named_parameters():
        groups[isinstance(module, Cran) and name.split(".")[0] in HEARING].append(parameter)
    return [{"params": p, "hears": hears} for hears, p in groups.items() if p]


@contextmanager
def _held_still(*critics: nn.Module) -> Iterator[None]:
    """Gradients pass through the critics, but do not gather in them; norms stand still."""
    for critic in critics:
        critic.requires_grad_(False).eval()
    yield
    for critic in critics:
        critic.requires_grad_(True)
