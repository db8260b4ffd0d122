"""Development tool: the face models of a MediaPipe wheel -> safetensors for `talkingface/faces`.

    pip install tflite flatbuffers; unzip mediapipe-0.10.14-*.whl -d wheel
    python tools/convert_face_models.py wheel/mediapipe/modules talkingface/faces

The published files hold float16 weights, so nothing is lost. They list their operations in the
order of execution, which is the order of our networks' parameters; where a network runs several
heads side by side, the published graph interleaves them, and their weights are stacked here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tflite  # type: ignore[import-untyped]
import torch
from flatbuffers import flexbuffers  # type: ignore[import-untyped]
from safetensors.torch import save_file
from torch import Tensor, nn

from talkingface.faces.networks import Detector, Mesh

SOURCE = "MediaPipe 0.10.14, Copyright The MediaPipe Authors, Apache-2.0"
WEIGHTED = {
    tflite.BuiltinOperator.CONV_2D,
    tflite.BuiltinOperator.DEPTHWISE_CONV_2D,
    tflite.BuiltinOperator.PRELU,
}


class Graph:
    """One tflite file: its weighted operations in order, and its custom options."""

    def __init__(self, path: Path) -> None:
        self.model = tflite.Model.GetRootAsModel(path.read_bytes(), 0)
        self.graph = self.model.Subgraphs(0)
        self.operators = [self.graph.Operators(i) for i in range(self.graph.OperatorsLength())]
        self.constants = {
            int(op.Outputs(0)): self._stored(int(op.Inputs(0)))
            for op in self.operators
            if self._kind(op) == tflite.BuiltinOperator.DEQUANTIZE
        }

    def _kind(self, operator: Any) -> int:
        code = self.model.OperatorCodes(operator.OpcodeIndex())
        return max(int(code.BuiltinCode()), int(code.DeprecatedBuiltinCode()))

    def _stored(self, index: int) -> Tensor:
        tensor = self.graph.Tensors(index)
        data = self.model.Buffers(tensor.Buffer()).DataAsNumpy()
        values = data.view(np.float16).reshape(tensor.ShapeAsNumpy())
        return torch.from_numpy(values.copy())

    def weights(self) -> Iterator[list[Tensor]]:
        """Return the constants of each weighted operation, in torch's layout."""
        for op in self.operators:
            kind = self._kind(op)
            if kind not in WEIGHTED:
                continue
            values = [self.constants[int(i)] for i in op.InputsAsNumpy()[1:]]
            if kind == tflite.BuiltinOperator.CONV_2D:
                values[0] = values[0].permute(0, 3, 1, 2)
            elif kind == tflite.BuiltinOperator.DEPTHWISE_CONV_2D:
                values[0] = values[0].permute(3, 0, 1, 2)
            else:
                values[0] = values[0].flatten()
            yield values

    def regions(self) -> list[Tensor]:
        """The mesh indices that each refining head looks at and replaces."""
        options = (
            flexbuffers.Loads(op.CustomOptionsAsNumpy().tobytes())
            for op in self.operators
            if op.CustomOptionsLength()
        )
        return [torch.tensor(o["subset_idxs"]) for o in options if "subset_idxs" in o]


def fill(
    module: nn.Module, name: str, source: Iterator[list[Tensor]], copies: int
) -> dict[str, Tensor]:
    """The tensors of every weighted layer under `module`, `copies` operations stacked for each."""
    out: dict[str, Tensor] = {}
    for layer_name, layer in module.named_modules(prefix=name):
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.PReLU):
            taken = [next(source) for _ in range(copies)]
            for key, parts in zip(("weight", "bias"), zip(*taken, strict=True), strict=False):
                joined = torch.cat(parts).contiguous()
                whole = isinstance(layer, nn.Linear) and key == "weight"
                out[f"{layer_name}.{key}"] = joined.flatten(1) if whole else joined
    return out


def convert_detector(path: Path) -> dict[str, Tensor]:
    """BlazeFace, short range."""
    network, source = Detector(), Graph(path).weights()
    tensors: dict[str, Tensor] = {}
    for name, child in network.named_children():
        tensors |= fill(child, name, source, 1)
    network.load_state_dict(tensors)
    return tensors


def convert_mesh(path: Path) -> dict[str, Tensor]:
    """The attention mesh: trunk, 3 regions, 5 branches; its last operation is the presence flag."""
    network, graph = Mesh(), Graph(path)
    *operations, flag = graph.weights()
    source = iter(operations)
    tensors: dict[str, Tensor] = {}
    copies = {"look": 3, "refine": 5}
    for name, child in network.named_children():
        tensors |= fill(child, name, source, copies.get(name, 1))
    for key, value in zip(("points.weight", "points.bias"), flag, strict=True):
        tensors[key] = torch.cat([tensors[key], value])
    for name, indices in zip(("lips", "left_eye", "right_eye"), graph.regions(), strict=True):
        tensors[name] = indices
    network.load_state_dict(tensors)
    return tensors


def main() -> None:
    """Write both weight files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("modules", type=Path, help="the wheel's mediapipe/modules folder")
    parser.add_argument("output", type=Path, help="folder to write to")
    args = parser.parse_args()
    detector = args.modules / "face_detection" / "face_detection_short_range.tflite"
    mesh = args.modules / "face_landmark" / "face_landmark_with_attention.tflite"
    for name, path, tensors in (
        ("face_detector", detector, convert_detector(detector)),
        ("face_mesh", mesh, convert_mesh(mesh)),
    ):
        target = args.output / f"{name}.safetensors"
        save_file(tensors, target, {"source": SOURCE, "from": path.name})
        target.chmod(0o644)


if __name__ == "__main__":
    main()
