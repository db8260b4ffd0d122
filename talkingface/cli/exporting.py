"""The command that hands a model to other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from talkingface.cli.app import app
from talkingface.cli.options import Overwrite
from talkingface.errors import BadRequest


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="a name of `talkingface models`, or a .safetensors")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="NAME.onnx: names NAME.encode.onnx, NAME.speak.onnx"),
    ],
    overwrite: Overwrite = False,
) -> None:
    """Write a generator as two ONNX graphs: one to encode a face, one to make it speak.

    NAME.encode.onnx runs once per face, NAME.speak.onnx as often as there is speech, any number of
    frames at a time; what it gives as after.* goes in again as state.*, zeros at first.
    docs/runtimes.md says what their inputs and outputs are. Needs pip install 'talkingface[onnx]'.

    Example: talkingface export cran -o cran.onnx
    """
    if output.suffix != ".onnx":
        raise BadRequest(f"{output}: an export is called NAME.onnx")
    from talkingface import weights
    from talkingface.runtimes import onnx

    loaded, info = weights.load_with_info(model)
    for path in onnx.export(loaded, info, output, overwrite):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
