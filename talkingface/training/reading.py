"""Pre-training of the lip readers (Song et al. 2019, Sec. 4.2): words of real clips, cross-entropy.

There are two readers, which never share sentences. The trainer's guides a generator (D_l), the
judge's evaluates it. A hash of a clip's name assigns its sentence to one half of the corpus.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface import video
from talkingface.audio import FPS
from talkingface.data.dataset import Cache, ClipInfo
from talkingface.data.provenance import people, titles
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
from talkingface.training.network import NetworkRecipe
from talkingface.training.settings import require_positive
from talkingface.weights import WeightsInfo

CorpusHalf = Literal["first", "second", "both"]
HALVES = {"both": "all", "first": "the first half", "second": "the second half"}  # in words
AROUND = 3  # frames read beside a word: two of margin, one that its span may be off


@dataclass(frozen=True)
class MouthAugment:
    """Strengths of random changes, equal for all frames of a word; 0 switches one off."""

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
    """Settings of `talkingface train lipreader`."""

    reader: ReaderConfig
    corpus_half: CorpusHalf = "both"
    steps: int = 2400
    batch: int = 32
    rate: float = 2e-3  # at its peak
    warm_up: float = 0.15  # share of the steps
    decay: float = 0.02
    smoothing: float = 0.1
    augment: MouthAugment = MouthAugment()
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(self, "batch")


@dataclass(frozen=True)
class Word:
    """A word of a clip: its number in a vocabulary, and its frames [first, last) in the clip."""

    clip: ClipInfo
    index: int
    first: int
    last: int


@dataclass(frozen=True)
class WordBatch:
    """Input of a reader: mouths (B, W, C, h, w), lengths (B,); and its labels: words (B,)."""

    mouths: Tensor
    lengths: Tensor
    words: Tensor


def words_of(clip: ClipInfo, known: Mapping[str, int]) -> list[Word]:
    """Return the known words of a clip, with times in whole frames.

    known: word -> its number, as `Cache.word_index`.
    """
    spans = [(w, round(a * FPS), round(b * FPS)) for w, a, b in clip.words if w in known]
    return [
        Word(clip, known[w], a, min(max(b, a + 1), clip.frames))
        for w, a, b in spans
        if a < clip.frames
    ]


def vocabulary_of(info: WeightsInfo) -> tuple[str, ...]:
    """Return the vocabulary of a lip reader's weights, in order; GRID's by default."""
    return tuple(info.extra.get("vocabulary", GRID_WORDS))


def teachers_of(info: WeightsInfo) -> frozenset[str]:
    """Return the sha256 of every lip reader that trained these weights or their initial ones."""
    named = (info.extra.get("reader", ""), *info.extra.get("taught_by", ()))
    return frozenset(named) - {""}


def corpus_half_of(clip: ClipInfo) -> CorpusHalf:
    """Return the half of the corpus that a clip belongs to; each reader is trained on one half."""
    odd = hashlib.sha256(clip.key.encode()).digest()[0] & 1
    return "second" if odd else "first"


def in_half(clips: Sequence[ClipInfo], half: CorpusHalf) -> list[ClipInfo]:
    """Return the clips of this half of the corpus."""
    return [clip for clip in clips if half in ("both", corpus_half_of(clip))]


def build_reader(config: ReaderConfig) -> LipReader:
    """Return an untrained reader of this config's architecture."""
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
    """Crop the mouth during one word: (W, C, h, w) in [-1, 1], W its frames and the margins.

    With an rng, `augment` applies: the box is moved and scaled, the picture is mirrored, relit and
    gets noise, the word begins and ends a frame off.
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
    """Return a larger or smaller box around the same middle, sampled at as many pixels."""
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
    """Pad words of different lengths with zeros to one batch."""
    padded = nn.utils.rnn.pad_sequence(mouths, batch_first=True)
    return WordBatch(padded, torch.tensor([len(m) for m in mouths]), torch.tensor(words))


def word_logits(reader: LipReader, frames: Tensor, landmarks: Tensor, words: list[Word]) -> Tensor:
    """Return a reader's logits of each word of one clip: (words, vocabulary).

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


class ReadingRecipe(NetworkRecipe[ReadingTraining, WordBatch]):
    """The recipe of a lip reader: cross-entropy of words, labels smoothed."""

    name, needed = "reader", ("words",)
    network: LipReader

    def _choose_data(self) -> None:
        clips = in_half(self.cache.split("train"), self.training.corpus_half)
        known = self.cache.word_index
        self.words = [w for clip in clips for w in words_of(clip, known)]
        if not self.words:
            raise BadShard(
                f"no word with its times among {len(clips)} clips of the split train: nothing to "
                "learn reading from; prepare a corpus that has them"
            )
        self.held_out = [w for clip in self.cache.split("val") for w in words_of(clip, known)]

    def _build(self) -> LipReader:
        return build_reader(replace(self.training.reader, words=len(self.cache.word_index)))

    def _batch(self, number: int) -> WordBatch:
        """Return a batch of words, each once per epoch, with random changes."""
        t = self.training
        per_epoch = max(1, len(self.words) // t.batch)
        epoch, row = divmod(number, per_epoch)
        order = np.random.default_rng((t.seed, 0, epoch)).permutation(len(self.words))
        chosen = [self.words[i] for i in order[row * t.batch : (row + 1) * t.batch]]
        rng = np.random.default_rng((t.seed, 1, number))
        mouths = [cut_word(self.cache, w, t.reader.mouth, t.augment, rng) for w in chosen]
        return collate(mouths, [w.index for w in chosen])

    def _loss(self, batch: WordBatch) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.network(batch.mouths.to(self.device), batch.lengths.to(self.device))
        words = batch.words.to(self.device)
        loss = F.cross_entropy(logits, words, label_smoothing=self.training.smoothing)
        return loss, {"top1": (logits.argmax(1) == words).float().mean()}

    def validate(self, step: int) -> dict[str, float]:
        """Return the accuracy on words of held-out sentences, top 1 and top 5."""
        return read_accuracy(self.network, self.cache, self.held_out)

    def _description(self) -> tuple[str, list[ClipInfo]]:
        clips = [w.clip for w in self.words]
        return (
            f"{titles(clips)}: {len(clips)} words of {len({c.key for c in clips})} clips of "
            f"{people(c.speaker for c in clips)}, {HALVES[self.training.corpus_half]} of the "
            "training sentences"
        ), clips

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"half": self.training.corpus_half}
        if self.cache.vocabulary != GRID_WORDS:
            facts["vocabulary"] = self.cache.vocabulary
        return facts


def read_accuracy(reader: LipReader, cache: Cache, words: list[Word]) -> dict[str, float]:
    """Return top-1 and top-5 accuracy on real words of a cache, unchanged; {} for no words."""
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
