"""A generator as two ONNX graphs, for programs that have neither torch nor this package.

    NAME.encode.onnx   once per face: portrait.image, .landmarks (and .mesh) -> identity.*
    NAME.speak.onnx    as often as you like: identity.*, speech, state.* -> made.*, after.*

Shapes, ranges and units are those of `contract.py`, for one face and any number of frames. All
zeros are the first `state.*`; what comes out as `after.*` goes in as `state.*` of the next call.
`identity.portrait.image` and `.landmarks` are the portrait's own. Models that predict expressions
need `portrait.mesh` too. Needs the extra `[onnx]`.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from talkingface import __version__, media, models
from talkingface.contract import Portrait
from talkingface.errors import BadRequest
from talkingface.runtimes.graph import Step, example_portrait, flat
from talkingface.weights import WeightsInfo

METADATA = "talkingface"  # the entry of metadata_props: JSON of what is known about the model
PORTRAIT = ("portrait.image", "portrait.landmarks")
FRAMES = 7  # of the example; 1 would be taken for a shape that always is


class _Encoder(nn.Module):
    """(1, 3, S, S), (1, 68, 2), maybe (1, 478, 2) -> what `encode` adds to the portrait."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *portrait: Tensor) -> tuple[Tensor, ...]:
        made = flat(self.model.encode(Portrait(*portrait)), "identity")
        return tuple(tensor for name, tensor in made.items() if not _given(name))


def _given(name: str) -> bool:
    return name.removeprefix("identity.") in PORTRAIT


def outputs(path: Path) -> tuple[Path, Path]:
    """The two files of `export`: cran.onnx -> cran.encode.onnx, cran.speak.onnx."""
    return path.with_suffix(".encode.onnx"), path.with_suffix(".speak.onnx")


def export(
    model: nn.Module, info: WeightsInfo, path: Path, overwrite: bool = False
) -> tuple[Path, Path]:
    """Write both graphs; returns their names. Raises BadRequest (the extra is not installed, or a
    model that looks back at its own pictures), OutputError."""
    _check_installed()
    encode, speak = outputs(path)
    for file in (encode, speak):
        media.check_output(file, overwrite)
    step = Step(model, FRAMES, whole=True)
    examples = step.inputs()
    made = [name for name in examples if name.startswith("identity.") and not _given(name)]
    about = _about(model, info)
    face = flat(example_portrait(model), "portrait")
    faces = tuple(face.values())
    _write(encode, _Encoder(model), faces, [*face], made, None, about, overwrite)
    loops = tuple(
        {1: torch.export.Dim("T", min=1)} if name == "speech" else None for name in examples
    )
    given = tuple(examples.values())
    _write(speak, step, given, [*examples], step.outputs(), (loops,), about, overwrite)
    return encode, speak


def _check_installed() -> None:
    try:
        import onnx
        import onnxscript

        del onnx, onnxscript
    except ImportError as error:
        raise BadRequest(
            "the extra for ONNX is not installed: pip install 'talkingface[onnx]'"
        ) from error


def _about(model: nn.Module, info: WeightsInfo) -> str:
    config = json.loads(models.config_to_json(model.config))
    facts = {
        "name": info.name,
        "talkingface": __version__,
        "sha256": info.sha256,
        "licence": info.licence,
        "training_data": info.training_data,
        "synthetic": "what this draws must be called synthetic wherever it is shown",
        "config": config,
    }
    return json.dumps(facts, sort_keys=True)


def _write(
    path: Path,
    module: nn.Module,
    examples: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    shapes: Any,
    about: str,
    overwrite: bool,
) -> None:
    with torch.no_grad(), _quiet():
        program: Any = torch.onnx.export(
            module.eval(),
            examples,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
        )
    program.model.metadata_props[METADATA] = about
    with media.replacing(path, overwrite) as part, media.writing(path, OSError):
        program.save(str(part), external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks about packages that nobody here needs."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
