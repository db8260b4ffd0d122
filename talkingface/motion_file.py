"""Motion as a file, to be edited elsewhere, read back to the bit, or drawn on another face.

JSON (one object) or npz (the same entries as arrays):

    format, version, fps      "talkingface-motion", 1, 25
    times                     (T,) seconds, the middle of each frame
    expression, head, brows, lids, gaze     (T, ·), see `motion.Motion`
    arkit                     {"names": [55], "values": (T, 55)}: Apple's 52 blendshapes, and
                              headYaw, headPitch, headRoll in radians; in npz `arkit` and
                              `arkit_names`
    visemes                   [[start, end, name], ...], seconds; where they are known

A reader takes the five arrays of `Motion`; where `expression` is missing, it takes `arkit`. Frames
of other times are interpolated to 25 fps.
"""

from __future__ import annotations

import io
import json
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from talkingface import arkit, media
from talkingface.audio import FPS
from talkingface.errors import BadMotion
from talkingface.motion import SIZES, Motion
from talkingface.types import Floats

FORMAT, VERSION = "talkingface-motion", 1
SUFFIXES = (".json", ".npz")
EXPECTED = "expected a file of `talkingface motion`, or one with ARKit's 52 blendshapes"
PARTS = {"expression": None, **SIZES}

_LARGEST_FILE = 256_000_000  # bytes
_LONGEST = 3600 * FPS  # frames
_MOST_COEFFICIENTS = 64
_LARGEST_VALUE = 100.0  # of any number of a motion

# Of archives, zipfile raises the last of the first row for a compression that it does not know.
_UNREADABLE = (
    *(OSError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, EOFError),
    *(RecursionError, SyntaxError, tokenize.TokenError, zlib.error, zipfile.BadZipFile),
    NotImplementedError,
)
_ARKIT = (*arkit.NAMES, *arkit.HEAD_NAMES)
Viseme = tuple[float, float, str]  # start and end in seconds, name


def is_motion(source: object) -> TypeGuard[str | Path]:
    """Return whether this is the name of a motion's file rather than of a recording."""
    return isinstance(source, (str, Path)) and Path(source).suffix.lower() in SUFFIXES


def write(
    path: Path, motion: Motion, visemes: Sequence[Viseme] = (), overwrite: bool = False
) -> None:
    """Write a motion as `path`'s suffix says, whole or not at all. Raises OutputError, BadMotion
    (another suffix)."""
    if not is_motion(path):
        raise BadMotion(f"{path}: a motion is written as {' or '.join(SUFFIXES)}")
    with media.replacing(path, overwrite) as part, media.writing(path, OSError):
        data = (_json if path.suffix.lower() == ".json" else _npz)(motion, visemes)
        part.write_bytes(data)


def times_of(count: int) -> Floats:
    """The middle of each of so many frames, seconds."""
    return ((np.arange(count) + 0.5) / FPS).astype(np.float32)


def _arrays(motion: Motion) -> dict[str, Floats]:
    return {"times": times_of(len(motion)), **{name: getattr(motion, name) for name in PARTS}}


def _scores(motion: Motion) -> Floats:
    """(T, 55), columns as _ARKIT."""
    return np.concatenate([arkit.to_arkit(motion), arkit.to_head(motion)], 1)


def _json(motion: Motion, visemes: Sequence[Viseme]) -> bytes:
    entries: dict[str, Any] = {"format": FORMAT, "version": VERSION, "fps": FPS}
    entries |= {name: _exact(values) for name, values in _arrays(motion).items()}
    entries["arkit"] = {"names": list(_ARKIT), "values": _exact(np.round(_scores(motion), 4))}
    entries["visemes"] = [[round(a, 3), round(b, 3), name] for a, b, name in visemes]
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _exact(values: NDArray[np.floating[Any]]) -> Any:
    """Lists of the shortest decimals that are these float32 numbers (9 digits always are)."""
    if values.ndim > 1:
        return [_exact(row) for row in values]
    return [float(f"{value:.9g}") for value in values.tolist()]


def _npz(motion: Motion, visemes: Sequence[Viseme]) -> bytes:
    times = np.array([(a, b) for a, b, _ in visemes], np.float32).reshape(-1, 2)
    out = io.BytesIO()
    np.savez_compressed(
        out,
        format=np.array(FORMAT),
        version=np.array(VERSION),
        fps=np.array(FPS),
        arkit=_scores(motion),
        arkit_names=np.array(_ARKIT),
        viseme_times=times,
        viseme_names=np.array([name for _, _, name in visemes], dtype=np.str_),
        **_arrays(motion),  # type: ignore[arg-type]
    )
    return out.getvalue()


def read(path: Path) -> Motion:
    """The motion of a file, see above. Raises BadMotion."""
    try:
        if path.exists() and not path.is_file():
            raise BadMotion(f"{path}: is no regular file; {EXPECTED}")
        if path.stat().st_size > _LARGEST_FILE:
            raise BadMotion(f"{path}: larger than {_LARGEST_FILE} bytes; {EXPECTED}")
        entries = _read_npz(path) if path.suffix.lower() == ".npz" else _read_json(path)
        return _motion(entries, str(path))
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise BadMotion(f"{path}: unreadable ({reason}); {EXPECTED}") from error


def _read_json(path: Path) -> dict[str, Any]:
    entries = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(entries, dict):
        raise ValueError("no object")
    found = {key: entries[key] for key in ("times", *PARTS) if key in entries}
    shapes = entries.get("arkit")
    if isinstance(shapes, dict):
        found |= {"arkit": shapes.get("values"), "arkit_names": shapes.get("names")}
    return found


def _read_npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        sizes = {info.filename: info.file_size for info in file.zip.infolist()}
        if sum(sizes.values()) > _LARGEST_FILE:
            raise ValueError(f"unpacks to more than {_LARGEST_FILE} bytes")
        known = ("times", *PARTS, "arkit", "arkit_names")
        return {key: file[key] for key in known if key in file.files}


def _motion(entries: Mapping[str, Any], name: str) -> Motion:
    """Return the motion of a file's entries, checked and at 25 fps."""
    if "expression" in entries:
        parts = {key: _array(entries, key, size, name) for key, size in PARTS.items()}
        lengths = {len(values) for values in parts.values() if values is not None}
        if len(lengths) > 1:
            raise BadMotion(f"{name}: parts of {sorted(lengths)} frames; expected as many of each")
        still = Motion.still(_required(parts["expression"], name))
        found = {key: getattr(still, key) if v is None else v for key, v in parts.items()}
        motion = Motion(**found)
    elif entries.get("arkit") is not None:
        motion = _from_arkit(entries, name)
    else:
        raise BadMotion(f"{name}: neither `expression` nor `arkit` in it; {EXPECTED}")
    return _at_25(motion, entries, name)


def _required(values: Floats | None, name: str) -> Floats:
    if values is None or not 1 <= values.shape[1] <= _MOST_COEFFICIENTS:
        raise BadMotion(f"{name}: expression must be (frames, coefficients); {EXPECTED}")
    return values


def _array(entries: Mapping[str, Any], key: str, size: int | None, name: str) -> Floats | None:
    """One part (T, size) as finite float32; None where it is missing."""
    if entries.get(key) is None:
        return None
    try:
        values = np.asarray(entries[key], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadMotion(f"{name}: {key} is no table of numbers; {EXPECTED}") from error
    if values.ndim != 2 or not 1 <= len(values) <= _LONGEST or size not in (None, values.shape[1]):
        shape = f"1 to {_LONGEST} frames of {size or 'some'} numbers"
        raise BadMotion(f"{name}: {key} is {values.shape}; expected {shape}")
    if not (np.abs(values) <= _LARGEST_VALUE).all():
        raise BadMotion(f"{name}: {key} holds numbers beyond {_LARGEST_VALUE:g}, or none at all")
    return values.astype(np.float32)


def _from_arkit(entries: Mapping[str, Any], name: str) -> Motion:
    """The motion of ARKit's scores, whatever the order of the columns; missing ones are zero."""
    values = _array(entries, "arkit", None, name)
    names = [str(own) for own in np.asarray(entries.get("arkit_names", [])).ravel().tolist()]
    if values is None or len(names) != values.shape[1] or len(set(names)) != len(names):
        raise BadMotion(f"{name}: arkit needs as many different names as columns of values")
    if not set(names) & set(arkit.NAMES):
        raise BadMotion(f"{name}: none of its names is one of ARKit's, as {arkit.NAMES[0]}")
    known = dict(zip(names, values.T, strict=True))
    scores, head = (
        np.stack([known.get(own, np.zeros(len(values), np.float32)) for own in wanted], 1)
        for wanted in (arkit.NAMES, arkit.HEAD_NAMES)
    )
    return arkit.from_arkit(scores, head)


def _at_25(motion: Motion, entries: Mapping[str, Any], name: str) -> Motion:
    """The motion as it is, or interpolated where its times are not those of 25 fps."""
    if entries.get("times") is None:
        return motion
    times = np.asarray(entries["times"], dtype=np.float64)
    if times.shape != (len(motion),) or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise BadMotion(f"{name}: times must be {len(motion)} growing seconds, one for each frame")
    if np.allclose(times, times_of(len(times)), atol=1e-3):
        return motion
    count = round((times[-1] - times[0]) * FPS) + 1
    if count > _LONGEST:
        raise BadMotion(f"{name}: lasts {times[-1] - times[0]:.0f} s; at most {_LONGEST / FPS:g}")
    wanted = times[0] + np.arange(count) / FPS
    parts = (
        np.stack([np.interp(wanted, times, column) for column in getattr(motion, part.name).T], 1)
        for part in fields(Motion)
    )
    return Motion(*(part.astype(np.float32) for part in parts))
