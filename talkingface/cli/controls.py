"""Groups of options that several commands take: the face, its motion, and the output."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from talkingface.cli.options import (
    AsJson,
    Background,
    Crop,
    CropSize,
    FaceChoice,
    Landmarks,
    Mark,
    MaxSize,
    Quiet,
    Reporter,
    parse_face,
    parse_size,
)
from talkingface.controls import BLINKS, DEFAULTS, HEAD, MOUTH, SEEDS, SMOOTH, Controls
from talkingface.errors import BadRequest
from talkingface.face_options import DEFAULT_FACE, FaceOptions
from talkingface.output_options import OutputOptions
from talkingface.workers import Workers

Command = Callable[..., None]
REQUIRED = inspect.Parameter.empty  # default of an option that has none


def option(kind: Any, default: Any, *names: str, **facts: Any) -> tuple[Any, Any]:
    """Return an option for `with_options`: its type as typer has it, and its default."""
    return Annotated[kind, typer.Option(*names, **facts)], default


def _number(text: str, limits: tuple[float, float]) -> Any:
    return typer.Option(help=text, min=limits[0], max=limits[1])


# Options by name: their types, as typer has them, and their defaults.
_CONTROLS: dict[str, tuple[Any, Any]] = {
    "mouth": (
        Annotated[float, _number("strength of the lips; closed lips stay closed", MOUTH)],
        DEFAULTS.mouth,
    ),
    "smooth": (
        Annotated[float, _number("how much the mouth's motion is smoothed", SMOOTH)],
        DEFAULTS.smooth,
    ),
    "head": (Annotated[float, _number("strength of head and brows", HEAD)], DEFAULTS.head),
    "blinks": (Annotated[float, _number("a minute", BLINKS)], DEFAULTS.blinks),
    "still": (
        Annotated[bool, typer.Option("--still", help="only what speech moves")],
        DEFAULTS.still,
    ),
    "seed": (
        Annotated[
            int,
            typer.Option(
                help="another performance of what speech leaves open", min=0, max=SEEDS - 1
            ),
        ],
        DEFAULTS.seed,
    ),
    "express": (
        Annotated[
            list[str] | None,
            typer.Option(
                metavar="NAME=STRENGTH",
                help="an expression to add, as smile=0.5 or sad=1; repeat for more",
            ),
        ],
        None,
    ),
}
_SHOWN: dict[str, tuple[Any, Any]] = {
    "crop": (Crop, False),
    "crop_size": (CropSize, DEFAULT_FACE.crop_size),
    "mark": (Mark, DEFAULT_FACE.mark),
    "max_size": (MaxSize, str(DEFAULT_FACE.max_size)),
    "background": (Background, DEFAULT_FACE.background),
}
SIGNATURE: dict[str, tuple[Any, Any]] = {
    "c2pa": option(
        bool, False, "--c2pa", help="add a signed manifest of C2PA that says how it was made"
    ),
    "sign_certificate": option(
        Path | None, None, help="PEM file to sign it with [one made for this run alone]"
    ),
    "sign_key": option(Path | None, None, help="private key of that certificate, PEM"),
}
WORKERS: dict[str, tuple[Any, Any]] = {
    "jobs": option(int | None, None, min=1, help="processes [one per core; GPU: 1]"),
    "engine": option(
        str | None, None, metavar="local|dask", help="processes here, or a Dask cluster [local]"
    ),
    "scheduler": option(
        str | None,
        None,
        help="with dask: its address, as tcp://host:8786 [processes of this machine]",
    ),
}
_OUTPUT: dict[str, tuple[Any, Any]] = {
    "fps": option(str, "25", help="frames per second, as 24, 29.97 or 60", metavar="RATE"),
    "codec": option(
        str | None,
        None,
        help="h264, h265 or av1 in mp4; also prores in mov; vp9 or av1 in webm",
        metavar="NAME",
    ),
    "audio_bitrate": option(
        int | None,
        None,
        help="bits per second; the sound is encoded then, not copied",
        metavar="BITS",
    ),
    "subtitles": option(Path | None, None, help="an .srt file, for a track of its own"),
    "burn_subtitles": option(
        bool, False, "--burn-subtitles", help="draw the subtitles into the frames instead"
    ),
    **SIGNATURE,
    "format": option(str, "y4m", help="of frames on standard output (-o -): y4m or rgb24"),
}
_FACE = {"face": (FaceChoice, None), "landmarks": (Landmarks, None), **_SHOWN}


def _controls(express: Sequence[str] | None, **given: Any) -> Controls:
    return Controls(**given, expressions=parse_expressions(express or ()))


def _face_options(face: str | None, crop: bool, **given: Any) -> FaceOptions:
    number, box = parse_face(face)
    given["max_size"] = parse_size(given["max_size"])
    return FaceOptions(number, box, show="face" if crop else "picture", **given)


def _output_options(format: str, **given: Any) -> OutputOptions:
    options = OutputOptions(**given, pipe=format)  # type: ignore[arg-type]
    options.check()
    return options


def _signature(**given: Any) -> OutputOptions:
    options = OutputOptions(**given)
    options.check()
    return options


def parse_workers(jobs: int | None, engine: str | None, scheduler: str | None) -> Workers:
    """Return the workers of these options. Raises BadRequest."""
    workers = Workers(jobs, engine or "local", scheduler)  # type: ignore[arg-type]
    workers.check()
    return workers


def takes_controls(command: Command) -> Command:
    """Give a command the options of `Controls`, which reach it as its argument `controls`."""
    return with_options(command, "controls", _CONTROLS, _controls)


def takes_mouth(command: Command) -> Command:
    """Give a command the options of `Controls` that move the mouth, as its argument `controls`."""
    options = {name: _CONTROLS[name] for name in ("mouth", "smooth", "express")}
    return with_options(command, "controls", options, _controls)


def takes_face(command: Command) -> Command:
    """Give a command the options of `FaceOptions`, which reach it as its argument `options`."""
    return with_options(command, "options", _FACE, _face_options)


def takes_display(command: Command) -> Command:
    """Give a command the options of `FaceOptions` but for those that choose one face."""
    return with_options(command, "options", _SHOWN, functools.partial(_face_options, None))


def takes_output(command: Command) -> Command:
    """Give a command the options of `OutputOptions`, which reach it as `output_options`."""
    return with_options(command, "output_options", _OUTPUT, _output_options)


def takes_signature(command: Command) -> Command:
    """Give a command the options of `OutputOptions` that sign, as its argument `output_options`."""
    return with_options(command, "output_options", SIGNATURE, _signature)


def takes_workers(command: Command) -> Command:
    """Give a command the options of `Workers`, which reach it as its argument `workers`."""
    return with_options(command, "workers", WORKERS, parse_workers)


def takes_report(command: Command) -> Command:
    """Give a command the options of `Reporter`, which reach it as its argument `report`."""
    options = {"quiet": (Quiet, False), "json": (AsJson, False)}
    return with_options(command, "report", options, Reporter)


def with_options(
    command: Command,
    argument: str,
    options: Mapping[str, tuple[Any, Any]],
    build: Callable[..., Any],
) -> Command:
    """Return the command with options in place of one argument, which is built of their values.

    options: types and defaults by name. build: called with the values, by name.
    """

    @functools.wraps(command)
    def run(**values: Any) -> None:
        given = {name: values.pop(name) for name in options}
        command(**{argument: build(**given)}, **values)

    hints = get_type_hints(command, include_extras=True)
    only = inspect.Parameter.KEYWORD_ONLY
    own = [
        parameter.replace(annotation=hints[name], kind=only)
        for name, parameter in inspect.signature(command).parameters.items()
        if name != argument
    ]
    added = [
        inspect.Parameter(name, only, default=default, annotation=option)
        for name, (option, default) in options.items()
    ]
    run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
    return run


def parse_expressions(given: Sequence[str]) -> dict[str, float]:
    """["smile=0.5"] -> {"smile": 0.5}; a name alone counts 1. Raises BadRequest."""
    found = {}
    for text in given:
        name, _, strength = text.partition("=")
        try:
            found[name.strip()] = float(strength or 1)
        except ValueError as error:
            raise BadRequest(f"--express {text!r}: give NAME=STRENGTH, as smile=0.5") from error
    return found
