"""Training of the audio-visual embedding that measures synchrony: contrastive, on real clips only.

Every window of sound has to be found among all pictures of the batch and the other way round, most
of them windows of the same clip, so that who speaks, where and how loudly is no help. It learns
from the judge's half of the sentences, and no generator is ever trained by it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from talkingface import video, weights
from talkingface.audio import FPS, SAMPLES_PER_FRAME, frame_windows
from talkingface.data.augment import AugmentConfig, augment_faces, augment_speech
from talkingface.data.dataset import Cache, ClipInfo
from talkingface.data.provenance import licence, people, titles
from talkingface.errors import BadShard
from talkingface.losses import info_nce
from talkingface.metrics import sync as metric
from talkingface.models.lipreader import MouthSpec, mouth_centres
from talkingface.models.sync import SyncConfig, SyncNet, mouth_windows, steady
from talkingface.picture import Picture
from talkingface.training import parallel
from talkingface.training.loop import TrainingPrecision, autocast
from talkingface.training.parallel import WHOLE, Learner, Part, Place
from talkingface.training.reading import Half, half_of

LEAD = 8  # frames before the first word and after the last: lips open before they are heard
NEAR = 0.625  # of the picture's side: what is cut around a mouth before its box is moved and scaled


@dataclass(frozen=True)
class SyncTraining:
    """Everything that `talkingface train sync` needs beside the data.

    clips, windows: of a batch, so many windows of each clip; apart: frames between them. balance: a
    speaker's weight is (clips) ** balance. augment: its shift must be 0, the offset is the lesson;
    its geometry is strong, since a box 4 px off must not matter.
    """

    model: SyncConfig
    half: Half = "second"
    steps: int = 1300
    clips: int = 10
    windows: int = 20
    apart: int = metric.APART
    balance: float = 0.75
    temperature: float = 0.07
    rate: float = 2e-3  # at its peak
    warm_up: float = 0.1  # share of the steps
    decay: float = 0.05
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(geometry=2.0, shift=0.0))
    precision: TrainingPrecision = "auto"
    seed: int = 0


@dataclass(frozen=True)
class SyncBatch:
    """N matching windows: mouths (N, frames, C, h, w), speech (N, hops, coefficients); of which
    clip (N,) and around which of its frames (N,)."""

    mouths: Tensor
    speech: Tensor
    clip: Tensor
    frame: Tensor

    def too_near(self, apart: int) -> Tensor:
        """(N, N) bool: windows of one clip less than `apart` frames from each other."""
        same = self.clip[:, None] == self.clip
        near: Tensor = same & ((self.frame[:, None] - self.frame).abs() < apart)
        return near


def window_places(clip: ClipInfo, training: SyncTraining, rng: np.random.Generator) -> list[int]:
    """The middle frames of a clip's windows in a batch: `apart` from each other, where it speaks.

    A clip with too little room for as many gives some twice.
    """
    around = training.model.around
    low, high = around, clip.frames - around
    if clip.words:
        low = max(low, round(clip.words[0][1] * FPS) - LEAD)
        high = min(high, round(clip.words[-1][2] * FPS) + LEAD)
    places = np.arange(low + int(rng.integers(training.apart)), high, training.apart)
    chosen = rng.choice(places, training.windows, replace=len(places) < training.windows)
    return sorted(chosen.tolist())


def near_mouth(
    frames: NDArray[np.uint8], landmarks: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The part of the picture around the mouth, NEAR of its side: less to change and to convert.

    frames: (T, S, S, 3), landmarks: (T, 68, 2) in [0, 1] of S; the same of the smaller side.
    """
    size = frames.shape[1]
    side = round(NEAR * size)
    middle = mouth_centres(torch.from_numpy(landmarks)).mean(0).numpy() * size
    left, top = np.clip(np.rint(middle - side / 2), 0, size - side).astype(int)
    moved = (landmarks * size - np.array([left, top])) / side
    return frames[:, top : top + side, left : left + side], moved.astype(np.float32)


def cut_windows(
    cache: Cache,
    clip: ClipInfo,
    places: list[int],
    training: SyncTraining,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """What is seen and heard around these frames of a clip, one random change for all of them.

    Returns mouths (W, frames, C, h, w) and speech (W, hops, coefficients).
    """
    config, (first, last) = training.model, (places[0], places[-1])
    low, high = first - config.around, last + config.around + 1
    points = torch.from_numpy(cache.landmarks[clip.start : clip.start + clip.frames].copy())
    box = steady(points[None])[0][low:high].numpy()
    seen, box = near_mouth(cache.frames[clip.start + low : clip.start + high], box)
    seen, box = augment_faces(seen, box, rng, training.augment)
    larger = cache.frames.shape[1] / seen.shape[1]
    same = replace(config, mouth=scaled(config.mouth, larger))
    mouths = mouth_windows(video.to_tensor(seen), torch.from_numpy(box), same)
    begin = first * SAMPLES_PER_FRAME + config.speech.first_sample
    count = (last - first) * SAMPLES_PER_FRAME + config.speech.samples
    hops = augment_speech(cache.samples(clip, begin, count), config.speech, rng, training.augment)
    speech = frame_windows(hops, config.speech)
    rows = torch.tensor(places) - first
    return mouths[rows], speech[rows]


def scaled(mouth: MouthSpec, factor: float) -> MouthSpec:
    """A box `factor` times as large, sampled at as many pixels."""
    width, above, below = (factor * v for v in (mouth.half_width, mouth.above, mouth.below))
    return replace(mouth, half_width=width, above=above, below=below)


class SyncRecipe:
    """See `loop.Recipe`: AdamW, a warm-up and half a cosine, InfoNCE both ways."""

    def __init__(
        self, training: SyncTraining, cache: Cache, device: torch.device | str = "cpu"
    ) -> None:
        self.training, self.cache, self.device = training, cache, torch.device(device)
        self.steps = training.steps
        spoken = [c for c in cache.split("train") if not c.silent]
        halves = [c for c in spoken if training.half in ("both", half_of(c))]
        self.clips = [c for c in halves if c.frames >= training.model.frames + training.apart]
        if not self.clips:
            raise BadShard(
                f"no clip to learn synchrony from among {len(spoken)} that speak in the split "
                "train: prepare more speech"
            )
        counts = Counter(c.speaker for c in self.clips)
        shares = np.array([counts[c.speaker] ** (training.balance - 1.0) for c in self.clips])
        self._shares = shares / shares.sum()
        torch.manual_seed(training.seed)
        self.net = SyncNet(training.model).to(self.device)
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.modules: dict[str, nn.Module] = {"net": self.net}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "net": torch.optim.AdamW(self.net.parameters(), weight_decay=training.decay)
        }
        self.learner = Learner([self.net], [self.optimizers["net"]], most=5.0)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("cache", "training", "clips", "_shares")}

    def batch(self, step: int, place: Place | None = None) -> SyncBatch:
        """Clips, windows and changes that (seed, step) decide."""
        t = self.training
        rng = np.random.default_rng((t.seed, (place or parallel.place()).turn(step)))
        few = len(self.clips) < t.clips
        chosen = rng.choice(len(self.clips), t.clips, replace=few, p=self._shares)
        mouths, speech, frames = [], [], []
        for index in chosen:
            places = window_places(self.clips[index], t, rng)
            seen, heard = cut_windows(self.cache, self.clips[index], places, t, rng)
            mouths.append(seen)
            speech.append(heard)
            frames += places
        clips = torch.from_numpy(chosen).repeat_interleave(t.windows)
        return SyncBatch(torch.cat(mouths), torch.cat(speech), clips, torch.tensor(frames))

    def step(self, batch: SyncBatch, step: int, part: Part = WHOLE) -> dict[str, float]:
        """InfoNCE over the batch; top1: share of pictures whose sound is the nearest of all."""
        t = self.training
        for group in self.optimizers["net"].param_groups:
            group["lr"] = t.rate * schedule(t, step)
        self.net.train()
        with autocast(t.precision, self.device):
            sights = self.net.see(batch.mouths.to(self.device))
            sounds = self.net.hear(batch.speech.to(self.device))
        ignored = batch.too_near(t.apart).to(self.device)
        loss = info_nce(sights, sounds, t.temperature, ignored)
        self.learner.learn(loss, part)
        nearest = (sights @ sounds.T).argmax(1)
        right = (nearest == torch.arange(len(nearest), device=self.device)).float().mean()
        return {"loss": float(loss.detach()), "top1": float(right)}

    def validate(self, step: int) -> dict[str, float]:
        """`accuracy` on the held-out sentences."""
        return accuracy(self.net, self.cache, self.cache.split("val"))

    def sheet(self) -> Picture | None:
        """Nothing to look at."""
        return None

    def export(self, path: Path, step: int, measures: dict[str, float]) -> None:
        """The weights, with what they are in the header."""
        t = self.training
        speakers = sorted({c.speaker for c in self.clips})
        half = {"both": "all", "first": "the first half", "second": "the second half"}[t.half]
        data = (
            f"{titles(self.clips)}: {len(self.clips)} clips of {people(speakers)}, {half} of the "
            "training sentences"
        )
        extra = {"steps": step, "half": t.half, "seed": t.seed, "speakers": speakers}
        terms = licence(self.clips)
        weights.save(
            path, self.net, training_data=data, licence=terms, metrics=measures, extra=extra
        )


def schedule(training: SyncTraining, step: int) -> float:
    """The learning rate's share of its peak: a straight line up, half a cosine down to 0."""
    up = max(1.0, training.warm_up * training.steps)
    if step < up:
        return (step + 1) / (up + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - up) / max(1.0, training.steps - up)))


def accuracy(net: SyncNet, cache: Cache, clips: list[ClipInfo]) -> dict[str, float]:
    """What an embedding makes of real clips, each with its own sound; {} for none.

    in_sync: share of clips whose offset is at most one frame; confidence: its mean; found: share of
    windows whose own sound is the nearest of the clip's (`metrics.sync.retrieval`).
    """
    training, size = net.training, cache.frames.shape[1]
    net.eval()
    measures, found = [], []
    for clip in clips:
        rows = slice(clip.start, clip.start + clip.frames)
        sights = metric.see(net, np.array(cache.frames[rows]), cache.landmarks[rows] * size)
        samples = cache.samples(clip, 0, clip.frames * SAMPLES_PER_FRAME)
        sounds = metric.hear(net, samples, clip.frames)
        around = net.config.around
        measures.append(metric.read(metric.offset_curve(sights, sounds, around)))
        found.append(metric.retrieval(sights, sounds, around))
    net.train(training)
    if not clips:
        return {}
    return {
        "in_sync": float(np.mean([abs(m.offset) <= 1 for m in measures])),
        "confidence": float(np.mean([m.confidence for m in measures])),
        "found": float(np.mean(found)),
    }
