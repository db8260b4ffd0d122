"""The whole head of a frame moved: against rotations in closed form, and what must stay."""

from __future__ import annotations

import numpy as np
import pytest

from talkingface.landmarks import (
    BROWS_UPPER,
    EARS,
    JOINT,
    LID_TOPS,
    reference_depth,
    reference_mesh,
)
from talkingface.render.head import BROW_LARGEST, LARGEST, HeadRenderer

UNIT, SIZE = 60.0, (520, 480, 3)  # pixels between the eyes; of the picture
MIDDLE = np.array([240.0, 220.0])
INSIDE = (1, 4, 33, 133, 263, 362, 61, 291, 205, 425, 151)  # nose, eyes, mouth, cheeks, forehead
NOTHING = np.zeros(6, np.float32)
CALM = np.zeros(2, np.float32)


def renderer(tilt: float = 0.0) -> tuple[HeadRenderer, np.ndarray]:
    """A mean face in the middle of a picture, turned by `tilt` radians in it; its mesh (478, 2)."""
    c, s = np.cos(tilt), np.sin(tilt)
    mesh = UNIT * reference_mesh() @ np.array([[c, s], [-s, c]]) + MIDDLE
    return HeadRenderer(SIZE, mesh, UNIT * reference_depth()), mesh


def places() -> np.ndarray:
    """(H, W, 3) float32: every pixel says where it is."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    return np.stack([x, y, np.zeros_like(x)], -1)


def came_from(made: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the sources of the pixels at (N, 2), bilinear."""
    low = np.floor(at).astype(int)
    a, b = (at - low).T[..., None]
    x, y = low.T
    top = made[y, x] * (1 - a) + made[y, x + 1] * a
    bottom = made[y + 1, x] * (1 - a) + made[y + 1, x + 1] * a
    return np.asarray((top * (1 - b) + bottom * b)[:, :2])


def turned(pitch: float = 0, yaw: float = 0, roll: float = 0) -> np.ndarray:
    """(478, 2): the face's points, interocular, after one rotation about the joint."""
    depth = reference_depth() - reference_depth()[list(EARS)].mean()
    x, y, z = *(reference_mesh() - JOINT).T, depth
    if yaw:
        x = x * np.cos(yaw) - z * np.sin(yaw)
    if pitch:
        y = y * np.cos(pitch) - z * np.sin(pitch)
    if roll:
        x, y = x * np.cos(roll) - y * np.sin(roll), x * np.sin(roll) + y * np.cos(roll)
    return np.column_stack([x, y]) + JOINT


def asked(value: float, index: int) -> float:
    """Return the value drawn for one that is asked for: LARGEST is softly approached."""
    return float(LARGEST[index] * np.tanh(value / LARGEST[index]))


@pytest.mark.parametrize("tilt", [0.0, 0.6, -1.5])
@pytest.mark.parametrize("index, name", [(0, "pitch"), (1, "yaw"), (2, "roll")])
def test_points_go_where_a_rotation_brings_them(index: int, name: str, tilt: float) -> None:
    head, mesh = renderer(tilt)
    for angle in (0.08, -0.05):
        move = NOTHING.copy()
        move[index] = angle
        made = head.draw(places(), move, CALM)
        c, s = np.cos(tilt), np.sin(tilt)
        there = UNIT * turned(**{name: asked(angle, index)}) @ np.array([[c, s], [-s, c]]) + MIDDLE
        points = list(INSIDE)
        off = came_from(made, there[points]) - mesh[points]
        step = np.abs(there[points] - mesh[points]).max()
        assert step > 1.5
        assert np.abs(off).max() < 0.1 * step + 0.25  # the grid's triangles are a little blurred


def test_a_nod_brings_the_nose_down_and_a_turn_to_the_right() -> None:
    head, mesh = renderer()
    for index, axis in ((0, 1), (1, 0)):
        move = NOTHING.copy()
        move[index] = 0.1
        source = came_from(head.draw(places(), move, CALM), mesh[[4]])[0]
        assert source[axis] < mesh[4, axis] - 1  # what is there now came from above, or the left


def test_shift_and_size_are_those_asked_for() -> None:
    head, mesh = renderer()
    points = list(INSIDE)
    made = head.draw(places(), np.array([0, 0, 0, 0.05, -0.03, 0], np.float32), CALM)
    step = UNIT * np.array([asked(0.05, 3), asked(-0.03, 4)])
    assert np.allclose(came_from(made, mesh[points] + step), mesh[points], atol=0.1)
    made = head.draw(places(), np.array([0, 0, 0, 0, 0, 0.03], np.float32), CALM)
    joint = MIDDLE + UNIT * np.array(JOINT)
    grown = joint + (mesh[points] - joint) * np.exp(asked(0.03, 5))
    assert np.allclose(came_from(made, grown), mesh[points], atol=0.15)


def test_nothing_moves_without_motion_and_the_picture_outside_never() -> None:
    head, _ = renderer()
    frame = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)
    assert head.draw(frame, NOTHING, CALM) is frame
    made = head.draw(frame, np.full(6, 0.1, np.float32), np.full(2, 0.05, np.float32))
    moved = (made != frame).any(-1)
    assert moved.mean() > 0.2
    for border in (moved[0], moved[-1], moved[:, 0], moved[:, -1]):
        assert not border.any()
    assert not moved[-40:].any()  # the chest


def test_motion_is_bounded() -> None:
    head, _ = renderer()
    made = head.draw(places(), np.full(6, 50, np.float32), np.full(2, 50, np.float32))
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    step = np.hypot(made[..., 0] - x, made[..., 1] - y)
    assert np.isfinite(step).all() and step.max() < 0.8 * UNIT


def test_the_flow_is_smooth_outside_the_face() -> None:
    """A straight line behind the head bends, but does not break."""
    head, _ = renderer()
    made = head.draw(places(), np.array([0.1, 0.1, 0, 0, 0, 0], np.float32), CALM)
    stretch = np.abs(np.diff(made[..., 0], axis=1) - 1)
    outside = stretch[:, :80]  # left of the head
    assert outside.max() < 0.2


def test_brows_rise_and_lids_stay() -> None:
    head, mesh = renderer()
    raised = 0.05
    made = head.draw(places(), NOTHING, np.full(2, raised, np.float32))
    wanted = UNIT * BROW_LARGEST * np.tanh(raised / BROW_LARGEST)
    for brow, lid in zip(BROWS_UPPER, LID_TOPS, strict=True):
        middle = mesh[brow[1:4]]
        off = middle - [0, wanted]
        assert np.allclose(came_from(made, off)[:, 1], middle[:, 1], atol=0.25 * wanted)
        lids = mesh[[lid]]
        assert np.abs(came_from(made, lids) - lids).max() < 0.15 * wanted


def test_inner_and_outer_ends_of_brows_move_apart() -> None:
    head, mesh = renderer()
    made = head.draw(places(), NOTHING, np.array([0.05, 0], np.float32))
    for brow in BROWS_UPPER:
        outer, inner = (
            np.abs(came_from(made, mesh[[point]]) - mesh[[point]])[0, 1]
            for point in (brow[0], brow[-1])
        )
        assert inner > 4 * outer
