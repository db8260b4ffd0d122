"""Training of the reader of sentences: connectionist temporal classification on real clips.

It sees with the eyes of a trained reader of words, which stay as they are: of every clip a few
changed versions are looked at once, and learning to spell what was seen is a matter of minutes.
What is shown is a run of words, from one to the whole clip, as the samples of a generator's
training show parts of sentences; clips without word times are shown whole. Only the sentences of
one half are learned from (`reading.half_of`), so that the judge of words remains unbiased.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface import weights
from talkingface.audio import FPS
from talkingface.data.dataset import Cache, ClipInfo, padded
from talkingface.data.provenance import licence, people, titles
from talkingface.errors import BadRequest, BadShard
from talkingface.losses import sentence_reading_loss
from talkingface.metrics.sentences import GrammarReader, error_rates, likeliest
from talkingface.models.lipreader import GRID_GRAMMAR, GRID_WORDS, LeanEyes
from talkingface.models.sentences import SentenceReader, SentenceReaderConfig, spelled
from talkingface.picture import Picture
from talkingface.training import parallel
from talkingface.training.loop import one_cycle
from talkingface.training.parallel import WHOLE, Learner, Part, Place
from talkingface.training.reading import (
    HALVES,
    Half,
    MouthAugment,
    Word,
    cut_word,
    half_of,
    teachers_of,
)

MARGIN = 2  # frames around a passage, as `cut_words` has them


@dataclass(frozen=True)
class SentenceTraining:
    """Everything that `talkingface train lipreader --preset sentences` needs beside the data."""

    reader: SentenceReaderConfig
    half: Half = "first"
    steps: int = 1200
    batch: int = 16
    rate: float = 2e-3  # at its peak
    warm_up: float = 0.1  # share of the steps
    decay: float = 0.02
    whole: float = 0.25  # share of the steps on whole clips, not on parts of them
    views: int = 3  # in how many ways a clip's pictures are changed
    hidden: float = 0.3  # share of what is seen that is left out
    augment: MouthAugment = field(default_factory=MouthAugment)
    seed: int = 2


@dataclass(frozen=True)
class SentenceBatch:
    """seen (B, T, feature), lengths (B,) frames; letters (B, L), -1 beyond each text's end."""

    seen: Tensor
    lengths: Tensor
    letters: Tensor


@dataclass(frozen=True)
class Passage:
    """What is said in frames [first, last) of a clip."""

    clip: ClipInfo
    text: str
    first: int
    last: int


def whole(clip: ClipInfo) -> Passage | None:
    """The whole clip; None where nobody knows what is said."""
    text = clip.info.get("sentence", "") or " ".join(word for word, _, _ in clip.words)
    return Passage(clip, text, 0, clip.frames) if spelled(text) else None


def some_words(clip: ClipInfo, rng: np.random.Generator) -> Passage:
    """Some of the clip's words in a row; any number of them is as likely."""
    many = int(rng.integers(1, len(clip.words) + 1))
    first = int(rng.integers(0, len(clip.words) - many + 1))
    words = clip.words[first : first + many]
    begin, end = round(words[0][1] * FPS), round(words[-1][2] * FPS)
    text = " ".join(word for word, _, _ in words)
    return Passage(clip, text, begin, min(max(end, begin + 1), clip.frames))


class SentenceRecipe:
    """See `loop.Recipe`: AdamW, one cycle of the learning rate."""

    def __init__(
        self,
        training: SentenceTraining,
        cache: Cache,
        device: torch.device | str = "cpu",
        init: str | Path = "lipreader",
    ) -> None:
        """init: a lean reader, of words or of sentences, whose eyes this one has."""
        self.training, self.cache, self.device = training, cache, torch.device(device)
        self.steps = training.steps
        chosen = [c for c in cache.split("train") if training.half in ("both", half_of(c))]
        self.passages = [p for clip in chosen if (p := whole(clip)) is not None]
        if not self.passages:
            raise BadShard(
                f"nobody knows what is said in {len(chosen)} clips of the split train: nothing to "
                "learn reading from; prepare a corpus with sentences"
            )
        self.held_out = [p for clip in cache.split("val") if (p := whole(clip)) is not None]
        torch.manual_seed(training.seed)
        self.reader = SentenceReader(training.reader)
        self.taught_by = _take_eyes(self.reader, init)
        self.reader.to(self.device)
        self.eyes = copy.deepcopy(self.reader).eval()  # looks in a thread of its own
        self.modules: dict[str, nn.Module] = {"reader": self.reader}
        learned = nn.ModuleList([self.reader.cells, self.reader.answer])
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "reader": torch.optim.AdamW(learned.parameters(), weight_decay=training.decay)
        }
        self.learner = Learner([learned], [self.optimizers["reader"]], most=5.0)
        self._looked: dict[tuple[str, int], Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        names = ("cache", "training", "passages", "device", "eyes", "_looked")
        return {name: getattr(self, name) for name in names}

    def batch(self, step: int, place: Place | None = None) -> SentenceBatch:
        """Clips and changes that (seed, step) decide; all whole, or all parts: little padding."""
        t = self.training
        rng = np.random.default_rng((t.seed, (place or parallel.place()).turn(step)))
        timed = [p for p in self.passages if p.clip.words]
        if not timed or rng.random() < t.whole:
            shown = [self.passages[i] for i in rng.choice(len(self.passages), t.batch)]
        else:
            shown = [some_words(timed[i].clip, rng) for i in rng.choice(len(timed), t.batch)]
        seen = [self._seen(passage, rng) for passage in shown]
        return SentenceBatch(
            nn.utils.rnn.pad_sequence(seen, batch_first=True),
            torch.tensor([len(part) for part in seen]),
            padded([spelled(passage.text) for passage in shown]),
        )

    def _seen(self, passage: Passage, rng: np.random.Generator) -> Tensor:
        """(W, feature): what the eyes see of a passage, in one of the clip's versions."""
        whole_clip = self._look(passage.clip, int(rng.integers(self.training.views)))
        around = self.training.augment.frames
        first, last = (
            place + int(rng.integers(-around, around + 1))
            for place in (passage.first - MARGIN, passage.last + MARGIN)
        )
        return whole_clip[max(0, first) : max(first + 1, last)]

    @torch.inference_mode()
    def _look(self, clip: ClipInfo, view: int) -> Tensor:
        """(T, feature) of a changed clip, the same for the same (seed, clip, view)."""
        key = (clip.key, view)
        if key not in self._looked:
            number = int.from_bytes(hashlib.sha256(clip.key.encode()).digest()[:4], "big")
            rng = np.random.default_rng((self.training.seed, number, view))
            augment = replace(self.training.augment, frames=0)
            mouth = self.training.reader.mouth
            mouths = cut_word(self.cache, Word(clip, 0, 0, clip.frames), mouth, augment, rng)
            eyes = self.eyes.see(mouths[None].to(self.device), torch.tensor([len(mouths)]), mouth)
            self._looked[key] = eyes[0].cpu()
        return self._looked[key]

    def step(self, batch: SentenceBatch, step: int, part: Part = WHOLE) -> dict[str, float]:
        """Graves et al. 2006."""
        for group in self.optimizers["reader"].param_groups:
            group["lr"] = one_cycle(self.training, step)
        self.reader.train()
        lengths = batch.lengths.to(self.device)
        seen = F.dropout(batch.seen.to(self.device), self.training.hidden)
        logits = self.reader.spell(seen, lengths)
        steps = lengths * self.training.reader.steps
        loss = sentence_reading_loss(logits, steps, batch.letters.to(self.device))
        self.learner.learn(loss, part)
        return {"loss": float(loss.detach())}

    def validate(self, step: int) -> dict[str, float]:
        """Error rates on whole held-out clips, read freely and by GRID's grammar if they fit it."""
        return error_measures(self.reader, self.cache, self.held_out)

    def sheet(self) -> Picture | None:
        """Nothing to look at."""
        return None

    def export(self, path: Path, step: int, measures: dict[str, float]) -> None:
        """The weights, with what they are in the header."""
        clips = [passage.clip for passage in self.passages]
        data = (
            f"{titles(clips)}: {len(clips)} sentences of {people(c.speaker for c in clips)}, "
            f"{HALVES[self.training.half]} of the training sentences"
        )
        extra: dict[str, Any] = {"steps": step, "half": self.training.half}
        extra |= {"seed": self.training.seed, "taught_by": sorted(self.taught_by)}
        terms = licence(clips)
        weights.save(
            path, self.reader, training_data=data, licence=terms, metrics=measures, extra=extra
        )


def _take_eyes(reader: SentenceReader, init: str | Path) -> frozenset[str]:
    """Another reader's eyes; sha256 of it and of those that it had them from. Raises BadRequest."""
    other, info = weights.load_with_info(init)
    try:
        if not isinstance(other, LeanEyes):
            raise ValueError(f"a {info.family} has none of its layers")
        reader.take_eyes(other)
    except ValueError as error:
        raise BadRequest(
            f"{init}: cannot begin with this reader ({error}): give a lean one that sees as wide, "
            "as `talkingface train lipreader --preset trainer` makes"
        ) from error
    return teachers_of(info) | {info.sha256}


def error_measures(
    reader: SentenceReader, cache: Cache, passages: list[Passage]
) -> dict[str, float]:
    """Character and word error rate (cer, wer) of what is read freely, and by GRID's grammar
    (grammar_cer, grammar_wer) where every text is in its words; {} for no passages."""
    if not passages:
        return {}
    scores = [read(reader, cache, passage) for passage in passages]
    said = [passage.text for passage in passages]
    measures = dict(zip(("cer", "wer"), error_rates([*map(likeliest, scores)], said), strict=True))
    if all(set(text.split()) <= set(GRID_WORDS) for text in said):
        by_grammar = GrammarReader(GRID_GRAMMAR)
        rates = error_rates([*map(by_grammar, scores)], said)
        measures |= zip(("grammar_cer", "grammar_wer"), rates, strict=True)
    return measures


def read(reader: SentenceReader, cache: Cache, passage: Passage) -> NDArray[np.float32]:
    """Log-probabilities (S, codes) of a real passage, as it is."""
    device = next(reader.parameters()).device
    training = reader.training
    reader.eval()
    mouths = cut_word(
        cache, Word(passage.clip, 0, passage.first, passage.last), reader.config.mouth
    )[None].to(device)
    with torch.inference_mode():
        logits = reader(mouths, torch.tensor([mouths.shape[1]], device=device))
    reader.train(training)
    scores: NDArray[np.float32] = logits[0].log_softmax(1).cpu().numpy()
    return scores
