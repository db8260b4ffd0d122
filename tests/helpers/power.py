"""A disk that forgets: the files that a power cut would have left, at every step of a writer."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

STEPS = ("fsync", "replace", "rename", "link", "unlink", "remove", "rmdir", "mkdir")  # of `os`


@dataclass(frozen=True)
class File:
    """A file that a cut leaves. time: of its last change, ns."""

    content: bytes
    time: int


Tree = dict[str, "File | Tree"]  # a folder's names


@dataclass(frozen=True)
class Cut:
    """Files after a power cut. said: how many things were said to be saved."""

    left: Tree
    said: int

    def write(self, folder: Path) -> None:
        """Replace a folder by what is left of it."""
        shutil.rmtree(folder, ignore_errors=True)
        _write(self.left, folder)


def _write(tree: Tree, folder: Path) -> None:
    folder.mkdir()
    for name, own in tree.items():
        if isinstance(own, File):
            (folder / name).write_bytes(own.content)
            os.utime(folder / name, ns=(own.time, own.time))
        else:
            _write(own, folder / name)


class ForgetfulDisk:
    """Note what of a folder is on the disk while files are written there.

    A file's content is on the disk as of its last fsync, a folder's names as of the folder's.
    Before each step a power cut leaves one of two: only what is on the disk, or all names, but of
    content that is not on the disk the first half.
    """

    def __init__(self, folder: Path) -> None:
        """folder: what is in it is on the disk."""
        self._folder = folder
        self._contents: dict[int, bytes] = {}  # by inode
        self._names: dict[int, dict[str, tuple[int, bool, int]]] = {}  # inode, folder?, time
        self._held: list[int] = []  # so that no inode is used again
        self.cuts: list[Cut] = []
        self._said = 0
        for path in (folder, *folder.rglob("*")):
            self._note(path)

    def say(self) -> None:
        """Note that one more thing is said to be saved."""
        self._said += 1

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note every step of the block, and cut before each and at the end."""
        with pytest.MonkeyPatch.context() as patch:
            for name in STEPS:
                patch.setattr(os, name, self._step(name, getattr(os, name)))
            yield
        self._cut()
        for held in self._held:
            os.close(held)

    def _step(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            self._cut()
            done = real(*arguments, **options)
            if name == "fsync":
                self._note(Path(os.readlink(f"/proc/self/fd/{arguments[0]}")))
            return done

        return step

    def _note(self, path: Path) -> None:
        """The content or the names of a path are on the disk now."""
        if not path.is_relative_to(self._folder):
            return
        held = os.open(path, os.O_RDONLY)
        self._held.append(held)
        status = os.fstat(held)
        if stat.S_ISDIR(status.st_mode):
            self._names[status.st_ino] = _listing(path)
        else:
            self._contents[status.st_ino] = path.read_bytes()

    def _cut(self) -> None:
        """Note what a cut would leave now."""
        root = self._folder.stat().st_ino
        for live in (None, self._folder):
            self.cuts.append(Cut(self._left(root, live), self._said))

    def _left(self, inode: int, live: Path | None) -> Tree:
        """Return a folder of the names on the disk, or of those of a live folder."""
        tree: Tree = {}
        names = self._names.get(inode, {}) if live is None else _listing(live)
        for name, (own, is_folder, time) in names.items():
            path = None if live is None else live / name
            if is_folder:
                tree[name] = self._left(own, path)
                continue
            content = self._contents.get(own, b"")
            if path is not None:
                content = _torn(content, path.read_bytes())
            tree[name] = File(content, time)
        return tree


def _listing(folder: Path) -> dict[str, tuple[int, bool, int]]:
    found = {}
    for path in folder.iterdir():
        status = path.lstat()
        found[path.name] = (status.st_ino, stat.S_ISDIR(status.st_mode), status.st_mtime_ns)
    return found


def _torn(known: bytes, live: bytes) -> bytes:
    """Return the bytes on the disk, and half of those that are not there yet."""
    if not live.startswith(known):
        known = b""
    return live[: (len(known) + len(live)) // 2 if len(known) < len(live) else len(live)]
