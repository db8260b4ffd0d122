"""Reports of a preparation: an outcome per clip, beside the shards, and their summary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from talkingface import media
from talkingface.audio import FPS
from talkingface.data.clip import split_name
from talkingface.data.filters import KEPT, REASONS, Drop
from talkingface.errors import BadShard

DROPPED = "dropped.jsonl"
PATTERN = "shard-*.json"
UNKNOWN_SPEAKER = "unknown"  # shown for a missing name
MOST_SPEAKERS = 40  # rows of a table; further ones are summed


@dataclass(frozen=True)
class Outcome:
    """Outcome of a clip. result: KEPT, or the reason of its drop.

    measures: by their names in `filters.LIMITS`, and `confidence` of the offset; moved: frames that
    the sound was moved later. Of a dropped clip: measure, value and limit that decided; source: its
    file; first: its first frame; detail: an error's text; size: bytes of a file that cannot be
    read, so that a better copy of it is noticed.
    """

    key: str
    speaker: str
    split: str
    result: str
    frames: int = 0
    measures: dict[str, float] = field(default_factory=dict)
    moved: int = 0
    measure: str = ""
    value: float | None = None
    limit: float | None = None
    source: str = ""
    first: int = 0
    detail: str = ""
    size: int = 0

    def dropped(self, drop: Drop, source: Path, first: int = 0) -> Outcome:
        """Return the outcome of the same clip, dropped."""
        return replace(
            self,
            result=drop.reason,
            frames=0,
            source=str(source.absolute()),
            first=first,
            measure=drop.measure,
            value=drop.value,
            limit=drop.limit,
        )


@dataclass(frozen=True)
class Summary:
    """Summary of a corpus, or of a share of it.

    outcomes: without measures, which are in the reports. missing: shards of the whole that are not
    yet written.
    """

    out: Path
    outcomes: tuple[Outcome, ...]
    missing: int = 0

    @property
    def frames(self) -> int:
        """The number of kept frames."""
        return sum(outcome.frames for outcome in self.outcomes)

    def splits(self) -> dict[str, int]:
        """The number of kept clips, by split."""
        return dict(Counter(o.split for o in self.outcomes if o.result == KEPT))

    def facts(self) -> dict[str, Any]:
        """The summary as values for JSON, with the names of splits and reasons for users."""
        reasons = Counter(o.result for o in self.outcomes)
        return {
            "seconds": self.frames / FPS,
            "splits": {split_name(split): count for split, count in self.splits().items()},
            "dropped": {reason: reasons[reason] for reason in REASONS if reasons[reason]},
            "missing_shards": self.missing,
        }

    def table(self) -> list[list[str]]:
        """A table of kept clips, and dropped ones by reason: header, a row per speaker, the sum."""
        counts = Counter((o.speaker, o.result) for o in self.outcomes)
        columns = [KEPT, *(r for r in REASONS if any(key[1] == r for key in counts))]
        speakers = list(dict.fromkeys(outcome.speaker for outcome in self.outcomes))
        rows = [["speaker", *columns]]
        for name in speakers[:MOST_SPEAKERS]:
            rows.append([name or UNKNOWN_SPEAKER, *(str(counts[name, c]) for c in columns)])
        if len(speakers) > MOST_SPEAKERS:
            rows.append([f"and {len(speakers) - MOST_SPEAKERS} more", *("" for _ in columns)])
        sums = (sum(counts[name, column] for name in speakers) for column in columns)
        return [*rows, ["all", *map(str, sums)]]


_DEFAULTS = asdict(Outcome("", "", "", ""))


def write(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Write the report of a shard atomically. Raises OutputError."""
    media.write_text(path, json.dumps([_row(outcome) for outcome in outcomes], indent=0))


def _row(outcome: Outcome) -> dict[str, Any]:
    """Return the fields that differ from their defaults, and always the first five."""
    every = asdict(outcome)
    always = ("key", "speaker", "split", "result", "frames")
    return {k: v for k, v in every.items() if k in always or v != _DEFAULTS[k]}


def read(path: Path) -> tuple[Outcome, ...]:
    """Read the outcomes of a shard's report. Raises BadShard."""
    try:
        outcomes = tuple(Outcome(**row) for row in json.loads(path.read_text()))
        for outcome in outcomes:
            _check(outcome)
        return outcomes
    except (OSError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise BadShard(f"{path}: is no report ({error}); remove it and prepare again") from error


def _check(outcome: Outcome) -> None:
    """Raise ValueError where a field is of another type than its default."""
    for name, default in _DEFAULTS.items():
        value = getattr(outcome, name)
        if default is not None and type(value) is not type(default):
            raise ValueError(f"{name} is {str(value)[:20]!r}")


def read_all(folder: Path) -> tuple[Outcome, ...]:
    """Read the outcomes of all reports of a folder, in order."""
    return tuple(outcome for path in sorted(folder.glob(PATTERN)) for outcome in read(path))


def write_dropped(out: Path, outcomes: Iterable[Outcome]) -> None:
    """Write a list of every dropped clip, a line of JSON each. Raises OutputError."""
    lines = []
    for outcome in outcomes:
        if outcome.result != KEPT:
            row = {"key": outcome.key, "reason": outcome.result, **_row(outcome)}
            del row["result"], row["frames"]
            lines.append(json.dumps(row) + "\n")
    media.write_text(out / DROPPED, "".join(lines))
