"""ATVGnet, our small form: the cascade of Chen et al. 2019 (poster, Fig. 3) on a warped picture.

e_t = AT-net(A_t)                               expressions, which move the face's mesh
I'_t = I warped along the mesh                  the motion map is geometry (`render`)
alpha_t, delta_t = VG-net(I'_t, p_p, p_t)       what to correct, and where
v_t = alpha_t * (I'_t + delta_t) + (1 - alpha_t) * I'_t
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from talkingface.audio import SpeechSpec
from talkingface.contract import LANDMARKS, Generated, GeneratorModule, Portrait, State
from talkingface.faces.interpolation import mesh_from_landmarks
from talkingface.geometry import CropSpec
from talkingface.landmarks import ibug
from talkingface.models.blocks import ConvGru, Residual, Upsample, channels_last, conv
from talkingface.models.expression import ExpressionSpace
from talkingface.models.lips import TOKENS, ExpressionNet, LipsConfig, Mouth
from talkingface.models.mouth_region import FLOW_UNIT, MouthRegion, correct
from talkingface.render.crops import CropRenderer

Recurrence = Literal["time", "frame"]


@dataclass(frozen=True)
class VgConfig:
    """VG-net, which corrects the warped picture.

    bound: most that a correction changes a colour, which spans 2.
    recurrence: MMRNN remembers over "time"; "frame" forgets at every frame (an ablation).
    mouth_region: rows and columns (top, bottom, left, right) of the crop that are drawn.
    """

    bound: float = 0.4
    recurrence: Recurrence = "time"
    mouth_region: tuple[int, int, int, int] = (56, 128, 24, 104)
    image_channels: tuple[int, int, int] = (16, 32, 48)
    landmark_maps: int = 8
    hidden: int = 48
    last_channels: int = 16


@dataclass(frozen=True)
class AtvgConfig:
    """Both networks. lips: of AT-net (`models.lips`), absolute expressions from tokens."""

    family: str = "atvg"
    speech: SpeechSpec = TOKENS
    crop: CropSpec = field(default_factory=CropSpec)
    lips: LipsConfig = field(default_factory=LipsConfig)
    vg: VgConfig = field(default_factory=VgConfig)

    def __post_init__(self) -> None:
        if self.lips.speech != self.speech:
            raise ValueError("the lips and the model must hear the same features")


class VgNet(nn.Module):
    """VG-net as it ships: the warped mouth region at 1/8 through MMRNN, then three times upsampled.

    Feature-level attention at two scales, from target and identity landmarks, mixes what is decoded
    with the warped picture's own features.
    """

    def __init__(self, config: VgConfig, crop: CropSpec) -> None:
        super().__init__()
        self.config = config
        self.mouth_region = MouthRegion(config.mouth_region, crop, 8)
        e1, e2, e3 = config.image_channels
        self.small = (self.mouth_region.shape[0] // 8, self.mouth_region.shape[1] // 8)
        self.image_encoder = nn.ModuleList(conv(a, b, 3, 2) for a, b in pairwise((3, e1, e2, e3)))
        cells = config.landmark_maps * self.small[0] * self.small[1]
        self.landmark_encoder = nn.Sequential(
            nn.Linear(4 * LANDMARKS, 64), nn.LeakyReLU(0.2), nn.Linear(64, cells)
        )
        self.fuse = conv(e3 + config.landmark_maps, config.hidden)
        self.mmrnn = ConvGru(config.hidden, config.hidden)
        self.residual = Residual(config.hidden)
        self.attention = nn.ModuleList([nn.Conv2d(e, 1, 3, 1, 1) for e in (e2, e1)])
        widths = (config.hidden, e2, e1, config.last_channels)
        self.ups = nn.ModuleList(Upsample(a, b, 3, False) for a, b in pairwise(widths))
        self.to_features = conv(config.last_channels + 3, config.last_channels)
        self.to_rgb = nn.Conv2d(config.last_channels, 4, 3, 1, 1)
        assert self.to_rgb.bias is not None
        nn.init.zeros_(self.to_rgb.weight[:3])  # begin as the warped picture
        nn.init.zeros_(self.to_rgb.bias)

    def forward(
        self,
        portrait: Portrait,
        warped: Tensor,
        meshes: Tensor,
        state: State = None,
    ) -> tuple[Generated, State]:
        """warped: windows (B, T, 3, h, w) of the picture along meshes (B, T, 478, 2)."""
        shape = meshes.shape[:2]
        maps, x = [], channels_last(warped.flatten(0, 1))
        picture = x
        for layer in self.image_encoder:
            x = layer(x)
            maps.append(x)
        landmarks = ibug(meshes)
        moved = (landmarks - portrait.landmarks.unsqueeze(1)) / FLOW_UNIT
        placed = torch.cat([moved.flatten(2), landmarks.flatten(2)], dim=-1).flatten(0, 1)
        drawn = self.landmark_encoder(placed).unflatten(1, (-1, *self.small))
        x = self.fuse(torch.cat([maps[2], drawn.to(x.dtype)], dim=1)).unflatten(0, shape)
        x, state = self.mmrnn(x, state, forget=self.config.recurrence == "frame")
        x = self.residual(channels_last(x.flatten(0, 1)))
        for up, attention, seen in zip(self.ups, self.attention, (maps[1], maps[0]), strict=False):
            x = up(x)
            x = seen + torch.sigmoid(attention(x)) * (x - seen)
        x = torch.cat([self.ups[2](x), picture.to(x.dtype)], dim=1)
        out = self.to_rgb(self.to_features(x)).float().contiguous().unflatten(0, shape)
        return correct(warped, out, self.mouth_region.ramp, self.config.bound, meshes), state


@dataclass(frozen=True)
class Identity:
    """Face encoded by `Atvg.encode`."""

    portrait: Portrait
    mouth: Mouth
    canvas: CropRenderer


class Atvg(GeneratorModule):
    """The cascade; `predict_landmarks` and `draw` are its two halves."""

    predicts_landmarks = True

    def __init__(self, config: AtvgConfig) -> None:
        super().__init__()
        self.config = config
        self.at = ExpressionNet(config.lips)
        self.vg = VgNet(config.vg, config.crop)

    @property
    def mouth_region(self) -> MouthRegion:
        """Part of the crop that is drawn."""
        return self.vg.mouth_region

    @property
    def readout(self) -> ExpressionNet:
        """See `contract.MeshGenerator`."""
        return self.at

    @property
    def space(self) -> ExpressionSpace:
        """See `contract.ExpressionPredictor`."""
        return self.at.space

    @property
    def moving(self) -> Tensor:
        """See `contract.Generator`."""
        return self.space.points

    def encode(self, portrait: Portrait) -> Identity:
        """See `contract.Generator`."""
        mouth = self.at.prepare(portrait)
        canvas = CropRenderer(portrait.image, mouth.mesh, mouth.neutral, self.moving)
        return Identity(portrait, mouth, canvas)

    def forward(
        self,
        identity: Identity,
        speech: Tensor,
        state: State = None,
        meshes: Tensor | None = None,
    ) -> tuple[Generated, State]:
        """See `contract.MeshGenerator`; the state is VG-net's."""
        if meshes is None:
            meshes = self.meshes(identity, self.at(speech))
        drawn, state = self.draw_region(identity, meshes, state)
        return self.mouth_region.composite(drawn, identity.portrait.image), state

    def meshes(self, identity: Identity, expression: Tensor) -> Tensor:
        """See `contract.MeshGenerator`."""
        return self.at.meshes(identity.mouth, expression)

    def predict_expression(self, speech: Tensor, state: State = None) -> tuple[Tensor, State]:
        """See `contract.ExpressionPredictor`."""
        return self.at.predict_expression(speech)

    def predict_landmarks(
        self, identity: Identity, speech: Tensor, state: State = None
    ) -> tuple[Tensor, State]:
        """AT-net: (B, T, hops, coefficients) -> landmarks (B, T, 68, 2) in [0, 1] of the crop."""
        return ibug(self.meshes(identity, self.at(speech))), None

    def draw(
        self, identity: Identity, landmarks: Tensor, state: State = None
    ) -> tuple[Generated, State]:
        """VG-net: landmarks (B, T, 68, 2), predicted or given, to whole crops.

        The mesh moves as the landmarks move.
        """
        own = mesh_from_landmarks(identity.portrait.landmarks).unsqueeze(1)
        meshes = identity.mouth.mesh.unsqueeze(1) + mesh_from_landmarks(landmarks) - own
        drawn, state = self.draw_region(identity, meshes, state)
        return self.mouth_region.composite(drawn, identity.portrait.image), state

    def draw_region(
        self, identity: Identity, meshes: Tensor, state: State = None
    ) -> tuple[Generated, State]:
        """Draw meshes (B, T, 478, 2); pictures are only the mouth region: what training needs."""
        warped = self.mouth_region.crop(identity.canvas(meshes))
        drawn: tuple[Generated, State] = self.vg(identity.portrait, warped, meshes, state)
        return drawn


PRESETS = {
    "atvg": AtvgConfig(),
    # Random and tiny: every command line is tested with it, offline and in seconds.
    "atvg-tiny": AtvgConfig(
        lips=LipsConfig(rank=8, hidden=4),
        vg=VgConfig(image_channels=(8, 8, 8), landmark_maps=2, hidden=8, last_channels=8),
    ),
}
