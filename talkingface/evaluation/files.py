"""Files of evaluations: folders of media in, lines of JSON and a cache of finished results out."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from talkingface import media, picture
from talkingface.errors import BadRequest

R = TypeVar("R")  # a dataclass
Progress = Callable[[int, int], None]  # tasks done, tasks in all
VERSION = 1  # of the measures: raise it when one changes, so that cached numbers are not used
SOUNDS = (".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav", ".webm")


def require_folder(folder: Path, content: str) -> None:
    """Raise BadRequest unless `folder` is one. content: what it should hold, for the message."""
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise BadRequest(f"{folder}: {found}; expected a folder with {content}")


def find_sounds(folder: Path) -> list[Path]:
    """Return the recordings of a folder, by name. Raises BadRequest where there is none."""
    return _find(folder, SOUNDS, "recordings", "recording")


def find_pictures(folder: Path) -> list[Path]:
    """Return the pictures of a folder, by name. Raises BadRequest where there is none."""
    return _find(folder, tuple(sorted(picture.SUFFIXES)), "pictures of faces", "picture")


def _find(folder: Path, suffixes: tuple[str, ...], content: str, one: str) -> list[Path]:
    require_folder(folder, content)
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    if not found:
        raise BadRequest(f"{folder}: holds no {one}; expected files {', '.join(suffixes)}")
    return found


def prepare_outputs(out: Path, names: Iterable[str], overwrite: bool) -> None:
    """Make the folder `out` and check that these files may be written there. Raises OutputError."""
    media.make_folder(out)
    for name in names:
        media.check_output(out / name, overwrite)


# --- lines of JSON --------------------------------------------------------------------------------


def number(value: float) -> float | None:
    """Return a number for JSON: rounded, None for NaN and infinity."""
    return round(float(value), 6) if math.isfinite(value) else None


def numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return named numbers for JSON, see `number`."""
    return {name: number(value) for name, value in values.items()}


def rounded(values: NDArray[Any]) -> list[float | None]:
    """Return a curve (T,) for JSON: rounded, None for NaN."""
    return [round(float(value), 5) if math.isfinite(value) else None for value in values]


def curve(values: Iterable[float | None]) -> NDArray[np.float64]:
    """Return a curve (T,) from JSON: NaN for None."""
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def write_lines(path: Path, rows: Iterable[Any], overwrite: bool = True) -> None:
    """Write one JSON line per dataclass, whole or not at all. Raises OutputError."""
    media.write_text(path, "".join(f"{_line(asdict(row))}\n" for row in rows), overwrite)


def read_lines(path: Path, read: Callable[..., R]) -> list[R]:
    """Read the results that `write_lines` wrote. read: the dataclass, called with the fields.

    Raises BadRequest for a file that it did not write.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [read(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise BadRequest(f"{path}: no lines of results ({reason}); evaluate again") from error


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, allow_nan=False)


# --- the cache ------------------------------------------------------------------------------------


def key_of(facts: Mapping[str, Any]) -> str:
    """Return a hash of everything that decides a result's numbers, with VERSION."""
    return hashlib.sha256(_line({**facts, "version": VERSION}).encode()).hexdigest()


class ResultCache(Generic[R]):
    """Cache of finished results in a file, one per line, under the key of `key_of`.

    Several processes may append to one file. The results of a killed run, or of an earlier command,
    are used again. Incomplete lines are skipped. path: of the file. read: the dataclass of the
    results; raises ValueError, TypeError or KeyError for a line of another version.
    """

    def __init__(self, path: Path, read: Callable[..., R]) -> None:
        self._path = path
        self._results: dict[str, R] = {}
        with media.writing(self._path, OSError):
            lines = self._path.read_bytes().split(b"\n") if self._path.exists() else []
        for line in lines:
            try:
                row = json.loads(line)
                self._results[row["key"]] = read(**row["result"])
            except (ValueError, TypeError, KeyError, RecursionError):  # cut, or of another version
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
