"""Temporary files: one folder per request, removed when the request ends."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from talkingface.errors import BadRequest, TalkingFaceError
from talkingface.web.errors import RETRY_AFTER, ApiError, storage_error

PREFIX = "talkingface-serve-"
_log = logging.getLogger("talkingface.web")


class TempStore:
    """A private folder (mode 700) with one subfolder per request.

    The folder is locked while its server runs: the next server removes folders without a lock,
    which a killed server left behind, and systemd-tmpfiles leaves locked folders alone. If somebody
    removes it nevertheless, it is made again.
    """

    def __init__(self, parent: Path | None = None) -> None:
        """Create the folder. parent: its parent [the system's folder for temporary files].

        Raises BadRequest when nothing can be written there.
        """
        try:
            self._parent = Path(tempfile.gettempdir()) if parent is None else parent
            _remove_left_behind(self._parent)
            self._making = threading.Lock()
            self.root, self._lock = self._make()
        except OSError as error:
            where = "the system's folder for temporary files" if parent is None else parent
            raise BadRequest(
                f"{where}: cannot be written to ({error.strerror or error}); give another --temp"
            ) from error

    def _make(self) -> tuple[Path, int]:
        """Return (a new folder, the descriptor that locks it)."""
        root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._parent))
        lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return root, lock

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Create an empty folder and remove it with its content at the end."""
        path = self._new_folder()
        try:
            yield path
        finally:
            _remove(path)

    def _new_folder(self) -> Path:
        with self._making:
            try:
                return Path(tempfile.mkdtemp(dir=self.root))
            except FileNotFoundError:
                _log.error("%s was removed by somebody: it is made again", self.root)
                os.close(self._lock)
                self.root, self._lock = self._make()
                return Path(tempfile.mkdtemp(dir=self.root))

    def check(self) -> None:
        """Write a file and remove it. Raises ApiError: 507 for a full disk, 503."""
        try:
            with self.folder() as folder:
                (folder / "check").write_bytes(bytes(4096))
        except OSError as error:
            reason = error.strerror or str(error)
            raise storage_error(error) or ApiError(
                503, f"the server cannot write temporary files ({reason})"
            ) from None

    def folders(self) -> list[Path]:
        """Return the folders of the requests that are open now."""
        return list(self.root.iterdir()) if self.root.exists() else []

    def close(self) -> None:
        """Remove all files and release the lock."""
        _remove(self.root)
        os.close(self._lock)


@contextmanager
def still_there(path: Path) -> Iterator[None]:
    """Raise ApiError (503) instead of the block's error if `path` is no longer there.

    path: a request's folder or file, which somebody, as a cleaner of old files, may remove.
    """
    try:
        yield
    except (OSError, TalkingFaceError, ApiError) as error:
        if path.exists():
            raise
        text = "the server's temporary files were removed: send it again"
        raise ApiError(503, text, RETRY_AFTER) from error


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        _log.error("%s could not be removed: it holds files of a request", folder)


def _remove_left_behind(parent: Path) -> None:
    """Remove the folders of dead servers of this user."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # the lock is held, or the folder is being removed
            if folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)
            finally:
                os.close(lock)
