"""How a generator is computed: plain torch, torch in bfloat16, or OpenVINO; behind one contract.

What is wrapped stays a `contract.Generator`: encode a face once (always by torch), then call it
with speech and the state it returned. docs/runtimes.md has the numbers.
"""

from __future__ import annotations

from typing import get_args

from torch import nn

from talkingface import weights
from talkingface.errors import BadRequest
from talkingface.runtimes import compiled, quantised
from talkingface.runtimes.graph import Step
from talkingface.runtimes.half import Half
from talkingface.runtimes.processor import Precision, Runtime, has_bfloat16
from talkingface.weights import WeightsInfo

__all__ = ["Precision", "Runtime", "choose"]


def choose(
    model: nn.Module, info: WeightsInfo, runtime: str = "torch", precision: str = "float32"
) -> nn.Module:
    """The same generator, computed as asked.

    runtime: "torch" or "openvino" (on the CPU). precision: "float32", "bfloat16", "int8" (OpenVINO,
    for models that were quantised), or "auto": bfloat16 where the CPU has it, else float32.
    Raises BadRequest for what this machine, this runtime or this model cannot do, and BadWeights.
    """
    for what, value, known in (("runtime", runtime, Runtime), ("precision", precision, Precision)):
        if value not in get_args(known):
            raise BadRequest(f"{what} is {value!r}: give {', '.join(get_args(known))}")
    if precision == "auto":
        precision = "bfloat16" if has_bfloat16() else "float32"
    if runtime == "openvino":
        return _compiled(model, info, precision)
    if precision == "int8":
        raise BadRequest("precision int8 needs the runtime openvino: give it, or float32")
    return Half(model) if precision == "bfloat16" else model


def _compiled(model: nn.Module, info: WeightsInfo, precision: str) -> nn.Module:
    compiled.import_openvino()  # what is missing is said before the work
    if precision == "bfloat16" and not has_bfloat16():
        raise BadRequest(
            "this CPU has no bfloat16 (AVX-512 BF16 or AMX): give precision float32, int8 or auto"
        )
    if precision == "int8":
        path = quantised.path_of(info)
        graph = quantised.read(path, info.sha256, weights.int8_sha256(info))
        return compiled.Compiled(model, graph, Step(model), "float32")
    step = Step(model)
    return compiled.Compiled(model, compiled.convert(step), step, precision)
