"""Pre-training of the lip readers (Song et al. 2019, Sec. 4.2): words of real clips, cross-entropy.

Two readers that never share sentences: the trainer's guides a generator (D_l), the judge's scores
it. Which half of the corpus a sentence belongs to is a hash of its clip's name.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface import video, weights
from talkingface.audio import FPS
from talkingface.data.dataset import Cache, ClipInfo
from talkingface.data.provenance import licence, people, titles
from talkingface.errors import BadShard
from talkingface.metrics.lips import reading_accuracy
from talkingface.models.lipreader import (
    GRID_WORDS,
    READERS,
    LipReader,
    MouthSpec,
    ReaderConfig,
    cut_words,
)
from talkingface.picture import Picture
from talkingface.training import parallel
from talkingface.training.loop import one_cycle
from talkingface.training.parallel import WHOLE, Learner, Part, Place
from talkingface.weights import WeightsInfo

Half = Literal["first", "second", "both"]
HALVES = {"both": "all", "first": "the first half", "second": "the second half"}  # in words
AROUND = 3  # frames read beside a word: two of margin, one that its span may be off


@dataclass(frozen=True)
class MouthAugment:
    """How much a word's picture is changed, all its frames alike; 0 switches a part off."""

    shift: float = 4.0  # pixels at 128, each way
    scale: float = 0.12  # of the box, each axis
    mirror: float = 0.5  # probability
    brightness: float = 0.2  # of the range [-1, 1]
    contrast: float = 0.3
    noise: float = 0.03
    frames: int = 1  # that a word may begin and end early or late


NO_AUGMENTATION = MouthAugment(0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class ReadingTraining:
    """Everything that `talkingface train lipreader` needs beside the data."""

    reader: ReaderConfig
    half: Half = "both"
    steps: int = 2400
    batch: int = 32
    rate: float = 2e-3  # at its peak
    warm_up: float = 0.15  # share of the steps
    decay: float = 0.02
    smoothing: float = 0.1
    augment: MouthAugment = MouthAugment()
    seed: int = 0


@dataclass(frozen=True)
class Word:
    """A word of a clip: its number in a vocabulary, and its frames [first, last) in the clip."""

    clip: ClipInfo
    index: int
    first: int
    last: int


@dataclass(frozen=True)
class WordBatch:
    """What a reader takes: mouths (B, W, C, h, w), lengths (B,); and the words (B,)."""

    mouths: Tensor
    lengths: Tensor
    words: Tensor


def words_of(clip: ClipInfo, known: Mapping[str, int]) -> list[Word]:
    """The words of a clip that are known, with whole frames for their times.

    known: word -> its number, as `Cache.word_index`.
    """
    spans = [(w, round(a * FPS), round(b * FPS)) for w, a, b in clip.words if w in known]
    return [
        Word(clip, known[w], a, min(max(b, a + 1), clip.frames))
        for w, a, b in spans
        if a < clip.frames
    ]


def vocabulary_of(info: WeightsInfo) -> tuple[str, ...]:
    """The words that a lip reader's weights tell apart, in order: GRID's, if they do not say."""
    return tuple(info.extra.get("vocabulary", GRID_WORDS))


def teachers_of(info: WeightsInfo) -> frozenset[str]:
    """sha256 of every lip reader that these weights, or those they began with, learned from."""
    named = (info.extra.get("reader", ""), *info.extra.get("taught_by", ()))
    return frozenset(named) - {""}


def half_of(clip: ClipInfo) -> Half:
    """Which half of the corpus a clip is in: which of the two readers may learn from it."""
    odd = hashlib.sha256(clip.key.encode()).digest()[0] & 1
    return "second" if odd else "first"


def build_reader(config: ReaderConfig) -> LipReader:
    """A fresh reader of this config's architecture."""
    for network, kind in READERS.values():
        if isinstance(config, kind):
            return network(config)  # type: ignore[arg-type]
    raise TypeError(f"no lip reader has a config of {type(config).__name__}")


def cut_word(
    cache: Cache,
    word: Word,
    mouth: MouthSpec,
    augment: MouthAugment = NO_AUGMENTATION,
    rng: np.random.Generator | None = None,
) -> Tensor:
    """The mouth while one word is spoken: (W, C, h, w) in [-1, 1], W its frames and the margins.

    With an rng, changed as `augment` says: the box is moved and scaled, the picture is mirrored,
    relit and gets noise, the word begins and ends a frame off.
    """
    begin, end = max(0, word.first - AROUND), min(word.clip.frames, word.last + AROUND)
    rows = slice(word.clip.start + begin, word.clip.start + end)
    frames = video.to_tensor(cache.frames[rows].copy())
    landmarks = torch.from_numpy(cache.landmarks[rows].copy())
    first, last = word.first - begin, word.last - begin
    if rng is not None:
        off = rng.integers(-augment.frames, augment.frames + 1, 2)
        first = max(0, min(first + int(off[0]), len(frames) - 1))
        last = max(first + 1, last + int(off[1]))
        mouth = _scaled(mouth, *np.exp(augment.scale * rng.uniform(-1, 1, 2)))
        landmarks += torch.from_numpy(augment.shift / 128 * rng.uniform(-1, 1, 2)).float()
    mouths, _ = cut_words(frames[None], landmarks[None], torch.tensor([[first, last]]), mouth)
    return mouths[0] if rng is None else _changed(mouths[0], augment, rng)


def _scaled(mouth: MouthSpec, across: float, down: float) -> MouthSpec:
    """A larger or smaller box around the same middle, sampled at as many pixels."""
    middle, half = (mouth.below - mouth.above) / 2, (mouth.below + mouth.above) / 2 * down
    return replace(
        mouth, half_width=mouth.half_width * across, above=half - middle, below=half + middle
    )


def _changed(mouths: Tensor, augment: MouthAugment, rng: np.random.Generator) -> Tensor:
    if rng.random() < augment.mirror:
        mouths = mouths.flip(-1)
    mean = mouths.mean()
    mouths = (mouths - mean) * math.exp(augment.contrast * rng.uniform(-1, 1)) + mean
    mouths = mouths + augment.brightness * rng.uniform(-1, 1)
    grain = rng.standard_normal(tuple(mouths.shape), dtype=np.float32)
    return (mouths + augment.noise * torch.from_numpy(grain)).clamp(-1, 1)


def collate(mouths: list[Tensor], words: list[int]) -> WordBatch:
    """Words of different lengths as one batch, zero beyond each one's end."""
    padded = nn.utils.rnn.pad_sequence(mouths, batch_first=True)
    return WordBatch(padded, torch.tensor([len(m) for m in mouths]), torch.tensor(words))


def word_logits(reader: LipReader, frames: Tensor, landmarks: Tensor, words: list[Word]) -> Tensor:
    """What a reader makes of each word of one clip: (words, as many as it knows).

    frames: (T, 3, S, S) in [-1, 1]; landmarks: (T, 68, 2) in [0, 1] of the crop, for the box.
    """
    spans = torch.tensor([(w.first, w.last) for w in words], device=frames.device)
    many = len(words)
    mouths, lengths = cut_words(
        frames[None].expand(many, -1, -1, -1, -1),
        landmarks[None].expand(many, -1, -1, -1),
        spans,
        reader.config.mouth,
    )
    with torch.inference_mode():
        logits: Tensor = reader(mouths, lengths)
    return logits


class ReadingRecipe:
    """See `loop.Recipe`: AdamW, one cycle of the learning rate, label smoothing."""

    def __init__(
        self, training: ReadingTraining, cache: Cache, device: torch.device | str = "cpu"
    ) -> None:
        self.training, self.cache, self.device = training, cache, torch.device(device)
        self.steps = training.steps
        clips = [c for c in cache.split("train") if training.half in ("both", half_of(c))]
        known = cache.word_index
        self.words = [w for clip in clips for w in words_of(clip, known)]
        if not self.words:
            raise BadShard(
                f"no word with its times among {len(clips)} clips of the split train: nothing to "
                "learn reading from; prepare a corpus that has them"
            )
        self.held_out = [w for clip in cache.split("val") for w in words_of(clip, known)]
        torch.manual_seed(training.seed)
        config = replace(training.reader, words=len(known))
        self.reader = build_reader(config).to(self.device)
        self.modules: dict[str, nn.Module] = {"reader": self.reader}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "reader": torch.optim.AdamW(self.reader.parameters(), weight_decay=training.decay)
        }
        self.learner = Learner([self.reader], [self.optimizers["reader"]], most=5.0)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("cache", "training", "words")}

    def batch(self, step: int, place: Place | None = None) -> WordBatch:
        """Every word once per epoch, in an order and with changes that (seed, step) decide."""
        t = self.training
        place_in_all = (place or parallel.place()).turn(step)
        per_epoch = max(1, len(self.words) // t.batch)
        epoch, row = divmod(place_in_all, per_epoch)
        order = np.random.default_rng((t.seed, 0, epoch)).permutation(len(self.words))
        chosen = [self.words[i] for i in order[row * t.batch : (row + 1) * t.batch]]
        rng = np.random.default_rng((t.seed, 1, place_in_all))
        mouths = [cut_word(self.cache, w, t.reader.mouth, t.augment, rng) for w in chosen]
        return collate(mouths, [w.index for w in chosen])

    def step(self, batch: WordBatch, step: int, part: Part = WHOLE) -> dict[str, float]:
        """Cross-entropy of the word, labels smoothed."""
        for group in self.optimizers["reader"].param_groups:
            group["lr"] = one_cycle(self.training, step)
        self.reader.train()
        logits = self.reader(batch.mouths.to(self.device), batch.lengths.to(self.device))
        words = batch.words.to(self.device)
        loss = F.cross_entropy(logits, words, label_smoothing=self.training.smoothing)
        self.learner.learn(loss, part)
        right = (logits.argmax(1) == words).float().mean()
        return {"loss": float(loss.detach()), "top1": float(right)}

    def validate(self, step: int) -> dict[str, float]:
        """Words of held-out sentences: share read rightly, first guess and first five."""
        return read_accuracy(self.reader, self.cache, self.held_out)

    def sheet(self) -> Picture | None:
        """Nothing to look at."""
        return None

    def export(self, path: Path, step: int, measures: dict[str, float]) -> None:
        """The weights, with what they are in the header."""
        clips = [w.clip for w in self.words]
        data = (
            f"{titles(clips)}: {len(clips)} words of {len({c.key for c in clips})} clips of "
            f"{people(c.speaker for c in clips)}, {HALVES[self.training.half]} of the training "
            "sentences"
        )
        extra: dict[str, Any] = {"steps": step, "half": self.training.half}
        extra["seed"] = self.training.seed
        if self.cache.vocabulary != GRID_WORDS:
            extra["vocabulary"] = self.cache.vocabulary
        terms = licence(clips)
        weights.save(
            path, self.reader, training_data=data, licence=terms, metrics=measures, extra=extra
        )


def read_accuracy(reader: LipReader, cache: Cache, words: list[Word]) -> dict[str, float]:
    """Top-1 and top-5 of a reader on real words of a cache, as they are; {} for no words."""
    if not words:
        return {}
    device = next(reader.parameters()).device
    training = reader.training
    reader.eval()
    logits = []
    for begin in range(0, len(words), 64):
        part = words[begin : begin + 64]
        mouths = [cut_word(cache, w, reader.config.mouth) for w in part]
        batch = collate(mouths, [w.index for w in part])
        with torch.inference_mode():
            logits.append(reader(batch.mouths.to(device), batch.lengths.to(device)).cpu())
    reader.train(training)
    guesses, labels = torch.cat(logits).numpy(), np.array([w.index for w in words])
    return {f"top{n}": reading_accuracy(guesses, labels, n) for n in (1, 5)}
