"""D_l for whole sentences: a lip reader that spells what a mouth says (Song et al. 2019, Sec. 5).

It sees as the lean word reader does and writes letters by connectionist temporal classification
(Graves et al. 2006): which letter, or none, at every half frame; no word needs its time.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from talkingface.models.lipreader import LeanEyes, MouthSpec

BLANK = 0  # the code of "no letter here"
LETTERS = " " + string.ascii_lowercase  # codes from 1
CODES = len(LETTERS) + 1


def spelled(text: str) -> list[int]:
    """The codes of a text's letters and of the spaces between its words; all else is left out."""
    plain = "".join(c for c in " ".join(text.lower().split()) if c in LETTERS)
    return [LETTERS.index(c) + 1 for c in " ".join(plain.split())]


def text_of(codes: Sequence[int]) -> str:
    """The text that these codes spell; blanks and what is below are nothing."""
    return "".join(LETTERS[code - 1] for code in codes if code > BLANK)


@dataclass(frozen=True)
class SentenceReaderConfig:
    """1.3 M weights, 4 MMAC per frame.

    steps: letters may change so many times a frame (short words have more letters than frames).
    The rest is as in `LeanReaderConfig`, whose trained eyes fit.
    """

    family: str = "lipreader-sentences"
    mouth: MouthSpec = field(default_factory=lambda: MouthSpec(grey=False))
    span: int = 5
    channels: tuple[int, ...] = (24, 48, 96, 128)
    feature: int = 192
    hidden: int = 160
    layers: int = 2
    steps: int = 2
    dropout: float = 0.4


class SentenceReader(LeanEyes):
    """A 3-D layer, a small 2-D trunk, GRU layers in both directions, letters."""

    def __init__(self, config: SentenceReaderConfig | None = None) -> None:
        config = config or SentenceReaderConfig()
        super().__init__(config)
        self.config = config
        self.cells = nn.GRU(
            config.feature,
            config.hidden,
            config.layers,
            batch_first=True,
            bidirectional=True,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )
        self.answer = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(2 * config.hidden, config.steps * CODES)
        )

    def forward(self, mouths: Tensor, lengths: Tensor) -> Tensor:
        """mouths: (B, T, C, h, w) in [-1, 1]; lengths: (B,), 1 to T, in frames.

        Returns logits (B, T * steps, CODES) float32; of a clip the first length * steps count.
        """
        return self.spell(self.see(mouths, lengths, self.config.mouth), lengths)

    def spell(self, seen: Tensor, lengths: Tensor) -> Tensor:
        """`forward` from what the eyes see, (B, T, feature)."""
        logits: Tensor = self.answer(self._recur(self.cells, seen, lengths))
        return logits.float().reshape(len(logits), -1, CODES)

    def take_eyes(self, other: LeanEyes) -> None:
        """Begin with the eyes of another lean reader. Raises ValueError where they do not fit."""
        mine = {n: v for n, v in other.state_dict().items() if n.split(".")[0] in EYES}
        own = self.state_dict()
        if any(n not in own or own[n].shape != v.shape for n, v in mine.items()):
            raise ValueError("that reader sees with other layers")
        with torch.no_grad():
            for name, value in mine.items():
                own[name].copy_(value)


EYES = ("motion", "trunk")
