"""VoxCeleb 1 and 2: utterances of celebrities, by identity and video."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from talkingface.data.clip import TRAIN, UNSEEN, VALIDATION, key_of
from talkingface.data.sources.recording import (
    Recording,
    files_in,
    folders_in,
    hash_bucket,
    require,
    require_some,
)
from talkingface.errors import UnreadableMedia

# VoxCeleb1's 40 test identities, those whose names begin with E.
VOX1_TEST = tuple(f"id{number}" for number in range(10270, 10310))
VALIDATION_SHARE = 50  # of so many identities that may be trained on, one is VALIDATION
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
    the development set: they are UNSEEN, or `held_out` are. Of the others one identity in fifty is
    VALIDATION, by its name. Sentence and language are unknown. Raises BadRequest.
    """
    if held_out is None:
        held_out = tuple(_tested(folder / "vox2_meta.csv"))
    return _voxceleb(folder, held_out, "voxceleb2")


def _voxceleb(folder: Path, held_out: Sequence[str], corpus: str) -> list[Recording]:
    require(folder, "<dev|test>/mp4/<id>/<video>/00001.mp4")
    recordings = []
    for part in _PARTS:
        root = folder / part / "mp4"
        sounds = [(folder / part / name, kind) for name, kind in _SOUNDS]
        kept = next(((place, kind) for place, kind in sounds if place.is_dir()), None)
        for person in folders_in(root):
            split = VALIDATION if hash_bucket(person, VALIDATION_SHARE) == 0 else TRAIN
            if part == "test" or person in held_out:
                split = UNSEEN
            for video in folders_in(root / person):
                for path in files_in(root / person / video, ".mp4"):
                    name = path.stem
                    sound = kept and kept[0] / person / video / (name + kept[1])
                    key, facts = key_of(person, video, name), {"corpus": corpus}
                    recordings.append(Recording(key, person, path, split, sound=sound, facts=facts))
    expected = f"clips of {corpus}; expected <dev|test>/mp4/<id>/<video>/00001.mp4 in it"
    return require_some(recordings, folder, expected)


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
