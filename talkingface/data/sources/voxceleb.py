"""VoxCeleb 1 and 2: utterances of celebrities, by identity and video."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from talkingface.data.clip import key_of
from talkingface.data.sources.recording import (
    Corpus,
    Recording,
    hash_bucket,
    require,
)
from talkingface.errors import BadRequest, UnreadableMedia

# VoxCeleb1's 40 test identities, those whose names begin with E.
VOX1_TEST = tuple(f"id{number}" for number in range(10270, 10310))
VALIDATION = 50  # of so many identities that may be trained on, one is "val"
_SOUNDS = (("aac", ".m4a"), ("wav", ".wav"))
_PARTS = ("dev", "test", ".")


def voxceleb1(folder: Path, held_out: Sequence[str] | None = None) -> list[Recording]:
    """List VoxCeleb1 (Nagrani et al. 2017): `mp4/<id>/<video>/<utterance>.mp4` in `dev`, `test`.

    Its authors publish sound (`wav/<id>/<video>/00001.wav`) and coordinates but no video. The user
    cuts the clips from the videos, one per utterance; their sound is the wav file where that
    exists, otherwise their own. Splits as `voxceleb2`; the published test identities are id10270 to
    id10309. Raises BadRequest.
    """
    return _voxceleb(folder, VOX1_TEST if held_out is None else held_out, "voxceleb1")


def voxceleb2(folder: Path, held_out: Sequence[str] | None = None) -> list[Recording]:
    """List VoxCeleb2 (Chung et al. 2018): `<dev|test>/mp4/<id>/<video>/00001.mp4`, sound in `aac`.

    The people of the published test set (folder `test`, or "test" in `vox2_meta.csv`) are not in
    the development set: they are "stranger", or `held_out` are. Of the others one identity in fifty
    is "val", by its name. Sentence and language are unknown. Raises BadRequest.
    """
    if held_out is None:
        held_out = tuple(_tested(folder / "vox2_meta.csv"))
    return _voxceleb(folder, held_out, "voxceleb2")


def _voxceleb(folder: Path, held_out: Sequence[str], corpus: str) -> list[Recording]:
    require(folder, "<dev|test>/mp4/<id>/<video>/00001.mp4")
    strangers = set(held_out)
    recordings = []
    for part in _PARTS:
        root = folder / part / "mp4"
        sounds = [(folder / part / name, kind) for name, kind in _SOUNDS]
        kept = next(((place, kind) for place, kind in sounds if place.is_dir()), None)
        for person, video, path in _utterances(root):
            split = "val" if hash_bucket(person, VALIDATION) == 0 else "train"
            if part == "test" or person in strangers:
                split = "stranger"
            sound = None if kept is None else kept[0] / person / video / (path.stem + kept[1])
            recordings.append(
                Recording(
                    key=key_of(person, video, path.stem),
                    speaker=person,
                    path=path,
                    split=split,
                    sound=sound,
                    facts={"corpus": corpus},
                )
            )
    if not recordings:
        raise BadRequest(
            f"{folder}: no clips of {corpus}; expected <dev|test>/mp4/<id>/<video>/00001.mp4 in it"
        )
    return recordings


def _utterances(root: Path) -> list[tuple[str, str, Path]]:
    """Yield (identity, video, file) of each clip, in the order of names."""
    if not root.is_dir():
        return []
    found = []
    for person in _folders(root):
        for video in _folders(root / person):
            place = root / person / video
            names = sorted(e.name for e in os.scandir(place) if e.name.endswith(".mp4"))
            found += [(person, video, place / name) for name in names]
    return found


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


def _tested(meta: Path) -> list[str]:
    """Return the identities of the test set in a `vox2_meta.csv` (ID, ..., Gender, Set)."""
    if not meta.is_file():
        return []
    with meta.open(newline="", errors="replace") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
    if not rows or "Set" not in rows[0]:
        raise UnreadableMedia(f"{meta}: no column 'Set' in its first line; download it again")
    column = rows[0].index("Set")
    ids = next((n for n, name in enumerate(rows[0]) if name.startswith("VoxCeleb2")), 0)
    return [row[ids] for row in rows[1:] if len(row) > max(column, ids) and row[column] == "test"]


_LICENCE = "VoxCeleb terms; the videos stay their owners'"
VOXCELEB1 = Corpus(
    name="voxceleb1",
    title="VoxCeleb1",
    paper="Nagrani et al. 2017",
    about="1,251 identities; its video is one's own cut",
    layout="mp4/<id>/<video>/<utterance>.mp4, wav/<id>/<video>/<utterance>.wav",
    find=voxceleb1,
    licence=_LICENCE,
)
VOXCELEB2 = Corpus(
    name="voxceleb2",
    title="VoxCeleb2",
    paper="Chung et al. 2018",
    about="6,112 identities, a million utterances",
    layout="<dev|test>/mp4/<id>/<video>/00001.mp4, <dev|test>/aac/.../00001.m4a",
    find=voxceleb2,
    licence=_LICENCE,
)
