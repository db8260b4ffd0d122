"""Track the faces of a video: the first pass of dubbing, frame by frame, with bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talkingface.dubbing import storage
from talkingface.dubbing.cuts import CutDetector
from talkingface.dubbing.people import Person, embedding_of, same_person
from talkingface.dubbing.speaking import choose_person
from talkingface.dubbing.track import FaceTrack
from talkingface.errors import BadRequest, NoFaceFound
from talkingface.faces import Face, find_faces, find_quickly, same_face
from talkingface.types import Array, Box, FaceChoice, Floats, PathLike, Picture

PEOPLE = 8  # who are told apart; others are left out
FEWEST = 5  # frames that show a person who is counted
SEARCH_EVERY = 1.0  # seconds between two looks for other faces
SEARCH_LOST = 0.2  # the same where a face was lost, or none is there
PredictLips = Callable[[], Floats | None]
REMEMBERED = 1.5  # seconds after which a face that was lost is not known by its place


@dataclass(frozen=True)
class TrackOptions:
    """The choice of the people who are dubbed, 1 to PEOPLE.

    chosen: the face of each, as number or box in the first frame from `time` that shows enough
    faces. One of None is the one whose lips move as the model predicts from the video's own sound,
    else the largest. Among several, those of None are the largest of the other faces, from left to
    right.
    time: seconds.
    """

    chosen: tuple[FaceChoice | None, ...] = (None,)
    time: float = 0.0

    def check(self) -> None:
        """Check all ranges. Raises BadRequest."""
        if not 0 < len(self.chosen) <= PEOPLE:
            raise BadRequest(f"{len(self.chosen)} people speak: give 1 to {PEOPLE}")
        for own in self.chosen:
            if isinstance(own, int) and own < 1:
                raise BadRequest(f"face is {own}: give a number from 1, the largest face")
        if self.time < 0:
            raise BadRequest(f"time is {self.time:g}: give seconds from the video's beginning")

    @property
    def faces(self) -> int:
        """Number of faces that a frame must show for the choice."""
        return max(len(self.chosen), *(own for own in self.chosen if isinstance(own, int)), 1)


def chosen_face(face: int | None, box: Box | None) -> FaceChoice | None:
    """Return which of the two chooses a face, None if neither. Raises BadRequest for both."""
    if face is not None and box is not None:
        raise BadRequest("give the face's number or its box, not both")
    return face if box is None else box


class FaceTracker:
    """Tracks all faces of a video. Give every frame in order of time, then call `finish`."""

    def __init__(self, options: TrackOptions | None = None) -> None:
        """Raises BadRequest for options out of their ranges."""
        self.options = options or TrackOptions()
        self.options.check()
        self._times: list[float] = []
        self._shots = [0]  # the first frame of each
        self._cuts = CutDetector()
        self._people: list[Person] = []
        self._searched = -1e9  # seconds

    @property
    def count(self) -> int:
        """Number of frames given so far."""
        return len(self._times)

    def add(self, time: float, picture: Picture) -> None:
        """Add the next frame. time: seconds, of its beginning. picture: (H, W, 3) uint8 RGB."""
        frame = self.count
        self._times.append(time)
        begins = self._cuts.add(picture) or frame == 0
        if begins and frame > 0:
            self._shots.append(frame)
        followed = {} if begins else self._follow(picture)
        if begins or self._is_due(time, followed):
            self._searched = time
            found = find_faces(picture) if begins else find_quickly(picture)
            self._meet(time, picture, found, followed)
        for person in self._people:
            face = followed.get(id(person))
            person.lost = face is None
            if face is not None:
                person.add(frame, face, picture)

    def _follow(self, picture: Picture) -> dict[int, Face]:
        """Faces of the people who are where they were, each person's once, by id."""
        followed: dict[int, Face] = {}
        for person in self._people:
            face = None if person.lost else person.tracker.follow(picture)
            if face is not None and not any(
                same_face(face.box, other.box) for other in followed.values()
            ):
                followed[id(person)] = face
        return followed

    def _is_due(self, time: float, followed: dict[int, Face]) -> bool:
        just_lost = any(not p.lost and id(p) not in followed for p in self._people)
        wait = SEARCH_EVERY if followed else SEARCH_LOST
        return just_lost or time - self._searched >= wait

    def _meet(
        self, time: float, picture: Picture, found: list[Face], followed: dict[int, Face]
    ) -> None:
        """Tell who the faces of a frame are, beside those that are followed."""
        for face in found:
            if any(same_face(face.box, other.box) for other in followed.values()):
                continue
            absent = [person for person in self._people if id(person) not in followed]
            person = self._near(time, face, absent)
            if person is None:
                embedding = embedding_of(picture, face)
                person = same_person(absent, embedding)
                if person is None and len(self._people) < PEOPLE:
                    person = Person(embedding)
                    self._people.append(person)
            if person is not None:
                person.start(face)
                followed[id(person)] = face

    def _near(self, time: float, face: Face, absent: list[Person]) -> Person | None:
        """Return the person who was there a moment ago, in the same shot."""
        for person in absent:
            last = person.last_frame
            recent = last >= self._shots[-1] and time - self._times[last] <= REMEMBERED
            if recent and same_face(face.box, person.last_box):
                return person
        return None

    def finish(self, predict_lips: PredictLips | None = None) -> list[FaceTrack]:
        """Return the tracks of the people who are dubbed, in the order of their choice.

        predict_lips: returns how far lips are apart that speak the video's own sound, (N,), 25 per
        second, or None without a sound. It is called where there are several people and none was
        asked for.

        Raises NoFaceFound where no frame shows a face, or none those that were asked for; and
        BadRequest where one face was given twice.
        """
        if not self._people:
            raise NoFaceFound(
                f"no face found in any of {self.count} frames: give a video of a face, seen from "
                "the front and at least 40 pixels wide"
            )
        times, options = np.array(self._times), self.options
        if options.chosen == (None,) and options.time == 0:
            spoken = None if predict_lips is None or len(self._people) == 1 else predict_lips()
            chosen = [choose_person(self._people, times, spoken)]
        else:
            chosen = self._chosen(times)
        people = max(1, sum(len(one.records) >= FEWEST for one in self._people))
        shots = np.array(self._shots)
        return [FaceTrack.of(times, shots, person, people) for person in chosen]

    def _chosen(self, times: Array) -> list[Person]:
        """Return the people whom the options name. Raises NoFaceFound, BadRequest."""
        frame = self._frame_of_choice(times)
        there = [person for person in self._people if person.is_at(frame)]
        there.sort(key=lambda person: -np.prod(person.box_at(frame)[2:]))
        where = f"at {times[frame]:.2f} s, where {len(there)} were found: give"
        known: dict[int, Person] = {}
        for number, own in enumerate(self.options.chosen):
            if own is None:
                continue
            person = _named(own, there, frame)
            if person is None:
                what = f"number {own}" if isinstance(own, int) else "in that box"
                raise NoFaceFound(
                    f"no face {what} {where} a number from 1 (the largest) to {len(there)}, a box "
                    "around a face, or a time"
                )
            if person in known.values():
                raise BadRequest(f"two speakers have one face, {own}: give another one")
            known[number] = person
        missing = [number for number, own in enumerate(self.options.chosen) if own is None]
        others = [person for person in there if person not in known.values()][: len(missing)]
        if len(others) < len(missing):
            raise NoFaceFound(f"no faces for {len(self.options.chosen)} people {where} a time")
        others.sort(key=lambda person: person.box_at(frame)[0])
        known |= dict(zip(missing, others, strict=True))
        return [known[number] for number in range(len(known))]

    def _frame_of_choice(self, times: Array) -> int:
        """Return the first frame from the time on with enough faces, else with one."""
        counts = np.zeros(len(times), np.int64)
        for person in self._people:
            counts[person.records.all()["frame"]] += 1
        counts[times < self.options.time] = 0
        if not counts.any():
            raise NoFaceFound(
                f"no face found from {self.options.time:g} s on: give an earlier time"
            )
        enough = min(int(counts.max()), self.options.faces)
        return int(np.argmax(counts >= enough))

    def save(self, path: PathLike) -> None:
        """Write everything known so far to a safetensors file, to go on later."""
        tensors: dict[str, NDArray[Any]] = {
            "times": np.array(self._times),
            "shots": np.array(self._shots),
            "cuts": self._cuts.state(),
            "searched": np.array([self._searched]),
        }
        for number, person in enumerate(self._people):
            tensors |= {f"{number}.{name}": part for name, part in person.tensors().items()}
        storage.write(path, "tracking", tensors)

    @classmethod
    def load(cls, path: PathLike, options: TrackOptions | None = None) -> FaceTracker:
        """Read a file of `save`; the next frame is number `count`. Raises BadRequest."""
        tracker = cls(options)
        tensors = storage.read(path, "tracking", ["times", "shots", "cuts", "searched"])
        tracker._times, tracker._shots = tensors["times"].tolist(), tensors["shots"].tolist()
        tracker._searched = float(tensors["searched"][0])
        tracker._cuts = CutDetector(tensors["cuts"])
        for number in range(sum(name.endswith(".records") for name in tensors)):
            parts = {
                name.partition(".")[2]: part
                for name, part in tensors.items()
                if name.startswith(f"{number}.")
            }
            tracker._people.append(Person.of(parts))
        return tracker


def _named(choice: FaceChoice, there: list[Person], frame: int) -> Person | None:
    """Return the person whom a choice names of those in a frame, largest first."""
    if isinstance(choice, int):
        return there[choice - 1] if choice <= len(there) else None
    return next((own for own in there if same_face(own.box_at(frame), choice)), None)
