"""Write frames as numbered PNG files, or raw to standard output.

Pillow is imported when needed.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from talkingface import media
from talkingface.errors import OutputError
from talkingface.provenance import Signer
from talkingface.types import PathLike, Picture

_NAME = "%05d.png"  # in a folder
_DIGITS = re.compile(r"%0?\d*d")


class PngSequence:
    """Numbered PNG files under construction, the first is 1. Made by `png_sequence`."""

    def __init__(self, path: Path, folder: Path, tag: str | None) -> None:
        """path: what errors name. folder: where the files are written. tag: comment of each."""
        self._path, self._folder, self._tag = path, folder, tag
        self.frames = 0

    def add(self, picture: Picture) -> None:
        """Write a frame, (H, W, 3) RGB or (H, W, 4) RGBA uint8. Raises OutputError."""
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        about = PngInfo()
        if self._tag is not None:
            about.add_text("Comment", self._tag)
        self.frames += 1
        with media.writing(self._path, OSError):
            file = self._folder / str(self.frames)
            Image.fromarray(picture).save(file, "PNG", compress_level=1, pnginfo=about)

    def finish(self) -> None:
        """Do nothing: every file is whole."""

    def close(self) -> None:
        """Do nothing."""


def check_sequence(path: PathLike, overwrite: bool) -> None:
    """Raise OutputError when numbered files of this name cannot or must not be written."""
    folder, pattern = _place(path)
    if folder.is_dir():
        media.check_output(folder / (pattern % 1), overwrite)
    else:
        media.check_output(folder)
    if not overwrite and (there := _numbered(folder, pattern)):
        raise OutputError(f"{there[0]}: exists already; give another name or --overwrite")


@contextmanager
def png_sequence(
    path: PathLike, overwrite: bool, tag: str | None, signer: Signer | None = None
) -> Iterator[PngSequence]:
    """Numbered PNG files; they get their names when all of them are complete.

    path: frames/%05d.png, or a folder as frames/. After an error no new file is left. Files of an
    earlier sequence of that name are replaced. Raises OutputError.
    """
    check_sequence(path, overwrite)
    folder, pattern = _place(path)
    with media.temporary_folder(folder.absolute()) as part:
        sequence = PngSequence(Path(path), part, tag)
        yield sequence
        if signer is not None:
            for number in range(1, sequence.frames + 1):
                signer.sign(Path(path), part / str(number), "image2", tag)
        with media.writing(folder, OSError):
            folder.mkdir(exist_ok=True)
            for old in _numbered(folder, pattern):
                old.unlink()
            for number in range(1, sequence.frames + 1):
                (part / str(number)).replace(folder / (pattern % number))


def _place(path: PathLike) -> tuple[Path, str]:
    """Return the folder of a sequence, and the pattern of its files."""
    if str(path).endswith("/"):
        return Path(path), _NAME
    path = Path(path)
    if len(_DIGITS.findall(path.name)) != 1 or path.name.count("%") != 1:
        raise OutputError(f"{path}: give one number in the files' name, as %05d.png")
    return path.parent, path.name


def _numbered(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a sequence that are there."""
    before, after = _DIGITS.split(pattern)
    name = re.compile(re.escape(before) + r"\d+" + re.escape(after))
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if name.fullmatch(path.name))


def check_standard_output() -> None:
    """Raise OutputError where standard output is a terminal or closed."""
    if sys.stdout is None or sys.stdout.isatty():
        raise OutputError("-: standard output is a terminal: send it to a program or a file")


@contextmanager
def standard_output() -> Iterator[BinaryIO]:
    """Standard output, for bytes. Raises OutputError, also when its reader has ended."""
    check_standard_output()
    pipe = _Pipe(sys.stdout.buffer)
    try:
        yield cast("BinaryIO", pipe)
        with media.writing(Path("-"), OSError):
            pipe.flush()
    except OutputError as error:
        if not pipe.closed_by_reader:
            raise
        # Python would try once more at its end to write what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(
            "-: the program that reads standard output closed it before the end"
        ) from error


class _Pipe:
    """A file, for FFmpeg, that knows whether its reader is gone."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.closed_by_reader = file, False

    def write(self, data: bytes) -> int:
        """Write all of it. Raises OSError."""
        try:
            return self._file.write(data)
        except BrokenPipeError:
            self.closed_by_reader = True
            raise

    def flush(self) -> None:
        """Write what is buffered. Raises OSError."""
        try:
            self._file.flush()
        except BrokenPipeError:
            self.closed_by_reader = True
            raise
