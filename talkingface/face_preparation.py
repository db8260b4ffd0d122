"""Prepare a face for videos: read its picture, locate, align, encode and shrink it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from talkingface import faces, picture, video, weights
from talkingface.contract import Generator, Portrait, moves_mesh
from talkingface.errors import BadRequest
from talkingface.face_options import DEFAULT_FACE, FaceOptions
from talkingface.faces import Aligned, Located
from talkingface.frames import PreparedFace
from talkingface.geometry import compose, resized
from talkingface.landmarks import aperture, eye_distance
from talkingface.metrics.identity import SAME_PERSON, Person
from talkingface.picture import PictureFile
from talkingface.sound_input import temporary
from talkingface.types import PathLike, Picture
from talkingface.weights import WeightsInfo

WIDE_OPEN = 0.45  # of the distance of the eyes: lips this far apart in a picture do not meet


ImageInput = PathLike | bytes | BinaryIO | Picture | Any  # the last: an image of Pillow
EXPECTED = (
    "a picture must be a path, bytes, a file object, an image of Pillow, or an array, (H, W, 3) "
    "uint8 RGB or (H, W, 4) RGBA"
)


@dataclass(frozen=True)
class LoadedImage:
    """A picture.

    size: (width, height) of its file, which `picture.load` shrinks when large. alpha: (H, W) uint8,
    or None. note: on how it was read, or None.
    """

    pixels: Picture
    name: str
    size: tuple[int, int]
    alpha: NDArray[np.uint8] | None = None
    note: str | None = None

    @staticmethod
    def read(image: ImageInput, background: str = picture.WHITE) -> LoadedImage:
        """Read a picture of any kind: see EXPECTED, and `picture.load`.

        Raises UnreadableMedia, BadRequest (no such picture).
        """
        if isinstance(image, (str, Path)):
            return LoadedImage._of(picture.load(image, background), str(image))
        if isinstance(image, (bytes, bytearray, memoryview)) or hasattr(image, "read"):
            with temporary(image, EXPECTED) as file:
                return LoadedImage._of(picture.load(file.name, background), "picture")
        if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3:
            if image.dtype == np.uint8 and image.size:
                return LoadedImage(image, "picture", (image.shape[1], image.shape[0]))
        return LoadedImage._of(picture.from_pillow(_as_pillow(image), background), "picture")

    @staticmethod
    def _of(found: PictureFile, name: str) -> LoadedImage:
        return LoadedImage(found.pixels, name, found.size, found.alpha, found.note)

    def locate(self, options: FaceOptions) -> Located:
        """Find the face that the options choose. Raises NoFaceFound, BadLandmarks, BadRequest."""
        options.check()
        return faces.locate(
            self.pixels,
            number=options.face,
            box=options.box,
            landmarks=options.landmarks,
            name=self.name,
            size=self.size,
        )


def _as_pillow(image: Any) -> Any:
    """Return an image of Pillow, also for an array with alpha. Raises BadRequest."""
    from PIL import Image

    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        if image.ndim == 3 and image.shape[2] == 4 and image.dtype == np.uint8 and image.size:
            return Image.fromarray(image)
        raise BadRequest(f"{EXPECTED}; this array is {image.shape} {image.dtype}")
    raise BadRequest(f"{EXPECTED}; this is a {type(image).__name__}")


def prepare_face(
    image: ImageInput, options: FaceOptions, model: Generator, info: WeightsInfo
) -> PreparedFace:
    """Prepare a face, once per picture. It is aligned at the picture's full size.

    info: of the model. Raises UnreadableMedia, NoFaceFound, BadLandmarks, BadRequest.
    """
    options.check()
    loaded = LoadedImage.read(image, options.background)
    return prepare_located(loaded, loaded.locate(options), options, model, info)


def prepare_located(
    loaded: LoadedImage, located: Located, options: FaceOptions, model: Generator, info: WeightsInfo
) -> PreparedFace:
    """Prepare a face that was found in a picture; else as `prepare_face`."""
    aligned = faces.align(loaded.pixels, located, model.config.crop)
    identity = encode(model, aligned)
    shown, matrix = shrink(loaded.pixels, aligned.matrix, options.max_size)
    warnings = (
        loaded.note,
        located.note,
        identity_warning(info, aligned.crop, device_of(model)),
        open_mouth(aligned.mesh),
        faces.covered_mouth(aligned.crop, aligned.mesh) if located.mesh is not None else None,
        shrink_note(loaded.size, shown.shape[1::-1], options),
    )
    return PreparedFace(
        identity=identity,
        picture=shown,
        matrix=matrix,
        crop=aligned.crop,
        depth=aligned.depth,
        options=options,
        has_eyes=located.origin != "mean face",
        mouth=identity.mouth if moves_mesh(model) else None,
        moving=model.moving.cpu().numpy() if moves_mesh(model) else None,
        note="; ".join(warning for warning in warnings if warning) or None,
        alpha=None if loaded.alpha is None else shrink(loaded.alpha, matrix, options.max_size)[0],
    )


@torch.inference_mode()
def encode(model: Generator, aligned: Aligned) -> Any:
    """Return the identity of an aligned face, on the model's device."""
    landmarks = torch.from_numpy(np.asarray(aligned.landmarks, dtype=np.float32))
    mesh = torch.from_numpy(aligned.mesh)
    portrait = Portrait(video.to_tensor(aligned.crop)[None], landmarks[None], mesh[None])
    return model.encode(portrait.to(device_of(model)))


def device_of(model: Any) -> torch.device:
    """Return the device of a model's parameters; the CPU for a model without any."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def shrink(
    whole: Picture, matrix: NDArray[np.float64], max_size: int
) -> tuple[Picture, NDArray[np.float64]]:
    """The picture with its long side at most `max_size`, both sides even, and its crop matrix.

    A picture that is small enough stays as it is (the mp4 pads an odd side by one pixel), and every
    picture where `max_size` is 0.
    """
    height, width = whole.shape[:2]
    scale = max_size / max(height, width)
    if scale >= 1 or max_size == 0:
        return whole, matrix
    size = tuple(max(2, 2 * round(side * scale / 2)) for side in (width, height))
    small = np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    # One similarity for both axes: rounding the sides moves it by under a pixel.
    scale = float(np.sqrt(size[0] * size[1] / (width * height)))
    return small, compose(resized(1 / scale), matrix)


def shrink_note(size: tuple[int, int], shown: tuple[int, ...], options: FaceOptions) -> str | None:
    """Return a note where a picture is shown smaller and nobody asked for it, else None.

    size, shown: (width, height) of the picture, and as it is shown.
    """
    asked = options.show != "picture" or options.max_size != DEFAULT_FACE.max_size
    if asked or max(shown) >= max(size):
        return None
    (width, height), (small, low) = size, shown
    sizes = f"{width} x {height} to {small} x {low}"
    return f"shrunk from {sizes}; max_size 0 (--max-size none) keeps its size"


def identity_warning(info: WeightsInfo, crop: Picture, device: torch.device) -> str | None:
    """Return a warning if a model of one person gets another one's picture; else None."""
    if "person" not in info.extra:
        return None
    person = Person.read(info.extra["person"])
    embedding, own = weights.load_with_info("identity", device)
    if own.sha256 != person.sha256:
        return f"it is unknown if this is {person.name}: the person has another face embedding"
    likeness = person.likeness(embedding, crop)
    if likeness >= SAME_PERSON:
        return None
    return (
        f"this face seems not to be {person.name}'s (likeness {likeness:.2f}, "
        f"{SAME_PERSON:.2f} expected): its head will move as {person.name}'s does, whom "
        f"{info.name} has learned"
    )


def open_mouth(mesh: NDArray[np.float32]) -> str | None:
    """Return a note for a picture with a mouth that no motion can close; else None."""
    gap = float(aperture(mesh) / eye_distance(mesh))
    if gap < WIDE_OPEN:
        return None
    return "the mouth is torn wide open and closes in part only: a calmer picture speaks better"
