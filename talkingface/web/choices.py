"""What a client may choose for its video: the same names in a form and in a live address."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from talkingface.web.limits import Refused

Show = Literal["picture", "face", "maps"]
Box = tuple[float, float, float, float]

NAMES = ("model", "show", "mark", "face", "box")


@dataclass(frozen=True)
class Choices:
    """model: by its name; show: the whole picture, the bare face, or the model's maps.

    mark: a small visible label that the video is synthetic. face: the N-th largest (from 1); box:
    (x, y, width, height) of the face in picture pixels; at most one of the two.
    """

    model: str
    show: Show = "picture"
    mark: bool = True
    face: int | None = None
    box: Box | None = None


def parse(values: Mapping[str, str], models: Sequence[str]) -> Choices:
    """Choices as a client writes them; what is missing or empty is the default, models[0] first.

    Raises Refused (400) for an unknown name or value.
    """
    unknown = sorted(set(values) - set(NAMES))
    if unknown:
        raise Refused(400, f"{unknown[0][:40]!r} is no option; known: {', '.join(NAMES)}")
    given = {name: value for name, value in values.items() if value}
    show = given.get("show", "picture")
    if given.get("face") and given.get("box"):
        raise Refused(400, "give the face's number or its box, not both")
    return Choices(
        model=_one_of("model", given.get("model", models[0]), models),
        show=cast(Show, _one_of("show", show, get_args(Show))),
        mark=_one_of("mark", given.get("mark", "true"), ("true", "false")) == "true",
        face=_number(given["face"]) if "face" in given else None,
        box=_box(given["box"]) if "box" in given else None,
    )


def _one_of(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise Refused(400, f"{name} is {value[:40]!r}: give {' or '.join(known)}")
    return value


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= 1000:
        raise Refused(400, f"face is {text[:40]!r}: give a number from 1, the N-th largest face")
    return int(text[:6])


def _box(text: str) -> Box:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(math.isfinite(number) for number in numbers):
        raise Refused(400, f"box is {text[:40]!r}: give x,y,width,height in pixels")
    x, y, width, height = numbers
    return x, y, width, height
