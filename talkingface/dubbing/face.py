"""Draw the face of a dubbed video: the second pass, each frame from its own picture."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from talkingface.audio import FPS
from talkingface.dubbing.interior import MouthSource
from talkingface.dubbing.neutral import NeutralFace
from talkingface.dubbing.track import FaceTrack, State
from talkingface.geometry import smoothstep
from talkingface.landmarks import INNER_LIPS
from talkingface.models.expression import ExpressionSpace, fade
from talkingface.motion import Motion
from talkingface.render.face import FaceRenderer
from talkingface.render.warp import BackwardWarp
from talkingface.types import Array, Bounds, Floats, Picture

REST = 6  # frames at 25 per second in which the mouth comes to rest after the sound's end
_KNOT = 0.4  # seconds between the times at which a face's slow change is measured


class DubbedFace:
    """A tracked face whose mouth moves as a motion says.

    A frame's own expression is replaced by that of the motion, in the face's own axes: the mesh is
    turned to the front by the frame's camera, moved, and turned back.
    """

    def __init__(self, space: ExpressionSpace, track: FaceTrack, motion: Motion) -> None:
        """space: that the motion's expressions are of (`speaker.model.readout.space`).

        motion: of the new sound, 25 frames per second (`speaker.motion`); its expressions alone
        count. Before and after it the mouth rests.
        """
        self.track, self.motion, self._space = track, motion, space
        self.neutral = NeutralFace.of(track.samples, space)
        self.mouth = MouthSource.of(track.views, self.neutral)
        self._moving = space.points.cpu().numpy()
        self._fade = fade(space.reference).double().cpu().numpy()[:, None]
        self._depth = float(self.neutral.points[INNER_LIPS, 2].mean())
        self._residual = lru_cache(256)(self._residual_of)
        self._knot = lru_cache(8)(self._knot_of)

    def draw(self, index: int, time: float, picture: Picture) -> tuple[Picture, Bounds] | None:
        """Draw a frame; any order of frames gives the same pictures.

        index: of the frame in the track. time: seconds of the new sound where the frame begins (it
        differs from the track's where the video is looped). picture: (H, W, 3) uint8 RGB, that
        frame as tracked; it is not changed.

        Returns a new picture and the bounds (y0, y1, x0, x1) outside which it is the old one to
        the bit; None where the frame is to be left as it is.
        """
        if self.track.states[index] != State.DUBBED:
            return None
        own, mesh = self.meshes(index, time)
        camera = self.neutral.camera(own)
        interior = self.mouth.placed(camera, self._depth, self.track.skin(index))
        renderer = FaceRenderer(picture, BackwardWarp(own, self._moving), interior)
        out, bounds = renderer.draw_part(mesh)
        weight = float(self.track.weights[index])
        if weight < 1:
            y0, y1, x0, x1 = bounds
            new, old = (p[y0:y1, x0:x1].astype(np.float32) for p in (out, picture))
            out[y0:y1, x0:x1] = np.rint(old + (new - old) * np.float32(weight))
        return out, bounds

    def meshes(self, index: int, time: float) -> tuple[Array, Array]:
        """Return the meshes (478, 2) of a dubbed frame, picture pixels: its own, and as drawn.

        index, time: as in `draw`.
        """
        own = self.track.mesh(index)
        camera = self.neutral.camera(own)
        front = self.neutral.frontal(own, camera)
        slow = self._slow(index)
        base = self.neutral.points[:, :2] + slow * self._fade
        base += (self._residual(index)) * (1 - self._fade)
        moved = self._moved(base, self._expression(time))
        step = (moved - front) @ camera[:, :2].T
        weight = float(self.track.weights[index])
        drawn = own.copy()
        drawn[self._moving] += weight * step[self._moving]
        return own, drawn

    def _expression(self, time: float) -> Floats:
        """The motion's expression (K,) in the middle of a frame that begins at a time."""
        place = (time + self.track.step / 2) * FPS - 0.5
        count = len(self.motion)
        known = self.motion.expression
        low = int(np.clip(np.floor(place), 0, count - 1))
        high = min(low + 1, count - 1)
        part = float(np.clip(place - low, 0, 1))
        beyond = max(-place, place - (count - 1), 0.0)
        rest = 1 - float(smoothstep(np.array((beyond - 0.5) / REST)))
        out: Floats = (known[low] * (1 - part) + known[high] * part) * np.float32(rest)
        return out

    @torch.inference_mode()
    def _moved(self, base: Array, expression: Floats) -> Array:
        """Give a neutral face (478, 2) in the reference frame an expression (K,)."""
        mesh = torch.from_numpy(base)[None].float().to(self._space.reference)
        wanted = torch.from_numpy(expression)[None, None].to(mesh)
        out = self._space.move(mesh, torch.zeros_like(wanted[:, 0]), wanted)[0, 0]
        return np.asarray(out.double().cpu().numpy())

    @torch.inference_mode()
    def _residual_of(self, index: int) -> Array:
        """Return what neither the neutral face nor any expression explains of a frame's mesh.

        (478, 2) in the reference frame.
        """
        own = self.track.mesh(index)
        front = self.neutral.frontal(own, self.neutral.camera(own))
        off = front - self.neutral.points[:, :2]
        moved = torch.from_numpy(off).float().to(self._space.reference)
        spoken = self._space.displacement(self._space.coefficients(moved))
        return np.asarray(off - spoken.double().cpu().numpy())

    def _slow(self, index: int) -> Array:
        """The slow part of the residual, linear between knots: (478, 2)."""
        place = index * self.track.step / _KNOT
        low = int(place)
        part = place - low
        shot = int(self.track.shot_of[index])
        return np.asarray(self._knot(low, shot) * (1 - part) + self._knot(low + 1, shot) * part)

    def _knot_of(self, number: int, shot: int) -> Array:
        """The mean residual about a knot, of the frames of one shot."""
        track = self.track
        middle = number * _KNOT / track.step
        reach = _KNOT / track.step
        frames = np.arange(max(0, int(middle - reach)), min(len(track), int(middle + reach) + 2))
        used = (track.states[frames] == State.DUBBED) & (track.shot_of[frames] == shot)
        if not used.any():
            return np.zeros((478, 2))
        share = np.maximum(1 - np.abs(frames[used] - middle) / (reach + 1), 1e-3)
        every = np.stack([self._residual(int(frame)) for frame in frames[used]])
        return np.asarray(np.tensordot(share / share.sum(), every, 1))
