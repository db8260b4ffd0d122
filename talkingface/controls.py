"""Controls of a face's motion, the same in Python, on the command line, the page and in HTTP."""

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
    """Controls of a face's motion. The defaults give a quiet speaker.

    mouth: strength of the lips' motion, 0.5 to 1.5. Closed lips stay closed.
    smooth: smoothing of the mouth's motion, 0 to 1. Above 0 a stream is 80 ms later.
    head: strength of the motion of head and brows, 0 to 1.5.
    blinks: blinks per minute, 0 to 40.
    still: True moves the mouth alone, without head, brows, lids and gaze.
    seed: random seed of the motion that speech does not decide, 0 to 4294967295.
    expressions: expressions to add, by name: "smile", "sad", "frown", "surprise", "brows-up". Each
    is a strength, -1 to 1.5, or keyframes [(seconds, strength), ...] in order of time. Strengths
    are linear between keyframes and constant beyond them.
    """

    mouth: float = 1.0
    smooth: float = 0.0
    head: float = 1.0
    blinks: float = 15.0
    still: bool = False
    seed: int = 0
    expressions: Mapping[str, float | Keyframes] = field(default_factory=dict)

    def check(self) -> None:
        """Check all ranges and the names of the expressions. Raises BadRequest."""
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
