"""The user's own videos, with or without transcripts; one person's addresses; still pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from talkingface import picture
from talkingface.data.clip import (
    HELD_OUT_PORTRAITS,
    TEST,
    TRAIN,
    UNSEEN,
    VALIDATION,
    Word,
    key_of,
)
from talkingface.data.sources.recording import (
    ENGLISH,
    VIDEOS,
    Recording,
    hash_bucket,
    require,
    require_some,
)
from talkingface.errors import UnreadableMedia

HELD_BACK = 20  # of so many videos, one is TEST, one VALIDATION; of three or more, at least one
WORD_TIERS = ("words", "word")
_SILENT_WORDS = frozenset({"", "sil", "sp", "<eps>", "spn"})
# A value of Praat's text files: a quoted text, or a number or flag that stands alone.
_VALUE = re.compile(r'"(?:[^"]|"")*"|(?<!\S)(?:-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|<exists>)(?!\S)')


def videos(folder: Path, held_out: Sequence[str] | None = None) -> list[Recording]:
    """List own videos: `<person>/<video>.mp4`, or `<video>.mp4` of one person; any kind of file.

    `<video>.txt` beside it is the transcript, `<video>.TextGrid` (Praat's text format, as forced
    aligners write it) its words with their times. Splits: `held_out` people are UNSEEN; of the
    others' videos a twentieth is TEST and a twentieth VALIDATION, at least one each of three or
    more, chosen by name. Long videos are cut at pauses. Raises BadRequest.
    """
    return _videos(folder, held_out, "", {"corpus": "videos"})


def obama(folder: Path, held_out: Sequence[str] | None = None) -> list[Recording]:
    """List Obama's weekly addresses (as in Suwajanakorn et al. 2017): one video per address.

    One person, long videos, cut at pauses; the pose is kept. Names are free (the authors name the
    videos by their YouTube ids). Splits, transcripts: as `videos`. Raises BadRequest.
    """
    return _videos(folder, held_out, "obama", {"corpus": "obama", "language": ENGLISH})


def _videos(
    folder: Path, held_out: Sequence[str] | None, person: str, facts: dict[str, str]
) -> list[Recording]:
    require(folder, "<person>/<video>.mp4 or <video>.mp4")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEOS and p.is_file())
    recordings = []
    for path in paths:
        inside = path.relative_to(folder)
        nearest = inside.parts[0] if len(inside.parts) > 1 else folder.absolute().name
        speaker = person or nearest
        split = UNSEEN if speaker in (held_out or ()) else TRAIN
        key = key_of(*inside.parent.parts, path.stem)
        recordings.append(Recording(key, speaker, path, split, facts=facts))
    expected = f"videos; expected {', '.join(VIDEOS)} files in it"
    return _held_back(require_some(recordings, folder, expected))


def _held_back(recordings: list[Recording]) -> list[Recording]:
    """Move some of the training videos to TEST and VALIDATION."""
    training = [r.key for r in recordings if r.split == TRAIN]
    order = sorted(training, key=lambda key: (hash_bucket(key, 2**32), key))
    share = -(-len(order) // HELD_BACK) if len(order) >= 3 else 0
    chosen = dict.fromkeys(order[:share], TEST)
    chosen |= dict.fromkeys(order[share : 2 * share], VALIDATION)
    return [replace(r, split=chosen.get(r.key, r.split)) for r in recordings]


def label_videos(recording: Recording) -> Recording:
    """Add the transcript beside a video: `.TextGrid` (words and times) before `.txt` (words).

    Raises UnreadableMedia.
    """
    times = recording.path.with_suffix(".TextGrid")
    if times.is_file():
        words = read_textgrid(times)
        return replace(recording, words=words, sentence=" ".join(word for word, _, _ in words))
    text = recording.path.with_suffix(".txt")
    if text.is_file():
        return replace(recording, sentence=" ".join(text.read_text(errors="replace").split()))
    return recording


def read_textgrid(path: Path) -> tuple[Word, ...]:
    """Read the words of a Praat TextGrid: of its tier "words", or of its only interval tier.

    Long and short text format (Praat manual, "TextGrid file formats"). Raises UnreadableMedia.
    """
    try:
        text = path.read_bytes()
        plain = text.decode("utf-16" if text[:2] in (b"\xfe\xff", b"\xff\xfe") else "utf-8")
        tiers = _tiers(plain)
        words = next((tiers[name] for name in WORD_TIERS if name in tiers), None)
        if words is None and len(tiers) == 1:
            (words,) = tiers.values()
        if words is None:
            raise ValueError(f"tiers {', '.join(tiers) or 'none'}, expected one called words")
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise UnreadableMedia(
            f"{path}: no TextGrid with words ({error}); export it again as text, or remove it to "
            "do without word times"
        ) from error
    return tuple((w.lower(), a, b) for w, a, b in words if w.lower() not in _SILENT_WORDS)


def _tiers(text: str) -> dict[str, list[Word]]:
    """Return each interval tier's marks, from the numbers and quoted texts in their order.

    The long format has "name = " before each and "item [1]:" between; neither stands alone.
    """
    if "ooTextFile" not in text:
        raise ValueError("its first line should name ooTextFile")
    found = [v[1:-1].replace('""', '"') if v[0] == '"' else v for v in _VALUE.findall(text)]
    _, _, _, _, _, count, *values = found  # kinds of file and object, start, end, <exists>
    tiers: dict[str, list[Word]] = {}
    for _ in range(int(count)):
        kind, name, _, _, size, *values = values
        width = 3 if kind == "IntervalTier" else 2
        marks, values = values[: width * int(size)], values[width * int(size) :]
        if kind == "IntervalTier":
            rows = [marks[at : at + 3] for at in range(0, len(marks), 3)]
            tiers[name.lower()] = [(w, float(a), float(b)) for a, b, w in rows]
    return tiers


def portraits(folder: Path) -> list[Recording]:
    """List still pictures of faces, silent clips of one frame; each third, by name, is held out."""
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in picture.SUFFIXES)
    recordings = []
    for number, path in enumerate(paths):
        split = TRAIN if number % 3 else HELD_OUT_PORTRAITS
        key = key_of("portrait", path.stem)
        recordings.append(Recording(key, "portrait", path, split, still=True))
    expected = f"pictures; expected {', '.join(picture.SUFFIXES)} files in it"
    return require_some(recordings, folder, expected)
