"""Trained networks that measure a video: whether lips fit the sound, whose face it is.

They learned from real video alone; no generator has learned from them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from talkingface import weights
from talkingface.errors import BadRequest
from talkingface.evaluation.detection import Frames
from talkingface.evaluation.measures import Expert, Filmed, Floats
from talkingface.metrics import identity, sync
from talkingface.models.identity import FaceEmbedding
from talkingface.models.sync import SyncNet


@dataclass(frozen=True)
class Synchrony:
    """sync_offset (frames, positive is late), sync_confidence and sync_distance (our own units)."""

    net: SyncNet
    sha256: str

    def __call__(self, filmed: Filmed, picture: Frames, sound: Floats | None) -> dict[str, float]:
        """See `measures.Expert`; nothing for a silent film."""
        if sound is None:
            return {}
        found = sync.measure(self.net, filmed.frames, filmed.landmarks, torch.from_numpy(sound))
        return {
            "sync_offset": found.offset,
            "sync_confidence": found.confidence,
            "sync_distance": found.distance,
        }


@dataclass(frozen=True)
class Likeness:
    """identity: the cosine of the video's faces with the identity picture's."""

    net: FaceEmbedding
    sha256: str

    def __call__(self, filmed: Filmed, picture: Frames, sound: Floats | None) -> dict[str, float]:
        """See `measures.Expert`."""
        return {"identity": identity.similarity(self.net, filmed.frames, picture)}


def load_experts(
    names: tuple[str, ...] = ("sync", "identity"), device: str = "cpu"
) -> tuple[Expert, ...]:
    """The experts of these names or weights files. Raises BadRequest for another kind of network;
    UnknownModel, BadWeights."""
    found: list[Expert] = []
    for name in names:
        net, info = weights.load_with_info(name, device)
        if isinstance(net, SyncNet):
            found.append(Synchrony(net, info.sha256))
        elif isinstance(net, FaceEmbedding):
            found.append(Likeness(net, info.sha256))
        else:
            raise BadRequest(f"{name} is a {info.family}, which measures no video")
    return tuple(found)
