"""One model on one clip: a line of results.jsonl, and what was measured so far, to go on from."""

from __future__ import annotations

import hashlib
import json
import math
import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

from talkingface import media
from talkingface.errors import BadRequest, TalkingFaceError
from talkingface.models.lipreader import GRID_WORDS

Identity = Literal["first frame", "another recording", "unknown"]
R = TypeVar("R")  # a dataclass
IDENTITIES: tuple[Identity, ...] = ("first frame", "another recording")
REAL, STILL = "real", "still"  # rows of every table
MEASURED = "measured.jsonl"
VERSION = 1  # of the measures: raise it when one changes, so that old numbers are not taken for new


@dataclass(frozen=True)
class Result:
    """One model on one clip: a line of results.jsonl.

    portrait: the identity picture, "clip:frame". metrics: see `evaluation/measures.py`; None is
    undefined (NaN) or infinite. aperture, real_aperture: per frame, in interocular distances, None
    where no face was found. words, ranks: the words spoken (their index) and at which place the
    judge puts each, 1 is best; judge: the sha256 of its file; vocabulary: how many words it knows.
    note: what to know about the numbers. error: why there are none.
    """

    model: str
    sha256: str
    clip: str
    speaker: str
    split: str
    identity: Identity
    portrait: str
    metrics: dict[str, float | None]
    aperture: list[float | None]
    real_aperture: list[float | None]
    words: list[int]
    ranks: list[int]
    judge: str
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


def number(value: float) -> float | None:
    """What JSON can say: None for NaN and infinity."""
    return round(float(value), 6) if math.isfinite(value) else None


def reason(error: Exception) -> str:
    """One line; of an error that nobody foresaw also its kind and place."""
    text = " ".join(str(error).split())
    if isinstance(error, TalkingFaceError):
        return text
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}, line {place.lineno})"


def write_results(path: Path, results: Iterable[Result]) -> None:
    """One JSON line per result, whole or not at all."""
    write_lines(path, results)


def write_lines(path: Path, rows: Iterable[Any], overwrite: bool = True) -> None:
    """One JSON line per dataclass, whole or not at all. Raises OutputError."""
    write_text(path, "".join(f"{_line(asdict(row))}\n" for row in rows), overwrite)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, allow_nan=False)


def read_results(path: Path) -> list[Result]:
    """What `write_results` wrote."""
    return [Result(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


write_text = media.write_text  # for the modules beside


def key_of(facts: Mapping[str, Any]) -> str:
    """A name for everything that decides a result's numbers; the version of the measures too."""
    return hashlib.sha256(_line({**facts, "version": VERSION}).encode()).hexdigest()


class ResultCache(Generic[R]):
    """The results that a file of lines holds so far, each under `key_of` what decided it.

    It is appended to as each result is finished, by several processes if need be: what a killed run
    had measured, and what an earlier command measured, need not be measured again. A line that is
    not whole is as if it were not there. path: of the file. read: a result from its line, raising
    ValueError, TypeError or KeyError for one of another version.
    """

    def __init__(self, path: Path, read: Callable[[dict[str, Any]], R]) -> None:
        self._path = path
        self._results: dict[str, R] = {}
        with media.writing(self._path, OSError):
            lines = self._path.read_bytes().split(b"\n") if self._path.exists() else []
        for line in lines:
            try:
                row = json.loads(line)
                self._results[row["key"]] = read(row["result"])
            except (ValueError, TypeError, KeyError):  # torn, or of another version
                continue

    def get(self, key: str) -> R | None:
        """What was measured under these facts; None for nothing."""
        return self._results.get(key)

    def add(self, key: str, result: R) -> None:
        """Keep a result, for this process and for those that come after. Raises OutputError."""
        self._results[key] = result
        # begun with a line's end: whatever torn line is before it stays alone
        line = f"\n{_line({'key': key, 'result': asdict(cast(Any, result))})}\n".encode()
        with media.writing(self._path, OSError):
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:  # one write at the file's end, whoever else writes there
                if os.write(file, line) != len(line):
                    raise OSError("only a part was written")
            finally:
                os.close(file)


class Measured(ResultCache[Result]):
    """The results of clips that a folder holds so far."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / MEASURED, lambda row: Result(**row))
