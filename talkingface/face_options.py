"""Options of one portrait: the choice of a face in a picture, and the way it is shown."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

from talkingface.errors import BadRequest

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from talkingface.types import Box, PathLike

    Landmarks = PathLike | NDArray[Any]  # a file (see `faces.given`), or (68, 2) picture pixels

Show = Literal["picture", "face", "maps"]

SMALLEST_SIDE = 64  # pixels
LARGEST_CROP = 2048


class FaceKeywords(TypedDict, total=False):
    """The fields of `FaceOptions` as keyword arguments."""

    face: int | None
    box: Box | None
    landmarks: Landmarks | None
    max_size: int
    crop_size: int
    show: Show
    mark: bool


@dataclass(frozen=True)
class FaceOptions:
    """The choice of a face in a picture, and the way it is shown.

    face: the N-th largest face (from 1) instead of the largest; box: (x, y, width, height) of the
    face in pixels, where the mean face is laid if no other is seen (a drawing); landmarks: its 68
    points, a JSON file (see `faces.given`) or (68, 2) pixels. At most one of the three.
    max_size: a larger picture is shrunk to this many pixels on its long side.
    crop_size: pixels of the bare face's side; an odd one is made even.
    show: the whole "picture", the bare aligned "face", or "maps" (`frames.Maps.panels`).
    mark: a small label in every frame says that it is synthetic.
    """

    face: int | None = None
    box: Box | None = None
    landmarks: Landmarks | None = None
    max_size: int = 1280
    crop_size: int = 256
    show: Show = "picture"
    mark: bool = False

    def updated(self, **keywords: Unpack[FaceKeywords]) -> FaceOptions:
        """Return a copy with these changes. Raises TypeError for a name that is no option."""
        known = [field.name for field in fields(FaceOptions)]
        for name in keywords:
            if name not in known:
                raise TypeError(f"{name!r} is no option of a face; known: {', '.join(known)}")
        return replace(self, **keywords)

    def check(self) -> None:
        """Raise BadRequest for options out of their range, or that exclude one another."""
        chosen = (self.face, self.box, self.landmarks)
        if sum(choice is not None for choice in chosen) > 1:
            raise BadRequest(
                "give one of the face's number, its box and its landmarks: --face N, --face "
                "x,y,width,height or --landmarks points.json, not both"
            )
        if self.max_size < SMALLEST_SIDE:
            raise BadRequest(f"max_size is {self.max_size}: give at least {SMALLEST_SIDE} pixels")
        if not SMALLEST_SIDE <= self.crop_size <= LARGEST_CROP:
            raise BadRequest(
                f"crop_size is {self.crop_size}: give {SMALLEST_SIDE} to {LARGEST_CROP} pixels"
            )
        if self.show not in get_args(Show):
            raise BadRequest(f"show is {self.show!r}: give {', '.join(get_args(Show))}")


DEFAULT_FACE = FaceOptions()
