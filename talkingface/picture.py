"""Any picture in, (H, W, 3) uint8 RGB out; and PNG out."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from talkingface import media
from talkingface.errors import UnreadableMedia

Picture = NDArray[np.uint8]

KINDS = "a JPEG, PNG, WebP, BMP or TIFF picture"
MIN_SIDE = 32  # pixels: less holds no face
MAX_SIDE = 4096  # pixels: H.264 decoders play no larger video
_TIFF = (b"II", b"MM")
MAX_PIXELS = 200_000_000  # read at all: 600 MB of RGB; OpenCV has the same limit, by __init__.py
# JPEG's segments that may come before the picture's size: a length follows each of these markers.
_JPEG_SEGMENTS = {0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}


def read(path: Path | str) -> Picture:
    """A picture as (H, W, 3) uint8 RGB, upright (EXIF), transparent parts on white.

    JPEG (also grey and CMYK), PNG, WebP, BMP, TIFF; 16 bits become 8; colour profiles and the
    orientation of a picture with transparency are not honoured. A picture whose longer side
    exceeds MAX_SIDE is shrunk to it by area averaging. Raises UnreadableMedia: missing, empty, no
    picture, damaged, smaller than MIN_SIDE or of more than MAX_PIXELS.
    """
    path = Path(path)
    media.require_file(path, KINDS)
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise UnreadableMedia(f"{path}: unreadable ({error.strerror}); expected {KINDS}") from error
    size = header_size(data.data)
    if size is None:
        raise UnreadableMedia(f"{path}: not {KINDS}; convert it to one of these")
    _check_size(path, *size)
    picture = _decode(data, shrink=max(size) > 2 * MAX_SIDE)
    if picture is None:
        raise UnreadableMedia(f"{path}: a damaged picture, it cannot be decoded; expected {KINDS}")
    return _at_most(picture, MAX_SIDE)


def _check_size(path: Path, width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise UnreadableMedia(
            f"{path}: too small, {width}x{height} pixels; expected at least {MIN_SIDE}x{MIN_SIDE}"
        )
    if width * height > MAX_PIXELS:
        raise UnreadableMedia(
            f"{path}: too large, {width}x{height} pixels; expected at most "
            f"{MAX_PIXELS // 1_000_000} megapixels, shrink it first"
        )


def _decode(data: NDArray[np.uint8], shrink: bool) -> Picture | None:
    """RGB; None when OpenCV cannot. `shrink` halves what is much larger than MAX_SIDE anyway."""
    if bytes(data[:4]) == b"\x89PNG" and b"IEND" not in data.tobytes():
        return None  # cut short; libpng would say so on the terminal
    mode = cv2.IMREAD_REDUCED_COLOR_2 if shrink else cv2.IMREAD_COLOR
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # our error says enough
    try:
        colour = cv2.imdecode(data, mode)
        has_alpha = _may_have_alpha(data[: 1 << 16].tobytes())
        full = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if has_alpha else None
    except cv2.error:
        return None
    finally:
        cv2.utils.logging.setLogLevel(level)
    if colour is None:
        return None
    if full is not None and full.ndim == 3 and full.shape[2] == 4:
        premultiplied = bytes(data[:2]) in _TIFF and full.dtype == np.uint8  # libtiff's way
        return _on_white(full, premultiplied)
    return np.asarray(cv2.cvtColor(colour, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _may_have_alpha(head: bytes) -> bool:
    if head[:4] == b"\x89PNG":
        return head[25] in (4, 6) or b"tRNS" in head
    if head[:4] == b"RIFF":
        return head[12:16] == b"VP8L" or (head[12:16] == b"VP8X" and bool(head[20] & 0x10))
    return head[:2] in _TIFF


def _on_white(picture: NDArray[Any], premultiplied: bool) -> Picture:
    """(H, W, 4) BGRA, 8 or 16 bits -> RGB, row by row so that a large picture stays affordable."""
    most = np.iinfo(picture.dtype).max
    out = np.empty((*picture.shape[:2], 3), np.uint8)
    for row, target in zip(picture, out, strict=True):
        alpha = row[:, 3:].astype(np.float32) / most
        colour = row[:, 2::-1].astype(np.float32) * (255.0 / most)
        shown = colour if premultiplied else alpha * colour
        target[:] = np.rint(np.minimum(shown + (1.0 - alpha) * 255.0, 255.0))
    return out


def _at_most(picture: Picture, side: int) -> Picture:
    scale = side / max(picture.shape[:2])
    if scale >= 1:
        return picture
    height, width = (max(1, round(n * scale)) for n in picture.shape[:2])
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def header_size(head: bytes | memoryview) -> tuple[int, int] | None:
    """(width, height) as a file's first bytes tell it, before anything is decoded; None: unknown.

    So that a small file that unpacks to gigabytes is refused unread. A header that decoders may
    read differently is unknown.
    """
    try:
        if head[:8] == b"\x89PNG\r\n\x1a\n":
            return _number(head, 16, 4, "big"), _number(head, 20, 4, "big")
        if head[:2] == b"BM":
            return _bmp_size(head)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _webp_size(head)
        if head[:3] == b"\xff\xd8\xff":
            return _jpeg_size(head)
        if head[:4] in (b"II*\0", b"MM\0*"):
            return _tiff_size(head)
    except IndexError:
        return None
    return None


def _number(head: bytes | memoryview, at: int, size: int, order: str) -> int:
    if at + size > len(head):
        raise IndexError(at)
    return int.from_bytes(head[at : at + size], "big" if order == "big" else "little")


def _bmp_size(head: bytes | memoryview) -> tuple[int, int]:
    if _number(head, 14, 4, "little") == 12:  # the OS/2 header
        return _number(head, 18, 2, "little"), _number(head, 20, 2, "little")
    height = _number(head, 22, 4, "little")
    return _number(head, 18, 4, "little"), min(height, 2**32 - height)  # negative: top row first


def _webp_size(head: bytes | memoryview) -> tuple[int, int] | None:
    kind = head[12:16]
    if kind == b"VP8X":
        return _number(head, 24, 3, "little") + 1, _number(head, 27, 3, "little") + 1
    if kind == b"VP8L":
        bits = _number(head, 21, 4, "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return _number(head, 26, 2, "little") & 0x3FFF, _number(head, 28, 2, "little") & 0x3FFF
    return None


def _jpeg_size(head: bytes | memoryview) -> tuple[int, int] | None:
    at = 2
    while True:
        if head[at] != 0xFF:
            return None
        marker = head[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            return _number(head, at + 7, 2, "big"), _number(head, at + 5, 2, "big")
        elif marker not in _JPEG_SEGMENTS:
            return None
        else:
            at += 2 + _number(head, at + 2, 2, "big")


def _tiff_size(head: bytes | memoryview) -> tuple[int, int] | None:
    order = "little" if head[:2] == b"II" else "big"
    at = _number(head, 4, 4, order)
    found: dict[int, int] = {}
    for entry in range(_number(head, at, 2, order)):
        start = at + 2 + 12 * entry
        tag, kind = (_number(head, start + skip, 2, order) for skip in (0, 2))
        if tag not in (256, 257) or tag in found:  # of two equal tags libtiff takes the first
            continue
        if kind not in (3, 4) or _number(head, start + 4, 4, order) != 1:
            return None
        found[tag] = _number(head, start + 8, 2 if kind == 3 else 4, order)
    return (found[256], found[257]) if len(found) == 2 else None


def write_png(path: Path | str, picture: Picture, overwrite: bool = False) -> None:
    """Write (H, W, 3) uint8 RGB; complete or not at all. Raises OutputError."""
    path = Path(path)
    with media.replacing(path, overwrite) as part:
        done, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        if not done:
            raise ValueError(f"cannot encode a picture of shape {picture.shape} as PNG")
        with media.writing(path, OSError):
            part.write_bytes(encoded.tobytes())


@lru_cache(maxsize=8)
def _label(height: int, width: int, text: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(opacity (h, w, 1), colour (h, w, 1)) in [0, 1] of the label on so large a picture."""
    font, tall = cv2.FONT_HERSHEY_SIMPLEX, max(14, round(min(height, width) / 22))
    scale = cv2.getFontScaleFromHeight(font, round(tall * 0.55), 1)
    thick = max(1, round(tall / 22))
    (wide, _), _ = cv2.getTextSize(text, font, scale, thick)
    box = (min(height, tall), min(width, wide + tall))
    letters: Picture = np.zeros(box, np.uint8)
    cv2.putText(
        letters, text, (tall // 2, round(tall * 0.75)), font, scale, 255, thick, cv2.LINE_AA
    )
    ink = np.asarray(letters[..., None] / 255, np.float32)
    return np.maximum(ink, 0.55).astype(np.float32), ink


def label(picture: Picture, text: str = "synthetic") -> Picture:
    """A copy of (H, W, 3) uint8 with a small label in its lower left corner, for people to see."""
    height, width = picture.shape[:2]
    opacity, ink = _label(height, width, text)
    margin = min(height, width) // 64
    rows, columns = ink.shape[:2]
    place = (
        slice(max(0, height - rows - margin), height - margin or None),
        slice(margin, margin + columns),
    )
    out = picture.copy()
    below = out[place].astype(np.float32)
    part = np.s_[: below.shape[0], : below.shape[1]]
    mixed = below * (1 - opacity[part]) + 255 * ink[part] * opacity[part]
    out[place] = np.rint(mixed).astype(np.uint8)
    return out
