"""CRAN, our small form: the recurrent generator of Song et al. 2019 corrects a warped picture.

Lips are predicted as expressions (`models.lips`), which move the face's mesh; the picture itself is
warped along it (`render`), and the decoder, which sees the warped picture I'_t, corrects it:

    I_t = I'_t + alpha_t * delta_t     delta_t, alpha_t = Dec(h_t, z_I, skips of E_I(I'_t)), bounded

With the scheme "natural" (Sec. 5) the next move of the head and the brows is sampled, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from talkingface.audio import SpeechSpec
from talkingface.contract import Generated, Portrait, State
from talkingface.geometry import CropSpec
from talkingface.landmarks import ibug
from talkingface.models.blocks import hop_encoder
from talkingface.models.cran_base import CranBase, Face, Identity, Scheme, Teacher
from talkingface.models.expression import ExpressionSpace
from talkingface.models.head_motion import HeadConfig, HeadOutput, HeadState, Prosody
from talkingface.models.lips import TOKENS, ExpressionNet, LipsConfig
from talkingface.models.mouth_region import correct
from talkingface.render.crops import CropRenderer


@dataclass(frozen=True)
class CranConfig:
    """Sizes; the defaults are the preset `cran`.

    readout: of the lips. prosody_rank: principal components of a token, see `Prosody`.
    bound: most that a correction changes a colour, which spans 2.
    mouth_region: rows and columns (top, bottom, left, right) of the crop that are decoded.
    identity_dropout: share of training samples whose z_I is zero.
    """

    family: str = "cran"
    speech: SpeechSpec = TOKENS
    crop: CropSpec = field(default_factory=CropSpec)
    scheme: Scheme = "recurrent"
    readout: LipsConfig = field(default_factory=LipsConfig)
    prosody_rank: int = HeadConfig.rank
    bound: float = 0.4
    mouth_region: tuple[int, int, int, int] = (56, 128, 24, 104)
    audio_features: int = 128
    image_channels: tuple[int, ...] = (16, 32, 48)
    image_features: int = 64
    hidden: int = 128
    initial_channels: int = 16
    decoder_channels: tuple[int, ...] = (48, 32, 16)
    last_channels: int = 16
    identity_dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.readout.speech != self.speech:
            raise ValueError("the lips and the model must hear the same features")


class Cran(CranBase):
    """The generator. `encode` a face once, then call with windows of speech."""

    def __init__(self, config: CranConfig) -> None:
        c, speech = config, config.speech
        super().__init__(c, hop_encoder(speech.hops, speech.coefficients, c.audio_features))
        self.readout = ExpressionNet(c.readout)
        if self.natural:
            self.prosody = Prosody(speech, c.prosody_rank)
            self.head_output = HeadOutput(c.hidden)
        self.samples_head = self.natural
        self.predicts_landmarks = not self.is_autoregressive
        self.decoder = self._new_decoder(outputs=4)
        to_rgb = self.decoder.to_rgb
        assert to_rgb.bias is not None
        nn.init.zeros_(to_rgb.weight[:3])  # begin as the warped picture
        nn.init.zeros_(to_rgb.bias)

    @property
    def space(self) -> ExpressionSpace:
        """See `contract.ExpressionPredictor`."""
        return self.readout.space

    @property
    def moving(self) -> Tensor:
        """See `contract.Generator`."""
        return self.space.points

    def encode(self, portrait: Portrait) -> Identity:
        """z_I of the mouth region, and the mesh that speech moves."""
        features, _ = self.encode_image(self.mouth_region.crop(portrait.image))
        mouth = self.readout.prepare(portrait)
        canvas = CropRenderer(portrait.image, mouth.mesh, mouth.neutral, self.moving)
        return Identity(portrait, (features, ()), mouth, canvas)

    def forward(
        self,
        identity: Identity,
        speech: Tensor,
        state: State = None,
        meshes: Tensor | None = None,
    ) -> tuple[Generated, State]:
        """See `contract.Generator`; meshes: as in `draw_region`."""
        drawn, state = self.draw_region(identity, speech, state, meshes)
        return self.mouth_region.composite(drawn, identity.portrait.image), state

    def draw_region(
        self,
        identity: Identity,
        speech: Tensor,
        state: State = None,
        meshes: Tensor | None = None,
        teacher: Teacher | None = None,
    ) -> tuple[Generated, State]:
        """`forward`, but pictures are only the mouth region: what training needs.

        meshes: (B, T, 478, 2) to draw instead of the predicted ones, of a head that keeps still.
        teacher: for schemes in which a frame sees the one before.
        """
        if meshes is None:
            meshes = self.meshes(identity, self.readout(speech))
        if not self.natural:
            drawn, _, state = self.generate(identity, speech, state, meshes, teacher)
            return drawn, state
        state, head = self.begin(identity) if state is None else state
        drawn, hybrid, state = self.generate(identity, speech, state, meshes, teacher)
        if teacher is None:
            moves, head = self._sample_moves(speech, hybrid, head)
            drawn = replace(drawn, moves=moves)
        return drawn, (state, head)

    def meshes(self, identity: Identity, expression: Tensor) -> Tensor:
        """See `contract.MeshGenerator`."""
        assert identity.mouth is not None
        return self.readout.meshes(identity.mouth, expression)

    def predict_expression(self, speech: Tensor, state: State = None) -> tuple[Tensor, State]:
        """See `contract.ExpressionPredictor`."""
        return self.readout.predict_expression(speech)

    def predict_landmarks(
        self, identity: Identity, speech: Tensor, state: State = None
    ) -> tuple[Tensor, State]:
        """See `contract.LandmarkPredictor`."""
        return ibug(self.meshes(identity, self.readout(speech))), None

    def _draw(
        self, identity: Identity, face: Face, hybrid: Tensor, meshes: Tensor | None
    ) -> Generated:
        assert identity.canvas is not None and meshes is not None
        warped = self.mouth_region.crop(identity.canvas(meshes)).to(hybrid.device)
        _, skips = self.encode_image(warped.flatten(0, 1))
        out = self._decode(face[0], hybrid, skips)
        return correct(warped, out, self.mouth_region.ramp, self.config.bound, meshes)

    # --- the head's motion, of the scheme "natural" ---------------------------------------------

    def begin(self, identity: Identity, seed: int = 0) -> State:
        """Return the state before the first frame. seed: of the head's moves."""
        return None, self.head_output.begin([seed] * len(identity.portrait.image))

    def _sample_moves(
        self, speech: Tensor, hybrid: Tensor, head: HeadState
    ) -> tuple[Tensor, HeadState]:
        """Sample moves (B, T, POSE_DIM) for windows of speech and their hybrid features."""
        moves, head = [], HeadState(*head)
        for windows, features in zip(speech.unbind(1), hybrid.unbind(1), strict=True):
            raw = self.prosody(self.prosody.components(windows))
            prosody, memory = self.prosody.step(raw, head.memory)
            move, head = self.head_output(features, prosody, head._replace(memory=memory))
            moves.append(move)
        return torch.stack(moves, dim=1), head

    def undrawn_hybrid(self, image: Tensor, speech: Tensor) -> Tensor:
        """Return hybrid features (B, T, hidden) as if every frame before were the picture.

        image: (B, 3, S, S) of a portrait. Nothing is drawn. The head keeps still in what this model
        draws, so that frames differ from their picture at the lips alone.
        """
        features, _ = self.encode_image(self.mouth_region.crop(image))
        previous = features.unsqueeze(1).expand(-1, speech.shape[1], -1)
        return self.hybrid(features, speech, None, previous)[0]


PRESETS = {
    "cran": CranConfig(),
    # Sec. 5: the head moves too; clips aligned once (`prepare --natural-pose`), and all of the crop
    # is drawn but its border.
    "cran-natural": CranConfig(
        scheme="natural", mouth_region=(4, 124, 4, 124), identity_dropout=0.0
    ),
}
