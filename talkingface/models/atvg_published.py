"""ATVGnet as published: the cascade of Chen et al. 2019 (poster, Fig. 3), in released sizes.

c_p = PCA(p_p)                                once per face
c_t = AT-net(A_t, c_p)                        LSTM: where the landmarks are
p_t = p_p + B (c_t - c_p)                     displaced, so that a face keeps its shape
alpha_t, C_t = VG-net(I, p_p, p_t)            what to draw, and where
v_t = alpha_t * C_t + (1 - alpha_t) * I
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface.audio import SpeechSpec
from talkingface.contract import LANDMARKS, Generated, GeneratorModule, Portrait, State
from talkingface.geometry import CropSpec
from talkingface.models.atvg import Recurrence
from talkingface.models.blocks import ConvGru, Lstm, Residual, repeat_frames
from talkingface.models.mouth_region import FLOW_UNIT, MouthRegion


@dataclass(frozen=True)
class AtConfig:
    """The published AT-net. components: of the landmark space (the poster's 6)."""

    components: int = 6
    audio_features: int = 256
    landmark_features: tuple[int, ...] = (256, 512)
    hidden: int = 256
    layers: int = 3


@dataclass(frozen=True)
class PublishedVgConfig:
    """VG-net, which draws the whole crop. width: factor on the published channels.

    recurrence: as of `atvg.VgConfig`.
    """

    recurrence: Recurrence = "time"
    width: float = 1.0


@dataclass(frozen=True)
class PublishedAtvgConfig:
    """Both networks, and the speech and the crops that they take."""

    family: str = "atvg-published"
    speech: SpeechSpec = field(default_factory=lambda: SpeechSpec(hops=28))
    crop: CropSpec = field(default_factory=CropSpec)
    at: AtConfig = field(default_factory=AtConfig)
    vg: PublishedVgConfig = field(default_factory=PublishedVgConfig)


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


class PublishedVgNet(nn.Module):
    """VG-net as released (58.4 M weights at width 1): the whole crop, landmarks as a vector.

    Image 128 x 128 -> 512 x 8 x 8 with a skip at 32 x 32; landmarks -> 512 x 8 x 8; attention from
    target and identity landmarks mixes skip and decoded features at 32 x 32; MMRNN recurs over time
    (the released code's ran over the batch).
    """

    def __init__(self, config: PublishedVgConfig, crop: CropSpec) -> None:
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
    """Face encoded by `PublishedAtvg.encode`; AT-net alone needs no features."""

    portrait: Portrait
    features: tuple[Tensor, ...] = ()


class PublishedAtvg(GeneratorModule):
    """The cascade; `predict_landmarks` and `draw` are its two halves."""

    predicts_landmarks = True

    def __init__(self, config: PublishedAtvgConfig) -> None:
        super().__init__()
        self.config = config
        self.at = AtNet(config.at, config.speech)
        self.vg = PublishedVgNet(config.vg, config.crop)

    @property
    def mouth_region(self) -> MouthRegion:
        """Part of the crop that is drawn: all of it."""
        return self.vg.mouth_region

    def encode(self, portrait: Portrait) -> Identity:
        """See `contract.Generator`."""
        portrait = replace(portrait, mesh=None)
        return Identity(portrait, self.vg.encode(portrait))

    def forward(
        self, identity: Identity, speech: Tensor, state: State = None
    ) -> tuple[Generated, State]:
        """See `contract.Generator`; the state is the pair of both networks'."""
        at_state, vg_state = (None, None) if state is None else state
        landmarks, at_state = self.predict_landmarks(identity, speech, at_state)
        drawn, vg_state = self.draw(identity, landmarks, vg_state)
        return drawn, (at_state, vg_state)

    def predict_landmarks(
        self, identity: Identity, speech: Tensor, state: State = None
    ) -> tuple[Tensor, State]:
        """AT-net: (B, T, hops, coefficients) -> landmarks (B, T, 68, 2) in [0, 1] of the crop."""
        change, state = self.at(identity.portrait.landmarks, speech, state)
        return self.at.space.displace(identity.portrait.landmarks, change), state

    def draw(
        self, identity: Identity, landmarks: Tensor, state: State = None
    ) -> tuple[Generated, State]:
        """VG-net: landmarks (B, T, 68, 2), predicted or given, to whole crops."""
        drawn: tuple[Generated, State] = self.vg(
            identity.portrait, identity.features, landmarks, state
        )
        return drawn

    draw_region = draw


# The released code: AT-net 30.07 M weights, VG-net 58.36 M.
PRESETS = {"atvg-paper": PublishedAtvgConfig()}
