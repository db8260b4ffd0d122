"""Files of int8 graphs: beside NAME.safetensors lies NAME.int8.safetensors, made from it.

A file holds an OpenVINO graph of one frame as two tensors of bytes, and a header that says from
which weights, on which clips and with which versions it was made.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from talkingface import media
from talkingface.errors import BadRequest, BadWeights
from talkingface.runtimes.compiled import import_openvino
from talkingface.weights import WeightsInfo

if TYPE_CHECKING:
    import openvino

HEADER = "talkingface-graph"
ENDING = ".int8.safetensors"
LARGE = 1024  # numbers; fewer are not worth a conversion


def path_of(info: WeightsInfo) -> Path:
    """Where the int8 graph of a model is. Raises BadRequest where there is none."""
    path = None if info.path is None else info.path.with_suffix(ENDING)
    if path is None or not path.is_file():
        raise BadRequest(
            f"{info.name} was not quantised: give precision float32, or make {path or 'weights'} "
            "with tools/quantise.py"
        )
    return path


def write(path: Path, graph: openvino.Model, header: Mapping[str, Any]) -> None:
    """Keep a graph; large tensors that are not int8 in it become float16. Raises OutputError."""
    _halve(graph)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.xml"
        import_openvino().save_model(graph, file, compress_to_fp16=False)
        parts = {
            "graph": zlib.compress(file.read_bytes(), 9),
            "weights": file.with_suffix(".bin").read_bytes(),
        }
    tensors = {k: torch.frombuffer(bytearray(v), dtype=torch.uint8) for k, v in parts.items()}
    data = safetensors.torch.save(tensors, {HEADER: json.dumps(dict(header), sort_keys=True)})
    with media.replacing(path, overwrite=True) as part, media.writing(path, OSError):
        part.write_bytes(data)


def _halve(graph: openvino.Model) -> None:
    """Large float32 constants as float16, made float32 again when the graph is compiled."""
    import_openvino()
    from openvino import Type, opset13

    for node in graph.get_ordered_ops():
        if node.get_type_name() == "Constant" and node.get_element_type() == Type.f32:
            if node.data.size > LARGE:
                readers = node.output(0).get_target_inputs()
                half = opset13.constant(node.data.astype(np.float16))
                whole = opset13.convert(half, "f32").output(0)
                for reader in readers:
                    reader.replace_source_output(whole)


def read(path: Path, weights_sha256: str, expected_sha256: str | None = None) -> openvino.Model:
    """The graph of a file. weights_sha256: of what it must have been made from. expected_sha256: of
    the file itself. Raises BadWeights."""
    try:
        data = path.read_bytes()
        header = json.loads(_metadata(data)[HEADER])
        tensors = safetensors.torch.load(data)
        graph, weights = (tensors[name].numpy() for name in ("graph", "weights"))
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise BadWeights(
            f"{path}: no int8 graph ({' '.join(str(error).split())[:80]}): fetch it again, or make "
            "it with tools/quantise.py"
        ) from error
    if expected_sha256 is not None and hashlib.sha256(data).hexdigest() != expected_sha256:
        raise BadWeights(f"{path}: the file was changed or damaged, install talkingface again")
    if header["weights"] != weights_sha256:
        raise BadWeights(
            f"{path}: made from weights {header['weights'][:12]}..., these are "
            f"{weights_sha256[:12]}...: make it again with tools/quantise.py"
        )
    library = import_openvino()
    return library.Core().read_model(zlib.decompress(graph.tobytes()), library.Tensor(weights))


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    entries: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return entries
