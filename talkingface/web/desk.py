"""Temporary files: a folder for each request, gone with it, whatever becomes of the request."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "talkingface-serve-"
_LOCK = "lock"
_log = logging.getLogger("talkingface.web")


class Desk:
    """A private folder (mode 700), in which each request has one of its own.

    It holds a lock as long as its server lives, so that the next server can tell what a killed one
    left behind, and removes that.
    """

    def __init__(self, parent: Path | None = None) -> None:
        """parent: where [the system's folder for temporary files]."""
        where = Path(tempfile.gettempdir()) if parent is None else parent
        _remove_left_behind(where)
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))
        self._lock = (self.root / _LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """An empty folder, removed at the end with all that is in it."""
        path = Path(tempfile.mkdtemp(dir=self.root))
        try:
            yield path
        finally:
            _remove(path)

    def folders(self) -> list[Path]:
        """Those that are there now."""
        return [path for path in self.root.iterdir() if path.name != _LOCK]

    def close(self) -> None:
        """Remove everything."""
        _remove(self.root)
        self._lock.close()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        _log.error("%s could not be removed: it holds files of a request", folder)


def _remove_left_behind(parent: Path) -> None:
    """Folders of our own whose server is dead."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            if folder.stat().st_uid != os.getuid() or folder.is_symlink():
                continue
            with (folder / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)
        except OSError:  # alive: its lock is held; or just being made, or just being removed
            continue
