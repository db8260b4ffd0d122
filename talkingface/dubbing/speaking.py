"""Find the person of a video who speaks: lips that move when the sound is loud."""

from __future__ import annotations

import numpy as np

from talkingface.audio import SAMPLE_RATE
from talkingface.dubbing.people import Person
from talkingface.dubbing.records import meshes_of
from talkingface.landmarks import aperture, eye_distance
from talkingface.types import Array, Floats

_WINDOW = 5  # frames over which lips are said to move
_LEAST = 0.15  # correlation with the loudness, from which a person is taken for the speaker
_FEWEST = 20  # frames
_FLOOR = 1e-4


def loudness(sound: Floats, times: Array) -> Floats:
    """Return the loudness (T,) of a sound (N,) at 16 kHz, in the frames that begin at `times`.

    In logarithms of the root mean square.
    """
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    begins = np.clip(np.rint(times * SAMPLE_RATE).astype(int), 0, len(sound))
    ends = np.clip(np.rint((times + step) * SAMPLE_RATE).astype(int), 0, len(sound))
    energy = np.concatenate([[0.0], np.cumsum(np.square(sound, dtype=np.float64))])
    mean = (energy[ends] - energy[begins]) / np.maximum(ends - begins, 1)
    return np.asarray(np.log(np.sqrt(mean) + _FLOOR), np.float32)


def choose_person(people: list[Person], frames: int, loud: Floats | None) -> Person:
    """Return the person whose lips move with the sound, else the one with the largest face.

    frames: of the video. loud: (frames,), see `loudness`.
    """
    if len(people) == 1:
        return people[0]
    if loud is not None and len(loud) == frames:
        scores = [_score(person, loud) for person in people]
        if max(scores) > _LEAST:
            return people[int(np.argmax(scores))]
    return max(people, key=lambda p: float(np.square(p.records.all()["side"]).sum()))


def _score(person: Person, loud: Floats) -> float:
    """Return the correlation of the lips' motion with the loudness, over the person's frames."""
    records = person.records.all()
    if len(records) < _FEWEST:
        return -1.0
    opened = np.concatenate(
        [
            aperture(meshes) / eye_distance(meshes)
            for meshes in map(meshes_of, np.array_split(records, len(records) // 256 + 1))
        ]
    )
    moved = np.abs(np.diff(opened, prepend=opened[:1]))
    moved[np.diff(records["frame"], prepend=records["frame"][:1]) > 1] = 0
    window = np.ones(_WINDOW) / _WINDOW
    motion, sound = (
        np.convolve(curve, window, "same") for curve in (moved, loud[records["frame"]])
    )
    if np.ptp(motion) == 0 or np.ptp(sound) == 0:
        return -1.0
    return float(np.corrcoef(motion, sound)[0, 1])
