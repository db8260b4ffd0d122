"""Provenance of weights: corpora, people and licences of the training clips."""

from __future__ import annotations

from collections.abc import Iterable

from talkingface.data.dataset import ClipInfo
from talkingface.data.sources import CORPORA, GRID, Corpus

MOST_NAMES = 40  # people that are named; more are counted


def corpora_of(clips: Iterable[ClipInfo]) -> list[Corpus]:
    """Return the corpora of these clips, GRID where a clip does not say; still pictures aside."""
    names = {str(clip.info.get("corpus", GRID.name)) for clip in clips if not clip.silent}
    return [corpus for name, corpus in CORPORA.items() if name in names]


def titles(clips: Iterable[ClipInfo]) -> str:
    """Return the names of corpora: "GRID", "GRID and LRW"."""
    return " and ".join(corpus.title for corpus in corpora_of(clips)) or GRID.title


def people(names: Iterable[str]) -> str:
    """Return speakers by name or by number: "s1 s2", "6112 people", "people unknown"."""
    known = sorted({name for name in names if name})
    if len(known) > MOST_NAMES:
        return f"{len(known)} people"
    return " ".join(known) or "people unknown"


def licence(clips: Iterable[ClipInfo]) -> str:
    """Return the licence of weights: ours, and those of the training corpora."""
    learned = [f"{c.title} ({c.terms})" for c in corpora_of(clips) or [GRID]]
    return f"MIT; trained on {' and '.join(learned)}"


def described(clips: Iterable[ClipInfo]) -> str:
    """Describe corpora, clips and people: "GRID: 851 clips of 15 speakers (s1 s2 ...)"."""
    chosen = list(clips)
    speakers = {clip.speaker for clip in chosen if clip.speaker}
    count = f"{len(chosen)} clips of {len(speakers)} speakers"
    return f"{titles(chosen)}: {count} ({people(speakers)})"
