"""Mix many channels to one or two at full level, without clipping.

Levels follow ITU-R BS.775-3, Table 2: centre and surrounds at -3 dB, LFE dropped. The sum of many
channels can exceed full scale; there a limiter turns it down.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]  # (channels, n), full scale is 1

_MINUS_3_DB = 0.5**0.5
_LEFT_SURROUND = ("SL", "BL", "SDL", "SSL", "TFL", "TSL", "TBL", "TTL", "BFL")
# Levels of a channel in the left and in the right output, by FFmpeg's name of its place.
_LEVELS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("LFE", "LFE2"), (0.0, 0.0)),
    **dict.fromkeys(("FC", "BFC"), (_MINUS_3_DB, _MINUS_3_DB)),
    **dict.fromkeys(("BC", "TC", "TFC", "TBC"), (0.5, 0.5)),  # a single surround: both sides
    **dict.fromkeys(("FL", "FLC", "WL", "DL"), (1.0, 0.0)),
    **dict.fromkeys(("FR", "FRC", "WR", "DR"), (0.0, 1.0)),
    **dict.fromkeys(_LEFT_SURROUND, (_MINUS_3_DB, 0.0)),
    **dict.fromkeys((f"{name[:-1]}R" for name in _LEFT_SURROUND), (0.0, _MINUS_3_DB)),
}
# The order of channels in files without one, as players take them.
_USUAL = {
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}


def places(names: Sequence[str]) -> tuple[str, ...]:
    """Return FFmpeg's names of the places of channels; () where they are unknown.

    names: FFmpeg's name of each channel; any other name is an unknown place. Six channels at
    unknown places are taken as 5.1, eight as 7.1.
    """
    if all(name in _LEVELS for name in names):
        return tuple(names)
    return _USUAL.get(len(names), ())


def weights(names: Sequence[str], outputs: int) -> Samples:
    """Return the (outputs, channels) weights of a downmix; outputs: 1, 2, or all of the channels.

    names: as in `places`. One channel is copied, two are averaged. Of more, those at unknown places
    are averaged.
    """
    count = len(names)
    if count == outputs:
        return np.eye(count, dtype=np.float32)
    names = places(names)
    if count <= 2 or not names:
        return np.full((outputs, count), 1 / count, np.float32)
    stereo = np.array([_LEVELS[name] for name in names]).T
    mixed = stereo if outputs == 2 else _MINUS_3_DB * stereo.sum(0, keepdims=True)
    return np.asarray(mixed, np.float32)


class Downmix:
    """One recording's channels to one or two, chunk by chunk."""

    def __init__(self, names: Sequence[str], outputs: int, rate: int) -> None:
        """names, outputs: as in `weights`; rate: Hz."""
        self._inputs, self._outputs = len(names), outputs
        self._weights = weights(names, outputs)
        louder = bool((self._weights.sum(1) > 1.0 + 1e-6).any())
        self._limiter = _Limiter(outputs, max(2, rate // 20)) if louder else None

    def push(self, samples: Samples) -> Samples:
        """Mix (channels, n); where the sum may clip, 50 ms are held back."""
        if self._inputs == self._outputs:
            return samples
        if self._limiter is not None:
            return self._limiter.push(self._weights @ samples)
        # means and copies, to the last bit what they always were
        mean: Samples = samples.mean(0, keepdims=True)
        return np.repeat(mean, self._outputs, axis=0)

    def finish(self) -> Samples:
        """Return what was held back."""
        if self._limiter is None:
            return np.zeros((self._outputs, 0), np.float32)
        return self._limiter.finish()


class _Limiter:
    """Keep samples within full scale; those that are, and are not near others, stay bit-equal.

    The gain that every sample needs is 1 / max(1, |sample|), the same for all channels. Its minimum
    over the `width` samples from each one on, averaged over `width` of these minima, is nowhere
    above what is needed, and changes slowly.
    """

    def __init__(self, channels: int, width: int) -> None:
        self._width = width
        self._waiting = np.zeros((channels, 0), np.float32)  # samples whose gain is not yet known
        self._minima = np.ones(width - 1)

    def push(self, samples: Samples) -> Samples:
        self._waiting = np.concatenate([self._waiting, samples], axis=1)
        return self._take(self._waiting.shape[1] - self._width + 1, self._waiting)

    def finish(self) -> Samples:
        padded = np.pad(self._waiting, ((0, 0), (0, self._width - 1)))
        return self._take(self._waiting.shape[1], padded)

    def _take(self, ready: int, samples: Samples) -> Samples:
        ready = max(0, ready)
        out, self._waiting = self._waiting[:, :ready], self._waiting[:, ready:]
        needed = 1 / np.maximum(1.0, np.abs(samples[:, : ready + self._width - 1]).max(0))
        if ready == 0 or (needed.min() == 1.0 and self._minima.min() == 1.0):
            return out
        minima = np.concatenate([self._minima, _sliding_minimum(needed, self._width)])
        self._minima = minima[len(minima) - self._width + 1 :]
        sums = np.cumsum(np.concatenate([[0.0], minima]))
        gain = (sums[self._width :] - sums[: -self._width]) / self._width
        limited: Samples = np.clip(out * gain, -1.0, 1.0).astype(np.float32)
        return limited


def _sliding_minimum(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """The minimum of every `width` neighbours: (n,) to (n - width + 1,)."""
    covered = 1
    while covered < width:
        step = min(covered, width - covered)
        values = np.minimum(values[:-step], values[step:])
        covered += step
    return values
