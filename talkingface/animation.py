"""Compute the motion of a whole face from speech, under `Controls`.

Frame by frame, from the same bounded windows of sound that the lips are read from: a stream in any
chunking gives the bits of the whole. What speech leaves open depends on seed and frame number.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from talkingface import arkit, liveliness
from talkingface.audio import FPS, SpeechSpec
from talkingface.contract import State
from talkingface.controls import Controls, Keyframes
from talkingface.geometry import smoothstep
from talkingface.models.head_motion import HeadNet, HeadState
from talkingface.models.lips import ExpressionNet
from talkingface.motion import HEAD, Motion
from talkingface.types import Array, Floats

SMOOTHED = 2  # frames to either side; an even number keeps the encoder's blocks where they are
WIDTH = 1.2  # frames: standard deviation of the smoothing at full strength
LOOP = 50  # frames in which the end of a loop becomes its beginning
JOINED = 6  # frames in which a motion that was cut off becomes the next one
BEGIN = 12  # frames in which head and gaze leave the picture's own


class Animator:
    """Windows of speech in, `Motion` out."""

    def __init__(self, readout: ExpressionNet, head: HeadNet | None, controls: Controls) -> None:
        """readout: speech to expressions. head: speech to moves of the head; None where it keeps
        still or where the generator itself says how it moves (`with_moves`). Raises BadRequest for
        controls out of their ranges."""
        controls.check()
        self.controls, self._readout = controls, readout
        self._head = head if needs_head(controls) else None
        self._kernel = _kernel(controls.smooth)
        self._added = [
            (arkit.named(name), strength) for name, strength in controls.expressions.items()
        ]

    @property
    def seed(self) -> int:
        """Random seed of everything that speech leaves open."""
        return self.controls.seed

    @property
    def spec(self) -> SpeechSpec:
        """Windows of speech to give; with smoothing they are longer than the model's."""
        speech = self._readout.config.speech
        extra = (len(self._kernel) - 1) * speech.hops_per_frame
        return replace(speech, hops=speech.hops + extra)

    def model_windows(self, speech: Tensor) -> Tensor:
        """The model's own windows within these (T, hops, coefficients)."""
        return self._part(speech, len(self._kernel) // 2)

    @torch.inference_mode()
    def __call__(self, speech: Tensor, state: State = None) -> tuple[Motion, State]:
        """(T, hops, coefficients), see `spec`, and the state of the call before -> T frames."""
        clock, recurrent = (0, None) if state is None else (int(state[0]), state[1])
        count = len(speech)
        expression = self._expressions(speech)
        motion = Motion.still(_numpy(expression))
        if not self.controls.still:
            motion, recurrent = self._alive(motion, speech, clock, recurrent)
        motion = self._with_expressions(motion, clock)
        return motion, (torch.tensor(clock + count), recurrent)

    def _part(self, speech: Tensor, shift: int) -> Tensor:
        spec = self._readout.config.speech
        begin = shift * spec.hops_per_frame
        return speech[:, begin : begin + spec.hops]

    def _expressions(self, speech: Tensor) -> Tensor:
        """(T, K): read out, smoothed and as strong as asked."""
        raw = sum(
            weight * self._readout(self._part(speech, shift)[None])[0]
            for shift, weight in enumerate(self._kernel)
        )
        assert isinstance(raw, Tensor)
        if self.controls.mouth == 1.0:
            return raw
        gap = self._gaps(raw).clamp(min=0)
        return self._with_gap(raw * self.controls.mouth, gap * self.controls.mouth)

    def _with_gap(self, expression: Tensor, gap: Tensor) -> Tensor:
        """Expressions (T, K) with the lips this far apart (T,), so that closed lips stay closed."""
        return expression + (gap - self._gaps(expression))[:, None] * self._readout.opening

    def _gaps(self, expression: Tensor) -> Tensor:
        """Return the lips' gaps (T,), frame by frame, for the same bits in any chunking."""
        return torch.stack([self._readout.space.lip_gap(frame) for frame in expression])

    def _alive(
        self, motion: Motion, speech: Tensor, clock: int, recurrent: State
    ) -> tuple[Motion, State]:
        """Add head, brows, lids and gaze."""
        controls, count = self.controls, len(motion)
        lids = liveliness.blinks(controls.seed, clock, count, controls.blinks)
        gaze = liveliness.gaze(controls.seed, clock, count, controls.blinks)
        gaze = np.asarray(_beginning(clock, count) * gaze, np.float32)
        motion = replace(motion, lids=lids, gaze=gaze)
        if self._head is not None:
            before = None if recurrent is None else HeadState(*recurrent)
            moves, recurrent = self._head(self.model_windows(speech)[None], before, controls.seed)
            motion = self.with_moves(motion, _numpy(moves[0]), clock)
        return motion, recurrent

    def with_moves(self, motion: Motion, moves: Floats, clock: int) -> Motion:
        """Add moves (T, 8), HEAD and BROWS, and breathing, as strong as asked.

        clock: the number of the first frame. The head leaves the picture's own pose slowly.
        """
        if not needs_head(self.controls):
            return motion
        count = len(motion)
        strength = self.controls.head * _beginning(clock, count)
        life = liveliness.breathing(self.controls.seed, clock, count)
        head = strength * (moves[:, : len(HEAD)] + life)
        brows = strength * moves[:, len(HEAD) :]
        return replace(
            motion,
            head=np.asarray(motion.head + head, np.float32),
            brows=np.asarray(motion.brows + brows, np.float32),
        )

    def _with_expressions(self, motion: Motion, clock: int) -> Motion:
        """Add the expressions that were asked for; the lips stay as far apart as they were."""
        if not self._added:
            return motion
        times = (clock + np.arange(len(motion))) / FPS
        spoken = torch.from_numpy(motion.expression).to(self._readout.opening)
        expression, brows, lids = spoken, motion.brows, motion.lids
        for (lower, upper, eyes), strength in self._added:
            amount = _strengths(strength, times)[:, None]
            expression = expression + torch.from_numpy(amount * lower).to(spoken)
            brows, lids = brows + amount * upper, lids + amount * eyes
        expression = self._with_gap(expression, self._gaps(spoken))
        return replace(motion, expression=_numpy(expression), brows=brows, lids=lids)


def _beginning(clock: int, count: int) -> Array:
    """Return how much of head and gaze is shown: from 0 to 1 in the first BEGIN frames, (T, 1)."""
    return np.minimum((np.arange(clock, clock + count) + 1) / BEGIN, 1)[:, None]


def _kernel(smooth: float) -> list[float]:
    """Weights of a frame and its neighbours, at most SMOOTHED to either side."""
    if smooth == 0:
        return [1.0]
    offsets = np.arange(-SMOOTHED, SMOOTHED + 1)
    weights = np.exp(-0.5 * (offsets / (WIDTH * smooth)) ** 2)
    return [float(weight) for weight in weights / weights.sum()]


def _strengths(strength: float | Keyframes, times: Array) -> Floats:
    """(T,), linear between keyframes and constant beyond them."""
    if isinstance(strength, (int, float)):
        return np.full(len(times), strength, np.float32)
    known, values = zip(*strength, strict=True)
    return np.asarray(np.interp(times, known, values), np.float32)


def _numpy(values: Tensor) -> Floats:
    return np.asarray(values.float().cpu().numpy(), np.float32)


def needs_head(controls: Controls) -> bool:
    """Return whether an `Animator` of these controls moves the head."""
    return not controls.still and controls.head > 0


class MotionPlayer:
    """Plays a motion that is given, whatever the sound; its last frame is held."""

    seed = 0

    def __init__(self, motion: Motion, speech: SpeechSpec) -> None:
        """speech: the windows of the model that draws it."""
        self.motion, self.spec = motion, speech

    def model_windows(self, speech: Tensor) -> Tensor:
        """See `Animator.model_windows`."""
        return speech

    def with_moves(self, motion: Motion, moves: Floats, clock: int) -> Motion:
        """Return the motion as it is: it was given whole."""
        return motion

    def __call__(self, speech: Tensor, state: State = None) -> tuple[Motion, State]:
        """See `Animator`."""
        clock = 0 if state is None else int(state[0])
        frames = np.minimum(np.arange(clock, clock + len(speech)), len(self.motion) - 1)
        return self.motion[frames], (torch.tensor(clock + len(speech)),)


class Transition:
    """Motion of an animator, which can be joined softly to any motion that was shown before."""

    def __init__(self, animator: Animator | MotionPlayer) -> None:
        self._animator = animator
        self._shown: Motion | None = None
        self._done = JOINED  # frames since `begin`, at most JOINED
        self._share = np.ones((0, 1), np.float32)  # of the animator's own motion, (T, 1)

    def begin(self, shown: Motion) -> None:
        """Join the next frames to a motion of one frame, which was shown just before them."""
        self._shown, self._done = shown, 0

    @property
    def seed(self) -> int:
        """See `Animator.seed`."""
        return self._animator.seed

    @property
    def spec(self) -> SpeechSpec:
        """See `Animator.spec`."""
        return self._animator.spec

    def model_windows(self, speech: Tensor) -> Tensor:
        """See `Animator.model_windows`."""
        return self._animator.model_windows(speech)

    def __call__(self, speech: Tensor, state: State = None) -> tuple[Motion, State]:
        """See `Animator`."""
        motion, state = self._animator(speech, state)
        frames = self._done + 1 + np.arange(len(motion), dtype=np.float32)
        self._done = min(JOINED, self._done + len(motion))
        self._share = smoothstep(np.minimum(frames / JOINED, 1)[:, None]).astype(np.float32)
        if self._shown is None or (self._share == 1).all():
            return motion, state
        return motion.joined(self._shown, self._share), state

    def with_moves(self, motion: Motion, moves: Floats, clock: int) -> Motion:
        """See `Animator.with_moves`."""
        moved = self._animator.with_moves(motion, moves, clock)
        return replace(
            moved,
            head=motion.head + self._share * (moved.head - motion.head),
            brows=motion.brows + self._share * (moved.brows - motion.brows),
        )


Mover = Animator | MotionPlayer | Transition  # of a face, frame by frame


def loop(motion: Motion, count: int) -> Motion:
    """The first `count` frames of a longer motion, changed so that the end joins the beginning.

    What follows them fades into their beginning; lids do so where they are open in both. Raises
    ValueError for a motion that is not longer.
    """
    over = min(LOOP, count // 2)
    if len(motion) < count + over:
        raise ValueError(f"a loop of {count} frames needs {count + over}, got {len(motion)}")
    part = smoothstep((np.arange(over, dtype=np.float32) + 1)[:, None] / (over + 1))
    start, after = motion[:over], motion[count : count + over]
    mixed = {
        name: part * getattr(start, name) + (1 - part) * getattr(after, name)
        for name in ("expression", "head", "brows", "gaze")
    }
    both_open = np.flatnonzero((start.lids + after.lids).max(1) <= 0)
    cut = both_open[np.abs(both_open - over // 2).argmin()] if len(both_open) else over // 2
    mixed["lids"] = np.concatenate([after.lids[:cut], start.lids[cut:]])
    return Motion.join([Motion(**mixed), motion[over:count]])
