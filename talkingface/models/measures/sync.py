"""Embedding of lips and sound: a unit vector for 200 ms of each.

After SyncNet (Chung and Zisserman 2016): one encoder takes five mouths in a row, the other the
log-mel spectrum around them; matching windows lie close. The weights are our own, and so are the
units of what `metrics/sync.py` reads off them: they are not comparable with published LSE values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from talkingface.audio import FPS, SpeechSpec
from talkingface.models.lipreader import MouthSpec, mouth_crops

SMOOTHED_FRAMES = FPS  # frames over which the mouth's box is held: it follows a head, not a lip


@dataclass(frozen=True)
class SyncConfig:
    """0.50 M weights; a window of picture and sound takes 7.5 MMAC.

    mouth: a quarter larger than a reader's box, so that the jaw is in it, at as many pixels;
    frames: mouths in a window (odd), around its middle one; speech: the sound with it, 350 ms
    around that frame's middle: the frames' 200 ms and 75 ms on each side, as lips move before
    sound; widths: channels of the stride-2 layers of both encoders; size: of the embedding.
    """

    family: str = "sync"
    mouth: MouthSpec = field(
        default_factory=lambda: MouthSpec(
            half_width=30 / 128, above=17.5 / 128, below=27.5 / 128, height=36, width=48
        )
    )
    frames: int = 5
    speech: SpeechSpec = field(
        default_factory=lambda: SpeechSpec("log_mel", coefficients=40, hops=35, mels=40)
    )
    widths: tuple[int, ...] = (24, 48, 96, 96)
    size: int = 128
    dropout: float = 0.2

    @property
    def around(self) -> int:
        """Frames of a window before its middle one, and after it."""
        return self.frames // 2


class SyncNet(nn.Module):
    """Two encoders without shared weights: strided convolutions, then one linear layer each."""

    def __init__(self, config: SyncConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SyncConfig()
        mouth, speech = config.mouth, config.speech
        self.video_encoder = _encoder(
            config, mouth.channels * config.frames, mouth.height, mouth.width
        )
        self.audio_encoder = _encoder(config, 1, speech.hops, speech.coefficients)

    def encode_video(self, mouths: Tensor) -> Tensor:
        """mouths: (N, frames, C, h, w) in [-1, 1] -> (N, size) float32 of length 1."""
        mouth = self.config.mouth
        expected = (self.config.frames, mouth.channels, mouth.height, mouth.width)
        if mouths.ndim != 5 or mouths.shape[1:] != expected:
            raise ValueError(f"expected mouths (N, *{expected}), got {tuple(mouths.shape)}")
        return F.normalize(self.video_encoder(mouths.flatten(1, 2)).float(), dim=1)

    def encode_audio(self, speech: Tensor) -> Tensor:
        """speech: (N, hops, coefficients) -> (N, size) float32 of length 1."""
        expected = (self.config.speech.hops, self.config.speech.coefficients)
        if speech.ndim != 3 or speech.shape[1:] != expected:
            raise ValueError(f"expected speech (N, *{expected}), got {tuple(speech.shape)}")
        return F.normalize(self.audio_encoder(speech[:, None]).float(), dim=1)


def _encoder(config: SyncConfig, channels: int, height: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inside, outside in pairwise((channels, *config.widths)):
        kernel = 3 if layers else 5
        layers += [
            nn.Conv2d(inside, outside, kernel, stride=2, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
        ]
        height, width = -(-height // 2), -(-width // 2)
    features = height * width * config.widths[-1]
    head = (nn.Flatten(), nn.Dropout(config.dropout), nn.Linear(features, config.size))
    return nn.Sequential(*layers, *head)


def smooth(landmarks: Tensor, frames: int = SMOOTHED_FRAMES) -> Tensor:
    """(B, T, 68, 2) landmarks -> their running mean over `frames` (odd), fewer at both ends."""
    track = landmarks.flatten(2).transpose(1, 2)
    mean = F.avg_pool1d(track, frames, 1, frames // 2, count_include_pad=False)
    return mean.transpose(1, 2).reshape(landmarks.shape)


def mouth_windows(frames: Tensor, landmarks: Tensor, config: SyncConfig) -> Tensor:
    """All windows of a clip, one around each frame but the first and last `config.around`.

    frames: (T, 3, S, S) in [-1, 1]; landmarks: (T, 68, 2) in [0, 1], smoothed ones: the boxes are
    where they say. Returns (T - frames + 1, frames, C, h, w); none of a clip that is too short.
    """
    mouths = mouth_crops(frames[None], landmarks[None], config.mouth)[0]
    if len(mouths) < config.frames:
        return mouths.new_zeros(0, config.frames, *mouths.shape[1:])
    return mouths.unfold(0, config.frames, 1).movedim(-1, 1)
