"""Results of one model on one clip: lines of results.jsonl, and the cache of finished results."""

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
CACHE_FILE = "measured.jsonl"
VERSION = 1  # of the measures: raise it when one changes, so that cached numbers are not used


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
    """Return a number for JSON: rounded, None for NaN and infinity."""
    return round(float(value), 6) if math.isfinite(value) else None


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


def write_lines(path: Path, rows: Iterable[Any], overwrite: bool = True) -> None:
    """Write one JSON line per dataclass, whole or not at all. Raises OutputError."""
    write_text(path, "".join(f"{_line(asdict(row))}\n" for row in rows), overwrite)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, allow_nan=False)


def read_results(path: Path) -> list[Result]:
    """Read the results that `write_results` wrote."""
    return [Result(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


write_text = media.write_text  # for the modules beside


def key_of(facts: Mapping[str, Any]) -> str:
    """Return a hash of everything that decides a result's numbers, with VERSION."""
    return hashlib.sha256(_line({**facts, "version": VERSION}).encode()).hexdigest()


class ResultCache(Generic[R]):
    """Cache of finished results in a file, one per line, under the key of `key_of`.

    Several processes may append to one file. The results of a killed run, or of an earlier command,
    are used again. Incomplete lines are skipped. path: of the file. read: converts a line to a
    result; raises ValueError, TypeError or KeyError for a line of another version.
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
            except (ValueError, TypeError, KeyError):  # incomplete, or of another version
                continue

    def get(self, key: str) -> R | None:
        """Return the result of a key; None if there is none."""
        return self._results.get(key)

    def add(self, key: str, result: R) -> None:
        """Add a result, for this process and for later ones. Raises OutputError."""
        self._results[key] = result
        # it begins with a line end, in case the line before is incomplete
        line = f"\n{_line({'key': key, 'result': asdict(cast(Any, result))})}\n".encode()
        with media.writing(self._path, OSError):
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:  # one write at the file's end: other processes may append too
                if os.write(file, line) != len(line):
                    raise OSError("only a part was written")
            finally:
                os.close(file)


def clip_results(folder: Path) -> ResultCache[Result]:
    """Open the cache of clip results in a folder. Raises OutputError."""
    return ResultCache(folder / CACHE_FILE, lambda row: Result(**row))
