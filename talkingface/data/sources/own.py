"""The user's own videos, with or without transcripts; one person's addresses; still pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from talkingface.data.clip import Word, key_of
from talkingface.data.sources.recording import (
    ENGLISH,
    VIDEOS,
    Corpus,
    Recording,
    hash_bucket,
    require,
)
from talkingface.errors import BadRequest, UnreadableMedia

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
HELD_BACK = 20  # of so many videos, one is "test" and one is "val"; of three or more, at least one
WORD_TIERS = ("words", "word")
_SILENT_WORDS = frozenset({"", "sil", "sp", "<eps>", "spn"})
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


def videos(folder: Path, held_out: Sequence[str] | None = None) -> list[Recording]:
    """List own videos: `<person>/<video>.mp4`, or `<video>.mp4` of one person; any kind of file.

    `<video>.txt` beside it is the transcript, `<video>.TextGrid` (Praat's text format, as forced
    aligners write it) its words with their times. Splits: `held_out` people are "stranger"; of the
    others' videos a twentieth is "test" and a twentieth "val", at least one each of three or more,
    chosen by name. Long videos are cut at pauses. Raises BadRequest.
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
    if not paths:
        raise BadRequest(f"{folder}: no videos; expected {', '.join(VIDEOS)} files in it")
    recordings = []
    for path in paths:
        inside = path.relative_to(folder)
        nearest = inside.parts[0] if len(inside.parts) > 1 else folder.absolute().name
        speaker = person or nearest
        recordings.append(
            Recording(
                key=key_of(*inside.parent.parts, path.stem),
                speaker=speaker,
                path=path,
                split="stranger" if speaker in (held_out or ()) else "train",
                facts=facts,
            )
        )
    return _held_back(recordings)


def _held_back(recordings: list[Recording]) -> list[Recording]:
    """Move some of the training videos to "test" and "val"."""
    order = sorted(
        (r for r in recordings if r.split == "train"),
        key=lambda r: (hash_bucket(r.key, 2**32), r.key),
    )
    share = -(-len(order) // HELD_BACK) if len(order) >= 3 else 0
    chosen = {r.key: "test" for r in order[:share]}
    chosen |= {r.key: "val" for r in order[share : 2 * share]}
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
    """Yield each interval tier's marks, from numbers and quoted texts in their order."""
    if "ooTextFile" not in text:
        raise ValueError("its first line should name ooTextFile")
    values = _values(text.partition("TextGrid")[2].lstrip('"'))
    start, end, exists, count, *values = values  # of the whole; <exists> may stand for both
    del start, end, exists
    tiers: dict[str, list[Word]] = {}
    for _ in range(int(count)):
        kind, name, _, _, size, *values = values
        width = 3 if kind == "IntervalTier" else 2
        marks, values = values[: width * int(size)], values[width * int(size) :]
        if kind == "IntervalTier":
            rows = [marks[at : at + 3] for at in range(0, len(marks), 3)]
            tiers[str(name).lower()] = [(str(w), float(a), float(b)) for a, b, w in rows]
    return tiers


def _values(text: str) -> list[str]:
    """Return the values of a text file of Praat: quoted texts, and numbers and flags on their own.

    The long format has "name = " before each and "item [1]:" between; both are skipped.
    """
    found: list[str] = []
    for line in text.splitlines():
        quoted = _QUOTED.search(line)
        if quoted is not None:
            found.append(quoted.group(1).replace('""', '"'))
            continue
        last = line.replace("=", " ").replace("?", " ").split()
        if last and not line.strip().endswith(":") and _stands_alone(last[-1]):
            found.append(last[-1])
    return found


def _stands_alone(word: str) -> bool:
    return bool(re.fullmatch(r"-?\d+(\.\d*)?([eE][-+]?\d+)?|<exists>", word))


def portraits(folder: Path) -> list[Recording]:
    """List still pictures of faces, silent clips of one frame; each third, by name, is held out."""
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


VIDEOS_OF_ONES_OWN = Corpus(
    name="videos",
    title="own videos",
    paper="",
    about="a folder of your own videos, with or without transcripts",
    layout="<person>/<video>.mp4, <video>.txt or <video>.TextGrid beside",
    find=videos,
    licence="as the videos'",
    label=label_videos,
)
OBAMA = Corpus(
    name="obama",
    title="Obama's weekly addresses",
    paper="Suwajanakorn et al. 2017",
    about="one person, pose kept",
    layout="<video>.mp4",
    find=obama,
    licence="as the videos'",
    label=label_videos,
    natural_pose=True,
)
