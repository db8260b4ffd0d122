"""TCD-TIMIT: phonetically rich sentences in a studio, 59 volunteers and three lipspeakers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from talkingface.data.clip import TRAIN, UNSEEN, VALIDATION, Word, key_of
from talkingface.data.sources.recording import (
    ENGLISH,
    HTK_RATE,
    Recording,
    label_lines,
    parse_labels,
    require,
    require_some,
)
from talkingface.errors import UnreadableMedia

# The speaker-independent split of Harte and Gillen 2015: 39 volunteers to train, 17 to test.
TRAINING_VOLUNTEERS = tuple(
    "01M 02M 03F 04M 05F 06M 07F 10M 11F 12M 13F 14M 16M 17F 19M 20M 21M 22M 23M 24M 26M 29M 30F "
    "31F 32F 37F 38F 39M 40F 42M 43F 46F 47M 48M 50F 51F 52M 57M 59F".split()
)
TEST_VOLUNTEERS = tuple(
    "08F 09F 15F 18M 25M 28M 33F 34M 36F 41M 44F 45F 49F 54M 55F 56M 58F".split()
)
VIEW = "straightcam"  # the other camera, 30degcam, stands at 30 degrees
_SILENCES = frozenset({"sil", "sp"})


def tcdtimit(folder: Path, held_out: Sequence[str] | None = None) -> list[Recording]:
    """List TCD-TIMIT (Harte and Gillen 2015): `volunteers/01M/Clips/straightcam/sa1.mp4`.

    Also `lipspeakers/Lipspkr1/Clips/straightcam/...`; the straight view only. Phones come from
    `volunteer_labelfiles.mlf` and `lipspeaker_labelfiles.mlf`, in the folder or one below, or from
    `<clip>.lab` beside a clip; the sentence from `<clip>.txt` beside it, where there is one; word
    times are not published. Splits: the published 17 test volunteers are UNSEEN (or `held_out`
    are); the three volunteers that the published split leaves out (27M, 35M, 53M: other accents)
    are VALIDATION; the rest, lipspeakers too, is TRAIN. Raises BadRequest, and UnreadableMedia for
    a damaged label file.
    """
    require(folder, "volunteers/01M/Clips/straightcam/sa1.mp4")
    held_out = TEST_VOLUNTEERS if held_out is None else held_out
    phones = _all_phones(folder)
    recordings = []
    for kind in ("volunteers", "lipspeakers"):
        for path in sorted((folder / kind).glob(f"*/*/{VIEW}/*.mp4")):
            speaker = path.parts[-4]
            split = TRAIN
            if kind == "volunteers" and speaker not in TRAINING_VOLUNTEERS + TEST_VOLUNTEERS:
                split = VALIDATION
            if speaker in held_out:
                split = UNSEEN
            recordings.append(
                Recording(
                    key=key_of("tcdtimit", speaker, path.stem),
                    speaker=speaker,
                    path=path,
                    split=split,
                    phones=phones.get((speaker, path.stem.lower()), ()),
                    labels=path.with_suffix(".lab"),
                    facts={"corpus": "tcd-timit", "language": ENGLISH},
                )
            )
    expected = f"clips of TCD-TIMIT; expected volunteers/01M/Clips/{VIEW}/*.mp4 in it"
    return require_some(recordings, folder, expected)


def _all_phones(folder: Path) -> dict[tuple[str, str], tuple[Word, ...]]:
    """Return (speaker, clip) -> phones, from every master label file."""
    found: dict[tuple[str, str], tuple[Word, ...]] = {}
    for path in sorted({*folder.glob("*_labelfiles.mlf"), *folder.glob("*/*_labelfiles.mlf")}):
        found |= read_master_labels(path)
    return found


def read_master_labels(path: Path) -> dict[tuple[str, str], tuple[Word, ...]]:
    """Read an HTK master label file: (speaker, clip) -> phones in seconds.

    Its entries are "path/<speaker>/Clips/straightcam/<clip>.rec" in quotes, then lines
    "start end phone" in 100 ns, then a dot. Raises UnreadableMedia when it is no such file.
    """
    lines = path.read_text(errors="replace").splitlines()
    if not lines or lines[0].strip() != "#!MLF!#":
        raise UnreadableMedia(f"{path}: no master label file; its first line should be #!MLF!#")
    found: dict[tuple[str, str], tuple[Word, ...]] = {}
    clip: tuple[str, str] | None = None
    begun = 0
    for number, line in enumerate([*lines, "."]):
        if line.startswith('"'):
            parts = line.strip().strip('"').replace("\\", "/").split("/")
            clip = (parts[-4] if len(parts) > 3 else "", Path(parts[-1]).stem.lower())
            begun = number + 1
        elif line.strip() == "." and clip is not None:
            numbered = enumerate(lines[begun:number], begun + 1)
            found[clip] = tuple(parse_labels(path, numbered, HTK_RATE, _SILENCES))
            clip = None
    return found


def label_tcdtimit(recording: Recording) -> Recording:
    """Add the phones of `<clip>.lab` and the sentence of `<clip>.txt`, where they exist.

    TIMIT's own text files begin with the sentence's first and last sample, which are skipped.
    """
    phones, sentence = recording.phones, recording.sentence
    if not phones and recording.labels is not None and recording.labels.is_file():
        phones = label_lines(recording.labels, HTK_RATE, _SILENCES)
    text = recording.path.with_suffix(".txt")
    if text.is_file():
        words = text.read_text(errors="replace").split()
        while words and words[0].isdigit():
            words = words[1:]
        sentence = " ".join(words)
    return replace(recording, phones=phones, sentence=sentence)
