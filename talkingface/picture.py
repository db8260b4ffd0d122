"""Read any picture as (H, W, 3) uint8 RGB, and write PNG.

Files are read in another process (`decoding`). Pillow and OpenCV are imported when needed.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from talkingface import decoding, media
from talkingface.errors import BadRequest, UnreadableMedia
from talkingface.types import Picture

if TYPE_CHECKING:
    from PIL import Image


KINDS = "a JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP or TIFF picture"
WEB_KINDS = "a JPEG, PNG, WebP, AVIF or GIF picture"  # WEB_FORMATS, in words
SUFFIXES = (  # of pictures in a folder
    *(".jpg", ".jpeg", ".png", ".webp", ".avif", ".heic", ".gif", ".bmp", ".tif", ".tiff"),
)
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")  # Pillow's readers that may run
WEB_FORMATS = FORMATS[:5]  # of these, those that clients may send to a server
WHITE = "white"
MIN_SIDE = 32  # pixels: less holds no face
MAX_SIDE = 4096  # pixels: H.264 decoders play no larger video
MAX_PIXELS = 200_000_000  # decoded at all: 800 MB in Pillow
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1")  # ISO 23008-12
_ORIENTATION = 274  # EXIF's tag; from 5 on, width and height change places
_DAMAGED = (  # what Pillow's readers raise, each in its own way
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, RuntimeError),
    *(ArithmeticError, MemoryError, struct.error),
)
_PILLOW = threading.Lock()  # its limit and Python's warnings belong to the whole process


@dataclass(frozen=True)
class PictureFile:
    """Content of a picture file.

    pixels: (H, W, 3) uint8 RGB. alpha: (H, W) uint8, 255 is opaque; None where all is opaque.
    size: (width, height) of the file before it was shrunk. note: on how it was read, or None.
    """

    pixels: Picture
    alpha: NDArray[np.uint8] | None
    size: tuple[int, int]
    note: str | None = None


def read(path: Path | str) -> Picture:
    """A picture as (H, W, 3) uint8 RGB; see `load`."""
    return load(path).pixels


def load(path: Path | str, background: str = WHITE) -> PictureFile:
    """Read a picture in 8 bits, in sRGB, upright; the first frame of an animation or a video.

    JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF, whatever their name; grey, CMYK and 16 bits too. HEIC
    needs the package pillow-heif. Turned as EXIF says, converted from its colour profile (ICC).
    Transparent parts are laid on the background (`colour`): C = a F + (1 - a) B. A picture whose
    longer side exceeds MAX_SIDE is shrunk to it by area averaging.
    Raises UnreadableMedia: missing, empty, no picture, damaged, smaller than MIN_SIDE or of more
    than MAX_PIXELS; BadRequest: an unknown colour.
    """
    behind = colour(background)
    if not decoding.is_contained():
        return decode(Path(path), behind)
    found = decoding.answer("picture", Path(path), background=behind)
    (width, height), note = found.value
    pixels, *alpha = found.arrays
    return PictureFile(pixels, alpha[0] if alpha else None, (width, height), note)


def decode(path: Path, background: tuple[int, ...]) -> PictureFile:
    """Read as `load` does, in this process."""
    try:
        with _opened(path, FORMATS) as image:
            size = _upright_size(image)
            _check_size(path, *size)
            pixels, alpha = _decoded(image, background)
            note = "an animation: its first frame is taken" if _is_animated(image) else None
    except _NoPicture as error:
        frame = _first_frame(path)
        if frame is None:
            raise error
        pixels, alpha, size = frame, None, (frame.shape[1], frame.shape[0])
        _check_size(path, *size)
        note = "a video: its first frame is taken"
    return PictureFile(_at_most(pixels, MAX_SIDE), alpha, size, note)


def from_pillow(image: Image.Image, background: str = WHITE) -> PictureFile:
    """Read an image of Pillow as `load` reads its file. Raises BadRequest (a colour or a size)."""
    if min(image.size) < MIN_SIDE or image.width * image.height > MAX_PIXELS:
        raise BadRequest(
            f"a picture of {image.width}x{image.height} pixels: give at least {MIN_SIDE}x{MIN_SIDE}"
            f", at most {MAX_PIXELS // 1_000_000} megapixels"
        )
    own, size = image.copy(), _upright_size(image)
    pixels, alpha = _decoded(own, colour(background))
    return PictureFile(_at_most(pixels, MAX_SIDE), alpha, size)


def colour(text: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a colour by CSS: a name, or #rrggbb. Raises BadRequest."""
    from PIL import ImageColor

    try:
        red, green, blue, *_ = ImageColor.getrgb(text)
    except (ValueError, AttributeError) as error:
        raise BadRequest(
            f"{text!r} is no colour: give a name of CSS, as white or navy, or #rrggbb"
        ) from error
    return red, green, blue


class _NoPicture(UnreadableMedia):
    """A file of another kind than a picture."""


def _first_frame(path: Path) -> Picture | None:
    """Return the first frame of a video; None for any other file. Raises UnreadableMedia."""
    from talkingface import video_reading

    try:
        with media.opened(path) as container:
            if media.video_stream(container) is None:
                return None
    except UnreadableMedia:
        return None
    return video_reading.first_frame(path)


def _is_animated(image: Image.Image) -> bool:
    moving = image.format in ("GIF", "WEBP", "AVIF", "PNG")  # pages of a TIFF are others
    return moving and bool(getattr(image, "is_animated", False))


def open_size(path: Path | str, formats: tuple[str, ...] = FORMATS) -> tuple[int, int]:
    """(width, height) of a picture, upright, from its header: nothing is decoded.

    Raises UnreadableMedia: missing, empty, not of one of these formats.
    """
    if not decoding.is_contained():
        return decode_size(Path(path), formats)
    width, height = decoding.answer("picture_size", Path(path), formats=list(formats)).value
    return width, height


def decode_size(path: Path, formats: tuple[str, ...]) -> tuple[int, int]:
    """Read as `open_size` does, in this process."""
    with _opened(path, formats) as image:
        return _upright_size(image)


@contextmanager
def _opened(path: Path, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """A picture whose header is read; what fails inside is raised as UnreadableMedia."""
    from PIL import Image, UnidentifiedImageError

    media.require_file(path, KINDS)
    with _PILLOW, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # our error says enough
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # MAX_PIXELS, by _check_size
        try:
            # A file: of a path, Pillow would map a turned TIFF's pixels in the wrong order.
            with path.open("rb") as file:
                known = _with_heic(path, file.read(32), formats)
                file.seek(0)
                with Image.open(file, formats=known) as image:
                    yield image
        except UnidentifiedImageError as error:
            raise _NoPicture(f"{path}: not {KINDS}; convert it to one of these") from error
        except _DAMAGED as error:
            found = "a damaged picture, it cannot be decoded"
            if isinstance(error, MemoryError):
                found = "more memory than there is is needed to decode it"
            if isinstance(error, OSError) and error.errno is not None:
                found = f"unreadable ({error.strerror})"
            raise UnreadableMedia(f"{path}: {found}; expected {KINDS}") from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _with_heic(path: Path, head: bytes, formats: tuple[str, ...]) -> tuple[str, ...]:
    """Return the formats, or that of HEIC if a file begins so. Raises UnreadableMedia."""
    if head[4:8] != b"ftyp" or head[8:12] not in _HEIC_BRANDS or b"avif" in head:
        return formats
    if formats != FORMATS:
        raise UnreadableMedia(f"{path}: a HEIC picture; convert it to JPEG, or export it as one")
    try:
        import pillow_heif
    except ImportError as error:
        raise UnreadableMedia(
            f"{path}: a HEIC picture, for which pillow-heif is missing: "
            "pip install 'talkingface[heic]', or convert it to JPEG"
        ) from error
    pillow_heif.register_heif_opener()
    return ("HEIF",)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    from PIL.Image import Image

    exif = Image.getexif(image)  # the subclass for PNG would decode it
    turned = image.format != "TIFF" and exif.get(_ORIENTATION) in range(5, 9)
    return (image.height, image.width) if turned else image.size


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


def _decoded(
    image: Image.Image, background: tuple[int, ...]
) -> tuple[Picture, NDArray[np.uint8] | None]:
    """RGB on a background, and alpha; upright; halved where one side is above 2 MAX_SIDE.

    Alpha is as large as `_at_most` makes the picture.
    """
    from PIL import ImageOps

    width, height = image.size
    profile, halved = image.info.get("icc_profile"), max(width, height) > 2 * MAX_SIDE
    if halved and image.draft(None, (width // 2, height // 2)) is not None:
        halved = False  # a JPEG's decoder does it
    if image.format != "TIFF":  # Pillow turns it as it loads it
        ImageOps.exif_transpose(image, in_place=True)
    image = _plain(image)
    image = image.reduce(2) if halved else image
    image = _to_srgb(image, profile) if profile else image
    alpha = None
    if image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
        alpha = _at_most(np.array(image.getchannel("A")), MAX_SIDE)
    return np.array(_flattened(image, background)), alpha


def _plain(image: Image.Image) -> Image.Image:
    """The same picture in 8 bits: L, RGB, RGBA or CMYK."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """RGB or RGBA in sRGB; the picture itself where the profile is not one of its colours."""
    from PIL import ImageCms

    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, source, srgb, outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError):
        return image


def _flattened(image: Image.Image, background: tuple[int, ...]) -> Image.Image:
    from PIL import Image

    if image.mode != "RGBA":
        return image if image.mode == "RGB" else image.convert("RGB")
    behind = Image.new("RGB", image.size, background)
    behind.paste(image, mask=image.getchannel("A"))
    return behind


def _at_most(picture: Picture, side: int) -> Picture:
    import cv2

    scale = side / max(picture.shape[:2])
    if scale >= 1:
        return picture
    height, width = (max(1, round(n * scale)) for n in picture.shape[:2])
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def write_png(path: Path | str, picture: Picture, overwrite: bool = False) -> None:
    """Write (H, W, 3) uint8 RGB; complete or not at all. Raises OutputError."""
    from PIL import Image

    path = Path(path)
    with media.replacing(path, overwrite) as part, media.writing(path, OSError):
        Image.fromarray(picture).save(part, "PNG", compress_level=1)


@lru_cache(maxsize=8)
def _label(height: int, width: int, text: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(opacity (h, w, 1), colour (h, w, 1)) in [0, 1] of the label on so large a picture."""
    import cv2

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
    """A copy of (H, W, 3 or 4) uint8 with a small label in its lower left corner, for people."""
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
    mixed[..., 3:] = 255  # of RGBA: it is seen everywhere
    out[place] = np.rint(mixed).astype(np.uint8)
    return out
