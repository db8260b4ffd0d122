"""What the server has: its models, its places to work in, its temporary files; and how it works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from talkingface import audio, faces, picture, pipeline, video
from talkingface.errors import TalkingFaceError
from talkingface.pipeline import TalkingFace
from talkingface.streaming import Picture, Stream
from talkingface.web.choices import Choices
from talkingface.web.desk import Desk
from talkingface.web.lanes import Cancelled, Ended, Lane, Place, Work
from talkingface.web.limits import (
    Limits,
    Refused,
    check_picture,
    check_sound,
    refusal,
    too_long,
)

BLOCK = 5 * audio.SAMPLES_PER_FRAME  # samples pushed at once: between two, a job can be cancelled
IMAGE, AUDIO, VIDEO = "image", "audio", "video.mp4"  # what the files of a request are called
Result = TypeVar("Result")

# In a word; the numbers behind it are in docs/results.
_GOOD_AT = {
    "cran": "the clearest mouth, easiest to lip-read: it draws tongue and teeth from the sound",
    "atvg": "voices it never heard: it moves landmarks, and draws from these",
    "cran-natural": "one person, s1, alone: head, lids and brows move too",
    "still": "nothing moves: for comparison",
}
UNFORESEEN = "the server failed here; what happened is in its log"


@dataclass(frozen=True)
class Made:
    """A finished file: its frames, and what the user should know of how the face was found."""

    path: Path
    frames: int
    note: str | None


class Service:
    """Everything that requests share."""

    def __init__(
        self,
        models: Sequence[str],
        limits: Limits | None = None,
        temp: Path | None = None,
    ) -> None:
        """models: names or weights files, the default first. temp: where temporary files go.

        Raises UnknownModel, BadWeights, BadRequest.
        """
        self.limits = limits or Limits()
        loaded = [pipeline.load(name) for name in models]
        self.speakers: dict[str, TalkingFace] = {own.info.name: own for own in loaded}
        self.desk = Desk(temp)
        self.files = Lane("making files", self.limits.jobs, self.limits.queue)
        self.live = Lane("live videos", self.limits.streams, 0)
        self.looks = Lane("looking for faces", 1, 2 * self.limits.queue)

    @asynccontextmanager
    async def request(self, lane: Lane) -> AsyncIterator[tuple[Path, Place]]:
        """A folder and a place for one request; at its end the work has ended and both are gone.

        Raises Refused (429) when there is no place.
        """
        with lane.place() as place, self.desk.folder() as folder:
            try:
                yield folder, place
            finally:
                place.leave()
                if place.future is not None:
                    await end_of(place.future)

    def models(self) -> list[dict[str, Any]]:
        """What is known of each model, the default first."""
        return [
            {
                "name": name,
                "family": speaker.info.family,
                "good_at": _GOOD_AT.get(speaker.info.family, ""),
                "moves": speaker.moves_mesh,
                "parameters": speaker.info.parameters,
                "licence": speaker.info.licence,
                "training_data": speaker.info.training_data,
                "metrics": dict(speaker.info.metrics),
            }
            for name, speaker in self.speakers.items()
        ]

    def close(self) -> None:
        """Stop all work and remove every temporary file."""
        for lane in (self.files, self.live, self.looks):
            lane.close()
        self.desk.close()

    def make(self, place: Place, folder: Path, choices: Choices) -> Made:
        """In a thread: the video of the picture and the recording in `folder`.

        Raises Refused, Cancelled.
        """
        image, sound, output = folder / IMAGE, folder / AUDIO, folder / VIDEO
        with refusing(folder):
            total = check_sound(sound, self.limits.file_minutes)
            stream = self.open(image, choices, self.limits.file_size)
            spoken = frames(
                stream, audio.read(sound, BLOCK), place, total, self.limits.file_minutes
            )
            tag = self.speakers[choices.model].tag
            count = video.write(output, spoken, sound, tag=tag)
            return Made(output, count, stream.note)

    def open(self, image: Path, choices: Choices, size: int) -> Stream:
        """In a thread: the face of a picture, ready to listen. Raises Refused, TalkingFaceError."""
        check_picture(image, self.limits)
        return self.speakers[choices.model].open(
            image,
            controls=choices.controls,
            show=choices.show,
            mark=choices.mark,
            face=choices.face,
            box=choices.box,
            max_size=size,
        )

    def look(self, place: Place, folder: Path) -> dict[str, Any]:
        """In a thread: where faces are in the picture in `folder`, numbered as `face` counts them.

        Raises Refused, Cancelled.
        """
        place.check()
        with refusing(folder):
            longest = check_picture(folder / IMAGE, self.limits)
            seen = picture.read(folder / IMAGE)
            found = faces.find_faces(seen)
        height, width = seen.shape[:2]
        scale = longest / max(height, width)  # a very large picture is shrunk while it is read
        boxes = [
            {"number": number, "box": [round(scale * float(value), 1) for value in face.box]}
            for number, face in enumerate(found, start=1)
        ]
        return {"width": round(scale * width), "height": round(scale * height), "faces": boxes}


@contextmanager
def refusing(folder: Path) -> Iterator[None]:
    """What the client can mend is raised as Refused, with its own words for its files."""
    try:
        yield
    except TalkingFaceError as error:
        names = {folder / IMAGE: "the picture", folder / AUDIO: "the recording"}
        refused = refusal(error, names)
        if refused is None:
            raise
        raise refused from error


def frames(
    stream: Stream, parts: Iterable[Tensor], place: Place, total: int, minutes: float
) -> Iterator[Picture]:
    """In a thread: every frame of a sound that comes in parts, reported at its place.

    total: how many there will be, 0 when nobody knows. Raises Refused when there are more than so
    many minutes of them, Cancelled as soon as they are not wanted.
    """
    done = 0
    for part in parts:
        place.check()
        for frame in stream.push(part):
            yield frame
            done += 1
            place.report(done, max(done, total) if total else 0)
        if done > 60 * minutes * audio.FPS + audio.FPS:
            raise too_long(minutes)
    for frame in stream.finish():
        yield frame
        done += 1
        place.report(done, max(done, total) if total else 0)


def end_of(work: Work[Any]) -> asyncio.Future[None]:
    """To wait for in the event loop: done when the work has ended, whatever came of it."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ended.done():
            ended.set_result(None)

    work.add_done_callback(lambda _: loop.call_soon_threadsafe(tell))
    return ended


def outcome(work: Work[Any]) -> Refused | None:
    """Why a finished piece of work failed, as the client may know it; None when it did not.

    Raises Cancelled.
    """
    if work.cancelled():
        raise Cancelled
    if work.exception(timeout=0) is not None:
        return Refused(500, UNFORESEEN)
    ended = work.result()
    if not isinstance(ended, Ended):
        return None
    if isinstance(ended.error, Cancelled):
        raise Cancelled
    return ended.error


def result(work: Work[Result]) -> Result:
    """What a finished piece of work gave. Raises what `outcome` returns, and Cancelled."""
    refused = outcome(work)
    if refused is not None:
        raise refused
    given = work.result()
    assert not isinstance(given, Ended)
    return given
