"""Zhou et al. 2019, adversarially disentangled audio-visual representation: frame by frame.

    p = E_p(I*)                    identity, once per face, and one skip to the decoder
    a_t = E_a(A_t), v_t = E_v(I_t) content, from sound or from a mouth, in one shared space
    I_t = Dec(p, a_t)              or Dec(p, v_t): the decoder does not know which

Nothing is remembered from frame to frame. E_v, the word classifier that the two encoders share and
the two classifiers that they are disentangled by (`training/zhou.py`) only train: the generator,
and its weights file, are E_p, E_a and Dec.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface.audio import SpeechSpec
from talkingface.contract import Generated, GeneratorModule, Portrait, State
from talkingface.geometry import CropSpec
from talkingface.models.blocks import (
    Decoder,
    ImageEncoder,
    audio_encoder,
    conv,
    repeat_frames,
)
from talkingface.models.lipreader import MouthSpec
from talkingface.models.mouth_region import MouthRegion


@dataclass(frozen=True)
class ZhouConfig:
    """Sizes; the defaults are the small preset, `zhou`.

    mouth_region: rows and columns (top, bottom, left, right) of the crop that are drawn.
    skip: which map of E_p the decoder sees beside the two features, 0 the largest.
    """

    family: str = "zhou"
    speech: SpeechSpec = field(
        default_factory=lambda: SpeechSpec(kind="log_mel", coefficients=26, mels=26)
    )
    crop: CropSpec = field(default_factory=CropSpec)
    mouth_region: tuple[int, int, int, int] = (56, 128, 24, 104)
    audio_channels: tuple[int, ...] = (32, 64, 128)
    audio_strides: tuple[int, ...] = (2, 2, 2)
    audio_norm: str = "group"
    speech_features: int = 256
    image_channels: tuple[int, ...] = (24, 48, 64)
    image_features: int = 128
    skip: int = 0
    initial_channels: int = 32
    decoder_channels: tuple[int, ...] = (64, 48, 16)
    last_channels: int = 16


@dataclass(frozen=True)
class Identity:
    """Face encoded by `Zhou.encode`."""

    portrait: Portrait
    features: Tensor  # (B, image_features): p
    skip: Tensor  # one map of E_p


class Zhou(GeneratorModule):
    """The generator: E_p, E_a and the decoder."""

    speech_mean: Tensor
    speech_std: Tensor

    def __init__(self, config: ZhouConfig) -> None:
        super().__init__()
        self.config = c = config
        levels = len(c.image_channels)
        self.mouth_region = MouthRegion(c.mouth_region, c.crop, 2**levels)
        self.speech_encoder = audio_encoder(
            c.speech, c.audio_channels, c.audio_strides, c.audio_norm, c.speech_features
        )
        self.shared = SharedSpace(c.speech_features)
        self.image_encoder = ImageEncoder(
            3, c.image_channels, (3,) * levels, c.image_features, self.mouth_region.shape
        )
        skips = [0] * levels
        skips[levels - 1 - c.skip] = c.image_channels[c.skip]
        self.decoder = Decoder(
            c.speech_features + c.image_features,
            self.image_encoder.map_shape,
            c.initial_channels,
            c.decoder_channels,
            tuple(skips),
            c.last_channels,
            outputs=3,
        )
        self.register_buffer("speech_mean", torch.zeros(c.speech.coefficients))
        self.register_buffer("speech_std", torch.ones(c.speech.coefficients))

    def encode(self, portrait: Portrait) -> Identity:
        """E_p: the identity feature, and the one skip."""
        features, skip = self.encode_face(self.mouth_region.crop(portrait.image))
        return Identity(portrait, features, skip)

    def encode_face(self, region: Tensor) -> tuple[Tensor, Tensor]:
        """E_p of mouth regions (N, 3, h, w) -> (N, image_features), and a map."""
        features, maps = self.image_encoder(region)
        return features, maps[self.config.skip]

    def encode_speech(self, speech: Tensor) -> Tensor:
        """E_a: (B, T, hops, coefficients) -> (B, T, speech_features), of length 1."""
        x = (speech - self.speech_mean) / self.speech_std
        encoded: Tensor = self.speech_encoder(x.flatten(0, 1).unsqueeze(1))
        content: Tensor = self.shared(encoded).unflatten(0, speech.shape[:2])
        return content

    def forward(
        self, identity: Identity, speech: Tensor, state: State = None
    ) -> tuple[Generated, State]:
        """See `contract.Generator`."""
        made = self.draw_region(identity, self.encode_speech(speech))
        return self.mouth_region.composite(made, identity.portrait.image), None

    def draw_region(self, identity: Identity, content: Tensor) -> Generated:
        """Dec of content from either encoder (B, T, speech_features): the mouth region only."""
        frames, levels = content.shape[1], len(self.config.image_channels)
        content = content.flatten(0, 1) * self.config.speech_features**0.5  # entries of variance 1
        face = repeat_frames(identity.features, frames).to(content.dtype)
        skips: list[Tensor | None] = [None] * levels
        skips[levels - 1 - self.config.skip] = repeat_frames(identity.skip, frames)
        colour = torch.tanh(self.decoder(torch.cat([content, face], dim=1), skips))
        return self.mouth_region.fade(colour.unflatten(0, (-1, frames)), identity.portrait.image)


class SharedSpace(nn.Module):
    """Shared space of both encoders: features centred and scaled, then of length 1.

    Without a centre all features begin as nearly one vector, and the contrastive loss keeps them
    so: at half the margin from each other, sounds all alike and mouths all alike, it stands still.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features, affine=False)

    def forward(self, encoded: Tensor) -> Tensor:
        """(N, features) -> the same, float32."""
        return F.normalize(self.norm(encoded.float()), dim=-1)


class MouthEncoder(nn.Module):
    """E_v: content of one mouth at a time, in the space of E_a; only for training."""

    def __init__(self, mouth: MouthSpec, channels: tuple[int, ...], features: int) -> None:
        super().__init__()
        self.mouth = mouth
        height, width = mouth.height, mouth.width
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((mouth.channels, *channels)):
            layers.append(conv(inputs, outputs, 3, 2))
            height, width = -(-height // 2), -(-width // 2)
        head = nn.Linear(channels[-1] * height * width, features)
        self.layers = nn.Sequential(*layers, nn.Flatten(), head, SharedSpace(features))

    def forward(self, mouths: Tensor) -> Tensor:
        """mouths: (B, T, C, h, w) in [-1, 1] -> (B, T, features), of length 1."""
        content: Tensor = self.layers(mouths.flatten(0, 1)).unflatten(0, mouths.shape[:2])
        return content


class WordClassifier(nn.Module):
    """Classify the word of some frames by their content; shared by sound and mouths."""

    def __init__(self, features: int, hidden: int, words: int) -> None:
        super().__init__()
        self.order = nn.Conv1d(features, hidden, 5, padding=2)
        self.classifier = nn.Linear(hidden, words)
        self.scale = features**0.5  # of features of length 1: entries of variance 1

    def forward(self, content: Tensor, spans: Tensor) -> Tensor:
        """content: (B, T, features); spans: (B, 2), a word's first frame and the one after its
        last, at least one. Returns logits (B, words); frames outside the word are not seen."""
        frames = torch.arange(content.shape[1], device=content.device)
        inside = (frames >= spans[:, :1]) & (frames < spans[:, 1:])
        inside = inside.unsqueeze(-1).to(content.dtype)
        seen = (content * self.scale * inside).transpose(1, 2)
        found = F.leaky_relu(self.order(seen), 0.2).transpose(1, 2)
        mean = (found * inside).sum(1) / inside.sum(1)
        logits: Tensor = self.classifier(mean)
        return logits.float()


class FeatureClassifier(nn.Sequential):
    """Two full layers: (..., features) -> logits (..., classes). Encoders learn to hide
    what they find: the speaker in the content, and the word in the identity."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__(
            nn.LayerNorm(features),
            nn.Linear(features, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, classes),
        )


PRESETS = {
    "zhou": ZhouConfig(),
    # 12 x 20 MFCC, 256 + 256 features and a decoder from 4 x 4 x 512, as published, at 128 x 128.
    "zhou-paper": ZhouConfig(
        speech=SpeechSpec(coefficients=12, hops=20),
        mouth_region=(0, 128, 0, 128),
        audio_channels=(64, 128, 256, 512),
        audio_strides=(1, 2, 2, 2),
        audio_norm="batch",
        speech_features=256,
        image_channels=(64, 128, 256, 512, 512),
        image_features=256,
        skip=2,
        initial_channels=512,
        decoder_channels=(512, 256, 128, 64, 32),
        last_channels=32,
    ),
    "zhou-tiny": ZhouConfig(
        audio_channels=(8, 8, 8),
        speech_features=16,
        image_channels=(8, 8, 8),
        image_features=8,
        initial_channels=4,
        decoder_channels=(8, 8, 8),
        last_channels=8,
    ),
}
