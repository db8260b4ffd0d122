"""Blinks and gaze: against closed forms, drawn eyes of known colours, and turned pictures."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from talkingface.faces import choose_face
from talkingface.landmarks import BROWS_LOWER, EYE_LIDS, IRISES, MIRROR_MESH, reference_mesh
from talkingface.picture import read
from talkingface.render.eyes import EyeRenderer
from talkingface.render.glasses import wears_glasses

UNIT, MIDDLE = 200.0, np.array([230.0, 160.0])  # pixels between the eyes, and their middle
SHAPE = (420, 460)
SKIN, WHITE, BLUE = (190, 140, 110), (245, 245, 245), (20, 60, 200)
STILL = np.zeros(2, np.float32)


def both(value: float) -> np.ndarray:
    return np.full(2, value, np.float32)


def pair(first: float, second: float) -> np.ndarray:
    return np.array([first, second], np.float32)


@pytest.fixture(scope="module")
def mesh() -> np.ndarray:
    """(478, 2) pixels: a neutral face whose irises are small and in the middle of their eyes."""
    out = np.asarray(reference_mesh() * UNIT + MIDDLE)
    for lids, iris in zip(EYE_LIDS, IRISES, strict=True):
        width = np.linalg.norm(out[lids[0, -1]] - out[lids[0, 0]])
        around = np.array([(0, 0), (1, 0), (0, -1), (-1, 0), (0, 1)]) * 0.1 * width
        out[iris] = out[lids[:, 4]].mean(0) + around
    return out


def drawn(
    mesh: np.ndarray,
    skin: tuple[int, int, int] = SKIN,
    white: tuple[int, int, int] = WHITE,
    iris: tuple[int, int, int] = BLUE,
    shape: tuple[int, int] = SHAPE,
) -> np.ndarray:
    """A face of one colour with two eyes, drawn four times as large and averaged."""
    large = np.full((shape[0] * 4, shape[1] * 4, 3), skin, np.uint8)
    for lids, points in zip(EYE_LIDS, IRISES, strict=True):
        ring = np.concatenate([mesh[lids[0]], mesh[lids[1, -2:0:-1]]])
        eye = np.zeros(large.shape[:2], np.uint8)
        cv2.fillPoly(eye, [np.rint((ring + 0.5) * 4 - 0.5).astype(np.int32)], 1)
        centre = np.rint((mesh[points[0]] + 0.5) * 4 - 0.5).astype(int)
        radius = np.linalg.norm(mesh[points[1]] - mesh[points[0]])
        disc = np.zeros_like(eye)
        cv2.circle(disc, centre.tolist(), round(radius * 4), 1, -1)
        large[eye == 1] = white
        large[(eye == 1) & (disc == 1)] = iris
    small = cv2.resize(large, shape[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (*SHAPE, 3), dtype=np.uint8)


def drawn_by(
    picture: np.ndarray, mesh: np.ndarray, lids: np.ndarray, gaze: np.ndarray = STILL
) -> np.ndarray:
    out = picture.copy()
    EyeRenderer(picture, mesh).draw(out, lids, gaze)
    return out


def line(mesh: np.ndarray, side: int, lid: int, x: np.ndarray) -> np.ndarray:
    """y of a lid's line, straight between the points; the eyes are nearly level here."""
    points = mesh[EYE_LIDS[side, lid]]
    return np.asarray(np.interp(x, points[:, 0], points[:, 1]))


def width(mesh: np.ndarray, side: int) -> float:
    ends = mesh[EYE_LIDS[side, 0, [0, -1]]]
    return float(np.linalg.norm(ends[1] - ends[0]))


def visible(picture: np.ndarray) -> int:
    """Count the pixels that look like an eyeball: white or blue, rather than skin."""
    colours = np.array([SKIN, WHITE, BLUE], float)
    off = np.linalg.norm(picture[:, :, None].astype(float) - colours, axis=-1)
    return int((off.argmin(-1) > 0).sum())


def turned(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


# --- what stays -----------------------------------------------------------------------------------


def test_no_motion_changes_no_byte(mesh: np.ndarray) -> None:
    for picture in (drawn(mesh), noise()):
        before = picture.copy()
        renderer = EyeRenderer(picture, mesh)
        assert renderer.blinks.all()
        out = picture.copy()
        renderer.draw(out, STILL, STILL)
        assert np.array_equal(out, before)
        renderer.draw(out, both(1), pair(0.05, 0.02))
        assert (out != before).any() and np.array_equal(picture, before)
        again = before.copy()
        renderer.draw(again, STILL, STILL)
        assert np.array_equal(again, before)  # nothing is remembered


@pytest.mark.parametrize("closure", [-0.15, 0.3, 1.0])
def test_only_the_lids_and_what_is_between_them_change(mesh: np.ndarray, closure: float) -> None:
    picture = noise()
    changed = (drawn_by(picture, mesh, both(closure), pair(0.04, 0.02)) != picture).any(-1)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    near = np.zeros(SHAPE, bool)
    for side in range(2):
        corners = mesh[EYE_LIDS[side, 0, [0, -1]], 0]
        brow = mesh[BROWS_LOWER[side]]
        brow = brow[np.argsort(brow[:, 0])]
        below_brow = y > np.interp(x, brow[:, 0], brow[:, 1]) + 1
        above_cheek = y < line(mesh, side, 1, x) + 0.3 * width(mesh, side)
        # The eyes slant by 5 degrees.
        near |= below_brow & above_cheek & (x > corners[0] - 5) & (x < corners[1] + 5)
    assert changed.sum() > 2000
    assert changed.sum() > 2000
    assert not (changed & ~near).any()


def test_one_eye_alone(mesh: np.ndarray) -> None:
    picture = noise()
    for side in range(2):
        lids = np.zeros(2, np.float32)
        lids[side] = 1
        changed = (drawn_by(picture, mesh, lids) != picture).any((0, 2))
        assert changed.any() and (np.flatnonzero(changed) > MIDDLE[0]).all() == bool(side)


def test_the_eyeball_stays_where_it_is(mesh: np.ndarray) -> None:
    """Between the lids and their shadow it is the picture's, byte for byte."""
    picture = noise()
    out = drawn_by(picture, mesh, both(0.25))
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    for side in range(2):
        size = width(mesh, side)
        upper, lower = (line(mesh, side, lid, x) for lid in range(2))
        opening = lower - upper
        edge = upper + 0.25 * 0.88 * opening + 0.25**2 * 0.06 * size
        seen = (y > edge + 0.1 * size) & (y < lower - 0.25 * 0.12 * opening - 4)
        assert seen.sum() > 100
        assert np.array_equal(out[seen], picture[seen])


# --- lids -----------------------------------------------------------------------------------------


def test_a_shut_eye_shows_no_eyeball(mesh: np.ndarray) -> None:
    picture = drawn(mesh)
    shares = [
        visible(drawn_by(picture, mesh, both(c))) / visible(picture) for c in np.linspace(0, 1, 11)
    ]
    assert shares[0] == 1 and shares[-1] < 0.001  # a pixel of a corner
    assert 0.35 < shares[5] < 0.5
    assert all(later < earlier for earlier, later in pairwise(shares[:10]))
    assert visible(drawn_by(picture, mesh, both(-0.15))) > 1.05 * visible(picture)
    shut = drawn_by(picture, mesh, both(1))
    assert np.array_equal(drawn_by(picture, mesh, both(3)), shut)


@pytest.mark.parametrize("closure", [0.2, 0.4, 0.6])
def test_the_edge_of_the_upper_lid_is_where_it_is_asked_to_be(
    mesh: np.ndarray, closure: float
) -> None:
    """88 % of the opening times the closure, and an overlap times its square; a margin lower."""
    out = drawn_by(drawn(mesh, iris=WHITE), mesh, both(closure))[..., 2].astype(float)
    halfway = (SKIN[2] + WHITE[2]) / 2
    for side in range(2):
        size, middle = width(mesh, side), mesh[EYE_LIDS[side, 0], 0].mean()
        for x in np.rint(middle + np.array([-0.15, 0, 0.15]) * size).astype(int):
            upper, lower = (float(line(mesh, side, lid, np.array(x))) for lid in range(2))
            expected = upper + closure * 0.88 * (lower - upper) + (closure**2 * 0.06 + 0.015) * size
            rows = np.arange(int(upper) - 5, int(lower) - 4)
            column = out[rows, x]
            first = int(np.flatnonzero(column > halfway)[0])
            part = (halfway - column[first - 1]) / (column[first] - column[first - 1])
            assert rows[first - 1] + part == pytest.approx(expected, abs=1.5)


def test_the_lid_is_of_the_skins_colour(mesh: np.ndarray) -> None:
    for skin, white in ((SKIN, WHITE), ((58, 40, 32), (150, 140, 135)), ((90, 160, 90), WHITE)):
        picture = drawn(mesh, skin=skin, white=white, iris=(25, 18, 15))
        renderer = EyeRenderer(picture, mesh)
        assert renderer.blinks.all()
        out = picture.copy()
        renderer.draw(out, both(1), STILL)
        for side in range(2):
            x, y = mesh[EYE_LIDS[side, :, 4]].mean(0)
            lid = out[int(y) - 8 : int(y), int(x) - 15 : int(x) + 15].astype(float)
            assert np.abs(lid - skin).max() <= 6


def test_lashes_move_with_the_edge(mesh: np.ndarray) -> None:
    """A dark line along the lid is as dark and as long at half the way, and no copy stays."""
    picture = drawn(mesh)
    ink = (20, 15, 15)
    for lids in EYE_LIDS:
        points = np.rint(mesh[lids[0, 2:-2]] * 16).astype(np.int32)
        cv2.polylines(picture, [points], False, ink, 3, cv2.LINE_AA, 4)
    out = drawn_by(picture, mesh, both(0.5))
    for side in range(2):
        size, x = width(mesh, side), int(mesh[EYE_LIDS[side, 0], 0].mean() + 0.25 * UNIT * 0.2)
        upper, lower = (float(line(mesh, side, lid, np.array(x))) for lid in range(2))
        edge = upper + 0.5 * 0.88 * (lower - upper) + 0.5**2 * 0.06 * size
        rows = np.arange(int(upper) - 15, int(lower) - 3)
        dark = rows[out[rows, x].mean(-1) < 70]
        assert len(dark) > 0 and np.abs(dark - edge).max() < 4
        assert np.abs(out[int(upper) - 2 : int(upper) + 2, x].astype(int) - SKIN).max() < 12


# --- gaze -----------------------------------------------------------------------------------------


def iris_middle(picture: np.ndarray, mesh: np.ndarray, side: int) -> np.ndarray:
    """Centroid of what is blue in one eye."""
    points = mesh[EYE_LIDS[side]].reshape(-1, 2)
    (x0, y0), (x1, y1) = points.min(0).astype(int), points.max(0).astype(int) + 1
    part = picture[y0:y1, x0:x1].astype(float)
    blue = np.clip((WHITE[0] - part[..., 0]) / (WHITE[0] - BLUE[0]), 0, 1) * (part[..., 2] > 170)
    y, x = np.mgrid[y0:y1, x0:x1]
    return np.array([(blue * x).sum() / blue.sum(), (blue * y).sum() / blue.sum()])


@pytest.mark.parametrize("gaze", [(0.05, 0.0), (-0.05, 0.0), (0.0, 0.04), (0.0, -0.04)])
def test_gaze_moves_the_iris_by_so_many_eye_widths(
    mesh: np.ndarray, gaze: tuple[float, float]
) -> None:
    picture = drawn(mesh)
    out = drawn_by(picture, mesh, STILL, pair(*gaze))
    for side in range(2):
        lids = mesh[EYE_LIDS[side, 0, [0, -1]]]
        right = (lids[1] - lids[0]) / width(mesh, side)
        axes = np.array([right, [-right[1], right[0]]])
        step = iris_middle(out, mesh, side) - iris_middle(picture, mesh, side)
        assert step / width(mesh, side) == pytest.approx(np.array(gaze) @ axes, abs=0.008)


def test_gaze_leaves_the_lids_and_no_hole(mesh: np.ndarray) -> None:
    """However far it is asked to go: the iris stays in its opening, and nothing else is changed."""
    picture = drawn(mesh)
    limits = EyeRenderer(picture, mesh).gaze_limits
    assert (limits[0] < -0.04).all() and (limits[1] > 0.04).all()
    inside = np.zeros(SHAPE, np.uint8)
    for lids in EYE_LIDS:
        ring = np.concatenate([mesh[lids[0]], mesh[lids[1, ::-1]]])
        cv2.fillPoly(inside, [np.rint(ring).astype(np.int32)], 1)
    for gaze in ((9.0, 0.0), (-9.0, 0.0), (0.0, 9.0), (0.0, -9.0), (9.0, -9.0)):
        out = drawn_by(picture, mesh, STILL, pair(*gaze))
        changed = (out != picture).any(-1)
        assert changed.any() and not (changed & (cv2.dilate(inside, np.ones((3, 3))) == 0)).any()
        blue, own = ((p[..., 0] < 100).sum() for p in (out, picture))
        assert blue == pytest.approx(own, rel=0.3)  # squeezed where it meets a lid


# --- eyes that are left alone ---------------------------------------------------------------------


def test_shut_eyes_stay_as_they_are(mesh: np.ndarray) -> None:
    shut = mesh.copy()
    shut[EYE_LIDS[0, 0]] = shut[EYE_LIDS[0, 1]]
    for picture in (drawn(shut), noise()):
        renderer = EyeRenderer(picture, shut)
        assert renderer.blinks.tolist() == [False, True]
        out = picture.copy()
        renderer.draw(out, pair(1, 0), STILL)
        assert np.array_equal(out, picture)


def test_narrow_eyes_blink_less_far(mesh: np.ndarray) -> None:
    def moved(share: float) -> int:
        narrow = mesh.copy()
        upper, lower = (narrow[EYE_LIDS[:, lid]] for lid in range(2))
        narrow[EYE_LIDS[:, 0]] = lower + share * (upper - lower)
        picture = drawn(narrow)
        out = drawn_by(picture, narrow, both(1))
        return int((np.abs(out.astype(int) - picture).max(-1) > 8).sum())

    changed = [moved(share) for share in (0.1, 0.4, 0.7, 1.0)]
    assert changed[0] == 0 and all(first < second for first, second in pairwise(changed))


def test_sunglasses_are_left_alone(mesh: np.ndarray) -> None:
    for lens in ((18, 18, 20), (30, 22, 14), (20, 60, 200)):
        picture = drawn(mesh)
        for lids in EYE_LIDS:
            x, y = mesh[lids.ravel()].mean(0)
            cv2.ellipse(picture, (int(x), int(y)), (75, 62), 0, 0, 360, lens, -1, cv2.LINE_AA)
            cv2.circle(picture, (int(x) + 25, int(y) - 25), 9, (200, 210, 220), -1, cv2.LINE_AA)
        renderer = EyeRenderer(picture, mesh)
        assert not renderer.blinks.any() and not renderer.gaze_limits.any()
        out = picture.copy()
        renderer.draw(out, both(1), pair(0.05, 0.05))
        assert np.array_equal(out, picture)


# --- any place and size ---------------------------------------------------------------------------


def test_a_mirrored_face_is_drawn_mirrored(mesh: np.ndarray) -> None:
    picture = cv2.GaussianBlur(noise(), (0, 0), 2)
    picture = np.where(drawn(mesh) == SKIN, picture, drawn(mesh)).astype(np.uint8)
    other = (mesh * [-1, 1] + [SHAPE[1] - 1, 0])[MIRROR_MESH]
    lids, gaze = pair(0.7, 0.3), pair(0.04, 0.02)
    out = drawn_by(picture, mesh, lids, gaze)
    mirrored = np.ascontiguousarray(picture[:, ::-1])
    expected = drawn_by(mirrored, other, lids[::-1], gaze * np.array([-1, 1], np.float32))[:, ::-1]
    off = np.abs(out.astype(int) - expected)
    assert off.max() <= 3 and off.mean() < 0.02


@pytest.mark.parametrize("degrees", [90, -90, 180, 40])
def test_a_tilted_face_is_drawn_as_the_upright_one(mesh: np.ndarray, degrees: int) -> None:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.array([[c, -s, 0], [s, c, 0]])
    matrix[:, 2] = [300, 300] - matrix[:, :2] @ MIDDLE

    def turn(picture: np.ndarray) -> np.ndarray:
        flags = cv2.INTER_CUBIC
        return np.asarray(
            cv2.warpAffine(picture, matrix, (600, 600), flags=flags, borderValue=SKIN)
        )

    picture = drawn(mesh)
    expected = turn(drawn_by(picture, mesh, both(0.5), pair(0.04, 0.0)))
    tilted = drawn_by(turn(picture), turned(mesh, matrix), both(0.5), pair(0.04, 0.0))
    off = np.abs(expected.astype(int) - tilted).max(-1)
    changed = (expected != turn(picture)).any(-1)
    assert off[~changed].max() <= 40 and off[changed].mean() < 6
    assert np.quantile(off[changed], 0.98) < 60


def test_eyes_at_the_border(mesh: np.ndarray) -> None:
    """An eye that is mostly in the picture blinks, one outside of it does not."""
    picture = drawn(mesh)
    x = mesh[EYE_LIDS[0, 0], 0]
    for cut, blinks in ((int(x.min()) + 15, True), (int(x.max()) - 15, False)):
        part = np.ascontiguousarray(picture[:, cut:])
        renderer = EyeRenderer(part, mesh - [cut, 0])
        assert renderer.blinks.tolist() == [blinks, True]
        out = part.copy()
        renderer.draw(out, both(1), pair(0.05, 0))
        end = int(x.max()) + 5 - cut
        left = visible(out[:, :end])
        assert left <= 1 if blinks else np.array_equal(out[:, :end], part[:, :end])
        assert visible(out[:, end:]) <= 1
    for place in ([-900, 0], [0, 5000], [0, -160]):
        out = drawn_by(picture, mesh + place, both(1), pair(0.05, 0.05))
        assert out.shape == picture.shape


@pytest.mark.parametrize("unit", [14.0, 60.0, 400.0])
def test_eyes_of_any_size(mesh: np.ndarray, unit: float) -> None:
    """From 6 pixels wide to 180."""
    scale = unit / UNIT
    own = (mesh + 0.5) * scale - 0.5
    shape = int(SHAPE[0] * scale), int(SHAPE[1] * scale)
    picture = drawn(own, shape=shape)
    shut = visible(drawn_by(picture, own, both(1)))
    assert shut <= 0.02 * visible(picture)


def test_meshes_that_are_no_face(mesh: np.ndarray) -> None:
    picture = noise()
    flat = np.broadcast_to(MIDDLE, mesh.shape)
    wild = mesh + np.random.default_rng(1).normal(0, 40, mesh.shape)
    upside = mesh * [1, -1] + [0, SHAPE[0]]
    for other in (flat, wild, upside, mesh * 0.01, mesh * np.nan):
        for size in (SHAPE, (1, 1), (2, 40)):
            part = np.ascontiguousarray(picture[: size[0], : size[1]])
            renderer = EyeRenderer(part, other)
            out = part.copy()
            renderer.draw(out, both(0.6), pair(0.05, 0.05))
            renderer.draw(out, both(-0.1), pair(-0.05, 0.05))
            assert out.shape == part.shape


# --- glasses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("eyes", [50, 120, 700])
@pytest.mark.parametrize("tilt", [0.0, 1.2])
def test_a_bridge_across_the_nose_is_glasses(eyes: int, tilt: float) -> None:
    """Bars of any skin and frame count; bare noses, a nose's shading and a dark face do not."""
    c, s = np.cos(tilt), np.sin(tilt)
    turn = eyes * np.array([[c, s], [-s, c]])
    mesh = reference_mesh() @ turn + 2 * eyes
    for skin, frame, expected in ((200, 30, True), (40, 160, True), (200, 200, False)):
        picture = np.full((4 * eyes, 4 * eyes, 3), skin, np.uint8)
        ends = np.array([(-0.2, 0.0), (0.2, 0.0)]) @ turn + 2 * eyes
        first, last = np.rint(ends).astype(int).tolist()
        cv2.line(picture, first, last, (frame,) * 3, max(2, eyes // 25), cv2.LINE_AA)
        assert wears_glasses(picture, mesh) == expected
    slope = np.linspace(90, 170, 4 * eyes).astype(np.uint8)
    shaded = np.repeat(np.repeat(slope[:, None], 4 * eyes, 1)[..., None], 3, 2)
    assert not wears_glasses(shaded, mesh)


def test_people_of_the_examples_wear_none(portrait: Path) -> None:
    shown = read(portrait)
    assert not wears_glasses(shown, choose_face(shown).mesh[:, :2])
