"""The face side of dubbing: tracking, choice of a person, and frames with another mouth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from talkingface import picture
from talkingface.dubbing.face import DubbedFace
from talkingface.dubbing.people import Person
from talkingface.dubbing.records import RECORD, Record, Records, with_mesh
from talkingface.dubbing.speaking import choose_person
from talkingface.dubbing.track import FaceTrack, State
from talkingface.dubbing.tracking import SEARCH_EVERY, FaceTracker, TrackOptions
from talkingface.errors import BadRequest, NoFaceFound
from talkingface.faces import find_faces
from talkingface.landmarks import (
    GAP_BOTTOM,
    GAP_TOP,
    OUTER_LIPS,
    aperture,
    eye_distance,
    reference_mesh,
)
from talkingface.models.expression import ExpressionSpace
from talkingface.motion import Motion
from talkingface.types import Floats, Picture
from talkingface.weights import load

FRAMES, STEP = 12, 0.04


@pytest.fixture(scope="module")
def space() -> ExpressionSpace:
    model = load("cran")
    found: ExpressionSpace = model.readout.space  # type: ignore[union-attr, assignment]
    return found


@pytest.fixture(scope="module")
def face(portrait: Path) -> Picture:
    """A portrait, 360 pixels wide, with grey around it."""
    small = cv2.resize(picture.read(portrait), (300, 300), interpolation=cv2.INTER_AREA)
    out = np.full((320, 400, 3), 90, np.uint8)
    out[10:310, 50:350] = small
    return out


def moved(face: Picture, frame: int) -> Picture:
    """The picture as a head that sways: turned, larger and shifted."""
    angle, scale = 6 * np.sin(frame / 4), 1 + 0.05 * np.sin(frame / 5)
    matrix = cv2.getRotationMatrix2D((200, 160), angle, scale)
    matrix[:, 2] += [4 * np.sin(frame / 3), 2 * np.cos(frame / 3)]
    out = cv2.warpAffine(face, matrix, (400, 320), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out, np.uint8)


@pytest.fixture(scope="module")
def clip(face: Picture) -> list[Picture]:
    return [moved(face, frame) for frame in range(FRAMES)]


def tracked(frames: list[Picture], options: TrackOptions | None = None) -> FaceTracker:
    tracker = FaceTracker(options)
    for number, frame in enumerate(frames):
        tracker.add(number * STEP, frame)
    return tracker


@pytest.fixture(scope="module")
def track(clip: list[Picture]) -> FaceTrack:
    return tracked(clip).finish()[0]


def opening(space: ExpressionSpace, gap: float) -> Floats:
    """An expression (K,) whose lips are `gap` apart, interocular."""
    out = np.zeros(space.components, np.float32)
    lips = [float(space.lip_gap(space.scale.new_tensor(out + step))) for step in np.eye(16)]
    best = int(np.argmax(np.abs(np.array(lips) - lips_at_rest(space))))
    out[best] = (gap - lips_at_rest(space)) / (lips[best] - lips_at_rest(space))
    return out


def lips_at_rest(space: ExpressionSpace) -> float:
    return float(space.lip_gap(space.scale.new_zeros(space.components)))


def still(space: ExpressionSpace, gap: float) -> Motion:
    return Motion.still(np.repeat(opening(space, gap)[None], FRAMES, 0).astype(np.float32))


def test_outside_the_bounds_nothing_changes_and_inside_something_does(
    clip: list[Picture], track: FaceTrack, space: ExpressionSpace
) -> None:
    dubbed = DubbedFace(space, track, still(space, 0.2))
    for frame in (0, 7):
        before = clip[frame].copy()
        drawn = dubbed.draw(frame, frame * STEP, clip[frame])
        assert drawn is not None
        out, (y0, y1, x0, x1) = drawn
        assert (clip[frame] == before).all()
        assert (out[y0:y1, x0:x1] != before[y0:y1, x0:x1]).any(-1).mean() > 0.1
        out[y0:y1, x0:x1] = before[y0:y1, x0:x1]
        assert (out == before).all()


def test_lips_are_drawn_as_far_apart_as_the_motion_says(
    clip: list[Picture], track: FaceTrack, space: ExpressionSpace
) -> None:
    for gap in (0.0, 0.1, 0.2):
        dubbed = DubbedFace(space, track, still(space, gap))
        for frame in (2, 9):
            drawn = dubbed.draw(frame, frame * STEP, clip[frame])
            assert drawn is not None
            commanded = dubbed.meshes(frame, frame * STEP)[1]
            assert aperture(commanded) / eye_distance(commanded) == pytest.approx(gap, abs=0.015)
            found = find_faces(drawn[0])[0].mesh[:, :2]
            assert aperture(found) / eye_distance(found) == pytest.approx(gap, abs=0.035)


def test_a_face_with_its_own_expression_is_nearly_the_frame(
    clip: list[Picture], track: FaceTrack, space: ExpressionSpace
) -> None:
    neutral = DubbedFace(space, track, still(space, 0.0)).neutral
    front = neutral.frontal(track.mesh(5), neutral.camera(track.mesh(5)))
    moves = torch.from_numpy(front - neutral.points[:, :2]).float()
    own = np.repeat(space.coefficients(moves).numpy()[None], FRAMES, 0)
    dubbed = DubbedFace(space, track, Motion.still(own))
    drawn = dubbed.draw(5, 5 * STEP, clip[5])
    assert drawn is not None
    out, (y0, y1, x0, x1) = drawn
    off = out[y0:y1, x0:x1].astype(float) - clip[5][y0:y1, x0:x1]
    assert 10 * np.log10(255**2 / np.square(off).mean()) > 30


def test_a_sweeping_head_is_followed_without_lag(face: Picture, track: FaceTrack) -> None:
    """Smoothed meshes lie on the picture's own motion, which is known."""
    still_mesh = find_faces(face)[0].mesh[:, :2]
    for frame in range(FRAMES):
        angle, scale = 6 * np.sin(frame / 4), 1 + 0.05 * np.sin(frame / 5)
        matrix = cv2.getRotationMatrix2D((200, 160), angle, scale)
        matrix[:, 2] += [4 * np.sin(frame / 3), 2 * np.cos(frame / 3)]
        there = still_mesh @ matrix[:, :2].T + matrix[:, 2]
        off = (track.mesh(frame) - there)[OUTER_LIPS]
        assert np.linalg.norm(off, axis=1).mean() < 0.02 * eye_distance(there)


def test_frames_without_a_face_are_left_alone_and_counted(
    face: Picture, clip: list[Picture], space: ExpressionSpace
) -> None:
    empty = np.full_like(face, 90)
    frames = [*clip[:6], *[empty] * 4, *clip[6:]]
    track = tracked(frames).finish()[0]
    report = track.report()
    assert (report.frames, report.no_face, report.dubbed, report.people) == (16, 4, 12, 1)
    dubbed = DubbedFace(space, track, still(space, 0.2))
    assert dubbed.draw(7, 7 * STEP, frames[7]) is None
    assert [track.states[k] for k in (5, 6, 9, 10)] == [0, State.NO_FACE, State.NO_FACE, 0]


def test_what_goes_on_from_a_file_is_as_the_whole(clip: list[Picture], tmp_path: Path) -> None:
    tracked(clip[:5]).save(tmp_path / "part")
    tracker = FaceTracker.load(tmp_path / "part")
    for frame in range(tracker.count, FRAMES):
        tracker.add(frame * STEP, clip[frame])
    whole = tracked(clip)
    tracker.save(tmp_path / "resumed")
    whole.save(tmp_path / "whole")
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()
    track = whole.finish()[0]
    track.save(tmp_path / "track")
    again = FaceTrack.load(tmp_path / "track")
    assert all((track.mesh(k) == again.mesh(k)).all() for k in range(FRAMES))
    assert again.report() == track.report()
    (tmp_path / "track").write_bytes(b"none")
    with pytest.raises(BadRequest, match="track"):
        FaceTrack.load(tmp_path / "track")


def test_a_cut_begins_a_shot_and_the_person_is_found_again(
    face: Picture, clip: list[Picture]
) -> None:
    bright = np.asarray(255 - np.clip(face.astype(int) // 3, 0, 255), np.uint8)
    bright[:] = [200, 220, 240]
    small = cv2.resize(face[10:310, 50:350], (200, 200), interpolation=cv2.INTER_AREA)
    bright[60:260, 180:380] = small
    track = tracked([*clip[:4], *[bright] * 4]).finish()[0]
    report = track.report()
    assert (report.cuts, report.people, report.dubbed) == (1, 1, 8)
    assert track.shots.tolist() == [0, 4]


def test_the_faces_that_are_asked_for_are_tracked(face: Picture) -> None:
    """Two faces, of which the larger one, number 1, is at the left; the second frame shows both."""
    both = np.full((320, 700, 3), 90, np.uint8)
    both[10:310, :300] = face[10:310, 50:350]
    alone = both.copy()
    mirrored = np.ascontiguousarray(face[10:310, 50:350][:, ::-1])
    both[60:260, 450:650] = cv2.resize(mirrored, (200, 200), interpolation=cv2.INTER_AREA)
    tracker = FaceTracker()
    for number, frame in enumerate([alone, both, both]):
        tracker.add(2 * number * SEARCH_EVERY, frame)
    left, right = (36.0, 30.0, 220.0, 240.0), (480.0, 90.0, 130.0, 150.0)
    chosen: Any
    for chosen, sides in (
        ((None,), "l"),
        ((2,), "r"),
        ((2, 1), "rl"),
        ((right, None), "rl"),
        ((None, None), "lr"),
    ):
        tracker.options = TrackOptions(chosen)
        places = [track.mesh(1)[:, 0].mean() for track in tracker.finish()]
        assert ["l" if place < 350 else "r" for place in places] == list(sides)
    tracker.options = TrackOptions((right,), time=1.0)
    assert tracker.finish()[0].mesh(1)[:, 0].mean() > 350
    for chosen, error, says in (
        ((3,), NoFaceFound, "number 3"),
        ((1, left), BadRequest, "two speakers have one face"),
        ((1, None, None), NoFaceFound, "3 people"),
    ):
        tracker.options = TrackOptions(chosen)
        with pytest.raises(error, match=says):
            tracker.finish()
    for chosen in ((), (1,) * 9, (0,)):
        with pytest.raises(BadRequest):
            TrackOptions(chosen).check()


def records_of(gaps: Floats) -> Record:
    """Records of a mean face in frames 0, 1, ..., with its lips so far apart, interocular."""
    meshes = np.repeat(reference_mesh()[None] * 100 + 300, len(gaps), 0)
    meshes[:, GAP_BOTTOM, 1] = meshes[:, GAP_TOP, 1] + 100 * gaps
    records = np.zeros(len(gaps), RECORD)
    records["frame"], records["score"] = np.arange(len(gaps)), 1
    records["colours"] = 128
    return with_mesh(records, meshes)


def person_with(gaps: Floats) -> Person:
    person = Person(np.zeros(4))
    person.records = Records(records_of(gaps))
    return person


def test_the_speaker_is_the_one_whose_lips_move_as_predicted() -> None:
    """Both talk, as loud and as often, at 30 frames a second; lips are 80 ms behind the sound."""
    times = np.arange(240) / 30
    predicted, other = (walk(seed) for seed in (1, 2))
    at = (np.arange(300) + 0.5) / 25
    talking, listening = (
        np.asarray(0.1 + 0.05 * np.interp(times + 1 / 60 - 0.08, at, curve), np.float32)
        for curve in (predicted, other)
    )
    people = [person_with(listening), person_with(talking)]
    people[0].records.all()["side"] *= 2
    for order in (people, people[::-1]):
        assert choose_person(order, times, np.asarray(predicted, np.float32)) is people[1]
        assert choose_person(order, times, walk(3)) is people[0], "nobody's: the largest face"
        assert choose_person(order, times, None) is people[0]


def walk(seed: int) -> Floats:
    """A curve of 300 frames that opens and closes a few times a second, about 0."""
    noise = np.random.default_rng(seed).normal(size=304)
    return np.asarray(np.convolve(noise, np.ones(5) / 5, "valid"), np.float32)


def test_dubbing_fades_beside_frames_that_are_left_alone_but_not_at_a_cut() -> None:
    """Frames 10 to 19 are covered; the second shot begins with frame 30."""
    records = records_of(np.full(40, 0.1, np.float32))
    records["colours"][10:20, :30] = 10
    records = np.delete(records, np.arange(30, 34))  # the second shot begins without the face
    times = np.asarray(np.arange(40) * STEP, np.float64)
    track = FaceTrack(times, np.array([0, 30]), records, np.zeros((0, 478, 3)), [], 1)
    assert track.report().covered == 10
    assert track.report().no_face == 4
    fade = [0.2, 0.4, 0.6, 0.8]
    expected = [*[1.0] * 6, *fade[::-1], *[0.0] * 10, *fade, *[1.0] * 6, *[0.0] * 4, *fade, 1, 1]
    assert track.weights.tolist() == pytest.approx(expected)
