"""Results of one model on one clip: lines of results.jsonl, and the names of their rows."""

from __future__ import annotations

import os
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from talkingface.errors import BadRequest, TalkingFaceError
from talkingface.evaluation.files import read_lines, write_lines
from talkingface.models.lipreader import GRID_WORDS

Identity = Literal["first frame", "another recording", "unknown"]
IDENTITIES: tuple[Identity, ...] = ("first frame", "another recording")
REAL, STILL = "real", "still"  # rows of every table


@dataclass(frozen=True)
class Result:
    """Result of one model on one clip: a line of results.jsonl.

    portrait: the identity picture, "clip:frame". metrics: see `evaluation/measures.py`; None is
    undefined (NaN) or infinite. aperture, real_aperture: per frame, in interocular distances, None
    if no face was found. words: the words spoken, by index. ranks: the judge's rank of each, 1 is
    best. judge: the sha256 of its file. vocabulary: the number of its words. note: a remark on the
    numbers. error: the reason if there are none.
    """

    model: str
    sha256: str
    clip: str
    speaker: str
    split: str
    identity: Identity
    portrait: str
    metrics: dict[str, float | None] = field(default_factory=dict)
    aperture: list[float | None] = field(default_factory=list)
    real_aperture: list[float | None] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    judge: str = ""
    vocabulary: int = len(GRID_WORDS)
    note: str = ""
    error: str | None = None


def named_row(model: str) -> tuple[str, str]:
    """Split ROW=NAME into the row's name, empty where none is given, and NAME, a name or file."""
    label, equals, source = model.partition("=")
    if not equals or os.sep in label:  # a path may have = in it
        return "", model
    return label, source


def check_rows(names: Iterable[str]) -> None:
    """Raise BadRequest where two rows of a table have the same name."""
    for name, count in Counter(names).items():
        if count > 1:
            raise BadRequest(
                f"{count} models are called {name!r}: name their rows, as {name}-2=FILE.safetensors"
            )


def reason(error: Exception) -> str:
    """Return the text of an error in one line; of an unexpected error also its kind and place."""
    text = " ".join(str(error).split())
    if isinstance(error, TalkingFaceError):
        return text
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}, line {place.lineno})"


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write one JSON line per result; the file is written whole or not at all."""
    write_lines(path, results)


def read_results(path: Path) -> list[Result]:
    """Read the results that `write_results` wrote."""
    return read_lines(path, Result)
