"""How a head moves: how far, how fast, how often it blinks. Song et al. 2019, Sec. 5, in numbers.

A generated head need not move as the real one did at that moment, only as such a head moves: what
is compared is statistics over clips. All of it is measured in crops that are fixed for a clip
(`talkingface prepare --natural-pose`), on landmarks found in the finished pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from talkingface.audio import FPS
from talkingface.metrics.lips import REFERENCE_SIZE
from talkingface.models.head import FLOW_UNIT, LIDS, measure

Array = NDArray[np.float64]

POSE = ("x", "y", "roll", "scale")  # pixels at 128, pixels at 128, degrees, per cent
BANDS = ((0.0, 1.0), (1.0, 3.0), (3.0, 12.5))  # Hz: sways and nods, beats of speech, trembling
SHUT = 0.65  # of how open the eyes usually are
LONGEST = 15  # frames of a blink; what is shut for longer looks down, or sleeps
STRETCH = 64  # frames of a spectrum: 0.4 Hz steps


def head_moves(landmarks: NDArray[Any], size: int) -> Array:
    """Where the head is in each frame: (T, 5), POSE and how open the eyes are.

    landmarks: (T, 68, 2) in pixels of a `size` px crop, all of them found. Relative to the clip's
    middle (median) face; openness is the eye's height by its width.
    """
    points = torch.from_numpy(np.asarray(landmarks, dtype=np.float64) / size)
    middle = points.median(dim=0).values
    moves = measure(middle[None], points[None])[0].numpy()
    units = np.array([FLOW_UNIT * REFERENCE_SIZE] * 2 + [180 / np.pi, 100.0])
    return np.concatenate([moves[:, :4] * units, moves[:, LIDS : LIDS + 1]], axis=1)


def deviation(clips: Sequence[Array]) -> Array:
    """Standard deviation within clips: (T, N) each -> (N,). Clips count by their frames."""
    total = sum(len(clip) for clip in clips)
    squares = sum(((clip - clip.mean(0)) ** 2).sum(0) for clip in clips)
    return np.asarray(np.sqrt(squares / total))


def spectrum(clips: Sequence[Array], frames: int = STRETCH) -> tuple[Array, Array]:
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


def blinks(openness: Array) -> list[tuple[int, int]]:
    """The blinks of a clip (T,), as first frame and the one after the last.

    A blink is where the eyes are open less than SHUT times as far as usual (the 80th percentile),
    for LONGEST frames at most.
    """
    shut = openness < SHUT * np.percentile(openness, 80)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], shut.astype(int), [0]])))
    spans = [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return [(a, b) for a, b in spans if b - a <= LONGEST]


@dataclass(frozen=True)
class HeadStatistics:
    """Of one kind of video, over all its clips.

    seconds: of video. deviation: (4,), of POSE. shares: (bands, 4), of the variance. speed: (4,),
    mean absolute change per frame. blinks: per minute. blink_frames: their mean length, NaN for
    none.
    """

    seconds: float
    deviation: Array
    shares: Array
    speed: Array
    blinks: float
    blink_frames: float


def statistics(clips: Sequence[Array]) -> HeadStatistics:
    """Of `head_moves` of every clip. The shortest says how fine the spectrum is."""
    poses = [clip[:, :4] for clip in clips]
    found = [span for clip in clips for span in blinks(clip[:, 4])]
    seconds = sum(len(clip) for clip in clips) / FPS
    return HeadStatistics(
        seconds,
        deviation(poses),
        band_shares(*spectrum(poses, min(STRETCH, *map(len, poses)))),
        np.asarray(np.concatenate([np.abs(np.diff(pose, axis=0)) for pose in poses]).mean(0)),
        60 * len(found) / seconds,
        float(np.mean([b - a for a, b in found])) if found else float("nan"),
    )
