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
from talkingface.models.measures.identity import FaceEmbedding
from talkingface.models.measures.sync import SyncNet
from talkingface.types import Floats, Frames


@dataclass(frozen=True)
class NetworkMetric:
    """A network that measures a video, see `measures.LearnedMetric`.

    A SyncNet measures the synchrony of lips and sound: sync_offset (frames, positive is late),
    sync_confidence and sync_distance (our own units); no numbers without a sound. A FaceEmbedding
    measures identity, the cosine of the video's faces with the identity picture's.
    """

    net: SyncNet | FaceEmbedding
    sha256: str

    def __call__(
        self, video: VideoWithLandmarks, picture: Frames, sound: Floats | None
    ) -> dict[str, float]:
        """Measure a video of one picture and one sound."""
        if isinstance(self.net, FaceEmbedding):
            return {"identity": identity.similarity(self.net, video.frames, picture)}
        if sound is None:
            return {}
        found = sync.evaluate_sync(self.net, video.frames, video.landmarks, torch.from_numpy(sound))
        values = {
            "offset": found.offset,
            "confidence": found.confidence,
            "distance": found.distance,
        }
        return {f"sync_{name}": value for name, value in values.items()}


def load_learned_metrics(
    names: tuple[str, ...] = ("sync", "identity"), device: str = "cpu"
) -> tuple[LearnedMetric, ...]:
    """Load learned metrics by name or weights file.

    Raises BadRequest for another kind of network; UnknownModel, BadWeights.
    """
    found: list[LearnedMetric] = []
    for name in names:
        net, info = weights.load_with_info(name, device)
        if not isinstance(net, SyncNet | FaceEmbedding):
            raise BadRequest(f"{name} is a {info.family}, which measures no video")
        found.append(NetworkMetric(net, info.sha256))
    return tuple(found)
