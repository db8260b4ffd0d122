"""Training of the audio-visual embedding that measures synchrony: contrastive, on real clips only.

Every window of sound is matched with all pictures of the batch, and the other way round. Most of
them are of the same clip, so speaker, room and loudness do not help. The training uses the judge's
half of the sentences. No generator is trained by this embedding.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talkingface import video
from talkingface.audio import FPS, SAMPLES_PER_FRAME, frame_windows
from talkingface.data.augment import AugmentConfig, augment_faces, augment_speech
from talkingface.data.dataset import Cache, ClipInfo, speakers_of
from talkingface.data.provenance import people, titles
from talkingface.errors import BadShard
from talkingface.losses import info_nce
from talkingface.metrics import sync as metric
from talkingface.models.lipreader import MouthSpec, mouth_centres
from talkingface.models.measures.sync import SyncConfig, SyncNet, mouth_windows, smooth
from talkingface.training.loop import TrainingPrecision, autocast
from talkingface.training.network import NetworkRecipe, accuracy_of_nearest
from talkingface.training.reading import HALVES, CorpusHalf, in_half
from talkingface.training.settings import require_positive

LEAD = 8  # frames before the first word and after the last: lips open before the sound
NEAR = 0.625  # of the picture's side: what is cut around a mouth before its box is moved and scaled


@dataclass(frozen=True)
class SyncTraining:
    """Settings of `talkingface train sync`.

    clips, windows: of a batch, so many windows of each clip; apart: frames between them. balance: a
    speaker's weight is (clips) ** balance. augment: its shift must be 0, since the embedding learns
    the offset; its geometry is strong, since a box 4 px off must not matter.
    """

    model: SyncConfig
    corpus_half: CorpusHalf = "second"
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

    def __post_init__(self) -> None:
        require_positive(self, "clips", "windows", "apart")


@dataclass(frozen=True)
class SyncBatch:
    """N matching windows of mouths and speech.

    mouths: (N, frames, C, h, w). speech: (N, hops, coefficients). clip: (N,), its number. frame:
    (N,), the middle frame in the clip.
    """

    mouths: Tensor
    speech: Tensor
    clip: Tensor
    frame: Tensor

    def too_near(self, apart: int) -> Tensor:
        """Return (N, N) bool: windows of one clip less than `apart` frames from each other."""
        same = self.clip[:, None] == self.clip
        near: Tensor = same & ((self.frame[:, None] - self.frame).abs() < apart)
        return near


def window_places(clip: ClipInfo, training: SyncTraining, rng: np.random.Generator) -> list[int]:
    """Choose the middle frames of a clip's windows, `apart` from each other, within its speech.

    A clip that is too short for as many gives some twice.
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
    """Crop the picture around the mouth to NEAR of its side, which saves time.

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
    """Cut the windows around these frames of a clip, with one random change for all of them.

    Returns mouths (W, frames, C, h, w) and speech (W, hops, coefficients).
    """
    config, (first, last) = training.model, (places[0], places[-1])
    low, high = first - config.around, last + config.around + 1
    points = torch.from_numpy(cache.landmarks[clip.start : clip.start + clip.frames].copy())
    box = smooth(points[None])[0][low:high].numpy()
    faces, box = near_mouth(cache.frames[clip.start + low : clip.start + high], box)
    faces, box = augment_faces(faces, box, rng, training.augment)
    larger = cache.frames.shape[1] / faces.shape[1]
    same = replace(config, mouth=scaled(config.mouth, larger))
    mouths = mouth_windows(video.to_tensor(faces), torch.from_numpy(box), same)
    begin = first * SAMPLES_PER_FRAME + config.speech.first_sample
    count = (last - first) * SAMPLES_PER_FRAME + config.speech.samples
    hops = augment_speech(cache.samples(clip, begin, count), config.speech, rng, training.augment)
    speech = frame_windows(hops, config.speech)
    rows = torch.tensor(places) - first
    return mouths[rows], speech[rows]


def scaled(mouth: MouthSpec, factor: float) -> MouthSpec:
    """Return a box `factor` times as large, sampled at as many pixels."""
    width, above, below = (factor * v for v in (mouth.half_width, mouth.above, mouth.below))
    return replace(mouth, half_width=width, above=above, below=below)


class SyncRecipe(NetworkRecipe[SyncTraining, SyncBatch]):
    """The recipe of the embedding: InfoNCE both ways, half a cosine."""

    name, needed = "net", ("clips", "_shares")
    network: SyncNet

    def _choose_data(self) -> None:
        t = self.training
        spoken = [c for c in self.cache.split("train") if not c.silent]
        halves = in_half(spoken, t.corpus_half)
        self.clips = [c for c in halves if c.frames >= t.model.frames + t.apart]
        if not self.clips:
            raise BadShard(
                f"no clip to learn synchrony from among {len(spoken)} that speak in the split "
                "train: prepare more speech"
            )
        counts = Counter(c.speaker for c in self.clips)
        shares = np.array([counts[c.speaker] ** (t.balance - 1.0) for c in self.clips])
        self._shares = shares / shares.sum()

    def _build(self) -> SyncNet:
        net = SyncNet(self.training.model)
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return net

    def _batch(self, number: int) -> SyncBatch:
        """Return a batch of random clips, windows and changes."""
        t = self.training
        rng = np.random.default_rng((t.seed, number))
        few = len(self.clips) < t.clips
        chosen = rng.choice(len(self.clips), t.clips, replace=few, p=self._shares)
        mouths, speech, frames = [], [], []
        for row in chosen:
            places = window_places(self.clips[row], t, rng)
            pictures, sound = cut_windows(self.cache, self.clips[row], places, t, rng)
            mouths.append(pictures)
            speech.append(sound)
            frames += places
        clips = torch.from_numpy(chosen).repeat_interleave(t.windows)
        return SyncBatch(torch.cat(mouths), torch.cat(speech), clips, torch.tensor(frames))

    def _loss(self, batch: SyncBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return InfoNCE; top1: share of pictures whose own sound is the nearest of all."""
        t = self.training
        with autocast(t.precision, self.device):
            sights = self.network.encode_video(batch.mouths.to(self.device))
            sounds = self.network.encode_audio(batch.speech.to(self.device))
        loss = info_nce(sights, sounds, t.temperature, batch.too_near(t.apart).to(self.device))
        return loss, {"top1": accuracy_of_nearest(sights @ sounds.T)}

    def _rate(self, step: int) -> float:
        return self.training.rate * schedule(self.training, step)

    def validate(self, step: int) -> dict[str, float]:
        """Return `accuracy` on the held-out sentences."""
        return accuracy(self.network, self.cache, self.cache.split("val"))

    def _description(self) -> tuple[str, list[ClipInfo]]:
        return (
            f"{titles(self.clips)}: {len(self.clips)} clips of {people(speakers_of(self.clips))}, "
            f"{HALVES[self.training.corpus_half]} of the training sentences"
        ), self.clips

    def _facts(self) -> dict[str, Any]:
        return {"half": self.training.corpus_half, "speakers": speakers_of(self.clips)}


def schedule(training: SyncTraining, step: int) -> float:
    """Return the learning rate's share of its peak: linear warm-up, half a cosine to 0."""
    up = max(1.0, training.warm_up * training.steps)
    if step < up:
        return (step + 1) / (up + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - up) / max(1.0, training.steps - up)))


def accuracy(net: SyncNet, cache: Cache, clips: list[ClipInfo]) -> dict[str, float]:
    """Measure an embedding on real clips with their own sound; {} for no clips.

    in_sync: share of clips whose offset is at most one frame; confidence: its mean; found: share of
    windows whose own sound is the nearest of the clip's (`metrics.sync.retrieval`).
    """
    training, size = net.training, cache.frames.shape[1]
    net.eval()
    measures, found = [], []
    for clip in clips:
        rows = slice(clip.start, clip.start + clip.frames)
        sights = metric.embed_video(net, np.array(cache.frames[rows]), cache.landmarks[rows] * size)
        samples = cache.samples(clip, 0, clip.frames * SAMPLES_PER_FRAME)
        sounds = metric.embed_sound(net, samples, clip.frames)
        around = net.config.around
        measures.append(metric.summarise(metric.offset_curve(sights, sounds, around)))
        found.append(metric.retrieval(sights, sounds, around))
    net.train(training)
    if not clips:
        return {}
    return {
        "in_sync": float(np.mean([abs(m.offset) <= 1 for m in measures])),
        "confidence": float(np.mean([m.confidence for m in measures])),
        "found": float(np.mean(found)),
    }
