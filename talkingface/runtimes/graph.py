"""A generator as a function of flat tensors: what graph compilers and file formats take.

Identity and state are structures of tensors (tuples, dataclasses, None). Here they become tensors
by name ("identity.portrait.image", "state.0") and structures again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from talkingface.contract import (
    Generated,
    Generator,
    Portrait,
    State,
    Windowed,
    predicts_expressions,
)
from talkingface.errors import BadRequest
from talkingface.faces.interpolation import mesh_from_landmarks


def flat(value: Any, name: str) -> dict[str, Tensor]:
    """Every tensor of a structure, by where it is in it; None holds none."""
    if isinstance(value, Tensor):
        return {name: value}
    return {
        key: tensor
        for part, inner in _parts(value).items()
        for key, tensor in flat(inner, f"{name}.{part}").items()
    }


def rebuilt(like: Any, tensors: Iterator[Tensor]) -> Any:
    """The structure of `like`, with tensors in the order of `flat`."""
    if isinstance(like, Tensor):
        return next(tensors)
    if like is None:
        return None
    parts = [rebuilt(part, tensors) for part in _parts(like).values()]
    return tuple(parts) if type(like) is tuple else type(like)(*parts)


def _parts(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return {str(place): part for place, part in enumerate(value)}


class Step(nn.Module):
    """One call of a generator: flat tensors of face, speech and state -> what is made, and state.

    identity, speech, state: examples for one face, silent and at rest; made: what came of them.
    A generator that draws a window of the crop (`contract.Windowed`) makes only that, not `whole`.
    """

    def __init__(self, model: nn.Module, frames: int = 1, whole: bool = False) -> None:
        """frames: T of the example. Raises BadRequest for a model whose memory does not begin
        empty: no other input than zeros would be the first."""
        super().__init__()
        if not isinstance(model, Generator):
            raise BadRequest(f"a {type(model).__name__} is no generator of faces")
        if getattr(model.config, "looks_back", False):
            raise BadRequest(
                f"a {model.config.family} that looks back at its own pictures runs in torch only: "
                "give the runtime torch, or a model of another scheme"
            )
        self.model: Any = model
        self.windowed = isinstance(model, Windowed) and not whole
        with torch.inference_mode():
            self.identity = model.encode(example_portrait(model))
            spec = model.config.speech
            self.speech = torch.zeros(1, frames, spec.hops, spec.coefficients)
            self.made, after = self.answer(self.identity, self.speech)
        self.state = rebuilt(after, map(torch.zeros_like, flat(after, "").values()))

    def inputs(self) -> dict[str, Tensor]:
        """Examples of `forward`'s arguments, in their order."""
        whole = flat(self.identity, "identity") | {"speech": self.speech}
        return whole | flat(self.state, "state")

    def outputs(self) -> list[str]:
        """Names of `forward`'s results, in their order."""
        return [*flat(self.made, "made"), *flat(self.state, "after")]

    def answer(self, identity: Any, speech: Tensor, state: State = None) -> tuple[Generated, State]:
        """The generator's own call."""
        call = self.model.in_window if self.windowed else self.model
        result: tuple[Generated, State] = call(identity, speech, state)
        return result

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        given = iter(tensors)
        identity = rebuilt(self.identity, given)
        speech = next(given)
        made, state = self.answer(identity, speech, rebuilt(self.state, given))
        return (*flat(made, "made").values(), *flat(state, "after").values())


def structured(step: Step, tensors: Iterator[Tensor]) -> tuple[Generated, State]:
    """`Step.forward`'s results as a generator returns them."""
    made: Generated = rebuilt(step.made, tensors)
    return made, rebuilt(step.state, tensors)


def example_portrait(model: Any) -> Portrait:
    """The mean face, grey, with its mesh where the generator needs one."""
    crop = model.config.crop
    points = torch.from_numpy(crop.template() / crop.size).float()[None]
    mesh = mesh_from_landmarks(points) if predicts_expressions(model) else None
    return Portrait(torch.zeros(1, 3, crop.size, crop.size), points, mesh)
