"""Statistics of the motion of heads, brows and eyelids in videos: Song et al. 2019, Sec. 5.

A generated head need not repeat the real motion, so statistics over clips are compared. They are
measured on meshes detected in the finished pictures. The meshes jitter; nothing is smoothed.
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
from talkingface.types import Array

MOVES = (*HEAD, *(f"{name} brows" for name in BROWS))
UNITS = np.array([180 / np.pi] * 3 + [100.0] * 5)  # degrees; 0.01 interocular distances; per cent
BANDS = ((0.0, 1.0), (1.0, 3.0), (3.0, 12.5))  # Hz: slow motion and nods, beats of speech, jitter
STRETCH = 75  # frames: of a clip's parts in which range and correlation are measured
SPECTRUM = 64  # frames of a spectrum: 0.4 Hz steps
SHUT = 0.65  # of the usual opening of the eyes
LONGEST = 15  # frames of a blink; longer closures are no blinks
BEGUN, HALF, DONE = 0.2, 0.5, 0.8  # of a blink's depth: eyes open slowly at the end
FOLLOWED = ("pitch", "inner brows", "outer brows")  # motion that is correlated with the voice


@dataclass(frozen=True)
class HeadVideo:
    """Motion of one video of T frames.

    moves: (T, 8), MOVES in UNITS, relative to the video's median face. openness: (T,), of the eyes.
    voice: (T, 3), loudness, 1 for voiced, and pitch; None if the sound is unknown.
    """

    moves: Array
    openness: Array
    voice: Array | None = None

    @classmethod
    def of(cls, meshes: NDArray[Any], voice: Array | None = None) -> HeadVideo:
        """Measure meshes (T, 478, 2) without NaN, in any unit."""
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
    """Measure videos of one kind. The shortest decides the resolution of the spectrum."""
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
    """Return the standard deviation within clips: (T, N) each -> (N,), weighted by frames."""
    total = sum(len(clip) for clip in clips)
    squares = sum(((clip - clip.mean(0)) ** 2).sum(0) for clip in clips)
    return np.asarray(np.sqrt(squares / total))


def spectrum(clips: Sequence[Array], frames: int = SPECTRUM) -> tuple[Array, Array]:
    """Return the power spectrum of clips: Hz (F,), and (F, N) unit² per Hz.

    Welch 1967: stretches of `frames` frames overlap by half, have their mean removed and are
    weighted by a Hann window. One sided: the sum times the step is the variance. Raises ValueError
    if no clip is so long.
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
    """Return the share of the power (F, N) in each of BANDS: (bands, N)."""
    parts = [
        power[(frequencies >= low) & (frequencies < high + (high == BANDS[-1][1]))].sum(0)
        for low, high in BANDS
    ]
    return np.asarray(np.stack(parts) / np.maximum(power.sum(0), 1e-30))


# --- blinks ---------------------------------------------------------------------------------------


def blinks(openness: Array) -> list[tuple[int, int]]:
    """Return the blinks of a clip (T,), as first frame and the one after the last.

    In a blink the eyes are open less than SHUT times as far as usual (the 80th percentile), for at
    most LONGEST frames.
    """
    shut = openness < SHUT * np.percentile(openness, 80)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], shut.astype(int), [0]])))
    spans = [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return [(a, b) for a, b in spans if b - a <= LONGEST]


def blink_phases(openness: Array, span: tuple[int, int]) -> tuple[float, float, float]:
    """Return the seconds of closing, opening and duration of a blink; NaN if it is cut.

    Closing is from BEGUN to DONE of the depth, opening back. The duration is taken at HALF of the
    depth. Values are linear between frames.
    """
    lowest = span[0] + int(openness[span[0] : span[1]].argmin())
    usual = np.percentile(openness, 80)
    shut = (usual - openness) / max(usual - openness[lowest], 1e-12)
    before, after = shut[lowest::-1], shut[lowest:]
    closing, opening = (_falls(side, BEGUN) - _falls(side, DONE) for side in (before, after))
    lasts = _falls(before, HALF) + _falls(after, HALF)
    return closing / FPS, opening / FPS, lasts / FPS


def _falls(values: Array, level: float) -> float:
    """Return the row at which values first fall below a level; NaN if they do not."""
    below = np.flatnonzero(values < level)
    if len(below) == 0:
        return float("nan")
    row = int(below[0])
    return row - 1 + float((values[row - 1] - level) / (values[row - 1] - values[row]))


def _intervals(spans: Sequence[Sequence[tuple[int, int]]]) -> Array:
    """Return deciles (9,) of the seconds between the beginnings of blinks within clips."""
    times = [np.diff([begin for begin, _ in clip]) / FPS for clip in spans if len(clip) > 1]
    if not times:
        return np.full(9, np.nan)
    return np.asarray(np.percentile(np.concatenate(times), np.arange(10, 100, 10)))


def _median(values: Array) -> float:
    found = values[np.isfinite(values)]
    return float(np.median(found)) if len(found) else float("nan")


# --- correlation with the voice -------------------------------------------------------------------


def correlations(videos: Sequence[HeadVideo]) -> Array:
    """Correlate loudness and the voice's pitch with FOLLOWED: (2, 3), medians over stretches.

    Slow motion is removed as a parabola. The pitch counts in voiced frames.
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
    """Subtract from each column of rows (T, N) the parabola that fits it best."""
    time = np.linspace(-1, 1, len(rows))
    basis = np.linalg.qr(np.stack([np.ones_like(time), time, time**2], 1))[0]
    return np.asarray(rows - basis @ (basis.T @ rows))


def _stretches(rows: Array) -> list[Array]:
    """Split rows into parts of STRETCH frames each; a shorter clip is one part."""
    count = max(1, len(rows) // STRETCH)
    return [rows[n * STRETCH : (n + 1) * STRETCH] for n in range(count)]
