"""The still picture: a baseline that every model must beat."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from talkingface.audio import SpeechSpec
from talkingface.contract import Generated, GeneratorModule, Portrait, State
from talkingface.geometry import CropSpec


@dataclass(frozen=True)
class StillConfig:
    """No sizes: only what the pipeline needs to know."""

    family: str = "still"
    speech: SpeechSpec = field(default_factory=SpeechSpec)
    crop: CropSpec = field(default_factory=CropSpec)


class Still(GeneratorModule):
    """Repeats the identity picture: what every pixel measure is compared with."""

    def __init__(self, config: StillConfig) -> None:
        super().__init__()
        self.config = config

    def encode(self, portrait: Portrait) -> Portrait:
        """The portrait itself is all there is to know."""
        return portrait

    def forward(
        self, identity: Portrait, speech: Tensor, state: State = None
    ) -> tuple[Generated, State]:
        """See `contract.Generator`; the speech only says how many frames."""
        frames = speech.shape[1]
        still = identity.image.unsqueeze(1).expand(-1, frames, -1, -1, -1)
        landmarks = identity.landmarks.unsqueeze(1).expand(-1, frames, -1, -1)
        return Generated(still, landmarks=landmarks), torch.zeros(len(still), 0)


PRESETS = {"still": StillConfig()}
