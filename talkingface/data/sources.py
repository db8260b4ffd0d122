"""What is in a corpus: one function per corpus, from a folder to a list of recordings.

A recording says where its file is, who speaks, what is said and which split it belongs to, all by
names and by rule, so that everybody who prepares the corpus gets the same splits. Nothing is
decoded here. A new corpus is a new function and a line in `CORPORA`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from talkingface.data.clip import Word, key_of
from talkingface.errors import BadRequest, UnreadableMedia

STRANGERS = ("s4", "s26")  # GRID speakers held out whole, unless others are named
MAIN_SPEAKER = 100  # clips: who has as many gives some sentences to "test" and "val"
ALIGNMENT_RATE = 25_000  # units per second of GRID's alignments
VIDEOS = (".mpg", ".mkv", ".mp4")  # GRID's own first: a clip that is there twice is read once
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

_COMMANDS = {"b": "bin", "l": "lay", "p": "place", "s": "set"}
_COLOURS = {"b": "blue", "g": "green", "r": "red", "w": "white"}
_PREPOSITIONS = {"a": "at", "b": "by", "i": "in", "w": "with"}
_LETTERS = {letter: letter for letter in "abcdefghijklmnopqrstuvxyz"}  # w has three syllables
_DIGITS = dict(
    zip("z123456789", "zero one two three four five six seven eight nine".split(), strict=True)
)
_ADVERBS = {"a": "again", "n": "now", "p": "please", "s": "soon"}
_GRAMMAR = (_COMMANDS, _COLOURS, _PREPOSITIONS, _LETTERS, _DIGITS, _ADVERBS)
_SILENCE = {"sil", "sp"}


@dataclass(frozen=True)
class Recording:
    """A file of a corpus, not yet opened. still: a picture without sound.

    words: seconds from the file's start; empty where the times are unknown. sentence: "" where it
    is unknown.
    """

    key: str
    speaker: str
    path: Path
    split: str
    sentence: str = ""
    words: tuple[Word, ...] = ()
    still: bool = False


def grid(folder: Path, held_out: Sequence[str] = STRANGERS) -> list[Recording]:
    """The GRID corpus (Cooke et al. 2006): `<speaker>/<clip>.mpg`, .mkv or .mp4, by name.

    Word times come from `alignments/<speaker>/<clip>.align` or `<speaker>/align/<clip>.align`,
    where they are; the sentence from them or from the file's name. Splits: `held_out` speakers are
    "stranger"; of speakers with 100 clips or more, the sentences that `sentence_split` says are
    "test" and "val"; the rest is "train". Raises BadRequest when there is nothing to prepare.
    """
    found: dict[tuple[str, str], Path] = {}
    for kind in VIDEOS:
        for path in folder.glob(f"*/*{kind}"):
            found.setdefault((path.parent.name, path.stem), path)
    if not found:
        raise BadRequest(
            f"{folder}: no clips of GRID; expected <speaker>/<clip>.mpg, .mkv or .mp4 in it"
        )
    counts = Counter(speaker for speaker, _ in found)
    recordings = []
    for (speaker, name), path in sorted(found.items()):
        words = _grid_words(folder, speaker, name)
        spelled = sentence_of(name)
        split = "train"
        if speaker in held_out:
            split = "stranger"
        elif counts[speaker] >= MAIN_SPEAKER and spelled:
            split = sentence_split(name)
        sentence = " ".join(word for word, _, _ in words) or spelled or ""
        key = key_of(speaker, name)
        recordings.append(Recording(key, speaker, path, split, sentence, words))
    return recordings


def portraits(folder: Path) -> list[Recording]:
    """Still pictures of faces, silent clips of one frame; each third, by name, is held out."""
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURES)
    if not paths:
        raise BadRequest(f"{folder}: no pictures; expected {', '.join(PICTURES)} files in it")
    return [
        Recording(
            key=key_of("portrait", path.stem),
            speaker="portrait",
            path=path,
            split="train" if number % 3 else "portrait-heldout",
            still=True,
        )
        for number, path in enumerate(paths)
    ]


CORPORA: dict[str, Callable[[Path, Sequence[str]], list[Recording]]] = {"grid": grid}


def sentence_of(name: str) -> str | None:
    """The sentence "bin blue at f two now" of a GRID file named bbaf2n; None if it spells none."""
    if len(name) != len(_GRAMMAR):
        return None
    words = [words.get(letter) for words, letter in zip(_GRAMMAR, name, strict=True)]
    known = [word for word in words if word is not None]
    return " ".join(known) if len(known) == len(words) else None


def sentence_split(name: str) -> str:
    """The split of a sentence by its name, whoever speaks it: a twentieth test, a twentieth val."""
    place = int(hashlib.sha1(name.encode()).hexdigest(), 16) % 20
    return {0: "test", 1: "val"}.get(place, "train")


def read_alignment(path: Path) -> tuple[Word, ...]:
    """The words of a GRID alignment with their times in seconds, silences left out.

    Raises UnreadableMedia when a line is not "start end word" with 0 <= start <= end.
    """
    words = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
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
                f"1/{ALIGNMENT_RATE} s; mend it, or remove the file to do without word times"
            )
        if word not in _SILENCE:
            words.append((word, start / ALIGNMENT_RATE, end / ALIGNMENT_RATE))
    return tuple(words)


def _grid_words(folder: Path, speaker: str, name: str) -> tuple[Word, ...]:
    for path in (
        folder / "alignments" / speaker / f"{name}.align",
        folder / speaker / "align" / f"{name}.align",
    ):
        if path.is_file():
            return read_alignment(path)
    return ()
