"""A generator compiled by OpenVINO for this CPU: the optional extra `talkingface[fast]`.

The graph is one frame of one face, so its shapes are fixed and it runs alike live and offline: a
clip in any chunking gives the same bits. The network is converted when it is loaded (under a second
of one core; kept on disk it could go stale); int8 graphs are made beforehand (`quantised.py`).
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from talkingface.contract import Generated, Portrait, State, Windowed
from talkingface.errors import BadRequest
from talkingface.runtimes.graph import Step, flat, structured

if TYPE_CHECKING:
    import openvino


def import_openvino() -> Any:
    """The library. Raises BadRequest where it is not installed."""
    # Importing it would tell a server on the internet so, unless this optional part is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise BadRequest(
            "the runtime openvino is not installed: pip install 'talkingface[fast]', or give the "
            "runtime torch"
        ) from error
    return openvino


def convert(step: Step) -> openvino.Model:
    """The graph of one call, its inputs and outputs named as in `Step`, its shapes fixed."""
    library = import_openvino()
    examples = step.inputs()
    tensors = tuple(tensor.contiguous() for tensor in examples.values())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that shapes become constants: they are, on purpose
        traced = torch.jit.trace(step, tensors, check_trace=False)
        graph = library.convert_model(traced, example_input=tensors)
    graph.reshape({place: list(tensor.shape) for place, tensor in enumerate(tensors)})
    for port, name in zip(
        [*graph.inputs, *graph.outputs], [*examples, *step.outputs()], strict=True
    ):
        port.get_tensor().set_names({name})
    return graph


def options(precision: str, threads: int) -> dict[str, str | int]:
    """For `compile_model`: as many calls side by side as the CPU has room for, each of so many
    threads; never a lower precision than was asked for."""
    cores = os.cpu_count() or 1
    return {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        "NUM_STREAMS": max(1, cores // threads),
        "INFERENCE_NUM_THREADS": max(cores, threads),
    }


@dataclass(frozen=True)
class Faces:
    """What `Compiled.encode` keeps: portraits, and each one's encoding as the graph's inputs."""

    portrait: Portrait
    inputs: tuple[tuple[Tensor, ...], ...]


class Compiled(nn.Module):
    """A generator behind its contract; any number of threads may call it at the same time.

    The state of one face is the generator's own; of several, a tuple of such states.
    """

    def __init__(
        self, model: nn.Module, graph: openvino.Model, step: Step, precision: str, threads: int = 1
    ) -> None:
        """graph: of `step`. precision: "bfloat16", or "float32" of what is not quantised already.

        threads: that one call may use. As many calls run side by side as the CPU has cores.
        """
        super().__init__()
        self.model: Any = model
        self.config, self._step = self.model.config, step
        self._library = import_openvino()
        self._compiled = self._library.Core().compile_model(
            graph, "CPU", options(precision, threads)
        )
        self._own = threading.local()

    def encode(self, portrait: Portrait) -> Faces:
        """See `contract.Generator`; torch does it, once per face."""
        encoded = flat(self.model.encode(portrait), "identity")
        names = flat(self._step.identity, "identity")  # a mesh that the graph does not use is left
        rows = zip(*(encoded[name].contiguous().split(1) for name in names), strict=True)
        return Faces(portrait, tuple(rows))

    def forward(
        self, identity: Faces, speech: Tensor, state: State = None
    ) -> tuple[Generated, State]:
        """See `contract.Generator`."""
        many = len(identity.inputs)
        before = state if many > 1 and state is not None else [state] * many
        answers = [
            self._speak(face, heard, kept)
            for face, heard, kept in zip(identity.inputs, speech, before, strict=True)
        ]
        made = _together([clip for clip, _ in answers], dim=0)
        states = tuple(after for _, after in answers)
        if isinstance(self.model, Windowed):
            made = self.model.window.into_crop(made, identity.portrait.image.unsqueeze(1))
        return made, states if many > 1 else states[0]

    def _speak(
        self, face: tuple[Tensor, ...], speech: Tensor, state: State
    ) -> tuple[Generated, State]:
        """One face and (T, hops, coefficients), frame by frame."""
        request = self._request(face)
        state = self._step.state if state is None else state
        frames: list[Generated] = []
        for heard in speech.split(1):
            own = [heard.unsqueeze(0), *flat(state, "state").values()]
            own = [tensor.contiguous() for tensor in own]  # held until they have been read
            for place, tensor in enumerate(own, start=len(face)):
                request.set_input_tensor(place, self._shared(tensor))
            # copies: the request's own arrays are written over by its next frame
            results = request.infer(share_outputs=True).values()
            made, state = structured(self._step, (torch.from_numpy(a.copy()) for a in results))
            frames.append(made)
        return _together(frames, dim=1), state

    def _request(self, face: tuple[Tensor, ...]) -> Any:
        """This thread's own request, with that face before it."""
        if not hasattr(self._own, "request"):
            self._own.request, self._own.face = self._compiled.create_infer_request(), None
        if self._own.face is not face:
            for place, tensor in enumerate(face):
                self._own.request.set_input_tensor(place, self._shared(tensor))
            self._own.face = face
        return self._own.request

    def _shared(self, tensor: Tensor) -> Any:
        """A contiguous tensor's own numbers for OpenVINO, which does not keep them alive."""
        return self._library.Tensor(tensor.numpy(), shared_memory=True)


def _together(parts: Sequence[Generated], dim: int) -> Generated:
    """Clips of the same kind as one, joined along samples (0) or frames (1)."""
    if len(parts) == 1:
        return parts[0]

    def joined(name: str) -> Any:
        present = [getattr(part, name) for part in parts]
        return None if present[0] is None else torch.cat(present, dim)

    return Generated(*(joined(field.name) for field in fields(Generated)))
