"""Faces: against MediaPipe's own numbers, and properties that hold for any picture."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.drawing import BOX, frog
from talkingface.errors import BadLandmarks, BadRequest, NoFaceFound
from talkingface.face_options import FaceOptions
from talkingface.faces import (
    Face,
    Located,
    Tracker,
    align,
    choose_face,
    face_in_box,
    find_faces,
    locate,
    overlay,
    pose,
    track,
    write_landmarks,
)
from talkingface.faces.given import given_landmarks, mean_face_in
from talkingface.geometry import CropSpec, transform
from talkingface.landmarks import IBUG, MEAN_FACE, MIRROR_MESH, eye_distance
from talkingface.types import Array, Picture

ROOT = Path(__file__).parent.parent
SPEC = CropSpec()


@pytest.fixture(scope="module")
def portrait() -> Picture:
    bgr = cv2.imread(str(ROOT / "examples" / "portrait.jpg"))
    assert bgr is not None
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


@pytest.fixture(scope="module")
def face(portrait: Picture) -> Face:
    return find_faces(portrait)[0]


def eyes_apart(landmarks: Array) -> float:
    return float(np.linalg.norm(landmarks[36:42].mean(0) - landmarks[42:48].mean(0)))


def distance(found: Array, expected: Array) -> float:
    """Mean over the points, as a part of the interocular distance."""
    return float(np.linalg.norm(found - expected, axis=1).mean()) / eyes_apart(expected)


def moved(picture: Picture, scale: float, degrees: float) -> tuple[Picture, Array]:
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, scale)
    out = cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out, dtype=np.uint8), np.asarray(matrix)


def canvas(height: int, width: int) -> Picture:
    noise = np.random.default_rng(0).integers(80, 120, (height, width, 3))
    return noise.astype(np.uint8)


def test_points_are_those_of_mediapipe(face: Face) -> None:
    pinned = json.loads((ROOT / "tests" / "fixtures" / "portrait_mesh.json").read_text())
    expected = np.array(pinned["mesh"])
    apart = eyes_apart(face.landmarks)
    off = np.abs(face.mesh - expected) / apart
    assert off.mean() < 0.004
    assert off[:, :2].max() < 0.02
    assert face.score > 0.95


def test_landmarks_are_in_ibug_order(face: Face) -> None:
    points = face.landmarks
    assert points.shape == (68, 2)
    left_eye, right_eye, mouth = points[36:42].mean(0), points[42:48].mean(0), points[48:].mean(0)
    assert left_eye[0] < points[30, 0] < right_eye[0]
    assert left_eye[1] < points[30, 1] < mouth[1] < points[8, 1]
    assert points[19, 1] < left_eye[1]
    assert points[0, 0] < left_eye[0] < right_eye[0] < points[16, 0]
    assert points[51, 1] < points[62, 1] <= points[66, 1] < points[57, 1]


def test_a_mirrored_picture_shows_the_mirrored_mesh(portrait: Picture, face: Face) -> None:
    found = find_faces(np.ascontiguousarray(portrait[:, ::-1]))[0].mesh
    mirrored = face.mesh[MIRROR_MESH] * [-1, 1, 1] + [portrait.shape[1] - 1, 0, 0]
    off = np.linalg.norm(found - mirrored, axis=1) / eyes_apart(face.landmarks)
    assert off.mean() < 0.04 and off.max() < 0.12
    unmirrored = face.mesh * [-1, 1, 1] + [portrait.shape[1] - 1, 0, 0]
    assert np.linalg.norm(found - unmirrored, axis=1).mean() > 0.5 * eyes_apart(face.landmarks)


@pytest.mark.parametrize(("scale", "degrees"), [(0.6, 0.0), (0.9, 12.0), (0.8, -25.0)])
def test_landmarks_move_with_the_picture(
    portrait: Picture, face: Face, scale: float, degrees: float
) -> None:
    turned, matrix = moved(portrait, scale, degrees)
    found = find_faces(turned)
    assert len(found) == 1
    assert distance(found[0].landmarks, transform(face.landmarks, matrix)) < 0.025


def test_largest_first_and_small_in_large(portrait: Picture) -> None:
    picture = canvas(2400, 3200)
    small, large = (cv2.resize(portrait, (side, side)) for side in (360, 900))
    picture[100:460, 2700:3060] = small
    picture[1300:2200, 300:1200] = large
    found = find_faces(picture)
    assert len(found) == 2
    assert found[0].box[2] > found[1].box[2]
    alone = find_faces(np.asarray(small, dtype=np.uint8))[0]
    assert distance(found[1].landmarks - [2700, 100], alone.landmarks) < 0.03


def test_face_that_fills_its_picture_or_is_cut(portrait: Picture, face: Face) -> None:
    x, y, width, height = (round(value) for value in face.box)
    filled = cv2.resize(portrait[y : y + height, x : x + width], (100, 100))
    assert len(find_faces(np.asarray(filled, dtype=np.uint8))) == 1
    cut = portrait[:, x + width // 10 :]
    found = find_faces(cut)
    assert len(found) == 1
    assert distance(found[0].landmarks + np.array([x + width // 10, 0]), face.landmarks) < 0.05


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (90, 3000), (300, 300)])
def test_no_face_no_answer(shape: tuple[int, int]) -> None:
    picture = canvas(*shape)
    assert find_faces(picture) == []
    assert Tracker().update(picture) is None
    with pytest.raises(
        NoFaceFound, match=rf"me\.png: no face found in {shape[1]}x{shape[0]} pixels.*--face"
    ):
        choose_face(picture, name="me.png")


def test_huge_picture_is_searched_shrunk(portrait: Picture) -> None:
    picture = np.zeros((6000, 6000, 3), np.uint8)
    picture[2000:5000, 2000:5000] = cv2.resize(portrait, (3000, 3000))
    found = find_faces(picture)
    assert len(found) == 1
    assert found[0].box[2] > 1000


def test_choose_by_number_or_box(portrait: Picture, face: Face) -> None:
    assert choose_face(portrait, number=1).box == face.box
    with pytest.raises(NoFaceFound, match=r"picture: no face number 2, there is 1 face"):
        choose_face(portrait, number=2)
    boxed = face_in_box(portrait, face.box)
    assert boxed is not None and distance(boxed.landmarks, face.landmarks) < 0.02
    located = locate(portrait, box=face.box)
    assert located.origin == "detector" and located.note is None
    assert np.array_equal(located.landmarks, boxed.landmarks)


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((9000.0, 0.0, 50.0, 50.0), r"9000,0,50,50 is outside the picture, which is 768x768"),
        ((-60.0, 10.0, 50.0, 50.0), r"-60,10,50,50 is outside the picture"),
        ((10.0, 10.0, 0.0, 50.0), r"10,10,0,50 is too small: .*at least 16x16"),
        ((10.0, 10.0, 50.0, 15.0), r"10,10,50,15 is too small"),
        ((10.0, float("nan"), 50.0, 50.0), r"10,nan,50,50 is too small"),
    ],
)
def test_a_box_that_holds_no_face(
    portrait: Picture, box: tuple[float, float, float, float], says: str
) -> None:
    with pytest.raises(NoFaceFound, match=rf"x\.jpg: the face box {says}"):
        locate(portrait, box=box, name="x.jpg")


def test_the_mean_face_is_laid_into_a_box_without_a_face() -> None:
    for picture, box in ((canvas(200, 200), (50.0, 50.0, 100.0, 100.0)), (frog(), BOX)):
        assert face_in_box(picture, box) is None
        located = locate(picture, box=box)
        assert located.origin == "mean face" and "mean face" in str(located.note)
        assert np.array_equal(located.landmarks, mean_face_in(box))
        crop = align(picture, located, SPEC)
        assert np.abs(crop.landmarks * 128 - SPEC.template()).max() < 1e-3


def test_the_mean_face_fits_like_a_found_one(portrait: Picture, face: Face) -> None:
    assert distance(mean_face_in(face.box), face.landmarks) < 0.12
    for box in ((10.0, 20.0, 300.0, 90.0), (10.0, 20.0, 90.0, 300.0)):
        x, y, width, height = box
        points = mean_face_in(box)
        low, high = points.min(0), points.max(0)
        assert x <= low[0] and high[0] <= x + width and y <= low[1] and high[1] <= y + height
        assert (low[0] + high[0]) / 2 == pytest.approx(x + width / 2)
        unit = eyes_apart(points) / eyes_apart(MEAN_FACE)
        assert unit == pytest.approx(min(width / 2.15, height / 2.594))  # as large as it can be
        shape = (points - points.mean(0)) / unit - (MEAN_FACE - MEAN_FACE.mean(0))
        assert np.abs(shape).max() < 1e-9  # not stretched


def test_a_box_on_a_drawing_is_not_answered_with_the_photograph_beside_it(
    portrait: Picture,
) -> None:
    both = np.concatenate([frog()[:, 60:260], cv2.resize(portrait, (300, 300))], axis=1)
    x, y, width, height = BOX
    box = (x - 60, y, width, height)
    assert locate(np.asarray(both, np.uint8), box=box).origin == "mean face"


def test_given_landmarks_come_back_exactly(face: Face, tmp_path: Path) -> None:
    path = tmp_path / "points.json"
    write_landmarks(path, face.landmarks, {"picture": 'a "b".jpg', "size": [768, 768]}, False)
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["picture"] == 'a "b".jpg' and written["size"] == [768, 768]
    assert np.array_equal(np.array(written["landmarks"]), face.landmarks)
    assert np.array_equal(given_landmarks(path, 768, 768), face.landmarks)
    path.write_text("\ufeff" + json.dumps(written["landmarks"]), encoding="utf-8")
    assert np.array_equal(given_landmarks(str(path), 768, 768), face.landmarks)
    assert np.array_equal(given_landmarks(face.landmarks, 768, 768), face.landmarks)


def test_a_face_however_turned_is_a_face() -> None:
    for turn in np.linspace(0, 2 * np.pi, 7):
        c, s = np.cos(turn), np.sin(turn)
        points = MEAN_FACE @ np.array([[c, s], [-s, c]]) * [8.0, 12.0] + 60
        assert np.array_equal(given_landmarks(points, 120, 120), points)


def test_landmarks_that_no_face_has() -> None:
    good = MEAN_FACE * 100 + 150
    wrong = good.copy()
    wrong[3, 1], wrong[60, 0] = 400.6, -0.6
    nan = good.copy()
    nan[5] = np.nan
    line = np.stack([np.arange(68.0), np.arange(68.0)], axis=1)
    cases = {
        "5 points found, 68 expected": good[:5],
        "2 of 68 points lie outside the picture, which is 300x400 pixels": wrong,
        "1 of 68 points are NaN": nan,
        "all points lie within 0x0 pixels": np.full((68, 2), 50.0),
        "all points lie within 0.215x0.214 pixels": MEAN_FACE / 10 + 0.5,
        "all points lie on one line": line,
        r"give \[x, y\], not \[y, x\]": (MEAN_FACE * 60 + 120)[:, ::-1],
        r"point 0 is 150.0; expected \[x, y\]": good[:, 1] * 0 + 150,
    }
    for says, points in cases.items():
        with pytest.raises(BadLandmarks, match=f"landmarks: .*{says}"):
            given_landmarks(points, 300, 400)


def test_only_one_way_to_say_where(face: Face) -> None:
    for choice in (FaceOptions(box=face.box), FaceOptions(face=1)):
        with pytest.raises(BadRequest, match="not both"):
            replace(choice, landmarks=face.landmarks).check()


def test_the_overlay_marks_every_point(portrait: Picture, face: Face) -> None:
    grey = np.full((400, 300, 3), 128, np.uint8)
    points = MEAN_FACE * 100 + [150, 150]
    shown = overlay(grey, points)
    factor = shown.shape[0] // 400
    assert factor > 1 and shown.shape == (400 * factor, 300 * factor, 3)
    for x, y in points:
        pixel = shown[round((y + 0.5) * factor - 0.5), round((x + 0.5) * factor - 0.5)]
        assert pixel[1] > 150 and pixel[0] < 80 and pixel[2] < 80
    assert (shown == 128).all(2).mean() > 0.9
    wide = np.zeros((40, 4000, 3), np.uint8)
    assert overlay(wide, points / 10).shape == wide.shape


def test_aligned_crop_is_found_again_in_place(portrait: Picture, face: Face) -> None:
    aligned = align(portrait, face, SPEC)
    assert aligned.crop.shape == (128, 128, 3)
    assert aligned.landmarks.dtype == aligned.mesh.dtype == np.float32
    assert np.array_equal(aligned.mesh[IBUG], aligned.landmarks)
    located = align(portrait, Located(face.landmarks, "given"), SPEC)
    assert np.array_equal(located.mesh[IBUG], aligned.landmarks)
    off = np.linalg.norm(located.mesh - aligned.mesh, axis=1) / eye_distance(aligned.mesh)
    assert off.mean() < 0.04
    again = find_faces(aligned.crop)
    assert len(again) == 1
    assert distance(again[0].landmarks / 128, aligned.landmarks.astype(np.float64)) < 0.02
    eyes = aligned.landmarks[36:48].mean(0)
    assert np.abs(eyes - [0.5, SPEC.eye_y]).max() < 0.03


def test_tracker_follows_loses_and_finds(portrait: Picture, face: Face) -> None:
    tracker = Tracker()
    steps = [moved(portrait, 0.7, degrees) for degrees in (0.0, 4.0, 8.0)]
    for picture, matrix in steps:
        found = tracker.update(picture)
        assert found is not None
        assert distance(found.landmarks, transform(face.landmarks, matrix)) < 0.025
    assert tracker.update(canvas(*portrait.shape[:2])) is None
    assert tracker.update(portrait) is not None


def test_track_bridges_a_gap(portrait: Picture) -> None:
    small = np.asarray(cv2.resize(portrait, (256, 256)), dtype=np.uint8)
    clip = [np.roll(small, 2 * step, axis=1) for step in range(6)]
    clip[2] = canvas(256, 256)
    seen = track(iter(clip), SPEC)
    assert seen.found.tolist() == [True, True, False, True, True, True]
    assert seen.crops.shape == (6, 128, 128, 3)
    assert seen.landmarks.shape == (6, 68, 2)
    assert seen.mesh.dtype == np.float32
    assert np.array_equal(seen.mesh[:, IBUG], seen.landmarks)
    middle = (seen.landmarks[1] + seen.landmarks[3]) / 2
    assert np.abs(seen.landmarks[2] - middle).max() < 0.02
    spread = seen.landmarks[:, 36:48].mean(1).std(0).max()
    assert spread < 0.01  # the crop follows the face


def test_natural_pose_keeps_the_motion(portrait: Picture) -> None:
    small = np.asarray(cv2.resize(portrait, (256, 256)), dtype=np.uint8)
    clip = [np.roll(small, 3 * step, axis=1) for step in range(5)]
    seen = track(clip, SPEC, natural_pose=True)
    assert (seen.matrices == seen.matrices[0]).all()
    scale = float(np.hypot(*seen.matrices[0][:, 0]))
    walked = (seen.landmarks[4] - seen.landmarks[0])[:, 0].mean() * SPEC.size
    assert walked == pytest.approx(12 * scale, rel=0.1)


def test_track_without_a_face_says_so() -> None:
    with pytest.raises(NoFaceFound, match=r"no face found in any of 2 frames of 64x48 pixels"):
        track([canvas(48, 64)] * 2, SPEC)
    with pytest.raises(NoFaceFound, match=r"any of 0 frames"):
        track([], SPEC)


def rotation(axis: int, degrees: float) -> Array:
    """Right-handed about x, y or z."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    out = np.eye(3)
    a, b = (axis + 1) % 3, (axis + 2) % 3
    out[a, a], out[a, b], out[b, a], out[b, b] = c, -s, s, c
    return out


def test_pose_reads_rotations(face: Face) -> None:
    # x is right, y down, z away: turned about x (right-handed) a face looks down, about y to the
    # picture's left, about z it turns clockwise
    yaw, pitch, roll = pose(face.mesh)
    level = face.mesh @ np.linalg.inv(axes(face.mesh)).T
    yaw0, pitch0, roll0 = pose(level)
    assert abs(yaw0) < 1e-6
    assert abs(roll0) < 1e-6
    assert pose(level @ rotation(1, 20).T)[0] == pytest.approx(-20, abs=1e-6)
    assert pose(level @ rotation(0, 15).T)[1] == pytest.approx(pitch0 + 15, abs=1e-6)
    assert pose(level @ rotation(2, 10).T)[2] == pytest.approx(10, abs=1e-6)
    assert max(abs(yaw), abs(pitch), abs(roll)) < 15


def axes(mesh: Array) -> Array:
    """Columns: the head's own right, down and away."""
    across = (mesh[[454, 356, 263, 362]] - mesh[[234, 127, 33, 133]]).sum(0)
    down = (mesh[[152, 148, 377]] - mesh[[10, 109, 338]]).sum(0)
    across /= np.linalg.norm(across)
    down -= across * (across @ down)
    down /= np.linalg.norm(down)
    return np.stack([across, down, np.cross(across, down)], axis=1)


def test_import_loads_no_weights() -> None:
    script = (
        "import talkingface.faces, talkingface.faces.networks as n;"
        "print(n.mesh.cache_info().currsize + n.detector.cache_info().currsize)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "0"
