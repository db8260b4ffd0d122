"""Options of a generated video. Forms and live addresses use the same names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from talkingface.arkit import EXPRESSIONS
from talkingface.controls import BLINKS, DEFAULTS, HEAD, MOUTH, SEEDS, SMOOTH, Controls
from talkingface.errors import BadRequest
from talkingface.web.limits import ApiError

Show = Literal["picture", "face", "maps"]
Box = tuple[float, float, float, float]

# Names of `Controls` that are numbers, and their ranges.
RANGES = {"mouth": MOUTH, "smooth": SMOOTH, "head": HEAD, "blinks": BLINKS}
NAMES = ("model", "show", "mark", "face", "box", *RANGES, "still", "seed", "express")
LIVE_NAMES = (*NAMES, "idle")


@dataclass(frozen=True)
class GenerateOptions:
    """Options of one video.

    model: its name. show: the whole picture, the face alone, or the model's maps. mark: a small
    visible label that the video is synthetic. face: the N-th largest face, from 1. box: (x, y,
    width, height) of the face in picture pixels. At most one of face and box is given. controls:
    how the face moves. idle: whether a live face goes on moving while no sound comes.
    """

    model: str
    show: Show = "picture"
    mark: bool = True
    face: int | None = None
    box: Box | None = None
    controls: Controls = DEFAULTS
    idle: bool = False


def parse_options(
    values: Mapping[str, str], models: Sequence[str], names: Sequence[str] = NAMES
) -> GenerateOptions:
    """Parse the options that a client sent. A missing or empty value takes the default.

    models: the known models; the first is the default. names: the options that may be given.
    Raises ApiError (400) for an unknown name or value.
    """
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ApiError(400, f"{unknown[0][:40]!r} is no option; known: {', '.join(names)}")
    given = {name: value for name, value in values.items() if value}
    show = given.get("show", "picture")
    if given.get("face") and given.get("box"):
        raise ApiError(400, "give the face's number or its box, not both")
    return GenerateOptions(
        model=_parse_choice("model", given.get("model", models[0]), models),
        show=cast(Show, _parse_choice("show", show, get_args(Show))),
        mark=_parse_bool("mark", given, default=True),
        face=_parse_face(given["face"]) if "face" in given else None,
        box=_parse_box(given["box"]) if "box" in given else None,
        controls=_parse_controls(given),
        idle=_parse_bool("idle", given, default=False),
    )


def _parse_bool(name: str, given: Mapping[str, str], default: bool) -> bool:
    value = given.get(name, "true" if default else "false")
    return _parse_choice(name, value, ("true", "false")) == "true"


def _parse_choice(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ApiError(400, f"{name} is {value[:40]!r}: give {' or '.join(known)}")
    return value


def _parse_face(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= 1000:
        raise ApiError(400, f"face is {text[:40]!r}: give a number from 1, the N-th largest face")
    return int(text[:6])


def _parse_box(text: str) -> Box:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(math.isfinite(number) for number in numbers):
        raise ApiError(400, f"box is {text[:40]!r}: give x,y,width,height in pixels")
    x, y, width, height = numbers
    return x, y, width, height


def _parse_controls(given: Mapping[str, str]) -> Controls:
    numbers = {name: _parse_float(name, given[name]) for name in RANGES if name in given}
    controls = Controls(
        **numbers,
        still=_parse_bool("still", given, default=DEFAULTS.still),
        seed=_parse_seed(given["seed"]) if "seed" in given else DEFAULTS.seed,
        expressions=_parse_expressions(given.get("express", "")),
    )
    try:
        controls.check(sorted(EXPRESSIONS))
    except BadRequest as error:
        raise ApiError(400, str(error)) from error
    return controls


def _parse_float(name: str, text: str) -> float:
    low, high = RANGES[name]
    try:
        return float(text)
    except ValueError:
        raise ApiError(
            400, f"{name} is {text[:40]!r}: give a number from {low:g} to {high:g}"
        ) from None


def _parse_seed(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise ApiError(400, f"seed is {text[:40]!r}: give a whole number from 0 to {SEEDS - 1}")
    return int(text)


def _parse_expressions(text: str) -> dict[str, float]:
    """Parse "smile=0.5,brows-up=1" -> {"smile": 0.5, "brows-up": 1.0}; a name alone counts 1."""
    found: dict[str, float] = {}
    for part in text.split(",") if text else ():
        name, _, strength = part.partition("=")
        name = name.strip()[:40]
        if name in found:
            raise ApiError(400, f"express gives {name!r} twice: give each expression once")
        try:
            found[name] = float(strength or 1)
        except ValueError:
            raise ApiError(
                400,
                f"express is {text[:40]!r}: give NAME=STRENGTH, several with commas, as "
                "smile=0.5,brows-up=1",
            ) from None
    return found
