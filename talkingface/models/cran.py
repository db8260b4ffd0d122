"""CRAN: the conditional recurrent generator of Song et al. 2019 (Sec. 3.2, Fig. 1 and 2; Sec. 5).

    z_I = E_I(I*)                      once per face
    z_A_t = E_A(A_t)                   per window of speech
    h_t = GRU([z_I, z_A_t], h_{t-1})   the hybrid feature
    I_t = Dec(h_t, skips of E_I)       U-Net skips keep the identity

Beyond the paper, each switched off in `cran-paper`: a head on the hybrid feature that predicts
where the lips and the jaw go (`lips`), a decoder that sees that motion as a map (`lips="guide"`),
only the lower face decoded (`window`), and an output that composites new colour with the identity
picture (`output="composite"`, ATVGnet's idea) or with the identity picture bent along (`"warp"`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface.audio import SpeechSpec
from talkingface.contract import Generated, Portrait, State
from talkingface.geometry import CropSpec
from talkingface.models.blocks import (
    Up,
    audio_encoder,
    conv,
    hop_encoder,
    pixels_last,
    repeat_frames,
)
from talkingface.models.expression import ExpressionSpace
from talkingface.models.head import FLOW_UNIT, HeadMotion, measure, place, pose_of
from talkingface.models.lips import TOKENS, ExpressionNet, LipsConfig, Mouth
from talkingface.models.window import (
    MAPS,
    SPEAKING,
    STILL_MAPS,
    Window,
    displaced,
)


@dataclass(frozen=True)
class CranConfig:
    """Sizes and switches; the defaults are the lean preset, `cran`.

    scheme: Fig. 1a "frame", 1b "sequential", 1c "recurrent", and Sec. 5 "natural".
    window: rows and columns (top, bottom, left, right) of the crop that are decoded.
    lips: "off", "auxiliary" (a loss on the hybrid feature), "guide" (the decoder sees it too) or
    "expression" (the decoder sees lips that `readout` predicts, see `models.lips`).
    head: "free" (what moves beside the lips is the decoder's business, as in the paper) or "drawn"
    (with "natural" and "guide": where the head, lids and brows go next is drawn by `HeadMotion`).
    lip_gain: factor on the predicted lip motion around its neutral, calibrated on validation.
    seed_rank, image_pool: for large windows: the decoder's seed is a product of two matrices of
    this rank (0: one matrix), z_I is read off means of so many by so many pixels.
    """

    family: str = "cran"
    speech: SpeechSpec = TOKENS
    crop: CropSpec = field(default_factory=CropSpec)
    scheme: Literal["frame", "sequential", "recurrent", "natural"] = "recurrent"
    output: Literal["direct", "composite", "warp"] = "warp"
    lips: Literal["off", "auxiliary", "guide", "expression"] = "expression"
    readout: LipsConfig = field(default_factory=LipsConfig)
    head: Literal["free", "drawn"] = "free"
    window: tuple[int, int, int, int] = (56, 128, 24, 104)
    audio_channels: tuple[int, ...] = (32, 64, 128)
    audio_strides: tuple[int, ...] = (2, 2, 2)
    audio_norm: str = "group"
    audio_features: int = 256
    audio_layers: int = 1
    image_channels: tuple[int, ...] = (24, 48, 64)
    image_features: int = 64
    image_pool: int = 1
    hidden: int = 256
    gru_layers: int = 2
    seed_channels: int = 32
    seed_rank: int = 0
    decoder_channels: tuple[int, ...] = (64, 32, 16)
    last_channels: int = 16
    kernel: int = 3
    transposed: bool = False
    identity_dropout: float = 0.5
    lip_gain: float = 1.0

    def __post_init__(self) -> None:
        if self.lips == "expression" and self.readout.speech != self.speech:
            raise ValueError("the lips and the model must hear the same features")
        if self.head == "drawn" and (self.scheme, self.lips) != ("natural", "guide"):
            raise ValueError('head="drawn" needs scheme="natural" and lips="guide"')

    @property
    def guided(self) -> bool:
        """Whether the decoder is shown where the lips go."""
        return self.lips in ("guide", "expression")

    @property
    def looks_back(self) -> bool:
        """Whether the scheme sees the picture before."""
        return self.scheme in ("sequential", "natural")


@dataclass(frozen=True)
class Identity:
    """What `Cran.encode` keeps of a face: everything that does not depend on speech."""

    portrait: Portrait
    features: Tensor  # (B, image_features): z_I
    rests: tuple[Tensor, ...]  # what its skips and its own lips add to the decoder, smallest first
    mouth: Mouth | None = None  # where lips are predicted as expressions


Head = tuple[Tensor, Tensor]  # the last two moves (B, 2, MOVES), newest first; frames so far (B,)


class _Source(NamedTuple):
    """The picture that is bent: the window (B, 3, h, w), and landmarks (B, 68, 2) of the crop."""

    window: Tensor
    landmarks: Tensor


@dataclass(frozen=True)
class Teacher:
    """The real frames before, (B, T, 3, S, S), and their landmarks (B, T, 68, 2).

    used: of T frames, which see them; the others see what was drawn before.
    """

    frames: Tensor
    landmarks: Tensor
    used: tuple[bool, ...]


class Cran(nn.Module):
    """The generator. `encode` a face once, then call with windows of speech."""

    speech_mean: Tensor
    speech_std: Tensor
    template: Tensor

    def __init__(self, config: CranConfig) -> None:
        super().__init__()
        self.config = config
        self.window = Window(config.window, config.crop, config.head == "drawn")
        self.shape = self.window.shape
        template = torch.from_numpy(config.crop.template() / config.crop.size).float()
        self.register_buffer("template", template, persistent=False)
        strides = 2 ** len(config.image_channels)
        if self.shape[0] % strides or self.shape[1] % strides:
            raise ValueError(f"the window {config.window} must divide by {strides}")
        self.seed_shape = (self.shape[0] // strides, self.shape[1] // strides)
        self._build_encoders()
        self._build_decoder()
        features = config.speech.coefficients
        self.register_buffer("speech_mean", torch.zeros(features))
        self.register_buffer("speech_std", torch.ones(features))

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
        cells = math.prod(-(-side // c.image_pool) for side in self.seed_shape)
        self.image_head = nn.Linear(sizes[-1] * cells, c.image_features)
        previous = c.image_features if c.scheme == "natural" else 0
        self.gru = nn.GRU(
            c.audio_features + c.image_features + previous, c.hidden, c.gru_layers, batch_first=True
        )
        points = 2 * len(SPEAKING)
        if c.lips == "expression":
            self.readout = ExpressionNet(c.readout)
        elif (
            c.lips != "off"
        ):  # lips are learned without pictures first: the face joins in from zero
            with torch.no_grad():
                self.gru.all_weights[0][0][:, c.audio_features :].zero_()
            self.lip_head = nn.Linear(c.hidden, points)
            if c.head == "drawn":
                self.head_motion = HeadMotion(c.hidden)
            self.lip_neutral = nn.Sequential(
                nn.Linear(2 * 68, 64), nn.LeakyReLU(0.2), nn.Linear(64, points)
            )

    def _build_decoder(self) -> None:
        c = self.config
        seed = c.seed_channels * self.seed_shape[0] * self.seed_shape[1]
        inner = c.hidden + c.image_features
        self.seed: nn.Module = nn.Linear(inner, seed)
        if c.seed_rank:
            self.seed = nn.Sequential(
                nn.Linear(inner, c.seed_rank, bias=False), nn.Linear(c.seed_rank, seed)
            )
        guide, own = (MAPS, STILL_MAPS) if c.guided else (0, ())
        ups, inputs = [], c.seed_channels
        for outputs, skip in zip(c.decoder_channels, reversed(c.image_channels), strict=True):
            after = inputs + skip
            still = (*range(inputs, after), *(after + channel for channel in own))
            ups.append(Up(after + guide, outputs, c.kernel, c.transposed, still))
            inputs = outputs
        self.ups = nn.ModuleList(ups)
        self.last = conv(inputs, c.last_channels, c.kernel)
        self.head = nn.Conv2d(
            c.last_channels, 3 if c.output == "direct" else 4, c.kernel, 1, c.kernel // 2
        )
        if c.output != "direct":
            nn.init.constant_(self.head.bias[3:], -2.0)  # type: ignore[index]  # begin as the identity
        if c.output == "warp":
            self.flow_head = nn.Conv2d(c.decoder_channels[-2], 2, 3, 1, 1)
            nn.init.zeros_(self.flow_head.weight)
            nn.init.zeros_(self.flow_head.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def adopt(self, other: Cran) -> None:
        """Begin as another one: all weights of equal shape, and the GRU's for what both hear.

        A face that the other saw in another window says nothing here: the GRU begins without it.
        """
        own, given = self.state_dict(), other.state_dict()
        first, heard = "gru.weight_ih_l0", self.config.audio_features
        fits = {name: x for name, x in given.items() if name in own and own[name].shape == x.shape}
        if first not in fits and own[first].shape[0] == given[first].shape[0]:
            fits[first] = torch.zeros_like(own[first])
            fits[first][:, :heard] = given[first][:, :heard]
        self.load_state_dict(own | fits)

    # --- the face, once -------------------------------------------------------------------------

    def encode(self, portrait: Portrait) -> Identity:
        """E_I of Sec. 3.2: z_I and the U-Net skips of the decoded window."""
        features, skips = self._encode_image(self.window.cut(portrait.image))
        mouth = self.readout.prepare(portrait) if self.config.lips == "expression" else None
        seen = replace(portrait, mesh=None)
        return Identity(seen, features, self._rests(skips, portrait.landmarks), mouth)

    def _rests(self, skips: tuple[Tensor, ...], landmarks: Tensor) -> tuple[Tensor, ...]:
        """What the decoder's blocks make of that which speech does not change."""
        maps = None
        if self.config.guided:
            maps = self._pyramid(self.window.mouth_maps(landmarks))
        rests = []
        for level, (up, skip) in enumerate(zip(self.ups, reversed(skips), strict=True)):
            assert isinstance(up, Up)
            if maps is not None:
                skip = torch.cat([skip, maps[level].to(skip.dtype)], dim=1)
            rests.append(up.rest(skip))
        return tuple(rests)

    def _pyramid(self, maps: Tensor) -> list[Tensor]:
        """Maps of half the window's size, as large as the input of each of the decoder's blocks."""
        sizes = [maps]
        for _ in self.ups[1:]:
            sizes.append(F.avg_pool2d(sizes[-1], 2))
        return sizes[::-1]

    def _encode_image(self, window: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        skips, x = [], pixels_last(window)
        for layer in self.image_encoder:
            x = layer(x)
            skips.append(x)
        if (pool := self.config.image_pool) > 1:
            x = F.avg_pool2d(x, pool, ceil_mode=True)
        return self.image_head(x.flatten(1)), tuple(skips)

    # --- speech to hybrid feature ---------------------------------------------------------------

    def forward(
        self,
        identity: Identity,
        speech: Tensor,
        state: State = None,
        guide: Tensor | None = None,
    ) -> tuple[Generated, State]:
        """See `contract.Generator`; guide: as in `draw_window`."""
        window, state = self.draw_window(identity, speech, state, guide)
        whole = identity.portrait.image
        return self.window.into_crop(window, whole.unsqueeze(1)), state

    def draw_window(
        self,
        identity: Identity,
        speech: Tensor,
        state: State = None,
        guide: Tensor | None = None,
        teacher: Teacher | None = None,
        moves: Tensor | None = None,
    ) -> tuple[Generated, State]:
        """`forward`, but pictures are only the decoded window: what training needs.

        guide: (B, T, 68, 2) landmarks to draw instead of the predicted ones (training the decoder).
        teacher: for the schemes that look back. moves: (B, T, MOVES), the head's real ones.
        """
        audio = self.encode_audio(speech)
        if guide is None and self.config.lips == "expression":
            guide, _ = self.speak(identity, speech)
        if self.config.looks_back:
            return self._step_by_step(identity, audio, state, guide, teacher, moves)
        hybrid, state = self._hybrid(identity.features, audio, state)
        own = self._own(identity)
        return self._draw(own, identity.features, identity.rests, hybrid, guide), state

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
        audio: Tensor,
        state: State,
        guide: Tensor | None,
        teacher: Teacher | None,
        moves: Tensor | None,
    ) -> tuple[Generated, State]:
        """Fig. 1b (the frame before instead of the identity) and Sec. 5 (both, and the GRU)."""
        own, natural = self._own(identity), self.config.scheme == "natural"
        recurrent, before, head = self._begin(own) if state is None else _resumed(state)
        pictures = []
        for t in range(audio.shape[1]):
            if teacher is not None and teacher.used[t]:
                before = _Source(self.window.cut(teacher.frames[:, t]), teacher.landmarks[:, t])
            seen, skips = self._encode_image(before.window)
            face, rests = (
                (identity.features, identity.rests)
                if natural
                else (seen, self._rests(skips, before.landmarks))
            )
            extra = seen.unsqueeze(1) if natural else None
            hybrid, recurrent = self._hybrid(face, audio[:, t : t + 1], recurrent, extra)
            if head is not None:
                real = None if moves is None else moves[:, t]
                head = self._move(head, hybrid[:, 0], real)
            shown = None if guide is None else guide[:, t : t + 1]
            move = None if head is None else head[0][:, :1]
            source = own if natural else before
            pictures.append(self._draw(source, face, rests, hybrid, shown, move))
            lips = pictures[-1].landmarks if shown is None else shown
            points = before.landmarks if lips is None else lips[:, 0].detach()
            before = _Source(pictures[-1].frames[:, 0].detach(), points)
        return _join(pictures), (recurrent, tuple(before), head)

    def _begin(self, own: _Source) -> tuple[State, _Source, Head | None]:
        """Before the first frame the identity picture was seen, and its head stood still."""
        if self.config.head == "free":
            return None, own, None
        still = measure(own.landmarks, own.landmarks.unsqueeze(1)).expand(-1, 2, -1)
        return None, own, (still, torch.zeros(len(still), dtype=torch.long, device=still.device))

    def _move(self, head: Head, hybrid: Tensor, real: Tensor | None) -> Head:
        """The last two moves and the clock, a frame later."""
        last, clock = head
        move = self.head_motion.next(hybrid, last, clock) if real is None else real
        return torch.stack([move, last[:, 0]], dim=1), clock + 1

    def head_loss(
        self, identity: Identity, speech: Tensor, moves: Tensor, seen: Tensor | None
    ) -> Tensor:
        """How unlikely the head's real moves (B, 1 + T, MOVES) are; `HeadMotion.loss`.

        moves: from the frame before the first. seen: (B, T, 3, h, w), windows of the real frames
        before, or None where the GRU sees none (training without pictures).
        """
        previous = None
        if seen is not None:
            features, _ = self._encode_image(seen.flatten(0, 1))
            previous = features.unflatten(0, seen.shape[:2])
        hybrid, _ = self._hybrid(identity.features, self.encode_audio(speech), None, previous)
        last = torch.stack([moves[:, 1:-1], moves[:, :-2]], dim=2)
        loss: Tensor = self.head_motion.loss(hybrid[:, 1:], last, moves[:, 2:])
        return loss

    def _own(self, identity: Identity) -> _Source:
        return _Source(self.window.cut(identity.portrait.image), identity.portrait.landmarks)

    # --- hybrid feature to lips -----------------------------------------------------------------

    def predict_landmarks(
        self, landmarks: Tensor, hybrid: Tensor, moves: Tensor | None = None
    ) -> Tensor:
        """(B, 68, 2) of the identity and (B, T, hidden) -> (B, T, 68, 2): its lips and jaw, moved,
        and with moves (B, T, MOVES) the whole head.

        The head speaks of displacement from a neutral mouth; how far the identity's own mouth is
        from neutral is read off its landmarks, so that a smile or an open mouth is not added twice.
        """
        centred = (landmarks - self.template).flatten(1) / FLOW_UNIT
        neutral = self.lip_neutral(centred).unsqueeze(1)
        moved = self.config.lip_gain * self.lip_head(hybrid) - neutral
        still = displaced(landmarks, moved.unflatten(-1, (-1, 2)) * FLOW_UNIT)
        if moves is None:
            return still
        own = repeat_frames(landmarks, moves.shape[1])
        after = place(still.flatten(0, 1), own, moves.flatten(0, 1))
        placed: Tensor = after.unflatten(0, moves.shape[:2])
        return placed

    def speak(
        self,
        identity: Identity,
        speech: Tensor,
        state: State = None,
        moves: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """See `contract.Speaking`; not of a scheme that looks back at its pictures.

        moves: of a head that moves, (B, T, MOVES).
        """
        if self.config.lips == "expression":
            assert identity.mouth is not None
            return self.readout.landmarks(identity.mouth, speech), None
        hybrid, state = self._hybrid(identity.features, self.encode_audio(speech), state)
        return self.predict_landmarks(identity.portrait.landmarks, hybrid, moves), state

    # --- hybrid feature to picture --------------------------------------------------------------

    def _draw(
        self,
        source: _Source,
        face: Tensor,
        rests: tuple[Tensor, ...],
        hybrid: Tensor,
        guide: Tensor | None,
        moves: Tensor | None = None,
    ) -> Generated:
        """Dec of Sec. 3.2 for (B, T, hidden) hybrid features.

        moves: of the head, (B, T, MOVES).
        """
        config, (batch, frames) = self.config, hybrid.shape[:2]
        own, landmarks = source.landmarks, None
        if config.lips == "expression":
            landmarks = guide
        elif config.lips != "off":
            landmarks = self.predict_landmarks(own, hybrid, moves)
        maps = None
        if config.guided and landmarks is not None:
            shown = (landmarks if guide is None else guide).flatten(0, 1)
            here = repeat_frames(own, frames)
            pose = None if moves is None else pose_of(here, moves.flatten(0, 1))
            maps = self.window.moving_maps(here, shown, pose)
        features = torch.cat([hybrid, face.unsqueeze(1).expand(-1, frames, -1)], dim=-1)
        x, motion = self._decode(features.flatten(0, 1), rests, maps)
        window = repeat_frames(source.window, frames)
        made, mask, colour, flow = self._compose(x.float(), motion, window)
        shape = (batch, frames)
        return Generated(
            made.unflatten(0, shape),
            None if mask is None else mask.unflatten(0, shape),
            colour.unflatten(0, shape),
            landmarks,
            None if flow is None else flow.unflatten(0, shape),
        )

    def _decode(
        self, features: Tensor, rests: tuple[Tensor, ...], maps: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        x = F.leaky_relu(self.seed(features), 0.2).unflatten(1, (-1, *self.seed_shape))
        x = pixels_last(x)
        guides = None if maps is None else self._pyramid(pixels_last(maps))
        flow = None
        for level, (up, rest) in enumerate(zip(self.ups, rests, strict=True)):
            if guides is not None:
                x = torch.cat([x, guides[level].to(x.dtype)], dim=1)
            x = up(x, rest)
            if level == len(self.ups) - 2 and self.config.output == "warp":
                flow = self.flow_head(x).float().contiguous()
                if maps is not None:
                    flow = flow + maps[:, :2]
        return self.head(self.last(x)), flow

    def _compose(
        self, x: Tensor, flow: Tensor | None, window: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Direct output, or mask * colour + (1 - mask) * the identity's (bent) picture.

        Returns the frame, the mask, the colour and the flow in crop sides.
        """
        colour, ramp = torch.tanh(x[:, :3].contiguous()), self.window.ramp
        if self.config.output == "direct":
            return colour * ramp + window * (1 - ramp), None, colour, None
        mask = torch.sigmoid(x[:, 3:].contiguous()) * ramp
        if flow is not None:
            flow = F.interpolate(flow, self.shape, mode="bilinear", align_corners=False)
            flow = flow * ramp * FLOW_UNIT
            window = self.window.bend(window, flow)
        return mask * colour + (1 - mask) * window, mask, colour, flow


def _resumed(state: State) -> tuple[State, _Source, Head | None]:
    recurrent, before, head = state
    return recurrent, _Source(*before), head


def _join(parts: list[Generated]) -> Generated:
    """Frames made one by one, as one clip."""

    def cat(tensors: list[Tensor | None]) -> Tensor | None:
        present = [t for t in tensors if t is not None]
        return torch.cat(present, dim=1) if present else None

    return Generated(
        torch.cat([p.frames for p in parts], dim=1),
        cat([p.mask for p in parts]),
        cat([p.colour for p in parts]),
        cat([p.landmarks for p in parts]),
        cat([p.flow for p in parts]),
    )


LOG_MEL = SpeechSpec(kind="log_mel", coefficients=26, mels=26)

PRESETS = {
    "cran": CranConfig(),
    # The paper's output, and lips from pixels alone, at the lean size.
    "cran-direct": CranConfig(speech=LOG_MEL, output="direct", lips="off", identity_dropout=0.0),
    # Published sizes (released code: audio 16-256, image 16-128, GRU 1024, ConvT 5x5 decoder).
    "cran-paper": CranConfig(
        speech=SpeechSpec(),
        output="direct",
        lips="off",
        window=(0, 128, 0, 128),
        audio_channels=(16, 32, 64, 128, 256),
        audio_strides=(1, 2, 1, 1, 2),
        audio_norm="batch",
        audio_features=512,
        audio_layers=2,
        image_channels=(16, 32, 64, 128),
        image_features=512,
        hidden=1024,
        gru_layers=1,
        seed_channels=256,
        decoder_channels=(196, 128, 80, 48),
        kernel=5,
        transposed=True,
        identity_dropout=0.0,
    ),
    # Sec. 5: the head moves too; clips aligned once (`prepare --natural-pose`), and all of the crop
    # is drawn but its border.
    "cran-natural": CranConfig(
        speech=LOG_MEL,
        lips="guide",
        scheme="natural",
        head="drawn",
        window=(4, 124, 4, 124),
        identity_dropout=0.0,
        image_pool=3,
        seed_rank=32,
    ),
    # Random and tiny: every command line is tested with it, offline and in seconds.
    "cran-tiny": CranConfig(
        speech=LOG_MEL,
        lips="guide",
        audio_channels=(8, 8, 8),
        audio_features=16,
        image_channels=(8, 8, 8),
        image_features=8,
        hidden=16,
        gru_layers=1,
        seed_channels=4,
        decoder_channels=(8, 8, 8),
        last_channels=8,
    ),
}
