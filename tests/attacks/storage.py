"""A full disk, and somebody who removes the server's folder."""

from __future__ import annotations

import errno
import shutil
import time
from collections import Counter
from pathlib import Path

from attacks.target import Target
from helpers.honest_clients import FILES

_FILLER = "filler"
_TRIES = 3  # requests while the disk is full
_ROOM = 20  # pauses between two times


def full(target: Target, end: float) -> Counter[str]:
    """Fill the disk, send requests, make room, and see that the server answers again."""

    def once(number: int) -> str:
        if number % (_TRIES + 1) == 0:
            _fill(target.temp / _FILLER)
        with target.client() as client:
            if number % (_TRIES + 1) < _TRIES:
                return str(client.post("/v1/generate", files=FILES).status_code)
            (target.temp / _FILLER).unlink()
            answer = client.get("/v1/health")
        time.sleep(_ROOM * target.pause)
        return str(answer.status_code)

    counts = target.repeat(end, once)
    (target.temp / _FILLER).unlink(missing_ok=True)
    return counts


def _fill(path: Path) -> None:
    """Write until nothing more can be written. Raises OSError for any other reason."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def removed(target: Target, end: float) -> Counter[str]:
    """Remove the server's folder, as cleaners of temporary files do, and send a request."""

    def once(_: int) -> str:
        for folder in target.temp.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
        with target.client() as client:
            answer = client.post("/v1/generate", files=FILES, data={"show": "face"})
        time.sleep(_ROOM * target.pause)
        return str(answer.status_code)

    return target.repeat(end, once)
