"""Encoders, GRU and schemes that both CRANs share (Song et al. 2019, Sec. 3.2 and 5; Fig. 1 and 2).

    z_I = E_I(I*)                      once per face
    z_A_t = E_A(A_t)                   per window of speech
    h_t = GRU([z_A_t, z_I], h_{t-1})   the hybrid feature

`cran.Cran` ships, `cran_published.PublishedCran` is the paper's; they differ in lips and pictures.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from talkingface.contract import Generated, GeneratorModule, Portrait, State
from talkingface.models.blocks import Decoder, ImageEncoder, channels_last
from talkingface.models.lips import Mouth
from talkingface.models.mouth_region import MouthRegion
from talkingface.render.crops import CropRenderer

# Fig. 1a, 1b and 1c, and Sec. 5. In "sequential" and "natural" a frame sees the one before.
Scheme = Literal["frame", "sequential", "recurrent", "natural"]
Face = tuple[Tensor, tuple[Tensor, ...]]  # z_I (B, image_features), and skips, the largest first


@dataclass(frozen=True)
class Identity:
    """An encoded face: all that does not depend on speech. mouth, canvas: of `Cran` alone."""

    portrait: Portrait
    face: Face
    mouth: Mouth | None = None
    canvas: CropRenderer | None = None


@dataclass(frozen=True)
class Teacher:
    """The real frames before, (B, T, 3, S, S).

    used: of T frames, which see them; the others see the frame that was drawn before.
    """

    frames: Tensor
    used: tuple[bool, ...]


class CranBase(GeneratorModule):
    """Speech and a face to hybrid features, which a subclass draws.

    A subclass builds `decoder`, last.
    """

    speech_mean: Tensor
    speech_std: Tensor
    decoder: Decoder

    def __init__(self, config: Any, audio_encoder: nn.Module, kernel: int = 3) -> None:
        super().__init__()
        c = self.config = config
        levels = len(c.image_channels)
        self.natural = c.scheme == "natural"
        self.is_autoregressive = c.scheme in ("sequential", "natural")
        self.mouth_region = MouthRegion(c.mouth_region, c.crop, 2**levels)
        self.register_buffer("speech_mean", torch.zeros(c.speech.coefficients))
        self.register_buffer("speech_std", torch.ones(c.speech.coefficients))
        self.audio_encoder = audio_encoder
        self.image_encoder = ImageEncoder(
            3, c.image_channels, (kernel,) * levels, c.image_features, self.mouth_region.shape
        )
        inputs = c.audio_features + (2 if self.natural else 1) * c.image_features
        self.gru = nn.GRU(inputs, c.hidden, batch_first=True)

    def _new_decoder(self, outputs: int, kernel: int = 3, transposed: bool = False) -> Decoder:
        c = self.config
        return Decoder(
            c.hidden + c.image_features,
            self.image_encoder.map_shape,
            c.initial_channels,
            c.decoder_channels,
            c.image_channels[::-1],
            c.last_channels,
            outputs,
            kernel,
            transposed,
        )

    def encode_image(self, region: Tensor) -> Face:
        """E_I of mouth regions (N, 3, h, w)."""
        face: Face = self.image_encoder(channels_last(region))
        return face

    def encode_audio(self, speech: Tensor) -> Tensor:
        """E_A: (B, T, hops, coefficients) -> (B, T, audio_features)."""
        x = (speech - self.speech_mean) / self.speech_std
        encoded: Tensor = self.audio_encoder(x.flatten(0, 1).unsqueeze(1))
        return encoded.unflatten(0, speech.shape[:2])  # type: ignore[no-any-return]

    def hybrid(
        self, features: Tensor, speech: Tensor, state: State, previous: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """z_I (B, image_features) and speech (B, T, hops, coefficients) -> h (B, T, hidden).

        previous: features of the frames before (B, T, image_features), of the scheme "natural".
        "frame" and "sequential" forget their state at every frame.
        """
        frames = speech.shape[1]
        if self.training and self.config.identity_dropout > 0:
            kept = torch.rand(len(features), 1, device=features.device)
            features = features * (kept >= self.config.identity_dropout)
        parts = [self.encode_audio(speech), features.unsqueeze(1).expand(-1, frames, -1)]
        if self.natural:
            unseen = features.new_zeros(len(features), frames, features.shape[1])
            parts.append(unseen if previous is None else previous)
        x = torch.cat(parts, dim=-1)
        if self.config.scheme in ("frame", "sequential"):
            out, _ = self.gru(x.flatten(0, 1).unsqueeze(1))
            return out.reshape(*x.shape[:2], -1), None
        out, state = self.gru(x, state)
        return out, state

    def generate(
        self,
        identity: Identity,
        speech: Tensor,
        state: State,
        meshes: Tensor | None = None,
        teacher: Teacher | None = None,
    ) -> tuple[Generated, Tensor, State]:
        """Return the drawn mouth region, its hybrid features (B, T, hidden) and the next state.

        Where a frame sees the one before, frames are computed one by one, so that a stream gives
        the same bits in any chunking: what is fed back would let the last ones grow.
        """
        if not self.is_autoregressive:
            hybrid, state = self.hybrid(identity.face[0], speech, state)
            return self._draw(identity, identity.face, hybrid, meshes), hybrid, state
        before = self.mouth_region.crop(identity.portrait.image)
        recurrent, before = (None, before) if state is None else state
        drawn, hybrids = [], []
        for t in range(speech.shape[1]):
            if teacher is not None and teacher.used[t]:
                before = self.mouth_region.crop(teacher.frames[:, t])
            seen = self.encode_image(before)
            face = identity.face if self.natural else seen
            hybrid, recurrent = self.hybrid(
                face[0], speech[:, t : t + 1], recurrent, seen[0].unsqueeze(1)
            )
            mesh = None if meshes is None else meshes[:, t : t + 1]
            drawn.append(self._draw(identity, face, hybrid, mesh))
            hybrids.append(hybrid)
            before = drawn[-1].frames[:, 0].detach()
        return _join(drawn), torch.cat(hybrids, dim=1), (recurrent, before)

    @abstractmethod
    def _draw(
        self, identity: Identity, face: Face, hybrid: Tensor, meshes: Tensor | None
    ) -> Generated:
        """Dec of Sec. 3.2: draw the mouth region of hybrid features (B, T, hidden)."""

    def _decode(self, features: Tensor, hybrid: Tensor, skips: tuple[Tensor, ...]) -> Tensor:
        """z_I, hybrid features (B, T, hidden) and B * T skips -> (B, T, channels, h, w)."""
        features = features.unsqueeze(1).expand(-1, hybrid.shape[1], -1)
        joint = torch.cat([hybrid, features], dim=-1).flatten(0, 1)
        out: Tensor = self.decoder(joint, skips[::-1]).unflatten(0, hybrid.shape[:2])
        return out


def _join(parts: list[Generated]) -> Generated:
    """Concatenate frames that were drawn one by one."""

    def joined(name: str) -> Any:
        present = [getattr(part, name) for part in parts]
        return None if present[0] is None else torch.cat(present, dim=1)

    return Generated(*(joined(part.name) for part in fields(Generated)))
