"""The track of one person's face through a video, smoothed over time without lag."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from talkingface.dubbing import storage
from talkingface.dubbing.mouth_views import MouthView, view_tensors, views_of
from talkingface.dubbing.people import Person
from talkingface.dubbing.records import RECORD, Record, meshes_of, strangeness, with_mesh
from talkingface.geometry import fit_similarity, invert, transform
from talkingface.landmarks import OUTER_LIPS, STABLE_MESH, reference_mesh
from talkingface.types import Array, Floats, PathLike

SMALLEST = 40.0  # pixels: width of a face
MOST_TURNED = 45.0  # degrees of yaw
MOST_NODDED = 40.0  # degrees of pitch
LEAST_SCORE = 0.8  # presence of a face that is seen whole
FADE = 0.16  # seconds in which dubbing sets in and ends
FILLED = 0.13  # seconds without a face that are filled between two frames with it
_COVERED, _COVERED_TIMES = 0.075, 3.0  # strangeness of a lower face, and beside the usual one
_STEADY = 5  # frames: shorter changes of use are left out

# Smoothing: standard deviations in time (seconds), of the shape and of the place; beyond a change
# of so much (interocular) a neighbouring frame does not count.
_SPAN = 0.05
_REACH = 3  # standard deviations
_SHAPE, _PLACE = 0.012, 0.015


class State(IntEnum):
    """Use of a frame."""

    DUBBED = 0
    NO_FACE = 1
    TOO_SMALL = 2
    TURNED = 3
    COVERED = 4


@dataclass(frozen=True)
class TrackReport:
    """Numbers of frames of a tracked video, by their use.

    frames: all of them.
    dubbed: those with a usable face.
    no_face, too_small, turned, covered: those left as they are, by the reason.
    cuts: changes of the scene.
    people: persons seen.
    """

    frames: int
    dubbed: int
    no_face: int
    too_small: int
    turned: int
    covered: int
    cuts: int
    people: int


class FaceTrack:
    """One person's face in a video, frame by frame. Made by `FaceTracker.finish`.

    times: (T,) seconds, of the beginnings of the frames. shots: (S,), the first frame of each.
    records: (R,), see `records.RECORD`. samples: (N, 478, 3), meshes with depth. views: pictures of
    the mouth. people: persons seen in the video. states: (T,) of `State`; rows: (T,), each frame's
    record, -1 for none; weights: (T,), how far each frame is dubbed, in [0, 1].
    """

    def __init__(
        self,
        times: Array,
        shots: NDArray[np.int64],
        records: Record,
        samples: Array,
        views: list[MouthView],
        people: int,
    ) -> None:
        self.times, self.shots, self.people = times, shots, people
        self.samples, self.views = samples, views
        self.step = float(np.median(np.diff(times))) if len(times) > 1 else 0.04
        self.shot_of = np.searchsorted(shots, np.arange(len(times)), "right") - 1
        self.records = _filled(records, self.shot_of, round(FILLED / self.step))
        self.rows = np.full(len(times), -1)
        self.rows[self.records["frame"]] = np.arange(len(self.records))
        self.states = _states(self.records, len(times))
        self.weights = _weights(self.states == State.DUBBED, self.shot_of, self.step)
        self._aligned = lru_cache(64)(self._aligned_row)

    @classmethod
    def of(cls, times: Array, shots: NDArray[np.int64], person: Person, people: int) -> FaceTrack:
        """Make the track of one of the people of a video."""
        records = person.records.all().copy()
        return cls(times, shots, records, person.samples, person.views.views, people)

    def __len__(self) -> int:
        return len(self.times)

    def report(self) -> TrackReport:
        """Count frames, cuts and people."""
        counts = {state.name.lower(): int((self.states == state).sum()) for state in State}
        return TrackReport(len(self), **counts, cuts=len(self.shots) - 1, people=self.people)

    def mesh(self, frame: int) -> Array:
        """The smoothed mesh (478, 2) of a frame with a face, in picture pixels.

        A mean over the frames around it, of place and shape apart, in which frames count less the
        more they differ: what moves fast is not smoothed.
        """
        place, shape = self._aligned(frame)
        rows = self._around(frame)
        places, shapes = (np.stack(part) for part in zip(*map(self._aligned, rows), strict=True))
        near = np.exp(-0.5 * np.square((self.times[rows] - self.times[frame]) / _SPAN))
        off = np.sqrt(np.square(shapes - shape)[:, OUTER_LIPS].sum(-1).mean(-1))
        share = near * np.exp(-0.5 * np.square(off / _SHAPE))
        smooth = np.tensordot(share / share.sum(), shapes, 1)
        stable = reference_mesh()[STABLE_MESH]
        corners = np.stack([transform(stable, one) for one in places])
        unit = float(np.hypot(*place[:, 0]))
        off = np.sqrt(np.square(corners - transform(stable, place)).sum(-1).mean(-1)) / unit
        share = near * np.exp(-0.5 * np.square(off / _PLACE))
        return transform(smooth, np.tensordot(share / share.sum(), places, 1))

    def _around(self, frame: int) -> NDArray[np.int64]:
        """Frames with the face about this one, in its shot."""
        reach = int(np.ceil(_REACH * _SPAN / self.step))
        frames = np.arange(max(0, frame - reach), min(len(self), frame + reach + 1))
        same = self.shot_of[frames] == self.shot_of[frame]
        return np.asarray(frames[(self.rows[frames] >= 0) & same])

    def _aligned_row(self, frame: int) -> tuple[Array, Array]:
        """The place of a face, a similarity (2, 3) from the reference, and its shape there."""
        mesh = meshes_of(self.records[self.rows[frame] : self.rows[frame] + 1])[0]
        to_face = fit_similarity(mesh[STABLE_MESH], reference_mesh()[STABLE_MESH])
        return invert(to_face), transform(mesh, to_face)

    def skin(self, frame: int) -> Floats:
        """The colour of the cheeks about a frame, (3,) RGB in [0, 255]."""
        rows = self.rows[self._around(frame)]
        out: Floats = np.median(self.records["skin"][rows], 0)
        return out

    def save(self, path: PathLike) -> None:
        """Write the track to a safetensors file."""
        tensors: dict[str, NDArray[Any]] = {
            "times": self.times,
            "shots": self.shots,
            "records": self.records.view(np.uint8),
            "samples": self.samples,
            "people": np.array([self.people]),
            **view_tensors(self.views),
        }
        storage.write(path, "track", tensors)

    @classmethod
    def load(cls, path: PathLike) -> FaceTrack:
        """Read a file of `save`. Raises BadRequest."""
        names = ["times", "shots", "records", "samples", "people", "views"]
        tensors = storage.read(path, "track", names)
        return cls(
            tensors["times"],
            tensors["shots"],
            tensors["records"].view(RECORD).reshape(-1),
            tensors["samples"],
            views_of(tensors),
            int(tensors["people"][0]),
        )


def _filled(records: Record, shot_of: NDArray[np.int64], longest: int) -> Record:
    """Records with those of short gaps, whose meshes lie between those before and after."""
    frames = records["frame"].astype(np.int64)
    gaps = np.diff(frames) - 1
    same = shot_of[frames[1:]] == shot_of[frames[:-1]]
    out = [records]
    for k in np.flatnonzero((gaps > 0) & (gaps <= longest) & same):
        before, after = meshes_of(records[k : k + 2])
        part = (np.arange(gaps[k]) + 1)[:, None, None] / (gaps[k] + 1)
        between = records[[k] * int(gaps[k])]
        between["frame"] = frames[k] + 1 + np.arange(gaps[k])
        out.append(with_mesh(between, before + (after - before) * part))
    every = np.concatenate(out)
    return every[np.argsort(every["frame"], kind="stable")]


def _states(records: Record, count: int) -> NDArray[np.uint8]:
    """Return the `State` of each of `count` frames, (T,)."""
    states = np.full(count, State.NO_FACE, np.uint8)
    width = records["side"] * records["points"][..., 0].max(1) / 65535
    yaw, pitch = np.abs(records["angles"][:, :2].T)
    found = np.full(len(records), State.DUBBED, np.uint8)
    found[_covered(records)] = State.COVERED
    found[_steady((yaw > MOST_TURNED) | (pitch > MOST_NODDED))] = State.TURNED
    found[_steady(width < SMALLEST)] = State.TOO_SMALL
    states[records["frame"]] = found
    return states


def _covered(records: Record) -> NDArray[np.bool_]:
    """Return where the lower face looks unlike its usual self, or is hardly a face: (R,)."""
    off = strangeness(records)
    strange = off > max(_COVERED, _COVERED_TIMES * float(np.median(off)))
    return _steady(strange | (records["score"] < LEAST_SCORE))


def _steady(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return flags (R,) as most of the frames around each have them."""
    beside = np.pad(flags, _STEADY // 2, mode="edge").astype(np.float64)
    return np.asarray(np.convolve(beside, np.ones(_STEADY), "valid") > _STEADY / 2)


def _weights(dubbed: NDArray[np.bool_], shot_of: NDArray[np.int64], step: float) -> Floats:
    """Return how far each frame is dubbed, (T,): rising and falling where others are left alone.

    At a cut, and at the ends of the video, nothing fades.
    """
    count = max(1, round(FADE / step))
    ends = np.flatnonzero(~dubbed)
    out = np.where(dubbed, 1.0, 0.0).astype(np.float32)
    for end in ends.tolist():  # those next to it, in its shot, are dubbed less
        near = np.arange(max(0, end - count), min(len(dubbed), end + count + 1))
        near = near[shot_of[near] == shot_of[end]]
        part = np.abs(near - end) / (count + 1)
        out[near] = np.minimum(out[near], part)
    return out
