"""CRAN as published (Song et al. 2019, Sec. 3.2, Fig. 1 and 2; Sec. 5): pictures from speech alone.

    I_t = Dec(h_t, z_I, skips of E_I)   U-Net skips keep the identity

Beyond the paper, each switched off in `cran-paper`: only the lower face decoded (`mouth_region`),
new colour composited with the identity picture (`output="composite"`, ATVGnet's idea), and a loss
on lips that the hybrid feature predicts (`lips="auxiliary"`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from talkingface.audio import SpeechSpec
from talkingface.contract import LANDMARKS, Generated, Portrait, State
from talkingface.geometry import CropSpec
from talkingface.models.blocks import audio_encoder, repeat_frames
from talkingface.models.cran_base import CranBase, Face, Identity, Scheme, Teacher
from talkingface.models.mouth_region import FLOW_UNIT, MOUTH_POINTS, add_displacement

LOG_MEL = SpeechSpec(kind="log_mel", coefficients=26, mels=26)


@dataclass(frozen=True)
class PublishedCranConfig:
    """Sizes and switches; the defaults are the size of `cran`.

    output: "direct" (the paper's tanh picture) or "composite" (a mask lays it over the identity).
    lips: "off", or "auxiliary" (a loss on the hybrid feature).
    mouth_region: rows and columns (top, bottom, left, right) of the crop that are decoded.
    identity_dropout: share of training samples whose z_I is zero.
    """

    family: str = "cran-published"
    speech: SpeechSpec = LOG_MEL
    crop: CropSpec = field(default_factory=CropSpec)
    scheme: Scheme = "recurrent"
    output: Literal["direct", "composite"] = "direct"
    lips: Literal["off", "auxiliary"] = "off"
    mouth_region: tuple[int, int, int, int] = (56, 128, 24, 104)
    audio_channels: tuple[int, ...] = (32, 64, 128)
    audio_strides: tuple[int, ...] = (2, 2, 2)
    audio_norm: str = "group"
    audio_features: int = 128
    audio_layers: int = 1
    image_channels: tuple[int, ...] = (16, 32, 48)
    image_features: int = 64
    hidden: int = 128
    initial_channels: int = 16
    decoder_channels: tuple[int, ...] = (48, 32, 16)
    last_channels: int = 16
    kernel: int = 3
    transposed: bool = False
    identity_dropout: float = 0.0


class PublishedCran(CranBase):
    """The generator. `encode` a face once, then call with windows of speech."""

    template: Tensor

    def __init__(self, config: PublishedCranConfig) -> None:
        c = config
        audio = (c.audio_channels, c.audio_strides, c.audio_norm, c.audio_features, c.audio_layers)
        super().__init__(c, audio_encoder(c.speech, *audio), c.kernel)
        if c.lips == "auxiliary":
            self._build_lips()
        self.predicts_landmarks = c.lips == "auxiliary" and not self.is_autoregressive
        composite = c.output == "composite"
        self.decoder = self._new_decoder(4 if composite else 3, c.kernel, c.transposed)
        if composite:
            assert self.decoder.to_rgb.bias is not None
            nn.init.constant_(self.decoder.to_rgb.bias[3:], -2.0)  # begin as the identity

    def _build_lips(self) -> None:
        c, points = self.config, 2 * len(MOUTH_POINTS)
        template = torch.from_numpy(c.crop.template() / c.crop.size).float()
        self.register_buffer("template", template, persistent=False)
        with torch.no_grad():  # learned without pictures first: the face joins in from zero
            self.gru.all_weights[0][0][:, c.audio_features :].zero_()
        self.lip_predictor = nn.Linear(c.hidden, points)
        self.lip_neutral = nn.Sequential(
            nn.Linear(2 * LANDMARKS, 64), nn.LeakyReLU(0.2), nn.Linear(64, points)
        )

    def encode(self, portrait: Portrait) -> Identity:
        """z_I and the U-Net skips of the mouth region."""
        face = self.encode_image(self.mouth_region.crop(portrait.image))
        return Identity(replace(portrait, mesh=None), face)

    def forward(
        self, identity: Identity, speech: Tensor, state: State = None
    ) -> tuple[Generated, State]:
        """See `contract.Generator`."""
        drawn, state = self.draw_region(identity, speech, state)
        return self.mouth_region.composite(drawn, identity.portrait.image), state

    def draw_region(
        self,
        identity: Identity,
        speech: Tensor,
        state: State = None,
        teacher: Teacher | None = None,
    ) -> tuple[Generated, State]:
        """`forward`, but pictures are only the mouth region: what training needs."""
        drawn, _, state = self.generate(identity, speech, state, teacher=teacher)
        return drawn, state

    def predict_landmarks(
        self, identity: Identity, speech: Tensor, state: State = None
    ) -> tuple[Tensor, State]:
        """See `contract.LandmarkPredictor`; of auxiliary lips, as if no frame before was seen."""
        hybrid, state = self.hybrid(identity.face[0], speech, state)
        return self._move_lips(identity.portrait.landmarks, hybrid), state

    def _move_lips(self, landmarks: Tensor, hybrid: Tensor) -> Tensor:
        """(B, 68, 2) of the identity and (B, T, hidden) -> (B, T, 68, 2): its lips and jaw, moved.

        `lip_predictor` gives the displacement from a neutral mouth; how far the identity's own
        mouth is from neutral is read off its landmarks, so that a smile or an open mouth is not
        added twice.
        """
        centred = (landmarks - self.template).flatten(1) / FLOW_UNIT
        moved = self.lip_predictor(hybrid) - self.lip_neutral(centred).unsqueeze(1)
        return add_displacement(landmarks, moved.unflatten(-1, (-1, 2)) * FLOW_UNIT)

    def _draw(
        self, identity: Identity, face: Face, hybrid: Tensor, meshes: Tensor | None
    ) -> Generated:
        """The paper's picture, or mask * colour + (1 - mask) * the identity's picture."""
        skips = tuple(repeat_frames(skip, hybrid.shape[1]) for skip in face[1])
        out = self._decode(face[0], hybrid, skips)
        region, portrait = self.mouth_region, identity.portrait
        colour = torch.tanh(out[:, :, :3])
        if self.config.output == "direct":
            drawn = region.fade(colour, portrait.image)
        else:
            mask = torch.sigmoid(out[:, :, 3:]) * region.ramp
            own = region.crop(portrait.image).unsqueeze(1)
            drawn = Generated(mask * colour + (1 - mask) * own, mask, colour)
        if self.config.lips == "off":
            return drawn
        return replace(drawn, landmarks=self._move_lips(portrait.landmarks, hybrid))


PRESETS = {
    # The paper's output, and lips from pixels alone, at the size of `cran`.
    "cran-direct": PublishedCranConfig(),
    # Published sizes (released code: audio 16-256, image 16-128, GRU 1024, ConvT 5x5 decoder).
    "cran-paper": PublishedCranConfig(
        speech=SpeechSpec(),
        mouth_region=(0, 128, 0, 128),
        audio_channels=(16, 32, 64, 128, 256),
        audio_strides=(1, 2, 1, 1, 2),
        audio_norm="batch",
        audio_features=512,
        audio_layers=2,
        image_channels=(16, 32, 64, 128),
        image_features=512,
        hidden=1024,
        initial_channels=256,
        decoder_channels=(196, 128, 80, 48),
        kernel=5,
        transposed=True,
    ),
    # Random and tiny: every command line is tested with it, offline and in seconds.
    "cran-tiny": PublishedCranConfig(
        output="composite",
        lips="auxiliary",
        audio_channels=(8, 8, 8),
        audio_features=16,
        image_channels=(8, 8, 8),
        image_features=8,
        hidden=16,
        initial_channels=4,
        decoder_channels=(8, 8, 8),
        last_channels=8,
        identity_dropout=0.5,
    ),
}
