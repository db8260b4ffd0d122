"""Turns of a conversation: read from JSON or RTTM, and a sound with silence outside them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from talkingface.audio import SAMPLE_RATE
from talkingface.errors import UnreadableMedia
from talkingface.types import PathLike

EXPECTED = (
    'expected JSON, [{"start": 0, "end": 2.5, "speaker": "anna"}, ...] in seconds ("face": 2 '
    "instead names a face), or lines of RTTM"
)
_LARGEST = 4_000_000  # bytes of a file
_MOST = 50_000  # turns
_LATEST = 1e6  # seconds
_LONGEST_NAME = 200  # characters
_RTTM_FIELDS = range(8, 11)  # of a line that begins with SPEAKER
_RAMP = 0.01  # seconds in which the sound of a turn sets in and ends


@dataclass(frozen=True)
class Turn:
    """A stretch of time, seconds, in which somebody speaks.

    speaker: the name, or the number of the face by size (`FaceOptions`).
    """

    start: float
    end: float
    speaker: str | int


def read_turns(path: PathLike) -> list[Turn]:
    """Read the turns of a conversation in order of time, JSON or RTTM. Raises UnreadableMedia."""
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST:
            raise UnreadableMedia(f"{path}: is larger than {_LARGEST} bytes; {EXPECTED}")
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8"
        raise UnreadableMedia(f"{path}: cannot be read ({reason}); {EXPECTED}") from error
    try:
        found = list(_of_json(text) if text.lstrip()[:1] in ("[", "{") else _of_rttm(text))
        if not 0 < len(found) <= _MOST:
            raise ValueError(f"it has {len(found)} turns, 1 to {_MOST} are read")
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UnreadableMedia(f"{path}: no turns of speakers ({reason}); {EXPECTED}") from error
    return sorted(found, key=lambda turn: turn.start)


def _of_json(text: str) -> Iterator[Turn]:
    rows = json.loads(text)
    if not isinstance(rows, list):
        raise ValueError(f"it is a JSON {type(rows).__name__}, no list")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"turn {number} is no object")
        speaker = row.get("face", row.get("speaker"))
        if "face" in row and (type(speaker) is not int or not 0 < speaker < 1000):
            raise ValueError(f"turn {number}: a face is a number from 1, the largest")
        times = row.get("start"), row.get("end")
        if any(type(time) not in (int, float) for time in times):
            raise ValueError(f"turn {number}: start and end are no numbers")
        yield _turn(f"turn {number}", _as_float(times[0]), _as_float(times[1]), speaker)


def _as_float(number: Any) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _of_rttm(text: str) -> Iterator[Turn]:
    """Lines as SPEAKER file channel onset duration <NA> <NA> name <NA> <NA>; others are skipped."""
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields or line.startswith(";"):
            continue
        if not fields[0].isupper():
            raise ValueError(f"line {number} is no line of RTTM")
        if fields[0] != "SPEAKER":
            continue
        if len(fields) not in _RTTM_FIELDS:
            raise ValueError(f"line {number} has {len(fields)} fields, RTTM has 10")
        start = float(fields[3])
        yield _turn(f"line {number}", start, start + float(fields[4]), fields[7])


def _turn(where: str, start: float, end: float, speaker: Any) -> Turn:
    """Return a turn that is within all limits. Raises ValueError."""
    if not 0 <= start < end <= _LATEST:
        raise ValueError(f"{where} goes from {start:g} to {end:g} s")
    if isinstance(speaker, str) and not 0 < len(speaker) <= _LONGEST_NAME:
        raise ValueError(f"{where}: a name has 1 to {_LONGEST_NAME} characters")
    if not isinstance(speaker, str | int):
        raise ValueError(f"{where} names no speaker")
    return Turn(start, end, speaker)


def names(turns: Iterable[Turn]) -> list[str | int]:
    """Return who speaks, in order of the first turns."""
    return list(dict.fromkeys(turn.speaker for turn in turns))


def spans(turns: Iterable[Turn], speaker: str | int) -> list[tuple[float, float]]:
    """Return when one of them speaks, seconds: in order of time, apart from each other."""
    out: list[tuple[float, float]] = []
    for turn in sorted((t for t in turns if t.speaker == speaker), key=lambda t: t.start):
        if out and turn.start <= out[-1][1] + 2 * _RAMP:
            out[-1] = out[-1][0], max(out[-1][1], turn.end)
        else:
            out.append((turn.start, turn.end))
    return out


def within(parts: Iterable[Tensor], spoken: list[tuple[float, float]]) -> Iterator[Tensor]:
    """Yield parts (n,) of a sound at 16 kHz, silent outside spans of `spans`."""
    ramps = [(a, a + min(_RAMP, (b - a) / 2), b - min(_RAMP, (b - a) / 2), b) for a, b in spoken]
    knots, levels = np.array(ramps).ravel(), np.tile([0.0, 1.0, 1.0, 0.0], len(ramps))
    done = 0
    for part in parts:
        times = (done + np.arange(len(part))) / SAMPLE_RATE
        done += len(part)
        level = np.interp(times, knots, levels) if ramps else np.zeros(len(part))
        yield part * torch.from_numpy(level.astype(np.float32))
