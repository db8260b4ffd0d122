"""Recordings: files of a corpus before they are opened; and helpers of all corpora."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from talkingface.data.clip import Word
from talkingface.errors import BadRequest, UnreadableMedia

UNKNOWN = ""  # the speaker where a corpus does not say who speaks
HTK_RATE = 10_000_000  # units per second of HTK's label files
ENGLISH = "en"
VIDEOS = (".mpg", ".mkv", ".mp4", ".mov", ".flv", ".avi", ".webm", ".m4v")


@dataclass(frozen=True)
class Recording:
    """A file of a corpus, not yet opened. still: a picture without sound.

    speaker: UNKNOWN where the corpus does not say. split: see `Corpus`. words: seconds from the
    file's start, empty where the times are unknown; phones: likewise. sentence: "" where it is
    unknown. sound: a separate file with its sound. labels: the file that `Corpus.label` reads
    later. facts: entries of the clip's `info`.
    """

    key: str
    speaker: str
    path: Path
    split: str
    sentence: str = ""
    words: tuple[Word, ...] = ()
    still: bool = False
    phones: tuple[Word, ...] = ()
    sound: Path | None = None
    labels: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sound_file(self) -> Path:
        """The file with its sound: the separate one if it exists, else the recording itself."""
        return self.sound if self.sound is not None and self.sound.is_file() else self.path


Find = Callable[[Path, Sequence[str] | None], list[Recording]]


def identity(recording: Recording) -> Recording:
    """Return the recording unchanged: its labels are known already."""
    return recording


@dataclass(frozen=True)
class Corpus:
    """A corpus of `talkingface prepare NAME`. title, paper, about: one line; layout: of its folder.

    find: its folder, and speakers to hold out [the published ones] -> its recordings. Splits are
    TRAIN, VALIDATION, TEST (other sentences, of people who may be in TRAIN) and UNSEEN (people who
    are in no other split). label: reads a recording's label file; raises UnreadableMedia.
    groups: named sets of speakers to hold out. natural_pose: the head moves in its crop unless the
    user says otherwise. licence: of the recordings, as far as weights learned from them inherit it.
    """

    name: str
    title: str
    paper: str
    about: str
    layout: str
    find: Find
    licence: str
    label: Callable[[Recording], Recording] = identity
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    natural_pose: bool = False

    @property
    def line(self) -> str:
        """The line of the corpus in a list."""
        return f"{self.title} ({self.paper}): {self.about}" if self.paper else self.about

    @property
    def terms(self) -> str:
        """Paper and licence, for the header of weights."""
        return f"{self.paper}, {self.licence}" if self.paper else self.licence


def require(folder: Path, what: str) -> None:
    """Raise BadRequest when the corpus's folder is missing. what: the expected content."""
    if not folder.is_dir():
        raise BadRequest(f"{folder}: is no folder; expected {what}")


def require_some(recordings: list[Recording], folder: Path, what: str) -> list[Recording]:
    """Return the recordings. Raises BadRequest where there is none. what: the expected content."""
    if not recordings:
        raise BadRequest(f"{folder}: no {what}")
    return recordings


def folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, in order; none where it is missing.

    Like `files_in`, quick in a folder of a million entries: no file is opened.
    """
    return sorted(e.name for e in os.scandir(folder) if e.is_dir()) if folder.is_dir() else []


def files_in(folder: Path, ending: str) -> list[Path]:
    """Return the files in a folder whose names end like this, in order; none if it is missing."""
    names = (e.name for e in os.scandir(folder)) if folder.is_dir() else ()
    return [folder / name for name in sorted(names) if name.endswith(ending)]


def first_folder(folder: Path, *names: str) -> Path | None:
    """Return the first of these folders below `folder` ("." is itself) that exists."""
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def hash_bucket(name: str, count: int) -> int:
    """Hash a name to one of `count` buckets, always the same; splits use it."""
    return int(hashlib.sha1(name.encode()).hexdigest(), 16) % count


def label_lines(path: Path, unit: int, silences: frozenset[str]) -> tuple[Word, ...]:
    """Read the words or phones of lines "start end name", in seconds, without silences.

    unit: units per second. Raises UnreadableMedia when a line is not like that.
    """
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise UnreadableMedia(f"{path}: cannot be read ({error.strerror})") from error
    return tuple(parse_labels(path, enumerate(text.splitlines(), 1), unit, silences))


def parse_labels(
    path: Path,
    lines: Iterable[tuple[int, str]],
    unit: int,
    silences: frozenset[str],
) -> Iterator[Word]:
    """Parse numbered lines of `path`, see `label_lines`."""
    for number, line in lines:
        fields = line.split()
        if not fields:
            continue
        try:
            start, end, word = int(fields[0]), int(fields[1]), fields[2].lower()
        except (ValueError, IndexError):
            start, end, word = 1, 0, ""
        if len(fields) != 3 or not 0 <= start <= end:
            raise UnreadableMedia(
                f"{path}: line {number} is {line!r}, expected 'start end word' in units of "
                f"1/{unit} s; mend it, or remove the file to do without word times"
            )
        if word not in silences:
            yield word, start / unit, end / unit
