"""The GRID corpus and its Lombard extension: six-word sentences, coded in file names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from talkingface.data.clip import TEST, TRAIN, UNSEEN, VALIDATION, Word, key_of
from talkingface.data.sources.recording import (
    ENGLISH,
    Recording,
    first_folder,
    hash_bucket,
    label_lines,
    require,
    require_some,
)
from talkingface.errors import UnreadableMedia

HELD_OUT_SPEAKERS = ("s4", "s26")  # GRID speakers held out whole, unless others are named
LIPNET_UNSEEN = ("s1", "s2", "s20", "s22")  # LipNet's (Assael et al. 2016) unseen speakers
MAIN_SPEAKER = 100  # clips: speakers with so many have TEST and VALIDATION sentences
ALIGNMENT_RATE = 25_000  # units per second of GRID's alignments
KINDS = (".mpg", ".mkv", ".mp4")  # GRID's own first: duplicate clips are read once
PLACES = ("*/*", "*/video/*", "*/video/*/*")  # <speaker>/... as the archives unpack
LOMBARD_HELD_OUT = tuple(f"lombard-s{number}" for number in range(10, 56, 10))

_COMMANDS = {"b": "bin", "l": "lay", "p": "place", "s": "set"}
_COLOURS = {"b": "blue", "g": "green", "r": "red", "w": "white"}
_PREPOSITIONS = {"a": "at", "b": "by", "i": "in", "w": "with"}
_LETTERS = {letter: letter for letter in "abcdefghijklmnopqrstuvxyz"}  # w has three syllables
_DIGITS = dict(
    zip("z123456789", "zero one two three four five six seven eight nine".split(), strict=True)
)
_ADVERBS = {"a": "again", "n": "now", "p": "please", "s": "soon"}
_GRAMMAR = (_COMMANDS, _COLOURS, _PREPOSITIONS, _LETTERS, _DIGITS, _ADVERBS)
_SILENCES = frozenset({"sil", "sp"})


def grid(folder: Path, held_out: Sequence[str] | None = None) -> list[Recording]:
    """List the GRID corpus (Cooke et al. 2006): `<speaker>/<clip>.mpg`, .mkv or .mp4, by name.

    Also in the layout of the larger archives, `<speaker>/video/mpg_6000/<clip>.mpg`. Word times
    come from `alignments/<speaker>/<clip>.align` or `<speaker>/align/<clip>.align`, where they
    exist, the sentence from them or from the file's name. Splits: `held_out` speakers are UNSEEN
    [s4 and s26]; of speakers with 100 clips or more, `sentence_split` assigns sentences to TEST and
    VALIDATION; the rest is TRAIN. Of the 34 speakers s21 has no video. Raises BadRequest when there
    is nothing to prepare.
    """
    held_out = HELD_OUT_SPEAKERS if held_out is None else held_out
    found: dict[tuple[str, str], Path] = {}
    for kind in KINDS:
        for place in PLACES:
            for path in folder.glob(place + kind):
                found.setdefault((path.relative_to(folder).parts[0], path.stem), path)
    counts = Counter(speaker for speaker, _ in found)
    recordings = []
    for (speaker, name), path in sorted(found.items()):
        words = _grid_words(folder, speaker, name)
        spelled = sentence_of(name)
        split = TRAIN
        if speaker in held_out:
            split = UNSEEN
        elif counts[speaker] >= MAIN_SPEAKER and spelled:
            split = sentence_split(name)
        sentence = " ".join(word for word, _, _ in words) or spelled or ""
        key = key_of(speaker, name)
        recordings.append(Recording(key, speaker, path, split, sentence, words))
    expected = "clips of GRID; expected <speaker>/<clip>.mpg, .mkv or .mp4 in it"
    return require_some(recordings, folder, expected)


def sentence_of(name: str) -> str | None:
    """Return the sentence "bin blue at f two now" of a GRID file bbaf2n; None for other names."""
    if len(name) != len(_GRAMMAR):
        return None
    words = [words.get(letter) for words, letter in zip(_GRAMMAR, name, strict=True)]
    known = [word for word in words if word is not None]
    return " ".join(known) if len(known) == len(words) else None


def sentence_split(name: str) -> str:
    """Return the split of a sentence by its name alone: a twentieth test, a twentieth val."""
    return {0: TEST, 1: VALIDATION}.get(hash_bucket(name, 20), TRAIN)


def read_alignment(path: Path) -> tuple[Word, ...]:
    """Read the words of a GRID alignment with their times in seconds, without silences.

    Raises UnreadableMedia when a line is not "start end word" with 0 <= start <= end.
    """
    return label_lines(path, ALIGNMENT_RATE, _SILENCES)


def _grid_words(folder: Path, speaker: str, name: str) -> tuple[Word, ...]:
    for path in (
        folder / "alignments" / speaker / f"{name}.align",
        folder / speaker / "align" / f"{name}.align",
    ):
        if path.is_file():
            return read_alignment(path)
    return ()


def lombard_grid(folder: Path, held_out: Sequence[str] | None = None) -> list[Recording]:
    """List audio-visual Lombard GRID (Alghamdi et al. 2018): 54 talkers, plain and raised voices.

    In the archives' layout: `lombardgrid/front/<s>_<l|p>_<code>.mov`, its sound beside in `audio/
    <name>.wav`, phones in `alignment/<name>.json`, or all of it in `lombardgrid_front/lombardgrid/
    front` and so on. There is no published split: every tenth talker (s10, s20 ...) is UNSEEN, the
    others follow `sentence_split`. The talkers are other people than GRID's of the same number, so
    they are called lombard-s2 ... Raises BadRequest.
    """
    require(folder, "lombardgrid/front/<name>.mov")
    held_out = LOMBARD_HELD_OUT if held_out is None else held_out
    parts = {part: _lombard_part(folder, part) for part in ("front", "audio", "alignment")}
    front = parts["front"]
    videos = sorted(front.glob("*.mov")) if front is not None else []
    recordings = []
    for path in videos:
        talker, how, *rest = path.stem.split("_")
        speaker, code = f"lombard-{talker}", rest[-1] if rest else ""
        # A name with WRONG in it has another format.
        sentence = (sentence_of(code) or "") if "WRONG" not in rest else ""
        split = UNSEEN if speaker in held_out else sentence_split(code)
        recordings.append(
            Recording(
                key=key_of("lombard", path.stem),
                speaker=speaker,
                path=path,
                split=split,
                sentence=sentence,
                sound=_beside(parts["audio"], path, ".wav"),
                labels=_beside(parts["alignment"], path, ".json"),
                facts={
                    "corpus": "lombard-grid",
                    "language": ENGLISH,
                    "voice": "lombard" if how == "l" else "plain",
                },
            )
        )
    expected = "clips of Lombard GRID; expected lombardgrid/front/*.mov"
    return require_some(recordings, folder, expected)


def _lombard_part(folder: Path, part: str) -> Path | None:
    places = (part, f"lombardgrid/{part}", f"lombardgrid_{part}/lombardgrid/{part}")
    return first_folder(folder, *places)


def _beside(folder: Path | None, video: Path, kind: str) -> Path | None:
    return folder / (video.stem + kind) if folder is not None else None


# What an alignment that is none raises.
_DAMAGED = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)


def label_lombard(recording: Recording) -> Recording:
    """Add phones and, where they give as many words as the name, word times.

    The file holds {name: [{"phone": "b_B", "offset": seconds, "duration": seconds}, ...]}; a phone
    without a duration ends where the next one begins; _B, _I, _E, _S say where in its word
    a phone is. Raises UnreadableMedia.
    """
    if recording.labels is None or not recording.labels.is_file():
        return recording
    try:
        entries = json.loads(recording.labels.read_text())[recording.path.stem]
        phones = list(_lombard_phones(entries))
    except _DAMAGED as error:
        raise UnreadableMedia(
            f"{recording.labels}: no alignment of {recording.path.stem} ({error!r}); mend it, or "
            "remove the file to do without word times"
        ) from error
    spoken = recording.sentence.split()
    spans = _word_spans(phones)
    known = len(spans) == len(spoken)
    words = tuple((w, a, b) for w, (a, b) in zip(spoken, spans, strict=True)) if known else ()
    plain = tuple((name.split("_")[0], a, b) for name, a, b in phones)
    return replace(recording, words=words, phones=plain)


def _lombard_phones(entries: list[dict[str, Any]]) -> list[Word]:
    starts = [float(entry["offset"]) for entry in entries]
    phones = []
    for n, (entry, start) in enumerate(zip(entries, starts, strict=True)):
        if "duration" in entry:
            end = start + float(entry["duration"])
        else:
            end = starts[n + 1] if n + 1 < len(starts) else start
        name = str(entry["phone"]).lower()
        if name.split("_")[0] not in _SILENCES:
            phones.append((name, start, end))
    return phones


def _word_spans(phones: list[Word]) -> list[tuple[float, float]]:
    """Return start and end of each word, by its phones: b(egin), i(nside), e(nd), s(ingle)."""
    spans, begun = [], 0.0
    for name, start, end in phones:
        place = name.rpartition("_")[2]
        begun = start if place in ("b", "s") else begun
        if place in ("e", "s"):
            spans.append((begun, end))
    return spans
