"""Shared resources of all requests (models, worker pools, temporary files) and their work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from torch import Tensor

from talkingface import (
    audio,
    decoding,
    faces,
    frame_rates,
    picture,
    pipeline,
    video_formats,
    video_writing,
    voice,
)
from talkingface.errors import BadRequest
from talkingface.pipeline import TalkingFace
from talkingface.streaming import Speech, Stream
from talkingface.types import Picture
from talkingface.web.client_quota import ByteBudget, Quota
from talkingface.web.errors import RETRY_AFTER, ApiError
from talkingface.web.generate_options import DubOptions, FileOptions, GenerateOptions
from talkingface.web.limits import (
    MEGA,
    Limits,
    api_errors,
    check_picture,
    check_sound,
    check_video,
    sound_too_long,
)
from talkingface.web.metrics import Metrics
from talkingface.web.schemas import Face, Faces, Model
from talkingface.web.temp_store import TempStore, still_there
from talkingface.web.worker_pool import Slot, WorkerPool

BLOCK = 5 * audio.SAMPLES_PER_FRAME  # samples per push; a job can be cancelled between two
_DECODED_PIXEL = 24  # bytes that decoding a pixel takes at most: 16 bits, transparent, turned
_DECODED_SOUND = 1 << 29  # bytes that decoding anything else takes at most
_DECODING_SECONDS = 20  # of a processor, for a picture or a block of sound
# File names in a request's folder: uploads, and what is made of them without its suffix.
IMAGE, AUDIO, SOURCE, VIDEO = "image", "audio", "video", "video"

# One line per model or family, for people; the numbers are in docs/results.
_GOOD_AT = {
    "cran": "small faces come out sharper",
    "atvg": "the same lips; small faces are drawn in another way",
    "cran-natural": "the head moves as one person moved it",
    "still": "nothing moves, for comparison",
}


@dataclass(frozen=True)
class GeneratedFile:
    """A finished video. note: remarks for the user on the face and the sound."""

    path: Path
    frames: int
    note: str | None


class Service:
    """Resources that all requests share."""

    def __init__(
        self,
        models: Sequence[str],
        limits: Limits | None = None,
        temp: Path | None = None,
        whole: Limits | None = None,
        worker: int | None = None,
    ) -> None:
        """Load the models.

        models: names or weights files, the default first. temp: folder for temporary files. whole:
        the limits of all processes together, if this is number `worker` of several. Raises
        UnknownModel, BadWeights, BadRequest.
        """
        self.limits = limits or Limits()
        self.whole_limits, self.worker = whole or self.limits, worker
        decoding.set_limits(_decoding_limits(self.limits))
        decoding.start()
        loaded = [pipeline.load(name) for name in models]
        self.speakers: dict[str, TalkingFace] = {own.info.name: own for own in loaded}
        _check_names(models, loaded)
        self.temp_store = TempStore(temp)
        most, minutes = self.limits, self.limits.work_minutes
        self.file_pool = WorkerPool("making files", most.jobs, most.queue, minutes, can_wait=True)
        self.live_pool = WorkerPool("live videos", most.streams, 0, minutes)
        self.face_pool = WorkerPool("looking for faces", 1, 2 * most.queue, minutes)
        self.pools = {"file": self.file_pool, "live": self.live_pool}
        self.metrics, self.draining = Metrics(), False
        self.uploads = ByteBudget(round(most.uploads_mb * MEGA))
        self._clients = Quota(
            most.per_client,
            f"your address has {most.per_client} requests or files here already: wait for them, or "
            "delete finished jobs",
        )

    @asynccontextmanager
    async def request(
        self, pool: WorkerPool, client: str | None
    ) -> AsyncIterator[tuple[Path, Slot]]:
        """Create a folder and a slot for one request; stop the work and free both at the end.

        client: address, None for no limit per client. The slot is taken when its work is started.
        Raises ApiError: 429 when no slot is free, or when the client has too many requests; 503
        when the server is stopping.
        """
        if self.draining:
            raise ApiError(503, "the server is stopping: send it again in a moment", RETRY_AFTER)
        with self._clients.hold(client), pool.slot() as slot, self.temp_store.folder() as folder:
            try:
                with still_there(folder):
                    yield folder, slot
            finally:
                await slot.stop()

    def update_metrics(self) -> None:
        """Set the metrics of what happens now."""
        self.metrics.update(self.pools, self.draining)

    def models(self) -> list[Model]:
        """Return the description of each model, the default first."""
        return [
            Model(
                name=name,
                family=speaker.info.family,
                good_at=_GOOD_AT.get(name)
                or _GOOD_AT.get(speaker.info.family.removesuffix("-published"), ""),
                moves=speaker.moves_mesh,
                parameters=speaker.info.parameters,
                licence=speaker.info.licence,
                training_data=speaker.info.training_data,
                metrics=dict(speaker.info.metrics),
            )
            for name, speaker in self.speakers.items()
        ]

    async def close(self) -> None:
        """Stop all work and remove every temporary file."""
        for pool in (self.file_pool, self.live_pool, self.face_pool):
            await pool.close()
        self.temp_store.close()

    def run(self, slot: Slot, folder: Path, options: FileOptions | DubOptions) -> GeneratedFile:
        """Generate or dub; remove the uploads at the end, and everything when it fails."""
        keep: tuple[str, ...] = ()
        try:
            if isinstance(options, DubOptions):
                made = self.dub(slot, folder, options)
            else:
                made = self.generate(slot, folder, options)
            keep = (made.path.name,)
            return made
        finally:
            with suppress(OSError):  # somebody else removes it too
                for path in folder.iterdir():
                    if path.name not in keep:
                        path.unlink()

    def generate(self, slot: Slot, folder: Path, options: FileOptions) -> GeneratedFile:
        """Generate the video of the picture and the recording in `folder`, in a worker thread.

        Raises ApiError, Cancelled.
        """
        image, sound = folder / IMAGE, folder / AUDIO
        output = folder / f"{VIDEO}.{options.format}"
        with client_errors(folder):
            self.speak(slot, sound, options.text)
            total = check_sound(sound, self.limits.file_minutes, slot.check)
            speech = Speech(sound, check=slot.check)
            video_formats.check(output, options.output)
            alpha = video_formats.keeps_alpha(output, options.output)
            stream = self.open(image, options, self.limits.file_size, alpha)
            parts = self.metrics.sound(speech.parts(BLOCK), "file")
            minutes = self.limits.file_minutes
            spoken: Iterator[Picture]
            if options.fps == audio.FPS:
                spoken = frames(stream, parts, slot, total, minutes)
            else:
                undrawn = frames(_Undrawn(stream), parts, slot, total, minutes)
                spoken = map(stream.paint, frame_rates.at_rate(undrawn, None, options.fps))
            tag = self.speakers[options.model].tag
            counted = self.metrics.frames(spoken, "file")
            count = video_writing.write(output, counted, speech, options=options.output, tag=tag)
            return GeneratedFile(output, count, joined_notes(stream.note, speech.note))

    def dub(self, slot: Slot, folder: Path, options: DubOptions) -> GeneratedFile:
        """Dub the video in `folder` with the recording beside it, in a worker thread.

        Raises ApiError, Cancelled.
        """
        source, sound, output = folder / SOURCE, folder / AUDIO, folder / f"{VIDEO}.mp4"

        def progress(done: int, total: int) -> None:
            slot.check()
            slot.report(done, total)

        with client_errors(folder):
            check_video(source, self.limits)
            self.speak(slot, sound, options.text)
            check_sound(sound, self.limits.file_minutes, slot.check)
            made = self.speakers[options.model].dub(
                source,
                sound,
                controls=options.controls,
                length=options.length,
                face=options.face,
                box=options.box,
                time=options.at,
                mark=options.mark,
            )
            result = made.save(output, progress=progress)
        self.metrics.add_frames(result.frames, "file")
        return GeneratedFile(output, result.frames, joined_notes(*result.notes))

    @staticmethod
    def speak(slot: Slot, sound: Path, text: str | None) -> None:
        """Write the speech of a text, if there is one, as the recording. Raises BadRequest."""
        if text is not None:
            sound.write_bytes(voice.speak(text, check=slot.check))

    def open(self, image: Path, options: GenerateOptions, size: int, alpha: bool = False) -> Stream:
        """Open a stream for the face of a picture. Raises ApiError, TalkingFaceError.

        size: longest side of its frames. alpha: transparent parts are kept.
        """
        check_picture(image, self.limits)
        return self.speakers[options.model].open(
            image,
            controls=options.controls,
            options=options.face_options,
            alpha=alpha,
            max_size=size,
        )

    def find_faces(self, slot: Slot, folder: Path) -> Faces:
        """Find the faces in the picture in `folder`, in a worker thread.

        They are numbered as the option `face` counts them. Raises ApiError, Cancelled.
        """
        slot.check()
        with client_errors(folder):
            longest = check_picture(folder / IMAGE, self.limits)
            seen = picture.read(folder / IMAGE)
            found = faces.find_faces(seen)
        height, width = seen.shape[:2]
        scale = longest / max(height, width)  # a very large picture was shrunk when it was read
        boxes = [
            Face(number=number, box=[round(scale * float(value), 1) for value in face.box])
            for number, face in enumerate(found, start=1)
        ]
        return Faces(width=round(scale * width), height=round(scale * height), faces=boxes)


def joined_notes(*notes: str | None) -> str | None:
    """Return notes as one, None where there is none."""
    return "; ".join(note for note in notes if note) or None


def _check_names(models: Sequence[str], loaded: Sequence[TalkingFace]) -> None:
    """Raise BadRequest when two models have one name."""
    given: dict[str, str] = {}
    for source, own in zip(models, loaded, strict=True):
        other = given.setdefault(own.info.name, source)
        if other != source:
            raise BadRequest(
                f"--model {other} and {source} are both called {own.info.name!r}: rename a file"
            )


def _decoding_limits(limits: Limits) -> decoding.Limits:
    """Return what a process may take to decode an upload."""
    memory = round(_DECODED_PIXEL * limits.megapixels * MEGA) + _DECODED_SOUND
    return decoding.Limits(memory, _DECODING_SECONDS, limits.jobs + limits.streams + 1)


@contextmanager
def client_errors(folder: Path) -> Iterator[None]:
    """Raise the errors of the files in a request's folder as ApiError, with the client's names."""
    named = {IMAGE: "the picture", AUDIO: "the recording", SOURCE: "the video"}
    names = {folder / name: text for name, text in named.items()}
    with still_there(folder), api_errors(names):
        yield


Frame = TypeVar("Frame", covariant=True)


class FrameSource(Protocol[Frame]):
    """The part of a `Stream` that `frames` needs."""

    def push(self, samples: Tensor) -> Iterable[Frame]:
        """Push sound; return the frames that are complete now."""

    def finish(self) -> Iterable[Frame]:
        """End the sound; return the remaining frames."""


class _Undrawn:
    """A stream whose frames are drawn later."""

    def __init__(self, stream: Stream) -> None:
        self.push, self.finish = stream.output, stream.flush


def frames(
    stream: FrameSource[Frame], parts: Iterable[Tensor], slot: Slot, total: int, minutes: float
) -> Iterator[Frame]:
    """Yield every frame of a sound and report the progress to the slot, in a worker thread.

    parts: the sound, in blocks. total: the expected number of frames, 0 if unknown. Raises
    ApiError when the video becomes longer than `minutes`, and Cancelled.
    """
    done = 0
    for part in parts:
        slot.check()
        for frame in stream.push(part):
            yield frame
            done += 1
            slot.report(done, max(done, total) if total else 0)
        if done > 60 * minutes * audio.FPS + audio.FPS:
            raise sound_too_long(minutes)
    for frame in stream.finish():
        yield frame
        done += 1
        slot.report(done, max(done, total) if total else 0)
