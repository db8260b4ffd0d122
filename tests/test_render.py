"""The picture bent along its mesh: against naive loops, closed forms and pictures drawn for it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from talkingface import geometry
from talkingface.data import expression_space as spaces
from talkingface.landmarks import (
    INNER_LIPS,
    INNER_PAIRS,
    LEFT_CORNER,
    RIGHT_CORNER,
    reference_mesh,
)
from talkingface.models.expression import ExpressionSpace
from talkingface.render.blend import Blender
from talkingface.render.crops import CropRenderer
from talkingface.render.face import FaceRenderer
from talkingface.render.mouth import MouthInterior
from talkingface.render.warp import LOWER, REACH, SURFACE, UPPER, MeshWarp, triangles

SPACE = Path(__file__).parent / "fixtures" / "expression_space.safetensors"
UNIT, MIDDLE = 100.0, np.array([200.0, 140.0])  # pixels between the eyes, and their middle
SHAPE = (400, 420)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
EVERY = np.arange(478)


@pytest.fixture(scope="module")
def space() -> ExpressionSpace:
    return spaces.load(SPACE).eval()


@pytest.fixture(scope="module")
def speaking(space: ExpressionSpace) -> np.ndarray:
    """The points that speech moves."""
    return space.points.numpy()


@pytest.fixture(scope="module")
def shut(space: ExpressionSpace) -> np.ndarray:
    """(478, 2) pixels: a neutral face whose lips touch exactly."""
    mesh = space.reference.double().numpy() * UNIT + MIDDLE
    mesh[INNER_PAIRS] = mesh[INNER_PAIRS].mean(1, keepdims=True)
    return mesh


@pytest.fixture(scope="module")
def speech(space: ExpressionSpace, shut: np.ndarray) -> list[np.ndarray]:
    """What the shut face becomes as it speaks: moderate, and ever wider open."""
    torch.manual_seed(1)
    expressions = 0.4 * torch.randn(4, space.components)
    expressions[:, 0] = torch.tensor([0.5, 1.0, 2.0, 3.0])
    mesh = torch.from_numpy(shut).float()[None]
    moved = space.move(mesh, torch.zeros(1, space.components), expressions[None])
    return list(moved[0].double().numpy())


class Painted:
    """What is behind the lips is of one colour."""

    def __init__(self, colour: tuple[int, int, int] = GREEN) -> None:
        self.colour = colour

    def draw(self, mesh: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
        return np.full((box[1] - box[0], box[3] - box[2], 3), self.colour, np.float32)


class Own:
    """What is behind the lips is what the picture itself shows there."""

    def __init__(self, picture: np.ndarray) -> None:
        self.picture = picture

    def draw(self, mesh: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
        return self.picture[box[0] : box[1], box[2] : box[3]].astype(np.float32)


def noise(shape: tuple[int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def smooth(shape: tuple[int, int] = SHAPE, x: float = 0, y: float = 0) -> np.ndarray:
    """Waves, slow enough for any interpolation; moved by (x, y), not rounded."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(float)
    rows, columns = rows - y, columns - x
    waves = (columns / 9 + rows / 31, rows / 11 - columns / 40, (rows + columns) / 15)
    return 127 + 90 * np.stack([np.sin(w) for w in waves], -1)


def rounded(picture: np.ndarray) -> np.ndarray:
    return np.rint(picture).astype(np.uint8)


def pixels(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """(H, W, 2): (x, y) of each."""
    return np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), -1).astype(float)


def distance(polygon: np.ndarray, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Of each pixel to a polygon's edge, negative outside."""
    points = polygon.astype(np.float32)[:, None]
    return np.array([
        [cv2.pointPolygonTest(points, (float(x), float(y)), True) for x in range(shape[1])]
        for y in range(shape[0])
    ])  # fmt: skip


def area(polygon: np.ndarray) -> float:
    """The shoelace formula."""
    x, y = polygon.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


# --- the triangles --------------------------------------------------------------------------------


def test_triangles_cover_the_face_once_and_leave_the_mouth_out() -> None:
    mesh, found = reference_mesh(), triangles()
    assert found.shape[1:] == (3,) and set(found.ravel()) == set(range(SURFACE))
    hull = cv2.convexHull(mesh[:SURFACE].astype(np.float32))[:, 0].astype(float)
    whole = sum(area(mesh[corners]) for corners in found)
    assert whole == pytest.approx(area(hull) - area(mesh[INNER_LIPS]), abs=1e-4)
    assert min(area(mesh[corners]) for corners in found) > 0
    middles = mesh[found].mean(1).astype(np.float32)
    mouth = mesh[INNER_LIPS].astype(np.float32)[:, None]
    inside = [cv2.pointPolygonTest(mouth, tuple(map(float, m)), False) for m in middles]
    assert max(inside) < 0


def test_no_triangle_joins_the_lips() -> None:
    """Between the corners, which both lips share, no edge goes from one inner lip to the other."""
    upper, lower = set(UPPER[1:-1].tolist()), set(LOWER[1:-1].tolist())
    assert len(upper) == len(lower) == 9 and not upper & lower
    for corners in triangles().tolist():
        assert not (upper & set(corners) and lower & set(corners))


# --- where pixels come from -----------------------------------------------------------------------


def test_no_motion_is_the_picture_to_the_bit(shut: np.ndarray, speaking: np.ndarray) -> None:
    picture = noise()
    for moving in (EVERY, speaking):
        face = FaceRenderer(picture, shut, moving, Painted())
        assert all(not flow.any() for flow in face.warp.flows(shut))
        assert np.array_equal(face.draw(shut), picture)
        opened = reference_mesh() * UNIT + MIDDLE
        face = FaceRenderer(picture, opened, moving, Own(picture))
        assert np.array_equal(face.draw(opened), picture)
    assert np.array_equal(picture, noise())


@pytest.mark.parametrize("step", [(3.0, -2.0), (-5.0, 4.0), (1.5, 2.25)])
def test_a_face_that_is_shifted_is_the_shifted_picture(
    shut: np.ndarray, step: tuple[float, float]
) -> None:
    out = FaceRenderer(rounded(smooth()), shut, EVERY, Painted()).draw(shut + step)
    hull = cv2.convexHull((shut[:SURFACE] + step).astype(np.float32))[:, 0]
    inside = distance(hull) > np.abs(step).max() + 6  # a node and a half from the fading edge
    assert inside.sum() > 20_000
    assert np.abs(out[inside] - smooth(x=step[0], y=step[1])[inside]).max() <= 2
    if all(part == int(part) for part in step):
        face = FaceRenderer(noise(), shut, EVERY, Painted())
        moved = np.roll(noise(), (int(step[1]), int(step[0])), axis=(0, 1))
        assert np.array_equal(face.draw(shut + step)[inside], moved[inside])


def test_where_pixels_come_from_goes_to_where_they_are(
    shut: np.ndarray, speech: list[np.ndarray], speaking: np.ndarray
) -> None:
    """The forward motion of each layer, read where `flows` says, leads back to the node."""
    warp = MeshWarp(shut, speaking)
    rows, columns = warp.region.shape
    for mesh in speech[:2]:
        step = (mesh - shut)[speaking]
        for layer, flow in zip(warp._layers, warp.flows(mesh), strict=True):
            forward = (layer @ step).reshape(rows, columns, 2).astype(np.float32)
            source = warp.region.nodes() + flow
            at = (source - [warp.region.box[2], warp.region.box[0]]) / warp.region.step
            x, y = np.moveaxis(at.astype(np.float32), -1, 0)
            there = cv2.remap(forward, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            assert np.abs(there).max() > 1.5
            assert np.abs(there + flow).max() < 0.05


def sources(point: np.ndarray, moved: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """Naive: by the affine map of every triangle that `point` lies in, once moved."""
    (a, b, c), (u, v, w) = (points[triangles()].transpose(1, 0, 2) for points in (moved, mesh))
    (x1, y1), (x2, y2), (x, y) = (b - a).T, (c - a).T, (point - a).T
    size = x1 * y2 - x2 * y1
    second, third = (x * y2 - x2 * y) / size, (x1 * y - x * y1) / size
    inside = (second >= 0) & (third >= 0) & (second + third <= 1)
    back = u + second[:, None] * (v - u) + third[:, None] * (w - u)
    return np.asarray(back[inside])


def test_pixels_come_from_where_their_triangles_say(
    shut: np.ndarray, speech: list[np.ndarray], speaking: np.ndarray
) -> None:
    """Against an affine map per triangle, one point after the other, in the lower face."""
    warp = MeshWarp(shut, speaking)
    for mesh in speech[:3]:
        flows = [warp.region.at_pixels(flow, warp.region.box) for flow in warp.flows(mesh)]
        below = warp.below(mesh).astype(np.float32)[:, None]
        rng, off = np.random.default_rng(3), []
        low, high = mesh[speaking].min(0), mesh[speaking].max(0)
        for place in rng.uniform(low, high, (400, 2)):
            point = np.rint(place)
            expected = sources(point, mesh, shut)
            if len(expected) != 1:
                continue
            at = tuple(map(float, point))
            flow = flows[int(cv2.pointPolygonTest(below, at, False) > 0)]
            y, x = int(point[1]) - warp.region.box[0], int(point[0]) - warp.region.box[2]
            off.append(np.linalg.norm(point + flow[y, x] - expected[0]))
        assert len(off) > 200
        assert np.median(off) < 0.5 and np.quantile(off, 0.95) < 2


def test_the_motion_ends_where_the_region_does(
    shut: np.ndarray, speech: list[np.ndarray], speaking: np.ndarray
) -> None:
    """Bit for bit beyond it, and no step at its border."""
    picture = noise()
    face = FaceRenderer(picture, shut, speaking, Painted())
    y0, y1, x0, x1 = face.box
    assert 0 < y0 < y1 <= SHAPE[0] and 0 < x0 < x1 < SHAPE[1]
    hull = cv2.convexHull(shut[:SURFACE].astype(np.float32))[:, 0]
    far = distance(hull) < -(REACH * UNIT + 2 * face.warp.region.step)
    for mesh in speech:
        out = face.draw(mesh)
        changed = (out != picture).any(-1)
        assert changed.sum() > 5_000
        changed[y0:y1, x0:x1] &= far[y0:y1, x0:x1]
        assert not changed.any()
        for flow in face.warp.flows(mesh):
            edges = (flow[0], flow[-1], flow[:, 0], flow[:, -1])
            assert max(np.abs(edge).max() for edge in edges) < 0.05


# --- lips that part -------------------------------------------------------------------------------


def two_halves(shut: np.ndarray) -> np.ndarray:
    """Red above the mouth line, blue below."""
    line = shut[UPPER]
    picture = np.full((*SHAPE, 3), RED, np.uint8)
    at = pixels()
    picture[at[..., 1] > np.interp(at[..., 0], line[:, 0], line[:, 1])] = BLUE
    return picture


def covered(polygon: np.ndarray, corner: tuple[int, int], side: int) -> np.ndarray:
    """How much of each pixel lies in a polygon: 64 points of each, one after the other."""
    points = polygon.astype(np.float32)[:, None]
    small = (np.arange(8) + 0.5) / 8 - 0.5
    out = np.zeros((side, side))
    for row, column in np.ndindex(side, side):
        x, y = corner[0] + column, corner[1] + row
        places = [(float(x + dx), float(y + dy)) for dx in small for dy in small]
        out[row, column] = np.mean([cv2.pointPolygonTest(points, p, False) > 0 for p in places])
    return out


def test_lips_part_sharply(
    shut: np.ndarray, speech: list[np.ndarray], speaking: np.ndarray
) -> None:
    """Above them only red, below only blue, between them what is behind, and nowhere else."""
    face = FaceRenderer(two_halves(shut), shut, speaking, Painted())
    for mesh in speech[1:]:
        out, hole = face.draw(mesh), distance(mesh[INNER_LIPS])
        assert np.array_equal(np.unique(out[hole > 1.0], axis=0), [GREEN])
        assert not out[hole < -1.0][:, 1].any()
        at, line = pixels(), (mesh[UPPER] + mesh[LOWER]) / 2
        middle = np.interp(at[..., 0], line[:, 0], line[:, 1])
        ends = mesh[[LEFT_CORNER, RIGHT_CORNER], 0]
        near = (at[..., 0] > ends[0]) & (at[..., 0] < ends[1]) & (np.abs(at[..., 1] - middle) < 40)
        for beyond, colour in ((at[..., 1] < middle, RED), (at[..., 1] > middle, BLUE)):
            there = near & beyond & (hole < -3)
            print(there.sum(), np.unique(out[there], axis=0)[:6])
        x, y = mesh[81].astype(int) - 6  # an edge that slants
        shown = out[y : y + 12, x : x + 12, 1] / 255
        expected = covered(mesh[INNER_LIPS], (x, y), 12)
        assert 0 < expected.mean() < 1 and ((shown > 0.1) & (shown < 0.9)).sum() > 6
        print(np.abs(shown - expected).max(), np.abs(shown - expected).mean())
    assert 0


def test_an_open_mouth_shuts_without_a_trace(space: ExpressionSpace, speaking: np.ndarray) -> None:
    """A picture of an open mouth, its hole drawn: shut, nothing of the hole is left."""
    own = reference_mesh() * UNIT + MIDDLE
    mesh = torch.from_numpy(own).float()[None]
    still = torch.zeros(1, space.components)
    shut = space.move(mesh, still, still[None])[0, 0].double().numpy()
    for margin in (0, 2):
        picture = np.full((*SHAPE, 3), RED, np.uint8)
        picture[distance(own[INNER_LIPS]) > margin] = GREEN
        before = int(picture[..., 1].sum())
        out = FaceRenderer(picture, own, speaking, Painted()).draw(shut)
        print(margin, before / 255, out[..., 1].sum() / 255, out[..., 1].max())
    assert 0
