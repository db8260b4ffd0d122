"""Folder of unfinished work beside an output: a run that was stopped goes on from there."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from talkingface import media
from talkingface.errors import OutputError

_KEY = re.compile(r"[0-9a-f]{16}")


class WorkFolder:
    """Files of unfinished work. Each is whole or not there."""

    def __init__(self, folder: Path, output: Path) -> None:
        """output: what errors name."""
        self._folder, self._output = folder, output

    def file(self, name: str) -> Path:
        """Return the path of a file by its name."""
        return self._folder / name

    def has(self, *names: str) -> bool:
        """Return whether all of these files are there: a removal may have been cut short."""
        return all(self.file(name).exists() for name in names)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A temporary name for a file, which gets its own on success. Raises OutputError."""
        part = self._folder / f"{name}.part"
        yield part
        with media.writing(self._output, OSError):
            media.sync(part)
            os.replace(part, self._folder / name)


@contextmanager
def work_folder(output: Path, key: str) -> Iterator[WorkFolder]:
    """Make or find the folder of the work that has this key.

    It is removed when the work is done, and after an error of the work; it stays when the process
    is stopped, and where the output cannot be written. Those of other work for the same output are
    removed, unless a process is in them.

    key: 16 hexadecimal digits of everything on which the work depends.
    Raises OutputError: another process does this work, or the folder cannot be written.
    """
    path = output.absolute()
    begin = f".{path.name[:50]}."
    folder = path.parent / f"{begin}{key}.parts"
    _remove_others(folder, begin)
    with media.writing(output, OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
    with _locked(folder) as free:
        if not free:
            raise OutputError(f"{output}: is being written by another process; wait for it")
        try:
            yield WorkFolder(folder, output)
        except OutputError:
            raise
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder, which ends with the process. Whether it was free."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _remove_others(own: Path, begin: str) -> None:
    """Remove the folders of other work for the same output."""
    with suppress(OSError):  # a folder may be written to but not listed; then they stay
        for name in os.listdir(own.parent):
            key = name[len(begin) : -len(".parts")]
            folder = own.parent / name
            if name == f"{begin}{key}.parts" and _KEY.fullmatch(key) and folder != own:
                with _locked(folder) as free:
                    if free:
                        shutil.rmtree(folder, ignore_errors=True)
