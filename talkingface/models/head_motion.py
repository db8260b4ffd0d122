"""Predict head motion from speech: pose and brows, sampled from a mixture of Gaussians.

    a_t = W x_t                     prosody: loudness, voicing, pitch of the voice, read off tokens
    h_t = GRU([a_t, P x_t], h_t-1)  the hybrid feature of Song et al. 2019, Sec. 5
    m_t ~ sum_k w_k N(mu_k, s_k)    the next move, by h_t and the last two moves
    y_t = gain m_t + K bands(a)_t   and what follows stress and the ends of phrases directly

What a head does next is not one thing but many: an average of them stands still. So the next move
is drawn (Bishop 1994; Graves 2013). K is designed, not fitted: in the clips at hand heads follow
loudness and pitch of the voice weakly (|r| < 0.25) and with another sign from one corpus to the
next (docs/log.md). A move is HEAD and BROWS of `motion.Motion`, in units of UNIT.
Random numbers are a function of a seed and of the frame's number (`liveliness`): the same stream in
any chunking gives the same bits, another seed gives another performance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from talkingface.audio import FPS, SpeechSpec
from talkingface.liveliness import block_generator
from talkingface.models.lips import TOKENS
from talkingface.motion import BROWS, HEAD

POSE_DIM = len(HEAD) + len(BROWS)
UNIT = 0.01  # radians, interocular distances, natural logarithm: of moves inside this module
WIDEST = 3.5  # standard deviations that a head goes from the picture
RETURN = 1 - 1 / (6 * FPS)  # a head is drawn back to the picture within seconds
LOG_STD = (-2.5, 2.0)  # of a Gaussian, in usual steps: nobody's next move is certain
NOISE_BLOCK = 256  # frames

# Prosody, from frame to frame.
RAW = ("loudness", "voicing", "pitch")  # 10 dB of full scale, 0 or 1, octaves above 100 Hz
PROSODY = ("loudness", "voicing", "pitch", "rise")  # as networks see it, see `Prosody.step`
QUIETEST = -4.5  # 10 dB: where the loudness that counts as speech ends
FADE = 0.015  # 10 dB a frame: how fast the loudest is forgotten
SPAN = 2.5  # 10 dB: what is so far below the loudest is silence
PITCH_MEAN = 1 / (4 * FPS)  # share of a voiced frame in the mean pitch of a voice
BANDS = (0.06, 0.12, 0.25, 0.5, 1.0)  # seconds of the low passes whose differences are the bands

# What is drawn, on its way out: rates per frame.
ATTACK, RELEASE = 1 / (0.3 * FPS), 1 / (1.5 * FPS)
SMOOTHING = 1 / (1 + 0.12 * FPS)  # of a low pass: clips of 3 s show little of what is slow
CENTRING = 1 / (10 * FPS)  # of the slow mean that is taken off, so that a head stays where it is

# How the head follows the bands of loudness and of the voice's pitch, in their standard deviations:
# a nod and raised brows on stress, which is louder and higher (Graf et al. 2002, Munhall et al.
# 2004); the head rises where a phrase begins and settles where it ends.
NOD = ((0.0, 0.7, 1.0, -0.7), (0.0, 0.3, 0.5, 0.0))
RAISE = ((0.0, 0.3, 0.5, 0.2), (0.0, 0.7, 1.0, 0.6))


class Mixture(NamedTuple):
    """logits (..., K); mean and log_std (..., K, POSE_DIM) of the next move less the last one, in
    units of `HeadMotion.step`."""

    logits: Tensor
    mean: Tensor
    log_std: Tensor


class HeadMotion(nn.Module):
    """Density of the next move, and draws from it.

    Positions are moves m (..., POSE_DIM) brought to p = step^-1 (m - rest), in which changes from
    frame to frame are uncorrelated and have variance 1.
    step: (POSE_DIM, POSE_DIM) lower triangular, Cholesky factor of the covariance of those changes.
    spread: (POSE_DIM,), standard deviations of positions. rest: (POSE_DIM,), the mean move.
    """

    step: Tensor
    spread: Tensor
    rest: Tensor

    def __init__(self, hidden: int, mixtures: int = 5, width: int = 64) -> None:
        super().__init__()
        self.mixtures = mixtures
        self.inner = nn.Sequential(
            nn.Linear(hidden + 2 * POSE_DIM, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, mixtures * (1 + 2 * POSE_DIM)),
        )
        self.register_buffer("step", torch.eye(POSE_DIM))
        self.register_buffer("spread", torch.ones(POSE_DIM))
        self.register_buffer("rest", torch.zeros(POSE_DIM))

    def position(self, moves: Tensor) -> Tensor:
        """Moves (..., POSE_DIM) to positions."""
        out: Tensor = torch.linalg.solve_triangular(
            self.step, (moves - self.rest).unsqueeze(-1), upper=False
        )
        return out.squeeze(-1)

    def move(self, positions: Tensor) -> Tensor:
        """Positions (..., POSE_DIM) to moves, less their mean."""
        return positions @ self.step.T

    @torch.no_grad()
    def set_statistics(self, clips: Sequence[Tensor], weights: Sequence[float]) -> None:
        """Set the buffers from moves (T, POSE_DIM) of clips that count so much each."""
        moves, changes = torch.cat(list(clips)), torch.cat([clip.diff(dim=0) for clip in clips])
        counts = [torch.full((len(c),), w) for c, w in zip(clips, weights, strict=True)]
        weight = torch.cat(counts)
        change_weight = torch.cat([w[1:] for w in counts])
        rows = changes * (change_weight / change_weight.sum()).sqrt()[:, None]
        covariance = rows.T @ rows + 1e-6 * torch.eye(POSE_DIM)
        self.step.copy_(torch.linalg.cholesky(covariance))
        weight = weight / weight.sum()
        self.rest.copy_(weight @ moves)
        self.spread.copy_((weight @ self.position(moves).square()).sqrt().clamp(min=1e-3))

    def mixture(self, hybrid: Tensor, last: Tensor) -> Mixture:
        """hybrid (..., hidden) and the last two positions (..., 2, POSE_DIM), the newest first."""
        newest = last[..., 0, :] / self.spread
        velocity = last[..., 0, :] - last[..., 1, :]
        raw = self.inner(torch.cat([hybrid, newest, velocity.clamp(-8, 8)], dim=-1)).float()
        logits, rest = raw.split([self.mixtures, 2 * POSE_DIM * self.mixtures], dim=-1)
        mean, log_std = rest.unflatten(-1, (self.mixtures, 2 * POSE_DIM)).chunk(2, dim=-1)
        return Mixture(logits, mean, log_std.clamp(*LOG_STD))

    def loss(self, hybrid: Tensor, last: Tensor, after: Tensor) -> Tensor:
        """Mean negative log likelihood of positions `after` (..., POSE_DIM), nats per number."""
        logits, mean, log_std = self.mixture(hybrid, last)
        change = (after - last[..., 0, :]).unsqueeze(-2)
        each = 0.5 * ((change - mean) * torch.exp(-log_std)).square() + log_std
        each = each.sum(-1) + 0.5 * POSE_DIM * math.log(2 * math.pi)
        likelihood = torch.logsumexp(F.log_softmax(logits, -1) - each, dim=-1)
        return -likelihood.mean() / POSE_DIM

    def next(self, hybrid: Tensor, last: Tensor, noise: Tensor) -> Tensor:
        """Draw a position (B, POSE_DIM) after the last two (B, 2, POSE_DIM).

        noise: (B, 1 + POSE_DIM), a uniform number and standard normal ones.
        """
        logits, mean, log_std = self.mixture(hybrid, last)
        share = F.softmax(logits, -1).cumsum(-1)
        chosen = (noise[:, :1] > share).sum(-1).clamp(max=self.mixtures - 1)
        rows = torch.arange(len(chosen), device=chosen.device)
        change = mean[rows, chosen] + torch.exp(log_std[rows, chosen]) * noise[:, 1:]
        reach = WIDEST * self.spread
        return torch.maximum(torch.minimum((last[:, 0] + change) * RETURN, reach), -reach)


def head_noise(seed: int, frame: int) -> Tensor:
    """Return the random numbers of one frame of a performance: (1 + POSE_DIM,)."""
    return _noise_block(seed, frame // NOISE_BLOCK)[frame % NOISE_BLOCK]


@lru_cache(maxsize=64)
def _noise_block(seed: int, block: int) -> Tensor:
    rng = block_generator(seed, "head", block)
    noise = torch.from_numpy(rng.standard_normal((NOISE_BLOCK, 1 + POSE_DIM))).float()
    noise[:, 0] = torch.from_numpy(rng.random(NOISE_BLOCK))
    return noise


class Prosody(nn.Module):
    """Loudness, voicing and pitch of a voice, read off windows of tokens by straight lines.

    mean: (coefficients,); projection: (coefficients, rank), to principal components of a token.
    """

    mean: Tensor
    projection: Tensor

    def __init__(self, speech: SpeechSpec, rank: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(speech.coefficients))
        projection = torch.randn(speech.coefficients, rank) / speech.coefficients**0.5
        self.register_buffer("projection", projection)
        self.lines = nn.Linear(speech.hops * rank, len(RAW))

    def components(self, windows: Tensor) -> Tensor:
        """(N, hops, coefficients) -> (N, hops, rank)."""
        return (windows - self.mean) @ self.projection

    def forward(self, components: Tensor) -> Tensor:
        """(N, hops, rank) -> (N, 3), RAW."""
        out: Tensor = self.lines(components.flatten(1))
        return out

    @staticmethod
    def begin(batch: int) -> Tensor:
        """Return what `step` remembers before the first frame: the loudest so far, the mean pitch,
        how many frames it is of, and the last loudness, (B, 4)."""
        return torch.tensor([[QUIETEST + SPAN, 0.0, 0.0, 0.0]]).repeat(batch, 1)

    @staticmethod
    def step(raw: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """RAW (B, 3) of one frame -> PROSODY (B, 4) and the memory (B, 4).

        Loudness: 0 silence, 1 the loudest of the last seconds. Pitch: octaves from the voice's
        mean, 0 where there is no voice. Rise: how much louder than a frame before.
        """
        loudness, voicing, pitch = raw.unbind(-1)
        loudest, mean, count, before = memory.unbind(-1)
        loudest = torch.maximum(loudness, loudest - FADE).clamp(min=QUIETEST + SPAN)
        level = ((loudness - loudest) / SPAN + 1).clamp(0, 1)
        voiced = ((voicing - 0.4) / 0.3).clamp(0, 1) * (level > 0.3)
        count = (count + voiced).clamp(max=1 / PITCH_MEAN)
        mean = mean + voiced * (pitch - mean) / count.clamp(min=1)
        above = voiced * (pitch - mean).clamp(-0.6, 0.6)
        prosody = torch.stack([level, voiced, above, level - before], -1)
        return prosody, torch.stack([loudest, mean, count, level], -1)


@dataclass(frozen=True)
class HeadConfig:
    """rank: principal components of a token. features: of them that the GRU takes.

    hidden: of the GRU. mixtures, width: of `HeadMotion`.
    """

    family: str = "head"
    speech: SpeechSpec = TOKENS
    rank: int = 64
    features: int = 4
    hidden: int = 32
    mixtures: int = 5
    width: int = 64


class HeadState(NamedTuple):
    """State of a stream's head; batch first.

    seed, frame: (B,), what random numbers depend on. hidden: (B, hidden) of the GRU. last: (B, 2,
    POSE_DIM), positions, newest first. memory: of `Prosody.step`. passes: (B, 2, bands), low passes
    of loudness and pitch. activity: (B,), how much is being said. drawn, centre: (B, POSE_DIM), low
    passes of what is drawn.
    """

    seed: Tensor
    frame: Tensor
    hidden: Tensor
    last: Tensor
    memory: Tensor
    passes: Tensor
    activity: Tensor
    drawn: Tensor
    centre: Tensor


class HeadOutput(nn.Module):
    """Hybrid features to moves: draws of the mixture, scaled, smoothed, centred and bounded.

    gain: (POSE_DIM,), factors on what is drawn: from the people of the corpus to a quiet speaker.
    silent_gain: (POSE_DIM,), the same in long silence, in which a head nearly comes to rest.
    kernel: (2 * (bands - 1), POSE_DIM), how the head follows the bands of loudness and pitch.
    limit: (POSE_DIM,), softly approached, never passed. All in units of UNIT.
    """

    gain: Tensor
    silent_gain: Tensor
    kernel: Tensor
    limit: Tensor

    def __init__(self, hidden: int, mixtures: int = 5, width: int = 64) -> None:
        super().__init__()
        self.hidden = hidden
        self.motion = HeadMotion(hidden, mixtures, width)
        self.register_buffer("gain", torch.ones(POSE_DIM))
        self.register_buffer("silent_gain", torch.full((POSE_DIM,), 1 / 3))
        self.register_buffer("kernel", torch.zeros(2 * (len(BANDS) - 1), POSE_DIM))
        self.register_buffer("limit", torch.full((POSE_DIM,), 10.0))

    def begin(self, seeds: Sequence[int]) -> HeadState:
        """Return the state before the first frame of performances of these seeds."""
        batch, device = len(seeds), self.gain.device
        state = HeadState(
            torch.tensor([seed % 2**63 for seed in seeds]),
            torch.zeros(batch, dtype=torch.long),
            torch.zeros(batch, self.hidden),
            torch.zeros(batch, 2, POSE_DIM),
            Prosody.begin(batch),
            torch.zeros(batch, 2, len(BANDS)),
            torch.zeros(batch),
            torch.zeros(batch, POSE_DIM),
            torch.zeros(batch, POSE_DIM),
        )
        return HeadState(*(part.to(device) for part in state))

    def forward(
        self, hybrid: Tensor, prosody: Tensor, state: HeadState
    ) -> tuple[Tensor, HeadState]:
        """One frame: (B, hidden), PROSODY (B, >= 4) -> a move (B, POSE_DIM) and the next state.

        `hidden` and `memory` of the state are as they were.
        """
        newest = self.motion.next(hybrid, state.last, self._noise(state))
        passes = low_passes(prosody, state.passes)
        activity = state.activity + _pace(prosody[:, 0], state.activity)
        gain = torch.lerp(self.silent_gain, self.gain, activity[:, None])
        wanted = gain * self.motion.move(newest)
        drawn = state.drawn + SMOOTHING * (wanted - state.drawn)
        centre = state.centre + CENTRING * (drawn - state.centre)
        move = drawn - centre + bands(passes) @ self.kernel
        after = state._replace(
            frame=state.frame + 1,
            last=torch.stack([newest, state.last[:, 0]], 1),
            passes=passes,
            activity=activity,
            drawn=drawn,
            centre=centre,
        )
        return self.limit * torch.tanh(move / self.limit) * UNIT, after

    def _noise(self, state: HeadState) -> Tensor:
        pairs = zip(state.seed.tolist(), state.frame.tolist(), strict=True)
        return torch.stack([head_noise(seed, frame) for seed, frame in pairs]).to(self.gain)


class HeadNet(nn.Module):
    """Windows of speech to motion of the head and the brows, for any face."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.prosody = Prosody(config.speech, config.rank)
        self.to_features = nn.Linear(config.rank, config.features)
        self.gru = nn.GRU(len(PROSODY) + config.features, config.hidden, batch_first=True)
        self.output = HeadOutput(config.hidden, config.mixtures, config.width)

    def begin(self, seeds: Sequence[int]) -> HeadState:
        """Return the state before the first frame of performances of these seeds."""
        return self.output.begin(seeds)

    def forward(
        self, speech: Tensor, state: HeadState | None = None, seed: int = 0
    ) -> tuple[Tensor, HeadState]:
        """(B, T, hops, coefficients) -> moves (B, T, POSE_DIM), HEAD and BROWS of `Motion`.

        seed: of a stream's first call; it is in the state then. Frame by frame, so that a stream in
        any chunking gives the same bits.
        """
        state = self.begin([seed] * len(speech)) if state is None else state
        moves = []
        for windows in speech.unbind(1):
            move, state = self.step(windows, state)
            moves.append(move)
        empty = speech.new_zeros(len(speech), 0, POSE_DIM)
        return torch.stack(moves, 1) if moves else empty, state

    def step(self, windows: Tensor, state: HeadState) -> tuple[Tensor, HeadState]:
        """One frame: windows (B, hops, coefficients) -> a move (B, POSE_DIM) and the next state."""
        features, memory = self.encode_speech(windows, state.memory)
        hybrid, hidden = self.gru(features.unsqueeze(1), state.hidden.unsqueeze(0))
        state = state._replace(hidden=hidden[0], memory=memory)
        move: tuple[Tensor, HeadState] = self.output(hybrid[:, 0], features, state)
        return move

    def encode_speech(self, windows: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Windows (B, hops, coefficients) of one frame -> PROSODY and features for the GRU."""
        components = self.prosody.components(windows)
        prosody, memory = Prosody.step(self.prosody(components), memory)
        features = self.to_features(components[:, components.shape[1] // 2])
        return torch.cat([prosody, features], -1), memory


def low_passes(prosody: Tensor, passes: Tensor) -> Tensor:
    """Put loudness and pitch of PROSODY (B, >= 4) through the cascade: (B, 2, bands)."""
    value, out = prosody[:, [0, 2]], []
    for index, seconds in enumerate(BANDS):
        value = passes[..., index] + (value - passes[..., index]) / (1 + seconds * FPS)
        out.append(value)
    return torch.stack(out, -1)


def bands(passes: Tensor) -> Tensor:
    """Differences of neighbouring low passes, zero on average: (B, 2, n) -> (B, 2 * (n - 1))."""
    return (passes[..., :-1] - passes[..., 1:]).flatten(1)


def _pace(loudness: Tensor, activity: Tensor) -> Tensor:
    """Return the change of a voice's activity in a frame: quickly up, slowly down."""
    change = (loudness > 0.4).to(activity) - activity
    return torch.where(change > 0, ATTACK * change, RELEASE * change)
