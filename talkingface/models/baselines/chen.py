"""Chen et al. 2018, "Lip movements generation at a glance": the lips alone, pasted into the face.

    m_I = E_I(lips of I*)                  once per face, a map
    I_t = Dec(residual blocks([m_I, m_A_t])), m_A_t the window's sound as a map of the same size

The paper's convolutions run over 16 frames at once, so that a frame depends on sound up to 15
frames after it, and cannot stream; here every frame is drawn alone, from its own window of speech.
Time is left to the discriminators: the three-stream discriminator (sound, pictures, motion) and the
correlation of the change of sound with motion. Motion is the difference of two frames in a row
where the paper asks a trained flow network, and its perceptual loss is left out: no such network is
shipped here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from talkingface.audio import SpeechSpec
from talkingface.contract import Generated, GeneratorModule, Portrait, State
from talkingface.geometry import CropSpec
from talkingface.models.blocks import Residual, Upsample, audio_encoder, conv, repeat_frames
from talkingface.models.mouth_region import MouthRegion


@dataclass(frozen=True)
class ChenConfig:
    """Sizes; the defaults are `chen`. mouth_region: the lips' box, 64 x 64 as published."""

    family: str = "chen"
    speech: SpeechSpec = field(
        default_factory=lambda: SpeechSpec(kind="log_mel", coefficients=26, mels=26)
    )
    crop: CropSpec = field(default_factory=CropSpec)
    mouth_region: tuple[int, int, int, int] = (62, 126, 32, 96)
    audio_channels: tuple[int, ...] = (32, 64, 128)
    audio_strides: tuple[int, ...] = (2, 2, 2)
    audio_norm: str = "group"
    audio_features: int = 256
    audio_map: int = 8  # channels of m_A
    image_channels: tuple[int, ...] = (32, 64)
    blocks: int = 3
    decoder_channels: tuple[int, ...] = (32, 16)
    last_channels: int = 16


@dataclass(frozen=True)
class Identity:
    """Face encoded by `Chen.encode`."""

    portrait: Portrait
    features: Tensor  # (B, C, h', w'): m_I


class Chen(GeneratorModule):
    """The generator. `encode` a face once, then call with windows of speech."""

    speech_mean: Tensor
    speech_std: Tensor

    def __init__(self, config: ChenConfig) -> None:
        super().__init__()
        c = self.config = config
        scale = 2 ** len(c.image_channels)
        self.mouth_region = MouthRegion(c.mouth_region, c.crop, scale)
        height, width = self.mouth_region.shape
        self.map_shape = (c.audio_map, height // scale, width // scale)
        features = self.map_shape[0] * self.map_shape[1] * self.map_shape[2]
        self.audio_encoder = nn.Sequential(
            audio_encoder(
                c.speech, c.audio_channels, c.audio_strides, c.audio_norm, c.audio_features
            ),
            nn.LeakyReLU(0.2),
            nn.Linear(c.audio_features, features),
        )
        sizes = (3, *c.image_channels)
        self.image_encoder = nn.Sequential(*(conv(a, b, 3, 2) for a, b in pairwise(sizes)))
        inner = c.image_channels[-1]
        self.blocks = nn.Sequential(
            conv(inner + c.audio_map, inner), *(Residual(inner) for _ in range(c.blocks))
        )
        ups = (Upsample(a, b, 3, False) for a, b in pairwise((inner, *c.decoder_channels)))
        self.decoder = nn.Sequential(
            *ups,
            conv(c.decoder_channels[-1], c.last_channels),
            nn.Conv2d(c.last_channels, 3, 3, 1, 1),
        )
        self.register_buffer("speech_mean", torch.zeros(c.speech.coefficients))
        self.register_buffer("speech_std", torch.ones(c.speech.coefficients))

    def encode(self, portrait: Portrait) -> Identity:
        """E_I of the identity's lips."""
        return Identity(portrait, self.image_encoder(self.mouth_region.crop(portrait.image)))

    def forward(
        self, identity: Identity, speech: Tensor, state: State = None
    ) -> tuple[Generated, State]:
        """See `contract.Generator`; there is no state."""
        made = self.draw_region(identity, speech)
        return self.mouth_region.composite(made, identity.portrait.image), None

    def draw_region(self, identity: Identity, speech: Tensor) -> Generated:
        """`forward`, but pictures are only the lips' box: what training needs."""
        frames = speech.shape[1]
        encoded = self.audio_encoder(self.normalise(speech).flatten(0, 1).unsqueeze(1))
        seen = repeat_frames(identity.features, frames)
        joint = torch.cat([seen, encoded.unflatten(1, self.map_shape)], dim=1)
        x = self.blocks(joint.contiguous(memory_format=torch.channels_last))
        colour = torch.tanh(self.decoder(x).float()).unflatten(0, (-1, frames)).contiguous()
        return self.mouth_region.fade(colour, identity.portrait.image)

    def normalise(self, speech: Tensor) -> Tensor:
        """Speech with the training data's mean and standard deviation taken out."""
        return (speech - self.speech_mean) / self.speech_std


# --- what only training needs -------------------------------------------------------------------


class Correlation(nn.Module):
    """Agreement of the change of sound and the motion of lips (the paper's L_corr).

    Both are embedded frame by frame, and centred over the sequence before the cosine, which makes
    it a correlation: embeddings that never change would otherwise agree with everything.
    """

    def __init__(self, speech: SpeechSpec, shape: tuple[int, int], width: int) -> None:
        super().__init__()
        self.sound = _sound_encoder(speech, width)
        self.motion = _picture_encoder(shape, width)

    def forward(self, frames: Tensor, speech: Tensor) -> Tensor:
        """(B, T, 3, h, w) in [-1, 1] and (B, T, hops, coefficients) -> (B,) in [-1, 1]; T >= 3."""
        moved, changed = frames.diff(dim=1), speech.diff(dim=1)
        times = changed.shape[:2]
        sound = self.sound(changed.flatten(0, 1).unsqueeze(1)).unflatten(0, times)
        motion = self.motion(moved.flatten(0, 1)).unflatten(0, times)
        return correlation(sound, motion)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of two sequences (B, T, C), each channel's mean over time taken out: (B,) float32."""
    a = (first.float() - first.float().mean(1, keepdim=True)).flatten(1)
    b = (second.float() - second.float().mean(1, keepdim=True)).flatten(1)
    return nn.functional.cosine_similarity(a, b, dim=1, eps=1e-6)


class ThreeStreamDiscriminator(nn.Module):
    """Is this real, and are these lips the ones that said this? Sound, pictures and motion, each
    encoded on its own, then judged together, step by step in time."""

    def __init__(self, speech: SpeechSpec, shape: tuple[int, int], width: int) -> None:
        super().__init__()
        self.sound = _sound_encoder(speech, width)
        self.picture = _picture_encoder(shape, width)
        self.motion = _picture_encoder(shape, width)
        self.classifier = nn.Sequential(
            nn.LeakyReLU(0.2), nn.Linear(24 * width, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)
        )

    def forward(self, frames: Tensor, speech: Tensor) -> Tensor:
        """(B, T, 3, h, w) in [-1, 1], (B, T, hops, coefficients) -> logits (B, T - 1), float32."""
        times = (len(frames), frames.shape[1] - 1)
        streams = (
            self.sound(speech[:, 1:].flatten(0, 1).unsqueeze(1)),
            self.picture(frames[:, 1:].flatten(0, 1)),
            self.motion(frames.diff(dim=1).flatten(0, 1)),
        )
        logits: Tensor = self.classifier(torch.cat(streams, dim=1))
        return logits.float().view(times)


def _sound_encoder(speech: SpeechSpec, width: int) -> nn.Sequential:
    """(N, 1, hops, coefficients) -> (N, 8 width)."""
    channels = (width, 2 * width, 4 * width)
    return audio_encoder(speech, channels, (2, 2, 2), "none", 8 * width)


def _picture_encoder(shape: tuple[int, int], width: int) -> nn.Sequential:
    """(N, 3, h, w) -> (N, 8 width)."""
    sizes = (3, width, 2 * width, 4 * width)
    height, across = (-(-side // 8) for side in shape)
    flat = sizes[-1] * height * across
    layers = [conv(a, b, 3, 2) for a, b in pairwise(sizes)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, 8 * width))


PRESETS = {
    "chen": ChenConfig(),
    # Random and tiny: every command line is tested with it, offline and in seconds.
    "chen-tiny": ChenConfig(
        audio_channels=(8, 8, 8),
        audio_features=16,
        audio_map=2,
        image_channels=(8, 8),
        blocks=1,
        decoder_channels=(8, 8),
        last_channels=8,
    ),
}
