"""Files of tracked faces, to go on where a run was stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from talkingface import media
from talkingface.errors import BadRequest
from talkingface.types import PathLike

VERSION = 1
Tensors = Mapping[str, NDArray[Any]]


def write(path: PathLike, kind: str, tensors: Tensors) -> None:
    """Write arrays by name, replacing a file that is there. kind: of the file."""
    packed = {name: np.ascontiguousarray(part) for name, part in tensors.items()}
    packed[f"{kind}.version"] = np.array([VERSION])
    with media.replacing(Path(path), overwrite=True) as temporary:
        save_file(packed, temporary)


def read(path: PathLike, kind: str, names: list[str]) -> dict[str, NDArray[Any]]:
    """Read a file of `write`. names: some that must be there. Raises BadRequest."""
    try:
        tensors: dict[str, NDArray[Any]] = load_file(path)
        missing = [name for name in [*names, f"{kind}.version"] if name not in tensors]
    except (OSError, SafetensorError, ValueError) as error:
        raise _no_such_file(path, kind, str(error)) from error
    if missing or int(tensors[f"{kind}.version"][0]) != VERSION:
        raise _no_such_file(path, kind, f"it has no {missing[0]}" if missing else "older version")
    return tensors


def _no_such_file(path: PathLike, kind: str, reason: str) -> BadRequest:
    return BadRequest(
        f"{path}: not a file of a {kind} ({reason}): delete it, and the video is tracked from its "
        "beginning"
    )
