"""Track the faces of a video: the first pass of dubbing, frame by frame, with bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

from talkingface.errors import BadRequest
from talkingface.types import Array, Box, Floats, PathLike, Picture


@dataclass(frozen=True)
class TrackOptions:
    """The choice of the person who is dubbed. At most one of face and box may be given.

    Without them it is the one whose lips move with the video's own sound, else the largest.

    face: number of the face by size, 1 is the largest, in the first frame with faces from `time`.
    box: (x, y, width, height) of the face in pixels of that frame.
    time: seconds.
    """

    face: int | None = None
    box: Box | None = None
    time: float = 0.0

    def check(self) -> None:
        """Check all ranges. Raises BadRequest."""
        if self.face is not None and self.box is not None:
            raise BadRequest("give the face's number or its box, not both")


@dataclass(frozen=True)
class TrackReport:
    """Numbers of frames of a tracked video, by what becomes of them.

    frames: all of them. dubbed: those with a usable face. no_face, too_small, turned, covered:
    those left as they are, by the reason. cuts: changes of the scene. people: persons seen.
    """

    frames: int
    dubbed: int
    no_face: int
    too_small: int
    turned: int
    covered: int
    cuts: int
    people: int


class FaceTracker:
    """Tracks all faces of a video. Give every frame in order of time, then call `finish`."""

    def __init__(self, options: TrackOptions = TrackOptions()) -> None:
        """Raises BadRequest for options out of their ranges."""
        options.check()

    @property
    def count(self) -> int:
        """Number of frames given so far."""
        raise NotImplementedError

    def add(self, time: float, picture: Picture) -> None:
        """Add the next frame. time: seconds, of its beginning. picture: (H, W, 3) uint8 RGB."""
        raise NotImplementedError

    def finish(self, loudness: Floats | None = None) -> FaceTrack:
        """Return the track of the person who is dubbed.

        loudness: (T,), of the video's own sound in each frame, in any unit (`loudness`).

        Raises NoFaceFound where no frame shows a face, or none the one that was asked for.
        """
        raise NotImplementedError

    def save(self, path: PathLike) -> None:
        """Write everything known so far to a safetensors file, to go on later."""
        raise NotImplementedError

    @classmethod
    def load(cls, path: PathLike, options: TrackOptions = TrackOptions()) -> FaceTracker:
        """Read a file of `save`; the next frame is number `count`. Raises BadRequest."""
        raise NotImplementedError


class FaceTrack:
    """One person's face in a video, frame by frame. Made by `FaceTracker.finish`."""

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def times(self) -> Array:
        """(T,) seconds, of the beginnings of the frames."""
        raise NotImplementedError

    def report(self) -> TrackReport:
        """Count frames, cuts and people."""
        raise NotImplementedError

    def save(self, path: PathLike) -> None:
        """Write the track to a safetensors file."""
        raise NotImplementedError

    @classmethod
    def load(cls, path: PathLike) -> FaceTrack:
        """Read a file of `save`. Raises BadRequest."""
        raise NotImplementedError


def loudness(sound: Floats, times: Array) -> Floats:
    """Return the loudness (T,) of a sound (N,) at 16 kHz, in the frames that begin at `times`."""
    raise NotImplementedError
