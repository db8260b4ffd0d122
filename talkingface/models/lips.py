"""Predict expressions from speech: AT-net of the small presets (Chen et al. 2019, poster, Fig. 3).

    x_t = principal components of the tokens around frame t
    e   = A x_t                          shape: a straight line
    p   = sigmoid(MLP(x_t))              closure: how likely the lips meet
    e_t = e + (g(p) gap(e) - gap(e)) d   the gap, gated, along the direction d that opens a mouth

Expressions are absolute: the same vector means closed lips for everybody (`models.expression`).
Recurrent read-outs learn a corpus's grammar and lose on free speech; a straight line of a short
window does not. A regression never shuts a mouth: closure is a decision of its own (docs/log.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from talkingface.audio import SpeechSpec
from talkingface.contract import Portrait, State
from talkingface.models.expression import ExpressionSpace


class Mouth(NamedTuple):
    """A face ready to move: its mesh (B, 478, 2) in [0, 1] of the crop, its own expression (B, K),
    and its mesh at rest with closed lips (B, 478, 2)."""

    mesh: Tensor
    own: Tensor
    neutral: Tensor


# Speech of the models that predict expressions: four tokens to either side of the middle one.
TOKENS = SpeechSpec(kind="encoder", coefficients=384, hops=9)

SHUT, OPEN = 0.1, 0.6  # probability that the lips are apart: below the first the gap is 0


@dataclass(frozen=True)
class LipsConfig:
    """The read-out. components: of the expression space. rank: principal components of a token.

    hidden: width of the closure's one hidden layer. points, identities: sizes of the space.
    """

    family: str = "lips"
    speech: SpeechSpec = TOKENS
    components: int = 16
    rank: int = 160
    hidden: int = 32
    points: int = 212
    identities: int = 40


class ExpressionNet(nn.Module):
    """Windows of speech features to expressions; keeps the space that they are expressions of.

    mean: (coefficients,); projection: (coefficients, rank), to principal components of a token.
    opening: (K,), the direction d, which opens the lips by 1 interocular distance. gain: factor on
    the gap of the lips, set on many people.
    """

    mean: Tensor
    projection: Tensor
    opening: Tensor
    gain: Tensor

    def __init__(self, config: LipsConfig) -> None:
        super().__init__()
        self.config, speech = config, config.speech
        self.space = ExpressionSpace(config.points, config.components, config.identities)
        coefficients, inputs = speech.coefficients, speech.hops * config.rank
        self.register_buffer("mean", torch.zeros(coefficients))
        projection = torch.randn(coefficients, config.rank) / coefficients**0.5
        self.register_buffer("projection", projection)
        self.shape = nn.Linear(inputs, config.components)
        self.closure = nn.Sequential(
            nn.Linear(inputs, config.hidden), nn.GELU(), nn.Linear(config.hidden, 1)
        )
        self.register_buffer("opening", torch.zeros(config.components))
        self.register_buffer("gain", torch.ones(()))

    def forward(self, speech: Tensor) -> Tensor:
        """(B, T, hops, coefficients) -> absolute expressions (B, T, K).

        Frame by frame, so that a stream in any chunking gives the same bits.
        """
        return torch.stack([self._expression(self.features(x)) for x in speech.unbind(1)], 1)

    def predict_expression(self, speech: Tensor, state: State = None) -> tuple[Tensor, State]:
        """See `contract.ExpressionPredictor`; nothing is remembered from frame to frame."""
        return self(speech), None

    def features(self, windows: Tensor) -> Tensor:
        """(N, hops, coefficients) -> (N, hops * rank): what both read-outs see."""
        return ((windows - self.mean) @ self.projection).flatten(1)

    def _expression(self, x: Tensor) -> Tensor:
        expression = self.shape(x)
        apart = torch.sigmoid(-self.closure(x)[:, 0])
        part = ((apart - SHUT) / (OPEN - SHUT)).clamp(0, 1)
        gate = part.square() * (3 - 2 * part)
        gap = self.space.lip_gap(expression)
        wanted = gate * (self.gain * gap).clamp(min=0)
        out: Tensor = expression + (wanted - gap)[:, None] * self.opening
        return out

    def prepare(self, portrait: Portrait) -> Mouth:
        """Prepare a face, once per portrait. Raises ValueError where it has no mesh."""
        if portrait.mesh is None:
            raise ValueError("a portrait that speaks by expressions needs its mesh")
        own = self.space.fit(portrait.mesh)[1]
        return Mouth(portrait.mesh, own, self.space.neutral(portrait.mesh, own))

    def meshes(self, mouth: Mouth, expression: Tensor) -> Tensor:
        """The mesh of a face with expressions (B, T, K): (B, T, 478, 2) in [0, 1] of the crop.

        Frame by frame, so that a stream in any chunking gives the same bits.
        """
        moved = [
            self.space.move(mouth.mesh, mouth.own, frame.unsqueeze(1))
            for frame in expression.unbind(1)
        ]
        return torch.cat(moved, dim=1)
