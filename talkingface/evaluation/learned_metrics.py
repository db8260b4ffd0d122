"""Learned metrics: trained networks that measure synchrony and identity of a video.

They were trained on real video alone. No generator was trained with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from talkingface import weights
from talkingface.errors import BadRequest
from talkingface.evaluation.measures import LearnedMetric, VideoWithLandmarks
from talkingface.metrics import identity, sync
from talkingface.models.identity import FaceEmbedding
from talkingface.models.sync import SyncNet
from talkingface.types import Floats, Frames


@dataclass(frozen=True)
class SyncMetric:
    """Synchrony of lips and sound: sync_offset (frames, positive is late), sync_confidence and
    sync_distance (our own units)."""

    net: SyncNet
    sha256: str

    def __call__(
        self, video: VideoWithLandmarks, picture: Frames, sound: Floats | None
    ) -> dict[str, float]:
        """Measure a video, see `measures.LearnedMetric`; no numbers without a sound."""
        if sound is None:
            return {}
        found = sync.evaluate_sync(self.net, video.frames, video.landmarks, torch.from_numpy(sound))
        return {
            "sync_offset": found.offset,
            "sync_confidence": found.confidence,
            "sync_distance": found.distance,
        }


@dataclass(frozen=True)
class IdentityMetric:
    """Identity: the cosine of the video's faces with the identity picture's."""

    net: FaceEmbedding
    sha256: str

    def __call__(
        self, video: VideoWithLandmarks, picture: Frames, sound: Floats | None
    ) -> dict[str, float]:
        """Measure a video, see `measures.LearnedMetric`."""
        return {"identity": identity.similarity(self.net, video.frames, picture)}


def load_learned_metrics(
    names: tuple[str, ...] = ("sync", "identity"), device: str = "cpu"
) -> tuple[LearnedMetric, ...]:
    """Load learned metrics by name or weights file.

    Raises BadRequest for another kind of network; UnknownModel, BadWeights.
    """
    found: list[LearnedMetric] = []
    for name in names:
        net, info = weights.load_with_info(name, device)
        if isinstance(net, SyncNet):
            found.append(SyncMetric(net, info.sha256))
        elif isinstance(net, FaceEmbedding):
            found.append(IdentityMetric(net, info.sha256))
        else:
            raise BadRequest(f"{name} is a {info.family}, which measures no video")
    return tuple(found)
