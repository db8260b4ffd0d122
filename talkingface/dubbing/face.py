"""Draw the face of a dubbed video: the second pass, each frame from its own picture."""

from __future__ import annotations

from talkingface.dubbing.tracking import FaceTrack
from talkingface.models.expression import ExpressionSpace
from talkingface.motion import Motion
from talkingface.types import Bounds, Picture


class DubbedFace:
    """A tracked face whose mouth moves as a motion says."""

    def __init__(self, space: ExpressionSpace, track: FaceTrack, motion: Motion) -> None:
        """space: that the motion's expressions are of (`speaker.model.readout.space`).

        motion: of the new sound, 25 frames per second (`speaker.motion`); its expressions alone
        count. Before and after it the mouth rests.
        """

    def draw(self, index: int, time: float, picture: Picture) -> tuple[Picture, Bounds] | None:
        """Draw a frame; any order of frames gives the same pictures.

        index: of the frame in the track. time: seconds of the new sound where the frame begins (it
        differs from the track's where the video is looped). picture: (H, W, 3) uint8 RGB, that
        frame as tracked; it is not changed.

        Returns a new picture and the bounds (y0, y1, x0, x1) outside which it is the old one to
        the bit; None where the frame is to be left as it is.
        """
        raise NotImplementedError
