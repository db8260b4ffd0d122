"""Chung, Jamaludin and Zisserman 2017, "You said that?": frame by frame, no discriminator.

    z_I = E_I(K identity pictures, stacked on channels)   once per face
    z_A_t = E_A(A_t)                                      per window of speech
    b_t = Dec([z_I, z_A_t], skips of E_I)                 trained with L1 alone
    I_t = b_t + deblurring(b_t)                           a second network, trained afterwards

Small presets draw the region that CRAN draws, faded into the identity picture; `chung-paper` has
VGG-M's widths, MFCC and the whole crop (strides stand where VGG-M pools).
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
from talkingface.models.mouth_region import MouthRegion


@dataclass(frozen=True)
class ChungConfig:
    """Sizes; the defaults are the small preset, `chung`.

    identities: K, pictures of the face on the channels of E_I; where fewer are given, the first is
    repeated. skips: how many maps of E_I the decoder sees, the largest ones. shrink: the deblurring
    network works on pixels gathered in blocks of this side (1: published).
    """

    family: str = "chung"
    speech: SpeechSpec = field(
        default_factory=lambda: SpeechSpec(kind="log_mel", coefficients=26, mels=26)
    )
    crop: CropSpec = field(default_factory=CropSpec)
    mouth_region: tuple[int, int, int, int] = (56, 128, 24, 104)
    identities: int = 5
    audio_channels: tuple[int, ...] = (32, 64, 128)
    audio_strides: tuple[int, ...] = (2, 2, 2)
    audio_norm: str = "group"
    audio_features: int = 256
    audio_layers: int = 1
    image_channels: tuple[int, ...] = (24, 48, 64)
    image_kernels: tuple[int, ...] = (7, 5, 3)
    image_features: int = 64
    initial_channels: int = 32
    decoder_channels: tuple[int, ...] = (64, 32, 16)
    last_channels: int = 16
    transposed: bool = False
    skips: int = 2
    deblurring_channels: int = 24
    deblurring_layers: int = 5
    shrink: int = 2


@dataclass(frozen=True)
class Identity:
    """Face encoded by `Chung.encode`."""

    portrait: Portrait
    features: Tensor  # (B, image_features): z_I
    skips: tuple[Tensor, ...]  # maps of E_I, largest first


class Chung(GeneratorModule):
    """The generator: `network`, the encoders and the decoder, and `deblurring` behind it."""

    def __init__(self, config: ChungConfig) -> None:
        super().__init__()
        self.config = config
        strides = 2 ** len(config.image_channels)
        self.mouth_region = MouthRegion(config.mouth_region, config.crop, strides)
        self.network = EncoderDecoder(config, self.mouth_region.shape)
        self.deblurring = Deblurring(
            config.deblurring_channels, config.deblurring_layers, config.shrink
        )

    def encode(self, portrait: Portrait, others: Tensor | None = None) -> Identity:
        """E_I of the decoded window of the portrait, and of `others`, (B, K - 1, 3, S, S) further
        pictures of the same face; without them the portrait is repeated."""
        first = self.mouth_region.crop(portrait.image).unsqueeze(1)
        missing = self.config.identities - 1
        if others is None:
            rest = first.expand(-1, missing, -1, -1, -1)
        else:
            rest = self.mouth_region.crop(others)
        features, skips = self.network.encode_pictures(torch.cat([first, rest], 1).flatten(1, 2))
        return Identity(portrait, features, skips)

    def forward(
        self, identity: Identity, speech: Tensor, state: State = None
    ) -> tuple[Generated, State]:
        """See `contract.Generator`; there is no state."""
        colour = self.deblurring(self.draw_blurred(identity, speech))
        made = self.mouth_region.fade(colour, identity.portrait.image)
        return self.mouth_region.composite(made, identity.portrait.image), None

    def draw_blurred(self, identity: Identity, speech: Tensor) -> Tensor:
        """The first network's window alone: (B, T, 3, h, w) in [-1, 1]."""
        out: Tensor = self.network(identity.features, identity.skips, speech)
        return out


class EncoderDecoder(nn.Module):
    """Both encoders and the decoder, for a region of `shape` (h, w)."""

    speech_mean: Tensor
    speech_std: Tensor

    def __init__(self, config: ChungConfig, shape: tuple[int, int]) -> None:
        super().__init__()
        c, levels = config, len(config.image_channels)
        audio = (c.audio_channels, c.audio_strides, c.audio_norm, c.audio_features, c.audio_layers)
        self.audio_encoder = audio_encoder(c.speech, *audio)
        self.image_encoder = ImageEncoder(
            3 * c.identities, c.image_channels, c.image_kernels, c.image_features, shape
        )
        self.missing = (None,) * (levels - c.skips)  # skips of the decoder's first blocks
        self.decoder = Decoder(
            c.audio_features + c.image_features,
            self.image_encoder.map_shape,
            c.initial_channels,
            c.decoder_channels,
            (*[0] * (levels - c.skips), *c.image_channels[: c.skips][::-1]),
            c.last_channels,
            outputs=3,
            transposed=c.transposed,
        )
        self.register_buffer("speech_mean", torch.zeros(c.speech.coefficients))
        self.register_buffer("speech_std", torch.ones(c.speech.coefficients))

    def encode_pictures(self, pictures: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """E_I: (B, 3 K, h, w) -> z_I (B, image_features) and its `skips` largest maps."""
        features, maps = self.image_encoder(pictures)
        return features, maps[: len(maps) - len(self.missing)]

    def forward(self, face: Tensor, skips: tuple[Tensor, ...], speech: Tensor) -> Tensor:
        """z_I, its maps and (B, T, hops, coefficients) -> (B, T, 3, h, w) in [-1, 1]."""
        frames = speech.shape[1]
        normal = (speech - self.speech_mean) / self.speech_std
        encoded = self.audio_encoder(normal.flatten(0, 1).unsqueeze(1))
        joint = torch.cat([encoded, repeat_frames(face, frames)], dim=1)
        seen = (*self.missing, *(repeat_frames(skip, frames) for skip in reversed(skips)))
        out: Tensor = torch.tanh(self.decoder(joint, seen)).unflatten(0, (-1, frames))
        return out


class Deblurring(nn.Module):
    """A picture plus what a few convolutions find missing in it; it begins by changing nothing."""

    def __init__(self, channels: int, layers: int, shrink: int) -> None:
        super().__init__()
        self.shrink = shrink
        gathered = 3 * shrink**2
        inner = [conv(a, channels) for a in (gathered, *[channels] * (layers - 2))]
        last = nn.Conv2d(channels, gathered, 3, 1, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.layers = nn.Sequential(*inner, last)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, T, 3, h, w) in [-1, 1] -> the same, sharper."""
        x = F.pixel_unshuffle(pictures.flatten(0, 1), self.shrink)
        x = self.layers(x.contiguous(memory_format=torch.channels_last))
        missing: Tensor = F.pixel_shuffle(x.float(), self.shrink)
        out: Tensor = (pictures + missing.unflatten(0, pictures.shape[:2])).clamp(-1, 1)
        return out


PRESETS = {
    "chung": ChungConfig(),
    "chung-paper": ChungConfig(
        speech=SpeechSpec(),
        mouth_region=(0, 128, 0, 128),
        audio_channels=(64, 128, 256, 256, 512),
        audio_strides=(1, 2, 1, 1, 2),
        audio_norm="batch",
        audio_features=256,
        audio_layers=2,
        image_channels=(96, 256, 512, 512, 512),
        image_kernels=(7, 5, 3, 3, 3),
        image_features=256,
        initial_channels=512,
        decoder_channels=(512, 256, 256, 128, 64),
        last_channels=64,
        transposed=True,
        deblurring_channels=64,
        deblurring_layers=10,
        shrink=1,
    ),
    # Random and tiny: every command line is tested with it, offline and in seconds.
    "chung-tiny": ChungConfig(
        audio_channels=(8, 8, 8),
        audio_features=16,
        image_channels=(8, 8, 8),
        image_features=8,
        initial_channels=4,
        decoder_channels=(8, 8, 8),
        last_channels=8,
        deblurring_channels=8,
        deblurring_layers=3,
    ),
}
