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
    background: str


@dataclass(frozen=True)
class FaceOptions:
    """The choice of a face in a picture, and the way it is shown.

    At most one of face, box and landmarks may be given. Without them the largest face is taken.

    face: number of the face, by size: 1 is the largest.
    box: (x, y, width, height) of the face in pixels of the picture. If no face is found there, as
    in a drawing, the mean face is laid into the box.
    landmarks: the face's 68 iBUG points: a JSON file as `talkingface landmarks` writes it, or
    (68, 2) pixels.
    max_size: longest side of the video in pixels, at least 64. A larger picture is shrunk. 0 keeps
    the picture's own size.
    crop_size: side of the bare face in pixels, 64 to 2048. An odd number is made even.
    show: "picture" is the whole picture, "face" the bare aligned face, "maps" what the model
    computes beside it: attention, colour and face, side by side.
    mark: True writes a small label "synthetic" into every frame.
    background: colour behind the transparent parts of the picture: a name of CSS, or "#rrggbb".
    """

    face: int | None = None
    box: Box | None = None
    landmarks: Landmarks | None = None
    max_size: int = 1280
    crop_size: int = 256
    show: Show = "picture"
    mark: bool = False
    background: str = "white"

    def updated(self, **keywords: Unpack[FaceKeywords]) -> FaceOptions:
        """Return a copy with changed fields. Raises TypeError for an unknown name."""
        known = [field.name for field in fields(FaceOptions)]
        for name in keywords:
            if name not in known:
                raise TypeError(f"{name!r} is no option of a face; known: {', '.join(known)}")
        return replace(self, **keywords)

    def check(self) -> None:
        """Check all ranges, and that at most one choice of a face is given. Raises BadRequest."""
        from talkingface import picture

        chosen = (self.face, self.box, self.landmarks)
        if sum(choice is not None for choice in chosen) > 1:
            raise BadRequest(
                "give one of the face's number, its box and its landmarks: --face N, --face "
                "x,y,width,height or --landmarks points.json, not both"
            )
        picture.colour(self.background)
        if self.max_size != 0 and self.max_size < SMALLEST_SIDE:
            raise BadRequest(
                f"max_size is {self.max_size}: give at least {SMALLEST_SIDE} pixels, or 0 for the "
                "picture's own size"
            )
        if not SMALLEST_SIDE <= self.crop_size <= LARGEST_CROP:
            raise BadRequest(
                f"crop_size is {self.crop_size}: give {SMALLEST_SIDE} to {LARGEST_CROP} pixels"
            )
        if self.show not in get_args(Show):
            raise BadRequest(f"show is {self.show!r}: give {', '.join(get_args(Show))}")


DEFAULT_FACE = FaceOptions()
