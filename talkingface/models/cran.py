"""CRAN: the conditional recurrent generator of Song et al. 2019 (Sec. 3.2, Fig. 1 and 2; Sec. 5).

    z_I = E_I(I*)                      once per face
    z_A_t = E_A(A_t)                   per window of speech
    h_t = GRU([z_I, z_A_t], h_{t-1})   the hybrid feature
    I_t = Dec(h_t, skips of E_I)       U-Net skips keep the identity

Beyond the paper, each switched off in `cran-paper`: only the lower face decoded (`mouth_region`),
new colour composited with the identity picture (`output="composite"`, ATVGnet's idea), and what
ships (`output="mesh"`): lips predicted as expressions (`models.lips`) move the face's mesh, the
picture itself is warped along it (`render`), and the decoder, which sees the warped picture I'_t,
corrects it:

    I_t = I'_t + alpha_t * delta_t     delta_t, alpha_t = Dec(h_t, skips of E_I(I'_t)), bounded
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface.audio import SpeechSpec
from talkingface.contract import Generated, Portrait, State
from talkingface.geometry import CropSpec
from talkingface.landmarks import ibug
from talkingface.models.blocks import (
    Upsample,
    audio_encoder,
    channels_last,
    conv,
    hop_encoder,
    repeat_frames,
)
from talkingface.models.expression import ExpressionSpace
from talkingface.models.head_motion import HeadConfig, HeadOutput, HeadState, Prosody
from talkingface.models.lips import TOKENS, ExpressionNet, LipsConfig, Mouth
from talkingface.models.mouth_region import (
    FLOW_UNIT,
    MOUTH_POINTS,
    MouthRegion,
    add_displacement,
    correct,
)
from talkingface.render.crops import CropRenderer


@dataclass(frozen=True)
class CranConfig:
    """Sizes and switches; the defaults are the small preset, `cran`.

    scheme: Fig. 1a "frame", 1b "sequential", 1c "recurrent", and Sec. 5 "natural".
    output: "direct" (the paper's tanh picture), "composite" (a mask lays it over the identity) or
    "mesh" (the decoder corrects the picture, warped along the predicted mesh).
    mouth_region: rows and columns (top, bottom, left, right) of the crop that are decoded.
    lips: "off", "auxiliary" (a loss on the hybrid feature), or "expression" (`readout` predicts
    them, see `models.lips`; what "mesh" needs).
    head_motion: "none" (what moves beside the lips is the decoder's business, as in the paper) or
    "sampled" (with "natural" and "mesh": the next move of the head and the brows is sampled by
    `HeadOutput`; frames keep the head still). prosody_rank: components of a token, see `Prosody`.
    bound: most that a correction changes a colour, which spans 2.
    """

    family: str = "cran"
    speech: SpeechSpec = TOKENS
    crop: CropSpec = field(default_factory=CropSpec)
    scheme: Literal["frame", "sequential", "recurrent", "natural"] = "recurrent"
    output: Literal["direct", "composite", "mesh"] = "mesh"
    lips: Literal["off", "auxiliary", "expression"] = "expression"
    readout: LipsConfig = field(default_factory=LipsConfig)
    head_motion: Literal["none", "sampled"] = "none"
    prosody_rank: int = HeadConfig.rank
    bound: float = 0.4
    mouth_region: tuple[int, int, int, int] = (56, 128, 24, 104)
    audio_channels: tuple[int, ...] = (32, 64, 128)
    audio_strides: tuple[int, ...] = (2, 2, 2)
    audio_norm: str = "group"
    audio_features: int = 128
    audio_layers: int = 1
    image_channels: tuple[int, ...] = (16, 32, 48)
    image_features: int = 64
    hidden: int = 128
    gru_layers: int = 1
    initial_channels: int = 16
    decoder_channels: tuple[int, ...] = (48, 32, 16)
    last_channels: int = 16
    kernel: int = 3
    transposed: bool = False
    identity_dropout: float = 0.5

    def __post_init__(self) -> None:
        if (self.output == "mesh") != (self.lips == "expression"):
            raise ValueError('output="mesh" draws lips="expression", and no other does')
        if self.lips == "expression" and self.readout.speech != self.speech:
            raise ValueError("the lips and the model must hear the same features")
        if self.head_motion == "sampled" and (self.scheme, self.output) != ("natural", "mesh"):
            raise ValueError('head_motion="sampled" needs scheme="natural" and output="mesh"')

    @property
    def is_autoregressive(self) -> bool:
        """True if the scheme sees the picture before."""
        return self.scheme in ("sequential", "natural")


@dataclass(frozen=True)
class Identity:
    """Face encoded by `Cran.encode`: all that does not depend on speech."""

    portrait: Portrait
    features: Tensor  # (B, image_features): z_I
    skips: tuple[Tensor, ...] = ()  # of E_I, largest first; none where the picture is warped
    mouth: Mouth | None = None  # where the picture is warped
    canvas: CropRenderer | None = None


@dataclass(frozen=True)
class Teacher:
    """The real frames before, (B, T, 3, S, S).

    used: of T frames, which see them; the others see what was drawn before.
    """

    frames: Tensor
    used: tuple[bool, ...]


class Cran(nn.Module):
    """The generator. `encode` a face once, then call with windows of speech."""

    speech_mean: Tensor
    speech_std: Tensor
    template: Tensor

    def __init__(self, config: CranConfig) -> None:
        super().__init__()
        self.config = config
        self.mouth_region = MouthRegion(config.mouth_region, config.crop)
        self.shape = self.mouth_region.shape
        template = torch.from_numpy(config.crop.template() / config.crop.size).float()
        self.register_buffer("template", template, persistent=False)
        strides = 2 ** len(config.image_channels)
        if self.shape[0] % strides or self.shape[1] % strides:
            raise ValueError(f"the mouth region {config.mouth_region} must divide by {strides}")
        self.initial_shape = (self.shape[0] // strides, self.shape[1] // strides)
        self.register_buffer("speech_mean", torch.zeros(config.speech.coefficients))
        self.register_buffer("speech_std", torch.ones(config.speech.coefficients))
        self._build_encoders()
        self._build_decoder()

    def _build_encoders(self) -> None:
        c = self.config
        self.audio_encoder = (
            hop_encoder(c.speech.hops, c.speech.coefficients, c.audio_features)
            if c.speech.kind == "encoder"
            else audio_encoder(
                c.speech,
                c.audio_channels,
                c.audio_strides,
                c.audio_norm,
                c.audio_features,
                c.audio_layers,
            )
        )
        sizes = [3, *c.image_channels]
        self.image_encoder = nn.ModuleList(conv(a, b, c.kernel, 2) for a, b in pairwise(sizes))
        self.image_projection = nn.Linear(
            sizes[-1] * math.prod(self.initial_shape), c.image_features
        )
        previous = c.image_features if c.scheme == "natural" else 0
        self.gru = nn.GRU(
            c.audio_features + c.image_features + previous, c.hidden, c.gru_layers, batch_first=True
        )
        points = 2 * len(MOUTH_POINTS)
        if c.lips == "expression":
            self.readout = ExpressionNet(c.readout)
            if c.head_motion == "sampled":
                self.prosody = Prosody(c.speech, c.prosody_rank)
                self.head_output = HeadOutput(c.hidden)
        elif c.lips == "auxiliary":  # learned without pictures first: the face joins in from zero
            with torch.no_grad():
                self.gru.all_weights[0][0][:, c.audio_features :].zero_()
            self.lip_predictor = nn.Linear(c.hidden, points)
            self.lip_neutral = nn.Sequential(
                nn.Linear(2 * 68, 64), nn.LeakyReLU(0.2), nn.Linear(64, points)
            )

    def _build_decoder(self) -> None:
        c = self.config
        self.initial_map = nn.Linear(
            c.hidden + c.image_features, c.initial_channels * math.prod(self.initial_shape)
        )
        ups, inputs = [], c.initial_channels
        for outputs, skip in zip(c.decoder_channels, reversed(c.image_channels), strict=True):
            ups.append(Upsample(inputs + skip, outputs, c.kernel, c.transposed))
            inputs = outputs
        self.ups = nn.ModuleList(ups)
        self.to_features = conv(inputs, c.last_channels, c.kernel)
        channels = 3 if c.output == "direct" else 4
        self.to_rgb = nn.Conv2d(c.last_channels, channels, c.kernel, 1, c.kernel // 2)
        assert self.to_rgb.bias is not None
        if c.output == "composite":
            nn.init.constant_(self.to_rgb.bias[3:], -2.0)  # begin as the identity
        elif c.output == "mesh":  # begin as the warped picture
            nn.init.zeros_(self.to_rgb.weight[:3])
            nn.init.zeros_(self.to_rgb.bias)

    # --- the face, once -------------------------------------------------------------------------

    def encode(self, portrait: Portrait) -> Identity:
        """E_I of Sec. 3.2: z_I and the U-Net skips of the decoded window."""
        features, skips = self._encode_image(self.mouth_region.crop(portrait.image))
        if self.config.output != "mesh":
            return Identity(replace(portrait, mesh=None), features, skips)
        mouth = self.readout.prepare(portrait)
        canvas = CropRenderer(portrait.image, mouth.mesh, mouth.neutral, self.moving)
        return Identity(portrait, features, (), mouth, canvas)

    @property
    def moving(self) -> Tensor:
        """(P,): the points of the mesh that this model moves, where it bends the picture."""
        return self.readout.space.points

    def _encode_image(self, window: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        skips, x = [], channels_last(window)
        for layer in self.image_encoder:
            x = layer(x)
            skips.append(x)
        return self.image_projection(x.flatten(1)), tuple(skips)

    # --- speech to hybrid feature ---------------------------------------------------------------

    def forward(
        self,
        identity: Identity,
        speech: Tensor,
        state: State = None,
        meshes: Tensor | None = None,
    ) -> tuple[Generated, State]:
        """See `contract.Generator`; meshes: as in `draw_region`."""
        made, state = self.draw_region(identity, speech, state, meshes)
        return self.mouth_region.composite(made, identity.portrait.image), state

    def draw_region(
        self,
        identity: Identity,
        speech: Tensor,
        state: State = None,
        meshes: Tensor | None = None,
        teacher: Teacher | None = None,
    ) -> tuple[Generated, State]:
        """`forward`, but pictures are only the decoded mouth_region: what training needs.

        meshes: (B, T, 478, 2) to draw instead of the predicted ones, of a head that keeps still.
        teacher: for the schemes that look back.
        """
        if self.config.output == "mesh" and meshes is None:
            meshes = self.meshes(identity, self.readout(speech))
        if self.config.is_autoregressive:
            return self._step_by_step(identity, speech, state, meshes, teacher)
        hybrid, state = self._hybrid(identity.features, self.encode_audio(speech), state)
        return self._draw(identity, identity.features, identity.skips, hybrid, meshes), state

    def meshes(self, identity: Identity, expression: Tensor) -> Tensor:
        """See `contract.MeshGenerator`."""
        assert identity.mouth is not None
        return self.readout.meshes(identity.mouth, expression)

    @property
    def space(self) -> ExpressionSpace:
        """See `contract.ExpressionPredictor`. Raises AttributeError for lips of another kind."""
        if self.config.lips != "expression":
            raise AttributeError("this model predicts landmarks, not expressions")
        return self.readout.space

    def predict_expression(self, speech: Tensor, state: State = None) -> tuple[Tensor, State]:
        """See `contract.ExpressionPredictor`."""
        return self.readout.predict_expression(speech)

    def encode_audio(self, speech: Tensor) -> Tensor:
        """E_A of Sec. 3.2: (B, T, hops, coefficients) -> (B, T, audio_features)."""
        x = (speech - self.speech_mean) / self.speech_std
        encoded: Tensor = self.audio_encoder(x.flatten(0, 1).unsqueeze(1))
        out: Tensor = encoded.unflatten(0, speech.shape[:2])
        return out

    def _hybrid(
        self, face: Tensor, audio: Tensor, state: State, previous: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """The GRU on [z_I, z_A_t] (Fig. 2); "frame" forgets its state at every frame (Fig. 1a)."""
        frames = audio.shape[1]
        if self.training and self.config.identity_dropout > 0:
            keep = torch.rand(len(face), 1, device=face.device) >= self.config.identity_dropout
            face = face * keep
        parts = [audio, face.unsqueeze(1).expand(-1, frames, -1)]
        if self.config.scheme == "natural":
            unseen = face.new_zeros(len(face), frames, self.config.image_features)
            parts.append(unseen if previous is None else previous)
        hybrid = torch.cat(parts, dim=-1)
        if self.config.scheme in ("frame", "sequential"):
            out, _ = self.gru(hybrid.flatten(0, 1).unsqueeze(1))
            return out.reshape(len(audio), frames, -1), None
        out, state = self.gru(hybrid, state)
        return out, state

    def _step_by_step(
        self,
        identity: Identity,
        speech: Tensor,
        state: State,
        meshes: Tensor | None,
        teacher: Teacher | None,
    ) -> tuple[Generated, State]:
        """Fig. 1b (the frame before instead of the identity) and Sec. 5 (both, and the GRU).

        Frames are computed one by one from the speech on, so that a stream gives the same bits in
        any chunking: what is fed back would let the last ones grow.
        """
        natural = self.config.scheme == "natural"
        recurrent, before, head = self.begin(identity) if state is None else state
        pictures = []
        for t in range(speech.shape[1]):
            audio = self.encode_audio(speech[:, t : t + 1])
            if teacher is not None and teacher.used[t]:
                before = self.mouth_region.crop(teacher.frames[:, t])
            seen, skips = self._encode_image(before)
            face = identity.features if natural else seen
            extra = seen.unsqueeze(1) if natural else None
            hybrid, recurrent = self._hybrid(face, audio, recurrent, extra)
            shown = None if meshes is None else meshes[:, t : t + 1]
            own = identity.skips if natural else skips
            made = self._draw(identity, face, own, hybrid, shown)
            if head is not None and teacher is None:
                move, head = self._move(speech[:, t], hybrid[:, 0], head)
                made = replace(made, moves=move.unsqueeze(1))
            pictures.append(made)
            before = made.frames[:, 0].detach()
        return _join(pictures), (recurrent, before, head)

    def begin(self, identity: Identity, seed: int = 0) -> State:
        """Return the state before the first frame: the identity picture was seen.

        seed: of the head's moves, where this model samples them. Only for schemes that look back.
        """
        before = self.mouth_region.crop(identity.portrait.image)
        if self.config.head_motion == "none":
            return None, before, None
        return None, before, self.head_output.begin([seed] * len(before))

    def _move(self, windows: Tensor, hybrid: Tensor, state: State) -> tuple[Tensor, HeadState]:
        """Sample a move (B, POSE_DIM) of one frame: windows of speech, the hybrid feature."""
        before = HeadState(*state)
        raw = self.prosody(self.prosody.components(windows))
        prosody, memory = self.prosody.step(raw, before.memory)
        move: tuple[Tensor, HeadState] = self.head_output(
            hybrid, prosody, before._replace(memory=memory)
        )
        return move

    def undrawn_hybrid(self, image: Tensor, speech: Tensor) -> Tensor:
        """Return hybrid features (B, T, hidden) as if every frame before were the picture.

        image: (B, 3, S, S) of a portrait. Nothing is drawn. The head keeps still in what this model
        draws, so that frames differ from their picture at the lips alone.
        """
        features, _ = self._encode_image(self.mouth_region.crop(image))
        previous = features.unsqueeze(1).expand(-1, speech.shape[1], -1)
        hybrid, _ = self._hybrid(features, self.encode_audio(speech), None, previous)
        return hybrid

    # --- hybrid feature to lips -----------------------------------------------------------------

    def _move_lips(self, landmarks: Tensor, hybrid: Tensor) -> Tensor:
        """(B, 68, 2) of the identity and (B, T, hidden) -> (B, T, 68, 2): its lips and jaw, moved.

        The head speaks of displacement from a neutral mouth; how far the identity's own mouth is
        from neutral is read off its landmarks, so that a smile or an open mouth is not added twice.
        """
        centred = (landmarks - self.template).flatten(1) / FLOW_UNIT
        moved = self.lip_predictor(hybrid) - self.lip_neutral(centred).unsqueeze(1)
        return add_displacement(landmarks, moved.unflatten(-1, (-1, 2)) * FLOW_UNIT)

    def predict_landmarks(
        self, identity: Identity, speech: Tensor, state: State = None
    ) -> tuple[Tensor, State]:
        """See `contract.LandmarkPredictor`; not of a scheme that looks back at its pictures."""
        if self.config.lips == "expression":
            return ibug(self.meshes(identity, self.readout(speech))), None
        hybrid, state = self._hybrid(identity.features, self.encode_audio(speech), state)
        return self._move_lips(identity.portrait.landmarks, hybrid), state

    # --- hybrid feature to picture --------------------------------------------------------------

    def _draw(
        self,
        identity: Identity,
        face: Tensor,
        skips: tuple[Tensor, ...],
        hybrid: Tensor,
        meshes: Tensor | None,
    ) -> Generated:
        """Dec of Sec. 3.2 for (B, T, hidden) hybrid features."""
        shape = hybrid.shape[:2]
        features = torch.cat([hybrid, face.unsqueeze(1).expand(-1, shape[1], -1)], dim=-1)
        if meshes is not None:
            assert identity.canvas is not None
            warped = self.mouth_region.crop(identity.canvas(meshes)).to(face.device)
            _, seen = self._encode_image(warped.flatten(0, 1))
            out = self._decode(features.flatten(0, 1), seen).unflatten(0, shape)
            return correct(warped, out, self.mouth_region.ramp, self.config.bound, meshes)
        seen = tuple(repeat_frames(skip, shape[1]) for skip in skips)
        out = self._decode(features.flatten(0, 1), seen).unflatten(0, shape)
        lips = self.config.lips == "auxiliary"
        landmarks = self._move_lips(identity.portrait.landmarks, hybrid) if lips else None
        return self._compose(
            out, self.mouth_region.crop(identity.portrait.image).unsqueeze(1), landmarks
        )

    def _decode(self, features: Tensor, skips: tuple[Tensor, ...]) -> Tensor:
        """(N, hidden + image_features) and skips of N pictures -> (N, 3 or 4, h, w) float32."""
        x = F.leaky_relu(self.initial_map(features), 0.2).unflatten(1, (-1, *self.initial_shape))
        x = channels_last(x)
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = up(torch.cat([x, skip.to(x.dtype)], dim=1))
        out: Tensor = self.to_rgb(self.to_features(x)).float().contiguous()
        return out

    def _compose(self, out: Tensor, own: Tensor, landmarks: Tensor | None) -> Generated:
        """Direct output, or mask * colour + (1 - mask) * the identity's picture (B, 1, 3, h, w)."""
        colour, ramp = torch.tanh(out[:, :, :3]), self.mouth_region.ramp
        if self.config.output == "direct":
            return Generated(colour * ramp + own * (1 - ramp), None, colour, landmarks)
        mask = torch.sigmoid(out[:, :, 3:]) * ramp
        return Generated(mask * colour + (1 - mask) * own, mask, colour, landmarks)


def _join(parts: list[Generated]) -> Generated:
    """Frames made one by one, as one clip."""

    def joined(name: str) -> Any:
        present = [getattr(part, name) for part in parts]
        return None if present[0] is None else torch.cat(present, dim=1)

    return Generated(*(joined(part.name) for part in fields(Generated)))


LOG_MEL = SpeechSpec(kind="log_mel", coefficients=26, mels=26)

PRESETS = {
    "cran": CranConfig(),
    # The paper's output, and lips from pixels alone, at the small size.
    "cran-direct": CranConfig(speech=LOG_MEL, output="direct", lips="off", identity_dropout=0.0),
    # Published sizes (released code: audio 16-256, image 16-128, GRU 1024, ConvT 5x5 decoder).
    "cran-paper": CranConfig(
        speech=SpeechSpec(),
        output="direct",
        lips="off",
        mouth_region=(0, 128, 0, 128),
        audio_channels=(16, 32, 64, 128, 256),
        audio_strides=(1, 2, 1, 1, 2),
        audio_norm="batch",
        audio_features=512,
        audio_layers=2,
        image_channels=(16, 32, 64, 128),
        image_features=512,
        hidden=1024,
        gru_layers=1,
        initial_channels=256,
        decoder_channels=(196, 128, 80, 48),
        kernel=5,
        transposed=True,
        identity_dropout=0.0,
    ),
    # Sec. 5: the head moves too; clips aligned once (`prepare --natural-pose`), and all of the crop
    # is drawn but its border.
    "cran-natural": CranConfig(
        scheme="natural",
        head_motion="sampled",
        mouth_region=(4, 124, 4, 124),
        identity_dropout=0.0,
    ),
    # Random and tiny: every command line is tested with it, offline and in seconds.
    "cran-tiny": CranConfig(
        speech=LOG_MEL,
        output="composite",
        lips="auxiliary",
        audio_channels=(8, 8, 8),
        audio_features=16,
        image_channels=(8, 8, 8),
        image_features=8,
        hidden=16,
        gru_layers=1,
        initial_channels=4,
        decoder_channels=(8, 8, 8),
        last_channels=8,
    ),
}
