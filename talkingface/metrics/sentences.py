"""What a reader of sentences has read: the text, freely or by a grammar, and how wrong it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from talkingface.models.sentences import BLANK, spelled, text_of

SPACE = spelled("a b")[1]
Grammar = Sequence[Sequence[str]]  # the words that may stand at each place of a sentence


def likeliest(scores: NDArray[np.floating]) -> str:
    """The text of the likeliest path (Graves et al. 2006, Sec. 3.2, "best path decoding").

    scores: (S, codes), logits or log-probabilities of every step.
    """
    path = scores.argmax(1)
    return " ".join(text_of([int(code) for code, _ in groupby(path)]).split())


class GrammarReader:
    """Of all sentences of a grammar the one with the likeliest path through the letters."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self._codes, self._words = [BLANK], [""]  # of each state; the word that begins in it
        before: list[list[int]] = [[0]]
        entries = [0]
        self._first = [0]
        for place, words in enumerate(grammar):
            ends = [self._spell(word, entries, before) for word in words]
            if place == 0:
                self._first += [n for n, word in enumerate(self._words) if word]
            rest = self._state(BLANK, "", before, ends)
            space = self._state(SPACE, "", before, [*ends, rest])
            self._last = [*ends, rest]
            entries = [space, self._state(BLANK, "", before, [space])]
        most = max(map(len, before))
        self._before = np.array([row + [len(before)] * (most - len(row)) for row in before])

    def _state(self, code: int, word: str, before: list[list[int]], sources: list[int]) -> int:
        self._codes.append(code)
        self._words.append(word)
        before.append([len(before), *sources])
        return len(before) - 1

    def _spell(self, word: str, entries: list[int], before: list[list[int]]) -> int:
        codes = spelled(word)
        last = self._state(codes[0], word, before, entries)
        for code, following in pairwise(codes):
            blank = self._state(BLANK, "", before, [last])
            sources = [blank] if code == following else [blank, last]
            last = self._state(following, "", before, sources)
        return last

    def __call__(self, scores: NDArray[np.floating]) -> str:
        """scores: (S, codes) log-probabilities. The empty text where S is too short for any."""
        codes = np.array(self._codes)
        best = np.full(len(codes) + 1, -np.inf)  # the last one is nobody's source
        best[self._first] = scores[0, codes[self._first]]
        came = []
        for row in scores[1:]:
            choices = best[self._before]
            picked = choices.argmax(1)
            came.append(self._before[np.arange(len(codes)), picked])
            best[:-1] = choices.max(1) + row[codes]
        state = max(self._last, key=lambda n: best[n])
        if best[state] == -np.inf:
            return ""
        words: list[str] = []
        for back in reversed(came):
            before = int(back[state])
            if before != state:
                words.append(self._words[state])
            state = before
        words.append(self._words[state])
        return " ".join(word for word in reversed(words) if word)


def edits(read: Sequence[str], said: Sequence[str]) -> int:
    """The fewest insertions, deletions and replacements that turn one into the other."""
    row = list(range(len(said) + 1))
    for i, mine in enumerate(read, start=1):
        above, row[0] = row[0], i
        for j, theirs in enumerate(said, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (mine != theirs))
    return row[-1]


def error_rates(read: Sequence[str], said: Sequence[str]) -> tuple[float, float]:
    """Character and word error rate: the edits of all texts by the length of all that was said."""
    letters = sum(edits(a, b) for a, b in zip(read, said, strict=True))
    words = sum(edits(a.split(), b.split()) for a, b in zip(read, said, strict=True))
    return letters / sum(map(len, said)), words / sum(len(text.split()) for text in said)
