"""How heads, brows and eyelids move in videos: statistics of Song et al. 2019, Sec. 5.

A generated head need not move as the real one did at that moment, only as such a head moves: what
is compared is statistics over clips. All of it is read off meshes found in the finished pictures,
which tremble: nothing is smoothed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talkingface.audio import FPS
from talkingface.faces.head_pose import clip_moves
from talkingface.landmarks import eye_openness
from talkingface.motion import BROWS, HEAD

Array = NDArray[np.float64]

MOVES = (*HEAD, *(f"{name} brows" for name in BROWS))
UNITS = np.array([180 / np.pi] * 3 + [100.0] * 5)  # degrees; 0.01 interocular distances; per cent
BANDS = ((0.0, 1.0), (1.0, 3.0), (3.0, 12.5))  # Hz: sways and nods, beats of speech, trembling
STRETCH = 75  # frames: of a clip's parts in which range and correlation are measured
SPECTRUM = 64  # frames of a spectrum: 0.4 Hz steps
SHUT = 0.65  # of how open the eyes usually are
LONGEST = 15  # frames of a blink; what is shut for longer looks down, or sleeps
BEGUN, HALF, DONE = 0.2, 0.5, 0.8  # of a blink's depth: eyes open slowly at the end
FOLLOWED = ("pitch", "inner brows", "outer brows")  # what might follow the voice


@dataclass(frozen=True)
class HeadVideo:
    """What is read off one video of T frames.

    moves: (T, 8), MOVES in UNITS from the video's median face. openness: (T,), of the eyes. voice:
    (T, 3), loudness, whether there is a voice, and its pitch; None where the sound is unknown.
    """

    moves: Array
    openness: Array
    voice: Array | None = None

    @classmethod
    def of(cls, meshes: NDArray[Any], voice: Array | None = None) -> HeadVideo:
        """Measure meshes (T, 478, 2), all of them found, in any unit."""
        points = np.asarray(meshes, np.float64)
        moves = clip_moves(points, smooth=False) * UNITS
        return cls(moves, np.asarray(eye_openness(points)), voice)


@dataclass(frozen=True)
class HeadStatistics:
    """Statistics of one kind of video.

    seconds: of video. deviation: (8,), standard deviation within clips. reach: (8,), range within 3
    seconds, mean. shares: (bands, 8), of the variance. speed: (8,), mean absolute change per
    second. blinks: per minute. closing, opening, duration: of blinks, seconds, medians; NaN for
    none. intervals: (9,), deciles of the seconds from blink to blink, NaN for none. correlations:
    (loudness, pitch of the voice) with each of FOLLOWED, (2, 3), median over stretches.
    """

    seconds: float
    deviation: Array
    reach: Array
    shares: Array
    speed: Array
    blinks: float
    closing: float
    opening: float
    duration: float
    intervals: Array
    correlations: Array


def statistics(videos: Sequence[HeadVideo]) -> HeadStatistics:
    """Measure videos of one kind. The shortest says how fine the spectrum is."""
    moves = [video.moves for video in videos]
    seconds = sum(map(len, moves)) / FPS
    spans = [(video.openness, span) for video in videos for span in blinks(video.openness)]
    phases = np.array([blink_phases(*pair) for pair in spans]).reshape(-1, 3)
    closing, opening, duration = (_median(column) for column in phases.T)
    parts = [part for clip in moves for part in _stretches(clip)]
    return HeadStatistics(
        seconds,
        deviation(moves),
        np.asarray(np.mean([np.ptp(part, axis=0) for part in parts], axis=0)),
        band_shares(*spectrum(moves, min(SPECTRUM, *map(len, moves)))),
        FPS * np.concatenate([np.abs(np.diff(clip, axis=0)) for clip in moves]).mean(0),
        60 * len(spans) / seconds,
        closing,
        opening,
        duration,
        _intervals([blinks(video.openness) for video in videos]),
        correlations(videos),
    )


def deviation(clips: Sequence[Array]) -> Array:
    """Standard deviation within clips: (T, N) each -> (N,). Clips count by their frames."""
    total = sum(len(clip) for clip in clips)
    squares = sum(((clip - clip.mean(0)) ** 2).sum(0) for clip in clips)
    return np.asarray(np.sqrt(squares / total))


def spectrum(clips: Sequence[Array], frames: int = SPECTRUM) -> tuple[Array, Array]:
    """Power over frequency, of all stretches of so many frames: Hz (F,), and (F, N) unit² per Hz.

    Welch 1967: stretches overlap by half, are freed of their mean and weighed by a Hann window. One
    sided: the sum times the step is the variance. Raises ValueError: no clip is so long.
    """
    window = np.hanning(frames + 1)[:-1, None]
    norm = FPS * float((window**2).sum())
    powers = []
    for clip in clips:
        for begin in range(0, len(clip) - frames + 1, frames // 2):
            part = clip[begin : begin + frames]
            powers.append(np.abs(np.fft.rfft((part - part.mean(0)) * window, axis=0)) ** 2 / norm)
    if not powers:
        raise ValueError(f"a spectrum needs clips of {frames} frames or more")
    power = np.mean(powers, axis=0)
    power[1:-1] *= 2
    return np.asarray(np.fft.rfftfreq(frames, 1 / FPS)), np.asarray(power)


def band_shares(frequencies: Array, power: Array) -> Array:
    """Of the power (F, N), what share lies in each of BANDS: (bands, N)."""
    parts = [
        power[(frequencies >= low) & (frequencies < high + (high == BANDS[-1][1]))].sum(0)
        for low, high in BANDS
    ]
    return np.asarray(np.stack(parts) / np.maximum(power.sum(0), 1e-30))


# --- blinks ---------------------------------------------------------------------------------------


def blinks(openness: Array) -> list[tuple[int, int]]:
    """The blinks of a clip (T,), as first frame and the one after the last.

    A blink is where the eyes are open less than SHUT times as far as usual (the 80th percentile),
    for LONGEST frames at most.
    """
    shut = openness < SHUT * np.percentile(openness, 80)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], shut.astype(int), [0]])))
    spans = [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return [(a, b) for a, b in spans if b - a <= LONGEST]


def blink_phases(openness: Array, span: tuple[int, int]) -> tuple[float, float, float]:
    """Seconds in which a blink closes the eyes, opens them, and lasts; NaN where it is cut.

    Closing goes from BEGUN to DONE of its depth, opening back, and it lasts at HALF of it; linear
    between frames.
    """
    lowest = span[0] + int(openness[span[0] : span[1]].argmin())
    usual = np.percentile(openness, 80)
    shut = (usual - openness) / max(usual - openness[lowest], 1e-12)
    before, after = shut[lowest::-1], shut[lowest:]
    closing, opening = (_falls(side, BEGUN) - _falls(side, DONE) for side in (before, after))
    lasts = _falls(before, HALF) + _falls(after, HALF)
    return closing / FPS, opening / FPS, lasts / FPS


def _falls(values: Array, level: float) -> float:
    """Where values, which begin above a level, first fall below it; NaN where they do not."""
    below = np.flatnonzero(values < level)
    if len(below) == 0:
        return float("nan")
    row = int(below[0])
    return row - 1 + float((values[row - 1] - level) / (values[row - 1] - values[row]))


def _intervals(spans: Sequence[Sequence[tuple[int, int]]]) -> Array:
    """Deciles of the seconds between the beginnings of blinks within clips: (9,)."""
    times = [np.diff([begin for begin, _ in clip]) / FPS for clip in spans if len(clip) > 1]
    if not times:
        return np.full(9, np.nan)
    return np.asarray(np.percentile(np.concatenate(times), np.arange(10, 100, 10)))


def _median(values: Array) -> float:
    found = values[np.isfinite(values)]
    return float(np.median(found)) if len(found) else float("nan")


# --- what follows the voice -----------------------------------------------------------------------


def correlations(videos: Sequence[HeadVideo]) -> Array:
    """How loudness and the voice's pitch go with FOLLOWED: (2, 3), medians over stretches.

    Slow motion is taken off as a parabola. The voice's pitch counts where there is a voice.
    """
    columns = [MOVES.index(name) for name in FOLLOWED]
    found: list[Array] = []
    for video in videos:
        if video.voice is None:
            continue
        count = min(len(video.moves), len(video.voice))
        voices = _stretches(video.voice[:count])
        for moves, voice in zip(_stretches(video.moves[:count]), voices, strict=True):
            voiced = voice[:, 1] > 0.5
            if voiced.sum() >= STRETCH // 5:
                own = _detrended(moves[:, columns])
                found.append(_pair(own, voice, voiced))
    if not found:
        return np.full((2, len(FOLLOWED)), np.nan)
    return np.asarray(np.nanmedian(found, axis=0))


def _pair(moves: Array, voice: Array, voiced: NDArray[np.bool_]) -> Array:
    loud = [_correlation(column, _detrended(voice[:, :1])[:, 0]) for column in moves.T]
    high = [_correlation(column[voiced], voice[voiced, 2]) for column in moves.T]
    return np.array([loud, high])


def _correlation(first: Array, second: Array) -> float:
    if first.std() < 1e-12 or second.std() < 1e-12:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def _detrended(rows: Array) -> Array:
    """Rows (T, N) less the parabola that fits each column best."""
    time = np.linspace(-1, 1, len(rows))
    basis = np.linalg.qr(np.stack([np.ones_like(time), time, time**2], 1))[0]
    return np.asarray(rows - basis @ (basis.T @ rows))


def _stretches(rows: Array) -> list[Array]:
    """Parts of STRETCH frames each; a shorter clip is one part."""
    count = max(1, len(rows) // STRETCH)
    return [rows[n * STRETCH : (n + 1) * STRETCH] for n in range(count)]
