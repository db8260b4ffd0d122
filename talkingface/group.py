"""Prepare several faces of one picture: those who speak, those who listen, and the room of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from talkingface import faces
from talkingface.contract import Generator, moves_mesh
from talkingface.errors import BadRequest, NoFaceFound
from talkingface.face_options import FaceOptions
from talkingface.face_preparation import ImageInput, LoadedImage, prepare_located
from talkingface.faces import Face, Located, same_face
from talkingface.frames import PreparedFace
from talkingface.types import Array, Bounds, Box, FaceChoice
from talkingface.weights import WeightsInfo

MOST = 8  # faces that move in one picture
_LISTENS = 0.5  # of the narrowest speaker's width: smaller faces do not move
_HAIR = 0.35  # of a face's height: hair above it


@dataclass(frozen=True)
class Group:
    """Faces of one picture, each with bounds of its own.

    speakers: in the order in which they were chosen. listeners: the others, largest first. note:
    on the picture and the faces, or None.
    """

    speakers: list[PreparedFace]
    listeners: list[PreparedFace]
    note: str | None


def prepare_group(
    image: ImageInput,
    chosen: Sequence[FaceChoice | None],
    options: FaceOptions,
    model: Generator,
    info: WeightsInfo,
) -> Group:
    """Prepare the faces of a picture.

    chosen: the face of each speaker. Those of None are the largest of the other faces, from left to
    right.

    Raises UnreadableMedia, NoFaceFound (also for fewer faces than speakers), BadRequest.
    """
    if not 0 < len(chosen) <= MOST:
        raise BadRequest(f"{len(chosen)} people speak: give 1 to {MOST}")
    _check_options(options, model, info)
    loaded = LoadedImage.read(image, options.background)
    found = faces.find_faces(loaded.pixels)
    speaking = _speakers(loaded, found, chosen)
    least = _LISTENS * min(_box(own)[2] for own in speaking)
    listening = [own for own in _others(found, speaking) if _box(own)[2] >= least]
    every = [*speaking, *listening[: MOST - len(speaking)]]
    prepared = [prepare_located(loaded, own, options, model, info) for own in every]
    shape = prepared[0].picture.shape
    scale = max(shape[:2]) / max(loaded.pixels.shape[:2])
    rooms = separate([_head(_box(own), scale) for own in every], shape)
    placed = [replace(one, bounds=room) for one, room in zip(prepared, rooms, strict=True)]
    notes = dict.fromkeys(note for one in prepared if one.note for note in one.note.split("; "))
    count = len(speaking)
    return Group(placed[:count], placed[count:], "; ".join(notes) or None)


def _check_options(options: FaceOptions, model: Generator, info: WeightsInfo) -> None:
    """Raise BadRequest for options of one face, and for a model that cannot listen."""
    options.check()
    if (options.face, options.box, options.landmarks) != (None, None, None):
        raise BadRequest("several people speak: give each one's face with its sound")
    if options.show != "picture":
        raise BadRequest("several people are shown in their whole picture: leave show and crop out")
    if not moves_mesh(model):
        raise BadRequest(f"model {info.name} draws one face: give cran or atvg for several people")


def _speakers(
    loaded: LoadedImage, found: list[Face], chosen: Sequence[FaceChoice | None]
) -> list[Located]:
    """Return the face of each speaker. Raises NoFaceFound, BadRequest."""
    known: dict[int, Located] = {}
    for number, own in enumerate(chosen):
        if own is None:
            continue
        if isinstance(own, int):
            new = _located(faces.choose_of(found, loaded.pixels, own, loaded.name))
        else:
            new = loaded.locate(FaceOptions(box=own))
        if any(same_face(_box(new), _box(other)) for other in known.values()):
            raise BadRequest(f"{loaded.name}: two speakers have one face, {own}: give another one")
        known[number] = new
    missing = [number for number, own in enumerate(chosen) if own is None]
    others = _others(found, list(known.values()))
    if len(others) < len(missing):
        raise NoFaceFound(
            f"{loaded.name}: {len(others) + len(known)} faces were found, {len(chosen)} people "
            "speak: give a picture with a face for each, or their boxes"
        )
    others = sorted(others[: len(missing)], key=lambda own: _box(own)[0])
    known |= dict(zip(missing, others, strict=True))
    return [known[number] for number in range(len(chosen))]


def _others(found: list[Face], taken: Sequence[Located]) -> list[Located]:
    """Return the faces that are not among these, largest first."""
    boxes = [_box(own) for own in taken]
    every = map(_located, found)
    return [own for own in every if not any(same_face(_box(own), box) for box in boxes)]


def _located(face: Face) -> Located:
    return Located(face.landmarks, "detector", face.mesh)


def _box(located: Located) -> Box:
    """The box of a face, around its landmarks."""
    (x, y), (width, height) = located.landmarks.min(0), np.ptp(located.landmarks, axis=0)
    return float(x), float(y), float(width), float(height)


def _head(box: Box, scale: float) -> Array:
    """The least and the largest x and y of a face with its hair, (2, 2), in a scaled picture."""
    x, y, width, height = box
    return scale * np.array([[x, y - _HAIR * height], [x + width, y + height]])


def separate(boxes: Sequence[Array], shape: tuple[int, ...]) -> list[Bounds]:
    """Return bounds for each of several boxes, disjoint: two are parted where most is between them.

    boxes: (2, 2), least and largest x and y. shape: (H, W, ...) of the picture.
    """
    limits = [np.array([[0, 0], shape[1::-1]]) for _ in boxes]
    for own in range(len(boxes)):
        for other in range(own):
            starts, ends = zip(boxes[own], boxes[other], strict=True)
            axis = int(np.argmax(np.maximum(*starts) - np.minimum(*ends)))
            low, high = sorted((own, other), key=lambda k: boxes[k][:, axis].sum())
            cut = round((boxes[low][1, axis] + boxes[high][0, axis]) / 2)
            limits[low][1, axis] = min(limits[low][1, axis], cut)
            limits[high][0, axis] = max(limits[high][0, axis], cut)
    return [(int(y0), int(y1), int(x0), int(x1)) for (x0, y0), (x1, y1) in limits]
