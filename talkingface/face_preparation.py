"""Prepare a face for videos: read its picture, locate, align, encode and shrink it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from talkingface import faces, picture, video, weights
from talkingface.contract import Generator, Portrait, moves_mesh
from talkingface.errors import BadRequest
from talkingface.face_options import FaceOptions
from talkingface.faces import Aligned, Located
from talkingface.frames import PreparedFace
from talkingface.geometry import compose, resized
from talkingface.landmarks import aperture, eye_distance
from talkingface.metrics.identity import SAME_PERSON, Person
from talkingface.types import PathLike, Picture
from talkingface.weights import WeightsInfo

WIDE_OPEN = 0.45  # of the distance of the eyes: lips this far apart in a picture do not meet


@dataclass(frozen=True)
class LoadedImage:
    """A picture. size: (width, height) of its file, which `picture.read` shrinks when large."""

    pixels: Picture
    name: str
    size: tuple[int, int]

    @staticmethod
    def read(image: PathLike | Picture) -> LoadedImage:
        """A file, or (H, W, 3) uint8 RGB. Raises UnreadableMedia, BadRequest (no such array)."""
        if isinstance(image, (str, Path)):
            pixels, size = picture.read_with_size(image)
            return LoadedImage(pixels, str(image), size)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise BadRequest(
                f"a picture must be (H, W, 3) uint8 RGB, this array is {image.shape} {image.dtype}"
            )
        return LoadedImage(image, "picture", (image.shape[1], image.shape[0]))

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


def prepare_face(
    image: PathLike | Picture, options: FaceOptions, model: Generator, info: WeightsInfo
) -> PreparedFace:
    """Prepare a face, once per picture. It is aligned at the picture's full size.

    info: of the model. Raises UnreadableMedia, NoFaceFound, BadLandmarks, BadRequest.
    """
    options.check()
    loaded = LoadedImage.read(image)
    located = loaded.locate(options)
    aligned = faces.align(loaded.pixels, located, model.config.crop)
    identity = encode(model, aligned)
    shown, matrix = shrink(loaded.pixels, aligned.matrix, options.max_size)
    warnings = (
        located.note,
        identity_warning(info, aligned.crop, device_of(model)),
        open_mouth(aligned.mesh),
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

    A picture that is small enough stays as it is (the mp4 pads an odd side by one pixel).
    """
    height, width = whole.shape[:2]
    scale = max_size / max(height, width)
    if scale >= 1:
        return whole, matrix
    size = tuple(max(2, 2 * round(side * scale / 2)) for side in (width, height))
    small = np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    # One similarity for both axes: rounding the sides moves it by under a pixel.
    scale = float(np.sqrt(size[0] * size[1] / (width * height)))
    return small, compose(resized(1 / scale), matrix)


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
