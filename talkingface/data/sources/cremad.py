"""CREMA-D: twelve sentences in six emotions, spoken by 91 actors."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from talkingface.data.clip import TRAIN, UNSEEN, VALIDATION, key_of
from talkingface.data.sources.recording import ENGLISH, Recording, require, require_some

SENTENCES = {
    "IEO": "it's eleven o'clock",
    "TIE": "that is exactly what happened",
    "IOM": "i'm on my way to the meeting",
    "IWW": "i wonder what this is about",
    "TAI": "the airplane is almost full",
    "MTI": "maybe tomorrow it will be cold",
    "IWL": "i would like a new alarm clock",
    "ITH": "i think i have a doctor's appointment",
    "DFA": "don't forget a jacket",
    "ITS": "i think i've seen this before",
    "TSI": "the surface is slick",
    "WSI": "we'll stop in a couple of minutes",
}
EMOTIONS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}


def cremad(folder: Path, held_out: Sequence[str] | None = None) -> list[Recording]:
    """List CREMA-D (Cao et al. 2014): `VideoFlash/1001_DFA_ANG_XX.flv`, converted or not.

    The name gives actor, sentence, emotion and its level; sex and age of the actors come from
    `VideoDemographics.csv`, where it exists. There is no published split. Of ten actors one, by
    number (1010, 1020 ...), is UNSEEN, or `held_out` are, and one (1005, 1015 ...) is VALIDATION.
    Raises BadRequest.
    """
    require(folder, "VideoFlash/1001_DFA_ANG_XX.flv")
    actors = _demographics(folder / "VideoDemographics.csv")
    paths = [p for kind in ("*.mp4", "*.flv") for p in (folder / "VideoFlash").glob(kind)]
    recordings = []
    for path in sorted({p.stem: p for p in paths}.values()):  # .flv before its conversion
        actor, *rest = path.stem.split("_")
        code, emotion, level = (*rest, "", "", "")[:3]
        digit = actor[-1:] if actor.isdigit() else ""
        split = VALIDATION if digit == "5" else TRAIN
        if digit == "0" if held_out is None else actor in held_out:
            split = UNSEEN
        facts = {
            "corpus": "crema-d",
            "language": ENGLISH,
            "emotion": EMOTIONS.get(emotion, emotion.lower()),
            "level": LEVELS.get(level, level.lower()),
            **actors.get(actor, {}),
        }
        sentence = SENTENCES.get(code, "")
        recordings.append(Recording(key_of(path.stem), actor, path, split, sentence, facts=facts))
    expected = "clips of CREMA-D; expected VideoFlash/1001_DFA_ANG_XX.flv in it"
    return require_some(recordings, folder, expected)


def _demographics(path: Path) -> dict[str, dict[str, str]]:
    """Read age and sex of each actor: ActorID, Age, Sex, Race, Ethnicity."""
    if not path.is_file():
        return {}
    with path.open(newline="", errors="replace") as file:
        rows = list(csv.DictReader(file))
    known = [row for row in rows if {"ActorID", "Age", "Sex"} <= row.keys()]
    return {row["ActorID"]: {"age": row["Age"], "sex": row["Sex"].lower()} for row in known}
