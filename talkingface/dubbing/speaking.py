"""Find the person of a video who speaks: lips that move as the model predicts from the sound."""

from __future__ import annotations

import numpy as np

from talkingface.audio import FPS
from talkingface.dubbing.people import Person
from talkingface.dubbing.records import meshes_of
from talkingface.landmarks import aperture, eye_distance
from talkingface.types import Array, Floats

_LAGS = np.arange(-5, 6) / FPS  # seconds by which lips may be ahead of the sound or behind it
_SLOW = 2.0  # seconds: what changes more slowly is no speech
_APART = 0.12  # seconds after which an aperture tells something new
_LEAST = 2.0  # standard deviations of Fisher's z, from which a person is taken for the speaker
_FEWEST = 20  # frames


def choose_person(people: list[Person], times: Array, spoken: Floats | None) -> Person:
    """Return the person whose lips move as the sound says, else the one with the largest face.

    times: (T,) seconds, of the beginnings of the video's frames. spoken: (N,), how far the lips are
    apart that a model predicts from the video's sound, 25 per second; None without a sound.
    """
    if len(people) == 1:
        return people[0]
    if spoken is not None and len(spoken) >= _FEWEST:
        scores = [_score(person, times, spoken) for person in people]
        if max(scores) > _LEAST:
            return people[int(np.argmax(scores))]
    return max(people, key=lambda p: float(np.square(p.records.all()["side"]).sum()))


def _score(person: Person, times: Array, spoken: Floats) -> float:
    """Return Fisher's z of the person's lips and the predicted ones, in standard deviations.

    It is that of the best lag.
    """
    records = person.records.all()
    if len(records) < _FEWEST:
        return -np.inf
    when = times[records["frame"]]
    step = float(np.median(np.diff(when)))
    opened = _fast(_apertures(person), step)
    middles = (np.arange(len(spoken)) + 0.5) / FPS
    best = -1.0
    for lag in _LAGS:
        predicted = _fast(np.interp(when + step / 2 + lag, middles, spoken), step)
        if np.ptp(predicted) > 0 and np.ptp(opened) > 0:
            best = max(best, float(np.corrcoef(opened, predicted)[0, 1]))
    count = len(when) * min(1.0, step / _APART)
    return float(np.arctanh(np.clip(best, -0.999, 0.999)) * np.sqrt(max(count - 3, 1)))


def _apertures(person: Person) -> Array:
    """Return how far the lips are apart in each frame, in distances of the eyes: (R,)."""
    records = person.records.all()
    parts = map(meshes_of, np.array_split(records, len(records) // 256 + 1))
    return np.concatenate([aperture(meshes) / eye_distance(meshes) for meshes in parts])


def _fast(values: Array, step: float) -> Array:
    """Values (N,) without what changes slowly. step: seconds from one to the next."""
    width = min(len(values), 2 * round(_SLOW / step / 2) + 1)
    window = np.ones(width)
    beside = np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")
    return values - beside
