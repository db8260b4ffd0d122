"""Inspection of a folder of shards: counts, measures, and pictures of kept and dropped clips."""

from __future__ import annotations

import itertools
import json
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from talkingface import picture, video
from talkingface.audio import FPS
from talkingface.data import report, shards
from talkingface.data.clip import split_name
from talkingface.data.filters import KEPT, LIMITS, REASONS
from talkingface.data.report import Outcome
from talkingface.errors import TalkingFaceError
from talkingface.types import Picture

Progress = Callable[[int, int], None]  # shards read, of how many
EXAMPLES = 12  # pictures of a reason
THUMB = 112  # pixels: their side
FARTHEST = 3000  # frames of a dropped recording that are decoded at most to show one
_AGO = 12  # frames after a dropped clip's first one: the shown picture


@dataclass(frozen=True)
class KeptClip:
    """A clip of a shard, from its JSON. measures: those of `filters.LIMITS` in the JSON."""

    key: str
    speaker: str
    split: str
    frames: int
    silent: bool
    words: tuple[str, ...]
    measures: dict[str, float]
    shard: Path


@dataclass(frozen=True)
class Example:
    """A picture of a clip and its caption. picture: None where its file cannot be read."""

    caption: str
    picture: Picture | None


@dataclass(frozen=True)
class Inspection:
    """All data of the page. plan: the settings that `prepare` wrote; {} where they are missing."""

    folder: Path
    plan: dict[str, Any]
    size: int
    shards: int
    kept: tuple[KeptClip, ...]
    dropped: tuple[Outcome, ...]
    moved: int
    values: dict[str, dict[str, list[float]]]
    examples: dict[str, list[Example]] = field(default_factory=dict)

    @property
    def reasons(self) -> dict[str, int]:
        """The number of dropped clips by reason, in the order of `filters.REASONS`."""
        counts = Counter(outcome.result for outcome in self.dropped)
        return {reason: counts[reason] for reason in (*REASONS, *counts) if counts[reason]}

    @property
    def speaking(self) -> list[KeptClip]:
        """The kept clips without still pictures."""
        return [clip for clip in self.kept if not clip.silent]

    def facts(self) -> dict[str, Any]:
        """Return the counts of the page, for programs; bytes: of all shards."""
        speaking = self.speaking
        return {
            "folder": self.folder,
            "shards": self.shards,
            "bytes": self.size,
            "clips": len(self.kept),
            "still_pictures": len(self.kept) - len(speaking),
            "seconds": sum(clip.frames for clip in speaking) / FPS,
            "people": len({clip.speaker for clip in speaking} - {""}),
            "splits": Counter(clip.split for clip in self.kept),
            "moved": self.moved,
            "dropped": self.reasons,
        }


def inspect(folder: Path, progress: Progress | None = None) -> Inspection:
    """Read a folder of shards and the reports beside them. Raises BadShard.

    Without reports (shards that were copied elsewhere), dropped clips are unknown. Sources of
    dropped clips are opened for their pictures, where they still exist.
    """
    paths = shards.find(folder)
    kept: list[KeptClip] = []
    for number, path in enumerate(paths, 1):
        kept += [_kept(path, key, facts) for key, facts in shards.facts(path)]
        if progress is not None:
            progress(number, len(paths))
    outcomes = report.read_all(folder)
    dropped = tuple(outcome for outcome in outcomes if outcome.result != KEPT)
    plan = folder / "plan.json"
    examples = {KEPT: _kept_examples(kept)}
    found = Inspection(
        folder=folder,
        plan=json.loads(plan.read_text()) if plan.is_file() else {},
        size=sum(path.stat().st_size for path in paths),
        shards=len(paths),
        kept=tuple(kept),
        dropped=dropped,
        moved=sum(outcome.moved != 0 for outcome in outcomes),
        values=_values(kept, outcomes),
    )
    for reason in found.reasons:
        examples[reason] = _dropped_examples([o for o in dropped if o.result == reason])
    return replace(found, examples=examples)


def _kept(path: Path, key: str, facts: dict[str, Any]) -> KeptClip:
    info = facts["info"]
    return KeptClip(
        key=key,
        speaker=facts["speaker"],
        split=split_name(facts["split"]),
        frames=facts["frames"],
        silent=bool(facts["silent"]),
        words=tuple(word for word, _, _ in facts["words"]),
        measures={limit.name: float(info[limit.name]) for limit in LIMITS if limit.name in info},
        shard=path,
    )


def _values(
    kept: Sequence[KeptClip], outcomes: Sequence[Outcome]
) -> dict[str, dict[str, list[float]]]:
    """Return measure -> "kept" and "dropped" -> every clip's value, without stills.

    Reports contain more measures than shards of older releases.
    """
    measured = {o.key: o.measures for o in outcomes if o.measures}
    found: dict[str, dict[str, list[float]]] = {}
    for limit in LIMITS:
        name = limit.name
        mine = [{**c.measures, **measured.get(c.key, {})} for c in kept if not c.silent]
        theirs = [o.measures for o in outcomes if o.result != KEPT]
        groups = {"kept": mine, "dropped": theirs}
        values = {who: [m[name] for m in own if name in m] for who, own in groups.items()}
        if any(values.values()):
            found[name] = values
    return found


# --- pictures -------------------------------------------------------------------------------------


def _spread(count: int) -> list[int]:
    """Return at most EXAMPLES indices among so many, evenly from the first to the last."""
    many = min(EXAMPLES, count)
    return sorted({int(place) for place in np.linspace(0, count - 1, many).round()} if many else ())


def _kept_examples(kept: Sequence[KeptClip]) -> list[Example]:
    chosen = [kept[place] for place in _spread(len(kept))]
    made = []
    for path, group in itertools.groupby(chosen, lambda clip: clip.shard):
        wanted = {clip.key for clip in group}
        for clip in shards.read(path, wanted):
            length = "" if clip.silent else f", {len(clip.crops) / FPS:.1f} s"
            middle = clip.crops[len(clip.crops) // 2]
            made.append(Example(clip.key + length, _thumb(middle)))
    return made


def _dropped_examples(dropped: Sequence[Outcome]) -> list[Example]:
    return [_dropped_example(dropped[place]) for place in _spread(len(dropped))]


def _dropped_example(outcome: Outcome) -> Example:
    caption = outcome.key
    if outcome.value is not None:
        limit = next((limit for limit in LIMITS if limit.name == outcome.measure), None)
        bound = f" ({limit.text(outcome.limit)})" if limit is not None else ""
        caption += f": {outcome.measure} {outcome.value:.3g}{bound}"
    return Example(caption, _source_picture(Path(outcome.source), outcome.first))


def _source_picture(path: Path, first: int) -> Picture | None:
    """Read the frame of a video shortly after `first`, or a still picture; None without one."""
    if not path.is_file() or first > FARTHEST:
        return None
    try:
        if path.suffix.lower() in picture.SUFFIXES:
            return _thumb(picture.read(path))
        some = itertools.islice(video.read_frames(path), first, first + _AGO)
        return next(map(_thumb, deque(some, maxlen=1)), None)
    except TalkingFaceError:
        return None


def _thumb(image: Picture) -> Picture:
    scale = THUMB / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
