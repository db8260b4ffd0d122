"""Options of a generated video: names, ranges and descriptions of forms and live addresses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal, TypeVar, cast, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from talkingface.controls import (
    BLINKS,
    DEFAULTS,
    EXPRESSIONS,
    HEAD,
    MOUTH,
    SEEDS,
    SMOOTH,
    STRENGTH,
    Controls,
)
from talkingface.dubbing.timeline import LENGTHS, Length
from talkingface.errors import BadRequest
from talkingface.face_options import FaceOptions, Show
from talkingface.output_options import OutputOptions
from talkingface.types import Box
from talkingface.web.errors import ApiError

# Names of `Controls` that are numbers, and their ranges.
RANGES = {"mouth": MOUTH, "smooth": SMOOTH, "head": HEAD, "blinks": BLINKS}
LONGEST_LEASE, LONGEST_WAIT = 3600, 30  # seconds
LONGEST_TEXT = 1000  # characters

_EXPECTED = {  # what an error text asks for
    "show": " or ".join(get_args(Show)),
    **dict.fromkeys(("mark", "still", "idle", "rtc"), "true or false"),
    "face": "a number from 1, the N-th largest face",
    "box": "x,y,width,height in pixels",
    **{name: f"a number from {low:g} to {high:g}" for name, (low, high) in RANGES.items()},
    "seed": f"a whole number from 0 to {SEEDS - 1}",
    "express": "NAME=STRENGTH, several with commas, as smile=0.5,brows-up=1",
    "format": "mp4, mov, webm, gif or webp",
    "fps": "10 to 60 frames per second, as 25, 29.97 or 60",
    "length": " or ".join(LENGTHS),
    "at": "seconds, from 0",
    "text": f"at most {LONGEST_TEXT} characters",
    "lease": f"seconds, from 0 to {LONGEST_LEASE}",
    "wait": f"seconds, from 0 to {LONGEST_WAIT}",
    "place": "any, live or file",
}


_LENGTH = (
    "video: it ends with the video; sound: with the sound, at the latest with the video; loop, "
    "bounce, freeze: with the sound, while the video begins again, runs back and forth, or stays; "
    "left out: video, and bounce where the sound is longer"
)
_TEXT = "English, in place of audio, where /v1/models names a voice: that one speaks it"


def _parse_switch(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def _parse_digits(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise ValueError
    return int(text)


def _parse_rate(text: str) -> Fraction:
    try:
        return OutputOptions(fps=text).rate
    except BadRequest as error:
        raise ValueError from error


def _parse_box(text: str) -> Box:
    x, y, width, height = (float(part) for part in text.split(","))
    if not all(map(math.isfinite, (x, y, width, height))):
        raise ValueError
    return x, y, width, height


def _parse_expressions(text: str) -> dict[str, float]:
    """Parse "smile=0.5,brows-up=1" -> {"smile": 0.5, "brows-up": 1.0}; a name alone counts 1."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, strength = part.partition("=")
        name = name.strip()[:40]
        if name in found:
            raise ApiError(400, f"express gives {name!r} twice: give each expression once")
        found[name] = float(strength or 1)
    return found


Switch = Annotated[
    bool,
    BeforeValidator(_parse_switch),
    WithJsonSchema({"type": "string", "enum": ["true", "false"]}),
]
FaceNumber = Annotated[
    int | None,
    BeforeValidator(_parse_digits),
    Field(ge=1, le=1000),
    WithJsonSchema({"type": "integer", "minimum": 1}),
]
FaceBox = Annotated[
    Box | None,
    BeforeValidator(_parse_box),
    WithJsonSchema({"type": "string", "pattern": r"^([-0-9.]+(,[-0-9.]+){3})?$"}),
]
FileFormat = Literal["mp4", "mov", "webm", "gif", "webp"]
FrameRate = Annotated[
    Fraction,
    BeforeValidator(_parse_rate),
    WithJsonSchema({"type": "string", "default": "25", "examples": ["30", "29.97"]}),
]
Seed = Annotated[int, BeforeValidator(_parse_digits)]
Text = Annotated[
    str | None,
    Field(max_length=LONGEST_TEXT),
    WithJsonSchema({"type": "string", "maxLength": LONGEST_TEXT}),
]
Strengths = Annotated[
    dict[str, float],
    BeforeValidator(_parse_expressions),
    WithJsonSchema({"type": "string", "examples": ["smile=0.5,brows-up=1"]}),
]


def _control(name: str, description: str, example: float) -> Any:
    low, high = RANGES[name]
    default = getattr(DEFAULTS, name)
    return Field(
        default=default,
        ge=low,
        le=high,
        allow_inf_nan=False,
        description=description,
        examples=[example],
    )


class GenerateOptions(BaseModel):
    """Options of one video. At most one of face and box is given.

    The fields from `mouth` on are those of `Controls`; models without `moves` take the defaults.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="name of a model")
    show: Show = Field(
        default="picture",
        description="the whole picture; the bare face; attention, colour and face in a row",
    )
    mark: Switch = Field(default=True, description='a small visible "synthetic" in the picture')
    face: FaceNumber = Field(default=None, description="the N-th largest face")
    box: FaceBox = Field(
        default=None, description="where the face is, instead: x,y,width,height in pixels"
    )
    mouth: float = _control("mouth", "strength of the lips' motion; closed lips stay closed", 1.2)
    smooth: float = _control(
        "smooth", "smoothing of the mouth's motion; above 0 a stream is 80 ms later", 0.5
    )
    head: float = _control("head", "strength of the head's and the brows' motion", 0.5)
    blinks: float = _control("blinks", "blinks a minute", 20)
    still: Switch = Field(
        default=DEFAULTS.still, description="only what speech moves: no head, brows, lids or gaze"
    )
    seed: Seed = Field(
        default=DEFAULTS.seed,
        ge=0,
        le=SEEDS - 1,
        description="another performance of everything that speech leaves open",
        examples=[7],
    )
    express: Strengths = Field(
        default={},
        description="expressions to add, NAME=STRENGTH with commas between; a strength is "
        f"{STRENGTH[0]:g} to {STRENGTH[1]:g}, 1 where it is left out; a name is one of "
        + ", ".join(sorted(EXPRESSIONS)),
    )

    @model_validator(mode="after")
    def _check(self) -> GenerateOptions:
        if self.face is not None and self.box is not None:
            raise ApiError(400, "give the face's number or its box, not both")
        try:
            self.controls.check()
        except BadRequest as error:
            raise ApiError(400, str(error)) from error
        return self

    @property
    def face_options(self) -> FaceOptions:
        """Return which face speaks and how it is shown."""
        return FaceOptions(face=self.face, box=self.box, show=self.show, mark=self.mark)

    @property
    def controls(self) -> Controls:
        """Return how the face moves."""
        numbers = {name: getattr(self, name) for name in RANGES}
        return Controls(**numbers, still=self.still, seed=self.seed, expressions=self.express)


class FileOptions(GenerateOptions):
    """Options of a video as a file."""

    text: Text = Field(default=None, description=_TEXT)
    format: FileFormat = Field(
        default="mp4", description="container of the file; gif and webp have no sound"
    )
    fps: FrameRate = Field(
        default=Fraction(25),
        description="frames per second, 10 to 60; 29.97 stands for 30000/1001",
        examples=[30],
    )

    @property
    def output(self) -> OutputOptions:
        """Return how the file is written. Raises BadRequest."""
        return OutputOptions(fps=self.fps)


class JobOptions(FileOptions):
    """Options of a job."""

    lease: float | None = Field(
        default=None,
        ge=0,
        le=LONGEST_LEASE,
        description="seconds: cancel the job when nobody asks for it for so long",
    )


class LiveOptions(GenerateOptions):
    """Options of a live video."""

    idle: Switch = Field(default=False, description="go on moving while no sound comes")
    rtc: Switch = Field(default=False, description="send the video by WebRTC, not as an mp4")


class DubOptions(BaseModel):
    """Options of a dubbed video. At most one of face and box is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="name of a model that moves a mesh")
    text: Text = Field(default=None, description=_TEXT)
    length: Length | None = Field(default=None, description=_LENGTH)
    face: FaceNumber = Field(default=None, description="the N-th largest face")
    box: FaceBox = Field(
        default=None, description="where the face is, instead: x,y,width,height in pixels"
    )
    at: float = Field(
        default=0, ge=0, allow_inf_nan=False, description="seconds at which the face is there"
    )
    mark: Switch = Field(default=True, description='a small visible "synthetic" in the picture')
    mouth: float = _control("mouth", "strength of the lips' motion; closed lips stay closed", 1.2)
    smooth: float = _control("smooth", "smoothing of the mouth's motion", 0.5)
    lease: float | None = Field(
        default=None,
        ge=0,
        le=LONGEST_LEASE,
        description="seconds: cancel the job when nobody asks for it for so long",
    )

    @model_validator(mode="after")
    def _check(self) -> DubOptions:
        if self.face is not None and self.box is not None:
            raise ApiError(400, "give the face's number or its box, not both")
        return self

    @property
    def controls(self) -> Controls:
        """Return how the mouth moves."""
        return Controls(mouth=self.mouth, smooth=self.smooth)


NAMES = tuple(FileOptions.model_fields)
Options = TypeVar("Options", bound=GenerateOptions | DubOptions)


def parse_options(
    values: Mapping[str, str],
    models: Sequence[str],
    kind: type[Options] = GenerateOptions,  # type: ignore[assignment]
) -> Options:
    """Parse the options that a client sent. A missing or empty value takes the default.

    models: the known models; the first is the default. kind: the options that may be given.
    Raises ApiError (400) for an unknown name or value.
    """
    given = {
        name: value for name, value in values.items() if value or name not in kind.model_fields
    }
    model = given.setdefault("model", models[0])
    if model not in models:
        raise ApiError(400, f"model is {model[:40]!r}: give {' or '.join(models)}")
    try:
        return cast(Options, kind.model_validate(given))
    except ValidationError as error:
        raise ApiError(400, error_text(error.errors(), list(kind.model_fields))) from None


def error_text(errors: Sequence[Any], known: Sequence[str] = ()) -> str:
    """Return one line about the first of pydantic's errors. known: the names of the options."""
    name, given = str(errors[0]["loc"][-1]), str(errors[0]["input"])[:40]
    if errors[0]["type"] == "extra_forbidden":
        return f"{name[:40]!r} is no option; known: {', '.join(known)}"
    outside = errors[0]["type"] in ("greater_than_equal", "less_than_equal", "finite_number")
    bare = outside and name in (*RANGES, "seed")
    return f"{name} is {given if bare else repr(given)}: give {_EXPECTED[name]}"
