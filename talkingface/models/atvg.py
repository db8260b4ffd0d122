"""ATVGnet: the cascade of Chen et al. 2019 (poster, Fig. 3).

    c_p = PCA(p_p)                                once per face
    c_t = AT-net(A_t, c_p)                        LSTM: where the landmarks are
    p_t = p_p + B (c_t - c_p)                     displaced, so that a face keeps its shape
    alpha_t, C_t = VG-net(I, p_p, p_t)            what to draw, and where
    v_t = alpha_t * C_t + (1 - alpha_t) * I

VG-net is here twice: `PublishedVgNet` in the sizes of the authors' released code, and `VgNet`, lean
enough for a CPU: only the lower face is drawn, and the motion map is geometry: the identity picture
warped along its mesh (`render`), I'_t, which C_t corrects and alpha_t blends: C_t = I'_t + delta_t,
v_t = alpha_t * C_t + (1 - alpha_t) * I'_t.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface.audio import SpeechSpec
from talkingface.contract import LANDMARKS, Generated, GeneratorModule, Portrait, State
from talkingface.faces.interpolation import mesh_from_landmarks
from talkingface.geometry import CropSpec
from talkingface.landmarks import ibug
from talkingface.models.blocks import (
    ConvGru,
    Lstm,
    Residual,
    Upsample,
    channels_last,
    conv,
    repeat_frames,
)
from talkingface.models.expression import ExpressionSpace
from talkingface.models.lips import TOKENS, ExpressionNet, LipsConfig, Mouth
from talkingface.models.mouth_region import FLOW_UNIT, MouthRegion, correct
from talkingface.render.crops import CropRenderer


@dataclass(frozen=True)
class AtConfig:
    """The published AT-net. components: of the landmark space (the poster's 6)."""

    components: int = 6
    audio_features: int = 256
    landmark_features: tuple[int, ...] = (256, 512)
    hidden: int = 256
    layers: int = 3


@dataclass(frozen=True)
class VgConfig:
    """VG-net. kind: "lean" (corrects the warped picture) or "published" (colour alone; `width` is
    a factor on its channels).

    bound: most that a correction changes a colour, which spans 2.
    recurrence: MMRNN remembers over "time"; "frame" forgets at every frame (an ablation).
    width: factor on the published channels. mouth_region: what the small one draws, as in CRAN.
    """

    kind: Literal["lean", "published"] = "lean"
    bound: float = 0.4
    recurrence: Literal["time", "frame"] = "time"
    mouth_region: tuple[int, int, int, int] = (56, 128, 24, 104)
    image_channels: tuple[int, int, int] = (16, 32, 48)
    landmark_maps: int = 8
    hidden: int = 48
    last_channels: int = 16
    width: float = 1.0


@dataclass(frozen=True)
class AtvgConfig:
    """Both networks, the speech they hear and the crop they see.

    at_net: "expression" (`models.lips`, absolute expressions from a pretrained encoder's tokens) or
    "published" (an LSTM on MFCCs); `lips` and `at` are their sizes.
    """

    family: str = "atvg"
    speech: SpeechSpec = TOKENS
    crop: CropSpec = field(default_factory=CropSpec)
    at_net: Literal["expression", "published"] = "expression"
    lips: LipsConfig = field(default_factory=LipsConfig)
    at: AtConfig = field(default_factory=AtConfig)
    vg: VgConfig = field(default_factory=VgConfig)

    def __post_init__(self) -> None:
        if (self.at_net == "expression") != (self.vg.kind == "lean"):
            raise ValueError('the "lean" VG-net draws the meshes of at_net="expression"')
        if self.at_net == "expression" and self.lips.speech != self.speech:
            raise ValueError("the lips and the model must hear the same features")


class LandmarkSpace(nn.Module):
    """The PCA of landmarks that move (`data.landmark_space` fits it; poster, Fig. 3).

    mean: (136,), the mean face's points in [0, 1] of the crop; basis: (K, 136), orthonormal rows,
    the directions in which points move within a clip; scale: (K,), standard deviations along them.
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, components: int) -> None:
        super().__init__()
        size = 2 * LANDMARKS
        if not 0 < components <= size:
            raise ValueError(f"a space of {LANDMARKS} points has 1 to {size} components")
        self.register_buffer("mean", torch.full((size,), 0.5))
        self.register_buffer("basis", torch.eye(size)[:components].clone())
        self.register_buffer("scale", torch.full((components,), FLOW_UNIT))

    def coefficients(self, landmarks: Tensor) -> Tensor:
        """(..., 68, 2) in [0, 1] of the crop -> (..., K), 1 is one standard deviation."""
        out: Tensor = (landmarks.flatten(-2) - self.mean) @ self.basis.T
        return out / self.scale

    def displace(self, landmarks: Tensor, change: Tensor) -> Tensor:
        """(B, 68, 2) and changes (B, T, K) of its coefficients -> (B, T, 68, 2)."""
        moved: Tensor = F.linear(change.float() * self.scale, self.basis.T)
        out: Tensor = landmarks.unsqueeze(1) + moved.unflatten(-1, (-1, 2)).to(landmarks.dtype)
        return out


class AtNet(nn.Module):
    """The published AT-net: audio and the identity's coefficients -> LSTM -> their change.

    gain: factor on what the LSTM says, measured on validation: lips open as far as real ones.
    """

    gain: Tensor
    speech_mean: Tensor
    speech_std: Tensor

    def __init__(self, config: AtConfig, speech: SpeechSpec) -> None:
        super().__init__()
        self.config = config
        self.space = LandmarkSpace(config.components)
        self.audio_encoder = _pooled_audio(speech, config.audio_features)
        sizes = (config.components, *config.landmark_features)
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU(inplace=True))]
        self.landmark_encoder = nn.Sequential(*layers)
        self.lstm = Lstm(
            config.audio_features + sizes[-1], config.hidden, config.layers, batch_first=True
        )
        with torch.no_grad():  # begin by remembering (Jozefowicz et al. 2015)
            for layer in range(config.layers):
                getattr(self.lstm, f"bias_hh_l{layer}")[config.hidden : 2 * config.hidden] = 1.0
        self.to_coefficients = nn.Linear(config.hidden, config.components)
        self.register_buffer("gain", torch.ones(()))
        self.register_buffer("speech_mean", torch.zeros(speech.coefficients))
        self.register_buffer("speech_std", torch.ones(speech.coefficients))

    def forward(
        self, landmarks: Tensor, speech: Tensor, state: State = None
    ) -> tuple[Tensor, State]:
        """landmarks: (B, 68, 2), the identity's p_p; speech: (B, T, hops, coefficients).

        Returns the change of the identity's coefficients (B, T, K).
        """
        own = self.space.coefficients(landmarks)
        x = (speech - self.speech_mean) / self.speech_std
        audio = self.audio_encoder(x.flatten(0, 1).unsqueeze(1)).unflatten(0, speech.shape[:2])
        face = self.landmark_encoder(own).unsqueeze(1).expand(-1, speech.shape[1], -1)
        hidden, state = self.lstm(torch.cat([audio, face.to(audio.dtype)], dim=-1), state)
        return self.gain * self.to_coefficients(hidden), state


def _pooled_audio(speech: SpeechSpec, features: int) -> nn.Sequential:
    """The released AT-net's trunk: 28 hops x 12 MFCCs -> 512 x 12 x 2 -> 2048 -> features."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    height, width = (
        (speech.hops - 2 - 3) // 2 + 1,
        ((speech.coefficients - 3) // 2 + 1 - 3) // 2 + 1,
    )
    return nn.Sequential(
        *block(1, 64),
        *block(64, 128),
        nn.MaxPool2d(3, (1, 2)),
        *block(128, 256),
        *block(256, 256),
        *block(256, 512),
        nn.MaxPool2d(3, (2, 2)),
        nn.Flatten(),
        nn.Linear(512 * height * width, 2048),
        nn.ReLU(inplace=True),
        nn.Linear(2048, features),
        nn.ReLU(inplace=True),
    )


class VgNet(nn.Module):
    """VG-net as it ships: the warped mouth region at 1/8 through MMRNN, then three times upsampled.

    Feature-level attention at two scales, from target and identity landmarks, mixes what is decoded
    with the warped picture's own features.
    """

    def __init__(self, config: VgConfig, crop: CropSpec) -> None:
        super().__init__()
        self.config = config
        self.mouth_region = MouthRegion(config.mouth_region, crop)
        if self.mouth_region.shape[0] % 8 or self.mouth_region.shape[1] % 8:
            raise ValueError(f"the mouth region {config.mouth_region} must divide by 8")
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


class PublishedVgNet(nn.Module):
    """VG-net as released (58.4 M weights at width 1): the whole crop, landmarks as a vector.

    Image 128 x 128 -> 512 x 8 x 8 with a skip at 32 x 32; landmarks -> 512 x 8 x 8; attention from
    target and identity landmarks mixes skip and decoded features at 32 x 32; MMRNN recurs over time
    (the released code's ran over the batch).
    """

    def __init__(self, config: VgConfig, crop: CropSpec) -> None:
        super().__init__()
        self.config = config
        self.mouth_region = MouthRegion((0, crop.size, 0, crop.size), crop)
        self.side = crop.size // 16
        w64, w128, w256, w512 = (max(4, int(c * config.width)) for c in (64, 128, 256, 512))
        self.shallow = nn.Sequential(
            nn.ReflectionPad2d(3),
            *_published(nn.Conv2d(3, w64, 7), w64),
            *_published(nn.Conv2d(w64, w64, 3, 2, 1), w64),
            *_published(nn.Conv2d(w64, w128, 3, 2, 1), w128),
        )
        self.deep = nn.Sequential(
            *_published(nn.Conv2d(w128, w256, 3, 2, 1), w256),
            *_published(nn.Conv2d(w256, w512, 3, 2, 1), w512),
        )
        self.landmark_vector = nn.Sequential(
            nn.Linear(2 * LANDMARKS, self.side**2), nn.ReLU(inplace=True)
        )
        self.landmark_maps = nn.Sequential(*_published(nn.Conv2d(1, w256, 3, 1, 1), w256))
        self.landmark_deep = nn.Sequential(*_published(nn.Conv2d(w256, w512, 3, 1, 1), w512))
        self.attention = nn.Sequential(
            *_published(_double(2 * w256, w256), w256),
            *_published(_double(w256, w128), w128),
            nn.Conv2d(w128, 1, 1),
        )
        self.fuse = nn.Sequential(*_published(nn.Conv2d(2 * w512, w128, 3, 1, 1), w128))
        self.mmrnn = ConvGru(w128, w512, dilation=2)
        self.residual = nn.Sequential(
            *(Residual(w512, norm="batch", dropout=0.5) for _ in range(9)),
            *_published(_double(w512, w256), w256),
            *_published(_double(w256, w128), w128),
        )
        self.up = nn.Sequential(
            *_published(_double(w128, w64), w64), *_published(_double(w64, w64 // 2), w64 // 2)
        )
        self.colour = nn.Conv2d(w64 // 2, 3, 7, 1, 3)
        self.alpha = nn.Conv2d(w64 // 2, 1, 7, 1, 3)

    def encode(self, portrait: Portrait) -> tuple[Tensor, ...]:
        """The skip at S/4 and the features at S/16."""
        shallow = self.shallow(portrait.image)
        return shallow, self.deep(shallow)

    def forward(
        self,
        portrait: Portrait,
        features: tuple[Tensor, ...],
        landmarks: Tensor,
        state: State = None,
    ) -> tuple[Generated, State]:
        """landmarks: (B, T, 68, 2)."""
        shape = landmarks.shape[:2]
        shallow, deep = (repeat_frames(f, shape[1]) for f in features)
        target = self._landmarks(landmarks.flatten(0, 1))
        own = repeat_frames(self._landmarks(portrait.landmarks), shape[1])
        moved = self.landmark_deep(target) - self.landmark_deep(own)
        x = self.fuse(torch.cat([deep, moved], dim=1)).unflatten(0, shape)
        x, state = self.mmrnn(x, state, forget=self.config.recurrence == "frame")
        a = torch.sigmoid(self.attention(torch.cat([target, own], dim=1)))
        x = self.up(shallow * (1 - a) + self.residual(x.flatten(0, 1)) * a)
        colour = torch.tanh(self.colour(x).float())
        alpha = torch.sigmoid(self.alpha(x).float())
        picture = repeat_frames(portrait.image, shape[1])
        frames = alpha * colour + (1 - alpha) * picture
        frames, alpha, colour = (m.unflatten(0, shape) for m in (frames, alpha, colour))
        return Generated(frames, alpha, colour, landmarks), state

    def _landmarks(self, points: Tensor) -> Tensor:
        vector = self.landmark_vector(points.flatten(1) * 2 - 1)
        out: Tensor = self.landmark_maps(vector.view(-1, 1, self.side, self.side))
        return out


def _published(layer: nn.Module, channels: int) -> list[nn.Module]:
    return [layer, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def _double(inputs: int, outputs: int) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1)


@dataclass(frozen=True)
class Identity:
    """Face encoded by `Atvg.encode`; the published AT-net alone needs no features."""

    portrait: Portrait
    features: tuple[Tensor, ...] = ()
    mouth: Mouth | None = None  # where the picture is warped
    canvas: CropRenderer | None = None


class Atvg(GeneratorModule):
    """The cascade; `predict_landmarks` and `draw` are its two halves."""

    predicts_landmarks = True

    def __init__(self, config: AtvgConfig) -> None:
        super().__init__()
        self.config = config
        self.at: ExpressionNet | AtNet = (
            ExpressionNet(config.lips)
            if config.at_net == "expression"
            else AtNet(config.at, config.speech)
        )
        self.vg: VgNet | PublishedVgNet = (VgNet if config.vg.kind == "lean" else PublishedVgNet)(
            config.vg, config.crop
        )

    @property
    def space(self) -> ExpressionSpace:
        """See `contract.ExpressionPredictor`. Raises AttributeError for the published AT-net."""
        return self.readout.space

    def predict_expression(self, speech: Tensor, state: State = None) -> tuple[Tensor, State]:
        """See `contract.ExpressionPredictor`."""
        return self.readout.predict_expression(speech)

    @property
    def moving(self) -> Tensor | None:
        """See `contract.Generator`."""
        return self.at.space.points if isinstance(self.at, ExpressionNet) else None

    @property
    def mouth_region(self) -> MouthRegion:
        """The part of the crop that is drawn."""
        return self.vg.mouth_region

    def encode(self, portrait: Portrait) -> Identity:
        """See `contract.Generator`."""
        if isinstance(self.vg, PublishedVgNet):
            seen = replace(portrait, mesh=None)
            return Identity(seen, self.vg.encode(seen))
        assert isinstance(self.at, ExpressionNet)
        mouth = self.at.prepare(portrait)
        canvas = CropRenderer(portrait.image, mouth.mesh, mouth.neutral, self.at.space.points)
        return Identity(portrait, (), mouth, canvas)

    def forward(
        self,
        identity: Identity,
        speech: Tensor,
        state: State = None,
        meshes: Tensor | None = None,
    ) -> tuple[Generated, State]:
        """See `contract.Generator`; the state is the pair of both networks'.

        meshes: (B, T, 478, 2) to draw instead of the predicted ones, see `contract.MeshGenerator`.
        """
        at_state, vg_state = (None, None) if state is None else state
        if isinstance(self.at, ExpressionNet):
            if meshes is None:
                meshes = self.meshes(identity, self.at(speech))
            made, vg_state = self.draw_region(identity, meshes, vg_state)
        else:
            landmarks, at_state = self.predict_landmarks(identity, speech, at_state)
            made, vg_state = self.draw_region(identity, landmarks, vg_state)
        return self.mouth_region.composite(made, identity.portrait.image), (at_state, vg_state)

    @property
    def readout(self) -> ExpressionNet:
        """See `contract.MeshGenerator`. Raises AttributeError for the published AT-net."""
        if not isinstance(self.at, ExpressionNet):
            raise AttributeError("the published AT-net predicts landmarks, not expressions")
        return self.at

    def meshes(self, identity: Identity, expression: Tensor) -> Tensor:
        """See `contract.MeshGenerator`; not of the published AT-net."""
        assert identity.mouth is not None
        return self.readout.meshes(identity.mouth, expression)

    def predict_landmarks(
        self, identity: Identity, speech: Tensor, state: State = None
    ) -> tuple[Tensor, State]:
        """AT-net: (B, T, hops, coefficients) -> landmarks (B, T, 68, 2) in [0, 1] of the crop."""
        if isinstance(self.at, ExpressionNet):
            return ibug(self.meshes(identity, self.at(speech))), None
        change, state = self.at(identity.portrait.landmarks, speech, state)
        return self.at.space.displace(identity.portrait.landmarks, change), state

    def draw(
        self, identity: Identity, landmarks: Tensor, state: State = None
    ) -> tuple[Generated, State]:
        """VG-net: landmarks (B, T, 68, 2), predicted or given, to whole crops.

        A VG-net that bends the picture moves its mesh as the landmarks move.
        """
        points = landmarks
        if identity.mouth is not None:
            own = mesh_from_landmarks(identity.portrait.landmarks).unsqueeze(1)
            points = identity.mouth.mesh.unsqueeze(1) + mesh_from_landmarks(landmarks) - own
        made, state = self.draw_region(identity, points, state)
        return self.mouth_region.composite(made, identity.portrait.image), state

    def draw_region(
        self, identity: Identity, points: Tensor, state: State = None
    ) -> tuple[Generated, State]:
        """`draw`, but pictures are only the mouth_region: what training needs.

        points: meshes (B, T, 478, 2) for the small VG-net, landmarks (B, T, 68, 2) for the other.
        """
        made: tuple[Generated, State]
        if isinstance(self.vg, PublishedVgNet):
            made = self.vg(identity.portrait, identity.features, points, state)
        else:
            assert identity.canvas is not None
            warped = self.mouth_region.crop(identity.canvas(points))
            made = self.vg(identity.portrait, warped, points, state)
        return made


PRESETS = {
    "atvg": AtvgConfig(),
    # The released code: AT-net 30.07 M weights, VG-net 58.36 M.
    "atvg-paper": AtvgConfig(
        speech=SpeechSpec(hops=28),
        at_net="published",
        vg=VgConfig(kind="published", mouth_region=(0, 128, 0, 128)),
    ),
    # Random and tiny: every command line is tested with it, offline and in seconds.
    "atvg-tiny": AtvgConfig(
        lips=LipsConfig(rank=8, hidden=4),
        vg=VgConfig(image_channels=(8, 8, 8), landmark_maps=2, hidden=8, last_channels=8),
    ),
}
