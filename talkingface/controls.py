"""Controls of a face's motion; the same in Python, command line, page and HTTP."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from talkingface.errors import BadRequest

Keyframes = Sequence[tuple[float, float]]  # (seconds, strength), in order of time

MOUTH = (0.5, 1.5)
HEAD = (0.0, 1.5)
SMOOTH = (0.0, 1.0)
BLINKS = (0.0, 40.0)
STRENGTH = (-1.0, 1.5)  # of an expression
SEEDS = 2**32
EXPRESSIONS = ("smile", "sad", "frown", "surprise", "brows-up")  # see `arkit.named`


@dataclass(frozen=True)
class Controls:
    """Controls of a face's motion; the defaults are a quiet speaker.

    mouth: strength of the lips' motion, 0.5 to 1.5; closed lips stay closed.
    smooth: how much the mouth's motion is smoothed, 0 to 1; above 0 a stream is 80 ms later.
    head: strength of the head's and the brows' motion, 0 to 1.5.
    blinks: a minute, 0 to 40.
    still: only what speech moves: no head, brows, lids or gaze.
    seed: another performance of everything that speech leaves open; 0 to 2**32 - 1.
    expressions: added ones by name (EXPRESSIONS): a strength, or keyframes
    [(seconds, strength), ...], linear between them.
    """

    mouth: float = 1.0
    smooth: float = 0.0
    head: float = 1.0
    blinks: float = 15.0
    still: bool = False
    seed: int = 0
    expressions: Mapping[str, float | Keyframes] = field(default_factory=dict)

    def check(self) -> None:
        """Raise BadRequest for what is out of its range, or an expression that is not known."""
        for name, (low, high) in _RANGES.items():
            _check(name, getattr(self, name), low, high)
        if not isinstance(self.seed, int) or not 0 <= self.seed < SEEDS:
            raise BadRequest(f"seed is {self.seed}: give a whole number from 0 to {SEEDS - 1}")
        for name, strength in self.expressions.items():
            if name not in EXPRESSIONS:
                raise BadRequest(
                    f"expression {name!r} is not known: give {', '.join(sorted(EXPRESSIONS))}"
                )
            _check_keyframes(name, strength)


DEFAULTS, MOUTH_ALONE = Controls(), Controls(still=True)

_RANGES = {"mouth": MOUTH, "smooth": SMOOTH, "head": HEAD, "blinks": BLINKS}


def _check(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise BadRequest(f"{name} is {value:g}: give a number from {low:g} to {high:g}")


def _check_keyframes(name: str, strength: float | Keyframes) -> None:
    if isinstance(strength, (int, float)):
        _check(f"strength of {name}", strength, *STRENGTH)
        return
    times = [float(time) for time, _ in strength]
    if not times or times != sorted(times) or not all(math.isfinite(time) for time in times):
        raise BadRequest(
            f"expression {name}: keyframes must be (seconds, strength) pairs in order of time"
        )
    for _, value in strength:
        _check(f"strength of {name}", value, *STRENGTH)
