"""Pass over a video twice to dub it: track its faces, then draw and encode it in parts."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from talkingface import picture, video_writing
from talkingface.dubbing.coding import DubCoding
from talkingface.dubbing.face import DubbedFace
from talkingface.dubbing.source import read_order
from talkingface.dubbing.timeline import FrameClock, Timeline
from talkingface.dubbing.track import FaceTrack
from talkingface.dubbing.tracking import FaceTracker, PredictLips, TrackOptions
from talkingface.dubbing.work_folder import WorkFolder
from talkingface.generated_video import Progress, ahead
from talkingface.planes import Plane, change_planes
from talkingface.stored_video import StoredFrame, read_stored
from talkingface.types import Bounds, Picture
from talkingface.video_formats import Container

_PART = 10  # seconds of video that are encoded as a part: a hard stop loses that much at most
_SAVED = 30.0  # seconds of work after which the tracking is saved
_TRACKER, _TRACK, _STAMPS = "tracker.safetensors", "track{}.safetensors", "stamps.npy"
_NONE = np.iinfo(np.int64).min  # in place of a missing stamp

Stamps = list[int | None]


class Passes:
    """Both passes over a source; what an earlier run has done is kept."""

    def __init__(
        self,
        path: Path,
        chosen: DubCoding,
        folder: WorkFolder,
        progress: Progress | None,
        predict_lips: PredictLips,
        mark: bool = False,
    ) -> None:
        """progress: called with (frames done, frames in all) of both passes. predict_lips: of the
        video's own sound, see `FaceTracker.finish`. mark: label frames."""
        self._path, self._chosen, self._folder, self._mark = path, chosen, folder, mark
        self._predict_lips = predict_lips
        self._progress = progress or (lambda done, total: None)
        self._tracked = 0
        self.count = max(1, round(_PART * chosen.video.rate))  # frames of a part
        self.resumed = 0

    # --- the first pass ---

    def track(self, options: TrackOptions) -> tuple[list[FaceTrack], Stamps, list[int], int]:
        """Return the faces' tracks; the frames' stamps; their starts, and their end, in ticks.

        Raises NoFaceFound, UnreadableMedia, BadRequest.
        """
        names = [_TRACK.format(number) for number in range(len(options.chosen))]
        if self._folder.has(_STAMPS, *names):
            found = np.load(self._folder.file(_STAMPS))
            tracks = [FaceTrack.load(self._folder.file(name)) for name in names]
        else:
            found, tracks = self._track(options)
            self._save_stamps(found)
            for name, track in zip(names, tracks, strict=True):
                with self._folder.writing(name) as part:
                    track.save(part)
        self._tracked = len(found)
        stamps = [None if stamp == _NONE else int(stamp) for stamp in found[:, 0]]
        clock = FrameClock(self._step)
        starts = [clock.add(stamp) for stamp in stamps]
        return tracks, stamps, starts, starts[-1] + (int(found[-1, 1]) or max(1, round(self._step)))

    @property
    def _step(self) -> Fraction:
        """Ticks from frame to frame, usually."""
        video = self._chosen.video
        return 1 / (video.rate * video.time_base)

    def _track(self, options: TrackOptions) -> tuple[NDArray[np.int64], list[FaceTrack]]:
        tracker, rows = self._saved_tracker(options)
        video, saved = self._chosen.video, time.monotonic()
        clock, unit = FrameClock(self._step), video.time_base
        times = [float(clock.add(None if stamp == _NONE else stamp) * unit) for stamp, _ in rows]
        frames = read_stored(self._path, video.layout, planes=False, first=len(rows))
        with closing(frames):
            for frame in frames:
                rows.append((_NONE if frame.time is None else frame.time, frame.length))
                times.append(float(clock.add(frame.time) * unit))
                tracker.add(times[-1], frame.picture)
                self._progress(len(rows), 2 * max(video.frames, len(rows)))
                if time.monotonic() - saved > _SAVED:
                    self._save_stamps(np.array(rows, np.int64))
                    with self._folder.writing(_TRACKER) as part:
                        tracker.save(part)
                    saved = time.monotonic()
        found = np.array(rows, np.int64)
        return found, tracker.finish(self._predict_lips)

    def _saved_tracker(self, options: TrackOptions) -> tuple[FaceTracker, list[tuple[int, int]]]:
        """Return the tracker of an earlier run, or a new one; stamp and length of its frames."""
        if not self._folder.has(_STAMPS, _TRACKER):
            return FaceTracker(options), []
        tracker = FaceTracker.load(self._folder.file(_TRACKER), options)
        rows = np.load(self._folder.file(_STAMPS))[: tracker.count]
        return tracker, [(int(stamp), int(length)) for stamp, length in rows]

    def _save_stamps(self, rows: NDArray[np.int64]) -> None:
        with self._folder.writing(_STAMPS) as part, part.open("wb") as file:
            np.save(file, rows)

    # --- the second pass ---

    def encode(self, faces: Sequence[DubbedFace], stamps: Stamps, shown: Timeline) -> list[Path]:
        """Draw and encode all frames, in parts that are whole or not there; return the parts.

        Raises UnreadableMedia, OutputError.
        """
        names = [f"{n:05d}.mp4" for n in range(-(-len(shown) // self.count))]
        have = 0
        while have < len(names) and self._folder.has(names[have]):
            have += 1
        self.resumed = min(have * self.count, len(shown))
        frames = self._drawn(faces, stamps, shown, self.resumed)
        threads = max(1, torch.get_num_threads() - 1)
        with closing(frames), closing(ahead(frames, threads)) as drawn:
            for number in range(have, len(names)):
                self._encode_part(names[number], drawn, shown, number * self.count)
        return [self._folder.file(name) for name in names]

    def _drawn(
        self, faces: Sequence[DubbedFace], stamps: Stamps, shown: Timeline, first: int
    ) -> Generator[list[Plane], None, None]:
        """The planes of each frame from number `first` on."""
        video, order = self._chosen.video, shown.sources[first:]
        for number, frame in enumerate(read_order(self._path, video, stamps, order), start=first):
            seconds = float(shown.starts[number] * video.time_base)
            yield self._draw(faces, shown.sources[number], seconds, frame)

    def _draw(
        self, faces: Sequence[DubbedFace], number: int, seconds: float, frame: StoredFrame
    ) -> list[Plane]:
        """Draw one face after the other: where two overlap, the later one is seen."""
        layout, planes, shown = self._chosen.video.layout, frame.planes, frame.picture
        for face in faces:
            drawn = face.draw(number, seconds, shown)
            if drawn is not None:
                planes = change_planes(planes, layout, shown, *drawn)
                shown = drawn[0]
        if self._mark:
            marked = picture.label(shown)
            bounds = _changed(shown, marked)
            planes = change_planes(planes, layout, shown, marked, bounds)
        return planes

    def _encode_part(
        self, name: str, drawn: Iterator[list[Plane]], shown: Timeline, first: int
    ) -> None:
        video, coding = self._chosen.video, self._chosen.coding
        starts = shown.starts[first : first + self.count]
        with self._folder.writing(name) as part:
            with video_writing.VideoWriter(
                part,
                part,
                (video.layout.height, video.layout.width),
                container=Container("mp4"),
                coding=coding,
                fps=video.rate,
                time_base=video.time_base,
                aspect=video.aspect,
            ) as writer:
                for start, planes in zip(starts, islice(drawn, len(starts)), strict=True):
                    writer.add_planes(planes, (start - starts[0]) * video.time_base)
                    done = self._tracked + first + writer.frames
                    self._progress(done, self._tracked + len(shown))
                writer.finish()


def _changed(before: Picture, after: Picture) -> Bounds:
    """The rows and columns in which two pictures differ."""
    different = before[..., 0] != after[..., 0]
    rows, columns = np.flatnonzero(different.any(1)), np.flatnonzero(different.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
