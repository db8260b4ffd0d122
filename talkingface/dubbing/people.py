"""The people of a video: each one's records, and what is needed to find them again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from talkingface import weights
from talkingface.dubbing.mouth_views import MouthViews, view_tensors, views_of
from talkingface.dubbing.records import RECORD, Records, make_record, meshes_of
from talkingface.faces import Face, Tracker, align
from talkingface.geometry import CropSpec
from talkingface.landmarks import IBUG
from talkingface.metrics.identity import SAME_PERSON, embed
from talkingface.types import Array, Box, Picture

SAMPLES = 128  # meshes with depth of each person, evenly spaced in time


class Person:
    """One person of a video.

    records: of the frames that show the person. samples: (N, 478, 3), meshes with their depth.
    views: pictures of the mouth. tracker: follows the face; lost: True while it cannot.
    """

    def __init__(self, embedding: Array) -> None:
        """embedding: (D,), of the face, to find the person again."""
        self.embedding = embedding
        self.records, self.views = Records(), MouthViews()
        self.tracker, self.last = Tracker(), np.zeros((0, 3))
        self.lost = True
        self._samples: list[Array] = []
        self._stride = 1

    def add(self, frame: int, face: Face, picture: Picture) -> None:
        """Add the face in a frame."""
        record = make_record(frame, face, picture)
        if len(self.records) % self._stride == 0:
            self._samples.append(face.mesh.copy())
            if len(self._samples) > SAMPLES:
                self._samples, self._stride = self._samples[::2], self._stride * 2
        self.records.add(record)
        self.views.add(frame, face, record["angles"][0], picture)
        self.last, self.lost = face.mesh, False

    def start(self, face: Face) -> None:
        """Follow the face from here."""
        self.tracker = Tracker(face)

    @property
    def samples(self) -> Array:
        """(N, 478, 3) picture pixels."""
        return np.array(self._samples)

    @property
    def last_frame(self) -> int:
        """Number of the last frame with the person; -1 if there is none."""
        return int(self.records.all()["frame"][-1]) if len(self.records) else -1

    @property
    def last_box(self) -> Box:
        """Box of the face in that frame."""
        return box_of(meshes_of(self.records.all()[-1:])[0])

    def is_at(self, frame: int) -> bool:
        """Return whether a frame shows the person."""
        return bool((self.records.all()["frame"] == frame).any())

    def box_at(self, frame: int) -> Box:
        """Box of the face in a frame that shows it."""
        records = self.records.all()
        return box_of(meshes_of(records[records["frame"] == frame])[0])

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return everything, by name, for a file."""
        return {
            "embedding": self.embedding,
            "records": self.records.all().view(np.uint8).copy(),
            "samples": self.samples.reshape(-1, 478, 3),
            "last": self.last,
            "counts": np.array([self._stride, self.lost]),
            **view_tensors(self.views.views),
        }

    @classmethod
    def of(cls, tensors: Mapping[str, NDArray[Any]]) -> Person:
        """Make a person of what `tensors` returned."""
        person = cls(tensors["embedding"])
        person.records = Records(np.array(tensors["records"]).view(RECORD).reshape(-1))
        person._samples = list(tensors["samples"])
        person._stride, person.lost = int(tensors["counts"][0]), bool(tensors["counts"][1])
        person.views, person.last = MouthViews(views_of(tensors)), tensors["last"]
        if not person.lost:
            mesh = person.last
            person.tracker = Tracker(Face(mesh[IBUG, :2], mesh, box_of(mesh[:, :2]), 1.0))
        return person


def box_of(mesh: Array) -> Box:
    """The box x, y, width, height of a mesh (478, 2)."""
    (x, y), (width, height) = mesh.min(0), np.ptp(mesh, axis=0)
    return float(x), float(y), float(width), float(height)


def embedding_of(picture: Picture, face: Face) -> Array:
    """Embed a face of a picture: (D,)."""
    network: Any = weights.load("identity", torch.device("cpu"))
    return np.asarray(embed(network, align(picture, face, CropSpec()).crop[None])[0])


def same_person(people: list[Person], embedding: Array) -> Person | None:
    """Return the person that an embedding is like; None if it is like none."""
    likest = max(people, key=lambda person: float(person.embedding @ embedding), default=None)
    if likest is None or float(likest.embedding @ embedding) < SAME_PERSON:
        return None
    return likest
