"""Temporary files: one folder per request, removed when the request ends."""

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


class TempStore:
    """A private folder (mode 700) with one subfolder per request.

    It holds a file lock while its server runs. The next server removes folders without a held
    lock, which a killed server left behind.
    """

    def __init__(self, parent: Path | None = None) -> None:
        """Create the folder. parent: its parent [the system's folder for temporary files]."""
        where = Path(tempfile.gettempdir()) if parent is None else parent
        _remove_left_behind(where)
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))
        self._lock = (self.root / _LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Create an empty folder and remove it with its content at the end."""
        path = Path(tempfile.mkdtemp(dir=self.root))
        try:
            yield path
        finally:
            _remove(path)

    def folders(self) -> list[Path]:
        """Return the folders of the requests that are open now."""
        return [path for path in self.root.iterdir() if path.name != _LOCK]

    def close(self) -> None:
        """Remove all files and release the lock."""
        _remove(self.root)
        self._lock.close()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        _log.error("%s could not be removed: it holds files of a request", folder)


def _remove_left_behind(parent: Path) -> None:
    """Remove the folders of dead servers of this user."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            if folder.stat().st_uid != os.getuid() or folder.is_symlink():
                continue
            with (folder / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)
        except OSError:  # the lock is held, or the folder is being created or removed
            continue
