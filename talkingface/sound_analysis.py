"""Choose the mix of two channels that a model hears, and tell voices from silence and noise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

RATE = 16_000  # Hz
_DEAD = 1e-3  # of the other channel's power: such a channel is left out
_CANCELLED = 0.1  # of the difference's power: such a sum is left out
_SILENT = -60.0  # dB of full scale, in the loudest 100 ms
# dB by which the bands of a sound change from one 100 ms to the next, on average. Noises of five
# kinds, hum and both together: 0.0 to 0.7. Speech: 4.6 to 13.5; in pink noise at 0 dB 1.4.
_STEADY = 0.9
_SHORTEST = 10  # blocks: of less, nothing is said but that it is silent
_HOP, _WINDOW, _FFT, _HOPS = 160, 400, 512, 10  # samples; hops of a block of 100 ms
_BLOCK = _HOP * _HOPS
_EDGES = (100, 300, 600, 1000, 1500, 2200, 3200, 4500, 6500)  # Hz, of the bands
_BINS = np.round(np.array(_EDGES) * _FFT / RATE).astype(int)

SILENT = "the sound is silent: the lips stay closed"
NOISE = "no voice is heard in the sound, only a steady noise: the lips hardly move"


class SoundAnalysis:
    """Statistics of a sound at 16 kHz, pushed in parts of any length."""

    def __init__(self) -> None:
        self.samples = 0
        self._powers = np.zeros(4)  # sums of squares of left, right, mean and half difference
        self._rest: NDArray[np.float32] | None = None
        self._loudest, self._steps, self._blocks = 0.0, 0.0, 0
        self._before: NDArray[np.float64] | None = None

    def push(self, samples: NDArray[np.float32]) -> None:
        """Push (1, n) or (2, n) samples, always of as many channels."""
        self.samples += samples.shape[1]
        left, right = samples[0].astype(np.float64), samples[-1].astype(np.float64)
        mixes = (left, right, (left + right) / 2, (left - right) / 2)
        self._powers += [float(mix @ mix) for mix in mixes]
        kept = samples if self._rest is None else np.concatenate([self._rest, samples], axis=1)
        count = max(0, kept.shape[1] - _WINDOW + _HOP) // _BLOCK
        for start in range(0, count * _BLOCK, _BLOCK):
            self._add(kept[:, start : start + _BLOCK - _HOP + _WINDOW])
        self._rest = kept[:, count * _BLOCK :]

    def _add(self, block: NDArray[np.float32]) -> None:
        """Add a block of 100 ms; of two channels the louder one counts."""
        sound = block[np.square(block).sum(1).argmax()].astype(np.float64)
        self._loudest = max(self._loudest, float(np.square(sound).mean()))
        hops = np.lib.stride_tricks.sliding_window_view(sound, _WINDOW)[::_HOP]
        power = np.square(np.abs(np.fft.rfft(hops * np.hanning(_WINDOW), _FFT))).mean(0)
        bands = [power[low:high].mean() for low, high in pairwise(_BINS)]
        level = 10 * np.log10(np.array(bands) + 1e-7)
        if self._before is not None:
            self._steps += float(np.abs(level - self._before).mean())
        self._before = level
        self._blocks += 1

    @property
    def mix(self) -> tuple[float, float] | None:
        """Weights of the two channels that make what is heard; None for their mean.

        The mean, unless a channel is dead (the other one is heard) or the channels cancel each
        other (half their difference is heard).
        """
        left, right, total, difference = self._powers
        if min(left, right) < _DEAD * max(left, right):
            return (1.0, 0.0) if left > right else (0.0, 1.0)
        return (0.5, -0.5) if total < _CANCELLED * difference else None

    @property
    def note(self) -> str | None:
        """A warning if there is no voice, as far as that can be told; else None."""
        if 10 * np.log10(self._loudest + 1e-20) < _SILENT:
            return SILENT
        steady = self._blocks > _SHORTEST and self._steps / (self._blocks - 1) < _STEADY
        return NOISE if steady else None
