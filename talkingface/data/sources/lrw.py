"""Lip Reading in the Wild: clips of 29 frames with one known word in their middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from talkingface.audio import FPS
from talkingface.data.clip import TEST, TRAIN, VALIDATION, key_of
from talkingface.data.sources.recording import (
    ENGLISH,
    UNKNOWN,
    Recording,
    files_in,
    first_folder,
    folders_in,
    require,
    require_some,
)
from talkingface.errors import BadRequest, UnreadableMedia

FRAMES = 29  # of every clip, at 25 per second


def lrw(folder: Path, held_out: Sequence[str] | None = None) -> list[Recording]:
    """List LRW (Chung and Zisserman 2016): `lipread_mp4/WORD/<train|val|test>/WORD_00001.mp4`.

    500 words; the splits are the folders, by date of broadcast. The corpus does not name speakers:
    the speaker is UNKNOWN, and `held_out` is refused. The word's length is in `WORD_00001.txt`
    beside the clip, which `label_lrw` reads later. Raises BadRequest.
    """
    require(folder, "lipread_mp4/WORD/train/WORD_00001.mp4")
    if held_out:
        raise BadRequest("LRW does not say who speaks: --hold-out cannot choose among its speakers")
    root = first_folder(folder, "lipread_mp4", ".") or folder
    recordings = [
        Recording(
            key=key_of("lrw", split, path.stem),  # each split counts from 1
            speaker=UNKNOWN,
            path=path,
            split=split,
            sentence=word.lower(),
            labels=path.with_suffix(".txt"),
            facts={"corpus": "lrw", "language": ENGLISH},
        )
        for word in folders_in(root)
        for split in (TRAIN, VALIDATION, TEST)  # the folders have these names
        for path in files_in(root / word / split, ".mp4")
    ]
    expected = "clips of LRW; expected WORD/train/WORD_00001.mp4 in it"
    return require_some(recordings, folder, expected)


def label_lrw(recording: Recording) -> Recording:
    """Add the word's time: centred in the clip, of the length "Duration:" in its text file.

    Without that file the time stays unknown. Raises UnreadableMedia when it has no duration.
    """
    path = recording.labels
    if path is None or not path.is_file():
        return recording
    for line in path.read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() == "duration":
            try:
                seconds = float(value.split()[0])
            except (ValueError, IndexError):
                break
            middle = FRAMES / FPS / 2
            start, end = max(0.0, middle - seconds / 2), min(FRAMES / FPS, middle + seconds / 2)
            return replace(recording, words=((recording.sentence, start, end),))
    raise UnreadableMedia(
        f"{path}: no line 'Duration: 0.53 seconds' in it; copy it again, or remove it to do "
        "without word times"
    )
