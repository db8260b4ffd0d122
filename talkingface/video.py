"""Read videos at 25 frames per second, convert frames to tensors, draw contact sheets.

Frames outside networks are (H, W, 3) uint8 RGB, inside (..., 3, H, W) float in [-1, 1]; converted
here and nowhere else. PyAV is imported inside the functions (see `media`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talkingface import decoding, video_reading
from talkingface.audio import FPS
from talkingface.errors import BadRequest
from talkingface.types import Picture
from talkingface.video_reading import Codecs
from talkingface.video_reading import VideoInfo as VideoInfo

MAX_SHEET_PIXELS = 50_000_000  # of a contact sheet's pictures


def to_tensor(pictures: NDArray[np.uint8] | Tensor) -> Tensor:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) float32 in [-1, 1]."""
    given = pictures if isinstance(pictures, Tensor) else np.ascontiguousarray(pictures)
    return torch.as_tensor(given).movedim(-1, -3).float() / 127.5 - 1.0


def to_uint8(frames: Tensor) -> NDArray[np.uint8]:
    """(..., 3, H, W) float in [-1, 1] -> (..., H, W, 3) uint8; what lies outside is clipped."""
    levels = ((frames.detach().float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(levels.movedim(-3, -1).cpu().numpy())


def probe(path: Path | str) -> VideoInfo:
    """Size, rate and length of a video. Raises UnreadableMedia."""
    if not decoding.is_contained():
        return video_reading.probe(Path(path))
    return VideoInfo(**decoding.answer("video_info", Path(path)).value)


def read_frames(path: Path | str, fps: int = FPS) -> Iterator[Picture]:
    """The frames of a video, (H, W, 3) uint8 RGB, at `fps` whatever its own rate is.

    Output frame k shows the source frame whose time stamp lies nearest to k / fps; a source frame
    that is shown twice is the same array twice. Raises UnreadableMedia, also half-way when the rest
    is damaged or missing, or its time stamps jump (`media.Holes`).
    """
    if not decoding.is_contained():
        yield from video_reading.read_frames(Path(path), fps)
        return
    shown: list[Picture] = []
    with closing(decoding.answers("frames", Path(path), fps=fps)) as found:
        for own in found:
            shown = own.arrays or shown
            yield shown[0]


def codecs(path: Path | str) -> Codecs:
    """Return the codecs of a video with sound, whose pictures are all decoded, to find damage.

    Raises UnreadableMedia.
    """
    if not decoding.is_contained():
        return list(video_reading.inspect(Path(path)))[-1]
    return Codecs(**[own.value for own in decoding.answers("codecs", Path(path))][-1])


def stripped(path: Path | str) -> Iterator[bytes]:
    """Yield the bytes of an mp4 of the first video and sound stream alone.

    See `video_reading.stripped`. Raises UnreadableMedia.
    """
    if not decoding.is_contained():
        yield video_reading.stripped(Path(path))
        return
    for own in decoding.answers("stripped", Path(path)):
        yield own.arrays[0].tobytes()


def contact_sheet(
    rows: Sequence[Sequence[Picture]], labels: Sequence[str], *, side: int = 128, gap: int = 2
) -> Picture:
    """Rows of pictures ((H, W, 3) uint8), each row under its label, as one picture to look at.

    Every picture is fitted into a square of `side` pixels; rows may differ in length.
    """
    if len(rows) != len(labels):
        raise ValueError(f"{len(rows)} rows, but {len(labels)} labels")
    columns = max(len(row) for row in rows)
    title = 18
    width = gap + columns * (side + gap)
    sheet = np.full((len(rows) * (title + side + gap), width, 3), 255, np.uint8)
    for r, (row, label) in enumerate(zip(rows, labels, strict=True)):
        y = r * (title + side + gap)
        place = (gap + 2, y + title - 5)
        cv2.putText(sheet, label, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
        for c, picture in enumerate(row):
            x = gap + c * (side + gap)
            small = _fitted(picture, side)
            sheet[y + title : y + title + small.shape[0], x : x + small.shape[1]] = small
    return sheet


def sheet_of_frames(
    frames: Iterable[Picture],
    *,
    seconds: float = 3.0,
    every: int = 3,
    columns: int = 13,
    side: int = 128,
) -> Picture:
    """Every `every`-th frame ((H, W, 3) uint8, 25 fps) of the first seconds, side by side in rows.

    side: pixels of each picture. Raises BadRequest when there is nothing to show.
    """
    if min(every, columns, side) < 1 or not 0 < seconds < math.inf:
        raise BadRequest("a contact sheet needs seconds, every, columns and side above 0")
    most = MAX_SHEET_PIXELS // side**2
    wanted = islice(frames, 0, max(1, round(seconds * FPS)), every)
    shown = [_fitted(frame, side) for frame in islice(wanted, most + 1)] if most else []
    if not 0 < most >= len(shown):
        raise BadRequest(
            f"a contact sheet has at most {MAX_SHEET_PIXELS / 1e6:.0f} megapixels, {most} pictures "
            f"of side {side}: give a smaller side or fewer seconds"
        )
    starts = range(0, len(shown), columns)
    labels = [f"{start * every / FPS:.2f} s, one frame in {every}" for start in starts]
    return contact_sheet([shown[at : at + columns] for at in starts], labels, side=side)


def _fitted(picture: Picture, side: int) -> Picture:
    scale = side / max(picture.shape[:2])
    height, width = (max(1, round(n * scale)) for n in picture.shape[:2])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=how), dtype=np.uint8)
